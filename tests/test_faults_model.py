"""Faults that reach for the model itself: storms of drift, a clock that jumps, saves that would eat the work.

Each test is named after its row in docs/faults.md.
"""

import itertools
import time

import pytest

from fluvial.adapters.memory_store import MemoryStore
from fluvial.config import CheckpointSettings
from fluvial.pace import LEAST_RATIO, Pace
from fluvial.worker import SHARD
from support import fold
from test_worker import Bench


def stormy(n=6_000, every=250):
    """The rule turns round again and again: a drift, and then the next one."""
    log = fold.drifting(n)
    turned = [(at, x, (not y) if (i // every) % 2 else y) for i, (at, x, y) in enumerate(log.events)]
    return fold.Log("stormy", "binary", {"a": "number", "b": "number"}, turned)


def test_drift_storm():
    """Resets stop at the limit, it is told, and the model from before the storm can be brought back."""
    b = Bench(stormy(), policy={"name": "reset", "cooldown": 50, "max_reactions": 4})
    b.run_to_the_end()
    folded = b.assert_as_undisturbed()
    resets = [v for o in folded.outcomes if o.rare for v in o.rare.versions if v.cause == "reset"]
    assert len(resets) == 4
    held = [e for _, _, e in b.backing.journal if e.kind == "hold"]
    assert any("storm" in entry.detail["because"] for entry in held)
    blob = MemoryStore(b.backing).version_blob(SHARD, 1)
    first = next(i for i, o in enumerate(folded.outcomes) if o.rare and o.rare.versions)
    before = fold.fold(b.settings, b.log.values[:first]).learner
    kept = fold.kept_model(b.settings, blob, 1)[1]["model"]
    [member] = before.mixture.members
    for _, x, _ in b.log.events[:50]:
        assert kept.predict_proba_one(dict(x)) == member.model.predict_proba_one(dict(x))


@pytest.mark.parametrize("hours", [1, -1])
def test_clock_jumps(monkeypatch, hours):
    """The wall clock jumps by an hour at every second look: the model and its answers are the same."""
    real, flips = time.time, itertools.cycle([0.0, hours * 3_600.0])
    b = Bench(scores={"ttl_seconds": 1_000_000}, policy="reweight")
    monkeypatch.setattr(time, "time", lambda: real() + next(flips))
    b.run_to_the_end()
    monkeypatch.undo()
    b.assert_as_undisturbed()


class Timed:
    """A pace whose clock is turned by hand; a million events wait at any time."""

    def __init__(self):
        self.now = 0.0
        self.pace = Pace(CheckpointSettings(every_seconds=1.0, every_events=10), lambda: self.now)

    def save(self, seconds):
        started = self.pace.started()
        self.now += seconds
        self.pace.ended(started)
        self.pace.count(1_000_000)

    def assert_due_after(self, seconds):
        self.now += seconds - 0.1
        assert not self.pace.due()
        self.now += 0.2
        assert self.pace.due()


def test_slow_saves():
    """However slow saves are, and however much is due, at most two per cent of the time goes into them."""
    timed = Timed()
    timed.save(3.0)
    timed.save(3.0)
    timed.assert_due_after(3.0 * LEAST_RATIO)
    timed.save(4.0)
    timed.assert_due_after(3.0 * LEAST_RATIO)
    timed.save(4.0)
    timed.assert_due_after(4.0 * LEAST_RATIO)


def test_one_slow_save_among_fast_ones():
    """What held one save up says nothing of the next: a shard is not left without a checkpoint for it."""
    timed = Timed()
    timed.save(3.0)  # the first, while River is still loading
    assert timed.pace.due()
    timed.save(0.01)
    timed.save(3.0)
    timed.save(0.01)
    timed.assert_due_after(0.5)
