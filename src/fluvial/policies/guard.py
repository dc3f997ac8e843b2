"""What keeps every policy from storming: a cooldown after each reaction and a limit on their number."""

from __future__ import annotations

from fluvial.types import Action, Decision, Signal, SignalKind, Standing


def drift_in(standing: Standing) -> Signal | None:
    """The drift on the error plane that fired at this event, if one did."""
    for signal in standing.signals:
        if signal.kind is SignalKind.DRIFT and signal.plane == "error":
            return signal
    return None


def hold(standing: Standing, signal: Signal, cooldown: int, max_reactions: int) -> Decision | None:
    """Say why a drift is not answered now; None when it may be."""
    if standing.recent_reactions >= max_reactions:
        because = f"storm: {standing.recent_reactions} reactions within 10,000 events; the model is kept"
        return Decision(action=Action.HOLD, because=because, signal=signal)
    if standing.since_reaction < cooldown:
        because = f"cooldown: {standing.since_reaction} of {cooldown} events since the last reaction"
        return Decision(action=Action.HOLD, because=because, signal=signal)
    return None
