"""The allow-list: exactly River's models, all of them, and none of River's ways to files and networks."""

import contextlib
import copy
import gc
import pickle
import random
import sys
import threading
import time
from pathlib import Path
from typing import ClassVar

import pytest

from fluvial.errors import CheckpointRefused, SettingsError
from fluvial.models import allowed, generate_allowed, restore, unpickle
from fluvial.models.verify import Machine
from support import estimators

# River's own faults: it raises the same after a plain pickle of Python.
CANNOT = {
    "river.feature_extraction.kernel_approx:RandomTreesEmbedding": "KeyError after unpickling",
}
# No two lives of it are the same, pickled by whomever.
UNSEEDED = {
    "river.cluster.streamkmeans:STREAMKMeans": "makes its k-means anew with seed=None",
}


def test_the_checked_in_list_is_the_generated_one():
    assert Path(allowed.__file__).read_text() == generate_allowed.render()


def test_it_has_the_pinned_release_and_about_five_hundred_classes():
    import river

    assert river.__version__ == allowed.RIVER_VERSION
    assert 450 < sum(map(len, allowed.RIVER.values())) < 600


def test_our_own_parts_are_on_it():
    from fluvial.models import bayes, encoding, trees

    assert {m: set(names) for m, names in allowed.OURS.items()} == {
        module.__name__: set(module.__all__) for module in (bayes, encoding, trees)
    }


def test_only_known_foreign_modules_are_on_it():
    modules = {module for module, _ in unpickle.ALLOWED}
    assert {m for m in modules if not m.startswith("river.")} == {
        "builtins", "collections", "copy", "fluvial.models.bayes", "fluvial.models.encoding",
        "fluvial.models.restore", "fluvial.models.trees", "numpy",
    }  # fmt: skip
    for part in ("datasets", "stream", "evaluate", "checks", "api", "compat"):
        assert not any(m.split(".")[1:2] == [part] or f".{part}." in m for m in modules)


def test_nothing_on_it_may_be_called_but_restoring_functions_and_rivers_deques():
    called = set()
    for module, name in unpickle.ALLOWED:
        if unpickle._entry(frozenset(), module, name).called:
            called.add((module, name))
    assert {pair for pair in called if pair not in unpickle.RESTORING} == {
        ("river.time_series.holt_winters", name)
        for name in (
            "AdditiveLevel", "AdditiveSeason", "Component", "MultiplicativeLevel", "MultiplicativeSeason",
            "Trend",
        )
    }  # fmt: skip


def test_no_listed_class_runs_code_when_it_is_made_or_given_a_state():
    """Whoever adds a class with hooks has to look at it; River's three scalers only fill in a default."""
    hooks = ("__new__", "__setstate__", "__init_subclass__", "__setattr__", "__del__", "__hash__")
    found = set()
    for module, name in unpickle.CLASSES:
        kind = unpickle._resolve(module, name, frozenset())
        if module.startswith("river._river_rust"):
            continue
        for base in kind.__mro__:
            if base.__module__.startswith(("river.", "fluvial.")) and not issubclass(kind, tuple):
                found |= {(base.__qualname__, h) for h in hooks if vars(base).get(h) is not None}
    assert found == {(f"{scaler}Scaler", "__setstate__") for scaler in ("Standard", "MinMax", "MaxAbs")}


@pytest.mark.parametrize("stream", [estimators.numeric, estimators.nominal], ids=lambda s: s.__name__)
def test_every_estimator_survives_and_lives_on_like_one_pickled_by_python(stream):
    count, unequal, refused = 0, [], []
    for name, model in estimators.made():
        estimators.live(model, stream, 120, seed=1)
        if name in CANNOT:
            continue
        try:
            ours = unpickle.loads(unpickle.dumps(model))
        except CheckpointRefused as error:
            refused.append((name, str(error)))
            continue
        plain = pickle.loads(pickle.dumps(model, 5))
        count += 1
        if estimators.live(ours, stream, 30, seed=2) != estimators.live(plain, stream, 30, seed=2):
            unequal.append(name)
    assert not refused
    assert set(unequal) <= set(UNSEEDED)
    assert count > 290


@pytest.mark.parametrize("name", CANNOT)
def test_the_exceptions_are_still_exceptions(name):
    model = next(m for n, m in estimators.made() if n == name)
    estimators.live(model, estimators.numeric, 120, seed=1)
    for again in (pickle.loads(pickle.dumps(model, 5)), unpickle.loads(unpickle.dumps(model))):
        said = [
            word for answers in estimators.live(again, estimators.numeric, 50, seed=2) for word in answers
        ]
        assert ("transform_one", "KeyError") in said


def values():
    import collections
    import datetime as dt
    import functools
    import random

    import numpy as np

    rng = random.Random(3)
    rng.gauss(0, 1)
    old = np.random.RandomState(5)
    old.normal()
    new = np.random.default_rng(5)
    new.random()
    words = collections.OrderedDict([("b", 1), ("a", 2)])
    ring = collections.deque([1.5, None, "x"], 5)
    nested = collections.defaultdict(functools.partial(collections.defaultdict, float))
    nested["a"]["b"] = 0.1
    return {
        "random": (rng, lambda v: (v.random(), v.gauss(0, 1))),
        "random_state": (old, lambda v: tuple(v.normal(size=3))),
        "generator": (new, lambda v: tuple(v.random(3))),
        "array": (np.arange(6.0).reshape(2, 3), lambda v: (v.tolist(), v.dtype.str, v.flags.writeable)),
        "fortran": (np.asfortranarray(np.eye(3)), lambda v: (v.tolist(), v.flags.f_contiguous)),
        "empty": (np.zeros((0, 3)), lambda v: v.shape),
        "zero_d": (np.array(3.5), lambda v: (v.shape, float(v))),
        "text": (np.array(["ab", "c"]), lambda v: (v.tolist(), v.dtype.str)),
        "scalar": (np.float64(0.1), lambda v: (float(v).hex(), type(v).__name__)),
        "text_scalar": (np.str_("abc"), lambda v: (str(v), type(v).__name__)),
        "bool_scalar": (np.bool_(True), lambda v: (bool(v), type(v).__name__)),
        "dtype": (np.dtype("int32"), lambda v: v.str),
        "ordered": (words, lambda v: (type(v).__name__, list(v.items()))),
        "counter": (collections.Counter("abca"), lambda v: (type(v).__name__, list(v.items()))),
        "deque": (ring, lambda v: (v.maxlen, list(v))),
        "nested": (nested, lambda v: (v["a"]["b"], v["new"]["new"])),
        "complex": (complex(0.1, -0.0), repr),
        "date": (dt.date(2024, 2, 29), repr),
        "naive": (dt.datetime(2024, 2, 29, 1, 2, 3, 4, fold=1), repr),  # noqa: DTZ001 - a naive one is meant
        "aware": (dt.datetime(2024, 2, 29, tzinfo=dt.UTC), lambda v: v.isoformat()),
        "delta": (dt.timedelta(1, 2, 3), repr),
        "set": ({1, (2, 3), "x", frozenset({4})}, lambda v: sorted(map(repr, v))),
        "shared": ((ring, ring), lambda v: v[0] is v[1]),
        "long": (2**200, repr),
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(values()))
def test_foreign_parts_come_back_as_they_went(name):
    value, look = values()[name]
    again = unpickle.loads(unpickle.dumps(value))
    assert look(again) == look(copy.deepcopy(value))


def test_a_cycle_comes_back():
    loop = [1]
    pair = (loop, {"loop": loop})
    loop.append(pair)
    again = unpickle.loads(unpickle.dumps(loop))
    assert again[1][0] is again
    assert again[1][1]["loop"] is again


def trained_tree(events=3_000):
    from river.tree import HoeffdingTreeClassifier

    rng, tree = random.Random(1), HoeffdingTreeClassifier(grace_period=50, memory_estimate_period=2**62)
    for _ in range(events):
        x = {name: rng.random() for name in "abcd"}
        tree.learn_one(x, x["a"] + x["b"] * x["c"] > 0.7)
    return tree


def test_generators_that_nobody_seeded_are_left_out():
    """A tree keeps one of 2.5 kB in each of its estimators, and never draws from it."""
    tree = trained_tree()
    before = pickle.dumps(tree, 5)
    blob = unpickle.dumps(tree)
    assert before.count(b"_rng") == 1
    assert len(blob) * 5 < len(before)
    assert pickle.dumps(tree, 5) == before  # the dump left the live one alone
    again = unpickle.loads(blob)
    assert len(unpickle.dumps(again)) < 1.1 * len(blob)
    for value in range(20):
        x = dict.fromkeys("abcd", value / 20)
        assert again.predict_proba_one(x) == tree.predict_proba_one(x)


def test_a_generator_that_was_seeded_goes_on():
    from river.proba import Gaussian

    made = Gaussian(seed=3)
    for x in (1.0, 2.0, 4.0):
        made.update(x)
    made.sample()
    again = unpickle.loads(unpickle.dumps(made))
    assert [again.sample() for _ in range(3)] == [made.sample() for _ in range(3)]
    other = Gaussian()
    other.update(1.0)
    again = unpickle.loads(unpickle.dumps(other))
    assert vars(again).keys() == vars(other).keys()
    assert (again.mu, again.n_samples, again.sample()) == (1.0, 1.0, 1.0)


def test_a_checkpoint_that_still_has_them_is_loaded(monkeypatch):
    from river.proba import Gaussian

    tree = trained_tree()
    older = {kind: reduce for kind, reduce in restore.reducers().items() if kind is not Gaussian}
    with monkeypatch.context() as patch:
        patch.setattr(restore, "reducers", lambda: older)
        blob = unpickle.dumps(tree)
    assert len(blob) > 5 * len(unpickle.dumps(tree))
    assert unpickle.loads(blob).predict_proba_one({"a": 0.5}) == tree.predict_proba_one({"a": 0.5})


class Watched:
    """Tells whether the collector is on while it is dumped."""

    seen: ClassVar[list[bool]] = []

    def __reduce__(self):
        Watched.seen.append(gc.isenabled())
        return list, ()


def test_the_collector_rests_meanwhile_and_goes_on_after():
    for outcome in (lambda: unpickle.dumps(Watched()), lambda: unpickle.dumps([Watched(), lambda: 0])):
        with contextlib.suppress(AttributeError, pickle.PicklingError):
            outcome()
        assert gc.isenabled()
    assert Watched.seen == [False, False]
    with pytest.raises(CheckpointRefused):
        unpickle.loads(b"no pickle")
    assert gc.isenabled()
    gc.disable()
    try:
        unpickle.loads(unpickle.dumps(1))
        assert not gc.isenabled()  # whoever switched it off wants it off
    finally:
        gc.enable()


LARGE = 60_000


@pytest.mark.parametrize("doing", ["dumps", "loads", "verify"])
def test_other_threads_get_a_word_in(doing):
    """Not one of these values is made by Python code: without breath it would be one long call into C."""
    value = [{"a": float(i), "b": {"c": -float(i)}} for i in range(LARGE)]
    blob = unpickle.dumps(value)
    work = {
        "dumps": lambda: unpickle.dumps(value),
        "loads": lambda: unpickle.loads(blob, own=True),
        "verify": lambda: unpickle.verify(blob),
    }[doing]
    words, done, before = 0, threading.Event(), sys.getswitchinterval()

    def talk():
        nonlocal words
        while not done.is_set():
            words += 1
            time.sleep(0)

    other = threading.Thread(target=talk)
    sys.setswitchinterval(1e-4)
    try:
        other.start()
        started = words
        work()
        heard = words - started
    finally:
        done.set()
        other.join()
        sys.setswitchinterval(before)
    assert heard >= 10


class Mine:
    """A user's own class."""

    def __init__(self):
        self.numbers = [1, 2]

    def double(self, x):
        return 2 * x


def test_a_class_of_the_users_own_needs_to_be_named():
    blob = unpickle.dumps({"mine": Mine(), "bound": Mine().double})
    name = f"{Mine.__module__}:Mine"
    with pytest.raises(CheckpointRefused, match=f'add "{name}" to model.allow'):
        unpickle.loads(blob)
    again = unpickle.loads(blob, unpickle.parse_extra((name,)))
    assert again["mine"].numbers == [1, 2]
    assert again["bound"](4) == 8


@pytest.mark.parametrize("bad", ["os.system", "os:", ":x", "a.b:c()", "a b:c", ""])
def test_extra_names_are_checked(bad):
    with pytest.raises(SettingsError, match=r"model\.allow"):
        unpickle.parse_extra((bad,))


def test_what_cannot_be_kept_is_refused_at_the_dump():
    import numpy as np

    for value in (lambda x: x, np.array([object()], dtype=object), np.zeros(2, dtype=[("a", "f8")]), open):
        with pytest.raises((pickle.PicklingError, TypeError, AttributeError, CheckpointRefused)):
            unpickle.loads(unpickle.dumps(value))


def test_pickles_of_this_format_name_nothing_of_numpys_inside():
    import numpy as np

    blob = unpickle.dumps([np.eye(2), np.float64(1), np.random.RandomState(1), np.random.default_rng(1)])
    named = []
    machine = Machine(blob, lambda m, n: (named.append(m), unpickle._entry(frozenset(), m, n))[1])
    machine.run()
    assert set(named) == {restore.MODULE}
