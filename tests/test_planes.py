"""Features and predictions: what moved is named, false alarms hold their expectation, a resume is equal."""

import functools
import math
import random

import numpy as np
import pytest

from fluvial.config import DriftSettings
from fluvial.drift.column import BINS, shape, tables
from fluvial.drift.plane import CALM, LISTED, OVERSHOOT, SAMPLE, Plane
from fluvial.drift.planes import SETTLING, Planes
from fluvial.types import SignalKind, Task
from support.fold import (
    Log,
    assert_same_fold,
    copied,
    decoded,
    fold,
    following,
    genesis,
    settings,
    told,
)

BLOCK = 32
BEFORE = 5_120
LEVELS = (100_000, 1_000_000)


def plane(width=5, levels=LEVELS, state=None, name="features"):
    return Plane(name, [f"f{k}" for k in range(width)], levels, state)


def feed(watched, columns, start=0):
    """Everything that is said about `columns`: lists of raw values, one per column, whole blocks."""
    said = []
    for first in range(0, len(columns[0]), BLOCK):
        until = first + BLOCK

        def recent(count, until=until):
            return [list(c[max(0, until - count) : until]) for c in columns]

        block = [list(c[first:until]) for c in columns]
        said += watched.update(block, start + until, recent)
    return said


def normal(width, events, seed=1):
    return np.random.default_rng(seed).normal(size=(width, events)).tolist()


def drift_of(change, width=5, seed=1, levels=LEVELS):
    """The first drift after `change` was done to the first column."""
    columns = normal(width, 2 * BEFORE, seed)
    columns[0] = [*columns[0][:BEFORE], *map(change, columns[0][BEFORE:])]
    said = feed(plane(width, levels), columns)
    drifts = [s for s in said if s.kind is SignalKind.DRIFT]
    assert drifts, "not found"
    return drifts[0]


@pytest.mark.parametrize(
    ("change", "what", "way", "within"),
    [
        (lambda x: x + 0.2, "mean", 1, 2_000),
        (lambda x: x - 0.5, "mean", -1, 400),
        (lambda x: x + 1.0, "mean", 1, 128),
        (lambda x: 1.7 * x, "spread", 1, 300),
        (lambda x: x / 1.7, "spread", -1, 300),
        (lambda x: x + 50.0, "mean", 1, 64),
        (lambda x: x - 50.0, "mean", -1, 64),
        (lambda x: x if abs(x) > 0.12 else 50.0, "above", 1, 192),
    ],
)
def test_what_moved_and_which_way_is_named(change, what, way, within):
    drift = drift_of(change)
    assert BEFORE < drift.events <= BEFORE + within
    moved = drift.moved[0]
    assert (drift.plane, moved.name, moved.what) == ("features", "f0", what)
    assert math.copysign(1, moved.distance) == way
    assert (drift.before, drift.after) == (moved.before, moved.after)
    assert abs(drift.since - BEFORE) <= max(64, within // 4)
    assert [m.name for m in drift.moved] == ["f0"], "nothing else moved"


def test_how_far_is_in_standard_deviations():
    drift = drift_of(lambda x: x + 0.5)
    assert drift.moved[0].distance == pytest.approx(0.5, abs=0.25)
    assert drift.moved[0].after - drift.moved[0].before == pytest.approx(0.5, abs=0.3)


def test_missing_values_more_and_fewer():
    columns = normal(3, 2 * BEFORE)
    rng = random.Random(1)
    columns[1] = [None if rng.random() < 0.02 else x for x in columns[1][:BEFORE]] + [
        None if rng.random() < 0.2 else x for x in columns[1][BEFORE:]
    ]
    drift = next(s for s in feed(plane(3), columns) if s.kind is SignalKind.DRIFT)
    moved = drift.moved[0]
    assert (moved.name, moved.what) == ("f1", "missing")
    assert moved.before == pytest.approx(0.02, abs=0.01)
    assert moved.after == pytest.approx(0.2, abs=0.12)


def categories(weights, events, seed):
    return random.Random(seed).choices([f"v{k}" for k in range(len(weights))], weights, k=events)


def test_a_category_whose_share_grew_is_named():
    columns = [*normal(2, 2 * BEFORE), [*categories([5, 3, 2], BEFORE, 1), *categories([5, 3, 5], BEFORE, 2)]]
    drift = next(s for s in feed(plane(3), columns) if s.kind is SignalKind.DRIFT)
    moved = drift.moved[0]
    assert (moved.name, moved.what, moved.value) == ("f2", "share", "v2")
    assert moved.before == pytest.approx(0.2, abs=0.03)
    assert moved.distance > 0.05


def test_values_never_seen_before_are_other():
    columns = [*normal(1, BEFORE + 640), [*categories([1, 1], BEFORE, 1), *["new"] * 640]]
    drift = next(s for s in feed(plane(2), columns) if s.kind is SignalKind.DRIFT)
    assert (drift.moved[0].what, drift.moved[0].value, drift.moved[0].before) == ("share", "other", 0.0)


@pytest.mark.parametrize("value", [0.0, 3.5, None, "only"])
def test_a_constant_says_nothing_until_it_changes(value):
    columns = [[value] * 20_480, normal(1, 20_480)[0]]
    watched = plane(2)
    assert feed(watched, columns) == []
    changed = [[1e6] * BLOCK if not isinstance(value, str) else ["else"] * BLOCK, columns[1][:BLOCK]]
    (drift,) = feed(watched, [c * 2 for c in changed], 20_480)[-1:]
    assert drift.moved[0].name == "f0"


def test_what_moved_is_not_said_again():
    columns = normal(4, 20_480)
    columns[2] = [x + (2.0 if n >= BEFORE else 0.0) for n, x in enumerate(columns[2])]
    drifts = [s for s in feed(plane(4), columns) if s.kind is SignalKind.DRIFT]
    assert [[m.name for m in s.moved] for s in drifts] == [["f2"]]


def test_many_that_move_at_once_are_ranked_and_listed_up_to_a_limit():
    columns = normal(20, 2 * BEFORE)
    for k in range(15):
        columns[k] = [x + (0.3 + 0.1 * k if n >= BEFORE else 0.0) for n, x in enumerate(columns[k])]
    drift = next(s for s in feed(plane(20), columns) if s.kind is SignalKind.DRIFT)
    assert 2 <= len(drift.moved) <= LISTED
    assert drift.moved[0].name in {"f12", "f13", "f14"}
    assert {m.name for m in drift.moved} <= {f"f{k}" for k in range(15)}


def test_a_warning_stands_until_it_is_taken_back():
    columns = normal(2, 4 * BEFORE, 3)
    columns[0] = [x + (0.5 if BEFORE <= n < BEFORE + 96 else 0.0) for n, x in enumerate(columns[0])]
    said = feed(plane(2, (10_000, 10**15)), columns)
    assert [s.kind for s in said][:2] == [SignalKind.WARNING, SignalKind.RECOVERED]
    assert said[1].since == said[0].events
    assert said[1].events >= said[0].events + CALM


def test_a_warning_is_taken_back_once_and_the_next_one_is_said():
    """Two short bumps, far apart."""
    columns = normal(2, 4 * BEFORE, 3)
    bumps = [*range(BEFORE, BEFORE + 96), *range(3 * BEFORE, 3 * BEFORE + 128)]
    for n in bumps:
        columns[0][n] += 0.5
    kinds = [s.kind for s in feed(plane(2, (10_000, 10**15)), columns)]
    assert kinds[:3] == [SignalKind.WARNING, SignalKind.RECOVERED, SignalKind.WARNING]


# --- calibration -----------------------------------------------------------------------------------


def stationary(kind, rng, width, events):
    if kind == "normal":
        return rng.normal(size=(width, events))
    if kind == "alike":
        return rng.normal(size=(1, events)) + 0.3 * rng.normal(size=(width, events))
    if kind == "cauchy":
        return rng.standard_cauchy(size=(width, events))
    if kind == "skewed":
        return rng.lognormal(0.0, 2.0, size=(width, events))
    if kind == "rare":
        return (rng.random((width, events)) < 0.02).astype(float)
    names = np.array([f"v{k}" for k in range(40)], dtype=object)
    return names[rng.choice(40, size=(width, events))].tolist()


@pytest.mark.parametrize("kind", ["normal", "alike", "cauchy", "skewed", "rare", "categories"])
def test_false_alarms_hold_their_expectation_whatever_the_distribution(kind):
    """Ten columns for sixteen times the expected distance: eight to thirty-two false drifts or so.

    With sixteen expected and a true rate within a factor of two, fewer than 3 or more than 44 are as
    unlikely as four standard deviations. `benchmarks/planes.py alarms` measures closer.
    """
    level, width, rounds = 10_000, 10, 16
    rng, watched, drifts = np.random.default_rng(7), plane(width, (level, level)), 0
    for number in range(rounds):
        drawn = stationary(kind, rng, width, level // BLOCK * BLOCK)
        drifts += sum(
            s.kind is SignalKind.DRIFT for s in feed(watched, drawn, number * level // BLOCK * BLOCK)
        )
    assert 3 <= drifts <= 44


def test_expected_growth_of_evidence_is_one_an_event_under_the_present_shares():
    """The heart of the calibration: each bet's factor has mean one, to the last bet."""
    rng = np.random.default_rng(5)
    sample = [None if rng.random() < 0.1 else float(x) for x in rng.exponential(size=SAMPLE)]
    for values in (sample, categories([5, 3, 2, 1], SAMPLE, 4), [1.0] * SAMPLE):
        watched = plane(1)
        feed(watched, [values * 3])
        watched._refresh()
        shares = watched._shares(watched._known)[0]
        factors = np.exp(watched._table[0])
        own = len(watched._bets[0])
        assert factors[:own] @ shares == pytest.approx(np.ones(own), abs=1e-5)
        assert watched._stake.sum() == pytest.approx(1.0)


def test_bins_are_frozen_where_the_sample_says():
    column = shape([float(k) for k in range(1_000)])
    assert column.edges[0] < 0.0 < column.edges[1]
    assert column.edges[-1] == 999.0
    made = tables(column)
    assert made.tilt.shape == made.mixed.shape == (len(column.bets()), BINS + 1)
    assert OVERSHOOT > 1.0


# --- planes of a fold ------------------------------------------------------------------------------


def rows(xs, answers=((0.4, 0.6),)):
    return [(x, True, 1.0, answers[n % len(answers)], 1) for n, x in enumerate(xs)]


def planes(names=("a", "b"), task=Task.BINARY, classes=("no", "yes"), state=None, **drift):
    return Planes(task, DriftSettings(**drift), names, classes, state)


def newest_of(seen):
    return lambda count: [(x, True, 1.0) for x in seen[-count:]]


def test_without_declared_features_those_of_the_first_events_are_watched():
    watched, seen = planes(names=()), []
    for n in range(40):
        xs = [{"b": 1.0 * n, "a": "text"} if n % 2 else {"a": "text"} for _ in range(BLOCK)]
        seen += xs
        watched.update(rows(xs), BLOCK * (n + 1), newest_of(seen))
    assert watched.features.names == ("a", "b")
    again = planes(names=(), state=watched.state())
    assert again.features.names == ("a", "b")


def test_inferred_features_are_told_apart_by_name_whatever_their_order():
    """The first event lacks one, so the order in which they were seen is not the order of the others."""
    watched, seen = planes(names=(), expect={"features": 10_000}, expect_warning={"features": 1_000}), []
    rng = random.Random(2)
    for n in range(80):
        xs = [{"a": rng.gauss(10, 1), "b": rng.gauss(100, 1), "c": rng.gauss(0, 1)} for _ in range(BLOCK)]
        if n == 0 or n % 9 == 0:
            xs[0] = {"c": 0.0}
        seen += xs
        for signal in watched.update(rows(xs), BLOCK * (n + 1), newest_of(seen)):
            assert {m.what for m in signal.moved} <= {"missing", "below", "above"}, signal
    assert watched.features.names == ("c", "a", "b")


@pytest.mark.parametrize("value", [1.5, "text"])
def test_a_feature_that_nobody_had_and_that_comes_is_said(value):
    columns = [[None] * BEFORE + [value] * 1_024, normal(1, BEFORE + 1_024)[0]]
    drift = next(s for s in feed(plane(2), columns) if s.kind is SignalKind.DRIFT)
    (moved,) = drift.moved
    assert (moved.name, moved.what, moved.before, moved.after) == ("f0", "missing", 1.0, 0.0)
    assert moved.distance == -1.0


def test_events_without_any_feature_are_no_plane():
    watched, seen = planes(names=()), []
    for n in range(40):
        xs = [{}] * BLOCK if n < 20 else [{"a": 1.0 * k} for k in range(BLOCK)]
        seen += xs
        watched.update(rows(xs), BLOCK * (n + 1), newest_of(seen))
    assert watched.features.names == ("a",)


@pytest.mark.parametrize("gap", [{}, {"a": 1.0}, {"b": "text", "a": 1.0}, {"a": 10**6, "b": True, "c": 3.0}])
def test_no_shape_of_features_breaks_it(gap):
    watched, seen = planes(), []
    for n in range(60):
        xs = [{"a": float(n + k), "b": 0.5} for k in range(BLOCK)]
        xs[7] = gap
        seen += xs
        watched.update(rows(xs), BLOCK * (n + 1), newest_of(seen))
    assert math.isfinite(float(watched.features._stakes.sum()))


def answered(shift, events, seed):
    rng = random.Random(seed)
    return [(1.0 - p, p) for p in (min(1.0, max(0.0, rng.gauss(0.5 + shift, 0.15))) for _ in range(events))]


def watch_answers(watched, answers, start=0):
    said = []
    for first in range(0, len(answers), BLOCK):
        block = [({}, True, 1.0, a, int(a[1] > 0.5)) for a in answers[first : first + BLOCK]]
        said += watched.update(block, start + first + BLOCK, lambda count: [({}, True, 1.0)] * count)
    return said


def test_predictions_that_move_are_said_and_a_new_model_begins_anew():
    watched = planes(names=("a",))
    answers = [*answered(0.0, 2 * BEFORE, 1), *answered(0.2, 640, 2)]
    drift = next(s for s in watch_answers(watched, answers) if s.plane == "predictions" and s.kind == "drift")
    assert 2 * BEFORE < drift.events < 2 * BEFORE + 200
    assert {m.name for m in drift.moved} <= {"class", "probability of yes"}
    fresh = planes(names=("a",))
    watch_answers(fresh, answered(0.0, 2 * BEFORE, 1))
    fresh.restart(2 * BEFORE)
    later = watch_answers(fresh, answered(0.2, SETTLING + 4 * SAMPLE, 2), 2 * BEFORE)
    assert [s for s in later if s.plane == "predictions"] == []


def test_planes_can_be_switched_off():
    off = planes(planes=())
    assert off.update(rows([{"a": 1.0, "b": 1.0}] * BLOCK), BLOCK, newest_of([])) == ()
    assert off.features is off.predictions is None
    assert off.distances() == {}


# --- the fold --------------------------------------------------------------------------------------

CHATTY = {
    "expect": {"features": 10_000, "predictions": 10_000},
    "expect_warning": {"features": 10_000, "predictions": 10_000},
}


@functools.cache
def moved_log(n=5_120, at=4_000):
    """Numbers, one of them at times absent, and a category; one number moves while the rule stays."""
    rng, events = random.Random(6), []
    for k in range(n):
        x = {"a": rng.gauss(2.0 if k >= at else 0.0, 1.0), "b": rng.uniform(-1, 1)}
        if rng.random() < 0.9:
            x["c"] = rng.expovariate(1.0)
        x["d"] = rng.choice(["red", "green", "blue"])
        events.append((1e9 + k, x, (x["b"] > 0) != (rng.random() < 0.1)))
    optional = {"type": "number", "required": False}
    return Log("moved", "binary", {"a": "number", "b": "number", "c": optional, "d": "category"}, events)


def test_the_fold_says_what_moved_and_a_resumed_one_is_equal():
    log = moved_log()
    chosen = settings(log, {"preset": "linear"}, "reset", drift=CHATTY)
    learner, resumed, drifts = genesis(chosen), genesis(chosen), []
    for n, event in enumerate(decoded(chosen, log.values)):
        if n in {33, 500, 530, 1_030, 2_100, 3_999, 4_040, 4_100, 4_700}:
            resumed = copied(resumed)
        outcome = learner.step(event)
        assert told(resumed.step(event)) == told(outcome)
        drifts += [s for s in outcome.rare.signals if s.plane == "features"] if outcome.rare else []
    assert_same_fold(learner, resumed)
    for plane in ("features", "predictions"):
        one, other = (getattr(fold.planes, plane) for fold in (learner, resumed))
        for array in ("_stakes", "_lead", "_since", "_counts", "_fading", "_table", "_stake"):
            assert np.array_equal(getattr(one, array), getattr(other, array)), (plane, array)
    drift = next(s for s in drifts if s.kind is SignalKind.DRIFT and s.events > 4_000)
    assert [m.name for m in drift.moved] == ["a"]
    assert learner.counts["drift:features"] >= 1
    assert set(learner.planes.distances()) >= {"b", "c", "d"}
    versions = [v for v in learner.lineage.versions if v.detail.get("signal", {}).get("plane") == "features"]
    assert versions == [], "a feature's drift is said, and is no reason to react"


def answers_moving(before, after, events=2 * BEFORE, seed=5, deviation=0.02):
    """A mean probability that moves half way: what is said of it as answers, and as a feature."""
    values = np.random.default_rng(seed).normal(before, deviation, events)
    values[events // 2 :] += after - before
    column = [np.clip(values, 0.0, 1.0).tolist()]
    return feed(plane(1, name="predictions"), column), feed(plane(1), column)


@pytest.mark.parametrize(("before", "after"), [(0.5, 0.55), (0.3, 0.22), (0.08, 0.05)])
def test_answers_that_moved_by_little_are_no_news_however_sure_it_is(before, after):
    """A model that learns on moves its answers for ever: each time it would be said."""
    answers, feature = answers_moving(before, after)
    assert [s.kind for s in feature][-1] == SignalKind.DRIFT, "of a feature it is"
    assert answers == []


@pytest.mark.parametrize(("before", "after"), [(0.5, 0.62), (0.6, 0.45), (0.08, 0.17), (0.08, 0.03)])
def test_answers_that_moved_by_much_or_by_twice_are(before, after):
    answers, _ = answers_moving(before, after)
    (drift,) = [s for s in answers if s.kind is SignalKind.DRIFT]
    assert drift.after == pytest.approx(after, abs=0.01)
    assert BEFORE < drift.events <= BEFORE + 1_200, "at once, or when it is looked at again"


def test_what_is_no_news_may_become_it_and_a_resume_looks_at_the_same_event():
    values = np.random.default_rng(5).normal(0.5, 0.02, 3 * BEFORE)
    values[BEFORE : BEFORE + 2_000] += 0.05
    values[BEFORE + 2_000 :] += 0.2
    column = [values.tolist()]
    said = feed(plane(1, name="predictions"), column)
    assert SignalKind.DRIFT in [s.kind for s in said]
    assert all(s.events > BEFORE + 2_000 for s in said)
    first = plane(1, name="predictions")
    cut = BEFORE + 640
    feed(first, [column[0][:cut]])
    assert first.state()["quiet_until"] > cut
    second = plane(1, name="predictions", state=first.state())
    assert second.state() == first.state()
    assert plane(1, name="predictions", state=first.state() | {"quiet_until": 0})._quiet_until == 0


def test_a_reset_begins_the_predictions_anew_and_leaves_the_features():
    log = moved_log()
    chosen = settings(log, {"preset": "linear"}, drift=CHATTY)
    learner = fold(chosen, log.values[:2_700]).learner
    features, counted = learner.planes.features.state(), learner.planes.predictions._counting
    assert counted or not learner.planes.predictions._samples, "the answers are watched"
    learner.begin_afresh(0, 2_800)
    assert learner.planes.features.state() == features
    assert len(learner.planes.predictions._samples) == len(learner.planes.predictions.names)


def test_an_older_state_without_planes_is_taken_up():
    log = moved_log()
    chosen = settings(log, {"preset": "linear"}, drift=CHATTY)
    learner = fold(chosen, log.values[:200]).learner
    state = learner.state()
    del state["planes"]
    older = type(learner)(learner.spec, state)
    assert [told(older.step(e)).choice for e in following(chosen, learner, log, 50)]
