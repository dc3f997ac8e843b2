"""Our parts inside River pipelines: what presets need and River lacks.

Importing this file imports River. Its classes stand in checkpoints: they are on the allow-list, and
their attributes are primitives only, so that a refactoring here is a matter of `__setstate__`.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from river import base, tree

from fluvial.models import trees

__all__ = [
    "BoundedAdaptiveTreeClassifier",
    "BoundedAdaptiveTreeRegressor",
    "BoundedTreeClassifier",
    "BoundedTreeRegressor",
    "LimitCategories",
    "OneHot",
    "Standardise",
    "StandardiseRecent",
    "StandardiseTarget",
]

Features = dict[Hashable, Any]
"""River's word for `dict[str, float | str]`."""
MAX_CATEGORIES = 100
OTHER = "other"
CLIP = 10.0
"""One outlier of a million deviations would leave a scaler and a logistic regression at 50 % for good."""


def _admit(seen: dict[Hashable, dict[str, str]], name: Hashable, value: str) -> None:
    """Remember a category's value while there is room; the order of arrival decides."""
    values = seen.setdefault(name, {})
    if value not in values and len(values) < MAX_CATEGORIES:
        values[value] = f"{name}={value}"


class Standardise(base.Transformer):
    """Numbers to zero mean and unit variance, clipped at ten deviations; categories to one-hots after it.

    Welford's running moments, updated when it learns and never when it predicts. An absent number
    stays absent, which a linear model reads as the mean.
    """

    def __init__(self, clip: float = CLIP) -> None:
        self.clip = clip
        self.count: dict[Hashable, int] = {}
        self.mean: dict[Hashable, float] = {}
        self.m2: dict[Hashable, float] = {}
        self.seen: dict[Hashable, dict[str, str]] = {}

    def learn_one(self, x: Features) -> None:
        """Update the moments of each number and the known values of each category."""
        count, mean, m2 = self.count, self.mean, self.m2
        for name, value in x.items():
            if isinstance(value, str):
                _admit(self.seen, name, value)
            elif name in count:
                n = count[name] = count[name] + 1
                delta = value - mean[name]
                centre = mean[name] = mean[name] + delta / n
                m2[name] += delta * (value - centre)
            else:
                count[name], mean[name], m2[name] = 1, value, 0.0

    def transform_one(self, x: Features) -> Features:
        """Return the standardised numbers and the one-hots (1.0 at `name=value`, or at `name=other`)."""
        count, mean, m2, clip = self.count, self.mean, self.m2, self.clip
        out: Features = {}
        for name, value in x.items():
            if isinstance(value, str):
                out[self.seen.get(name, {}).get(value) or f"{name}={OTHER}"] = 1.0
            elif name in count and (deviation := (m2[name] / count[name]) ** 0.5) > 0.0:
                z = (value - mean[name]) / deviation
                out[name] = clip if z > clip else max(z, -clip)
            else:
                out[name] = 0.0
        return out


class StandardiseRecent(Standardise):
    """`Standardise` against the last `memory` events or so, instead of all: what is high today, not ever.

    Welford's moments with a count that stops: from then on each event takes away as much as it brings.
    """

    def __init__(self, memory: int = 50, clip: float = CLIP) -> None:
        super().__init__(clip)
        self.memory = memory

    def learn_one(self, x: Features) -> None:
        """Update the fading moments of each number and the known values of each category."""
        count, mean, m2, memory = self.count, self.mean, self.m2, self.memory
        for name, value in x.items():
            if isinstance(value, str):
                _admit(self.seen, name, value)
            elif name in count:
                n = count[name]
                if n < memory:
                    n = count[name] = n + 1
                else:
                    m2[name] -= m2[name] / n
                delta = value - mean[name]
                centre = mean[name] = mean[name] + delta / n
                m2[name] += delta * (value - centre)
            else:
                count[name], mean[name], m2[name] = 1, value, 0.0


class StandardiseTarget(base.Regressor):
    """A regressor that learns the target standardised by its running moments, clipped as features are.

    It makes a learning rate mean the same whatever the target's unit. River's own holds bound methods of
    itself, which no exact list of a checkpoint can name.
    """

    def __init__(self, regressor: base.Regressor) -> None:
        self.regressor = regressor
        self.count = 0
        self.mean = 0.0
        self.m2 = 0.0

    @property
    def deviation(self) -> float:
        """Of the targets so far; 1 before there are two."""
        return (self.m2 / self.count) ** 0.5 if self.count and self.m2 > 0.0 else 1.0

    def learn_one(self, x: Features, y: Any) -> None:
        """Update the moments, then teach the standardised target."""
        self.count += 1
        delta = y - self.mean
        self.mean += delta / self.count
        self.m2 += delta * (y - self.mean)
        z = (y - self.mean) / self.deviation
        self.regressor.learn_one(x, CLIP if z > CLIP else max(z, -CLIP))

    def predict_one(self, x: Features) -> float:
        """Answer in the target's own unit."""
        return self.mean + self.deviation * float(self.regressor.predict_one(x))


class _Categories(base.Transformer):
    """Remembers the values of each category, up to a hundred."""

    def __init__(self) -> None:
        self.seen: dict[Hashable, dict[str, str]] = {}

    def learn_one(self, x: Features) -> None:
        """Remember the values of each category, up to a hundred."""
        for name, value in x.items():
            if isinstance(value, str):
                _admit(self.seen, name, value)


class OneHot(_Categories):
    """Categories to one-hots, numbers as they are: for models that take numbers only and need no scale."""

    def transform_one(self, x: Features) -> Features:
        """Return numbers unchanged; for a category one 1.0, and 0.0 for each other value known by now."""
        out: Features = {}
        for name, value in x.items():
            if not isinstance(value, str):
                out[name] = value
                continue
            hot = self.seen.get(name, {}).get(value) or f"{name}={OTHER}"
            for column in self.seen.get(name, {}).values():
                out[column] = 0.0
            out[f"{name}={OTHER}"] = 0.0
            out[hot] = 1.0
        return out


class LimitCategories(_Categories):
    """Categories stay strings; what comes after the first hundred values of one is `other`."""

    def transform_one(self, x: Features) -> Features:
        """Return `x` with unknown values replaced."""
        return {
            name: value if not isinstance(value, str) or value in self.seen.get(name, ()) else OTHER
            for name, value in x.items()
        }


class _BoundedLeaves:
    """Stops a tree from splitting at a number of leaves: River's own limit reads what pickling changes."""

    max_leaves = 2_000
    _n_active_leaves: int
    _n_inactive_leaves: int

    def _attempt_to_split(self, *args: object, **kwargs: object) -> None:
        if self._n_active_leaves + self._n_inactive_leaves < self.max_leaves:
            super()._attempt_to_split(*args, **kwargs)  # type: ignore[misc]  # a mixin before River's tree


class BoundedTreeClassifier(_BoundedLeaves, trees.HoeffdingTreeClassifier):
    """A Hoeffding tree of at most 2,000 leaves."""


class BoundedTreeRegressor(_BoundedLeaves, tree.HoeffdingTreeRegressor):
    """A Hoeffding tree regressor of at most 2,000 leaves."""


class BoundedAdaptiveTreeClassifier(_BoundedLeaves, trees.HoeffdingAdaptiveTreeClassifier):
    """A Hoeffding adaptive tree of at most 2,000 leaves."""


class BoundedAdaptiveTreeRegressor(_BoundedLeaves, tree.HoeffdingAdaptiveTreeRegressor):
    """A Hoeffding adaptive tree regressor of at most 2,000 leaves."""
