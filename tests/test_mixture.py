"""Members and their mixture: odd answers, fixed share by hand, and no unit in a regression's weights."""

import math
import random

import pytest

from fluvial.mixture import (
    ALPHA,
    CHAMPIONS,
    ETA,
    HARD,
    LOSS_CAP,
    Member,
    Mixture,
    NonFiniteAnswer,
    only_hard_labels,
    reader,
    uniform,
)
from fluvial.types import Task
from support import fold


class Says:
    """A model that always gives one answer."""

    def __init__(self, answer):
        self.answer = answer

    def predict_proba_one(self, x):
        return self.answer

    def predict_one(self, x):
        return self.answer

    def learn_one(self, x, y):
        pass


class SaysHard(Says):
    def predict_proba_one(self, x):
        raise NotImplementedError


def ask(answer, task=Task.BINARY, size=2):
    return reader(Says(answer), task, size)({})


def mixture(task, size, weights):
    members = [
        Member(f"m{i}", Says(None), lambda _: lambda x: None, champion=i == 0) for i in range(len(weights))
    ]
    return Mixture(task, size, members, list(weights))


@pytest.mark.parametrize(
    ("answer", "task", "size", "expected"),
    [
        ({False: 0.25, True: 0.75}, Task.BINARY, 2, (0.25, 0.75)),
        ({True: 1.0}, Task.BINARY, 2, (0.0, 1.0)),
        ({False: 1.0}, Task.BINARY, 2, (1.0, 0.0)),
        ({}, Task.BINARY, 2, None),
        (None, Task.BINARY, 2, None),
        ({2: 0.5, 0: 0.5}, Task.MULTICLASS, 3, (0.5, 0.0, 0.5)),
        ({}, Task.MULTICLASS, 3, None),
        (3, Task.REGRESSION, 1, (3.0,)),
        (None, Task.REGRESSION, 1, None),
    ],
)
def test_corners_of_an_answer(answer, task, size, expected):
    assert ask(answer, task, size) == expected


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("task", "size", "shape"),
    [
        (Task.BINARY, 2, lambda v: {False: 0.5, True: v}),
        (Task.MULTICLASS, 3, lambda v: {0: v, 1: 0.1}),
        (Task.REGRESSION, 1, lambda v: v),
    ],
)
def test_an_answer_that_is_not_finite_is_told(bad, task, size, shape):
    with pytest.raises(NonFiniteAnswer):
        ask(shape(bad), task, size)


def test_a_hard_label_counts_as_99_hundredths():
    model = SaysHard(2)
    assert only_hard_labels(model)
    assert not only_hard_labels(Says({}))
    answer = reader(model, Task.MULTICLASS, 3, hard=True)({})
    assert answer == pytest.approx((0.005, 0.005, HARD))
    assert reader(SaysHard(None), Task.MULTICLASS, 3, hard=True)({}) is None


def test_uniform():
    assert uniform(4) == (0.25,) * 4
    assert uniform(1) == (0.0,)


def test_answers_are_mixed_by_weight_and_those_without_one_left_out():
    mixed = mixture(Task.BINARY, 2, [0.6, 0.3, 0.1])
    assert mixed.combine([(0.0, 1.0), (1.0, 0.0), (1.0, 0.0)]) == pytest.approx((0.4, 0.6))
    assert mixed.combine([(0.0, 1.0), None, (1.0, 0.0)]) == pytest.approx((1 / 7, 6 / 7))
    assert mixed.combine([None, None, None]) is None


def test_a_single_member_is_served_as_it_is():
    alone = mixture(Task.BINARY, 2, [1.0])
    assert alone.combine([(0.1, 0.7)]) == (0.1, 0.7)  # not even normalised: equal to River
    alone.reweigh(True, [(0.1, 0.7)], (0.1, 0.7))
    assert alone.weights == [1.0]


def test_fixed_share_by_hand():
    # Three members give the label 0.8, 0.5 and 0.001, which counts as 0.01.
    mixed = mixture(Task.BINARY, 2, [0.5, 0.25, 0.25])
    answers = [(0.2, 0.8), (0.5, 0.5), (0.999, 0.001)]
    mixed.reweigh(True, answers, mixed.combine(answers))
    losses = [-math.log(0.8), -math.log(0.5), -math.log(0.01)]
    raised = [w * math.exp(-ETA * loss) for w, loss in zip((0.5, 0.25, 0.25), losses, strict=True)]
    prior = [CHAMPIONS + (1 - CHAMPIONS) / 3, (1 - CHAMPIONS) / 3, (1 - CHAMPIONS) / 3]
    expected = [(1 - ALPHA) * r / sum(raised) + ALPHA * p for r, p in zip(raised, prior, strict=True)]
    assert mixed.weights == pytest.approx(expected, rel=1e-12)
    # exp(-0.7 * -log p) is p ** 0.7: 0.8554, 0.6156, 0.0398; times the weights 0.4277, 0.1539, 0.01.
    assert mixed.weights == pytest.approx([0.7235, 0.2596, 0.0169], abs=5e-5)
    assert sum(mixed.weights) == pytest.approx(1.0)
    assert mixed.weights[0] > mixed.weights[1] > mixed.weights[2]


def test_where_nobody_is_better_the_champion_answers():
    """Equal answers bring any weights to the prior; those of a hundred events stay close to it."""
    mixed = mixture(Task.BINARY, 2, [0.1, 0.45, 0.45])
    answers = [(0.3, 0.7)] * 3
    for _ in range(10_000):
        mixed.reweigh(True, answers, (0.3, 0.7))
    assert mixed.weights == pytest.approx([0.9, 0.05, 0.05], rel=1e-6)


def test_an_over_confident_newcomer_that_decides_worse_does_not_get_the_answer():
    """A better log-loss and a worse choice: what a young naive Bayes is beside an old one.

    The champion gives 12 of 20 labels .64 and 8 of them .36; the others are right 11 times with .77 and give
    9 labels .31.
    """
    mixed = mixture(Task.BINARY, 2, [1 / 3] * 3)
    old, young = [(0.36, 0.64)] * 12 + [(0.64, 0.36)] * 8, [(0.23, 0.77)] * 11 + [(0.69, 0.31)] * 9
    old_loss, young_loss = (-sum(math.log(yes) for _, yes in answers) / 20 for answers in (old, young))
    assert young_loss < old_loss < young_loss + 0.01
    held = 0.0
    for number in range(4_000):
        answers = [old[number % 20], young[number * 7 % 20], young[number * 7 % 20]]
        mixed.reweigh(True, answers, mixed.combine(answers))
        held += mixed.weights[0] / 4_000
    assert held > 0.5


def test_champions_without_challengers_share_evenly():
    members = [Member(name, Says(None), lambda x: None, champion=True) for name in ("a", "b", "c", "d")]
    mixed = Mixture(Task.BINARY, 2, members, [0.7, 0.1, 0.1, 0.1])
    for _ in range(10_000):
        mixed.reweigh(True, [(0.3, 0.7)] * 4, (0.3, 0.7))
    assert mixed.weights == pytest.approx([0.25] * 4, rel=1e-6)


def test_several_champions_have_their_part_each():
    members = [Member(name, Says(None), lambda x: None, champion=name < "c") for name in ("a", "b", "c")]
    mixed = Mixture(Task.BINARY, 2, members, [0.2, 0.2, 0.6])
    for _ in range(10_000):
        mixed.reweigh(True, [(0.3, 0.7)] * 3, (0.3, 0.7))
    assert mixed.weights == pytest.approx([0.475, 0.475, 0.05], rel=1e-6)


def test_the_constants_are_those_that_were_measured():
    assert (ETA, ALPHA, CHAMPIONS, LOSS_CAP) == (0.7, 0.0025, 0.85, 4.6)


def test_a_newcomer_takes_over_within_tens_of_events():
    mixed = mixture(Task.BINARY, 2, [1.0 - ALPHA, ALPHA])
    answers = [(0.7, 0.3), (0.1, 0.9)]
    for _ in range(40):
        mixed.reweigh(True, answers, mixed.combine(answers))
    assert mixed.weights[1] > 0.5


def test_a_member_without_an_answer_counts_as_uniform():
    mixed = mixture(Task.MULTICLASS, 4, [0.4, 0.3, 0.3])
    mixed.reweigh(2, [(0.1, 0.1, 0.7, 0.1), None, (0.25,) * 4], (0.25,) * 4)
    assert mixed.weights[1] == mixed.weights[2]


def test_a_floor_keeps_one_mistake_from_being_for_ever():
    mixed = mixture(Task.BINARY, 2, [0.5, 0.5])
    mixed.reweigh(True, [(1.0, 0.0), (0.0, 1.0)], (0.5, 0.5))
    assert mixed.weights[0] > 0.038  # .01 ** .7 = .04 against 1


def test_regression_by_hand():
    mixed = mixture(Task.REGRESSION, 1, [0.5, 0.5])
    answers = [(1.0,), (3.0,)]
    mixed.reweigh(2.5, answers, mixed.combine(answers))
    scale = 0.25  # the mixture said 2.0
    losses = [min(4.6, 2.25 / (2 * scale)), 0.25 / (2 * scale)]
    raised = [0.5 * math.exp(-ETA * loss) for loss in losses]
    prior = (0.925, 0.075)
    expected = [(1 - ALPHA) * r / sum(raised) + ALPHA * p for r, p in zip(raised, prior, strict=True)]
    assert mixed.weights == pytest.approx(expected, rel=1e-12)
    mixed.reweigh(2.5, answers, (1.5,))
    assert mixed.scale == pytest.approx(0.25 + 0.002 * (1.0 - 0.25))


def test_a_perfect_mixture_moves_nothing():
    mixed = mixture(Task.REGRESSION, 1, [0.7, 0.3])
    mixed.reweigh(2.0, [(2.0,), (2.0,)], (2.0,))
    kept = 1 - ALPHA
    assert mixed.weights == pytest.approx([kept * 0.7 + ALPHA * 0.925, kept * 0.3 + ALPHA * 0.075])


def test_demote_gives_the_least_weight():
    mixed = mixture(Task.BINARY, 2, [0.2, 0.5, 0.3])
    mixed.demote(1)
    assert sum(mixed.weights) == pytest.approx(1.0)
    least = ALPHA * (1 - CHAMPIONS) / 3
    assert mixed.weights[1] == pytest.approx(least / (0.5 + least))
    mixed.demote(2)  # and it is what fixed share leaves one who is always wrong
    for _ in range(200):
        mixed.reweigh(True, [(0.0, 1.0), (1.0, 0.0), (1.0, 0.0)], (0.0, 1.0))
    assert mixed.weights[1:] == pytest.approx([least * 1.04] * 2, rel=0.01)


def test_wild_features_do_not_throw_a_regression_off_its_track():
    """A few events have two features at ten deviations, as prices have; the answer is found again."""
    rng, events = random.Random(4), []
    for k in range(4_500):
        x = {name: rng.gauss(0, 1) for name in "abcdefg"}
        y = x["a"] - x["b"] + rng.gauss(0, 0.1)
        if k % 150 == 0:
            x["f"] = x["g"] = 1e6 * rng.choice([-1, 1])
        events.append((1e9 + k, x, y))
    log = fold.Log("wild", "regression", dict.fromkeys("abcdefg", "number"), events)
    done = fold.fold(fold.settings(log, {"preset": "linear"}), log.values)
    answers = [(outcome.answer[0], y) for outcome, (_, _, y) in zip(done.outcomes, events, strict=True)]
    assert max(abs(answer) for answer, _ in answers) < 100.0
    usual = [abs(a - y) for k, (a, y) in enumerate(answers) if k > 1_000 and k % 150 > 50]
    assert sum(usual) / len(usual) < 0.8


@pytest.mark.parametrize("scale", [2.0**10, 2.0**-10])  # powers of two: not one bit of rounding between
def test_regression_does_not_depend_on_the_targets_unit(scale):
    """Weights, signals and versions are the same when the target is a thousand times as large."""
    runs = []
    for unit in (1.0, scale):
        log = fold.numbers(n=4_500, scale=unit)
        settings = fold.settings(log, "mean", {"name": "reweight", "restart_every": 400})
        runs.append((unit, fold.fold(settings, log.values)))
    (_, one), (_, other) = runs
    assert one.learner.mixture.weights == other.learner.mixture.weights
    assert [v.cause for v in one.learner.lineage.versions] == [
        v.cause for v in other.learner.lineage.versions
    ]
    assert one.learner.counts == other.learner.counts
    assert [o.answer[0] * scale for o in one.outcomes] == [o.answer[0] for o in other.outcomes]


def test_a_unit_of_a_thousand_makes_the_same_choices():
    """x1000 rounds differently, so weights agree to rounding and choices exactly."""
    runs = []
    for unit in (1.0, 1_000.0):
        log = fold.numbers(n=4_500, scale=unit)
        settings = fold.settings(log, "mean", {"name": "reweight", "restart_every": 400})
        runs.append(fold.fold(settings, log.values).learner)
    assert runs[0].mixture.weights == pytest.approx(runs[1].mixture.weights, rel=1e-6)
    assert runs[0].counts == runs[1].counts
    told = [[(v.cause, v.events) for v in run.lineage.versions] for run in runs]
    assert told[0] == told[1]
