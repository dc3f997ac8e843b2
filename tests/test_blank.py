"""The blank, and what keeps a model from being replayed."""

import functools

import pytest
from river import (
    compose,
    ensemble,
    feature_extraction,
    forest,
    linear_model,
    naive_bayes,
    neighbors,
    optim,
    preprocessing,
    tree,
)

from fluvial.config import ModelSettings
from fluvial.errors import CheckpointRefused, ModelRefused
from fluvial.models import unpickle
from fluvial.models.blank import fresh, make_blank
from fluvial.models.faults import faults, replay_faults
from fluvial.models.replay_child import made_events
from fluvial.schema import FeatureSpec, LabelSpec, Schema
from fluvial.types import Task
from support import odd_models

OFF = 2**62
ODD = (
    "Odd",
    "Hashing",
    "Unseeded",
    "Mutating",
    "Asked",
    "Forgetful",
    "Strict",
    "Derived",
    "Sorted",
    "Making",
)
EXTRA = tuple(f"support.odd_models:{name}" for name in ODD)
SCHEMA = Schema(
    (
        *(FeatureSpec(f"a{i}", "number", (f"a{i}",)) for i in range(6)),
        FeatureSpec("b", "integer", ("b",), low=0, high=9),
        FeatureSpec("c", "boolean", ("c",)),
    ),
    LabelSpec(Task.BINARY, classes=(False, True)),
)
MIXED = Schema(
    (
        *SCHEMA.features,
        FeatureSpec("d", "category", ("d",), values=("p", "q")),
        FeatureSpec("e", "number", ("e",), required=False, high=1.0),
    ),
    LabelSpec(Task.MULTICLASS, classes=("x", "y", "z")),
)


def test_the_factory_runs_once_and_members_are_fresh_and_apart():
    calls = []

    def factory():
        calls.append(1)
        return ensemble.VotingClassifier([tree.HoeffdingTreeClassifier(), naive_bayes.GaussianNB()])

    blank = make_blank(factory)
    one, two = fresh(blank), fresh(blank)
    for i in range(50):
        one.learn_one({"a": float(i)}, i % 2)
    assert len(calls) == 1
    assert sum(one.models[1].class_counts.values()) == 50
    assert not two.models[1].class_counts
    assert unpickle.dumps(two) == unpickle.dumps(fresh(blank))


def test_a_blank_of_a_class_of_the_users_own_needs_its_name():
    with pytest.raises(ModelRefused, match=r'add "support\.odd_models:Odd" to model\.allow'):
        make_blank(odd_models.Odd)
    extra = unpickle.parse_extra(EXTRA)
    assert isinstance(fresh(make_blank(odd_models.Odd, extra), extra), odd_models.Odd)


def test_what_pickle_cannot_keep_is_refused_by_name():
    with pytest.raises(ModelRefused, match="FuncTransformer"):
        make_blank(lambda: compose.FuncTransformer(lambda x: x))


def test_an_altered_blank_is_refused():
    with pytest.raises(CheckpointRefused):
        fresh(make_blank(naive_bayes.GaussianNB)[:-5])


def local():
    def inner(x):
        return x

    return inner


def closed(y):
    def inner(x):
        return x, y

    return inner


GOOD = {
    "linear": lambda: preprocessing.StandardScaler() | linear_model.LogisticRegression(optim.SGD(0.1)),
    "tree": lambda: tree.HoeffdingTreeClassifier(memory_estimate_period=OFF),
    "forest": lambda: forest.ARFClassifier(seed=1, memory_estimate_period=OFF),
    "srp": lambda: ensemble.SRPClassifier(
        tree.HoeffdingTreeClassifier(memory_estimate_period=OFF), n_models=3, seed=1
    ),
    "mondrian": lambda: forest.AMFClassifier(n_estimators=3, seed=1),
    "bayes": naive_bayes.GaussianNB,
}
FAULTY = {
    "seed": (lambda: forest.ARFClassifier(memory_estimate_period=OFF), "model: ARFClassifier has seed=None"),
    "seed in a pipeline": (
        lambda: feature_extraction.RBFSampler() | linear_model.LogisticRegression(),
        "model.steps['RBFSampler']: RBFSampler has seed=None",
    ),
    "seed in a list": (
        lambda: ensemble.VotingClassifier(
            [naive_bayes.GaussianNB(), tree.HoeffdingAdaptiveTreeClassifier(memory_estimate_period=OFF)]
        ),
        "[1]: HoeffdingAdaptiveTreeClassifier has seed=None",
    ),
    "seed in a wrapper": (lambda: neighbors.KNNClassifier(), "SWINN has seed=None"),
    "seed behind slots": (
        lambda: neighbors.LazySearch(dist_func=functools.partial(neighbors.SWINN, odd=neighbors.SWINN())),
        "SWINN has seed=None",
    ),
    "memory": (tree.HoeffdingTreeRegressor, "set memory_estimate_period=2**62"),
    "names in a set": (
        lambda: compose.Select("a", "b") | naive_bayes.GaussianNB(), "Select keeps names in a set"
    ),
    "lambda": (lambda: compose.FuncTransformer(lambda x: x) | naive_bayes.GaussianNB(), "a lambda"),
    "local": (lambda: compose.FuncTransformer(local()) | naive_bayes.GaussianNB(), "cannot be imported"),
    "closure": (lambda: compose.FuncTransformer(closed(1)) | naive_bayes.GaussianNB(), "the closure inner"),
    "class": (odd_models.Odd, 'add "support.odd_models:Odd" to model.allow'),
    "function": (
        lambda: compose.FuncTransformer(odd_models.build) | naive_bayes.GaussianNB(),
        'add "support.odd_models:build" to model.allow',
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_a_sound_model_has_no_fault(name):
    assert faults(GOOD[name]()) == []


@pytest.mark.parametrize("name", FAULTY)
def test_each_fault_is_found_and_named(name):
    make, told = FAULTY[name]
    found = faults(make())
    assert any(told in fault for fault in found), found


def test_a_fault_in_many_members_is_told_once():
    found = faults(ensemble.BaggingClassifier(tree.HoeffdingTreeClassifier(), seed=1))
    assert len(found) == 1
    assert "model.model (and 10 more alike)" in found[0]


REPLAYED = {
    "tree": [],
    "bayes": [],
    "Odd": [],
    "Hashing": ["differ between processes"],
    "select": ["differ between processes"],
    "Unseeded": ["differ between processes", "half way", "asked before"],
    "Mutating": ["predicting changes the features", "learn_one changes the features"],
    "Asked": ["asked before"],
    "Forgetful": ["half way"],
    "Strict": ["learn_one raised ValueError: no b, please"],
}


def lives(*names, schema=SCHEMA, events=200, seconds=300):
    settings = ModelSettings(options={"names": names}, allow=EXTRA)
    return replay_faults(settings, schema, "support.odd_models:build", events, seconds)


def test_models_that_cannot_be_replayed_are_found_and_no_others():
    found = lives(*REPLAYED)
    for name, told in REPLAYED.items():
        mine = [fault for fault in found if fault.startswith(f"lane '{name}'")]
        assert len(mine) == len(told), (name, mine)
        assert all(
            part in fault for part, fault in zip(sorted(told), sorted(mine, key=key_of), strict=True)
        ), mine


def test_trees_that_walk_a_set_of_categories_are_found_without_a_tie():
    """Two events: nothing has split yet, and no answer differs."""
    told = "keeps a category's values in a set"
    found = lives("tree", "bagging", "Derived", "Sorted", "Making", schema=MIXED, events=2)
    assert [fault.split(": ")[0] for fault in found] == ["lane 'Derived'", "lane 'Making'"]
    assert all(told in fault and "fluvial.models.trees" in fault for fault in found)
    assert "model.trees[0]._root.splitters['d']" in found[1]
    assert lives("Derived", events=2) == []


def key_of(fault):
    return min((part for told in REPLAYED.values() for part in told if part in fault), default="")


def test_made_events_keep_to_the_schema():
    events = made_events(MIXED, 300)
    assert events == made_events(MIXED, 300)
    assert {y for _, y in events} == {0, 1, 2}
    names = [feature.name for feature in MIXED.features]
    for x, _ in events:
        assert [name for name in names if name in x] == list(x)
        assert x["b"] == round(x["b"])
        assert 0 <= x["b"] <= 9
        assert x["c"] in {0.0, 1.0}
        assert x["d"] in {"p", "q"}
        assert x.get("e", 0.0) <= 1.0
    assert {"e" in x for x, _ in events} == {True, False}


def test_a_model_that_cannot_be_built_is_told():
    with pytest.raises(ModelRefused, match="not today"):
        lives("Ends")


def test_a_model_that_is_too_slow_is_told():
    with pytest.raises(ModelRefused, match="make it smaller"):
        lives("Odd", seconds=0.01)
