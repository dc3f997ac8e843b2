"""When did it begin? The maximum-likelihood split of the recent losses.

ADWIN says that the error rose, and its `width` at that moment is not the time since it did. So the
learner keeps its own ring of losses and dates the change by the split under which they are likeliest,
a Bernoulli rate before and a higher one after (Page 1954; Lorden 1971 on the likelihood ratio).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LEAST = 5
"""A change is at least this many events old: fewer say nothing."""


def events_since_change(losses: Sequence[float], *, either: bool = False) -> int:
    """Count the newest losses (each 0 to 1) that lie after the likeliest rise; at least `LEAST`.

    `either`: after the likeliest rise or fall. With fewer than twice `LEAST` losses, or no split under
    which the mean rose: `LEAST` of them.
    """
    n = len(losses)
    if n < 2 * LEAST:
        return min(n, LEAST)
    sums = np.cumsum(np.asarray(losses, dtype=np.float64))
    split = np.arange(LEAST, n - LEAST + 1)
    before, after = sums[split - 1], sums[-1] - sums[split - 1]
    rate_before, rate_after = before / split, after / (n - split)
    likelihood = -split * _entropy(rate_before) - (n - split) * _entropy(rate_after)
    if not either:
        likelihood[rate_after <= rate_before] = -np.inf
    best = int(np.argmax(likelihood))
    if not np.isfinite(likelihood[best]):
        return LEAST
    return n - int(split[best])


def _entropy(rate: NDArray[np.float64]) -> NDArray[np.float64]:
    """Binary entropy in nats; 0 at 0 and 1."""
    p = np.clip(rate, 1e-12, 1.0 - 1e-12)
    entropy: NDArray[np.float64] = -(p * np.log(p) + (1.0 - p) * np.log(1.0 - p))
    return entropy
