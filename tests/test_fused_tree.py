"""Trees by shortcuts: nothing but the clock can tell them from River's own."""

import math
import pickle
import random
from functools import partial

import pytest
from river import tree

from fluvial.fused import front
from fluvial.fused.tree import TreeFront
from fluvial.mixture import Member, NonFiniteAnswer, reader
from fluvial.models import trees, unpickle
from fluvial.models.encoding import BoundedTreeClassifier
from fluvial.types import Task

NAMES = [f"feature {k}" for k in range(6)]
PLAIN = {"grace_period": 25, "delta": 0.01, "memory_estimate_period": 2**62}


def classifier(**options):
    return tree.HoeffdingTreeClassifier(**{**PLAIN, **options})


def events(seed, *, classes=2, absent=0.0, text=0.0, count=800):
    """Labels depend on the features, so that trees grow; the concept changes half way."""
    chance = random.Random(seed)
    scale = {name: 10.0 ** chance.randint(-3, 3) for name in NAMES}
    for number in range(count):
        x = {name: scale[name] * chance.gauss(0.0, 1.0) for name in NAMES if chance.random() >= absent}
        if text:
            x["colour"] = chance.choice(["red", "green", "blue", f"rare {chance.randint(0, 9)}"])
        turn = 1 if number < count / 2 else -1
        score = turn * x.get(NAMES[0], 0.0) / scale[NAMES[0]] + x.get(NAMES[1], 0.0) / scale[NAMES[1]]
        score += (x.get("colour") == "red") * text
        y = min(classes - 1, max(0, math.floor(score + classes / 2)))
        yield x, bool(y) if classes == 2 else y, chance.choice([0.25, 1.0, 1.0, 3.0])


def everything(one):
    """All that a River object knows, in its own order, the numbers to the bit."""
    if isinstance(one, dict):
        return [type(one).__name__, [(repr(k), everything(v)) for k, v in one.items()]]
    if isinstance(one, (list, tuple)):
        return [everything(v) for v in one]
    if isinstance(one, (set, frozenset)):
        return sorted(map(repr, one))
    if type(one).__module__.startswith(("river.", "fluvial.")):
        known = vars(one) if hasattr(one, "__dict__") else {n: getattr(one, n) for n in type(one).__slots__}
        return [type(one).__qualname__, everything(known)]
    return type(one).__name__ if isinstance(one, random.Random) else repr(one)


def wholly(model):
    return everything(vars(model))


def both(model, stream, *, weighted=False):
    """Feed River alone and its front; every answer and, at the end, everything they know must be equal."""
    river, behind = pickle.loads(pickle.dumps(model)), pickle.loads(pickle.dumps(model))
    quick = front(behind)
    assert isinstance(quick, TreeFront)
    for x, y, weight in stream:
        expected, answer = river.predict_proba_one(x), quick.predict_proba_one(x)
        assert {k: answer.get(k, 0.0) for k in expected} == expected
        assert set(answer) <= set(expected)
        with_weight = {"w": weight} if weighted else {}
        river.learn_one(x, y, **with_weight)
        quick.learn_one(x, y, **with_weight)
    assert wholly(river) == wholly(behind)
    return river


KINDS = {
    "plain": {},
    "gini": {"split_criterion": "gini"},
    "shallow": {"max_depth": 2},
    "majority": {"leaf_prediction": "mc"},
    "bayes": {"leaf_prediction": "nb"},
    "binary": {"binary_split": True},
    "poor": {"remove_poor_attrs": True},
    "pruned": {"merit_preprune": False, "tau": 0.5},
    "few cuts": {"splitter": tree.splitter.GaussianSplitter(n_splits=3)},
    "histogram": {"splitter": tree.splitter.HistogramSplitter()},
    "exhaustive": {"splitter": tree.splitter.ExhaustiveSplitter()},
    "nominal": {"nominal_attributes": [NAMES[2]]},
    "measured": {"memory_estimate_period": 300, "max_size": 0.05},
    "stopped": {"memory_estimate_period": 300, "max_size": 0.05, "stop_mem_management": True},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
def test_equal_to_river_to_the_bit(kind, weighted):
    count = 250 if kind in {"exhaustive", "nominal"} else 800  # they keep every value
    for seed in range(2):
        both(classifier(**KINDS[kind]), events(seed, count=count), weighted=weighted)


def test_the_trees_of_these_tests_grow():
    assert both(classifier(), events(0)).n_leaves > 4


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("seed", range(2))
def test_equal_with_several_classes_and_categories(classes, seed):
    both(classifier(), events(seed, classes=classes))
    both(classifier(), events(seed, classes=classes, text=1.0))
    both(classifier(binary_split=True), events(seed, classes=classes, text=1.0))


def test_equal_where_a_value_is_the_threshold():
    def whole():
        chance = random.Random(8)
        for _ in range(800):
            x = {name: float(chance.randint(0, 11)) for name in NAMES}
            yield x, x[NAMES[0]] + chance.random() > 5.5, 1.0

    river = both(classifier(grace_period=100), whole())
    assert any(node.threshold.is_integer() for node in river._root.iter_branches())


@pytest.mark.parametrize("absent", [0.01, 0.3])
def test_equal_when_features_come_and_go(absent):
    for seed in range(2):
        both(classifier(), events(seed, absent=absent, text=1.0))


@pytest.mark.parametrize("own", [BoundedTreeClassifier, trees.HoeffdingTreeClassifier])
def test_equal_for_our_own_trees(own):
    river = both(own(**PLAIN), events(1, text=0.5))
    assert river.n_leaves > 4


def test_a_members_tree_goes_by_shortcuts():
    model = unpickle.loads(unpickle.dumps(classifier()))
    assert isinstance(front(model), TreeFront)


def test_equal_far_from_ordinary_numbers():
    chance = random.Random(3)

    def extreme():
        for x, y, w in events(3):
            if chance.random() < 0.1:
                x[chance.choice(NAMES)] = chance.choice([0.0, -0.0, 1e100, -1e100, 5e-324, 1e-308])
            if chance.random() < 0.5:
                x[NAMES[3]] = 7.0  # hardly varies
            yield x, y, w

    both(classifier(), extreme())


def test_what_river_raises_is_raised_at_the_same_event():
    river, behind = classifier(), classifier()
    quick = front(behind)

    def raised(one, x, y, w):
        one.predict_proba_one(x)
        try:
            one.learn_one(x, y, w=w)
        except ZeroDivisionError as error:
            return str(error)
        return None

    last = None
    for k, (x, y, _) in enumerate(events(2)):
        last = raised(river, x, y, 0.0 if k > 0 else 1.0)
        assert raised(quick, x, y, 0.0 if k > 0 else 1.0) == last
        if last:
            break
    assert last


def test_questions_and_lessons_in_any_order():
    chance, river, behind = random.Random(4), classifier(), classifier()
    quick, past = front(behind), []
    for x, y, _ in events(4):
        past.append((x, y))
        for _ in range(chance.randint(0, 3)):
            asked, _ = chance.choice(past[-3:])
            expected, answer = river.predict_proba_one(asked), quick.predict_proba_one(asked)
            assert {k: answer.get(k, 0.0) for k in expected} == expected
        for _ in range(chance.randint(0, 2)):
            taught = chance.choice(past[-3:])
            river.learn_one(*taught)
            quick.learn_one(*taught)
    assert wholly(river) == wholly(behind)


def test_a_question_from_before_a_change_behind_its_back_is_forgotten():
    river, behind = classifier(), classifier()
    one = Member("m", behind, partial(reader, task=Task.BINARY, size=2), champion=True)
    for k, (x, y, _) in enumerate(events(5)):
        one.ask(x)
        river.learn_one(x, y)
        if k % 5 == 0:
            one.model.learn_one(x, y)
            river.learn_one(x, y)
        one.teach(x, y)
    assert wholly(river) == wholly(one.model)


def test_resumed_from_a_pickle_at_any_event():
    answers = []
    for restart in (False, True):
        model = classifier()
        quick = front(model)
        answers.append([])
        for k, (x, y, _) in enumerate(events(6, text=1.0)):
            answers[-1].append(quick.predict_proba_one(x))
            if restart and k % 13 == 5:
                model = pickle.loads(pickle.dumps(model))
                quick = front(model)
            quick.learn_one(x, y)
    assert answers[0] == answers[1]


@pytest.mark.parametrize("size", [2, 4])
def test_members_answer_as_before(size):
    task = Task.BINARY if size == 2 else Task.MULTICLASS
    read = partial(reader, task=task, size=size)
    river, model = classifier(), classifier()
    ask, one = read(river), Member("m", model, read, champion=True)
    assert one.ask({"a": 1.0}) is None
    for x, y, _ in events(7, classes=size):
        assert one.ask(x) == ask(x)
        river.learn_one(x, y)
        one.teach(x, y)


def test_an_answer_that_is_not_finite_is_told():
    read = partial(reader, task=Task.BINARY, size=2)
    model = classifier(grace_period=10**9)
    one = Member("m", model, read, champion=True)
    for k in range(50):
        one.teach({"a": float(k % 7)}, k % 2 == 0)
    model._root.stats[True] = math.inf
    with pytest.raises(NonFiniteAnswer):
        one.ask({"a": 1.0})


def test_what_it_does_not_know_stays_rivers():
    class Own(tree.HoeffdingTreeClassifier):
        pass

    for model in (Own(), tree.HoeffdingAdaptiveTreeClassifier(seed=1), tree.HoeffdingTreeRegressor()):
        assert front(model) is model
