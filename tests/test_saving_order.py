"""What comes before what when a checkpoint is made: nothing that it is past may still be on its way."""

import gc
import hashlib
import threading
import time

import msgspec
import pytest

from fluvial import shard
from fluvial.adapters.memory_log import MemorySink, MemorySource
from fluvial.adapters.memory_store import MemoryStore
from fluvial.checkpoint import Expectation, seal, unseal
from fluvial.drift.error import CLOCK
from fluvial.errors import CheckpointRefused
from fluvial.models import unpickle
from fluvial.shard import Opening, signing_keys
from fluvial.worker import SHARD
from support import fold
from test_attacks import LOGISTIC, MISUSE, kept, whole
from test_partition_scope import Bench as Members
from test_partition_scope import shared
from test_worker import SECONDS, Bench

ASKED = {"factory": "support.odd_models:Asked", "allow": ["support.odd_models:Asked"]}


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


def test_kafka_is_told_what_is_saved_and_nothing_else(bench):
    b = bench()
    told = []

    class Telling(MemorySource):
        def commit(self, offsets, metadata):
            stored = b.backing.shards[SHARD]
            told.append((dict(offsets), dict(stored.head.offsets), metadata, stored.head.sequence))
            super().commit(offsets, metadata)

    b.run_to_the_end(source=Telling(b.topic, "orders"))
    assert len(told) > 2
    for committed, saved, metadata, sequence in told:
        assert committed == saved
        assert metadata.startswith(f"{sequence}:")
    assert b.topic.commits["orders"][0].offset == b.offset() == 1_200


class Watching(MemoryStore):
    """Looks, at each save, whether what the checkpoint is past has arrived."""

    def __init__(self, backing, late):
        super().__init__(backing)
        self.late = late
        self.saves = []

    def save(self, claim, sequence, blob, offsets, entries, versions):
        self.saves.append(self.late(offsets[0]))
        super().save(claim, sequence, blob, offsets, entries, versions)


def test_scores_are_out_before_the_checkpoint_that_is_past_them(bench):
    """A batch's scores wait for the save, if that does not wait for them."""
    b = bench()
    saving = threading.Event()

    class Slow(Watching):
        def save(self, *args):
            saving.set()
            super().save(*args)

        def publish(self, claim, scores):
            saving.clear()
            saving.wait(0.04)
            return super().publish(claim, scores)

    def late(offset):
        return [f"e{n}" for n in range(offset) if b.backing.score(f"e{n}") is None]

    store = Slow(b.backing, late)
    b.run_to_the_end(store=store)
    assert len(store.saves) > 2
    assert not [missing[:5] for missing in store.saves if missing]


def test_dead_letters_are_out_before_the_checkpoint_that_is_past_them(bench):
    b = bench(fold.drifting(20))
    bad = range(20, 420, 2)
    for offset in range(20, 420):
        b.append([b"not json" if offset in bad else fold.wire(offset, *b.log.events[0])])

    class Lazy(MemorySink):
        """Acknowledges only when it is made to."""

        def send(self, letters):
            self._waiting += letters

    b.sink = Lazy()

    def late(offset):
        return {n for n in bad if n < offset} - {letter.offset for letter in b.sink.letters}

    store = Watching(b.backing, late)
    b.run_to_the_end(store=store)
    assert len(b.sink.letters) == len(bad)
    assert not any(store.saves)


def test_scores_are_out_before_the_last_checkpoint_of_a_partition_that_is_taken_away():
    b = Members("observe")
    never = {"every_events": 10**9, "every_seconds": 10**6}
    b.settings = fold.settings(b.log, "linear", "observe", checkpoint=never, kafka={"scope": "partition"})

    class Held(MemoryStore):
        """The next batch of scores is under way until something is saved, or for a while."""

        def __init__(self, backing):
            super().__init__(backing)
            self.hold, self.late = False, []
            self.under_way, self.saving = threading.Event(), threading.Event()

        def publish(self, claim, scores):
            if self.hold:
                self.saving.clear()
                self.under_way.set()
                self.saving.wait(1.5)
                self.hold = False
            return super().publish(claim, scores)

        def save(self, claim, sequence, blob, offsets, entries, versions):
            self.saving.set()
            published = self.backing.shards[claim.shard].published
            self.late += [p for p, offset in offsets.items() if published.get(p, 0) < offset]
            super().save(claim, sequence, blob, offsets, entries, versions)

    store = Held(b.backing)
    one = b.start("one", store)
    b.feed(400)
    b.until(lambda: sum(t.events for t in one.worker.scope.tallies.values()) == 400, "the fold")
    store.hold = True
    b.feed(4)
    b.until(store.under_way.is_set, "scores under way")
    two = b.start("two")
    b.until(lambda: shared(b, one, two), "two share")
    one.stop()
    two.stop()
    assert not store.late


# --- what a checkpoint is asked --------------------------------------------------------------------


def test_probe_answers_are_those_of_the_dump():
    log = fold.drifting(600)
    settings = fold.settings(log, "linear")
    learner = fold.genesis(settings)
    events = fold.decoded(settings, log.values)
    for event in events[:300]:
        learner.step(event)
    dumped = learner.state()["members"]
    for event in events[300:]:
        learner.step(event)
    (row,) = learner.spec.load(dumped)
    answers = [row[-1].predict_proba_one(x) for x, _, _ in learner.memory.newest(16)]
    assert learner.probe(dumped) == [(answer[False], answer[True]) for answer in answers]


def test_a_checkpoint_asks_the_live_model_nothing(bench):
    """What this model says depends on how often it was asked."""
    b = bench(factory=ASKED, policy="observe")
    b.run_to_the_end()
    folded = b.assert_as_undisturbed()
    counts = [learner.mixture.members[0].model.counts for learner in (b.learner(), folded.learner)]
    assert counts[0] == counts[1]
    assert counts[0]["asked"] == 1_200


def replaced(b, change):
    """The only checkpoint, correctly signed, after `change(payload, answers)`."""
    stored = b.backing.shards[SHARD]
    keys = signing_keys(b.settings)
    expect = Expectation(b.settings.service, SHARD, b.settings.schema.hash, "0.26.1")
    opened = unseal(stored.blobs[0], expect, keys)
    payload, answers = change(opened.payload, opened.answers)
    header = msgspec.structs.replace(opened.header, size=len(payload))
    blob = seal(payload, header, answers, keys[0], 10**9)
    stored.blobs[:] = [blob]
    stored.head = msgspec.structs.replace(stored.head, digest=hashlib.sha256(blob).hexdigest())


def other_answers(payload, answers):
    reversed_ = [tuple(reversed(answer)) for answer in answers]
    assert reversed_ != list(answers)
    return payload, reversed_


def test_a_model_that_does_not_survive_loading_is_refused(bench):
    b = bench()
    b.run_to_the_end()
    replaced(b, other_answers)
    running = b.start("two")
    with pytest.raises(CheckpointRefused, match="answers probe 0"):
        running.join()
    b.settings = b.with_settings(checkpoint={"on_refused": "try"})
    b.append([fold.wire(1_200, *b.log.events[0])])
    b.run_to_the_end(owner="three")
    assert "answers-differ" in b.kinds()


@pytest.mark.parametrize("large", [True, False])
def test_the_collector_never_walks_through_a_large_state(bench, monkeypatch, large):
    """One walk through 20 MB of trees holds every thread for seconds: it is exempt before it is there."""
    b = bench()
    b.run_to_the_end()
    done, load = [], Opening._load
    monkeypatch.setattr(shard, "LARGE", 0 if large else 10**9)
    monkeypatch.setattr(gc, "collect", lambda: done.append("collect"))
    monkeypatch.setattr(gc, "freeze", lambda: done.append(f"freeze, {gc.isenabled()=}"))
    monkeypatch.setattr(Opening, "_load", lambda *args: (done.append("load"), load(*args))[1])
    b.append([fold.wire(1_200, *b.log.events[0])])
    b.run_to_the_end(owner="two")
    early = ["freeze, gc.isenabled()=False"] if large else []
    assert done == ["collect", "load", *early, "freeze, gc.isenabled()=True"]
    assert gc.isenabled()


@pytest.mark.parametrize("where", ["members", "snapshot", "blanks"])
def test_pickles_inside_the_payload_are_read_before_they_are_loaded(bench, where):
    """The allow-list alone lets this one through, and it rewrites a class for the whole process."""
    attack = whole(MISUSE["state of a class"])

    def planted(payload, answers):
        state = unpickle.loads(payload)
        state["fold"][where] = attack if where == "members" else {"": attack}
        return unpickle.dumps(state), answers

    b = bench()
    b.run_to_the_end()
    replaced(b, planted)
    before = kept(LOGISTIC)
    with pytest.raises(CheckpointRefused, match="not one of ours"):
        b.start("two").join()
    assert kept(LOGISTIC) == before


def test_a_change_is_not_dated_back_into_the_time_of_another_model():
    """After a reset and a restart, too, only the losses of the present model are looked at."""
    log = fold.drifting(3_000)
    settings = fold.settings(log, "linear", "reset")
    learner = fold.fold(settings, log.values).learner
    since = learner.events - max(version.events for version in learner.lineage.versions)
    assert 0 < since < 2_000
    losses = learner._losses()
    assert abs(len(losses) - since) < CLOCK
    assert list(fold.copied(learner)._losses()) == list(losses)


# --- the lease -------------------------------------------------------------------------------------


def test_a_loop_that_stalls_loses_its_lease(bench):
    """While it hangs in a batch nothing renews the lease, so that another worker can go on."""
    b = bench()
    stalled, go = threading.Event(), threading.Event()

    class Stalling(MemorySource):
        def poll(self, limit, seconds):
            if b.offset() > 0 and not stalled.is_set():
                stalled.set()
                go.wait(SECONDS)
            return super().poll(limit, seconds)

    b.start("one", source=Stalling(b.topic, "orders"))
    store = MemoryStore(b.backing)
    assert stalled.wait(SECONDS)
    assert store.lease_holder(SHARD) == "one"
    until = time.monotonic() + 20 * b.settings.worker.lease_seconds
    while store.lease_holder(SHARD) is not None and time.monotonic() < until:
        time.sleep(0.01)
    free = store.lease_holder(SHARD) is None
    go.set()
    assert free, "the lease outlived its time although nothing renewed it"
