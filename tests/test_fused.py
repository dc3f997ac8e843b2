"""Fused pipelines: nothing but the clock can tell them from River's own."""

import math
import pickle
import random

import pytest
from river import linear_model, optim, preprocessing

from fluvial.fused import linear as fused
from fluvial.mixture import Member, NonFiniteAnswer, reader
from fluvial.models.encoding import Standardise
from fluvial.types import Task

SCALERS = {"standard": preprocessing.StandardScaler, "ours": Standardise}
NAMES = [f"feature {k}" for k in range(9)]


def pipeline(scaler="standard", **head):
    return SCALERS[scaler]() | linear_model.LogisticRegression(**head)


def member(model):
    return Member("m", model, reader(model, Task.BINARY, 2), champion=True)


def is_generated(one):
    return one.ask.__code__.co_filename == "<fused>"


def numbers(model):
    """Everything that such a pipeline knows, in River's own order."""
    scaler, head = model.steps.values()
    tables = (
        [scaler.counts, scaler.means, scaler.vars]
        if hasattr(scaler, "vars")
        else [scaler.count, scaler.mean, scaler.m2]
    )
    return [
        *(list(table.items()) for table in tables),
        head.weights,
        head.intercept,
        head.optimizer.n_iterations,
    ]


def streams(seed, *, absent=0.0, extreme=False):
    chance = random.Random(seed)
    names = NAMES[: chance.randint(1, len(NAMES))]
    scale = {name: 10.0 ** chance.randint(-6, 6) for name in names}
    for number in range(400):
        x = {name: scale[name] * chance.gauss(1.0, 1.0) for name in names if chance.random() >= absent}
        if names[0] in x:
            x[names[0]] = 3.0  # never varies
        if extreme and number % 40 == 39:
            x[chance.choice(names)] = chance.choice([0.0, -0.0, 1e150, -1e150, 5e-324, 1e-308])
        if absent and number == 300:
            x["late"] = 1.0
        yield (
            x,
            chance.random() < 0.5 + 0.4 * math.tanh(sum(x.values())),
            chance.choice([0.25, 1.0, 7.5, 1e6]),
        )


def both(model, events, *, weighted=False):
    """Feed River alone and the fused member; the answers of each."""
    river, one = pickle.loads(pickle.dumps(model)), member(model)
    ways = set()
    for x, y, weight in events:
        expected = river.predict_proba_one(x)
        assert one.ask(x) == (expected[False], expected[True])
        ways.add(is_generated(one))
        with_weight = {"w": weight} if weighted else {}
        river.learn_one(x, y, **with_weight)
        one.teach(x, y, **with_weight)
    return river, one, ways


@pytest.mark.parametrize("scaler", SCALERS)
@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
def test_equal_to_river_to_the_bit(scaler, seed, weighted):
    model = pipeline(scaler, optimizer=optim.SGD(0.3), intercept_lr=0.07)
    river, one, ways = both(model, streams(seed), weighted=weighted)
    assert True in ways
    assert numbers(one.model) == numbers(river)


@pytest.mark.parametrize("scaler", SCALERS)
@pytest.mark.parametrize("absent", [0.002, 0.05, 0.6])
def test_equal_when_features_come_and_go(scaler, absent):
    for seed in range(4):
        river, one, ways = both(pipeline(scaler), streams(seed, absent=absent))
        assert False in ways
        assert numbers(one.model) == numbers(river)


@pytest.mark.parametrize("scaler", SCALERS)
def test_equal_far_from_ordinary_numbers(scaler):
    for seed in range(8):
        river, one, _ = both(
            pipeline(scaler, optimizer=optim.SGD(1e3)), streams(seed, extreme=True), weighted=True
        )
        assert repr(numbers(one.model)) == repr(numbers(river))


@pytest.mark.parametrize("y", [False, True])
def test_equal_at_every_branch_of_the_loss(y):
    for quarters in range(-140, 141):
        model = pipeline(intercept_init=quarters / 4)
        river, one, ways = both(model, [({"a": float(k)}, y, 1.0) for k in range(4)])
        assert ways == {False, True}
        assert numbers(one.model) == numbers(river)


def test_categories_go_rivers_way():
    river, one, ways = both(
        pipeline("ours"), (({**x, "colour": "rgb"[k % 3]}, y, w) for k, (x, y, w) in enumerate(streams(1)))
    )
    assert ways == {False}
    assert numbers(one.model) == numbers(river)


def test_order_of_features_is_part_of_the_sum():
    events = list(streams(5))
    turned = [(dict(reversed(x.items())) if k % 50 == 49 else x, y, w) for k, (x, y, w) in enumerate(events)]
    river, one, ways = both(pipeline(), turned)
    assert ways == {True, False}
    assert numbers(one.model) == numbers(river)


def test_looking_does_not_disturb():
    model = pipeline()
    one, undisturbed = member(model), member(pipeline())
    for k, (x, y, _) in enumerate(streams(3)):
        if k % 7 == 0:
            copy = member(pickle.loads(pickle.dumps(one.model)))
            assert copy.ask(x) == one.ask(x)
        assert one.ask(x) == undisturbed.ask(x)
        one.teach(x, y)
        undisturbed.teach(x, y)
    assert numbers(one.model) == numbers(undisturbed.model)


def test_resumed_from_a_pickle_at_any_event():
    events, answers = list(streams(8, absent=0.02)), []
    for restart in (False, True):
        one = member(pipeline())
        answers.append([])
        for k, (x, y, _) in enumerate(events):
            if restart and k % 13 == 5:
                one = member(pickle.loads(pickle.dumps(one.model)))
            answers[-1].append(one.ask(x))
            one.teach(x, y)
    assert answers[0] == answers[1]


def test_an_answer_that_is_not_finite_is_told():
    one, chance, told = member(pipeline(optimizer=optim.SGD(1e308))), random.Random(1), 0
    for _ in range(50):
        x = {name: chance.gauss(0.0, 1.0) for name in NAMES}
        try:
            one.ask(x)
        except NonFiniteAnswer:
            told += is_generated(one)
        one.teach(x, chance.random() < 0.5, w=1e6)
    assert told > 0


@pytest.mark.parametrize(
    "model",
    [
        preprocessing.StandardScaler(with_std=False) | linear_model.LogisticRegression(),
        preprocessing.StandardScaler(window_size=10) | linear_model.LogisticRegression(),
        pipeline(l2=0.1),
        pipeline(l1=0.1),
        pipeline(clip_gradient=1.0),
        pipeline(loss=optim.losses.Log(weight_pos=2.0)),
        pipeline(loss=optim.losses.Hinge()),
        pipeline(optimizer=optim.Adam()),
        pipeline(optimizer=optim.SGD(optim.schedulers.InverseScaling(0.1))),
        pipeline(intercept_lr=optim.schedulers.InverseScaling(0.1)),
        pipeline(initializer=optim.initializers.Normal(seed=1)),
        preprocessing.Normalizer() | linear_model.LogisticRegression(),
        preprocessing.StandardScaler() | preprocessing.StandardScaler() | linear_model.LogisticRegression(),
        linear_model.LogisticRegression(),
    ],
    ids=lambda model: str(model)[:40],
)
def test_what_it_does_not_know_stays_rivers(model):
    one = member(model)
    for x, y, _ in streams(4):
        one.ask(x)
        one.teach(x, y)
    assert not is_generated(one)


def test_a_subclass_stays_rivers():
    class Own(preprocessing.StandardScaler):
        pass

    assert fused.fuse(member(pipeline()), Own() | linear_model.LogisticRegression(), NonFiniteAnswer) is None


def test_too_many_features_stay_rivers():
    one = member(pipeline())
    for k in range(30):
        one.teach({f"f{i}": float(i * k) for i in range(fused.MAX_FEATURES + 1)}, y=k % 2 == 0)
    assert not is_generated(one)
