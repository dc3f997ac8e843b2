"""How the demo looks: one frame of the live view, plain lines without a terminal, the closing summary."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.layout import Layout
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from fluvial.cli.demo_curve import GUTTER, column_of, lowest, marks, plot, sampled
from fluvial.cli.demo_parts import Now, Parts
from fluvial.cli.demo_record import Happening, Record, Stretch, Summary
from fluvial.types import Score, SignalKind

HEAD_LINES = 2
FACT_LINES = 8
"""Of the lower half, without its border."""
MARK_LINES = 3
LEAST_ROWS = 3

_STYLES = {
    "change": "yellow",
    "warning": "magenta",
    "drift": "bold magenta",
    "answer": "bold cyan",
    "recovered": "dim",
    "held": "dim",
    "log": "red",
}
_NAMES = {"change": "change", "answer": "answer", "recovered": "calm", "held": "held", "log": "note"}


def percent(share: float | None) -> str:
    """`88.9 %`, or a dash where nothing is known."""
    return "   - %" if share is None else f"{100.0 * share:.1f} %"


def size(count: float) -> str:
    """Bytes for people."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def _known(value: float, form: str, otherwise: str = "-") -> str:
    return form.format(value) if math.isfinite(value) else otherwise


# ---- the live view --------------------------------------------------------------------------------


def frame(parts: Parts, now: Now, width: int, height: int) -> Layout:
    """The whole picture, for a terminal of this size."""
    below = FACT_LINES + 2
    rows = max(LEAST_ROWS, height - HEAD_LINES - below - MARK_LINES - 2)
    root = Layout()
    root.split_column(
        Layout(_head(parts, now, width), size=HEAD_LINES),
        Layout(_curves(parts.record, width - 4, rows), size=rows + MARK_LINES + 2),
        Layout(name="below", size=below),
    )
    root["below"].split_row(
        Layout(_facts(now), size=min(52, max(43, width // 2))),
        Layout(_log(parts.record.happenings)),
    )
    return root


def _head(parts: Parts, now: Now, width: int) -> Group:
    plan, done = parts.plan, parts.record.until
    title = Text.assemble(
        " ", ("fluvial demo", "bold reverse"), f"  {plan.model}, {plan.policy}  {parts.metrics_at}"
    )
    hint = Text("Ctrl-C ends it ", style="dim")
    title.append(" " * max(1, width - title.cell_len - hint.cell_len))
    title.append(hint)
    counts = f" {done:,} of {plan.events:,} events  {now.rate:5,.0f}/s  {now.seconds:3.0f} s "
    room = max(4, width - len(counts) - 2)
    full = done * room // max(1, plan.events)
    bar = Text.assemble(" ", ("━" * full, "green"), ("━" * (room - full), "dim"), counts)
    for line in (title, bar):
        line.no_wrap = True
    return Group(title, bar)


def _curves(record: Record, width: int, rows: int) -> Panel:
    """Both accuracies over time, with what changed and what was noticed and answered."""
    columns = max(10, width - GUTTER)
    worker, twin = (
        sampled(_running(tally.accuracy, record.window), record.events, record.until, 2 * columns)
        for tally in (record.worker, record.twin)
    )

    def at(events: Iterable[int]) -> list[int]:
        return [column_of(event, record.events, columns) for event in events]

    changes = at(change.position for change in record.changes if change.begin <= record.until)
    lines = plot(worker, twin, rows, lowest((worker, twin)), changes)
    drifts = at(s.events for s in list(record.signals) if s.kind is SignalKind.DRIFT and not s.moved)
    answers = at(v.events for v in list(record.versions))
    lines.append(marks("changed", changes, columns, "▲", "yellow"))
    lines.append(marks("noticed", drifts, columns, "◆", "bold magenta"))
    lines.append(marks("answer", answers, columns, "●", "bold cyan"))
    return Panel(Group(*lines), title=_standing(record), title_align="left", border_style="dim")


def _running(accuracy: Callable[[int, int], float | None], window: int) -> Callable[[int], float | None]:
    # Over fewer events than half a window it only jumps.
    return lambda end: accuracy(end - window, end) if 2 * end >= window else None


def _standing(record: Record) -> Text:
    """The comparison in one line."""
    until, window = record.until, record.window
    if not until:
        return Text("waiting for the worker and its twin to load the model ...", style="not dim")
    worker, twin = record.worker.accuracy(until - window, until), record.twin.accuracy(until - window, until)
    return Text.assemble(
        (f"right, of the last {window:,}:  ", "not dim"),
        (f"the worker {percent(worker)}", "not dim bold green"),
        ("   ", ""),
        (f"a twin that never reacts {percent(twin)}", "not dim red"),
    )


def _facts(now: Now) -> Panel:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(style="dim", no_wrap=True, min_width=11)
    grid.add_column(no_wrap=True, overflow="ellipsis")
    for name, value in _lines(now):
        grid.add_row(name, value)
    return Panel(grid, title="now", title_align="left", border_style="dim")


def _lines(now: Now) -> list[tuple[str, str]]:
    """What the worker has to say of itself."""
    saved, ledger = now.checkpoint, now.ledger
    return [
        ("lag", f"{_known(now.lag, '{:,.0f}')} events" + (f"; {now.waiting}" if now.waiting else "")),
        ("accounted", f"{ledger.learned:,} learned, {ledger.dead:,} dead" if ledger else "-"),
        ("checkpoints", f"{saved.saved:,} saved, signed"),
        ("  newest", checkpoint_text(now)),
        ("scores", f"99 % within {_known(1_000 * now.late, '{:.0f} ms')}"),
        ("  of key", score_text(*now.score) if now.score else "-"),
        ("serving", f"version {now.version}"),
        ("  weights", _weights(now)),
    ]


def checkpoint_text(now: Now) -> str:
    """Age, size and duration of the newest checkpoint."""
    saved = now.checkpoint
    if not saved.saved:
        return "none yet"
    took = _known(1_000 * saved.last_seconds, "{:.0f} ms")
    return f"{saved.age_seconds:.1f} s ago, {size(saved.last_bytes)}, {took}"


def score_text(key: str, score: Score) -> str:
    """`k4711: up .83, version 4`, as it was read from Redis."""
    chance = max((score.probabilities or {}).values(), default=math.nan)
    word = "up" if score.prediction else "down"
    return f"{key}: {word} {_known(chance, '{:.2f}').removeprefix('0')}, version {score.version}"


def _weights(now: Now) -> str:
    """How much each member of the mixture has to say."""
    told = [
        f"{'champion' if member.champion else 'challenger'} {member.weight:.2f}".replace(" 0.", " .")
        for member in now.members
    ]
    return ", ".join(told).replace(", challenger", ",") or "-"


def _log(happenings: Sequence[Happening]) -> Panel:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(justify="right", style="dim", no_wrap=True, min_width=6)
    grid.add_column(no_wrap=True, min_width=7)
    grid.add_column(no_wrap=True, overflow="ellipsis")
    for line in list(happenings)[-FACT_LINES:]:
        style = _STYLES.get(line.kind, "")
        grid.add_row(f"{line.event:,}", Text(_NAMES.get(line.kind, line.kind), style=style), Text(line.text))
    return Panel(grid, title="what happened, at which event", title_align="left", border_style="dim")


# ---- without a terminal ---------------------------------------------------------------------------


def happening_line(line: Happening) -> str:
    """One thing that happened."""
    return f"  {line.event:>7,}  {_NAMES.get(line.kind, line.kind):<9}  {line.text}"


def plain_line(parts: Parts, now: Now) -> str:
    """The state of things in one line."""
    record = parts.record
    until, window = record.until, record.window
    worker, twin = record.worker.accuracy(until - window, until), record.twin.accuracy(until - window, until)
    return (
        f"{now.seconds:4.0f} s {until:>7,} events {now.rate:5,.0f}/s, right {percent(worker)}, "
        f"twin {percent(twin)}, lag {_known(now.lag, '{:.0f}')}, "
        f"{now.checkpoint.saved} checkpoints ({checkpoint_text(now)})"
    )


# ---- the summary ----------------------------------------------------------------------------------


def closing(parts: Parts, summary: Summary, now: Now) -> RenderableType:
    """What drifted when, how late it was noticed, what was done and what that was worth."""
    table = Table(
        box=box.SIMPLE, padding=(0, 0, 0, 1), title="What answering drift was worth", title_justify="left"
    )
    table.add_column("rule changed\nat event", no_wrap=True)
    table.add_column("noticed\nafter events", no_wrap=True, justify="right")
    table.add_column("answered by")
    for name in ("worker\nright %", "twin\nright %"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("worth\npoints", justify="right", no_wrap=True, style="bold")
    for stretch in summary.stretches:
        table.add_row(*_row(stretch, parts.plan.policy), f"{stretch.worth:+.1f}")
    table.add_section()
    table.add_row("all", "", "", *_hundred(summary.worker, summary.twin), f"{summary.worth:+.1f}")
    return Group(table, *map(Text, _account(parts, summary, now)))


def _row(stretch: Stretch, policy: str) -> tuple[str, ...]:
    change = stretch.change
    done = [word for word in ("reweighting" if policy == "reweight" else "", stretch.done) if word]
    told = ("; ".join(done) or "nothing", *_hundred(stretch.worker, stretch.twin))
    if change is None:
        return "(before)", f"{stretch.other_signals} false", *told
    where = f"{change.position:,}" + (f" (from {change.begin:,})" if change.gradual else "")
    return where, _noticed(stretch), *told


def _hundred(*shares: float) -> tuple[str, ...]:
    return tuple(f"{100.0 * share:.1f}" for share in shares)


def _noticed(stretch: Stretch) -> str:
    if stretch.noticed_after is not None:
        return f"{stretch.noticed_after:,}"
    return f"warned {stretch.warned_after:,}" if stretch.warned_after is not None else "no signal"


def _account(parts: Parts, summary: Summary, now: Now) -> list[str]:
    """The rest, in lines that fit eighty columns."""
    ledger = now.ledger
    once = f"{ledger.learned:,} learned, each once; {ledger.dead:,} dead letters" if ledger else "-"
    late = _known(1_000 * now.late, "{:.0f} ms")
    return [
        f"{summary.events:,} events in {now.seconds:.0f} s. {once}.",
        f"{now.checkpoint.saved:,} signed checkpoints; 99 % of scores readable within {late}.",
        f"Repeating the last label would be right for {percent(summary.no_change)}.",
        f"Both run model {parts.plan.model}; the worker answers by {parts.plan.policy}, the twin never.",
        "Lateness counts from where a change begins (gradual ones: from).",
        "",
        "Your own topic:  fluvial init   writes a settings file to start from",
        "                 fluvial check  tries it",
        "                 fluvial run    keeps your model right while the world changes",
    ]


# ---- the picture ----------------------------------------------------------------------------------

_SVG = """<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg"
  role="img" xml:space="preserve">
<title>fluvial demo</title>
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace;
  font-size: {char_height}px; line-height: {line_height}px; font-variant-east-asian: full-width; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""
"""Rich's, without the fonts that it would load from elsewhere."""


def picture(parts: Parts, now: Now, width: int, height: int) -> str:
    """The frame as an SVG that loads nothing."""
    console = Console(
        record=True, file=io.StringIO(), width=width, height=height, force_terminal=True,
        color_system="truecolor", legacy_windows=False,
    )  # fmt: skip
    console.print(frame(parts, now, width, height), height=height)
    return console.export_svg(title="fluvial demo", code_format=_SVG, unique_id="fluvial")
