"""Trees and forests over categories say the same in every process, ties between values included."""

import importlib
import json
import operator
import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from river import base, tree
from river.tree.splitter.nominal_splitter_classif import NominalSplitterClassif

from fluvial.config import ModelSettings
from fluvial.models import build, trees, unpickle
from fluvial.models.blank import fresh, make_blank
from fluvial.models.faults import unordered, walk
from fluvial.schema import FeatureSpec, LabelSpec, Schema
from fluvial.types import Task
from support import ties

STRAIGHT = [("2", "whole"), ("5", "reload")]
"""{"alpha", "delta"} and {"alpha", "gamma"} begin with "alpha" under 5 and 11, and not under 2 and 3."""


def run(hash_seed, half, folder):
    job = {"half": half, "folder": str(folder), "river": half in {"whole", "reload"}}
    done = subprocess.run(
        [sys.executable, "-m", "support.ties", json.dumps(job)],
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def broken(folder):
    """Half in one process, handed over by a file, half in another one."""
    first, second = (run(seed, half, folder)["fluvial"] for seed, half in (("11", "first"), ("3", "second")))
    return {name: [first[name], second[name]] for name in first}


@pytest.fixture(scope="module")
def lives(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ties")
    with ThreadPoolExecutor(2) as pool:
        other = pool.submit(broken, folder)
        return [*pool.map(lambda one: run(*one, folder), STRAIGHT)], other.result()


@pytest.mark.parametrize("name", [*ties.FACTORIES, *ties.PRESETS])
def test_every_answer_is_the_same_under_any_hash_seed_and_after_a_load(name, lives):
    straight, handed_over = lives
    assert {tuple(life["fluvial"][name]) for life in straight} == {tuple(handed_over[name])}


@pytest.mark.parametrize("name", ties.FACTORIES)
def test_it_is_rivers_answer_with_the_values_in_order(name, lives):
    (one, other), _ = lives
    assert one["fluvial"][name] == one["in order"][name] == other["in order"][name]


@pytest.mark.parametrize("name", ties.CLASSIFIERS)
def test_rivers_own_depends_on_the_hash_seed_here(name, lives):
    """Else the stream has no ties, and the two tests above hold nothing."""
    (one, other), _ = lives
    assert one["river"][name] != other["river"][name]


def test_every_class_of_rivers_that_observes_categories_for_classes_is_loaded_as_ours():
    """A release of River with another one fails here."""
    found = set()
    for module, name in unpickle.CLASSES:
        kind = operator.attrgetter(name)(importlib.import_module(module))
        makes = hasattr(kind, "_new_leaf") or hasattr(kind, "_new_base_model")
        if makes and issubclass(kind, base.Classifier) and module.startswith("river."):
            found.add((module, name))
    splitter = ("river.tree.splitter.nominal_splitter_classif", "NominalSplitterClassif")
    assert {*found, splitter} == unpickle.IN_ORDER
    for module, name in unpickle.IN_ORDER:
        assert unpickle._resolve(module, name, frozenset()) is getattr(trees, name)


@pytest.mark.parametrize("name", ties.CLASSIFIERS)
def test_no_set_is_left_to_walk_wherever_a_category_comes_up(name):
    """In a leaf, in a new leaf, and in a branch that met it only after it had split."""
    stretch = [
        ({**x, "late": "ab"[i % 2]} if i > ties.EVENTS // 2 else x, y)
        for i, (x, y) in enumerate(ties.events(ties.CLASSES))
    ]
    _, model = ties.life(fresh(make_blank(ties.CLASSIFIERS[name])), stretch)
    parts = [part for _, part in walk("model", model) if isinstance(part, NominalSplitterClassif)]
    assert {type(part) for part in parts} == {trees.NominalSplitterClassif}
    assert not unordered(model)
    if name == "efdt":  # whose branches observe as well
        assert isinstance(model._root.splitters["late"], trees.NominalSplitterClassif)


def test_a_tree_that_learned_with_rivers_splitters_goes_on_with_ours():
    trained = tree.HoeffdingTreeClassifier()
    for value in "ba":
        trained.learn_one({"p": value}, True)
    loaded = unpickle.loads(unpickle.dumps(trained))
    (splitter,) = loaded._root.splitters.values()
    assert type(splitter) is trees.NominalSplitterClassif


def test_all_presets_of_trees_are_ours():
    features = (FeatureSpec("p", "category", ("p",)),)
    schema = Schema(features, LabelSpec(Task.BINARY, classes=(False, True)))
    for preset in ("tree", "adaptive-tree", "forest", "auto"):
        head = list(
            build(ModelSettings(preset=preset), schema)[preset.replace("auto", "tree")].steps.values()
        )[-1]
        assert isinstance(head, tuple(getattr(trees, name) for name in trees.__all__))


def test_an_adaptive_tree_of_many_classes_adds_up_in_their_order():
    """Integers from 8 on may share a place in a set; which is first then changes when it is loaded."""
    blank = make_blank(lambda: tree.HoeffdingAdaptiveTreeClassifier(seed=1, memory_estimate_period=2**62))
    rng = random.Random(3)
    stretch = [
        ({"n": rng.gauss(0, 1)}, rng.choice((5, 13, 21) if i < 100 else (5, 13, 21, 0, 8, 16, 24)))
        for i in range(300)
    ]
    assert ties.life(fresh(blank), stretch)[0] == ties.life(fresh(blank), stretch, reload=7)[0]
