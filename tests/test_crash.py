"""A crash changes nothing: SIGKILL at random moments, and everything is as if it had not happened.

FLUVIAL_SEED repeats the moments of a run; each prints its own.
"""

import os
import random
import time

import pytest

from fluvial.adapters.kafka import KafkaSink, KafkaSource
from fluvial.adapters.memory_log import MemorySink, MemorySource, MemoryTopic
from fluvial.adapters.memory_store import MemoryBacking, MemoryStore
from fluvial.learner import Learner
from fluvial.shard import blanks_of, spec_of
from fluvial.worker import SHARD, Worker
from support import fold
from support.service import Service, assert_scores

SEED = int(os.environ.get("FLUVIAL_SEED") or random.SystemRandom().randrange(10**6))
KILLS = 20


@pytest.fixture
def rng(request):
    print(f"FLUVIAL_SEED={SEED}")
    return random.Random(f"{SEED} {request.node.name}")


def killed_on_the_way(service, rng, kills=KILLS):
    """Kill the worker at `kills` random moments, then let it come to the end; the exit code.

    A moment is a random place in the log and up to 50 ms after it, so that most fall into the fold, its
    batches under way and its checkpoints; some fall into the start, before or while the shard is claimed.
    """
    events = len(service.log.events)
    places = sorted(rng.randrange(events) for _ in range(kills))
    for place in places:
        service.start(rng.randrange(1, 2**32))
        if rng.random() < 0.15:
            time.sleep(rng.uniform(0.2, 2.5))
        else:
            service.wait_until_published(place)
            time.sleep(rng.uniform(0.0, 0.05))
        service.kill()
    return service.run_to_the_end(rng.randrange(1, 2**32))


@pytest.mark.kafka
@pytest.mark.redis
@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("stream", "factory", "policy"),
    [
        pytest.param(fold.elec2, "linear", "reweight", id="elec2", marks=pytest.mark.data),
        pytest.param(fold.five, "adaptive", "reset", id="five classes"),
    ],
)
def test_twenty_kills_change_nothing(stream, factory, policy, rng, tmp_path, kafka_broker, redis_server):
    log = stream()
    with Service(tmp_path, kafka_broker, redis_server, log, factory, policy) as service:
        service.produce(log.values)
        undisturbed = fold.fold(service.settings, log.values)
        assert killed_on_the_way(service, rng) == 0
        assert service.lives == KILLS + 1
        assert_scores(service, log, undisturbed.outcomes)
        kept = service.learner()
        ledger = kept.ledger.partitions[0]
        assert (ledger.learned, ledger.next, ledger.balanced()) == (len(log.events), len(log.events), True)
        assert kept.metrics() == undisturbed.learner.metrics()
        journal = [(kind, e["offset"]) for kind, e in service.journal() if e.get("offset") is not None]
        entries = [(e.kind, e.offset) for o in undisturbed.outcomes if o.rare for e in o.rare.entries]
        assert journal == entries, "each journal entry of the fold exactly once"
        claims = [entry for kind, entry in service.journal() if kind == "claimed"]
        assert 2 <= len(claims) <= KILLS + 1
        epochs = [entry["detail"]["epoch"] for entry in claims]
        assert epochs == sorted(set(epochs))
        fold.assert_same_fold(kept, undisturbed.learner, fold.following(service.settings, kept, log, n=1_000))


@pytest.mark.kafka
@pytest.mark.redis
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_three_partitions_lose_nothing_and_learn_nothing_twice(rng, tmp_path, kafka_broker, redis_server):
    """The interleaving is not fixed over a crash; the ledger proves that each event was learned once."""
    log = fold.five(15_000)
    with Service(tmp_path, kafka_broker, redis_server, log, "hoeffding", "reweight", partitions=3) as service:
        for partition in range(3):
            service.produce(log.values[partition::3], partition)
        for part in (0.15, 0.4, 0.6, 0.85):
            service.start(rng.randrange(1, 2**32))
            wanted = int(part * 15_000)
            service.wait(lambda wanted=wanted: sum(service.published().values()) >= wanted, "progress")
            time.sleep(rng.uniform(0.0, 0.05))
            service.kill()
        assert service.run_to_the_end(rng.randrange(1, 2**32)) == 0
        ledger = service.learner().ledger
        for partition in range(3):
            entry = ledger.partitions[partition]
            assert (entry.learned, entry.next, entry.balanced()) == (5_000, 5_000, True)
        assert service.learner().events == 15_000
        assert len(service.scores(f"e{i}" for i in range(15_000))) >= 14_990


# --- crashes in process: the order is recorded, so the fold in that order can be compared ------------


class Crash(BaseException):
    """The process is gone: nothing below may handle it."""


class Recording:
    """A source that notes what it handed over, and crashes when it is told to."""

    def __init__(self, source, crash_after):
        self._source = source
        self._left = crash_after
        self.handed = []
        self.crashed = False

    def __getattr__(self, name):
        return getattr(self._source, name)

    def poll(self, limit, seconds):
        messages = self._source.poll(limit, seconds)
        self.handed += messages
        if self._left is not None:
            self._left -= len(messages)
            if self._left <= 0 and messages:
                self.crashed = True
                raise Crash
        return messages


def lives(make_worker, source_of, total, rng, crashes):
    """Run workers that crash, then one that ends; the messages in the order that counted."""
    order = []
    for life in range(crashes + 1):
        last = life == crashes
        source = Recording(source_of(), None if last else rng.randrange(1, total // crashes))
        worker = make_worker(source)
        if last:
            worker.total = total
            worker.run()
        else:
            with pytest.raises(Crash):
                worker.run()
        # What came after the last checkpoint did not count: it is folded again, perhaps in another order.
        order = (order[: worker.watching.resumed_at] + source.handed)[: worker.watching.checkpointed]
    return order


class Mortal(MemoryStore):
    """A store whose scores take a while to arrive, and never do when the process crashes before."""

    def __init__(self, backing, source, rng):
        super().__init__(backing)
        self._source = source
        self._rng = random.Random(rng.random())

    def publish(self, claim, scores):
        time.sleep(self._rng.uniform(0.0, 0.02))
        return 0 if self._source.crashed else super().publish(claim, scores)


class Watching:
    """A store that knows how many events its checkpoints held at the claim and hold now."""

    def __init__(self, store):
        self._store = store
        self.resumed_at = self.checkpointed = 0
        self.saw = lambda events: None

    def __getattr__(self, name):
        return getattr(self._store, name)

    def claim(self, *args):
        claim = self._store.claim(*args)
        self.resumed_at = sum(claim.head.offsets.values()) if claim.head is not None else 0
        return claim

    def save(self, claim, sequence, blob, offsets, *rest):
        self._store.save(claim, sequence, blob, offsets, *rest)
        self.checkpointed = sum(offsets.values())
        self.saw(self.checkpointed)


class Watched(Worker):
    """Stops when `total` events are in a checkpoint; a crash leaves nothing orderly behind."""

    def __init__(self, settings, source, sink, store, owner):
        self.watching, self.total = Watching(store), None
        super().__init__(settings, source, sink, self.watching, owner)
        self.watching.saw = lambda events: self.stop() if events == self.total else None

    def _leave(self):
        """No lease given back, no score sent after the crash."""
        if self.patience.stopping:
            super()._leave()
        else:
            self.publisher.drop()
            self.scope._pool.shutdown()
            self._parts.source.close(1.0)


def fold_in_order(settings, messages, partitions):
    from fluvial.codec import Codec

    learner = Learner.genesis(spec_of(settings), blanks_of(settings), dict.fromkeys(range(partitions), 0))
    codec = Codec(settings.schema)
    outcomes = {}
    for m in messages:
        event = codec.decode(m.value(), m.key(), m.partition(), m.offset(), m.timestamp()[1])
        outcomes[event.key] = learner.step(event)
    return learner, outcomes


def assert_folded_in(order, service_learner, settings, partitions):
    """The final state is that of a fold in the recorded order, its checksum included."""
    learner, outcomes = fold_in_order(settings, order, partitions)
    assert service_learner.ledger.order == learner.ledger.order
    fold.assert_same_fold(service_learner, learner)
    return outcomes


@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize("policy", ["observe", "reset", "reweight"])
def test_crashes_over_the_twins(policy, partitions, rng):
    log = fold.drifting(4_000)
    settings = fold.settings(
        log,
        "linear",
        policy,
        checkpoint={"every_events": 150, "every_seconds": 0.001},
        kafka={"batch": 97},
        worker={"lease_seconds": 0.05},
    )
    topic, backing, sink = MemoryTopic(partitions), MemoryBacking(), MemorySink()
    for number, value in enumerate(log.values):
        topic.append(value, partition=number % partitions)

    def make(source):
        return Watched(settings, source, sink, Mortal(backing, source, rng), f"w{rng.random()}")

    order = lives(make, lambda: MemorySource(topic, "g"), 4_000, rng, crashes=8)
    assert sum(backing.shards[SHARD].head.offsets.values()) == 4_000
    assert len(order) == 4_000
    learner = worker_learner(settings, backing)
    outcomes = assert_folded_in(order, learner, settings, partitions)
    assert all(e.balanced() for e in learner.ledger.partitions.values())
    if partitions == 1:
        for key, outcome in outcomes.items():
            score = backing.score(key)
            assert tuple(score.probabilities.values()) == outcome.answer
            assert score.version == outcome.version
    assert not sink.letters


def worker_learner(settings, backing):
    """The fold in the newest checkpoint of a twin."""
    from fluvial.checkpoint import Expectation, unseal
    from fluvial.models import unpickle
    from fluvial.shard import signing_keys

    expect = Expectation(settings.service, SHARD, settings.schema.hash, "0.26.1")
    opened = unseal(backing.shards[SHARD].blobs[0], expect, signing_keys(settings))
    extra = unpickle.parse_extra(settings.model.allow)
    return Learner(spec_of(settings), unpickle.loads(opened.payload, extra)["fold"])


@pytest.mark.kafka
@pytest.mark.redis
@pytest.mark.timeout(180)
def test_three_partitions_of_a_real_kafka_fold_as_recorded(rng, tmp_path, kafka_broker, redis_server):
    log = fold.five(9_000)
    with Service(
        tmp_path, kafka_broker, redis_server, log, "softmax", "reweight", partitions=3, kafka={"batch": 100}
    ) as service:
        for partition in range(3):
            service.produce(log.values[partition::3], partition)
        settings = service.settings

        def make(source):
            sink = KafkaSink(settings.kafka, settings.dead_letter_topic)
            return Watched(settings, source, sink, service.store(), f"w{rng.random()}")

        def source():
            return KafkaSource(settings.kafka, settings.service)

        order = lives(make, source, 9_000, rng, crashes=4)
        assert len(order) == 9_000
        assert_folded_in(order, service.learner(), settings, 3)
