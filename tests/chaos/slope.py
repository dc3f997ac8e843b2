"""Whether a series rises: a straight line through it, and how sure one can be of its slope."""

from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from statistics import fmean, linear_regression

from scipy import stats

BLOCKS = 20
"""Neighbouring samples resemble each other, so the line goes through the means of so many stretches."""
CONFIDENCE = 0.95
STEEPEST = 1.6
"""Times a step over the time: a single step in the middle makes a line half as steep again, and a little."""


@dataclass(frozen=True)
class Slope:
    """Of a series, in its unit an hour, with half the width of its confidence interval."""

    per_hour: float
    half_width: float

    @property
    def flat(self):
        """Whether it cannot be told from zero."""
        return abs(self.per_hour) <= self.half_width


def slope(seconds, values, blocks=BLOCKS, *, grain=0.0):
    """The slope of `values` over `seconds`, by least squares through the means of blocks.

    `grain`: the smallest difference that the values can show. One of them over the whole series is no slope:
    where it falls says nothing, and a line through a single step looks surer than it is.
    """
    blocks = min(blocks, len(values) // 2)
    if blocks < 3:
        msg = f"{len(values)} samples are too few for a slope"
        raise ValueError(msg)
    edges = [len(values) * i // blocks for i in range(blocks + 1)]
    stretches = [slice(a, b) for a, b in pairwise(edges)]
    x = [fmean(seconds[s]) / 3_600 for s in stretches]
    y = [fmean(values[s]) for s in stretches]
    per_hour, start = linear_regression(x, y)
    middle = fmean(x)
    rest = sum((b - start - per_hour * a) ** 2 for a, b in zip(x, y, strict=True))
    error = sqrt(rest / (blocks - 2) / sum((a - middle) ** 2 for a in x))
    surely = float(stats.t.ppf((1 + CONFIDENCE) / 2, blocks - 2)) * error
    return Slope(per_hour, max(surely, STEEPEST * grain * 3_600 / (seconds[-1] - seconds[0])))
