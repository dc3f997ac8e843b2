"""The log beside what was read of it: partitions that fell silent, partitions that were added."""

import time

import msgspec
import pytest

from fluvial.adapters.memory_store import MemoryStore
from fluvial.errors import StoreUnavailable, TopologyChanged
from fluvial.looking import look
from fluvial.survey import EVERY_SECONDS, ORPHAN_SECONDS, SILENT_SECONDS, Survey
from fluvial.types import Lag, StoreReport
from support import fold
from test_worker import Bench


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def ends(**high):
    return {int(name[1:]): Lag(low=0, high=value) for name, value in high.items()}


def test_the_brokers_are_asked_now_and_then(clock):
    survey = Survey(clock)
    assert not survey.due()
    clock.now += EVERY_SECONDS
    assert survey.due()
    assert not survey.due()


def test_a_partition_is_silent_when_events_wait_and_nothing_moves(clock):
    survey = Survey(clock)
    offsets = {0: 5, 1: 5, 2: 9}
    assert survey.compare(ends(p0=9, p1=9, p2=9), offsets) == []
    clock.now += SILENT_SECONDS
    offsets[0] = 6
    assert survey.compare(ends(p0=9, p1=9, p2=9), offsets) == [1], "0 moved, 2 is at its end"
    assert survey.silent == {1: "partition 1 is silent at offset 5: 4 events wait"}
    clock.now += SILENT_SECONDS
    assert survey.compare(ends(p0=9, p1=9, p2=9), offsets) == [0], "1 was said already"
    offsets[0] = offsets[1] = 7
    survey.compare(ends(p0=9, p1=9, p2=9), offsets)
    assert survey.silent == {}


def test_partitions_that_stay_nobodys_are_to_be_given_an_owner_now_and_then(clock):
    survey = Survey(clock)
    assert survey.orphans([1, 2]) == [], "it may be on its way to somebody"
    clock.now += ORPHAN_SECONDS / 2
    assert survey.orphans([2, 3]) == []
    clock.now += ORPHAN_SECONDS / 2
    assert survey.orphans([3, 2, 1]) == [2], "1 was somebody's meanwhile"
    assert survey.orphans([2]) == [], "not before the attempt had its time"
    clock.now += ORPHAN_SECONDS
    assert survey.orphans([2]) == [2]
    clock.now += ORPHAN_SECONDS
    assert survey.orphans([]) == survey.orphans([2]) == []


def test_an_idle_partition_is_not_silent_when_its_first_event_comes(clock):
    survey = Survey(clock)
    survey.compare(ends(p0=5), {0: 5})
    clock.now += 10 * SILENT_SECONDS
    assert survey.compare(ends(p0=5), {0: 5}) == []
    clock.now += 1.0
    assert survey.compare(ends(p0=6), {0: 5}) == []


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.setattr("fluvial.survey.EVERY_SECONDS", 0.02)
    made = []

    def make(**sections):
        made.append(Bench(**sections))
        return made[-1]

    yield make
    for one in made:
        for running in one.running:
            running.worker.stop()
            running.thread.join(30)


def test_brokers_that_cannot_be_asked_make_it_not_ready(bench):
    b = bench()
    running = b.start()
    running.until(lambda: b.offset() == 1_200, "the fold")
    b.topic.available = False
    running.until(lambda: not look(running.worker, running.source).ready, "it is noticed")
    assert "no look at the log" in look(running.worker, running.source).not_ready[0]
    b.topic.available = True
    running.until(lambda: look(running.worker, running.source).ready, "it is over")


# ---- the store beside it ------------------------------------------------------------------------

FIT = StoreReport(version="7.2", persistent=True, eviction="noeviction")
EVICTING = msgspec.structs.replace(FIT, eviction="allkeys-lru")
NOT_PERSISTENT = msgspec.structs.replace(FIT, persistent=False)
SILENT = StoreReport(version="unknown", persistent=False, eviction="unknown", told=False)


def looked(running):
    return look(running.worker, running.source)


def on_a_fit_store(bench, **redis):
    """A worker that has folded everything."""
    b = bench(redis=redis)
    b.backing.report = FIT
    running = b.start()
    running.until(lambda: b.offset() == 1_200, "the fold")
    running.until(lambda: looked(running).ready, "readiness")
    return b, running


def test_a_store_that_becomes_unfit_is_said_once_and_makes_it_not_ready(bench, caplog):
    b, running = on_a_fit_store(bench, allow_unfit=False)
    sequence = b.backing.shards["all"].head.sequence
    b.backing.report = EVICTING
    running.until(lambda: "store-unfit" in b.kinds(), "its entry, although no event comes")
    assert looked(running).not_ready == (running.worker.scope.fitness.said,)
    assert "it evicts keys (allkeys-lru" in looked(running).not_ready[0]
    b.append([fold.wire(1_200 + i, *event) for i, event in enumerate(b.log.events[:300])])
    running.until(lambda: b.offset() == 1_500, "the work goes on")
    time.sleep(0.1)  # some more looks, which find the same
    b.backing.report = NOT_PERSISTENT
    running.until(lambda: "not persistent" in str(looked(running).not_ready), "another fault")
    b.backing.report = FIT
    running.until(lambda: looked(running).ready, "it is mended")
    running.until(lambda: "store-fit" in b.kinds(), "its entry")
    running.stop()
    entries = [e for _, _, e in b.backing.journal if e.kind in {"store-unfit", "store-fit"}]
    assert [(e.kind, e.detail.get("then")) for e in entries] == [
        ("store-unfit", "not ready"),
        ("store-unfit", "not ready"),
        ("store-fit", None),
    ]
    assert running.worker.tally.incidents["store-unfit"] == 2
    assert caplog.text.count("it evicts keys (allkeys-lru") == 1
    assert "fit to hold checkpoints again" in caplog.text
    assert b.backing.shards["all"].head.sequence > sequence


def test_or_a_warning_where_the_settings_accept_it(bench):
    b, running = on_a_fit_store(bench, allow_unfit=True)
    assert looked(running).warnings == ()
    b.backing.report = NOT_PERSISTENT
    running.until(lambda: looked(running).warnings, "a warning")
    assert "it is not persistent" in looked(running).warnings[0]
    assert looked(running).ready
    running.until(lambda: "store-unfit" in b.kinds(), "its entry")
    (entry,) = [e for _, _, e in b.backing.journal if e.kind == "store-unfit"]
    assert entry.detail["then"] == "going on"


def test_a_store_that_may_no_longer_be_asked_is_neither(bench, caplog):
    b, running = on_a_fit_store(bench, allow_unfit=False)
    b.backing.report = SILENT
    running.until(lambda: "can no longer be told" in caplog.text, "that it cannot be told")
    time.sleep(0.1)
    assert caplog.text.count("can no longer be told") == 1
    assert looked(running).ready
    assert "store-unfit" not in b.kinds()
    b.backing.report = EVICTING
    running.until(lambda: not looked(running).ready, "what it says when it may be asked again")


def test_a_store_that_is_away_at_the_look_is_waited_for_by_who_writes(bench):
    b, running = on_a_fit_store(bench, allow_unfit=False)

    def away():
        raise StoreUnavailable("away")

    running.store.report = away
    b.append([fold.wire(1_200 + i, *event) for i, event in enumerate(b.log.events[:300])])
    running.until(lambda: b.offset() == 1_500, "the work goes on")
    time.sleep(0.1)
    assert looked(running).ready


def test_the_store_is_asked_with_the_log_and_not_with_every_batch(bench, monkeypatch):
    monkeypatch.setattr("fluvial.survey.EVERY_SECONDS", 3_600.0)
    b = bench()
    asked = []

    class Counting(MemoryStore):
        def report(self):
            asked.append(1)
            return super().report()

    running = b.start(store=Counting(b.backing))
    running.until(lambda: b.offset() == 1_200, "the fold")
    assert len(asked) == 1, "at the start"


# ---- partitions that were added ------------------------------------------------------------------


def test_added_partitions_stop_the_worker_unless_the_settings_decide(bench):
    b = bench()
    running = b.start()
    running.until(lambda: b.offset() == 1_200, "the fold")
    b.topic.grow(2)
    running.thread.join(30)
    assert isinstance(running.raised, TopologyChanged)
    assert "kafka.on_added_partitions" in str(running.raised)
    assert "refused" in b.kinds()


def test_added_partitions_are_learned_from_their_start(bench):
    b = bench(kafka={"on_added_partitions": "learn"})
    running = b.start()
    running.until(lambda: b.offset() == 1_200, "the fold")
    b.topic.grow(3)
    more = [fold.wire(1_200 + i, *event) for i, event in enumerate(b.log.events[:100])]
    for number, value in enumerate(more):
        b.topic.append(value, partition=1 + number % 2)
    running.until(lambda: sum(b.backing.shards["all"].head.offsets.values()) == 1_300, "the others' events")
    running.stop()
    assert b.backing.shards["all"].head.offsets == {0: 1_200, 1: 50, 2: 50}
    assert "partitions-added" in b.kinds()
    again = b.start()
    again.until(lambda: again.worker.shard is not None, "its return")
    again.stop()
    assert b.learner().ledger.offsets() == {0: 1_200, 1: 50, 2: 50}


def test_added_partitions_may_be_left_out(bench):
    b = bench(kafka={"on_added_partitions": "ignore"})
    running = b.start()
    running.until(lambda: b.offset() == 1_200, "the fold")
    b.topic.grow(2)
    running.until(lambda: running.worker.tally.incidents["partitions-added"] == 1, "it is noticed")
    running.until(lambda: "partitions-added" in b.kinds(), "and journalled")
    running.stop()
    assert b.backing.shards["all"].head.offsets == {0: 1_200}
    assert running.worker.tally.incidents["partitions-added"] == 1, "said once"
