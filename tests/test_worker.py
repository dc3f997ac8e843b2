"""The worker over the in-memory twins: who may write, what is away, what the model does, what is refused."""

import random
import threading
import time

import pytest

from fluvial import keeper, scopes, shard
from fluvial.adapters.memory_log import MemorySink, MemorySource, MemoryTopic
from fluvial.adapters.memory_store import MemoryBacking, MemoryStore
from fluvial.codec import Codec
from fluvial.errors import (
    CheckpointLost,
    CheckpointRefused,
    LostState,
    OffsetLost,
    StoreError,
    StoreFull,
    StoreUnavailable,
    StoreUnfit,
    TopologyChanged,
)
from fluvial.keeper import TooManyModelErrors
from fluvial.looking import look
from fluvial.types import Claim, Entry
from fluvial.worker import SHARD, Worker
from support import fold
from test_crash import worker_learner

FAST = {"checkpoint": {"every_seconds": 0.01, "every_events": 200}, "worker": {"lease_seconds": 0.3}}
SECONDS = 30


class Bench:
    """A topic, a store and a sink that outlive workers; workers run in threads."""

    def __init__(self, log=None, factory="linear", policy="reset", **sections):
        self.log = log or fold.drifting(1_200)
        self.settings = self.with_settings(factory, policy, **sections)
        self.topic, self.backing, self.sink = MemoryTopic(), MemoryBacking(), MemorySink()
        self.running = []
        self.append(self.log.values)

    def with_settings(self, factory="linear", policy="reset", **sections):
        merged = {name: {**FAST.get(name, {}), **sections.get(name, {})} for name in FAST | sections}
        return fold.settings(self.log, factory, policy, **merged)

    def append(self, values):
        for value in values:
            self.topic.append(value)

    def start(self, owner="one", settings=None, store=None, source=None, sink=None):
        store = store or MemoryStore(self.backing)
        source = source or MemorySource(self.topic, "orders")
        running = Running(settings or self.settings, source, sink or self.sink, store, owner)
        self.running.append(running)
        return running

    def run_to_the_end(self, **options):
        running = self.start(**options)
        worker = running.worker
        running.until(lambda: worker.shard is not None and worker.patience.waiting_for is None, "the claim")
        running.until(lambda: self.offset() >= self.end(), "everything in a checkpoint")
        running.stop()
        return running

    def end(self):
        return self.topic.bounds(0).high

    def offset(self):
        shard = self.backing.shards.get(SHARD)
        return shard.head.offsets[0] if shard and shard.head else -1

    def mirrored(self):
        """Kafka's commit, the last thing that a save does."""
        commit = self.topic.commits.get("orders", {}).get(0)
        return commit.offset if commit else -1

    def learner(self, settings=None):
        return worker_learner(settings or self.settings, self.backing)

    def kinds(self):
        return [entry.kind for _, _, entry in self.backing.journal]

    def scores(self):
        return {key: score for key, (score, _) in self.backing.scores.items()}

    def assert_as_undisturbed(self, poison=()):
        """Scores, state, metrics and journal are those of a plain fold of the same log."""
        values = [m.value() for m in self.topic.read(0, 0, 10**9)]
        folded = fold.fold(self.settings, values, poison)
        events = [e for e in folded.outcomes if e is not None]
        assert len(self.scores()) == sum(o.known for o in events)
        for offset, outcome in enumerate(folded.outcomes):
            if outcome is not None and outcome.known:
                score = self.backing.score(f"e{offset}")
                assert (score.offset, score.version) == (offset, outcome.version)
                assert tuple(score.probabilities.values()) == outcome.answer
        told = [(e.kind, e.offset) for _, _, e in self.backing.journal if e.offset is not None]
        assert told == [(e.kind, e.offset) for o in events if o.rare for e in o.rare.entries]
        letters = {letter.offset: letter.reason for letter in self.sink.letters}
        assert letters == folded.dead
        fold.assert_same_fold(self.learner(), folded.learner)
        return folded


class Running:
    """A worker in a thread; what it raised is raised by `join`."""

    def __init__(self, settings, source, sink, store, owner):
        self.store = store
        self.source = source
        self.worker = Worker(settings, source, sink, store, owner)
        self.raised = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            self.worker.run()
        except BaseException as error:  # noqa: BLE001 - raised again by join
            self.raised = error

    def until(self, ready, what):
        until = time.monotonic() + SECONDS
        while not ready():
            assert self.thread.is_alive(), f"the worker ended: {self.raised!r}"
            assert time.monotonic() < until, (
                f"{what} did not come about; waiting for {self.worker.patience.waiting_for}"
            )
            time.sleep(0.002)

    def stop(self):
        self.worker.stop()
        self.join()

    def join(self):
        self.thread.join(SECONDS)
        assert not self.thread.is_alive()
        if self.raised is not None:
            raise self.raised


@pytest.fixture
def bench():
    made = []

    def make(*args, **kwargs):
        made.append(Bench(*args, **kwargs))
        return made[-1]

    yield make
    for running in (r for b in made for r in b.running):
        running.worker.stop()
        running.thread.join(SECONDS)


# --- the ordinary ----------------------------------------------------------------------------------


def test_everything_is_folded_scored_and_kept(bench):
    b = bench()
    running = b.run_to_the_end()
    b.assert_as_undisturbed()
    assert b.kinds()[:2] == ["started", "claimed"]
    assert running.worker.tally.events == 1_200
    assert b.topic.commits["orders"][0].offset == 1_200
    assert b.backing.leases == {}, "the lease was given back"


def test_stop_writes_a_checkpoint(bench):
    b = bench(checkpoint={"every_seconds": 1e6, "every_events": 10**9})
    running = b.start()
    running.until(lambda: running.worker.tally.events == 1_200, "the fold")
    assert b.offset() == 0
    running.stop()
    assert b.offset() == 1_200
    b.assert_as_undisturbed()


def test_a_restart_learns_nothing_twice(bench):
    b = bench()
    b.run_to_the_end()
    b.append([fold.wire(1_200 + i, *event) for i, event in enumerate(b.log.events[:300])])
    b.run_to_the_end(owner="two")
    b.assert_as_undisturbed()
    assert b.kinds().count("claimed") == 2
    assert b.kinds().count("started") == 1


def test_scores_can_be_switched_off(bench):
    b = bench(scores={"enabled": False})
    b.run_to_the_end()
    assert b.scores() == {}
    assert b.learner().events == 1_200


def test_gaps_that_kafka_leaves_are_accounted_for(bench):
    b = bench()
    b.topic.skip(0, 7)
    b.append([fold.wire(1_207, *b.log.events[0])])
    b.run_to_the_end()
    ledger = b.learner().ledger.partitions[0]
    assert (ledger.gaps, ledger.learned, ledger.next, ledger.balanced()) == (7, 1_201, 1_208, True)


# --- who may write ---------------------------------------------------------------------------------


def test_a_fenced_worker_drops_everything_and_resumes(bench):
    b = bench()
    running = b.start()
    running.until(lambda: b.offset() >= 200, "some progress")
    rival = MemoryStore(b.backing)
    claim = rival.claim(SHARD, "rival")
    running.until(lambda: running.worker.patience.errors["fenced"] >= 1 or b.offset() >= b.end(), "the fence")
    b.append([fold.wire(1_200 + i, *event) for i, event in enumerate(b.log.events[:300])])
    running.until(lambda: b.offset() >= b.end() and running.worker.patience.errors["fenced"], "its return")
    running.stop()
    assert running.worker.patience.errors["fenced"] == 1
    assert b.backing.shards[SHARD].epoch > claim.epoch
    b.assert_as_undisturbed()


def test_a_second_worker_stands_by_and_takes_over(bench):
    b = bench()
    first = b.start("one")
    first.until(lambda: b.offset() == 1_200, "the fold")
    second = b.start("two")
    patience = second.worker.patience
    second.until(lambda: (patience.waiting_for or "").startswith("standing by: one"), "standing by")
    assert second.worker.shard is None
    b.append([fold.wire(1_200 + i, *event) for i, event in enumerate(b.log.events[:300])])
    first.until(lambda: b.offset() == 1_500, "the fold goes on")
    assert second.worker.tally.events == 0
    first.stop()
    second.until(lambda: second.worker.shard is not None, "the take-over")
    b.append([fold.wire(1_500 + i, *event) for i, event in enumerate(b.log.events[:100])])
    second.until(lambda: b.offset() == 1_600, "the fold by the other")
    second.stop()
    b.assert_as_undisturbed()


def test_a_stalled_owner_writes_nothing_after_its_lease_went(bench):
    """Its lease expires while it stalls and the other claims; whatever it still holds is fenced."""
    b = bench()
    stalled, go = threading.Event(), threading.Event()

    class Stalling(MemorySource):
        taken = 0

        def poll(self, limit, seconds):
            messages = super().poll(min(limit, 50), seconds)
            self.taken += len(messages)
            if self.taken >= 600 and not stalled.is_set():
                stalled.set()
                go.wait(SECONDS)
            return messages

    first = b.start("one", source=Stalling(b.topic, "orders"))
    assert stalled.wait(SECONDS)
    second = b.start("two")
    second.until(lambda: second.worker.shard is not None, "the take-over")
    go.set()  # it folds the batch in its hands and wants to write
    b.append([fold.wire(1_200 + i, *event) for i, event in enumerate(b.log.events[:300])])
    second.until(lambda: b.offset() == 1_500, "the fold")
    first.until(lambda: first.worker.patience.errors["fenced"] >= 1, "the fence")
    first.stop()
    second.stop()
    b.assert_as_undisturbed()


def test_a_rival_that_saves_between_claim_and_load_takes_the_shard_and_ends_nobody(bench):
    """Stopped in between for longer than its lease: the newest checkpoint is another than it claimed."""
    b = bench()
    b.run_to_the_end()

    class Overtaken(MemoryStore):
        overtaken = False

        def load(self, shard, claim=None):
            if claim is not None and not self.overtaken:
                self.overtaken = True
                self.unlease(shard, "two")  # as if it had expired
                b.append([fold.wire(1_200 + i, *event) for i, event in enumerate(b.log.events[:300])])
                b.run_to_the_end(owner="rival")
            return super().load(shard, claim)

    running = b.start("two", store=Overtaken(b.backing))
    running.until(lambda: running.worker.shard is not None, "the shard is its own in the end")
    assert running.worker.patience.errors["fenced"] == 1
    running.stop()
    b.assert_as_undisturbed()


@pytest.mark.parametrize("what", ["loading", "saving"])
def test_a_state_that_takes_longer_than_the_lease_is_not_taken_away_meanwhile(bench, monkeypatch, what):
    """Two workers whose load outlasts the lease would take it from each other for ever."""
    b = bench(worker={"lease_seconds": 0.2})
    b.run_to_the_end()
    monkeypatch.setattr(shard, "LARGE", 1)
    monkeypatch.setattr(keeper, "LARGE", 1)
    monkeypatch.setattr(scopes, "STATE_BYTES_A_SECOND", 1_000)  # stretched by more than the test waits
    slow, name = (shard.Opening, "_load") if what == "loading" else (shard.Shard, "sealed")
    real, taken = getattr(slow, name), []

    def slowly(*args):
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            taken.append(MemoryStore(b.backing).lease(SHARD, "rival", 1))
            time.sleep(0.01)
        return real(*args)

    monkeypatch.setattr(slow, name, slowly)
    running = b.start("two")
    running.until(lambda: running.worker.shard is not None, "the shard is its own")
    running.until(lambda: b.backing.leases[SHARD][1] - b.backing.clock() < 0.3, "the lease is short again")
    running.stop()
    assert len(taken) > 10
    assert not any(taken)
    assert running.worker.patience.errors["fenced"] == 0


# --- away, full ------------------------------------------------------------------------------------


class Away(MemoryStore):
    """A store that can go away for everybody who uses it."""

    away = False

    def _call(self):
        if self.away:
            raise StoreUnavailable("away")
        return super()._call()


def test_while_the_store_is_away_nothing_is_consumed_and_it_goes_on_by_itself(bench):
    b = bench()
    store = Away(b.backing)
    running = b.start(store=store)
    running.until(lambda: b.offset() == 1_200, "the fold")
    store.away = True
    b.append([fold.wire(1_200 + i, *event) for i, event in enumerate(b.log.events[:1_200])])
    running.until(lambda: running.worker.patience.waiting_for == "away", "it says what it waits for")
    consumed = running.worker.tally.events
    time.sleep(0.3)
    assert running.worker.tally.events == consumed
    assert running.worker.shard.learner.ledger.offsets()[0] < 2_400, "it stopped short of the end"
    assert b.offset() == 1_200
    store.away = False
    running.until(lambda: b.offset() == 2_400, "it goes on")
    running.until(lambda: running.worker.patience.waiting_for is None, "and says so")
    running.stop()
    b.assert_as_undisturbed()


def test_a_store_away_at_the_start_is_waited_for(bench):
    b = bench()
    store = Away(b.backing)
    store.away = True
    running = b.start(store=store)
    running.until(lambda: running.worker.patience.waiting_for == "away", "it waits")
    store.away = False
    running.until(lambda: b.offset() == 1_200, "the fold")
    running.stop()
    b.assert_as_undisturbed()


class Hiccups(MemoryStore):
    """Every fourth call or so fails, or its answer is lost."""

    def __init__(self, backing, how):
        super().__init__(backing)
        self._how = how
        self._rng = random.Random(how)
        self.failed = 0

    def _call(self):
        if self._rng.random() < 0.25:
            self.failed += 1
            setattr(self, self._how, StoreUnavailable("a hiccup"))
        return super()._call()


@pytest.mark.parametrize("how", ["fail_next", "lose_answer"])
def test_single_failures_and_lost_answers_change_nothing(bench, how):
    b = bench(kafka={"batch": 100})
    store = Hiccups(b.backing, how)
    running = b.run_to_the_end(store=store)
    b.assert_as_undisturbed()
    assert store.failed >= 3
    assert running.worker.patience.errors["unavailable"] + running.worker.publisher.errors >= 1
    assert running.worker.patience.errors["fenced"] == 0, "a repeated write is the same write"


class Full(MemoryStore):
    """Out of memory for what is named in `full`."""

    full = frozenset()

    def publish(self, claim, scores):
        if "scores" in self.full:
            raise StoreFull("no room for scores")
        return super().publish(claim, scores)

    def save(self, *args):
        if "checkpoints" in self.full:
            raise StoreFull("no room for a checkpoint")
        return super().save(*args)


def test_a_full_store_costs_scores_only(bench):
    b = bench()
    store = Full(b.backing)
    store.full = {"scores"}
    running = b.run_to_the_end(store=store)
    assert b.scores() == {}
    assert running.worker.publisher.given_up == 1_200
    fold.assert_same_fold(b.learner(), fold.fold(b.settings, b.log.values).learner)


def test_a_full_store_keeps_the_last_good_checkpoint(bench):
    b = bench()
    store = Full(b.backing)
    running = b.start(store=store)
    running.until(lambda: b.offset() == 1_200, "the fold")
    store.full = {"checkpoints"}
    b.append([fold.wire(1_200 + i, *event) for i, event in enumerate(b.log.events[:300])])
    running.until(lambda: running.worker.tally.save_failures >= 1, "a failed save")
    running.until(lambda: running.worker.tally.events == 1_500, "it goes on all the same")
    assert b.offset() == 1_200
    store.full = frozenset()
    running.until(lambda: b.offset() == 1_500, "the next one")
    running.stop()
    b.assert_as_undisturbed()


def test_journal_entries_that_gave_way_in_an_outage_are_counted(bench, monkeypatch):
    b = bench()
    store = Full(b.backing)
    running = b.start(store=store)
    # Behind the save: what is kept before it is over counts as saved with it.
    running.until(lambda: b.mirrored() == 1_200, "the fold")
    monkeypatch.setattr("fluvial.keeper.MAX_ENTRIES", 3)
    store.full = {"checkpoints"}
    keeper = running.worker.keeper
    for number in range(5):
        keeper.keep(Entry(kind="made-up", detail={"number": number}))
    b.append([fold.wire(1_200, *b.log.events[0])])
    running.until(lambda: running.worker.tally.save_failures >= 1, "a failed save")
    store.full = frozenset()
    running.until(lambda: b.offset() == 1_201, "the next one")
    running.stop()
    told = [(e.kind, dict(e.detail)) for _, _, e in b.backing.journal if e.kind in {"made-up", "journal-gap"}]
    gap = {"entries": 2, "because": "no checkpoint could be saved"}
    assert told == [("journal-gap", gap), *(("made-up", {"number": n}) for n in (2, 3, 4))]
    assert running.worker.tally.entries_given_up == 2


def test_a_state_over_the_limit_keeps_the_last_good_one(bench):
    b = bench(checkpoint={"max_bytes": 120_000})
    running = b.start()
    running.until(lambda: running.worker.tally.too_large >= 1, "a checkpoint that is too large")
    running.until(lambda: running.worker.tally.events == 1_200, "it goes on")
    assert 0 <= b.offset() < 1_200
    assert len(b.backing.shards[SHARD].blobs[0]) <= 120_000
    running.stop()


def test_a_sink_that_refuses_holds_everything_back(bench):
    b = bench()
    b.sink.available = False
    b.topic.append(b"not json")
    b.append([fold.wire(1_201 + i, *event) for i, event in enumerate(b.log.events[:300])])
    running = b.start()
    running.until(lambda: "away" in (running.worker.patience.waiting_for or ""), "back-pressure")
    time.sleep(0.2)
    assert b.offset() <= 1_200, "no checkpoint goes past a letter that is not out"
    b.sink.available = True
    running.until(lambda: b.offset() == b.end(), "it goes on")
    running.stop()
    b.assert_as_undisturbed()


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ({"persistent": False}, "appendonly"),
        ({"eviction": "allkeys-lru"}, "evicts"),
        ({"embedded": True}, "older than 7.0"),
    ],
)
def test_an_unfit_store_is_refused(bench, fault, says):
    from fluvial.types import StoreReport

    class Odd(MemoryStore):
        def report(self):
            return StoreReport(**{"version": "7.2", "persistent": True, "eviction": "noeviction", **fault})

    b = bench(redis={"allow_unfit": False})
    running = b.start(store=Odd(b.backing))
    with pytest.raises(StoreUnfit, match=says):
        running.join()


# --- the model's errors ----------------------------------------------------------------------------


def counting_log(n, fail):
    """`n` events for the model that fails where it is told to."""
    events = [(1e9 + i, {"a": 1.0, "fail": float(fail.get(i, 0))}, i % 3 > 0) for i in range(n)]
    return fold.Log("c", "binary", {"a": "number", "fail": "number"}, events)


@pytest.mark.parametrize("kind", [1, 2])
def test_an_event_on_which_the_model_raises_is_left_out_bit_for_bit(bench, kind):
    b = bench(counting_log(1_000, {150: kind, 420: kind, 421: kind, 999: kind}), "counting", "observe")
    running = b.run_to_the_end()
    assert fold.offenders(b.settings, b.log.values) == {150, 420, 421, 999}
    folded = b.assert_as_undisturbed(poison={150, 420, 421, 999})
    assert folded.learner.mixture.members[0].model.true < 1_000, "the oracle is not spoilt either"
    assert b.learner().mixture.members[0].model.true == folded.learner.mixture.members[0].model.true
    assert running.worker.tally.model_errors == 4
    reasons = {letter.offset: letter.message for letter in b.sink.letters}
    assert "please" in reasons[150]


def test_a_late_label_on_which_the_model_raises_is_given_up_and_told(bench):
    """Its event was answered: it stays scored only, wherever the checkpoint fell."""
    log = counting_log(1_200, {150: 1.0, 400: 1.0})
    learners = []
    for saved_at in (100, 200, 420):  # before both came, between event and label of the first, of the second
        b = bench(log.first(saved_at), "counting", {"name": "observe", "label_delay": 90})
        b.run_to_the_end()
        b.append(log.values[saved_at:])
        running = b.run_to_the_end()
        assert running.worker.tally.incidents["label-given-up"] >= 1
        assert b.kinds().count("label-given-up") == 2
        assert b.sink.letters == []
        learners.append(b.learner())
    for learner in learners:
        ledger = learner.ledger.partitions[0]
        assert (ledger.pending, ledger.scored, ledger.dead, ledger.balanced()) == (90, 2, 0, True)
        assert ledger.learned == learner.mixture.members[0].model.seen == 1_200 - 90 - 2
        fold.assert_same_fold(learner, learners[0])


def test_a_model_that_raises_all_the_time_trips_the_breaker(bench):
    b = bench(
        counting_log(500, dict.fromkeys(range(100, 200), 1)),
        "counting",
        "observe",
        worker={"max_model_errors": 5},
    )
    running = b.start()
    with pytest.raises(TooManyModelErrors, match=r"mend the model|max_model_errors"):
        running.join()
    assert len({letter.offset for letter in b.sink.letters}) < 5 + 1
    assert b.offset() < 200


# --- lost and refused state ------------------------------------------------------------------------


def test_a_lost_store_is_refused(bench):
    b = bench()
    b.run_to_the_end()
    b.backing = MemoryBacking()
    running = b.start()
    with pytest.raises(LostState, match="1200"):
        running.join()
    assert b.backing.shards[SHARD].head is None


def test_a_lost_store_may_be_answered_by_a_fresh_lineage(bench):
    b = bench()
    b.run_to_the_end()
    b.backing = MemoryBacking()
    b.settings = b.with_settings(checkpoint={"on_lost_state": "fresh"})
    b.run_to_the_end()
    assert "lost-state" in b.kinds()
    b.assert_as_undisturbed()


def test_an_older_checkpoint_is_replayed_and_told(bench):
    """The tail of the store was lost: Kafka's commit is ahead of the head."""
    import copy

    b = bench()
    running = b.start()
    running.until(lambda: b.offset() == 1_200, "the fold")
    with b.backing.lock:
        older = copy.deepcopy(b.backing.shards[SHARD])
    b.append([fold.wire(1_200 + i, *event) for i, event in enumerate(b.log.events[:300])])
    running.until(lambda: b.offset() == 1_500, "more")
    running.stop()
    b.backing.shards[SHARD] = older
    b.run_to_the_end(owner="two")
    (entry,) = [e for _, _, e in b.backing.journal if e.kind == "older-checkpoint"]
    assert entry.detail["replayed"] == {0: 300}
    fold.assert_same_fold(
        b.learner(), fold.fold(b.settings, [m.value() for m in b.topic.read(0, 0, 9_999)]).learner
    )


def spoil(blob):
    """Turn one bit round in the midst of a checkpoint."""
    middle = len(blob) // 2
    return blob[:middle] + bytes([blob[middle] ^ 1]) + blob[middle + 1 :]


def test_a_refused_checkpoint_gives_way_to_the_generation_before(bench):
    b = bench()
    b.run_to_the_end()
    stored = b.backing.shards[SHARD]
    stored.blobs[0] = spoil(stored.blobs[0])
    b.run_to_the_end(owner="two")
    assert "checkpoint-refused" in b.kinds()
    fold.assert_same_fold(b.learner(), fold.fold(b.settings, b.log.values).learner)


def test_without_a_good_generation_it_fails(bench):
    b = bench()
    b.run_to_the_end()
    stored = b.backing.shards[SHARD]
    stored.blobs = [spoil(blob) for blob in stored.blobs]
    kept = list(stored.blobs)
    running = b.start("two")
    with pytest.raises(CheckpointRefused):
        running.join()
    assert b.backing.shards[SHARD].blobs == kept, "nothing was overwritten"


def assert_rebuilt(b, before):
    """From the log, its versions numbered on."""
    number = before.lineage.current + 1 if b.backing.shards[SHARD].kept else 1
    fold.assert_same_fold(b.learner(), fold.fold(b.settings, b.log.values, number=number).learner)


def test_or_it_is_rebuilt_from_the_log(bench):
    b = bench()
    b.run_to_the_end()
    before, stored = b.learner(), b.backing.shards[SHARD]
    stored.blobs = [spoil(blob) for blob in stored.blobs]
    b.settings = b.with_settings(checkpoint={"on_refused": "replay"})
    running = b.start("two")
    running.until(lambda: "replayed" in b.kinds() and b.offset() == 1_200, "the replay")
    running.stop()
    assert_rebuilt(b, before)


def test_lost_blobs_are_never_a_silent_fresh_start(bench):
    b = bench()
    b.run_to_the_end()
    b.backing.shards[SHARD].blobs = [None, None]
    running = b.start("two")
    with pytest.raises(StoreError):
        running.join()


def test_another_key_is_refused(bench):
    b = bench()
    b.run_to_the_end()
    running = b.start("two", settings=b.with_settings(checkpoint={"key": "other" * 10}))
    with pytest.raises(CheckpointRefused, match="signature"):
        running.join()


def test_another_log_is_refused(bench):
    b = bench()
    b.run_to_the_end()
    b.topic.topic_id = "memory-2"
    running = b.start("two")
    with pytest.raises(TopologyChanged, match="memory-2"):
        running.join()


def test_another_model_in_the_settings_is_refused(bench):
    b = bench()
    b.run_to_the_end()
    running = b.start("two", settings=b.with_settings("hoeffding"))
    with pytest.raises(CheckpointRefused, match="model"):
        running.join()


@pytest.mark.parametrize("policy", ["reweight", "observe"])
def test_another_policy_takes_effect(bench, policy):
    b = bench()
    b.run_to_the_end()
    b.append([fold.wire(1_200 + i, *event) for i, event in enumerate(b.log.events[:300])])
    b.settings = b.with_settings(policy=policy)
    b.run_to_the_end(owner="two")
    learner = b.learner()
    assert len(learner.mixture.members) == 1 + learner.spec.policy.challengers
    assert learner.events == 1_500
    assert "settings-changed" in b.kinds()


# --- offsets outside the log -----------------------------------------------------------------------


def test_an_offset_below_the_logs_start_is_refused(bench):
    b = bench()
    b.run_to_the_end()
    b.append([fold.wire(1_200 + i, *event) for i, event in enumerate(b.log.events[:300])])
    b.topic.trim(0, 1_300)
    running = b.start("two")
    with pytest.raises(OffsetLost, match="1200"):
        running.join()
    assert b.offset() == 1_200


def test_or_skipped_and_journalled_with_the_number_of_events(bench):
    b = bench()
    b.run_to_the_end()
    b.append([fold.wire(1_200 + i, *event) for i, event in enumerate(b.log.events[:300])])
    b.topic.trim(0, 1_300)
    b.settings = b.with_settings(kafka={"on_lost_offset": "earliest"})
    b.run_to_the_end(owner="two")
    ledger = b.learner().ledger.partitions[0]
    assert (ledger.skipped, ledger.learned, ledger.balanced()) == (100, 1_400, True)
    (entry,) = [e for _, _, e in b.backing.journal if e.kind == "events-lost"]
    assert entry.detail["events"] == 100


def events_lost_here(bench, low):
    """Events up to `low` are gone before the next worker reads them; it begins afresh behind them."""
    bench.run_to_the_end()
    bench.append([fold.wire(1_200 + i, *event) for i, event in enumerate(bench.log.events[:300])])
    bench.topic.trim(0, low)
    bench.settings = bench.with_settings(kafka={"on_lost_offset": "fresh"})
    return bench.run_to_the_end(owner="two")


def test_or_begun_afresh_behind_them_with_the_model_before_kept(bench):
    b = bench()
    running = events_lost_here(b, 1_310)
    values = [m.value() for m in b.topic.read(0, 0, 10**9)]
    oracle = fold.genesis(b.settings)
    for event in fold.decoded(b.settings, b.log.values):
        oracle.step(event)
    (retired,) = oracle.begin_afresh(0, 1_310).retired
    codec = Codec(b.settings.schema)
    for offset, value in enumerate(values, 1_310):
        event = codec.decode(value, None, 0, offset, 0)
        outcome, score = oracle.step(event), b.backing.score(event.key)
        assert (tuple(score.probabilities.values()), score.version) == (outcome.answer, outcome.version)
    fold.assert_same_fold(b.learner(), oracle)
    assert oracle.lineage.versions[-1].cause == "events-lost"
    kept = MemoryStore(b.backing).version_blob(SHARD, retired.version)
    _, model = fold.kept_model(b.settings, kept, retired.version)
    before = b.learner().spec.load(retired.blob)
    assert model["model"].predict_proba_one({"a": 0.3, "b": 0.1}) == before["model"].predict_proba_one(
        {"a": 0.3, "b": 0.1}
    )
    lost, version = [e for _, _, e in b.backing.journal if e.kind in {"events-lost", "version"}][-2:]
    assert lost.detail == {"events": 110, "from": 1_200, "to": 1_310, "then": "fresh"}
    assert (version.kind, version.detail["cause"]) == ("version", "events-lost")
    ledger = b.learner().ledger.partitions[0]
    assert (ledger.skipped, ledger.learned, ledger.balanced()) == (110, 1_390, True)
    view = look(running.worker, running.source)
    assert view.shards == () or view.shards[0].versions["events-lost"] == 1
    assert running.worker.tally.incidents["events-lost"] == 1
    assert running.worker.tally.happened["version", "events-lost"] == 1


def test_events_that_leave_the_log_under_a_worker_are_answered_likewise(bench):
    b = bench(kafka={"on_lost_offset": "fresh"})
    running = b.start()
    running.until(lambda: b.offset() == 1_200, "the fold")
    with b.topic.changed:
        b.append([fold.wire(1_200 + i, *event) for i, event in enumerate(b.log.events[:300])])
        b.topic.trim(0, 1_300)
    running.until(lambda: b.offset() == b.end(), "the rest")
    running.stop()
    learner = b.learner()
    assert [v.cause for v in learner.lineage.versions][-1] == "events-lost"
    assert learner.ledger.partitions[0].skipped == 100
    assert learner.events == 1_400


def test_an_offset_above_the_logs_end_is_always_refused(bench):
    b = bench()
    b.run_to_the_end()
    b.topic = MemoryTopic()  # same ids, fewer events
    b.append(b.log.values[:50])
    b.settings = b.with_settings(kafka={"on_lost_offset": "fresh"})
    running = b.start("two")
    with pytest.raises(OffsetLost, match="above"):
        running.join()


# --- stopping --------------------------------------------------------------------------------------


def test_stop_while_the_store_is_away_ends_within_the_grace(bench):
    b = bench(worker={"grace_seconds": 0.5})
    store = Away(b.backing)
    running = b.start(store=store)
    running.until(lambda: b.offset() == 1_200, "the fold")
    store.away = True
    b.append([fold.wire(1_200, *b.log.events[0])])
    running.until(lambda: running.worker.patience.waiting_for == "away", "it waits")
    running.stop()
    store.away = False
    b.run_to_the_end(owner="two")
    b.assert_as_undisturbed()


def test_stop_while_standing_by(bench):
    b = bench()
    MemoryStore(b.backing).lease(SHARD, "somebody", 60_000)
    running = b.start()
    running.until(lambda: "standing by" in (running.worker.patience.waiting_for or ""), "standing by")
    running.stop()
    assert b.offset() == -1
    assert b.backing.leases[SHARD][0] == "somebody"


def test_a_stale_claim_writes_nothing(bench):
    """The claim of a worker that was replaced is void for every write."""
    b = bench()
    b.run_to_the_end()
    store, stored = MemoryStore(b.backing), b.backing.shards[SHARD]
    stale = Claim(SHARD, stored.epoch, "not the token", stored.head, {})
    for write in (
        lambda: store.publish(stale, [("e0", b.backing.score("e0"))]),
        lambda: store.save(stale, stored.head.sequence + 1, b"x", {0: 0}, [], {}),
        lambda: store.forget(stale),
    ):
        with pytest.raises(StoreError):
            write()


def test_why_a_worker_ended_is_in_the_journal_and_counted(bench):
    b = bench()
    b.run_to_the_end()
    b.backing.shards[SHARD].blobs = [None, None]
    running = b.start()
    running.thread.join(SECONDS)
    assert isinstance(running.raised, CheckpointLost)
    _, _, entry = b.backing.journal[-1]
    assert (entry.kind, entry.detail["error"]) == ("refused", "CheckpointLost")
    assert "none is left" in entry.detail["why"]


def test_the_way_out_of_lost_checkpoints_works(bench):
    b = bench(checkpoint={"on_refused": "replay"})
    b.run_to_the_end()
    before, b.backing.shards[SHARD].blobs = b.learner(), [None, None]
    running = b.run_to_the_end()
    assert {"checkpoint-refused", "replayed"} <= set(b.kinds())
    assert running.worker.tally.incidents == {"checkpoint-refused": 1, "replayed": 1}
    assert_rebuilt(b, before)
