"""Models as a user would write them: explicit River factories, and some with one fault each."""

import math
import os

from river import base, compose, forest, linear_model, naive_bayes, optim, preprocessing, tree

from fluvial.models.encoding import OneHot

OFF = 2**62  # River's memory limit reads sys.getsizeof, which differs after unpickling


def linear():
    return preprocessing.StandardScaler() | linear_model.LogisticRegression(optim.SGD(0.05))


def softmax():
    """Numbers standardised, categories one-hot beside them.

    Selected by type: `compose.Select` keeps names in a set, whose order depends on the hash seed.
    """
    numbers = compose.SelectType(float) | preprocessing.StandardScaler()
    categories = compose.SelectType(str) | OneHot()
    return (numbers + categories) | linear_model.SoftmaxRegression(optim.SGD(0.05))


def bayes():
    return OneHot() | naive_bayes.GaussianNB()


def hoeffding():
    return tree.HoeffdingTreeClassifier(memory_estimate_period=OFF)


def adaptive():
    return tree.HoeffdingAdaptiveTreeClassifier(memory_estimate_period=OFF, seed=7)


def arf():
    n_models = 10 if os.environ.get("FLUVIAL_WHOLE") else 3
    return forest.ARFClassifier(n_models=n_models, memory_estimate_period=OFF, seed=7)


def regression():
    return preprocessing.StandardScaler() | linear_model.LinearRegression(optim.SGD(0.01), intercept_lr=0.01)


class Mean(base.Regressor):
    """The mean of the labels: nothing in it depends on their unit."""

    def __init__(self):
        self.n = 0
        self.mean = 0.0

    def learn_one(self, x, y):
        self.n += 1
        self.mean += (y - self.mean) / self.n

    def predict_one(self, x):
        return self.mean


class Counting(base.Classifier):
    """Says how often it has seen True; `learn_one` spoils its state before it raises, as River's do.

    x["fail"]: 1 raises in learn_one, 2 in predict_proba_one, 3 makes it answer NaN from then on.
    """

    def __init__(self):
        self.seen = 0
        self.true = 0
        self.sick = False

    def learn_one(self, x, y):
        self.seen += 1
        self.true += bool(y)
        if x.get("fail") == 1.0:
            self.true += 1_000_000
            raise ArithmeticError("no ones, please")
        if x.get("fail") == 3.0:
            self.sick = True

    def predict_proba_one(self, x):
        if x.get("fail") == 2.0:
            self.true += 1_000_000
            raise ZeroDivisionError("no twos, please")
        yes = math.nan if self.sick else (self.true + 1) / (self.seen + 2)
        return {False: 1.0 - yes, True: yes}


class Flickering(Counting):
    """Answers NaN to every other event."""

    def learn_one(self, x, y):
        super().learn_one(x, y)
        self.sick = self.seen % 2 == 1


class Odd(Counting):
    """x["fail"]: 1 answers NaN, 2 gives no answer; it also counts how often it was asked."""

    def __init__(self):
        super().__init__()
        self.asked = 0

    def learn_one(self, x, y):
        super().learn_one({}, y)

    def predict_proba_one(self, x):
        self.asked += 1
        if x.get("fail") == 2.0:
            return {}
        yes = math.nan if x.get("fail") == 1.0 else (self.true + self.asked % 3) / (self.seen + 3)
        return {False: 1.0 - yes, True: yes}


def odd():
    return Odd()


def flickering():
    return Flickering()


def counting():
    return Counting()


def mean():
    return Mean()


class HalfWrong:
    """A detector of one's own, as docs/drift.md shows it: half of the last fifty answers are wrong."""

    def __init__(self):
        self.recent = []
        self.drift_detected = False

    def update(self, loss):
        self.recent = [*self.recent[-49:], loss]
        self.drift_detected = len(self.recent) == 50 and sum(self.recent) >= 25
