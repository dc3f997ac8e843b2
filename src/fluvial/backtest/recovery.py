"""How long each run took after a drift until its loss was back where it settles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from fluvial.backtest.trace import Curve, Trace

AHEAD = 500
"""Events over which the loss has to be back."""
SETTLED_EVENTS = 2_000
"""At most so many of the last events before the next drift say what level is settled."""
NEAR = 0.01
"""Back is within a point of accuracy, or 1 % of the settled error in regression."""

Floats = NDArray[np.float64]


class Losses(NamedTuple):
    """What was lost in how many events, up to the end of each bucket, beginning with 0."""

    total: Floats
    answered: Floats
    """Events with an answer: the others lose nothing and count in no mean."""
    size: int
    """Labelled events in a bucket."""

    def mean(self, first: int, last: int) -> float | None:
        """Mean loss between two ends of buckets; None without an answer there."""
        answered = self.answered[last] - self.answered[first]
        return float((self.total[last] - self.total[first]) / answered) if answered else None


class Recovery(msgspec.Struct, frozen=True):
    """How a run came through one drift."""

    drift: int
    found_after: int | None
    """Events until the first drift signal; None: missed, or the drift is the run's own signal."""
    events: int | None
    """Events until the loss was back at its settled level; None: never, or the stretch is too short."""
    never: bool = False
    """The stretch is long enough, and the loss was not back before its end."""


def recoveries(
    traces: Sequence[Trace], drift_at: Sequence[int], *, regression: bool
) -> list[tuple[Recovery, ...]]:
    """Of each run. After true drifts the level is where the best run settles: who stays bad never recovers.

    Without true drifts each run has its own, from the date that it gave them, and its own level.
    """
    best: list[float | None] = [
        min((level for trace in traces if (level := settled(trace, *stretch)) is not None), default=None)
        for stretch in _stretches(drift_at, traces[0].at)
    ]
    out = []
    for trace in traces:
        drifts = list(drift_at) or sorted({alarm.since for alarm in trace.drifts})
        levels = best or [settled(trace, *stretch) for stretch in _stretches(drifts, trace.at)]
        out.append(tuple(_recoveries(trace, drifts, levels, told=bool(drift_at), regression=regression)))
    return out


def _stretches(drifts: Sequence[int], at: int) -> list[tuple[int, int]]:
    """From each drift to the next one, or to where the run is."""
    return list(zip(drifts, [*drifts[1:], at][: len(drifts)], strict=True))


def _recoveries(
    trace: Trace, drifts: Sequence[int], levels: Sequence[float | None], *, told: bool, regression: bool
) -> Iterator[Recovery]:
    losses = cumulated(trace.curve)
    for (drift, end), level in zip(_stretches(drifts, trace.at), levels, strict=True):
        found = next((alarm.at - drift for alarm in trace.drifts if drift <= alarm.at < end), None)
        back = events_to_recover(losses, (drift, end), level, regression=regression)
        yield Recovery(drift, found if told else None, back, back is None and level is not None)


def middle(found: Sequence[Recovery]) -> float | None:
    """The median of those that could be measured; None without any, or when half of them never ended."""
    back = [float(each.events) for each in found if each.events is not None]
    ends = [*back, *(np.inf for each in found if each.never)]
    median = float(np.median(ends)) if ends else np.inf
    return median if np.isfinite(median) else None


def cumulated(curve: Curve) -> Losses:
    """The curve's, to be looked at between any two places."""
    total, answered = (np.cumsum(np.array(each, float)) for each in (curve.sums, curve.answered))
    return Losses(np.append(0.0, total), np.append(0.0, answered), curve.size)


def settled(trace: Trace, drift: int, end: int) -> float | None:
    """Mean loss over the last half of a stretch, at most `SETTLED_EVENTS`; None when it is too short."""
    return settled_level(cumulated(trace.curve), (drift, end))


def settled_level(losses: Losses, stretch: tuple[int, int]) -> float | None:
    """The same, of losses however they were found."""
    size = losses.size
    first, last = _buckets(losses, stretch)
    if last - first < 2 * max(1, AHEAD // size):
        return None
    tail = min((last - first) // 2, max(1, SETTLED_EVENTS // size))
    return losses.mean(last - tail, last)


def events_to_recover(
    losses: Losses, stretch: tuple[int, int], level: float | None, *, regression: bool = False
) -> int | None:
    """Events after a stretch's begin from where the mean loss of the next `AHEAD` is at the settled level.

    Of those with an answer, the first among them.
    """
    if level is None:
        return None
    first, last = _buckets(losses, stretch)
    ahead = max(1, AHEAD // losses.size)
    limit = level * (1.0 + NEAR) if regression else level + NEAR
    lost, answered = (
        sums[first + ahead : last + 1] - sums[first : last + 1 - ahead]
        for sums in (losses.total, losses.answered)
    )
    # Else a model that says nothing for long would be back long before it says something.
    answers = np.diff(losses.answered)[first : last + 1 - ahead] > 0.0
    means = np.divide(lost, answered, out=np.full(len(lost), np.inf), where=answers)
    back = np.flatnonzero(means <= limit)
    return int(back[0]) * losses.size if len(back) else None


def _buckets(losses: Losses, stretch: tuple[int, int]) -> tuple[int, int]:
    """Where a stretch begins and ends, in buckets."""
    return stretch[0] // losses.size, min(stretch[1] // losses.size, len(losses.total) - 1)
