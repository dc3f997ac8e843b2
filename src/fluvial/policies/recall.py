"""Concepts come back, and so do the models that knew them.

At a drift the retired models that the fold keeps, and a fresh one, are compared with the present one on the
events since the change. A retired one that is clearly better than both returns, and the fresh one goes on
trial behind it; where none is, the fresh one takes over.
"""

from __future__ import annotations

from collections.abc import Sequence

from fluvial.policies.challenger import ASKED, judge
from fluvial.policies.guard import drift_in, hold
from fluvial.types import Action, Decision, Standing


class Recall:
    """Recalls or resets at a drift."""

    name = "recall"
    challengers = 0
    period = ASKED

    def __init__(
        self,
        recalls: int = 5,
        ready: int = 100,
        evidence: float = 100.0,
        trial: int = 2_000,
        cooldown: int = 200,
        max_reactions: int = 10,
    ) -> None:
        self.recalls = recalls
        self.ready = ready
        self.evidence = evidence
        self.trial = trial
        self.cooldown = cooldown
        self.max_reactions = max_reactions

    def __call__(self, standing: Standing) -> Sequence[Decision]:
        """Answer a drift first; otherwise judge the trial of the one that was not recalled."""
        drift = drift_in(standing)
        if drift is None:
            return judge(standing, self.evidence, self.trial)
        held = hold(standing, drift, self.cooldown, self.max_reactions)
        if held is not None:
            return (held,)
        return (Decision(action=Action.RECALL, because="the error rose", signal=drift),)
