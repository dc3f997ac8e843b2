"""What happened during a fold, in bounded memory: losses, signals, versions, weights."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from fluvial.types import Event, MemberStanding, Outcome, SignalKind, Task

MAX_BUCKETS = 1 << 18
MAX_SAMPLES = 1_200


class Curve:
    """Sums of losses over equal buckets of events; when there are too many, two become one."""

    def __init__(self) -> None:
        self.size = 1
        """Events in a bucket, answered or not."""
        self.sums = array("d")
        self.answered = array("L")
        """Events in each bucket that had an answer: the losses in its sum."""
        self._rest: list[float | None] = []
        """Of a bucket that is not full."""

    def extend(self, losses: Sequence[float | None]) -> None:
        """Take one loss per event, in order; None: the model had no answer."""
        if self.size == 1:
            self.sums.extend(0.0 if loss is None else loss for loss in losses)
            self.answered.extend(loss is not None for loss in losses)
        else:
            rest = [*self._rest, *losses]
            full = len(rest) // self.size * self.size
            for start in range(0, full, self.size):
                bucket = [loss for loss in rest[start : start + self.size] if loss is not None]
                self.sums.append(sum(bucket))
                self.answered.append(len(bucket))
            self._rest = rest[full:]
        while len(self.sums) >= MAX_BUCKETS:
            self._coarsen()

    def _coarsen(self) -> None:
        pairs = len(self.sums) // 2
        if len(self.sums) % 2:
            # Its bucket is half full now; that is as if its events had come evenly.
            total, known = self.sums[-1], self.answered[-1]
            halves = [total / known] * known + [None] * (self.size - known) if known else [None] * self.size
            self._rest = [*halves, *self._rest]
        self.sums = array("d", [self.sums[2 * k] + self.sums[2 * k + 1] for k in range(pairs)])
        self.answered = array("L", [self.answered[2 * k] + self.answered[2 * k + 1] for k in range(pairs)])
        self.size *= 2

    @property
    def events(self) -> int:
        """How many it took."""
        return len(self.sums) * self.size + len(self._rest)


class Alarm(NamedTuple):
    """A signal, and where it came."""

    at: int
    """Labelled events that had come."""
    events: int
    """Labelled events that were learned."""
    kind: str
    plane: str
    before: float
    after: float
    since: int
    moved: tuple[Mapping[str, Any], ...] = ()
    """Features, or parts of the predictions, the surest first."""


class Step(NamedTuple):
    """A version, and where it was made."""

    at: int
    number: int
    cause: str
    because: str


class Fault(NamedTuple):
    """Something that the user's own policy did wrong, and where."""

    at: int
    because: str


class Weights(NamedTuple):
    """Weights of the mixture at one moment."""

    at: int
    members: tuple[tuple[str, bool, float], ...]
    """Lane, whether a champion, weight."""


class Trace:
    """Takes what came of each stretch of events."""

    def __init__(self, task: Task, at_fault: Callable[[str], bool] = lambda _: False) -> None:
        """`at_fault`: whether a hold with such a reason stands for a fault of the policy."""
        self._at_fault = at_fault
        self._regression = task is Task.REGRESSION
        self.curve = Curve()
        """Error (0 or 1) or absolute error of what was served to labelled events, in the order of serving."""
        self.alarms: list[Alarm] = []
        self.versions: list[Step] = []
        self.weights: list[Weights] = []
        self.holds = 0
        self.faults = 0
        """Holds that nobody decided: the policy was at fault."""
        self.first_fault: Fault | None = None
        self._every = 1
        self._turn = 0

    @property
    def at(self) -> int:
        """Labelled events that came so far, with an answer or without."""
        return self.curve.events

    def take(self, events: Sequence[Event], outcomes: Sequence[Outcome]) -> None:
        """What came of some events, in order."""
        if any(outcome.rare is not None for outcome in outcomes):
            for event, outcome in zip(events, outcomes, strict=True):
                self._take_losses((event,), (outcome,))
                if outcome.rare is not None:
                    self._note(outcome)
        else:
            self._take_losses(events, outcomes)

    def _take_losses(self, events: Sequence[Event], outcomes: Sequence[Outcome]) -> None:
        labelled = [(o, e.y) for e, o in zip(events, outcomes, strict=True) if e.y is not None]
        losses: list[float | None]
        if self._regression:
            losses = [abs(o.answer[0] - y) if o.known else None for o, y in labelled]
        else:
            losses = [(0.0 if o.choice == y else 1.0) if o.known else None for o, y in labelled]
        self.curve.extend(losses)

    def _note(self, outcome: Outcome) -> None:
        rare, at = outcome.rare, self.at
        assert rare is not None  # noqa: S101 - asked by the caller
        for s in rare.signals:
            moved = tuple(msgspec.to_builtins(s.moved))
            self.alarms.append(Alarm(at, s.events, s.kind.value, s.plane, s.before, s.after, s.since, moved))
        for version in rare.versions:
            because = str(version.detail.get("because", ""))
            self.versions.append(Step(at, version.number, version.cause, because))
        for entry in rare.entries:
            if entry.kind == "hold":
                self._hold(str(entry.detail.get("because", "")))

    def _hold(self, because: str) -> None:
        self.holds += 1
        if self._at_fault(because):
            self.faults += 1
            self.first_fault = self.first_fault or Fault(self.at, because)

    def weigh(self, members: Sequence[MemberStanding]) -> None:
        """Remember the weights, now and then."""
        self._turn += 1
        if self._turn % self._every:
            return
        shares = tuple((m.name, m.champion, m.weight) for m in members)
        self.weights.append(Weights(self.at, shares))
        if len(self.weights) >= MAX_SAMPLES:
            self.weights = self.weights[1::2]
            self._every *= 2

    @property
    def drifts(self) -> list[Alarm]:
        """Drifts of the error plane."""
        return [a for a in self.alarms if a.kind == SignalKind.DRIFT.value and a.plane == "error"]
