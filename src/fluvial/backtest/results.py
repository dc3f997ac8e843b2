"""What each run was worth: metrics, regret, recovery after drifts, false alarms; as plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from fluvial.backtest.recovery import Recovery, cumulated, middle, recoveries
from fluvial.backtest.replay import Folded, Refusal
from fluvial.backtest.trace import Curve, Trace
from fluvial.config import describe, fingerprint
from fluvial.types import Task

FORMAT = 1
"""Of the JSON."""
POINTS = 300
"""Of a curve in the JSON and on the page."""

LOWER_IS_BETTER = {"log_loss", "mae", "rmse", "last_value_mae", "regret", "false_alarms", "missed"}


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked, beside the records and the settings."""

    command: str
    source: str
    drift_at: tuple[int, ...] = ()
    """True drifts, in labelled events from the start; those at or beyond the end are left out."""
    drift_within: int = 2_000
    """Events after a true drift within which a signal is not a false alarm."""
    window: int = 1_000
    """Of the curves."""
    partitions: int = 1
    """That the records are of; when there are several an offset alone is no place."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One run, as `--json` gives it.

    Metrics are the fold's own, of the labels that were learned of events with an answer.
    """

    name: str
    settings: Mapping[str, Any]
    fingerprint: str
    events: int
    learned: int
    pending: int
    """Labels not known at the end: served, and in no metric."""
    scored: int
    dead: Mapping[str, int]
    dead_first: Mapping[str, Refusal]
    trips: int
    unpredicted: int
    """Labels that were learned of events without an answer: in no metric."""
    metrics: Mapping[str, float]
    regret: float | None = None
    """Behind the best of the runs: accuracy, or mean absolute error. None: the run has no such metric."""
    drifts: tuple[Mapping[str, Any], ...]
    """Of every plane; recovery and false alarms look at those of the error alone."""
    warnings: int
    reactions: Mapping[str, int]
    holds: int
    faults: int
    """Holds because the user's own policy raised, or returned what it may not."""
    first_fault: Mapping[str, Any] | None
    versions: tuple[Mapping[str, Any], ...]
    recoveries: tuple[Recovery, ...] = ()
    recovery: float | None = None
    """Median of the recoveries."""
    false_alarms: int | None = None
    """None: no true drifts were given."""
    missed: int | None = None
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


def told(folded: Iterable[Folded], question: Question) -> list[Result]:
    """All runs, each with its recoveries, and its regret against the best of them.

    Of each only the result and the trace are kept: no run weighs on the memory of the next.
    """
    results, traces, task = list[Result](), list[Trace](), Task.BINARY
    for each in folded:
        task = each.run.settings.schema.label.task
        results.append(_result(each, question))
        traces.append(each.trace)
        del each
    results = _through_drifts(results, traces, question, task)
    name = primary(task)
    known = [r.metrics[name] for r in results if name in r.metrics]
    if not known:
        return results
    best = min(known) if name in LOWER_IS_BETTER else max(known)
    return [
        msgspec.structs.replace(r, regret=abs(r.metrics[name] - best)) if name in r.metrics else r
        for r in results
    ]


def _through_drifts(
    results: Sequence[Result], traces: Sequence[Trace], question: Question, task: Task
) -> list[Result]:
    """Each with how it came through the drifts. Of the true ones, those count that every run came to."""
    regression, told = task is Task.REGRESSION, bool(question.drift_at)
    came = [at for at in sorted(set(question.drift_at)) if at < min(trace.at for trace in traces)]
    # Without a true drift each run would be measured at its own, which nobody asked for.
    found = [()] * len(traces) if told and not came else recoveries(traces, came, regression=regression)
    out = []
    for result, trace, mine in zip(results, traces, found, strict=True):
        false, missed = _alarms(trace, came, question.drift_within) if told else (None, None)
        out.append(
            msgspec.structs.replace(
                result, recoveries=mine, recovery=middle(mine), false_alarms=false, missed=missed
            )
        )
    return out


def _result(folded: Folded, question: Question) -> Result:
    learner, trace, settings = folded.learner, folded.trace, folded.run.settings
    ledgers = learner.ledger.partitions.values()
    handled = learner.ledger.handled()
    regression = settings.schema.label.task is Task.REGRESSION
    return Result(
        name=folded.run.name,
        settings={name: describe(settings)[name] for name in ("model", "policy", "drift", "evaluation")},
        fingerprint=fingerprint(settings),
        events=handled,
        learned=learner.events,
        pending=len(learner.late),
        scored=sum(ledger.scored for ledger in ledgers),
        dead=folded.dead,
        dead_first=folded.dead_first,
        trips=folded.trips,
        unpredicted=learner.evaluation.unpredicted,
        metrics=learner.metrics()["total"],
        drifts=tuple(a._asdict() for a in trace.alarms if a.kind == "drift"),
        warnings=sum(a.kind == "warning" for a in trace.alarms),
        reactions=dict(Counter(v.cause for v in trace.versions)),
        holds=trace.holds,
        faults=trace.faults,
        first_fault=None if trace.first_fault is None else trace.first_fault._asdict(),
        versions=tuple(v._asdict() for v in trace.versions),
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
    """Mean loss (as accuracy in classification) over the `window` events before each of some places.

    Of those with an answer; no place where none of them had one.
    """
    losses = cumulated(curve)
    buckets = len(losses.total) - 1
    width = max(1, window // curve.size)
    places = _thinned(list(range(min(width, buckets), buckets + 1)), POINTS) if buckets else []
    out = []
    for end in places:
        loss = losses.mean(max(0, end - width), end)
        if loss is not None:
            out.append((end * curve.size, loss if regression else 1.0 - loss))
    return out


def _alarms(trace: Trace, true: Sequence[int], within: int) -> tuple[int, int]:
    """Drift signals that answer no true drift, and true drifts that none answers."""
    answered, false = set[int](), 0
    for alarm in trace.drifts:
        before = [d for d in true if d <= alarm.at < d + within]
        answered.update(before[-1:])
        false += not before
    return false, len(true) - len(answered)


def true_drifts(result: Result, question: Question) -> list[int]:
    """Those of the question that came before the end."""
    return [each.drift for each in result.recoveries] if question.drift_at else []
