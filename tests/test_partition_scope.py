"""A model per partition over a consumer group: who has what, and that each partition is a fold of its own."""

import itertools
import threading
import time

import msgspec
import pytest

from fluvial import rollback
from fluvial.adapters.memory_group import MemoryGroup, MemoryMember
from fluvial.adapters.memory_log import MemorySink, MemoryTopic
from fluvial.adapters.memory_store import MemoryBacking, MemoryStore
from fluvial.checkpoint import Expectation, unseal
from fluvial.codec import Codec
from fluvial.config import CheckpointSettings, DeadLetterSettings, PolicySettings
from fluvial.errors import (
    BadEvent,
    CheckpointRefused,
    Fenced,
    MemberFenced,
    SourceFatal,
    StoreUnavailable,
)
from fluvial.learner import Learner
from fluvial.looking import look
from fluvial.models import unpickle
from fluvial.partition_scope import REJOINS, shard_of
from fluvial.shard import blanks_of, signing_keys, spec_of
from fluvial.types import Membership, Rollback, StoreReport
from fluvial.worker import Worker
from support import fold

PARTITIONS = 4
SECONDS = 30


def fold_of(settings, topic, partition):
    """What one partition's messages fold to, without a worker."""
    learner = Learner.genesis(spec_of(settings), blanks_of(settings), {partition: 0})
    codec, outcomes = Codec(settings.schema), {}
    for m in topic.read(partition, 0, 10**9):
        try:
            event = codec.decode(m.value(), m.key(), partition, m.offset(), m.timestamp()[1])
        except BadEvent:
            learner.refuse(partition, m.offset())
            continue
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

    def start(self, name, store=None, instance="", source=MemoryMember):
        running = Running(self, name, store or MemoryStore(self.backing), instance, source)
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

    def assert_as_undisturbed(self, beside=()):
        """`beside`: kinds of journal entries that no fold makes."""
        for partition in range(PARTITIONS):
            learner, outcomes = fold_of(self.settings, self.topic, partition)
            fold.assert_same_fold(kept(self.settings, self.backing, partition), learner)
            for key, outcome in outcomes.items():
                score = self.backing.score(key)
                assert tuple(score.probabilities.values()) == outcome.answer
                assert (score.shard, score.version) == (shard_of(partition), outcome.version)
            rows = [e for _, _, e in self.backing.journal if e.kind not in beside]
            entries = [e for e in rows if e.offset is not None]
            told = [(e.kind, e.offset) for e in entries if e.partition == partition]
            assert told == [(e.kind, e.offset) for o in outcomes.values() if o.rare for e in o.rare.entries]


class Running:
    """A member in a thread."""

    def __init__(self, bench, name, store, instance, source):
        self.source = source(bench.group, name, instance)
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


def test_a_roll_back_concerns_one_partition_alone(bench, monkeypatch):
    """With the log again and a span left out, while the others go on; and it moves with its partition."""
    monkeypatch.setattr(rollback, "ASK_SECONDS", 0.02)
    bench.settings = msgspec.structs.replace(bench.settings, policy=PolicySettings(name="reset"))
    bench.feed(2_000)
    one = bench.start("one")
    bench.until_folded()
    keeper = one.worker.scope.keepers[2]
    number = keeper.shard.learner.lineage.current
    store = MemoryStore(bench.backing)
    missing = Rollback("r0", number, "ann", "", 1e9)
    assert store.ask(shard_of(2), missing)
    bench.until(lambda: store.answered(shard_of(2)) is not None, "a refusal")
    assert "answers now" in store.answered(shard_of(2)).because
    older = sorted(n for n, known in store.kept(shard_of(2)).items() if known.at is not None)
    assert older
    request = Rollback("r1", older[0], "ann", "bad labels", 1e9, relearn=True, skip=((2, 490, 500),))
    assert store.ask(shard_of(2), request)
    bench.until(lambda: store.asked(shard_of(2)) is None, "an answer")
    reply = store.answered(shard_of(2))
    assert (reply.id, reply.because) == ("r1", "")
    two = bench.start("two")
    bench.feed(400)
    bench.until(lambda: shared(bench, one, two), "two and two")
    bench.until_folded()
    learners = [kept(bench.settings, bench.backing, p) for p in range(PARTITIONS)]
    causes = [sum(v.cause == "rollback" for v in learner.lineage.versions) for learner in learners]
    assert causes == [0, 0, 1, 0]
    ledgers = [learner.ledger.partitions[p] for p, learner in enumerate(learners)]
    assert [ledger.skipped for ledger in ledgers] == [0, 0, 10, 0]
    assert all(ledger.balanced() and ledger.next == 600 for ledger in ledgers)


def test_a_partition_that_the_group_gives_to_nobody_gets_an_owner(bench, monkeypatch):
    monkeypatch.setattr("fluvial.survey.EVERY_SECONDS", 0.02)
    bench.feed(1_000)
    one, two = bench.start("one"), bench.start("two")
    bench.until(lambda: shared(bench, one, two), "they share")
    bench.until_folded()
    monkeypatch.setattr("fluvial.survey.ORPHAN_SECONDS", 0.5)
    bench.group.orphan(one.held()[0])
    bench.until(lambda: not shared(bench, one, two), "one of it is nobody's")
    bench.feed(1_000)
    bench.until(lambda: shared(bench, one, two), "it has an owner again")
    bench.until_folded()
    one.stop()
    two.stop()
    told = [entry for _, _, entry in bench.backing.journal if entry.kind == "partition-unowned"]
    assert len(told) in {1, 2}, "whoever notices it first; both may"
    assert sum(len(entry.detail["partitions"]) for entry in told) == len(told)
    bench.assert_as_undisturbed(beside={"partition-unowned"})


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


def flood(bench, partition, count):
    """Broken events, which a fold of ours leaves out."""
    for _ in range(count):
        bench.topic.append(b"{broken", partition=partition)


def tripped(running):
    return sorted(p for p, keeper in running.worker.scope.keepers.items() if keeper.trip is not None)


def test_a_flood_in_one_partition_pauses_that_one_alone(bench, monkeypatch):
    """Two partitions of one worker among four: one is tripped, the others go on, wherever they are."""
    monkeypatch.setattr("fluvial.keeper.ASK_SECONDS", 0.02)
    bench.settings = msgspec.structs.replace(bench.settings, dead_letters=DeadLetterSettings(max_run=20))
    bench.feed(400)
    flood(bench, 1, 30)
    bench.feed(400)
    one = bench.start("one")
    store = MemoryStore(bench.backing)
    bench.until(lambda: bench.offsets() == [200, 120, 200, 200], "the others' ends")
    bench.until(lambda: shard_of(1) in store.tripped(), "the trip")
    bench.until(lambda: sorted(one.source.lag()) == [0, 2, 3], "nothing is read of it")
    view = look(one.worker, one.source)
    assert (view.ready, view.paused) == (False, False)
    [said] = view.not_ready
    assert said.startswith("shard partition-1: paused by the flood breaker until `fluvial resume`: 20 events")
    assert sorted(s.shard for s in view.shards if s.tripped) == [shard_of(1)]
    bench.feed(40)
    bench.until(lambda: bench.offsets() == [210, 120, 210, 210], "more of the others")
    two = bench.start("two")
    bench.until(lambda: shared(bench, one, two), "two and two")
    holder, other = (one, two) if 1 in one.held() else (two, one)
    bench.until(lambda: tripped(holder) == [1], "the pause goes with the partition")
    bench.feed(40)
    bench.until(lambda: bench.offsets() == [220, 120, 220, 220], "both workers' other partitions")
    bench.until(lambda: look(other.worker, other.source).ready, "who has not got it is ready")
    assert not look(holder.worker, holder.source).ready
    other.stop()
    bench.until(lambda: len(holder.held()) == PARTITIONS, "all four")
    assert (bench.offsets()[1], len(bench.sink.letters)) == (120, 20)
    assert store.resume(shard_of(1), store.tripped()[shard_of(1)])
    bench.until_folded()
    bench.until(lambda: look(holder.worker, holder.source).ready, "readiness")
    assert len(bench.sink.letters) == 30
    holder.stop()
    bench.assert_as_undisturbed(beside={"tripped", "resumed"})


def test_an_outage_does_not_wake_a_paused_partition(bench, monkeypatch):
    monkeypatch.setattr("fluvial.keeper.ASK_SECONDS", 0.02)
    bench.settings = msgspec.structs.replace(bench.settings, dead_letters=DeadLetterSettings(max_run=20))
    flood(bench, 1, 25)
    bench.feed(400)
    store = Away(bench.backing)
    one = bench.start("one", store)
    bench.until(lambda: bench.offsets() == [100, 20, 100, 100], "the others' ends")
    store.away = True
    bench.feed(400)
    bench.until(lambda: one.worker.patience.waiting_for == "away", "it waits")
    assert look(one.worker, one.source).paused
    store.away = False
    bench.until(lambda: bench.offsets() == [200, 20, 200, 200], "the others' ends")
    assert sorted(one.source.lag()) == [0, 2, 3]
    assert len(bench.sink.letters) == 20
    one.stop()


def test_a_paused_partition_has_not_fallen_silent(bench, monkeypatch):
    monkeypatch.setattr("fluvial.survey.EVERY_SECONDS", 0.05)
    monkeypatch.setattr("fluvial.survey.SILENT_SECONDS", 0.3)
    bench.settings = msgspec.structs.replace(bench.settings, dead_letters=DeadLetterSettings(max_run=20))
    flood(bench, 1, 25)
    bench.feed(400)
    one = bench.start("one")
    bench.until(lambda: bench.offsets() == [100, 20, 100, 100], "the others' ends")
    time.sleep(1.0)
    assert 1 not in one.worker.scope.survey.silent
    one.stop()
    said = [e.partition for _, _, e in bench.backing.journal if e.kind == "partition-silent"]
    assert 1 not in said


def spoil(bench, partition):
    """What is kept of a partition's checkpoints cannot be loaded."""
    shard = bench.backing.shards[shard_of(partition)]
    shard.blobs[:] = [blob[:-1] + bytes([blob[-1] ^ 1]) for blob in shard.blobs]


def test_a_shard_that_needs_a_person_is_parked_and_the_others_go_on(bench):
    bench.feed(1_000)
    one = bench.start("one")
    bench.until_folded()
    one.stop()
    good = list(bench.backing.shards[shard_of(2)].blobs)
    spoil(bench, 2)
    bench.feed(1_000)
    two = bench.start("two")
    bench.until(lambda: bench.offsets() == [500, 500, 250, 500], "the others' ends")
    view = look(two.worker, two.source)
    assert (view.ready, view.paused, view.incidents["refused"]) == (False, False, 1)
    [said] = view.not_ready
    assert said.startswith("partition 2 is parked: CheckpointRefused: ")
    [entry] = [e for _, _, e in bench.backing.journal if e.kind == "refused"]
    assert entry.detail["error"] == "CheckpointRefused"
    three = bench.start("three")
    bench.until(lambda: len(three.held()) + len(two.held()) == 3, "all but one are held")
    bench.until(lambda: len(two.worker.scope.parked | three.worker.scope.parked) == 1, "it is parked")
    bench.feed(400)
    bench.until(lambda: bench.offsets() == [600, 600, 250, 600], "the others go on")
    two.stop()
    three.stop()
    bench.backing.shards[shard_of(2)].blobs[:] = good
    four = bench.start("four")
    bench.until_folded()
    bench.until(lambda: look(four.worker, four.source).ready, "a restart is how it comes back")
    four.stop()
    bench.assert_as_undisturbed(beside={"refused", "checkpoint-refused", "previous-generation"})


def test_a_worker_with_nothing_but_refused_shards_ends(bench):
    bench.feed(1_000)
    one = bench.start("one")
    bench.until_folded()
    one.stop()
    for partition in range(PARTITIONS):
        spoil(bench, partition)
    two = bench.start("two")
    two.thread.join(SECONDS)
    assert isinstance(two.raised, CheckpointRefused)
    assert len([e for _, _, e in bench.backing.journal if e.kind == "refused"]) == PARTITIONS


def test_an_offset_that_left_the_log_parks_its_partition(bench):
    bench.feed(1_000)
    one = bench.start("one")
    bench.until_folded()
    one.stop()
    bench.feed(1_000)
    bench.topic.trim(3, 300)
    two = bench.start("two")
    bench.until(lambda: bench.offsets() == [500, 500, 500, 250], "the others' ends")
    assert two.worker.scope.parked[3].startswith("OffsetLost: ")
    two.stop()


def test_what_was_read_before_a_partition_was_lost_and_given_again_is_not_folded_twice(bench):
    """Both within one poll: its records are of the claim before, and come again under the next one."""

    class Jolted(MemoryMember):
        jolts = 3

        def poll(self, limit, seconds):
            messages = super().poll(limit, seconds)
            if messages and self.jolts:
                self.jolts -= 1
                self._members.leave(self)
                self._serve()
            return messages

    bench.feed(1_000)
    one = bench.start("one", source=Jolted)
    bench.until_folded()
    assert one.source.jolts == 0
    one.stop()
    bench.assert_as_undisturbed()


# ---- a name that the group refuses -----------------------------------------------------------------


def test_taken_for_its_own_rival_it_leaves_and_joins_anew(bench):
    bench.feed(1_000)
    one = bench.start("one", instance="the-only-one")
    bench.until_folded()
    for _ in range(3):
        bench.until(lambda: shared(bench, one), "one has all")
        bench.group.throw_out(one.source)
        bench.feed(400)
        bench.until_folded()
    view = look(one.worker, one.source)
    assert view.incidents["member-fenced"] == 3
    entries = [e for _, _, e in bench.backing.journal if e.kind == "member-fenced"]
    assert [e.detail["held"] for e in entries] == [list(range(PARTITIONS))] * 3
    assert len(bench.group.members) == 1
    one.stop()
    bench.assert_as_undisturbed(beside={"member-fenced"})


def test_a_refused_name_writes_nothing_of_what_it_held(bench):
    """What was folded and not saved is folded again under a new claim."""
    bench.settings = msgspec.structs.replace(
        bench.settings, checkpoint=CheckpointSettings(every_events=10**9, every_seconds=10**6)
    )
    bench.feed(1_000)
    one = bench.start("one", instance="the-only-one")
    bench.until(lambda: sum(t.events for t in one.worker.scope.tallies.values()) == 1_000, "the fold")
    epochs = [bench.backing.shards[shard_of(p)].epoch for p in range(PARTITIONS)]
    bench.group.throw_out(one.source)
    bench.until(lambda: sum(t.events for t in one.worker.scope.tallies.values()) == 2_000, "again")
    assert [bench.backing.shards[shard_of(p)].epoch for p in range(PARTITIONS)] == [
        epoch + 1 for epoch in epochs
    ]
    one.stop()
    bench.assert_as_undisturbed(beside={"member-fenced"})


def test_two_live_workers_of_one_name_end_in_one(bench):
    bench.feed(1_000)
    both = [bench.start(name, instance="the-only-one") for name in ("one", "two")]
    ended = lambda: [r for r in both if not r.thread.is_alive()]  # noqa: E731 - read twice
    until = time.monotonic() + SECONDS
    while not ended():
        assert time.monotonic() < until
        time.sleep(0.01)
    [loser] = ended()
    assert isinstance(loser.raised, SourceFatal)
    assert not isinstance(loser.raised, MemberFenced)
    assert "one kafka.instance_id" in str(loser.raised)
    bench.running.remove(loser)
    bench.feed(1_000)
    bench.until_folded()
    [winner] = bench.running
    assert len(winner.worker.scope._refused) <= REJOINS
    winner.stop()
    bench.assert_as_undisturbed(beside={"member-fenced", "refused"})


def test_the_wait_for_a_name_ends_with_the_worker(bench, monkeypatch):
    one = bench.start("one", instance="the-only-one")
    bench.until(lambda: shared(bench, one), "one has all")

    def poll(limit, seconds):
        raise MemberFenced("the name is still taken", 60.0)

    monkeypatch.setattr(one.source, "poll", poll)
    bench.until(lambda: "still taken" in (one.worker.patience.waiting_for or ""), "the wait")
    assert one.held() == []
    one.stop()
    assert one.raised is None
