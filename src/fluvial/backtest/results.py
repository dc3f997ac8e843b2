"""What each run was worth: metrics, regret, recovery after drifts, false alarms; as plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fluvial.backtest.replay import Folded
from fluvial.backtest.trace import Curve
from fluvial.config import describe, fingerprint
from fluvial.types import Task

FORMAT = 1
"""Of the JSON."""
AHEAD = 500
"""Recovery: events over which the loss has to be back."""
SETTLED_EVENTS = 2_000
"""Recovery: at most so many of the last events before the next drift say what level is settled."""
NEAR = 0.01
"""Recovery: back is within a point of accuracy, or 1 % of the settled error in regression."""
POINTS = 300
"""Of a curve in the JSON and on the page."""

LOWER_IS_BETTER = {"log_loss", "mae", "rmse", "last_value_mae", "regret", "false_alarms", "missed"}
Floats = NDArray[np.float64]


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked, beside the records and the settings."""

    command: str
    source: str
    drift_at: tuple[int, ...] = ()
    """True drifts, in labelled events from the start."""
    drift_within: int = 2_000
    """Events after a true drift within which a signal is not a false alarm."""
    window: int = 1_000
    """Of the curves."""


class Recovery(msgspec.Struct, frozen=True):
    """How a run came through one drift."""

    drift: int
    found_after: int | None
    """Events until the first drift signal; None: missed, or the drift is the run's own signal."""
    events: int | None
    """Events until the loss was back at its settled level; None: never, or the stretch is too short."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One run, as `--json` gives it. Metrics are the fold's own, of all labels that were learned."""

    name: str
    settings: Mapping[str, Any]
    fingerprint: str
    events: int
    learned: int
    pending: int
    """Labels not known at the end: served, and in no metric."""
    scored: int
    dead: Mapping[str, int]
    trips: int
    unpredicted: int
    metrics: Mapping[str, float]
    regret: float = 0.0
    """Behind the best of the runs: accuracy, or mean absolute error."""
    drifts: tuple[Mapping[str, Any], ...]
    """Of every plane; recovery and false alarms look at those of the error alone."""
    warnings: int
    reactions: Mapping[str, int]
    holds: int
    versions: tuple[Mapping[str, Any], ...]
    recoveries: tuple[Recovery, ...]
    recovery: float | None
    """Median of the recoveries."""
    false_alarms: int | None
    """None: no true drifts were given."""
    missed: int | None
    seconds: float
    events_per_second: float
    peak_bytes: int | None
    curve: tuple[tuple[int, float], ...]
    """(labelled events, windowed accuracy or mean absolute error)"""
    weights: tuple[tuple[int, tuple[tuple[str, bool, float], ...]], ...]


def on_the_error(result: Result) -> list[Mapping[str, Any]]:
    """The drifts of the error plane."""
    return [drift for drift in result.drifts if drift["plane"] == "error"]


def primary(task: Task) -> str:
    """The metric that runs are ranked by."""
    return "mae" if task is Task.REGRESSION else "accuracy"


def told(folded: Sequence[Folded], question: Question) -> list[Result]:
    """All runs, each with its regret against the best of them."""
    results = [_result(each, question) for each in folded]
    name = primary(folded[0].run.settings.schema.label.task)
    known = [r.metrics[name] for r in results if name in r.metrics]
    if not known:
        return results
    lower = name in LOWER_IS_BETTER
    best = min(known) if lower else max(known)
    return [
        msgspec.structs.replace(r, regret=abs(r.metrics[name] - best)) if name in r.metrics else r
        for r in results
    ]


def _result(folded: Folded, question: Question) -> Result:
    learner, trace, settings = folded.learner, folded.trace, folded.run.settings
    ledgers = learner.ledger.partitions.values()
    handled = learner.ledger.handled()
    regression = settings.schema.label.task is Task.REGRESSION
    recoveries = tuple(_recoveries(folded, question, regression))
    back = [r.events for r in recoveries if r.events is not None]
    false, missed = _alarms(folded, question)
    return Result(
        name=folded.run.name,
        settings={name: describe(settings)[name] for name in ("model", "policy", "drift", "evaluation")},
        fingerprint=fingerprint(settings),
        events=handled,
        learned=learner.events,
        pending=len(learner.late),
        scored=sum(ledger.scored for ledger in ledgers),
        dead=folded.dead,
        trips=folded.trips,
        unpredicted=learner.evaluation.unpredicted,
        metrics=learner.metrics()["total"],
        drifts=tuple(a._asdict() for a in trace.alarms if a.kind == "drift"),
        warnings=sum(a.kind == "warning" for a in trace.alarms),
        reactions=dict(Counter(v.cause for v in trace.versions)),
        holds=trace.holds,
        versions=tuple(v._asdict() for v in trace.versions),
        recoveries=recoveries,
        recovery=float(np.median(back)) if back else None,
        false_alarms=false,
        missed=missed,
        seconds=folded.seconds,
        events_per_second=handled / max(folded.seconds, 1e-9),
        peak_bytes=folded.peak_bytes,
        curve=tuple(windowed(trace.curve, question.window, regression=regression)),
        weights=tuple(_thinned([(w.at, w.members) for w in trace.weights], POINTS)),
    )


def _thinned(rows: list[Any], most: int) -> list[Any]:
    """At most `most` rows, evenly spaced, first and last among them."""
    if len(rows) <= most:
        return rows
    return [rows[round(k * (len(rows) - 1) / (most - 1))] for k in range(most)]


def windowed(curve: Curve, window: int, *, regression: bool) -> list[tuple[int, float]]:
    """Mean loss (as accuracy in classification) over the `window` events before each of some places."""
    total = _cumulated(curve)
    buckets = len(total) - 1
    width = max(1, window // curve.size)
    places = _thinned(list(range(min(width, buckets), buckets + 1)), POINTS) if buckets else []
    out = []
    for end in places:
        begin = max(0, end - width)
        loss = float(total[end] - total[begin]) / ((end - begin) * curve.size)
        out.append((end * curve.size, loss if regression else 1.0 - loss))
    return out


def _cumulated(curve: Curve) -> Floats:
    return np.concatenate([[0.0], np.cumsum(np.frombuffer(curve.sums))])


def _recoveries(folded: Folded, question: Question, regression: bool) -> list[Recovery]:
    """After each true drift; without any, after each that the run itself found, from its date on."""
    trace = folded.trace
    drifts = list(question.drift_at) or sorted({a.since for a in trace.drifts})
    ends = [*drifts[1:], trace.at][: len(drifts)]
    total, size = _cumulated(trace.curve), trace.curve.size
    out = []
    for drift, end in zip(drifts, ends, strict=True):
        found = next((a.at - drift for a in trace.drifts if drift <= a.at < end), None)
        back = events_to_recover(total, size, drift, end, regression=regression)
        out.append(Recovery(drift, found if question.drift_at else None, back))
    return out


def events_to_recover(
    total: Floats, size: int, drift: int, end: int, *, regression: bool = False
) -> int | None:
    """Events after `drift` from where the mean loss of the next `AHEAD` is at its settled level.

    The settled level is the mean over the last half of the stretch up to `end`, at most `SETTLED_EVENTS`.
    """
    first, last = drift // size, min(end // size, len(total) - 1)
    ahead = max(1, AHEAD // size)
    if last - first < 2 * ahead:
        return None
    tail = min((last - first) // 2, max(1, SETTLED_EVENTS // size))
    settled = (total[last] - total[last - tail]) / tail / size
    limit = settled * (1.0 + NEAR) if regression else settled + NEAR
    means = (total[first + ahead : last + 1] - total[first : last + 1 - ahead]) / ahead / size
    back = np.flatnonzero(means <= limit)
    return int(back[0]) * size if len(back) else None


def _alarms(folded: Folded, question: Question) -> tuple[int | None, int | None]:
    """Drift signals that answer no true drift, and true drifts that none answers."""
    if not question.drift_at:
        return None, None
    answered, false = set[int](), 0
    for alarm in folded.trace.drifts:
        before = [d for d in question.drift_at if d <= alarm.at < d + question.drift_within]
        answered.update(before[-1:])
        false += not before
    return false, len(set(question.drift_at) - answered)
