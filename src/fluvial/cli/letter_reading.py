"""What the actions of `fluvial dead-letters` share: which letters are meant, reading, bytes for people."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from fluvial.adapters.kafka import KafkaLetters, Letter, Seen
from fluvial.adapters.redis import RedisStore
from fluvial.cli.plain import printable
from fluvial.config import Settings, load
from fluvial.errors import Reason, SettingsError
from fluvial.keys import Keys

_SPAN = re.compile(r"(\d+)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_LINE_SECONDS = 5.0  # between two plain lines


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Declare what chooses letters, and the settings file."""
    add = parser.add_argument
    add("--config", default="fluvial.toml", metavar="TOML", help="the settings (default %(default)s)")
    add("--reason", action="append", choices=list(Reason), help="only these reasons; may be repeated")
    add("--partition", action="append", type=int, metavar="N", help="only events of these partitions")
    add(
        "--since",
        metavar="TIME",
        help="only events of this time in Kafka or later: ISO 8601 (UTC), or 2h, 3d ago",
    )
    add("--until", metavar="TIME", help="only events before this time")


class Choice:
    """Which letters are meant."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.reasons = frozenset(args.reason or ())
        self.partitions = frozenset(args.partition or ())
        self.since = _moment(args.since, "--since")
        self.until = _moment(args.until, "--until")

    def __call__(self, letter: Letter) -> bool:
        """Whether this one is."""
        return (
            (not self.reasons or letter.reason in self.reasons)
            and (not self.partitions or letter.partition in self.partitions)
            and (self.since is None or letter.timestamp_ms >= self.since)
            and (self.until is None or letter.timestamp_ms < self.until)
        )

    def told(self) -> dict[str, object]:
        """For the journal."""
        chosen = {
            "reasons": sorted(self.reasons),
            "partitions": sorted(self.partitions),
            "since": self.since,
            "until": self.until,
        }
        return {name: value for name, value in chosen.items() if value}


def _moment(text: str | None, option: str) -> int | None:
    """Milliseconds since the epoch; so long ago where a span is given. Raises SettingsError."""
    if text is None:
        return None
    span = _SPAN.fullmatch(text)
    if span is not None:
        return int((time.time() - int(span[1]) * _SECONDS[span[2]]) * 1_000)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        msg = f"{option}: {text!r} is neither a time (2026-01-31T12:00) nor a span (90s, 15m, 2h, 3d)"
        raise SettingsError(msg) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1_000)


class Box:
    """A service's dead letters and what Redis remembers of them."""

    def __init__(self, path: str) -> None:
        self.settings: Settings = load(path)
        self.letters = KafkaLetters(self.settings.kafka, self.settings.dead_letter_topic, self.settings.group)
        self.store = RedisStore(self.settings.redis, Keys(self.settings.service), self.settings.scores)
        self.copies = 0
        """Letters met by `chosen` that were met before."""
        self.reasons: Counter[str] = Counter()
        """Of the chosen letters."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.letters.close()
        self.store.close()

    def chosen(self, choice: Choice, doing: str) -> Iterator[Letter]:
        """Each letter that is meant, once; `doing` is shown with how far it is. Raises SourceError."""
        seen = Seen()
        self.copies = 0
        self.reasons.clear()
        with Watched(doing, self.letters.records() if doing else 0) as watched:
            for letter in self.letters.letters():
                watched.show(self.letters.read)
                if not seen.first(letter):
                    self.copies += 1
                elif choice(letter):
                    self.reasons[letter.reason] += 1
                    yield letter


class Watched:
    """A progress bar on a terminal, a plain line every few seconds elsewhere; both on standard error.

    Without a total it shows nothing.
    """

    def __init__(self, doing: str, total: int) -> None:
        self._doing = doing
        self._total = total
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._said = time.monotonic()

    def __enter__(self) -> Self:
        console = Console(stderr=True)
        if console.is_terminal and self._total:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed:,.0f} of {task.total:,.0f}"),
            )
            self._progress = Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
            self._progress.start()
            self._task = self._progress.add_task(self._doing, total=self._total)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def show(self, done: int) -> None:
        """How far it is."""
        now = time.monotonic()
        if not self._total or now - self._said < (0.1 if self._progress is not None else _LINE_SECONDS):
            return
        self._said = now
        if self._progress is not None:
            self._progress.update(self._task, completed=done)
        else:
            print(f"{self._doing}: {done:,} of {self._total:,}", file=sys.stderr)


def when(timestamp_ms: int) -> str:
    """A time for a person, UTC."""
    if not timestamp_ms:
        return "unknown"
    return datetime.fromtimestamp(timestamp_ms / 1_000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def readable(value: bytes | None, limit: int | None = None) -> str:
    """Bytes for a terminal: text where it is text; nothing in it can move the cursor."""
    if value is None:
        return "(none)"
    safe = printable(value[:limit].decode("utf-8", "backslashreplace"))
    return safe if limit is None or len(value) <= limit else f"{safe} … ({len(value):,} bytes)"


def counted(number: int, what: str) -> str:
    """`1 letter`, `1,200 letters`."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
