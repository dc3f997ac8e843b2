"""What a run of the demo leaves behind, and what can be told from it: who was right, and what that was worth.

Pure: no clock, no thread, no drawing.

Events are counted from 0; an event's number is its offset. A *gradual* change mixes the two rules around
its position and begins to show earlier: lateness is counted from where it begins.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence

import msgspec

from fluvial.streams import MARKET_WIDTH
from fluvial.types import Rare, Signal, SignalKind, Version

TOLERANCE = 500
"""Events by which a signal may date a change too late and still mean it."""


class Change(msgspec.Struct, frozen=True):
    """One true change of the rule."""

    position: int
    """The first event under the new rule; of a gradual change, its middle."""
    gradual: bool
    begin: int
    """The first event at which it can show."""
    settled: int
    """The first event at which the new rule holds for good."""


def changes_within(events: int, every: int) -> tuple[Change, ...]:
    """Changes of the market stream among the first `events`: odd ones abrupt, even ones gradual."""
    changes = []
    for number, at in enumerate(range(every, events, every), 1):
        gradual = number % 2 == 0
        width = min(MARKET_WIDTH, every // 4) if gradual else 0
        changes.append(Change(position=at, gradual=gradual, begin=at - width, settled=at + width))
    return tuple(changes)


class Tally:
    """Right or wrong, event by event, as prefix sums: the accuracy over any stretch costs nothing."""

    def __init__(self) -> None:
        self._right = array("L", [0])

    @property
    def until(self) -> int:
        """How many events are judged."""
        return len(self._right) - 1

    def add(self, right: bool) -> None:
        """Judge the next event."""
        self._right.append(self._right[-1] + right)

    def accuracy(self, start: int, end: int) -> float | None:
        """Share of right ones among the judged events of [start, end); None where there is none."""
        start, end = max(0, start), min(end, self.until)
        return (self._right[end] - self._right[start]) / (end - start) if end > start else None


class Happening(msgspec.Struct, frozen=True):
    """One line of what happened."""

    event: int
    kind: str
    """`change`, `warning`, `drift`, `recovered`, `answer`, `held` or `log`."""
    text: str


class Record:
    """Everything that is kept of a run. One thread writes each tally; any thread may read."""

    def __init__(self, events: int, every: int) -> None:
        self.events = events
        """How many are planned."""
        self.changes = changes_within(events, every)
        self.window = max(100, min(1_000, every // 350 * 50))
        """Events of the running accuracy."""
        self.worker, self.twin, self.no_change = Tally(), Tally(), Tally()
        self.happenings: list[Happening] = []
        self.signals: list[Signal] = []
        self.versions: list[Version] = []
        self._labels: list[object] = []

    @property
    def until(self) -> int:
        """How many events both the worker and the twin have answered."""
        return min(self.worker.until, self.twin.until)

    def sent(self, label: object) -> None:
        """Take the label of the next event, before it is on its way."""
        number = len(self._labels)
        self.no_change.add(number > 0 and self._labels[-1] == label)
        self._labels.append(label)
        for change in self.changes:
            if number == change.begin:
                text = "the rule begins to change" if change.gradual else "the rule changes at once"
                self.happenings.append(Happening(number, "change", text))

    def twin_said(self, right: bool) -> None:
        """Judge the twin's answer to the next event."""
        self.twin.add(right)

    def served(self, offset: int, prediction: object) -> None:
        """Judge the score that the worker published for this event; one that it left out counts as wrong."""
        while self.worker.until < offset:
            self.worker.add(False)
        if self.worker.until == offset:  # a lower one was published again
            self.worker.add(prediction == self._labels[offset])

    def heard(self, rare: Rare) -> None:
        """Keep what the worker's fold said."""
        for signal in rare.signals:
            self.signals.append(signal)
            self.happenings.append(Happening(signal.events, str(signal.kind), _signal_text(signal)))
        for version in rare.versions:
            self.versions.append(version)
            self.happenings.append(Happening(version.events, "answer", _version_text(version)))
        for entry in rare.entries:
            if entry.kind == "hold" and entry.offset is not None:
                why = str(entry.detail.get("because", ""))
                self.happenings.append(Happening(entry.offset + 1, "held", why))

    def logged(self, text: str) -> None:
        """Keep a line of the worker's log."""
        self.happenings.append(Happening(self.until, "log", text))


def _signal_text(signal: Signal) -> str:
    rates = f"wrong {100 * signal.before:.0f} -> {100 * signal.after:.0f} %"
    if signal.moved:
        rates = f"{signal.plane}: {signal.moved[0].shown} {signal.before:.3g} -> {signal.after:.3g}"
    if signal.kind is SignalKind.RECOVERED:
        return rates
    return f"{rates}, from about {signal.since:,}"


_DONE = {
    "restart": "challenger restarted",
    "promotion": "challenger promoted",
    "reset": "model reset",
    "non-finite": "model put back",
    "events-lost": "model begun afresh",
}


def _version_text(version: Version) -> str:
    return f"{_DONE.get(version.cause, version.cause)}: version {version.number}"


# ---- what it was worth ----------------------------------------------------------------------------


class Stretch(msgspec.Struct, frozen=True):
    """From where one change begins to where the next one does, as it went with and without reaction."""

    start: int
    end: int
    change: Change | None
    """None: the stretch before the first change."""
    noticed_after: int | None
    """Events from the change's beginning to the first drift signal that dates it there; None: none did."""
    warned_after: int | None
    """The same for the first warning."""
    other_signals: int
    """Further drift signals in this stretch; before the first change, all of them: false alarms."""
    done: str
    """The versions that were made; empty where the weights of a mixture were all that moved."""
    worker: float
    """Accuracy, 0 to 1."""
    twin: float
    no_change: float

    @property
    def worth(self) -> float:
        """Points of accuracy that the reaction was worth against the twin."""
        return 100.0 * (self.worker - self.twin)


class Summary(msgspec.Struct, frozen=True):
    """The run in numbers."""

    events: int
    """Answered by both."""
    planned: int
    stretches: tuple[Stretch, ...]
    worker: float
    twin: float
    no_change: float
    """Accuracy of repeating the last label."""
    false_alarms: int

    @property
    def worth(self) -> float:
        """Points of accuracy over the whole run."""
        return 100.0 * (self.worker - self.twin)


def summarise(record: Record) -> Summary:
    """Match drifts to signals and compare with the twin, over what both have answered so far."""
    until = record.until
    begun: list[Change | None] = [None, *(c for c in record.changes if c.begin < until)]
    starts = [change.begin if change else 0 for change in begun]
    ends = [*starts[1:], until]
    stretches = tuple(
        _stretch(record, change, start, end) for change, start, end in zip(begun, starts, ends, strict=True)
    )
    return Summary(
        events=until,
        planned=record.events,
        stretches=stretches,
        worker=record.worker.accuracy(0, until) or 0.0,
        twin=record.twin.accuracy(0, until) or 0.0,
        no_change=record.no_change.accuracy(0, until) or 0.0,
        false_alarms=stretches[0].other_signals,
    )


def _stretch(record: Record, change: Change | None, start: int, end: int) -> Stretch:
    within = [s for s in record.signals if start < s.events <= end and not s.moved]  # those of the error

    def noticed(kind: SignalKind) -> int | None:
        if change is None:
            return None
        latest = change.settled + TOLERANCE
        meant = (s.events - start for s in within if s.kind is kind and s.since <= latest)
        return next(meant, None)

    noticed_after = noticed(SignalKind.DRIFT)
    drifts = sum(signal.kind is SignalKind.DRIFT for signal in within)
    return Stretch(
        start=start,
        end=end,
        change=change,
        noticed_after=noticed_after,
        warned_after=noticed(SignalKind.WARNING),
        other_signals=drifts - (noticed_after is not None),
        done=_done([version for version in record.versions if start < version.events <= end]),
        worker=record.worker.accuracy(start, end) or 0.0,
        twin=record.twin.accuracy(start, end) or 0.0,
        no_change=record.no_change.accuracy(start, end) or 0.0,
    )


def _done(versions: Sequence[Version]) -> str:
    """Say each cause once, in the order of its first time: `challenger restarted, promoted 3 times`."""
    words = []
    for cause, times in Counter(version.cause for version in versions).items():
        words.append(_DONE.get(cause, cause) + (f" {times} times" if times > 1 else ""))
    return ", ".join(words).replace(", challenger", ",")
