"""`fluvial demo`: a minute of drifting events through the real worker, with no server."""

from __future__ import annotations

import argparse
import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live

if TYPE_CHECKING:
    # Numpy and the clients take a moment to load; `--help` and the first line must not wait for them.
    from fluvial.cli.demo_parts import Now, Parts
    from fluvial.cli.demo_plan import Plan
    from fluvial.cli.demo_record import Summary

RATE = 700.0
"""Events per second: what two slow cores hold, the twin and the picture included."""
SECONDS = 60.0
STRETCHES = 6
LEAST_EVERY = 1_500
"""Events between two changes at least: the drift of a model that has learned less is hard to see."""
OVERTIME = 1.5
"""A machine that cannot hold the rate stops after this many times the planned seconds."""
FRAME_SECONDS = 0.25
LINE_SECONDS = 5.0
PICTURE_SIZE = (104, 34)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = (
        "Run the real worker on an embedded Kafka and an embedded Redis for about a minute, on events whose "
        "rule changes several times, beside a twin that never reacts. Needs nothing else, leaves nothing."
    )
    add = parser.add_argument
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--seconds", type=_positive, metavar="S", help=f"about how long (default: {SECONDS:g})"
    )
    length.add_argument("--events", type=_count, metavar="N", help=f"how many, {RATE:g} a second")
    add("--policy", choices=("reweight", "reset", "observe"), default="reweight", help="answer to drift")
    add(
        "--model", choices=("tree", "linear", "bayes", "adaptive-tree", "auto"), default="tree", help="preset"
    )
    add("--seed", type=int, default=1, help="the same seed gives the same events (default: 1)")
    add("--json", action="store_true", help="end with the summary as JSON on standard output")
    add("--no-color", action="store_true", help="without colours")
    add("--picture", metavar="FILE", help=argparse.SUPPRESS)  # the last frame as SVG: the README's


def _count(text: str) -> int:
    value = int(text.replace("_", "").replace(",", ""))
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _positive(text: str) -> float:
    value = float(text)
    if not 1.0 <= value <= 86_400.0:
        raise argparse.ArgumentTypeError("must be 1 to 86400")
    return value


def run(args: argparse.Namespace) -> int:
    """Run it: 0 at its end, 130 after a Ctrl-C and 143 after SIGTERM, each with a summary so far."""
    # With --json standard output is for the summary alone.
    console = Console(stderr=args.json, no_color=args.no_color or None, highlight=False)
    with _stop_signals() as stop:
        console.print("Starting an embedded Kafka, an embedded Redis and the worker (loading River) ...")
        from fluvial.cli.demo_parts import Parts  # noqa: PLC0415 - numpy and the clients: after the first line

        with Parts(_plan(args)) as parts:
            console.print(f"Metrics while it runs: {parts.metrics_at}   (Redis: {parts.redis_kind})")
            show = _show_live if _draws(console) else _show_lines
            show(console, parts, stop)
            parts.stop()
            _close(args, console, parts)
    return 128 + stop.number if stop.number else 0


def _plan(args: argparse.Namespace) -> Plan:
    from fluvial.cli.demo_plan import Plan  # noqa: PLC0415 - as in run()

    events = args.events or int((args.seconds or SECONDS) * RATE)
    return Plan(
        events=events,
        every=max(LEAST_EVERY, events // STRETCHES),
        rate=RATE,
        model=args.model,
        policy=args.policy,
        seed=args.seed,
        most_seconds=None if args.events else OVERTIME * events / RATE,
    )


# ---- while it runs --------------------------------------------------------------------------------


class Stop:
    """Whether a signal asked for the end, and which."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.number = 0

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """Ask for a clean end; the same signal again ends the process at once."""
        self.number = number
        self.asked.set()
        signal.signal(number, signal.SIG_DFL)


@contextmanager
def _stop_signals() -> Iterator[Stop]:
    stop = Stop()
    before = {number: signal.signal(number, stop.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _draws(console: Console) -> bool:
    """Whether the terminal can show the picture."""
    return console.is_terminal and not console.is_dumb_terminal and console.encoding.startswith("utf")


def _show_live(console: Console, parts: Parts, stop: Stop) -> None:
    """Draw until the end."""
    from fluvial.cli.demo_view import frame  # noqa: PLC0415 - as in run()

    with Live(console=console, screen=True, auto_refresh=False, redirect_stderr=False) as live:
        while True:
            live.update(frame(parts, parts.now(), *console.size), refresh=True)
            if parts.finished() or stop.asked.wait(FRAME_SECONDS):
                return


def _show_lines(console: Console, parts: Parts, stop: Stop) -> None:
    """Print each thing that happens, and every few seconds how things are."""
    from fluvial.cli.demo_view import happening_line, plain_line  # noqa: PLC0415 - as in run()

    told, due = 0, time.monotonic() + LINE_SECONDS
    while True:
        over = parts.finished()
        for line in parts.record.happenings[told:]:
            console.print(happening_line(line), soft_wrap=True)
            told += 1
        if over or time.monotonic() >= due:
            console.print(plain_line(parts, parts.now()), soft_wrap=True)
            due += LINE_SECONDS
        if over or stop.asked.wait(FRAME_SECONDS):
            return


def _close(args: argparse.Namespace, console: Console, parts: Parts) -> None:
    """Tell what it was worth, on the screen, as JSON and as a picture, where that is asked for."""
    from fluvial.cli.demo_record import summarise  # noqa: PLC0415 - as in run()
    from fluvial.cli.demo_view import closing, frame, picture  # noqa: PLC0415 - as in run()

    summary, now = summarise(parts.record), parts.now()
    if _draws(console):
        width, height = console.size
        console.print(frame(parts, now, width, min(height, 34)), height=min(height, 34))
    console.print(closing(parts, summary, now))
    if args.picture:
        Path(args.picture).write_text(picture(parts, now, *PICTURE_SIZE), encoding="utf-8")
    if args.json:
        print(json.dumps(_told(parts, summary, now), indent=2))


def _told(parts: Parts, summary: Summary, now: Now) -> dict[str, Any]:
    """The summary as primitives; `worth` is in points of accuracy."""
    import msgspec  # noqa: PLC0415 - as in run()

    told: dict[str, Any] = msgspec.to_builtins(summary)
    for row, stretch in zip(told["stretches"], summary.stretches, strict=True):
        row["worth"] = round(stretch.worth, 2)
    return {
        "plan": msgspec.to_builtins(parts.plan),
        "seconds": round(now.seconds, 1),
        "redis": parts.redis_kind,
        "checkpoints": now.checkpoint.saved,
        "ledger": msgspec.to_builtins(now.ledger),
        **told,
        "worth": round(summary.worth, 2),
        "signals": msgspec.to_builtins(parts.record.signals),
        "versions": [
            {"number": v.number, "cause": v.cause, "events": v.events} for v in parts.record.versions
        ],
    }
