"""Prequential metrics against straightforward computations, River's, and the exact area under the curve."""

import itertools
import math
import random

import numpy as np
import pytest
from river import metrics as river_metrics

from fluvial.config import EvaluationSettings
from fluvial.evaluation import BLOCK, Prequential
from fluvial.types import Task

SETTINGS = EvaluationSettings(window=1_000, half_life=500.0)


def evaluated(rows, task=Task.BINARY, size=2, settings=SETTINGS, cuts=()):
    """(label, answer) rows through blocks as the learner hands them over: never across a block's end."""
    evaluation = Prequential(task, size, settings)
    rest = list(rows)
    for cut in cuts or [32] * (len(rest) // 32 + 1):
        evaluation.extend(rest[:cut])
        del rest[:cut]
    evaluation.extend(rest)
    return evaluation


def binary_rows(n, seed=1, sharp=2.0, share=0.4, stick=0.0):
    rng, rows, last = random.Random(seed), [], False
    for _ in range(n):
        y = last if rng.random() < stick else rng.random() < share
        p = 1 / (1 + math.exp(-rng.gauss(sharp if y else -sharp, 2.0)))
        rows.append((y, (1 - p, p)))
        last = y
    return rows


def class_rows(n, size=4, seed=2):
    rng, rows = random.Random(seed), []
    for _ in range(n):
        y = rng.choices(range(size), weights=range(1, size + 1))[0]
        raw = [rng.random() + (1.0 if k == y else 0.0) for k in range(size)]
        rows.append((y, tuple(v / sum(raw) for v in raw)))
    return rows


def number_rows(n, seed=3, unit=1.0):
    rng, rows, y = random.Random(seed), [], 0.0
    for _ in range(n):
        y += rng.gauss(0, 1)
        rows.append((unit * y, (unit * (y + rng.gauss(0, 0.5)),)))
    return rows


def choice(answer):
    return max(range(len(answer)), key=lambda k: (answer[k], -k))


def plain_classes(rows, before=None):
    """Every metric by its definition, one loop each."""
    n = len(rows)
    hits = sum(choice(a) == y for y, a in rows) / n
    labels, choices = [int(y) for y, _ in rows], [choice(a) for _, a in rows]
    chance = sum(labels.count(k) * choices.count(k) for k in set(labels)) / n**2
    last = [before, *[y for y, _ in rows]]
    stay = sum(last[i] is not None and last[i] == y for i, (y, _) in enumerate(rows)) / n
    return {
        "accuracy": hits,
        "log_loss": -sum(math.log(max(a[int(y)], 1e-15)) for y, a in rows) / n,
        "kappa": (hits - chance) / (1 - chance) if chance < 1 else 0.0,
        "kappa_temporal": (hits - stay) / (1 - stay),
        "no_change_accuracy": stay,
        "majority_accuracy": max(labels.count(k) for k in set(labels)) / n,
    }


def exact_auc(rows, k=1):
    """By ranks, ties counted half."""
    scores = np.array([a[k] for _, a in rows])
    positive = np.array([int(y) == k for y, _ in rows])
    order = np.argsort(scores, kind="stable")
    ranks = np.empty(len(scores))
    values = scores[order]
    starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])
    ends = np.r_[starts[1:], len(values)]
    for start, end in zip(starts, ends, strict=True):
        ranks[order[start:end]] = (start + end + 1) / 2
    p, n = positive.sum(), (~positive).sum()
    return (ranks[positive].sum() - p * (p + 1) / 2) / (p * n)


@pytest.mark.parametrize("n", [1, 31, 32, 255, 256, 257, 999, 1_000, 1_001, 3_000])
def test_classes_against_definitions(n):
    rows = class_rows(n)
    found = evaluated(rows, Task.MULTICLASS, 4).metrics()
    for name, value in plain_classes(rows).items():
        assert found["total"][name] == pytest.approx(value, rel=1e-12, abs=1e-12), name
    before = rows[-1_001][0] if n > 1_000 else None
    for name, value in plain_classes(rows[-1_000:], before).items():
        assert found["window"][name] == pytest.approx(value, rel=1e-12, abs=1e-12), name


def test_against_rivers_metrics():
    rows = binary_rows(3_000, stick=0.5)
    found = evaluated(rows).metrics()["total"]
    accuracy, kappa, log_loss = river_metrics.Accuracy(), river_metrics.CohenKappa(), river_metrics.LogLoss()
    for y, answer in rows:
        accuracy.update(y, bool(choice(answer)))
        kappa.update(y, bool(choice(answer)))
        log_loss.update(y, {False: answer[0], True: answer[1]})
    assert found["accuracy"] == pytest.approx(accuracy.get())
    assert found["kappa"] == pytest.approx(kappa.get())
    assert found["log_loss"] == pytest.approx(log_loss.get(), rel=1e-9)


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e6])
def test_numbers_against_definitions_and_river(unit):
    rows = number_rows(2_500, unit=unit)
    found = evaluated(rows, Task.REGRESSION, 1).metrics()
    mae, rmse, r2 = river_metrics.MAE(), river_metrics.RMSE(), river_metrics.R2()
    for y, (value,) in rows:
        for metric in (mae, rmse, r2):
            metric.update(y, value)
    assert found["total"]["mae"] == pytest.approx(mae.get())
    assert found["total"]["rmse"] == pytest.approx(rmse.get())
    assert found["total"]["r2"] == pytest.approx(r2.get(), abs=1e-9)
    labels = [y for y, _ in rows]
    moves = [abs(b - a) for a, b in itertools.pairwise(labels)]
    assert found["total"]["last_value_mae"] == pytest.approx(sum(moves) / len(rows))
    last = rows[-1_000:]
    mean = sum(y for y, _ in last) / 1_000
    squared = sum((y - v) ** 2 for y, (v,) in last)
    assert found["window"]["r2"] == pytest.approx(1 - squared / sum((y - mean) ** 2 for y, _ in last))


@pytest.mark.parametrize("offset", [1e6, 1e9, 1e10])
def test_r2_far_from_zero(offset):
    """A target whose mean is far larger than its spread, as a price or a timestamp."""
    rows = [(y + offset, (v + offset,)) for y, (v,) in number_rows(3_000)]
    found = evaluated(rows, Task.REGRESSION, 1).metrics()["total"]
    y = np.array([r[0] for r in rows])
    v = np.array([r[1][0] for r in rows])
    assert found["r2"] == pytest.approx(1 - ((y - v) ** 2).sum() / ((y - y.mean()) ** 2).sum(), abs=1e-3)


def test_a_constant_target_has_no_r2_to_speak_of():
    found = evaluated([(5.0, (4.0,))] * 100, Task.REGRESSION, 1).metrics()["total"]
    assert found["mae"] == 1.0
    assert found["r2"] <= 0.0


DISTRIBUTIONS = {
    "even": binary_rows(4_000, sharp=1.0),
    "sharp": binary_rows(4_000, sharp=5.0),
    "useless": binary_rows(4_000, sharp=0.0),
    "worse than chance": binary_rows(4_000, sharp=-1.0),
    "rare class": binary_rows(20_000, share=0.01, sharp=1.0),
    "in a thousandth": [(y, (1 - p / 1000, p / 1000)) for y, (_, p) in binary_rows(4_000)],
    "close to one": [(y, (1e-5 * q, 1 - 1e-5 * q)) for y, (q, _) in binary_rows(4_000)],
    "hard labels": [(y, (0.01, 0.99) if p > 0.5 else (0.99, 0.01)) for y, (_, p) in binary_rows(4_000)],
    "zero and one": [(y, (0.0, 1.0) if p > 0.5 else (1.0, 0.0)) for y, (_, p) in binary_rows(4_000)],
    "few values": [(y, (1 - round(p, 1), round(p, 1))) for y, (_, p) in binary_rows(4_000)],
    "all alike": [(y, (0.5, 0.5)) for y, _ in binary_rows(4_000)],
    "around a half": [(y, (0.505 - p / 100, 0.495 + p / 100)) for y, (_, p) in binary_rows(4_000)],
    "around a millionth": [(y, (1 - p / 1e6, p / 1e6)) for y, (_, p) in binary_rows(4_000)],
    "a long stream": binary_rows(60_000, sharp=1.0),
    "one mass and a tail": [(y, (0.8, 0.2) if i % 3 else a) for i, (y, a) in enumerate(binary_rows(4_000))],
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_roc_auc_within_a_thousandth(name):
    rows = DISTRIBUTIONS[name]
    found = evaluated(rows).metrics()["total"]["roc_auc"]
    assert found == pytest.approx(exact_auc(rows), abs=0.001)


def test_roc_auc_of_several_classes_is_the_mean_of_one_against_the_rest():
    rows = class_rows(4_000)
    found = evaluated(rows, Task.MULTICLASS, 4).metrics()["total"]["roc_auc"]
    assert found == pytest.approx(sum(exact_auc(rows, k) for k in range(4)) / 4, abs=0.001)


def test_no_roc_auc_of_one_class_alone_or_of_very_many():
    assert "roc_auc" not in evaluated([(True, (0.2, 0.8))] * 50).metrics()["total"]
    rows = class_rows(500, size=30)
    assert "roc_auc" not in evaluated(rows, Task.MULTICLASS, 30).metrics()["total"]


def test_nothing_yet():
    assert Prequential(Task.BINARY, 2, SETTINGS).metrics() == {"total": {}, "window": {}, "fading": {}}
    assert Prequential(Task.REGRESSION, 1, SETTINGS).metrics()["total"] == {}


def test_perfect_and_always_the_same_label():
    found = evaluated([(True, (0.0, 1.0))] * 500).metrics()["total"]
    assert found["accuracy"] == 1.0
    assert found["log_loss"] == pytest.approx(0.0)
    assert all(math.isfinite(value) for value in found.values())


def test_a_sure_and_wrong_answer_costs_a_finite_log_loss():
    found = evaluated([(True, (1.0, 0.0))] * 10).metrics()["total"]
    assert found["log_loss"] == pytest.approx(-math.log(1e-15))


def test_fading_forgets_by_half_life():
    good, bad = [(True, (0.1, 0.9))] * 2_000, [(True, (0.9, 0.1))] * 500
    found = evaluated(good + bad).metrics()
    assert found["fading"]["accuracy"] == pytest.approx(0.5, abs=0.04)  # 500 events, the half-life
    assert found["window"]["accuracy"] == pytest.approx(0.5)
    assert found["total"]["accuracy"] == pytest.approx(0.8)


def test_fading_against_its_definition():
    rows = binary_rows(900)
    found = evaluated(rows).metrics()["fading"]
    fade = 0.5 ** (1 / 500)
    weights = [fade ** (len(rows) - 1 - i) for i in range(len(rows))]
    hits = sum(w for w, (y, a) in zip(weights, rows, strict=True) if choice(a) == y)
    assert found["accuracy"] == pytest.approx(hits / sum(weights), rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_batches_make_no_difference(seed):
    """However rows come within a block, and wherever a checkpoint is cut: the same to the bit."""
    rows = binary_rows(2_000, seed=seed)
    rng = random.Random(seed)
    whole = evaluated(rows, cuts=[BLOCK] * 7).metrics()
    cuts = []
    for _ in range(7):
        places = sorted(rng.sample(range(1, BLOCK), 5))
        cuts += [b - a for a, b in zip([0, *places], [*places, BLOCK], strict=True)]
    assert evaluated(rows, cuts=cuts).metrics() == whole
    assert evaluated(rows, cuts=[1] * 1_999).metrics() == whole
    for cut in (0, 1, 255, 256, 700, 1_999):
        first = evaluated(rows[:cut], cuts=[1] * cut)
        second = Prequential(Task.BINARY, 2, SETTINGS, first.state())
        for row in rows[cut:]:
            second.extend([row])
        assert second.metrics() == whole


def test_reading_changes_nothing():
    rows = binary_rows(1_500)
    read, unread = Prequential(Task.BINARY, 2, SETTINGS), Prequential(Task.BINARY, 2, SETTINGS)
    for row in rows:
        read.extend([row])
        unread.extend([row])
        if len(rows) % 7 == 0:
            read.metrics()
    assert read.metrics(rows[:3]) == unread.metrics(rows[:3])
    assert read.metrics() == unread.metrics()
    assert read.state() == unread.state()


def test_what_is_newer_counts():
    rows = binary_rows(1_000)
    assert evaluated(rows[:960]).metrics(rows[960:]) == evaluated(rows).metrics()


def test_state_is_primitives():
    def check(value):
        if isinstance(value, dict):
            return all(check(v) for v in value.values())
        if isinstance(value, list | tuple):
            return all(check(v) for v in value)
        return value is None or type(value) in {bool, int, float, str, bytes}

    assert check(evaluated(binary_rows(700)).state())
    assert check(evaluated(number_rows(700), Task.REGRESSION, 1).state())
