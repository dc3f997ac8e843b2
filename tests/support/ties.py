"""Lives of models over categories whose splits tie, for processes of different hash seeds.

`tests/test_ties.py` runs this file as `python -m support.ties` with a job in JSON.
"""

import contextlib
import copy
import hashlib
import json
import random
import sys
from pathlib import Path

from river import drift, ensemble, forest, tree
from river.tree.splitter.nominal_splitter_classif import NominalSplitterClassif

from fluvial.config import ModelSettings
from fluvial.models import build, unpickle
from fluvial.models.blank import fresh, make_blank
from fluvial.models.replay_child import answer
from fluvial.schema import FeatureSpec, LabelSpec, Schema
from fluvial.types import Task

EVENTS = 280
RELOAD = 37
"""Events between two dumps and loads, of lives that are interrupted within their process."""
VALUES = ("delta", "alpha", "gamma", "beta")
CLASSES = LabelSpec(Task.MULTICLASS, classes=("x", "y", "z"))
REGRESSION = LabelSpec(Task.REGRESSION)
EAGER = {"grace_period": 40, "tau": 0.9}
"""Splits soon, also where the candidates tie."""
OFF = {"memory_estimate_period": 2**62}
HOEFFDING = {**EAGER, **OFF, "delta": 0.01, "binary_split": True}
MEANS = {**EAGER, **OFF, "leaf_prediction": "mean"}
ALWAYS = drift.DummyDriftDetector("fixed", t_0=50, seed=1)
CLASSIFIERS = {
    "hoeffding": lambda: tree.HoeffdingTreeClassifier(**HOEFFDING),
    "hoeffding-declared": lambda: tree.HoeffdingTreeClassifier(**HOEFFDING, nominal_attributes=["n"]),
    "adaptive": lambda: tree.HoeffdingAdaptiveTreeClassifier(**HOEFFDING, seed=1),
    "efdt": lambda: tree.ExtremelyFastDecisionTreeClassifier(**HOEFFDING, min_samples_reevaluate=60),
    "last": lambda: tree.LASTClassifier(**OFF, binary_split=True, change_detector=ALWAYS),
    "arf": lambda: forest.ARFClassifier(2, **HOEFFDING, seed=1),
    "srp": lambda: ensemble.SRPClassifier(tree.HoeffdingTreeClassifier(**HOEFFDING), n_models=2, seed=1),
}
REGRESSORS = {
    "hoeffding-regressor": lambda: tree.HoeffdingTreeRegressor(**MEANS),
    "arf-regressor": lambda: forest.ARFRegressor(2, **MEANS, seed=1),
}
FACTORIES = CLASSIFIERS | REGRESSORS
PRESETS = {
    f"{preset}/{'regression' if label is REGRESSION else 'classes'}": (preset, label)
    for preset in ("tree", "adaptive-tree", "forest")
    for label in (CLASSES, REGRESSION)
}


def events(label):
    """A category of two values, one that is the same by other names, and a number that says nothing.

    To split off either value is worth the same, whatever the weights. In the second half two more values
    come, which go where the split sends them.
    """
    rng = random.Random(5)
    renamed = dict(zip(VALUES, VALUES[1:] + VALUES[:1], strict=True))
    for i in range(EVENTS):
        place = rng.randrange(2 if i < EVENTS // 2 else 4)
        y = float(place % 2) if label is REGRESSION else (place + rng.randrange(2)) % 3
        yield {"p": VALUES[place], "q": renamed[VALUES[place]], "n": float(rng.randrange(3))}, y


@contextlib.contextmanager
def in_order():
    """River with the one line that Fluvial does not keep: a category's values are walked in order."""
    walk = NominalSplitterClassif.best_evaluated_split_suggestion

    def sorted_walk(self, *args):
        ordered = copy.copy(self)
        ordered._att_values = sorted(self._att_values)
        return walk(ordered, *args)

    NominalSplitterClassif.best_evaluated_split_suggestion = sorted_walk
    try:
        yield
    finally:
        NominalSplitterClassif.best_evaluated_split_suggestion = walk


def label_of(name):
    return PRESETS[name][1] if name in PRESETS else REGRESSION if name in REGRESSORS else CLASSES


def made(name):
    """The preset's or the factory's model, as a lineage gets it: loaded from its blank."""
    if name in FACTORIES:
        return fresh(make_blank(FACTORIES[name]))
    preset, label = PRESETS[name]
    categories = [FeatureSpec(feature, "category", (feature,), values=VALUES) for feature in ("p", "q")]
    schema = Schema((*categories, FeatureSpec("n", "number", ("n",))), label)
    options = {**EAGER, "binary_split": True, **({"n_models": 2} if preset == "forest" else {})}
    (model,) = build(ModelSettings(preset=preset, options=options), schema).values()
    return fresh(make_blank(lambda: model))


def life(model, stretch, reload=0):
    """The digest of every answer, and the model."""
    said = hashlib.sha256()
    for i, (x, y) in enumerate(stretch, 1):
        said.update(answer(model, dict(x)).encode())
        model.learn_one(dict(x), y)
        if reload and i % reload == 0:
            model = unpickle.loads(unpickle.dumps(model))
    return said.hexdigest(), model


def lived(name, job):
    """Digests of the two halves; of one, where the job asks for one and hands over by a file."""
    stretch = list(events(label_of(name)))
    before, after = stretch[: EVENTS // 2], stretch[EVENTS // 2 :]
    file = Path(job["folder"]) / name.replace("/", "-")
    reload = RELOAD if job["half"] == "reload" else 0
    if job["half"] == "second":
        return life(unpickle.loads(file.read_bytes()), after)[0]
    first, model = life(made(name), before, reload)
    if job["half"] == "first":
        file.write_bytes(unpickle.dumps(model))
        return first
    return first, life(model, after, reload)[0]


def rivers(name):
    """The same by River alone."""
    stretch = list(events(label_of(name)))
    first, model = life(FACTORIES[name](), stretch[: EVENTS // 2])
    return first, life(model, stretch[EVENTS // 2 :])[0]


def main():
    job = json.loads(sys.argv[1])
    said = {name: lived(name, job) for name in (*FACTORIES, *PRESETS)}
    river = {name: rivers(name) for name in CLASSIFIERS if job["river"]}
    with in_order():
        ordered = {name: rivers(name) for name in FACTORIES if job["river"]}
    print(json.dumps({"fluvial": said, "river": river, "in order": ordered}))


if __name__ == "__main__":
    main()
