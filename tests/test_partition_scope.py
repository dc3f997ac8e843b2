"""A model per partition over a consumer group: who has what, and that each partition is a fold of its own."""

import itertools
import threading
import time

import msgspec
import pytest

from fluvial.adapters.memory_group import MemoryGroup, MemoryMember
from fluvial.adapters.memory_log import MemorySink, MemoryTopic
from fluvial.adapters.memory_store import MemoryBacking, MemoryStore
from fluvial.checkpoint import Expectation, unseal
from fluvial.codec import Codec
from fluvial.config import DeadLetterSettings
from fluvial.errors import Fenced, StoreUnavailable
from fluvial.learner import Learner
from fluvial.looking import look
from fluvial.models import unpickle
from fluvial.partition_scope import shard_of
from fluvial.shard import blanks_of, signing_keys, spec_of
from fluvial.types import Membership, StoreReport
from fluvial.worker import Worker
from support import fold

PARTITIONS = 4
SECONDS = 30


def fold_of(settings, topic, partition):
    """What one partition's messages fold to, without a worker."""
    learner = Learner.genesis(spec_of(settings), blanks_of(settings), {partition: 0})
    codec, outcomes = Codec(settings.schema), {}
    for m in topic.read(partition, 0, 10**9):
        event = codec.decode(m.value(), m.key(), partition, m.offset(), m.timestamp()[1])
        outcomes[event.key] = learner.step(event)
    return learner, outcomes


def kept(settings, backing, partition):
    """The fold in the newest checkpoint of a partition."""
    expect = Expectation(settings.service, shard_of(partition), settings.schema.hash, "0.26.1")
    opened = unseal(backing.shards[shard_of(partition)].blobs[0], expect, signing_keys(settings))
    extra = unpickle.parse_extra(settings.model.allow)
    return Learner(spec_of(settings), unpickle.loads(opened.payload, extra)["fold"])


class Bench:
    """A topic, a store and a group that outlive workers."""

    def __init__(self, policy="reweight"):
        self.log = fold.drifting(4_000)
        self.settings = fold.settings(
            self.log,
            "linear",
            policy,
            checkpoint={"every_events": 100, "every_seconds": 0.02},
            kafka={"batch": 40, "scope": "partition", "session_timeout_ms": 1_000},
        )
        self.topic, self.backing, self.sink = MemoryTopic(PARTITIONS), MemoryBacking(), MemorySink()
        self.group = MemoryGroup(self.topic, self.settings.group)
        self.fed = 0
        self.running = []

    def feed(self, count):
        for number, value in enumerate(self.log.values[self.fed : self.fed + count], self.fed):
            self.topic.append(value, partition=number % PARTITIONS)
        self.fed += count

    def start(self, name, store=None):
        running = Running(self, name, store or MemoryStore(self.backing))
        self.running.append(running)
        return running

    def offsets(self):
        shards = [self.backing.shards.get(shard_of(p)) for p in range(PARTITIONS)]
        return [shard.head.offsets[p] if shard and shard.head else 0 for p, shard in enumerate(shards)]

    def until(self, ready, what):
        until = time.monotonic() + SECONDS
        while not ready():
            for running in self.running:
                assert running.raised is None, running.raised
            assert time.monotonic() < until, f"{what} did not come about: {self.offsets()}"
            time.sleep(0.002)

    def until_folded(self):
        ends = [self.topic.bounds(p).high for p in range(PARTITIONS)]
        self.until(lambda: self.offsets() == ends, f"checkpoints of {ends}")

    def assert_as_undisturbed(self):
        for partition in range(PARTITIONS):
            learner, outcomes = fold_of(self.settings, self.topic, partition)
            fold.assert_same_fold(kept(self.settings, self.backing, partition), learner)
            for key, outcome in outcomes.items():
                score = self.backing.score(key)
                assert tuple(score.probabilities.values()) == outcome.answer
                assert (score.shard, score.version) == (shard_of(partition), outcome.version)
            entries = [e for _, _, e in self.backing.journal if e.offset is not None]
            told = [(e.kind, e.offset) for e in entries if e.partition == partition]
            assert told == [(e.kind, e.offset) for o in outcomes.values() if o.rare for e in o.rare.entries]


class Running:
    """A member in a thread."""

    def __init__(self, bench, name, store):
        self.source = MemoryMember(bench.group, name)
        self.worker = Worker(bench.settings, self.source, bench.sink, store, name)
        self.group, self.raised = bench.group, None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            self.worker.run()
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            self.raised = error

    def held(self):
        return sorted(self.worker.scope.keepers)

    def stop(self):
        self.worker.stop()
        self.thread.join(SECONDS)
        assert not self.thread.is_alive()

    def go_silent(self):
        """The group thinks it dead and gives its partitions away; it does not know."""
        self.group.leave(self.source)


@pytest.fixture(params=["reset", "reweight"])
def bench(request):
    made = Bench(request.param)
    yield made
    for running in made.running:
        running.worker.stop()
    for running in made.running:
        running.thread.join(SECONDS)


def shared(bench, *members):
    """Everybody has an equal share and nothing is claimed twice."""
    held = [running.held() for running in members]
    most = -(-PARTITIONS // len(members))
    return sorted(itertools.chain(*held)) == list(range(PARTITIONS)) and max(map(len, held)) <= most


def test_one_two_three_one_members_learn_every_offset_once(bench):
    bench.feed(1_000)
    one = bench.start("one")
    bench.until(lambda: shared(bench, one), "one has all")
    two = bench.start("two")
    bench.until(lambda: shared(bench, one, two), "two share")
    bench.feed(1_000)
    three = bench.start("three")
    bench.until(lambda: shared(bench, one, two, three), "three share")
    bench.feed(1_000)
    two.stop()
    three.stop()
    bench.until(lambda: shared(bench, one), "one has all again")
    bench.feed(1_000)
    bench.until_folded()
    one.stop()
    bench.assert_as_undisturbed()
    assert two.worker.tally is not None


def test_a_member_that_went_silent_is_fenced_and_changes_nothing(bench):
    bench.feed(2_000)
    one, two = bench.start("one"), bench.start("two")
    bench.until(lambda: shared(bench, one, two), "two share")
    two.go_silent()
    bench.feed(2_000)
    bench.until_folded()
    bench.until(lambda: shared(bench, one, two), "it comes back by itself")
    one.stop()
    two.stop()
    bench.assert_as_undisturbed()


def test_a_revoked_partition_gets_a_last_checkpoint(bench):
    bench.settings = fold.settings(
        bench.log,
        "linear",
        "observe",
        checkpoint={"every_events": 10**9, "every_seconds": 10**6},
        kafka={"batch": 40, "scope": "partition"},
    )
    bench.feed(1_000)
    one = bench.start("one")
    bench.until(lambda: sum(t.events for t in one.worker.scope.tallies.values()) == 1_000, "the fold")
    assert sum(bench.offsets()) == 0
    two = bench.start("two")
    bench.until(lambda: shared(bench, one, two), "two share")
    moved = two.held()
    assert [bench.offsets()[p] for p in moved] == [250] * len(moved)
    assert sum(t.events for t in two.worker.scope.tallies.values()) == 0, "nothing is folded again"


class Away(MemoryStore):
    """A store that can be away for saves."""

    away = False

    def save(self, *args):
        if self.away:
            raise StoreUnavailable("away")
        return super().save(*args)


def test_revoked_during_an_outage(bench):
    bench.feed(1_000)
    store = Away(bench.backing)
    one = bench.start("one", store)
    bench.until(lambda: shared(bench, one), "one has all")
    store.away = True
    bench.feed(1_000)
    bench.until(lambda: one.worker.patience.waiting_for == "away", "it waits")
    two = bench.start("two")
    bench.until(lambda: len(two.held()) == 2, "two has its share in spite of it")
    store.away = False
    bench.until_folded()
    bench.until(lambda: shared(bench, one, two), "two share")
    one.stop()
    two.stop()
    bench.assert_as_undisturbed()


def test_fenced_by_a_stranger_it_claims_again(bench):
    bench.feed(1_000)
    one = bench.start("one")
    bench.until_folded()
    MemoryStore(bench.backing).claim(shard_of(2), "somebody else's")
    bench.feed(1_000)
    bench.until(lambda: one.worker.patience.errors["fenced"] >= 1, "the fence")
    bench.until_folded()
    one.stop()
    bench.assert_as_undisturbed()


def test_an_older_generation_cannot_take_a_shard_that_lives():
    backing = MemoryBacking()
    store = MemoryStore(backing)

    def member(generation, group="g/classic", milliseconds=60_000):
        return Membership(
            group=group, generation=generation, owner=f"o{generation}", milliseconds=milliseconds
        )

    first = store.claim("partition-0", "a", member(5))
    with pytest.raises(Fenced, match="generation 5"):
        store.claim("partition-0", "b", member(4))
    with pytest.raises(Fenced, match="does not know"):
        store.claim("partition-0", "b", member(-1))
    assert store.claim("partition-0", "a", member(4)).epoch == first.epoch, (
        "a repeated claim is the same claim"
    )
    assert store.claim("partition-0", "c", member(1, group="g/consumer")).epoch == first.epoch + 1


def test_the_view_shows_each_shard(bench):
    bench.feed(1_000)
    one = bench.start("one")
    bench.until_folded()
    view = look(one.worker, one.source)
    assert sorted(s.shard for s in view.shards) == [shard_of(p) for p in range(PARTITIONS)]
    assert view.ready
    assert view.scope == "partition"
    assert sum(p.ledger.learned for s in view.shards for p in s.partitions) == 1_000
    two = bench.start("two")
    bench.until(lambda: shared(bench, one, two), "two share")
    assert len(look(one.worker, one.source).shards) == 2, "what is gone is not shown"


def test_events_lost_in_one_partition_begin_its_model_alone_afresh(bench):
    bench.feed(2_000)
    one = bench.start("one")
    bench.until_folded()
    one.stop()
    bench.feed(400)
    bench.topic.trim(2, 530)
    kafka = msgspec.structs.replace(bench.settings.kafka, on_lost_offset="fresh")
    bench.settings = msgspec.structs.replace(bench.settings, kafka=kafka)
    bench.start("two")
    bench.until_folded()
    learners = [kept(bench.settings, bench.backing, p) for p in range(PARTITIONS)]
    begun = [[v.offset for v in learner.lineage.versions if v.cause == "events-lost"] for learner in learners]
    assert begun == [[], [], [530], []]
    ledger = learners[2].ledger.partitions[2]
    assert (ledger.skipped, ledger.learned, ledger.balanced()) == (30, 570, True)
    told = [(shard, e.partition, e.detail["events"]) for _, shard, e in bench.backing.journal
            if e.kind == "events-lost"]  # fmt: skip
    assert told == [(shard_of(2), 2, 30)]
    assert bench.backing.shards[shard_of(2)].versions


def test_a_store_that_becomes_unfit_makes_a_member_not_ready(bench, monkeypatch):
    monkeypatch.setattr("fluvial.survey.EVERY_SECONDS", 0.02)
    redis = msgspec.structs.replace(bench.settings.redis, allow_unfit=False)
    bench.settings = msgspec.structs.replace(bench.settings, redis=redis)
    bench.backing.report = fit = StoreReport(version="7.2", persistent=True, eviction="noeviction")
    bench.feed(400)
    one = bench.start("one")
    bench.until_folded()
    bench.until(lambda: look(one.worker, one.source).ready, "readiness")
    bench.backing.report = msgspec.structs.replace(fit, eviction="volatile-ttl")
    bench.until(lambda: not look(one.worker, one.source).ready, "it is noticed")
    assert "it evicts keys (volatile-ttl" in look(one.worker, one.source).not_ready[0]
    kinds = lambda: [entry.kind for _, _, entry in bench.backing.journal]  # noqa: E731 - asked twice
    bench.until(lambda: "store-unfit" in kinds(), "its entry")
    one.stop()
    assert kinds().count("store-unfit") == 1, "once for all shards"


def test_a_flood_in_one_partition_pauses_its_worker_until_it_is_resumed(monkeypatch):
    monkeypatch.setattr("fluvial.keeper.ASK_SECONDS", 0.02)
    bench = Bench("reset")
    bench.settings = msgspec.structs.replace(bench.settings, dead_letters=DeadLetterSettings(max_run=20))
    bench.feed(400)
    for _ in range(30):
        bench.topic.append(b"{broken", partition=1)
    bench.feed(400)
    one = bench.start("one")
    store = MemoryStore(bench.backing)
    bench.until(lambda: shard_of(1) in store.tripped(), "the trip")
    bench.until(lambda: bench.offsets()[1] == 120, "its checkpoint")
    bench.until(lambda: one.worker.patience.held is not None, "the pause")
    view = look(one.worker, one.source)
    assert (view.ready, view.paused) == (False, True)
    assert "20 events in a row" in view.not_ready[0]
    assert [shard.tripped for shard in sorted(view.shards, key=lambda s: s.shard)] == [
        False,
        True,
        False,
        False,
    ]
    before = {p: keeper.shard.offsets for p, keeper in one.worker.scope.keepers.items()}
    bench.feed(40)
    time.sleep(0.3)
    assert {p: keeper.shard.offsets for p, keeper in one.worker.scope.keepers.items()} == before
    # What the pause finds under way: the group gives half of it to another worker, then all of it back.
    two = bench.start("two")
    bench.until(lambda: len(one.held()) == len(two.held()) == 2, "two and two")
    paused, other = (one, two) if 1 in one.held() else (two, one)
    bench.until(lambda: paused.worker.patience.held is not None, "the pause goes with the partition")
    bench.until(lambda: other.worker.patience.held is None, "who has lost the partition goes on")
    bench.until(lambda: all(bench.offsets()[p] == 210 for p in other.held()), "the other's partitions")
    other.stop()
    bench.until(lambda: len(paused.held()) == PARTITIONS, "all four")
    assert bench.offsets()[1] == 120
    assert len(bench.sink.letters) == 20
    assert store.resume(shard_of(1), store.tripped()[shard_of(1)])
    bench.until_folded()
    assert paused.worker.patience.held is None
    assert len(bench.sink.letters) == 30
    assert [shard.partitions[0].ledger.dead for shard in look(paused.worker, paused.source).shards].count(
        30
    ) == 1
    paused.stop()
