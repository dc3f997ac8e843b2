"""What keeps every policy from storming: a cooldown after each reaction and a limit on their number."""

from __future__ import annotations

from fluvial.types import Action, Decision, Signal, SignalKind, Standing


def signal_in(standing: Standing, kind: SignalKind, plane: str = "error") -> Signal | None:
    """The first signal of a kind on a plane that fired at this event, if one did."""
    for signal in standing.signals:
        if signal.kind is kind and signal.plane == plane:
            return signal
    return None


def drift_in(standing: Standing) -> Signal | None:
    """The drift on the error plane that fired at this event, if one did."""
    return signal_in(standing, SignalKind.DRIFT)


def hold(standing: Standing, signal: Signal | None, cooldown: int, max_reactions: int) -> Decision | None:
    """Say why nothing is done now; None when something may be."""
    if standing.recent_reactions >= max_reactions:
        because = f"storm: {standing.recent_reactions} reactions within 10,000 events; the model is kept"
        return Decision(action=Action.HOLD, because=because, signal=signal)
    if standing.since_reaction < cooldown:
        because = f"cooldown: {standing.since_reaction} of {cooldown} events since the last reaction"
        return Decision(action=Action.HOLD, because=because, signal=signal)
    return None
