"""The mean of a series that hangs together, and how sure it is: by the means of batches of neighbours."""

from __future__ import annotations

import math

BATCHES = 64
"""At most; then two neighbours become one."""
LEAST_BATCHES = 16
"""Fewer say nothing of how far the mean may be off."""
NORMAL, STUDENT = 1.959964, 2.37
"""Student's 97.5 % quantile is the first and the second over the degrees of freedom (to 1 %, from 15 on)."""


class BatchMeans:
    """Batch means (Conway 1963): neighbours that are alike count as what they are worth together."""

    def __init__(self) -> None:
        self._size, self._rest, self._left = 1, 0.0, 0
        self._sums: list[float] = []
        self.events, self._total = 0, 0.0

    def add(self, value: float) -> None:
        """Take the next value."""
        self.events += 1
        self._total += value
        self._rest += value
        self._left += 1
        if self._left == self._size:
            self._sums.append(self._rest)
            self._rest, self._left = 0.0, 0
        if len(self._sums) == BATCHES:
            self._sums = [a + b for a, b in zip(self._sums[::2], self._sums[1::2], strict=True)]
            self._size *= 2

    @property
    def mean(self) -> float:
        """Of all values; 0 of none."""
        return self._total / self.events if self.events else 0.0

    def interval(self) -> tuple[float, float] | None:
        """Where the mean lies with 95 % confidence; None when there are too few values."""
        n = len(self._sums)
        if n < LEAST_BATCHES or self._size < 2:
            return None
        means = [each / self._size for each in self._sums]
        middle = sum(means) / n
        spread = math.sqrt(sum((m - middle) ** 2 for m in means) / (n - 1))
        half = (NORMAL + STUDENT / (n - 1)) * spread / math.sqrt(n)
        return self.mean - half, self.mean + half
