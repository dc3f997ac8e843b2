"""Other detectors on the error plane: one-sided, one polarity, and equal after a resume."""

import random

import pytest

from fluvial.config import DETECTORS, DriftSettings
from fluvial.drift.calibration import (
    DRIFT_DELTA,
    MEASURED,
    WARNING_DELTA,
    delta_for,
    drift_delta,
    warning_delta,
)
from fluvial.drift.error import CLOCK, ErrorMonitor
from fluvial.drift.named import error_monitor, make_detector
from fluvial.errors import SettingsError
from fluvial.shard import spec_of
from fluvial.types import SignalKind, Task
from support.fold import copied, decoded, drifting, genesis, numbers, settings, told

OWN = "support.factories:HalfWrong"


def losses_at(rates, n, seed=1):
    rng = random.Random(seed)
    return [float(rng.random() < rate) for rate in rates for _ in range(n)]


def feed(monitor, losses, start=0, ring=()):
    seen, signals = [*ring, *losses], []
    for first in range(0, len(losses), CLOCK):
        until = len(ring) + first + CLOCK
        signals += monitor.update(
            losses[first : first + CLOCK], start + first + CLOCK, seen[:until][-2_000:].copy
        )
    return signals


def named(detector, **options):
    return error_monitor(Task.BINARY, DriftSettings(detector=detector, options=options))


OTHERS = [name for name in DETECTORS if name != "ADWIN"]


@pytest.mark.parametrize("detector", [*OTHERS, OWN])
def test_a_rise_is_found_and_dated_and_a_fall_is_no_drift(detector):
    options = {"PageHinkley": {"threshold": 10.0}}.get(detector, {})
    rise = feed(named(detector, **options), losses_at([0.1, 0.6], 1_600, 3))
    found = [s for s in rise if s.kind is SignalKind.DRIFT and s.events > 1_600]
    assert found, "the rise was missed"
    first = found[0]
    assert first.events < 2_400
    assert (first.detector, first.plane) == (detector, "error")
    assert first.before < first.after
    assert abs(first.since - 1_600) < 200
    fall = [s for s in feed(named(detector, **options), losses_at([0.6, 0.1], 3_200, 4)) if s.events > 3_200]
    drifts = [s for s in fall if s.kind is SignalKind.DRIFT and s.events < 3_600]
    assert drifts == [], "a falling error"


@pytest.mark.parametrize("detector", [*OTHERS, OWN])
def test_a_fold_with_another_detector_resumes_equal(detector):
    log = drifting(1_500)
    chosen = settings(log, {"preset": "linear"}, "reset", drift={"detector": detector, "planes": []})
    learner, resumed = genesis(chosen), genesis(chosen)
    for n, event in enumerate(decoded(chosen, log.values)):
        if n in {40, 520, 560, 1_040}:
            resumed = copied(resumed)
        assert told(learner.step(event)) == told(resumed.step(event))
    assert learner.monitor.state()["detector"] == detector
    assert learner.counts == resumed.counts
    assert learner.events == 1_500


def test_nothing_is_drawn_without_a_seed():
    assert make_detector(DriftSettings(detector="KSWIN")).seed is not None
    assert make_detector(DriftSettings(detector="KSWIN", options={"seed": 5})).seed == 5


def test_another_detector_in_the_settings_begins_anew():
    state = named("HDDM_A").state()
    adwin = error_monitor(Task.BINARY, DriftSettings(), state)
    assert type(adwin) is ErrorMonitor
    assert (
        error_monitor(Task.BINARY, DriftSettings(detector="DDM"), adwin.state()).state()["detector"] == "DDM"
    )


@pytest.mark.parametrize(
    ("drift", "message"),
    [
        ({"detector": "Nonsense"}, "drift.detector: expected one of ADWIN"),
        ({"options": {"delta": 0.1}}, "drift.options: ADWIN has none"),
        ({"detector": "KSWIN", "drift_delta": 0.1}, "drift.drift_delta: of ADWIN; KSWIN has no stated"),
        ({"detector": "KSWIN", "expect": {"error": 10_000}}, "drift.expect.error: of ADWIN"),
        ({"expect": {"features": 10}}, "drift.expect"),
        ({"expect": {"weather": 100_000}}, "drift.expect.weather: not one of"),
        ({"planes": ["weather"]}, "drift.planes"),
    ],
)
def test_what_cannot_be_is_refused_by_its_path(drift, message):
    with pytest.raises(SettingsError) as refused:
        settings(drifting(10), {"preset": "linear"}, drift=drift)
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    ("detector", "options"),
    [("nowhere:Thing", {}), ("support.factories:Nothing", {}), ("DDM", {"wrong": 1}), ("random:Random", {})],
)
def test_a_detector_that_cannot_be_made_says_so(detector, options):
    with pytest.raises(SettingsError, match=r"^drift\.detector: "):
        make_detector(DriftSettings(detector=detector, options=options))


@pytest.mark.parametrize("detector", ["nowhere:Thing", "support.factories:Nothing", "no name:X", ":X"])
def test_a_detector_that_is_not_there_is_a_fault_of_the_settings_and_of_no_checkpoint(detector):
    wrong = settings(drifting(10), {"preset": "linear"}, drift={"detector": detector})
    with pytest.raises(SettingsError, match=r"^drift\.detector: .* cannot be imported"):
        spec_of(wrong)


@pytest.mark.parametrize("error", [KeyError("no"), OSError("no"), SyntaxError("no"), RecursionError()])
def test_whatever_a_detector_of_ones_own_raises_is_said_as_a_fault_of_it(monkeypatch, error):
    def failing(*_):
        raise error

    monkeypatch.setattr(f"{OWN.replace(':', '.')}.__init__", failing)
    with pytest.raises(SettingsError, match=r"^drift\.detector: .* cannot be made"):
        named(OWN)
    monkeypatch.undo()
    monitor = named(OWN)
    monkeypatch.setattr(f"{OWN.replace(':', '.')}.update", failing)
    with pytest.raises(SettingsError, match=r"^drift\.detector: .* raised .* at loss 0\.5: mend it"):
        feed(monitor, [0.5] * CLOCK)


def test_one_of_ones_own_begins_anew_once_it_fired():
    """River's do so by themselves; else it would go on firing at each block."""
    monitor = named(OWN)
    before = monitor._detector
    found = feed(monitor, losses_at([0.1, 0.6], 1_600, 3))
    assert any(s.kind is SignalKind.DRIFT for s in found)
    assert monitor._detector is not before


def test_other_options_take_effect_at_once():
    deaf = named("PageHinkley", threshold=1e9)
    feed(deaf, losses_at([0.1], 1_600, 3))
    chosen = DriftSettings(detector="PageHinkley", options={"threshold": 10.0})
    again = error_monitor(Task.BINARY, chosen, deaf.state())
    assert again._detector.threshold == 10.0
    same = DriftSettings(detector="PageHinkley", options={"threshold": 1e9})
    assert error_monitor(Task.BINARY, same, deaf.state())._detector is deaf._detector


def test_regression_takes_no_detector_of_right_and_wrong():
    with pytest.raises(SettingsError, match="HDDM_A reads right and wrong only"):
        settings(numbers(10), {"preset": "linear"}, drift={"detector": "HDDM_A"})


def test_the_defaults_are_the_deltas_that_were_measured_with():
    assert (warning_delta(DriftSettings()), drift_delta(DriftSettings())) == (WARNING_DELTA, DRIFT_DELTA)
    assert (WARNING_DELTA, DRIFT_DELTA) == (0.05, 0.002)


def test_an_expectation_becomes_a_delta_and_a_delta_overrides_it():
    for events, delta in MEASURED:
        assert delta_for(events) == pytest.approx(delta)
    expecting = DriftSettings(expect={"error": 300_000}, expect_warning={"error": 25_000})
    assert drift_delta(expecting) == pytest.approx(0.05)
    assert warning_delta(expecting) == pytest.approx(0.3)
    assert delta_for(10_000) > delta_for(50_000) > delta_for(10**6) > delta_for(10**8) > 0.0
    assert drift_delta(DriftSettings(expect={"error": 300_000}, drift_delta=0.01)) == 0.01
