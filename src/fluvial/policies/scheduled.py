"""Begin again by the clock, changed or not: every so many events, or seconds of event time.

Single events lie about the hour: stragglers, partitions that are read in turn, a sender whose clock is a
month ahead. So an event is measured against the middle of the times before it, and against the renewals.
"""

from __future__ import annotations

from collections.abc import Sequence

from fluvial.policies.challenger import ASKED
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
    ) -> None:
        self.interval_events = interval_events
        self.interval_seconds = interval_seconds
        self.action = action
        self.events = events
        self.half_life = half_life
        self.period = ASKED if interval_seconds else interval_events

    def __call__(self, standing: Standing) -> Sequence[Decision]:
        """Renew the model if it is due. No storm of it is ever held: somebody chose how often."""
        because = self._due(standing)
        if not because:
            return ()
        renewed = Decision(action=self.action, because=because, events=self.events, half_life=self.half_life)
        return (renewed,)

    def _due(self, standing: Standing) -> str:
        """Why it is due; empty when it is not."""
        if self.interval_events and standing.events and standing.events % self.interval_events == 0:
            return f"every {self.interval_events} events"
        if not self.interval_seconds or standing.asked is None:
            return ""
        return f"every {self.interval_seconds:g} seconds" if self._entered(standing, standing.asked) else ""

    def _entered(self, standing: Standing, asked: float) -> bool:
        """Whether event time entered an interval later than that of the last renewal.

        An event of an interval before the usual one is a straggler. A renewal that lies ahead of the present
        was made by an event from ahead, or this is another straggler: the renewal before it counts.
        """
        now, usual = standing.time // self.interval_seconds, asked // self.interval_seconds
        if now < usual:
            return False
        for version in reversed(standing.versions):
            done = version.time // self.interval_seconds
            if version.cause == self.action and done <= now:
                return done < now
        return now > usual
