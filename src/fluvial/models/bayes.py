"""River's Gaussian naive Bayes by a shortcut, under its own name.

`unpickle` loads River's class as this one, so that a user's factory need not know it. The name stands in
checkpoints.
"""

from __future__ import annotations

from river import naive_bayes

from fluvial.fused import StraightBayes

__all__ = ["GaussianNB"]


class GaussianNB(StraightBayes, naive_bayes.GaussianNB):  # type: ignore[misc]  # River's annotates less
    """River's naive Bayes."""
