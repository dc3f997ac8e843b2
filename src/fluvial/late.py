"""Labels that come late: answers that were served wait here until their labels count as known.

Metrics use the answer that was served. Weights and monitors use answers asked again when the label
comes, before it is learned, by models that have all seen the same labels: an answer of before says how
the models of then did, and a reset whose good could not show yet would be answered by another one.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from fluvial.types import Answer, Event, Feature, Label, Served, Task

Row = tuple[dict[str, Feature], Label, float, Answer, int]
"""As `memory` has them."""
DelayOf = Callable[[Event], float]
"""After how much each event's label is known: for a backtest that reads it from a column."""


class Lateness(msgspec.Struct, frozen=True):
    """When a label counts as known: after so many further labelled events, or seconds of event time."""

    delay: int = 0
    """Of every event, in labelled events."""
    delay_of: DelayOf | None = None
    """Of each event, instead."""
    unit: str = "events"
    """Of `delay_of`: `events` or `seconds`."""


class Held(msgspec.Struct, frozen=True):
    """An event that was answered and whose label is not known yet."""

    partition: int
    offset: int
    x: dict[str, Feature]
    y: Label
    weight: float
    answer: Answer | None
    """What was served; None: no model could answer."""
    before: Label = math.nan
    """The label of the labelled event that came before it; NaN: there was none, or it is not known."""


class LateLabels:
    """The pending events of one fold, by when their labels are known and then in the order they came."""

    def __init__(self, lateness: Lateness, state: Mapping[str, Any] | None = None) -> None:
        self._lateness = lateness
        self._always = lateness.delay > 0 or lateness.delay_of is not None
        self.came: int = 0
        """Labelled events that came, known or not."""
        self._queue: list[tuple[float, int, Held]] = []
        self._given_up: dict[tuple[int, int], str] = {}
        """Why labels that are still to come are left out. No part of the state: a fold from any checkpoint
        meets the same error again."""
        self._again: dict[int, Answer] = {}
        """Place among the rows since the last turn -> what was answered when the label came."""
        self._before: dict[int, Label] = {}
        """Place among them -> the label that came before: they are learned in another order."""
        self._last: Label = math.nan
        """Of the newest labelled event."""
        if state is not None:
            self.came = state["came"]
            rows = ((due, n, Held(p, o, dict(x), *rest)) for due, n, p, o, x, *rest in state["pending"])
            self._queue = list(rows)
            self._again = dict(state["again"])
            self._before = dict(state.get("before", ()))
            self._last = state.get("last", math.nan)

    @property
    def busy(self) -> bool:
        """Whether labels wait, or may have to."""
        return self._always or bool(self._queue)

    def __len__(self) -> int:
        return len(self._queue)

    def keep(self, event: Event, y: Label, answer: Answer | None) -> str | None:
        """Let a label wait for its time; or why it is left out."""
        self.came += 1
        before, self._last = self._last, y
        if self._given_up and (why := self._given_up.pop((event.partition, event.offset), None)) is not None:
            return why
        late = self._lateness
        if late.delay_of is None:
            due = float(self.came + late.delay)
        elif late.unit == "events":
            due = self.came + late.delay_of(event)
        else:
            due = event.time + late.delay_of(event)
        held = Held(event.partition, event.offset, event.x, y, event.weight, answer, before)
        heapq.heappush(self._queue, (due, self.came, held))
        return None

    def known(self, time: float) -> Iterator[tuple[Held, int]]:
        """Give, and forget, those whose labels are known now, and how many labelled events came since.

        `time` is the present event's.
        """
        now = time if self._lateness.unit == "seconds" else float(self.came)
        while self._queue and self._queue[0][0] <= now:
            _, number, held = heapq.heappop(self._queue)
            yield held, self.came - number

    def give_up(self, partition: int, offset: int, why: str) -> bool:
        """Forget one whose label cannot be learned; False when it is not here: it is left out if it comes."""
        left = [row for row in self._queue if (row[2].partition, row[2].offset) != (partition, offset)]
        found = len(left) < len(self._queue)
        heapq.heapify(left)
        self._queue = left
        if not found:
            self._given_up[partition, offset] = why
        return found

    def judge(self, place: int, again: Answer, before: Label) -> None:
        """Say of the row at `place` since the last turn by what it is judged, and which label came before."""
        self._again[place] = again
        self._before[place] = before

    def served(self, rows: Sequence[Row]) -> list[Served]:
        """Rows since the last turn as metrics take them; late ones with the label that came before."""
        if not self._before:
            return [(y, answer) for _, y, _, answer, _ in rows]
        before = self._before
        return [
            (y, answer, before[place]) if place in before else (y, answer)
            for place, (_, y, _, answer, _) in enumerate(rows)
        ]

    def judged(self, rows: Sequence[Row], task: Task) -> Sequence[Row]:
        """Rows since the last turn with what weights and monitors judge them by; begins the next turn."""
        if not self._again:
            return rows
        again, self._again, self._before = self._again, {}, {}
        out: list[Row] = []
        for place, row in enumerate(rows):
            answer = again.get(place)
            if answer is None:
                out.append(row)
            else:
                choice = 0 if task is Task.REGRESSION else answer.index(max(answer))
                out.append((*row[:3], answer, choice))
        return out

    def state(self) -> dict[str, Any]:
        """As tuples, features in schema order."""
        return {
            "came": self.came,
            # A heap's list may lie differently after another history; sorted is a heap too.
            "pending": [
                (due, n, h.partition, h.offset, tuple(h.x.items()), h.y, h.weight, h.answer, h.before)
                for due, n, h in sorted(self._queue, key=lambda row: row[:2])
            ],
            "again": dict(self._again),
            "before": dict(self._before),
            "last": self._last,
        }


def checked_delay(value: object) -> float | None:
    """A delay as a column gives it; None where it is none."""
    try:
        delay = float(value)  # type: ignore[arg-type]  # what is no number raises
    except (TypeError, ValueError):
        return None
    return delay if math.isfinite(delay) and delay >= 0.0 else None
