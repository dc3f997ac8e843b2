"""Naive Bayes by a shortcut: nothing but the clock can tell it from River's own."""

import math
import random

import numpy as np
import pytest
from river import compose, naive_bayes
from scipy import special

from fluvial.fused.bayes import IN_A_ROW, log_sum
from fluvial.models import unpickle
from fluvial.models.bayes import GaussianNB
from fluvial.models.encoding import OneHot


def outcome(call, *args):
    """What comes back, to the bit, or what is raised."""
    try:
        return repr(call(*args))
    except Exception as error:  # noqa: BLE001 - whatever River raises
        return type(error), str(error)


def knows(model):
    """All that it knows, in its own order, to the bit."""
    gaussians = {
        repr(label): {repr(name): (g._var.mean.n, g._var.mean._mean.hex(), g._var._S.hex(), g._var.ddof)}
        for label, by_name in model.gaussians.items()
        for name, g in by_name.items()
    }
    return list(model.class_counts.items()), [(label, list(one.items())) for label, one in gaussians.items()]


def alike(events):
    """Ask and teach both, and look at everything after each event."""
    river, ours = naive_bayes.GaussianNB(), GaussianNB()
    for x, y in events:
        with np.errstate(all="ignore"):
            assert outcome(ours.predict_proba_one, x) == outcome(river.predict_proba_one, x), x
            assert outcome(ours.predict_one, x) == outcome(river.predict_one, x), x
        assert outcome(ours.learn_one, x, y) == outcome(river.learn_one, x, y), x
        assert ours.class_counts == river.class_counts
    assert knows(ours) == knows(river)
    return ours


def events(seed, *, classes, absent=0.0, count=300):
    chance = random.Random(seed)
    names = [f"feature {k}" for k in range(5)]
    scale = {name: 10.0 ** chance.randint(-6, 6) for name in names}
    for _ in range(count):
        x = {name: scale[name] * chance.gauss(0.0, 1.0) for name in names if chance.random() >= absent}
        score = sum(value / scale[name] for name, value in x.items())
        y = min(classes - 1, max(0, math.floor(score + classes / 2)))
        yield x, bool(y) if classes == 2 else y


@pytest.mark.parametrize("absent", [0.0, 0.3])
@pytest.mark.parametrize("classes", [2, 3, IN_A_ROW, IN_A_ROW + 1, 20, 60])
def test_every_answer_and_all_that_it_knows_is_rivers(classes, absent):
    for seed in range(2):
        alike(events(seed, classes=classes, absent=absent))


FAR = [0.0, -0.0, 1.0, -1.0, 1e-300, 1e300, -1e300, 5e-324, 1e154, 1.7e308, 3, 10**30, True]
ODD = [math.inf, -math.inf, math.nan, "text", None, 10**400]


@pytest.mark.parametrize("values", [FAR, [*FAR, *ODD]], ids=["far", "odd"])
def test_extremes_are_answered_or_refused_as_river_does(values):
    for seed in range(25):
        chance = random.Random(seed)
        alike(
            ({name: chance.choice(values) for name in "ab" if chance.random() < 0.8}, chance.choice("xyz"))
            for _ in range(30)
        )


def test_equal_classes_tie_as_in_scipy():
    twins = [({"a": value}, label) for value in (1.0, 2.0, 3.0) for label in "xyz"]
    ours = alike(twins * 3)
    assert [*ours.predict_proba_one({"a": 2.0}).values()] == pytest.approx([1 / 3] * 3)


def test_the_sum_is_scipys_to_the_bit():
    chance = random.Random(7)
    for _ in range(2_000):
        spread = 10.0 ** chance.randint(-3, 3)
        logs = [chance.gauss(-20.0, spread) for _ in range(chance.choice([1, 2, 3, IN_A_ROW, 8, 9, 40, 300]))]
        logs += logs[:1] * (chance.random() < 0.2)
        assert log_sum(logs) == special.logsumexp(logs), logs
    assert math.isnan(log_sum([math.nan, 1.0]))
    assert math.isnan(log_sum([-math.inf, -math.inf]))


def test_what_numpy_adds_in_a_row_has_that_order():
    """Should numpy ever add seven numbers in another order, this says so first."""
    chance = random.Random(3)
    for _ in range(500):
        numbers = np.array([chance.random() * 10.0 ** chance.randint(-8, 0) for _ in range(IN_A_ROW)])
        one_by_one = 0.0
        for number in numbers:
            one_by_one += number
        assert np.sum(numbers) == one_by_one


@pytest.mark.parametrize(
    "make", [naive_bayes.GaussianNB, lambda: compose.Pipeline(OneHot(), naive_bayes.GaussianNB())]
)
def test_rivers_class_is_loaded_as_ours_and_goes_on(make):
    """In a factory of the user's, in ensembles, and out of a checkpoint that was made before."""
    river = make()
    stream = [*events(5, classes=3)]
    for x, y in stream[:150]:
        river.learn_one(x, y)
    ours = unpickle.loads(unpickle.dumps(river))
    head = ours["GaussianNB"] if isinstance(ours, compose.Pipeline) else ours
    assert type(head) is GaussianNB
    for x, y in stream[150:]:
        assert repr(ours.predict_proba_one(x)) == repr(river.predict_proba_one(x))
        river.learn_one(x, y)
        ours.learn_one(x, y)
    again = unpickle.loads(unpickle.dumps(ours))
    assert repr(again.predict_proba_one(x)) == repr(river.predict_proba_one(x))
