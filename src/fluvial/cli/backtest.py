"""`fluvial backtest CONFIG FILE...`: the same fold over a file or a stretch of a topic, side by side."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from fluvial import __version__
from fluvial.backtest import Folded, Question, Result, Run, failures, parse_gate, render, replay, told
from fluvial.backtest.gates import Gate
from fluvial.backtest.remarks import remarks
from fluvial.backtest.results import FORMAT, primary
from fluvial.cli import find_modules_here
from fluvial.cli.backtest_feed import Feed, feed_of
from fluvial.cli.backtest_runs import runs_of
from fluvial.cli.backtest_usage import refuse_idle
from fluvial.cli.backtest_view import show
from fluvial.cli.mapping import add_reading
from fluvial.errors import FluvialError, SettingsError
from fluvial.types import Task

EPILOG = """\
examples:
  fluvial backtest fluvial.toml orders.csv
      what the service's own settings would have been worth on these events
  fluvial backtest fluvial.toml orders.csv --policy observe --policy reweight --report out.html
      two policies side by side, drawn on a page
  fluvial backtest fluvial.toml orders.jsonl.gz --set drift.drift_delta=.01 --set drift.drift_delta=.0001
      a setting given twice is compared
  fluvial backtest fluvial.toml --topic --from 2026-01-01 --to 2026-02-01 --label-delay 336
      January out of the service's topic, each label known 336 events later
  fluvial backtest fluvial.toml orders.csv --gate accuracy=.8 --gate not-worse-than=baseline.json
      a regression test: status 1 and a line for each condition that is not met

The fold is the live one: run over what `fluvial produce` sent to a topic of one partition, it gives the
same scores, reactions, versions and metrics as `fluvial run`, bit for bit. Nothing is written to Kafka or
Redis. What breaks the schema is counted by reason and left out. Docs: docs/backtest.md.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = "What a policy, model or setting is worth on your own events, before it runs."
    parser.epilog = EPILOG
    add = parser.add_argument
    add("config", metavar="CONFIG", help="a service's settings (TOML)")
    add("files", metavar="FILE", nargs="*", help="CSV, JSON lines (both also gzipped) or Parquet, in order")
    _add_topic(parser.add_argument_group("instead of files, a stretch of a topic"))
    _add_runs(parser.add_argument_group("what is compared: each combination is a run"))
    _add_columns(parser.add_argument_group("which columns are what (as for fluvial produce)"))
    _add_output(parser.add_argument_group("what comes out"))


def _add_topic(group: Any) -> None:
    add = group.add_argument
    add("--topic", nargs="?", const="", metavar="NAME", help="the settings' topic, or another one")
    add("--from", dest="first", metavar="PLACE", help="offset, time or earliest (default)")
    add("--to", dest="end", metavar="PLACE", help="offset or time, itself not included; latest (default)")
    add("--partition", type=int, metavar="N", help="only this partition (default: all, by message time)")


def _add_runs(group: Any) -> None:
    add = group.add_argument
    add(
        "--policy",
        action="append",
        default=[],
        metavar="NAME",
        help="drift policy, or module:Policy; more than once to compare",
    )
    add("--model", action="append", default=[], metavar="NAME", help="preset, or module:function")
    add(
        "--set",
        action="append",
        default=[],
        metavar="A.B=VALUE",
        help="any setting; one given twice is compared",
    )
    add("--label-delay", type=_whole, metavar="N", help="labels are known N labelled events later")
    add("--label-delay-column", metavar="COLUMN", help="each label's own delay; dotted for JSON lines")
    add("--label-delay-unit", choices=("events", "seconds"), default="events", help="of that column")
    add("--limit", type=_count, metavar="N", help="stop after so many events")


def _add_columns(group: Any) -> None:
    add = group.add_argument
    add_reading(add)
    add("--key", metavar="COLUMN", help="message key")
    add("--id", metavar="COLUMN", help="the event's id")
    add("--time", metavar="COLUMN", help="the event's time")
    add("--time-unit", choices=("s", "ms", "us", "iso"), help="of that column")
    add("--label", metavar="COLUMN", help="what is to be predicted")
    add("--features", metavar="A,B,C", help="columns that are features (default: all that are declared)")
    add("--types", default="", metavar="A=TYPE,...", help="number, integer, boolean or category by column")


def _add_output(group: Any) -> None:
    add = group.add_argument
    add("--drift-at", type=_places, default=(), metavar="N,...", help="true drifts, in labelled events")
    add("--drift-within", type=_count, default=2_000, metavar="N",
        help="events after one within which a signal is right (default: 2000)")  # fmt: skip
    add("--window", type=_count, default=1_000, metavar="N", help="of the curves (default: 1000 events)")
    add("--json", action="store_true", help="everything as JSON on standard output")
    add("--report", metavar="HTML", help="write one self-contained page")
    add("--gate", action="append", default=[], metavar="[RUN:]METRIC=LIMIT",
        help="status 1 unless met: accuracy=.8, mae=2, not-worse-than=FILE (of --json)")  # fmt: skip
    add("--tolerance", type=float, default=0.005, metavar="T",
        help="of not-worse-than: less accuracy, or share of more MAE (default: .005)")  # fmt: skip


def _whole(text: str) -> int:
    value = int(text.replace("_", ""))
    if value < 0:
        msg = "must be at least 0"
        raise argparse.ArgumentTypeError(msg)
    return value


def _count(text: str) -> int:
    value = _whole(text)
    if value < 1:
        msg = "must be at least 1"
        raise argparse.ArgumentTypeError(msg)
    return value


def _places(text: str) -> tuple[int, ...]:
    return tuple(sorted({_count(part) for part in text.split(",") if part}))


def run(args: argparse.Namespace) -> int:
    """Fold and tell: 0 done and every gate met, 1 a gate missed or the fold refused, 2 wrong usage."""
    find_modules_here()
    console = Console(stderr=True)
    try:
        runs = runs_of(args)
        task = runs[0].settings.schema.label.task
        gates = [parse_gate(text, task, [r.name for r in runs], args.drift_at) for text in args.gate]
        refuse_idle(args, runs)
        feed = feed_of(args, runs[0].settings)
    except SettingsError as error:
        print(f"backtest: {error}", file=sys.stderr)
        return 2
    except FluvialError as error:
        print(f"backtest: {error}", file=sys.stderr)
        return 1
    question = Question(
        command=shlex.join(["fluvial", "backtest", *_words(args)]),
        source=feed.records.name,
        drift_at=args.drift_at,
        drift_within=args.drift_within,
        window=args.window,
        partitions=len(feed.records.starts),
    )
    try:
        results = _folded(runs, feed, question, console)
        _tell(results, question, task, args, console)
    except (FluvialError, OSError) as error:
        print(f"backtest: {error}", file=sys.stderr)
        return 1
    return max(_idle(results), _judge(gates, results, task, args))


def _words(args: argparse.Namespace) -> Sequence[str]:
    """The command's words, as they were given."""
    words = sys.argv[1:]
    if "backtest" in words:
        return words[words.index("backtest") + 1 :]
    return [args.config, *args.files]


def _folded(runs: Sequence[Run], feed: Feed, question: Question, console: Console) -> list[Result]:
    """Every run over the same records, one after the other, so that none takes time or memory of another."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %  {task.fields[events]:,} events"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )

    def folded() -> Iterator[Folded]:
        for each in runs:
            task = bar.add_task(each.name, total=1.0, events=0)

            def watch(done: int, task: Any = task) -> None:
                bar.update(task, completed=feed.share(done), events=done)

            yield replay(each, feed.records, watch)
            bar.update(task, completed=1.0)

    with bar:
        return told(folded(), question)


def _tell(
    results: Sequence[Result], question: Question, task: Task, args: argparse.Namespace, console: Console
) -> None:
    if args.report:
        Path(args.report).write_text(render(results, question, task), encoding="utf-8")
        console.print(f"report: {args.report}", highlight=False, markup=False, soft_wrap=True)
    if args.json:
        answer = {
            "format": FORMAT,
            "fluvial": __version__,
            "command": question.command,
            "source": question.source,
            "task": task.value,
            "remarks": remarks(results, question),
            "runs": results,
        }
        print(msgspec.json.encode(answer).decode())
        return
    show(results, question, task)


def _idle(results: Sequence[Result]) -> int:
    """A run that came to nothing is told like a missed gate: else a pipeline takes it for a good one."""
    idle = [r for r in results if not (r.learned or r.scored or r.pending)]
    for each in idle:
        refused = sum(each.dead.values())
        why = f"all {refused:,} were refused" if refused else "there was none"
        print(f"backtest: run {each.name!r}: no event was learned or scored: {why}", file=sys.stderr)
    return 1 if idle else 0


def _judge(gates: Sequence[Gate], results: Sequence[Result], task: Task, args: argparse.Namespace) -> int:
    missed = failures(gates, results, primary(task), args.tolerance)
    for line in missed:
        print(line, file=sys.stderr)
    return 1 if missed else 0
