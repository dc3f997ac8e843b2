"""Begin again by the clock, changed or not: every so many events, or seconds of event time."""

from __future__ import annotations

from collections.abc import Sequence

from fluvial.policies.challenger import ASKED
from fluvial.policies.guard import hold
from fluvial.types import Action, Decision, Standing


class Scheduled:
    """Refits or resets when it is due. Event time counts from the epoch: 86,400 s is each midnight UTC."""

    name = "scheduled"
    challengers = 0
    recalls = 0
    ready = 0

    def __init__(
        self,
        interval_events: int = 0,
        interval_seconds: float = 0.0,
        action: Action = Action.REFIT,
        events: int = 500,
        half_life: float = 0.0,
        max_reactions: int = 10,
    ) -> None:
        self.interval_events = interval_events
        self.interval_seconds = interval_seconds
        self.action = action
        self.events = events
        self.half_life = half_life
        self.max_reactions = max_reactions
        self.period = ASKED if interval_seconds else interval_events

    def __call__(self, standing: Standing) -> Sequence[Decision]:
        """Renew the model if it is due."""
        because = self._due(standing)
        if not because:
            return ()
        # So many events apart, as somebody chose, is no storm; the clock may run wild.
        held = None if self.interval_events else hold(standing, None, 0, self.max_reactions)
        if held is not None:
            return (held,)
        renewed = Decision(action=self.action, because=because, events=self.events, half_life=self.half_life)
        return (renewed,)

    def _due(self, standing: Standing) -> str:
        """Why it is due; empty when it is not."""
        if self.interval_events and standing.events and standing.events % self.interval_events == 0:
            return f"every {self.interval_events} events"
        if not self.interval_seconds or standing.asked is None:
            return ""
        turned = standing.time // self.interval_seconds > standing.asked // self.interval_seconds
        return f"every {self.interval_seconds:g} seconds" if turned and self._rested(standing) else ""

    def _rested(self, standing: Standing) -> bool:
        """Whether half an interval has passed since the last time: partitions may disagree about the hour."""
        mine = [v for v in standing.versions if v.cause == self.action]
        return not mine or abs(standing.time - mine[-1].time) >= self.interval_seconds / 2
