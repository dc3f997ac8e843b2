"""What ends a wait, and what ends the worker: every error that is not simply 'try again'."""

import threading
import time

import pytest

from fluvial.adapters.memory_log import MemorySource
from fluvial.adapters.memory_store import MemoryStore
from fluvial.errors import OffsetLost, SourceFatal, SourceUnavailable, StoreError, StoreFull, StoreUnavailable
from fluvial.patience import Patience
from fluvial.worker import SHARD
from test_worker import Bench

MANY = [StoreUnavailable("away"), StoreFull("full")]


@pytest.fixture
def bench():
    made = Bench()
    yield made
    for running in made.running:
        running.worker.stop()
        running.thread.join(20)


class Failing(MemoryStore):
    """One of its methods raises these in turn, once `when()` says so; `after`: having done it."""

    def __init__(self, backing, errors, *, method="save", after=False, when=lambda: True):
        super().__init__(backing)
        self.errors = list(errors)
        self._when = when
        inner = getattr(self, method)

        def call(*args):
            result = inner(*args) if after and self.errors else None
            if self.errors and self._when():
                raise self.errors.pop(0)
            return inner(*args) if result is None else result

        setattr(self, method, call)


class Reporting(MemorySource):
    """Its polls raise these in turn, from the given one on."""

    def __init__(self, topic, errors, first=0):
        super().__init__(topic, "orders")
        self.errors = list(errors)
        self.limits = []
        self._first = first

    def poll(self, limit, seconds):
        self.limits.append(limit)
        if len(self.limits) > self._first and self.errors:
            raise self.errors.pop(0)
        return super().poll(limit, seconds)


def begun(bench):
    """The claim's own checkpoint is made: what comes now is in the middle of the work."""
    shard = bench.backing.shards.get(SHARD)
    return shard is not None and shard.head is not None


# ---- waits that end in another error -----------------------------------------------------------


def test_a_wait_that_ends_in_a_full_store_goes_on_consuming(bench):
    store = Failing(bench.backing, MANY, when=lambda: begun(bench))
    running = bench.run_to_the_end(store=store)
    assert store.errors == []
    assert running.worker.tally.save_failures == 1
    running.join()
    bench.assert_as_undisturbed()


def test_after_a_wait_that_ended_in_a_full_store_the_worker_is_ready(bench):
    store = Failing(bench.backing, MANY, when=lambda: begun(bench))
    running = bench.start(store=store)
    running.until(lambda: not store.errors and bench.offset() == bench.end(), "the end")
    running.until(lambda: running.worker.patience.waiting_for is None, "readiness")
    running.stop()


def test_a_checkpoint_that_failed_is_made_again_without_another_event(bench):
    settled = []
    store = Failing(bench.backing, [StoreFull("full")] * 3, when=lambda: bool(settled))
    running = bench.start(store=store)
    running.until(lambda: bench.offset() == bench.end(), "everything in a checkpoint")
    settled.append(True)
    bench.append(bench.log.values[:1])  # the last event: none follows
    running.until(lambda: bench.offset() == bench.end(), "a checkpoint of the last event")
    assert store.errors == []
    running.stop()


def test_a_save_whose_answer_was_lost_is_repeated_as_it_was(bench):
    store = Failing(bench.backing, [StoreUnavailable("lost")] * 3, after=True, when=lambda: begun(bench))
    running = bench.run_to_the_end(store=store)
    running.join()
    assert store.errors == []
    assert (bench.backing.shards[SHARD].epoch, running.worker.patience.errors["fenced"]) == (1, 0)
    bench.assert_as_undisturbed()


def test_tries_come_further_and_further_apart(bench, monkeypatch):
    """A server that refuses is not asked ten times a second for as long as it does."""
    patience, waits = Patience(MemorySource(bench.topic, "orders"), 20.0), []
    monkeypatch.setattr(patience, "_keep_alive", lambda seconds, **_: waits.append(seconds))
    errors = [StoreUnavailable("away")] * 8

    def act():
        if errors:
            raise errors.pop()
        return "done"

    assert patience.persist(act) == "done"
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0])


# ---- what the source reports -------------------------------------------------------------------


@pytest.mark.parametrize("first", [0, 3])
def test_brokers_that_are_away_while_reading_are_waited_for(bench, first):
    source = Reporting(bench.topic, [SourceUnavailable("away")] * 2, first)
    bench.run_to_the_end(source=source).join()
    assert source.errors == []
    bench.assert_as_undisturbed()


def test_a_report_about_an_earlier_assignment_means_nothing(bench):
    """It came during an outage, before the partitions were assigned anew at other offsets."""
    source = Reporting(bench.topic, [OffsetLost(0, -5, -9, -7)])
    store = Failing(bench.backing, [StoreUnavailable("away")], method="report")
    bench.run_to_the_end(source=source, store=store).join()
    assert (source.errors, store.errors) == ([], [])
    bench.assert_as_undisturbed()


def test_records_that_come_while_paused_are_never_dropped(bench):
    """A client that delivers while it is paused: the worker ends, and the next one reads them again."""

    class Leaking(MemorySource):
        def pause(self):
            """Not at all."""

    store = Failing(bench.backing, [StoreUnavailable("away")], when=lambda: begun(bench))
    bench.append(bench.log.values * 10)
    running = bench.start(source=Leaking(bench.topic, "orders"), store=store)
    with pytest.raises(SourceFatal, match="paused"):
        running.join()
    offset = bench.offset()
    assert offset < bench.end()
    bench.run_to_the_end().join()
    ledger = bench.learner().ledger.partitions[0]
    assert (ledger.next, ledger.learned, ledger.gaps) == (bench.end(), bench.end(), 0)


def test_the_first_batch_is_small(bench):
    """A model that takes a tenth of a second would keep the loop from turning for a minute."""
    source = Reporting(bench.topic, [])
    bench.run_to_the_end(source=source).join()
    assert source.limits[0] <= 16
    assert max(source.limits) > 16


# ---- errors that end the worker ----------------------------------------------------------------


def test_an_unknown_fault_of_the_fold_saves_nothing(bench, monkeypatch):
    running = bench.start()
    running.until(lambda: bench.offset() == bench.end(), "everything in a checkpoint")
    before = bench.backing.shards[SHARD].head

    def broken(event):
        running.worker.shard.learner.ledger.partitions[0].learned += 1_000
        raise LookupError("a bug")

    running.worker.shard.learner.steps = broken
    bench.append(bench.log.values[:3])
    with pytest.raises(LookupError, match="a bug"):
        running.join()
    assert bench.backing.shards[SHARD].head == before
    assert bench.backing.leases == {}
    bench.run_to_the_end().join()
    assert bench.learner().ledger.partitions[0].learned == bench.end()


@pytest.mark.parametrize("method", ["save", "publish"])
@pytest.mark.parametrize("error", [StoreError("NOPERM: may not"), LookupError("a bug")])
def test_other_errors_of_the_store_end_the_worker_and_its_threads(bench, method, error):
    running = bench.start(store=Failing(bench.backing, [error] * 99, method=method))
    with pytest.raises(type(error), match=str(error)):
        running.join()
    until = time.monotonic() + 10
    while any(thread.name.startswith("fluvial-scores") for thread in threading.enumerate()):
        assert time.monotonic() < until
        time.sleep(0.01)
    assert bench.backing.leases == {}
    bench.run_to_the_end(owner="two").join()
    bench.assert_as_undisturbed()


def test_a_fenced_worker_gives_no_lease_of_another_back(bench):
    running = bench.start()
    running.until(lambda: bench.offset() == bench.end(), "everything in a checkpoint")
    with bench.backing.lock:
        bench.backing.leases[SHARD] = ("another", bench.backing.clock() + 60)
    running.until(lambda: running.worker.shard is None, "the drop")
    running.stop()
    assert bench.backing.leases[SHARD][0] == "another"
