"""The report: one page without script, font or picture from anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from importlib import resources

import msgspec

from fluvial import __version__
from fluvial.backtest import moved
from fluvial.backtest.drawing import Line, Mark, Strip, lines, shares, swatch
from fluvial.backtest.recovery import AHEAD, NEAR
from fluvial.backtest.remarks import remarks
from fluvial.backtest.results import Question, Result, on_the_error, true_drifts
from fluvial.backtest.table import columns
from fluvial.types import Task

MOST_ROWS = 200
"""Of the table of what happened."""


def render(results: Sequence[Result], question: Question, task: Task) -> str:
    """Make the page."""
    style = resources.files("fluvial.backtest").joinpath("page.css").read_text("utf-8")
    body = "".join(
        [
            f"<h1>Backtest of {escape(question.source)}</h1>",
            f'<p class="note">{_summary(results)}</p>',
            _table(results, question, task),
            _curves(results, question, task),
            _weights(results),
            moved.section(results),
            _happened(results),
            _settings(results, question),
        ]
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Backtest of {escape(question.source)}</title><style>\n{style}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )


def _summary(results: Sequence[Result]) -> str:
    runs = "1 run" if len(results) == 1 else f"{len(results)} runs"
    counts = {r.learned for r in results}
    learned = f" ({counts.pop():,} learned)" if len(counts) == 1 else ""
    return f"{runs} over {results[0].events:,} events{learned}. Fluvial {__version__}."


def _table(results: Sequence[Result], question: Question, task: Task) -> str:
    head, rows = columns(results, question, task)
    cells = ""
    for i, (name, *rest) in enumerate(rows):
        others = "".join(f"<td>{escape(cell)}</td>" for cell in rest)
        cells += f"<tr><td>{swatch(i)}{escape(name)}</td>{others}</tr>"
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    said = "".join(f"<p>{escape(remark)}</p>" for remark in remarks(results, question))
    whose = "the best of these runs" if question.drift_at else "it"
    drifts = "each true drift" if question.drift_at else "each drift that the run itself found"
    return (
        '<section><h2>What each run was worth</h2><div class="scroll"><table>'
        f"<tr>{titles}</tr>{cells}</table></div>{said}"
        '<p class="note">Prequential: each event was predicted before its label was learned. Regret: how far '
        f"behind the best of these runs. Recovery: the median number of events after {drifts} until the loss "
        f"of the next {AHEAD} is within {100 * NEAR:g} % of where {whose} settles. No change: saying "
        "the last label again would score. Events a second: decoding and folding, where this page was "
        "made.</p>"
        "</section>"
    )


def _curves(results: Sequence[Result], question: Question, task: Task) -> str:
    regression = task is Task.REGRESSION
    what = "Mean absolute error" if regression else "Accuracy"
    series = [Line(r.name, r.curve, i) for i, r in enumerate(results) if r.curve]
    if not series:
        return ""
    strips = [Strip(r.name, list(_marks(r)), i) for i, r in enumerate(results)]
    label = f"{what} over the {question.window:,} labelled events before"
    drifts = true_drifts(results[0], question)
    truth = "; a dashed upright is a true drift" if drifts else ""
    return (
        f"<section><h2>{label}</h2>{_legend([r.name for r in results])}"
        f"<figure style='margin:0'>{lines(series, strips, drifts, label, percent=not regression)}"
        f'</figure><p class="note">Below the curves, a row a run: a triangle is a drift that was found, '
        f"a bar a new version{truth}.</p></section>"
    )


def _marks(result: Result) -> Iterator[Mark]:
    for version in result.versions:
        says = f"version {version['number']} at {version['at']:,}: {version['cause']}"
        yield Mark(version["at"], "version", says)
    for drift in on_the_error(result):
        yield Mark(
            drift["at"], "drift", f"drift at {drift['at']:,}: {drift['before']:.3f} to {drift['after']:.3f}"
        )


def _legend(names: Sequence[str], *, area: bool = False) -> str:
    items = "".join(f"<li>{swatch(i, area=area)}{escape(name)}</li>" for i, name in enumerate(names))
    return f'<ul class="legend">{items}</ul>'


def _weights(results: Sequence[Result]) -> str:
    """A stacked chart for each run that mixes."""
    parts = []
    for result in results:
        widest = max((members for _, members in result.weights), key=len, default=())
        if len(widest) < 2:
            continue
        names = _member_names(widest)
        samples = [
            (float(at), [m[2] for m in members])
            for at, members in result.weights
            if len(members) == len(widest)
        ]
        chart = shares(names, samples, f"weights of the mixture of {result.name}")
        parts.append(f"<h3>{escape(result.name)}</h3>{_legend(names, area=True)}{chart}")
    if not parts:
        return ""
    return f"<section><h2>Weights of the mixture</h2>{''.join(parts)}</section>"


def _member_names(members: Sequence[tuple[str, bool, float]]) -> list[str]:
    lanes, names, number = {lane for lane, _, _ in members}, list[str](), 0
    for lane, champion, _ in members:
        number += not champion
        role = "champion" if champion else f"challenger {number}"
        names.append(role if len(lanes) == 1 else f"{lane}, {role}")
    return names


def _happened(results: Sequence[Result]) -> str:
    rows = []
    for index, result in enumerate(results):
        told = [(v["at"], f"version {v['number']}: {v['cause']}", v["because"]) for v in result.versions]
        told += [
            (d["at"], "drift", f"error {d['before']:.3f} to {d['after']:.3f}, since {d['since']:,}")
            for d in on_the_error(result)
        ]
        for at, what, why in sorted(told):
            rows.append(
                f"<tr><td>{swatch(index)}{escape(result.name)}</td><td>{at:,}</td>"
                f'<td class="text">{escape(what)}</td><td class="text">{escape(why)}</td></tr>'
            )
    if not rows:
        return "<section><h2>Drifts and versions</h2><p>None.</p></section>"
    more = f'<p class="note">The first {MOST_ROWS} of {len(rows):,}.</p>' if len(rows) > MOST_ROWS else ""
    head = '<tr><th>run</th><th>labelled events</th><th class="text">what</th><th class="text">why</th></tr>'
    return (
        f'<section><h2>Drifts and versions</h2><div class="scroll"><table>{head}{"".join(rows[:MOST_ROWS])}'
        f"</table></div>{more}</section>"
    )


def _settings(results: Sequence[Result], question: Question) -> str:
    parts = []
    for result in results:
        text = msgspec.json.format(msgspec.json.encode(result.settings), indent=2).decode()
        parts.append(
            f"<details><summary>{escape(result.name)} ({escape(result.fingerprint)})</summary>"
            f"<pre>{escape(text)}</pre></details>"
        )
    return f"<section><h2>How it was made</h2><pre>{escape(question.command)}</pre>{''.join(parts)}</section>"
