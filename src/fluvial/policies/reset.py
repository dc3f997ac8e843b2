"""Begin again when the error rose: a fresh model, taught the events since the change. The cheap tier."""

from __future__ import annotations

from collections.abc import Sequence

from fluvial.policies.guard import drift_in, hold
from fluvial.types import Action, Decision, Signal, Standing


class Reset:
    """Replaces the model at a one-sided drift; never for a falling error, which costs up to 24 points."""

    name = "reset"
    challengers = 0
    period = 0
    recalls = 0
    ready = 0

    def __init__(self, cooldown: int = 200, max_reactions: int = 10) -> None:
        self.cooldown = cooldown
        self.max_reactions = max_reactions

    def __call__(self, standing: Standing) -> Sequence[Decision]:
        """Reset at a drift, unless the guard holds."""
        drift = drift_in(standing)
        if drift is None:
            return ()
        held = hold(standing, drift, self.cooldown, self.max_reactions)
        return (held if held is not None else self.answer(drift),)

    def answer(self, drift: Signal) -> Decision:
        """What is done about a drift."""
        return Decision(action=Action.RESET, because="the error rose", signal=drift)


class Refit(Reset):
    """Replaces the model by one that learned the newest events: so many, or those since the change."""

    name = "refit"

    def __init__(
        self, events: int = 500, half_life: float = 0.0, cooldown: int = 200, max_reactions: int = 10
    ) -> None:
        super().__init__(cooldown, max_reactions)
        self.events = events
        self.half_life = half_life

    def answer(self, drift: Signal) -> Decision:
        """Refit on what the settings say."""
        return Decision(
            action=Action.REFIT,
            because="the error rose",
            signal=drift,
            events=self.events,
            half_life=self.half_life,
        )
