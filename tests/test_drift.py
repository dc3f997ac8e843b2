"""The error plane: only a rise is a drift, dated back to when it began."""

import itertools
import math
import random

import pytest

from fluvial.config import DriftSettings
from fluvial.drift.dating import LEAST, events_since_change
from fluvial.drift.error import CALM, CLOCK, ErrorMonitor
from fluvial.types import SignalKind, Task


def losses_at(rates, n, seed=1):
    """`n` losses at each error rate in turn."""
    rng = random.Random(seed)
    return [float(rng.random() < rate) for rate in rates for _ in range(n)]


def watch(losses, task=Task.BINARY, **settings):
    monitor = ErrorMonitor(task, DriftSettings(**settings))
    return monitor, feed(monitor, losses)


def feed(monitor, losses, start=0, ring=(), size=CLOCK):
    seen, signals = [*ring, *losses], []
    for first in range(0, len(losses), size):
        block = losses[first : first + size]
        past = seen[: len(ring) + first + len(block)][-2_000:]
        signals += monitor.update(block, start + first + len(block), past.copy)
    return signals


def kinds(signals):
    return [signal.kind for signal in signals]


@pytest.mark.parametrize("seed", range(5))
def test_a_rise_warns_then_drifts_and_is_dated_back(seed):
    _, signals = watch(losses_at([0.1, 0.5], 2_000, seed))
    assert SignalKind.DRIFT in kinds(signals)
    drift = next(s for s in signals if s.kind is SignalKind.DRIFT)
    assert 2_000 < drift.events < 2_400
    assert abs(drift.since - 2_000) < 60
    assert drift.before < drift.after
    assert drift.plane == "error"


@pytest.mark.parametrize("seed", range(20))
def test_a_rise_from_a_tenth_to_three_tenths_is_never_missed(seed):
    _, signals = watch(losses_at([0.1, 0.3], 2_000, seed))
    delays = [s.events - 2_000 for s in signals if s.kind is SignalKind.DRIFT and s.events > 2_000]
    assert delays
    assert delays[0] <= 480


def test_the_warning_comes_before_the_drift():
    _, signals = watch(losses_at([0.1, 0.3], 3_000))
    told = kinds(signals)
    assert told.index(SignalKind.WARNING) < told.index(SignalKind.DRIFT)


@pytest.mark.parametrize("seed", range(5))
def test_a_falling_error_is_never_a_drift(seed):
    _, signals = watch(losses_at([0.5, 0.05], 3_000, seed))
    assert SignalKind.DRIFT not in kinds(signals)
    assert SignalKind.WARNING not in kinds(signals)


@pytest.mark.parametrize("seed", range(10))
def test_a_steady_error_drifts_seldom(seed):
    _, signals = watch(losses_at([0.3], 5_000, seed))
    assert kinds(signals).count(SignalKind.DRIFT) <= 1


@pytest.mark.parametrize("value", [0.0, 1.0, 0.5])
def test_constants_say_nothing(value):
    _, signals = watch([value] * 5_000)
    assert signals == []


def test_one_warning_stands_until_it_is_taken_back():
    # A rise that the drift detector cannot see, because it is as good as switched off.
    losses = losses_at([0.1, 0.4, 0.1], 1_500)
    _, signals = watch(losses, drift_delta=1e-300)
    told = kinds(signals)
    assert told[:2] == [SignalKind.WARNING, SignalKind.RECOVERED]
    recovered = signals[1]
    assert recovered.since == signals[0].events
    for before, after in itertools.pairwise(told):
        assert before != after, "a standing warning is not repeated"


def test_a_warning_is_taken_back_after_calm():
    monitor, signals = watch(losses_at([0.1, 0.25], 1_000), drift_delta=1e-300)
    assert kinds(signals) == [SignalKind.WARNING]
    steady = losses_at([0.25], CALM + 1_000, 2)
    after = feed(monitor, steady, 2_000)
    assert SignalKind.RECOVERED in kinds(after)


def test_restart_forgets():
    monitor, _ = watch(losses_at([0.1], 2_000))
    monitor.restart()
    assert feed(monitor, losses_at([0.9], 500), 2_000) == []  # nothing to compare it with


def test_a_state_goes_on_exactly():
    losses = losses_at([0.1, 0.5, 0.2], 1_000)
    whole, signals = watch(losses)
    for cut in (0, CLOCK, 15 * CLOCK, 31 * CLOCK, 32 * CLOCK, 33 * CLOCK, 34 * CLOCK, 70 * CLOCK):
        first = ErrorMonitor(Task.BINARY, DriftSettings())
        before = feed(first, losses[:cut])
        second = ErrorMonitor(Task.BINARY, DriftSettings(), first.state())
        after = feed(second, losses[cut:], cut, losses[:cut])
        assert before + after == signals
        assert second.state()["warned_at"] == whole.state()["warned_at"]


def test_blocks_say_what_rivers_detector_says_one_by_one():
    from river.drift import ADWIN

    losses = losses_at([0.1, 0.5, 0.1, 0.4], 1_600, 8)
    settings = DriftSettings()
    signals = feed(ErrorMonitor(Task.BINARY, settings), losses)
    plain, rises = ADWIN(delta=0.002), []
    for events, loss in enumerate(losses, 1):
        before = plain.estimation
        plain.update(loss)
        if plain.drift_detected and plain.estimation > before:
            rises.append((events, plain.estimation))
    assert [(s.events, s.after) for s in signals if s.kind is SignalKind.DRIFT] == rises
    assert len(rises) >= 2


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e9])
def test_the_loss_of_a_number_is_free_of_its_unit_and_bounded(unit):
    rng = random.Random(4)
    monitor = ErrorMonitor(Task.REGRESSION, DriftSettings())
    reference = ErrorMonitor(Task.REGRESSION, DriftSettings())
    for _ in range(500):
        y, answer = rng.gauss(0, 1), rng.gauss(0, 1)
        loss = monitor.loss(y * unit, answer * unit)
        assert 0.0 <= loss <= 1.0
        assert loss == pytest.approx(reference.loss(y, answer), rel=1e-9)
    assert monitor.loss(1e9 * unit, 0.0) == 1.0


@pytest.mark.parametrize("unit", [0.001, 1.0, 1_000.0])
def test_a_rising_absolute_error_is_a_drift(unit):
    rng = random.Random(9)
    monitor = ErrorMonitor(Task.REGRESSION, DriftSettings())
    errors = [abs(rng.gauss(0, 1 if n < 2_000 else 3)) * unit for n in range(4_000)]
    signals = feed(monitor, [monitor.loss(error, 0.0) for error in errors])
    drift = next(s for s in signals if s.kind is SignalKind.DRIFT)
    assert 2_000 < drift.events < 2_400
    assert abs(drift.since - 2_000) < 60


@pytest.mark.parametrize(("before", "after", "n"), [(0.0, 1.0, 50), (0.1, 0.6, 100), (0.1, 0.7, 400)])
def test_dating_finds_the_split(before, after, n):
    rng = random.Random(2)
    losses = [float(rng.random() < before) for _ in range(1_000)]
    losses += [float(rng.random() < after) for _ in range(n)]
    assert events_since_change(losses) == pytest.approx(n, abs=15)


def test_dating_against_a_plain_search():
    """The same split as a search written out: every one tried, the likelihood by logarithms."""
    from math import log

    def likelihood(part):
        p = min(max(sum(part) / len(part), 1e-12), 1 - 1e-12)
        return sum(x * log(p) + (1 - x) * log(1 - p) for x in part)

    for seed in range(20):
        losses = losses_at([0.2, 0.6], 40, seed)
        splits = [
            k
            for k in range(LEAST, len(losses) - LEAST + 1)
            if sum(losses[k:]) / len(losses[k:]) > sum(losses[:k]) / k
        ]
        best = max(splits, key=lambda k: likelihood(losses[:k]) + likelihood(losses[k:]))
        assert events_since_change(losses) == len(losses) - best


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([], 0),
        ([1.0] * 3, 3),
        ([0.0] * 9, LEAST),
        ([0.0] * 500, LEAST),
        ([1.0] * 500, LEAST),
        ([1.0] * 250 + [0.0] * 250, None),
    ],
)
def test_dating_without_a_rise(losses, expected):
    found = events_since_change(losses)
    assert found == expected if expected is not None else LEAST <= found <= len(losses)


# --- the loss of a number -----------------------------------------------------------------------------


def learning(n, seed, floor=0.1, begin=3.0, pace=300.0):
    """Errors of a model that learns from `begin` down to `floor`, and then stays as it is."""
    rng = random.Random(seed)
    return [abs(rng.gauss(0.0, floor + begin * math.exp(-k / pace))) for k in range(n)]


def blocks_of_errors(errors):
    """As the fold does it: a loss at a time, looked at in blocks."""
    monitor, signals, ring = ErrorMonitor(Task.REGRESSION, DriftSettings()), [], []
    for n, error in enumerate(errors, 1):
        ring.append(monitor.loss(error, 0.0))
        if n % CLOCK == 0:
            signals += monitor.update(ring[-CLOCK:], n, ring[-2_000:].copy)
    return monitor, signals


def drifts(signals):
    return [s for s in signals if s.kind is SignalKind.DRIFT]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("pace", [30.0, 300.0, 3_000.0])
def test_a_model_that_stops_getting_better_is_no_drift(seed, pace):
    _, signals = blocks_of_errors(learning(12_000, seed, pace=pace))
    assert drifts(signals) == []


@pytest.mark.parametrize("seed", range(8))
def test_a_number_that_is_missed_by_more_is_found_and_dated(seed):
    errors = learning(6_000, seed)
    errors[4_000:] = [2.0 * error for error in errors[4_000:]]
    _, signals = blocks_of_errors(errors)
    assert drifts(signals), "a rise by twice"
    first = drifts(signals)[0]
    assert 4_000 < first.events < 4_400
    assert abs(first.since - 4_000) < 100
    assert first.before < first.after


@pytest.mark.parametrize("wild", [1e3, 1e5, 1e12, 1e300])
def test_one_wild_label_does_not_make_it_blind(wild):
    errors = learning(6_000, 1)
    errors[1_000] = wild
    errors[4_000:] = [5.0 * error for error in errors[4_000:]]
    _, signals = blocks_of_errors(errors)
    assert [s.events for s in drifts(signals) if 4_000 < s.events < 4_200]


def test_the_unit_of_the_loss_follows_far_changes_only_and_never_on_the_way():
    errors = [1.0] * 3_200 + [0.2] * 3_200 + [0.19] * 3_200
    monitor, units = ErrorMonitor(Task.REGRESSION, DriftSettings()), []
    for n, error in enumerate(errors, 1):
        loss = monitor.loss(error, 0.0)
        units.append(monitor.scale)
        assert loss == min(1.0, error / (4.0 * monitor.scale))
        if n % CLOCK == 0:
            monitor.update([loss] * CLOCK, n, ([loss] * 10).copy)
    assert units[3_199] == 1.0
    assert 0.2 < units[-1] < 0.5
    assert len(set(units)) <= 3, "each new unit begins the detectors anew"
    assert units[6_399] == units[-1]


def test_a_change_behind_a_new_unit_is_not_dated_into_the_old_one():
    monitor = blocks_of_errors([1.0] * 1_600 + [0.01] * 320)[0]
    assert monitor.scaled_since > 1_600
    monitor.restart()
    ring, since = [], None
    for n in range(1_920, 2_560):
        ring.append(monitor.loss(0.01 if n < 2_240 else 0.2, 0.0))
        if n % CLOCK == CLOCK - 1:
            found = drifts(monitor.update(ring[-CLOCK:], n + 1, lambda: [1.0] * 1_600 + ring))
            since = since or (found and found[0].since)
    assert 2_200 <= since <= 2_260


def test_a_state_from_before_the_unit_stood_still_goes_on():
    monitor = blocks_of_errors(learning(3_200, 2))[0]
    state = {k: v for k, v in monitor.state().items() if k not in {"recent", "scaled_since", "made_by"}}
    again = ErrorMonitor(Task.REGRESSION, DriftSettings(), state)
    assert (again.recent, again.scaled_since, again.scale) == (monitor.scale, 0, monitor.scale)
    assert again.level == monitor.level


def test_other_settings_take_effect_at_once_and_the_rest_goes_on():
    """A window that was made for another confidence would keep it for ever."""
    losses = losses_at([0.1, 0.3], 1_600, 3)
    deaf = DriftSettings(expect={"error": 1e12}, warning_delta=1e-15)
    monitor = ErrorMonitor(Task.BINARY, deaf)
    feed(monitor, losses[:1_600])
    again = ErrorMonitor(Task.BINARY, DriftSettings(), monitor.state())
    same = ErrorMonitor(Task.BINARY, deaf, monitor.state())
    assert same.level == monitor.level
    assert again.level == 0.0, "it begins anew"
    feed(again, losses[:1_600])
    assert [s.events for s in drifts(feed(again, losses[1_600:], 1_600, losses[:1_600]))]
