"""Models with one fault each, for `fluvial check` to find; built by name in another process."""

import random

from river import base, compose, ensemble, linear_model, naive_bayes, tree

from fluvial.models import trees


class Odd(base.Classifier):
    """A classifier that always says how often it saw each label."""

    def __init__(self):
        self.counts = {}

    def learn_one(self, x, y):
        self.counts[y] = self.counts.get(y, 0) + 1

    def predict_proba_one(self, x):
        total = sum(self.counts.values()) or 1
        return {y: n / total for y, n in self.counts.items()}


class Hashing(Odd):
    def predict_proba_one(self, x):
        return {1: 1.0 / (1 + hash("a") % 97)}


class Unseeded(Odd):
    def predict_proba_one(self, x):
        return {1: random.random()}


class Mutating(Odd):
    def predict_proba_one(self, x):
        x["extra"] = 1.0
        return super().predict_proba_one(x)

    def learn_one(self, x, y):
        x.popitem()
        super().learn_one(x, y)


class Asked(Odd):
    """What it says depends on how often it was asked."""

    def predict_proba_one(self, x):
        self.counts["asked"] = self.counts.get("asked", 0) + 1
        return super().predict_proba_one(x)


class Forgetful(Odd):
    """Loses a part of its state when it is pickled."""

    def __getstate__(self):
        return {"counts": {}}


class Strict(Odd):
    def learn_one(self, x, y):
        if "b" in x:
            raise ValueError("no b, please")
        super().learn_one(x, y)


class Derived(tree.HoeffdingTreeClassifier):
    """A tree of the user's own, over River's."""


class Sorted(trees.HoeffdingTreeClassifier):
    """The same over ours."""


class Making(Odd):
    """Makes its trees when they are needed."""

    def __init__(self):
        super().__init__()
        self.trees = []

    def learn_one(self, x, y):
        super().learn_one(x, y)
        if not self.trees:
            self.trees.append(tree.ExtremelyFastDecisionTreeClassifier(memory_estimate_period=2**62))
        self.trees[0].learn_one(x, y)


class Ends(Odd):
    def __init__(self):
        raise RuntimeError("not today")


def build(settings, schema):
    """The builder that `replay_faults` is given: `options.names` says which models, one lane each."""
    made = {
        "tree": lambda: tree.HoeffdingTreeClassifier(memory_estimate_period=2**62),
        "select": lambda: (
            compose.Select(*(f.name for f in schema.features)) | linear_model.LogisticRegression()
        ),
        "bayes": naive_bayes.GaussianNB,
        "bagging": lambda: ensemble.BaggingClassifier(
            tree.HoeffdingAdaptiveTreeClassifier(seed=1, memory_estimate_period=2**62), n_models=2, seed=1
        ),
        "Derived": lambda: Derived(memory_estimate_period=2**62),
        "Sorted": lambda: Sorted(memory_estimate_period=2**62),
    }
    return {name: (made.get(name) or globals()[name])() for name in settings.options["names"]}
