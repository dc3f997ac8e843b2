"""When a checkpoint is due: by count and by time, and never so often that saving eats the work."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from fluvial.config import CheckpointSettings

LEAST_RATIO = 50.0
"""At least this many times a save's duration lies between two: at most two per cent go into it.

A save's duration is the middle one of the last three: one that the machine held up for half a second would
otherwise keep a shard without a checkpoint for 25.
"""


class Pace:
    """Counts events and seconds since the last checkpoint."""

    def __init__(self, settings: CheckpointSettings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._events = 0
        self._since = clock()
        self._lately = deque([0.0, 0.0, 0.0], maxlen=3)
        self.took = 0.0
        """Seconds that the last attempt took."""

    def count(self, events: int) -> None:
        """Events were folded."""
        self._events += events

    def due(self) -> bool:
        """Whether to save now; nothing new is no reason to."""
        if not self._events:
            return False
        elapsed = self._clock() - self._since
        wanted = elapsed >= self._settings.every_seconds or self._events >= self._settings.every_events
        return wanted and elapsed >= LEAST_RATIO * sorted(self._lately)[1]

    def started(self) -> float:
        """An attempt begins; returns the time to give to `ended`."""
        return self._clock()

    def ended(self, started: float, *, saved: bool = True) -> None:
        """An attempt ended; one that saved nothing is made again even when no event follows."""
        self._since = self._clock()
        self.took = self._since - started
        self._lately.append(self.took)
        if saved:
            self._events = 0
