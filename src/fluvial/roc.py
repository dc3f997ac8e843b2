"""The area under the ROC curve of a stream, in bounded memory and whatever the scores' distribution.

Scores are kept as groups, sorted: each a score with the weight of the negatives and of the positives that
got it. When there are more than `GROUPS`, neighbours are merged into groups of about equal weight. Only
pairs within a group are unknown and counted half, so the area is off by at most half a group's share,
.0005. Fixed bins, of the score or of its log-odds, have no such bound: concentrated scores fall into one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

GROUPS = 1_024

Floats = NDArray[np.float64]


class RocCurve:
    """Groups of equal scores, or of neighbours; `table` has the rows score, negatives, positives."""

    def __init__(self, table: Floats | None = None) -> None:
        self.table: Floats = np.zeros((3, 0)) if table is None else table

    def scale(self, factor: float) -> None:
        """Fade all weights."""
        self.table[1:] *= factor

    def add(self, scores: Floats, positive: NDArray[np.bool_], weights: Floats) -> None:
        """Count scores of shape (n,), each by its weight."""
        newer = np.stack([scores, np.where(positive, 0.0, weights), np.where(positive, weights, 0.0)])
        table = np.concatenate([self.table, newer], axis=1)
        table = table[:, np.argsort(table[0], kind="stable")]
        table = _merged(table, np.flatnonzero(np.diff(table[0], prepend=-np.inf)))
        self.table = _compressed(table) if table.shape[1] > GROUPS else table

    def area(self) -> float | None:
        """Share of (positive, negative) pairs in the right order, those within a group counted half."""
        _, negative, positive = self.table
        pairs = float(negative.sum()) * float(positive.sum())
        if pairs <= 0.0:
            return None
        below = np.cumsum(negative) - negative
        return float(positive @ (below + 0.5 * negative)) / pairs

    def copy(self) -> RocCurve:
        """Another one with the same groups."""
        return RocCurve(self.table.copy())


def _merged(table: Floats, starts: Sequence[int] | NDArray[np.int64]) -> Floats:
    """Add up the runs of columns that begin at `starts`; a run's score is its mean by weight."""
    summed = np.add.reduceat(table[1:], starts, axis=1)
    weight = table[1] + table[2]
    total = summed[0] + summed[1]
    mean = np.add.reduceat(table[0] * weight, starts) / np.where(total > 0.0, total, 1.0)
    # A run of one keeps its score to the bit: equal scores have to stay equal.
    single = np.diff(np.append(starts, table.shape[1])) == 1
    first = table[0][starts]
    same = single | (np.maximum.reduceat(table[0], starts) == first) | (total <= 0.0)
    return np.concatenate([np.where(same, first, mean)[None], summed])


def _compressed(table: Floats) -> Floats:
    """Merge neighbours whose middles fall into the same of `GROUPS` equal shares of the weight."""
    weight = table[1] + table[2]
    middle = np.cumsum(weight) - 0.5 * weight
    share = np.floor(middle * (GROUPS / max(float(weight.sum()), 1e-300)))
    return _merged(table, np.flatnonzero(np.diff(share, prepend=-1.0)))
