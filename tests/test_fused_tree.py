"""Trees by shortcuts: nothing but the clock can tell them from River's own."""

import copy
import math
import pickle
import random
from functools import partial

import pytest
from river import forest, tree

from fluvial.fused import OneWalk
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
        own = {"new_nominal_splitter"}  # of our leaves, not of River's
        return [type(one).__name__, [(repr(k), everything(v)) for k, v in one.items() if k not in own]]
    if isinstance(one, (list, tuple)):
        return [everything(v) for v in one]
    if isinstance(one, (set, frozenset)):
        return sorted(map(repr, one))
    if type(one).__module__.startswith(("river.", "fluvial.")):
        slots = getattr(type(one), "__slots__", None)
        if hasattr(one, "__dict__"):
            return [type(one).__qualname__, everything(vars(one))]
        return (
            [pickle.dumps(one)] if slots is None else everything({name: getattr(one, name) for name in slots})
        )
    return type(one).__name__ if isinstance(one, random.Random) else repr(one)


def wholly(model):
    return everything(vars(model))


def ours(model):
    """What a fold makes of it: River's trees are loaded as ours."""
    return unpickle.loads(unpickle.dumps(model))


def both(model, stream, *, weighted=False):
    """Feed River alone and ours; every answer and, at the end, everything they know must be equal."""
    river, quick = copy.deepcopy(model), ours(model)
    for x, y, weight in stream:
        expected, answer = river.predict_proba_one(x), quick.predict_proba_one(x)
        assert list(answer.items()) == list(expected.items())
        with_weight = {"w": weight} if weighted else {}
        river.learn_one(x, y, **with_weight)
        quick.learn_one(x, y, **with_weight)
    assert wholly(river) == wholly(quick)
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
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
def test_equal_to_river_to_the_bit(kind, weighted):
    count = 250 if kind in {"exhaustive", "nominal"} else 800  # they keep every value
    for seed in range(2):
        both(classifier(**KINDS[kind]), events(seed, count=count), weighted=weighted)


@pytest.mark.parametrize("stop", [False, True])
def test_equal_where_a_tree_minds_its_size(stop):
    """River measures its objects then, so both are of one kind here, and one is fed by River's methods."""
    limits = {"memory_estimate_period": 300, "max_size": 0.05, "stop_mem_management": stop}
    river, quick = ours(classifier(**limits)), ours(classifier(**limits))
    for x, y, w in events(2):
        expected = tree.HoeffdingTreeClassifier.predict_proba_one(river, x)
        assert quick.predict_proba_one(x) == expected
        tree.HoeffdingTreeClassifier.learn_one(river, x, y, w=w)
        quick.learn_one(x, y, w=w)
    assert wholly(river) == wholly(quick)
    assert stop or river.n_inactive_leaves > 0


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


def test_what_a_fold_loads_goes_by_shortcuts():
    assert isinstance(ours(classifier()), OneWalk)
    assert isinstance(ours(BoundedTreeClassifier()), OneWalk)
    assert not isinstance(ours(tree.HoeffdingAdaptiveTreeClassifier(seed=1)), OneWalk)


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
    river, quick = classifier(), ours(classifier())

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
    chance, river, quick, past = random.Random(4), classifier(), ours(classifier()), []
    for x, y, _ in events(4):
        past.append((x, y))
        for _ in range(chance.randint(0, 3)):
            asked, _ = chance.choice(past[-3:])
            expected, answer = river.predict_proba_one(asked), quick.predict_proba_one(asked)
            assert answer == expected
        for _ in range(chance.randint(0, 2)):
            taught = chance.choice(past[-3:])
            river.learn_one(*taught)
            quick.learn_one(*taught)
    assert wholly(river) == wholly(quick)


def test_a_dict_that_is_filled_anew_is_another_question():
    """A pipeline may hand on one and the same dict; what counts is what stands in it."""
    river, quick, buffer = classifier(), ours(classifier()), {}
    for k, (x, y, _) in enumerate(events(5)):
        buffer.clear()
        buffer.update(x)
        assert quick.predict_proba_one(buffer) == river.predict_proba_one(x)
        if k % 3 == 0:
            buffer[NAMES[0]] = x[NAMES[0]] = -x[NAMES[0]]
        river.learn_one(x, y)
        quick.learn_one(buffer, y)
    assert wholly(river) == wholly(quick)


def test_no_pickle_and_no_copy_holds_the_newest_question():
    quick = ours(classifier())
    for x, y, _ in events(5, count=100):
        quick.learn_one(x, y)
    for copied in (lambda m: pickle.loads(pickle.dumps(m)), copy.deepcopy, ours):
        quiet = unpickle.dumps(quick)
        quick.predict_proba_one(x)
        assert unpickle.dumps(quick) == quiet
        made = copied(quick)
        assert not any(hasattr(made, name) for name in OneWalk.__slots__)
        assert wholly(made) == wholly(quick)
        assert made.predict_proba_one(x) == quick.predict_proba_one(x)


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("options", [{}, {"leaf_prediction": "mc"}, {"max_features": None}], ids=str)
def test_forests_are_equal_too(options, weighted):
    model = forest.ARFClassifier(n_models=3, seed=7, grace_period=20, **options)
    for seed in range(2):
        stream = list(events(seed, classes=2 + seed, absent=0.05 * seed, count=600))
        both(model, stream, weighted=False)
    chance = random.Random(9)
    quick = ours(model)
    assert all(type(one).__name__ != "OneWalk" for one in quick)
    river = pickle.loads(pickle.dumps(model))
    for k, (x, y, _) in enumerate(events(3, count=400)):
        if weighted or chance.random() < 0.3:  # asked twice, or never, or taught without a question
            assert quick.predict_proba_one(x) == river.predict_proba_one(x)
        quick.learn_one(x, y)
        river.learn_one(x, y)
        if k % 50 == 49:
            quick = ours(quick)
    assert isinstance(quick[0], OneWalk)
    assert wholly(river) == wholly(quick)


def test_resumed_from_a_pickle_at_any_event():
    answers = []
    for restart in (False, True):
        model = classifier()
        quick = ours(model)
        answers.append([])
        for k, (x, y, _) in enumerate(events(6, text=1.0)):
            answers[-1].append(quick.predict_proba_one(x))
            if restart and k % 13 == 5:
                quick = ours(quick)
            quick.learn_one(x, y)
    assert answers[0] == answers[1]


@pytest.mark.parametrize("size", [2, 4])
def test_members_answer_as_before(size):
    task = Task.BINARY if size == 2 else Task.MULTICLASS
    read = partial(reader, task=task, size=size)
    river, model = classifier(), ours(classifier())
    ask, one = read(river), Member("m", model, read(model), champion=True)
    assert one.ask({"a": 1.0}) is None
    for x, y, _ in events(7, classes=size):
        assert one.ask(x) == ask(x)
        river.learn_one(x, y)
        one.teach(x, y)


def test_an_answer_that_is_not_finite_is_told():
    read = partial(reader, task=Task.BINARY, size=2)
    model = ours(classifier(grace_period=10**9))
    one = Member("m", model, read(model), champion=True)
    for k in range(50):
        one.teach({"a": float(k % 7)}, k % 2 == 0)
    model._root.stats[True] = math.inf
    with pytest.raises(NonFiniteAnswer):
        one.ask({"a": 1.0})


def test_what_it_does_not_know_stays_rivers():
    class Own(tree.HoeffdingTreeClassifier):
        pass

    assert type(ours(tree.HoeffdingTreeRegressor())) is tree.HoeffdingTreeRegressor
    assert not isinstance(Own(), OneWalk)
