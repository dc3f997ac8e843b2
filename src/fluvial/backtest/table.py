"""The runs as rows of text, for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fluvial.backtest.results import Question, Result, on_the_error, true_drifts
from fluvial.types import Task

NOTHING = "-"
Cell = Callable[[Result], str]


def columns(results: Sequence[Result], question: Question, task: Task) -> tuple[list[str], list[list[str]]]:
    """Titles, and a row of cells for each run. A column with nothing to say is left out."""
    wanted: list[tuple[str, Cell]] = [("run", lambda r: r.name), *_metrics(task)]
    if len(results) > 1:
        regret = "{:.4g}".format if task is Task.REGRESSION else _points
        wanted.append(("regret", lambda r: NOTHING if r.regret is None else regret(r.regret)))
    wanted += [
        ("drifts", lambda r: f"{len(on_the_error(r)):,}"),
        ("reactions", lambda r: f"{sum(r.reactions.values()):,}"),
        ("recovery", lambda r: NOTHING if r.recovery is None else f"{r.recovery:,.0f}"),
    ]
    if question.drift_at:
        wanted += [
            ("false alarms", lambda r: f"{r.false_alarms:,}"),
            ("missed", lambda r: f"{r.missed} of {len(true_drifts(r, question))}"),
        ]
    if any(r.dead for r in results):
        wanted.append(("refused", lambda r: f"{sum(r.dead.values()):,}"))
    if any(r.unpredicted for r in results):
        wanted.append(("unpredicted", lambda r: f"{r.unpredicted:,}"))
    wanted += [
        ("events/s", lambda r: f"{r.events_per_second:,.0f}"),
        ("memory", lambda r: NOTHING if r.peak_bytes is None else f"{r.peak_bytes / 1e6:,.0f} MB"),
    ]
    return [title for title, _ in wanted], [[cell(r) for _, cell in wanted] for r in results]


def _points(value: float) -> str:
    return f"{100 * value:.2f}"


def _metrics(task: Task) -> list[tuple[str, Cell]]:
    def metric(name: str, show: Callable[[float], str]) -> Cell:
        return lambda r: show(r.metrics[name]) if name in r.metrics else NOTHING

    if task is Task.REGRESSION:
        return [
            ("MAE", metric("mae", "{:.4g}".format)),
            ("RMSE", metric("rmse", "{:.4g}".format)),
            ("R²", metric("r2", "{:.3f}".format)),
            ("last value", metric("last_value_mae", "{:.4g}".format)),
        ]
    return [
        ("accuracy", metric("accuracy", _points)),
        ("log-loss", metric("log_loss", "{:.4f}".format)),
        ("κ-temporal", metric("kappa_temporal", _points)),
        ("no change", metric("no_change_accuracy", _points)),
    ]
