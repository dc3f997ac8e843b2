"""The flood breaker: so many events are refused that a person should look before more are.

It is a fold over the same log as the model: it counts an event's place among all events that the shard
has accounted for, never batches or time, and its counts travel in the checkpoint. So it trips at the
same event whatever crashes in between; counts that began anew with each process would let one that keeps
restarting dead-letter the whole topic. It is told of refused events only: the others cost nothing.

A trip empties the counts and stands until a person resumes it: the next one needs as many refusals again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from fluvial.config import DeadLetterSettings
from fluvial.types import Trip


class Breaker:
    """Pure: no clock, no I/O. `trip` is the one that nobody is known to have resumed."""

    def __init__(self, settings: DeadLetterSettings, state: Mapping[str, Any] | None = None) -> None:
        state = state or {"places": (), "run": 0, "last": 0, "trip": None}
        self._settings = settings
        self._places: deque[int] = deque(state["places"])
        """Of the refused events among the last `window` ones."""
        self._run: int = state["run"]
        self._last: int = state["last"]
        """Place of the last refused event; the first place is 1."""
        self.trip: Trip | None = None if state["trip"] is None else Trip(*state["trip"])

    def refused(self, place: int, partition: int, offset: int, reason: str) -> bool:
        """Count a refused event; True when it is the one too many.

        `place`: how many events of the shard are accounted for, this one included.
        """
        limits = self._settings
        self._run = self._run + 1 if place == self._last + 1 else 1
        self._last = place
        self._places.append(place)
        while self._places[0] <= place - limits.window:
            self._places.popleft()
        refused = len(self._places)
        if limits.max_run and self._run >= limits.max_run:
            flood = f"{self._run:,} events in a row were refused"
        elif refused > limits.max_share * limits.window:
            flood = f"{refused:,} of the last {limits.window:,} events were refused"
        else:
            return False
        where = f"the last at partition {partition}, offset {offset}, for {str(reason)!r}"
        self.trip = Trip(partition, offset, f"{flood}, {where}")
        self.begin_again()
        return True

    def adopt(self, trip: Trip | None) -> None:
        """Stand by a trip that the store knows of and that the loaded checkpoint does not."""
        self.trip = self.trip or trip

    def resumed(self) -> None:
        """A person has resumed it."""
        self.trip = None

    def begin_again(self) -> None:
        """Count from here on."""
        self._places.clear()
        self._run = self._last = 0

    def state(self) -> dict[str, Any]:
        """As primitives."""
        trip = self.trip
        return {
            "places": list(self._places),
            "run": self._run,
            "last": self._last,
            "trip": None if trip is None else (trip.partition, trip.offset, trip.because),
        }
