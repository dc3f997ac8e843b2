"""Begin again when the error rose: a fresh model, taught the events since the change. The cheap tier."""

from __future__ import annotations

from collections.abc import Sequence

from fluvial.policies.guard import drift_in, hold
from fluvial.types import Action, Decision, Standing


class Reset:
    """Replaces the model at a one-sided drift; never for a falling error, which costs up to 24 points."""

    name = "reset"
    challengers = 0
    period = 0

    def __init__(self, cooldown: int = 200, max_reactions: int = 10) -> None:
        self.cooldown = cooldown
        self.max_reactions = max_reactions

    def __call__(self, standing: Standing) -> Sequence[Decision]:
        """Reset at a drift, unless the guard holds."""
        drift = drift_in(standing)
        if drift is None:
            return ()
        held = hold(standing, drift, self.cooldown, self.max_reactions)
        if held is not None:
            return (held,)
        return (Decision(action=Action.RESET, because="the error rose", signal=drift),)
