"""Gaussian naive Bayes in straight-line code: River's numbers to the bit, in a tenth of the time.

River leaves the last step of an answer to `scipy.special.logsumexp`, which on two numbers takes ten times as
long as all the rest. Here the same operations are done in the same order: the exponentials and logarithms
that scipy takes from numpy are numpy's here too, since they may differ from Python's in the last bit.

What is not finite goes River's way. Everything here is held against River by `tests/test_fused_bayes.py`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from fluvial.types import Feature

LEAST = 1e-9
"""River adds it to each density, so that none is 0."""
LOG_LEAST = math.log(LEAST)
ROOT_TAU = math.sqrt(2.0 * math.pi)
IN_A_ROW = 7
"""Numbers that numpy adds up one after the other: of more its sum has another order."""

Features = dict[str, Feature]


class StraightBayes:
    """Goes before River's `GaussianNB`, and is asked and taught in its place."""

    class_counts: dict[Any, int]
    gaussians: dict[Any, dict[str, Any]]

    def predict_proba_one(self, x: Any) -> Any:
        """Return River's answer."""
        logs = joint_logs(x, self.class_counts, self.gaussians)
        whole = log_sum(logs.values()) if logs else math.nan
        if not math.isfinite(whole):
            return super().predict_proba_one(x)  # type: ignore[misc]  # a mixin before River's class
        return {label: math.exp(each - whole) for label, each in logs.items()}

    def learn_one(self, x: Any, y: Any) -> None:
        """Learn as River does: each Gaussian by Welford's step."""
        self.class_counts[y] += 1
        gaussians = self.gaussians[y] if x else {}  # which makes them
        for name, value in x.items():
            variance = gaussians[name]._var
            mean = variance.mean
            before = mean._mean
            mean.n += 1.0
            mean._mean = after = before + (1.0 / mean.n) * (value - before)
            variance._S += (value - before) * (value - after)


def joint_logs(x: Features, counts: Mapping[Any, int], gaussians: Mapping[Any, Mapping[str, Any]]) -> Any:
    """Each class's log-likelihood of `x` with the class: `GaussianNB.joint_log_likelihood`."""
    total, items = sum(counts.values()), x.items()
    found = {}
    for label, count in counts.items():
        known = gaussians.get(label, {})
        logs = [log_density(known[name], value) if name in known else LOG_LEAST for name, value in items]
        found[label] = math.log(count / total) + sum(logs)
    return found


def log_density(gaussian: Any, value: Any) -> float:
    """`math.log(LEAST + gaussian(value))`."""
    variance = gaussian._var
    weight = variance.mean.n - variance.ddof
    if weight > 0:
        square = variance._S / weight
        if square > 0.0:
            try:
                sigma = math.sqrt(square)
                z = (value - variance.mean._mean) / sigma
                return math.log(LEAST + math.exp(-0.5 * z * z) / ROOT_TAU / sigma)
            except (ValueError, OverflowError):
                return LOG_LEAST
    return LOG_LEAST


def log_sum(logs: Collection[float]) -> float:
    """The logarithm of the sum of exponentials, the largest apart (`scipy.special.logsumexp`), or NaN."""
    top = max(logs)
    if not math.isfinite(top):
        return math.nan
    rest, tops = _beside(logs, top) if len(logs) <= IN_A_ROW else _beside_of_many(logs, top)
    if tops == 1:
        return float(np.log1p(rest) + top)
    return float(np.log1p(rest / tops) + np.log(float(tops)) + top)


def _beside(logs: Collection[float], top: float) -> tuple[float, int]:
    """The sum of the exponentials of all but the largest, over that one's; and how many are the largest."""
    rest, tops = 0.0, 0
    for each in logs:
        if each == top:
            tops += 1
        else:
            rest += np.exp(each - top)
    return rest, tops


def _beside_of_many(logs: Collection[float], top: float) -> tuple[float, int]:
    """The same in numpy's order."""
    numbers = np.fromiter(logs, np.float64, len(logs))
    largest = numbers == top
    numbers[largest] = -np.inf
    return float(np.add.reduce(np.exp(numbers - top))), int(np.count_nonzero(largest))
