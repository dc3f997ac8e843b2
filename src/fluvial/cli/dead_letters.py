"""`fluvial dead-letters`: the events that were refused, read from the dead-letter topic."""

from __future__ import annotations

import argparse
import base64
import heapq
import sys
from collections.abc import Collection, Sequence
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from fluvial.adapters.kafka import Letter
from fluvial.cli import redrive
from fluvial.cli.letter_reading import Box, Choice, add_filters, counted, readable, when
from fluvial.cli.plain import cell
from fluvial.errors import SettingsError, StoreError

SHOWN_BYTES = 20_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    lists = actions.add_parser("list", help="the newest letters, each once")
    add_filters(lists)
    lists.add_argument(
        "--limit", type=int, default=20, metavar="N", help="at most so many (default %(default)s)"
    )
    lists.add_argument("--json", action="store_true", help="one JSON object a line")
    shows = actions.add_parser("show", help="one letter: the original bytes, and why")
    shows.add_argument("id", help="as in the list: topic/partition/offset, or partition/offset")
    shows.add_argument(
        "--config", default="fluvial.toml", metavar="TOML", help="the settings (default %(default)s)"
    )
    how = shows.add_mutually_exclusive_group()
    how.add_argument("--raw", action="store_true", help="only the original bytes, as they are")
    how.add_argument("--json", action="store_true", help="as JSON; bytes that are no text as base64")
    redrive.add_arguments(actions.add_parser("redrive", help="write letters back to the topic"))


def run(args: argparse.Namespace) -> int:
    """Do it; 1 when a letter that was asked for is not there."""
    with Box(args.config) as box:
        if args.action == "list":
            return _list(box, args)
        if args.action == "show":
            return _show(box, args)
        return redrive.run(box, args)


def _list(box: Box, args: argparse.Namespace) -> int:
    """The newest letters, newest first."""
    if args.limit < 1:
        raise SettingsError("--limit: expected 1 or more")
    newest = heapq.nlargest(args.limit, box.chosen(Choice(args), "reading"), key=_age)
    redriven = _redriven(box, newest)
    if args.json:
        for letter in newest:
            print(msgspec.json.encode(_told(letter, redriven)).decode())
        return 0
    if newest:
        Console().print(_table(newest, redriven))
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in box.reasons.most_common())
    copies = f"; {box.copies:,} repeated" if box.copies else ""
    foreign = f"; {counted(box.letters.foreign, 'record')} of others" if box.letters.foreign else ""
    total = counted(box.reasons.total(), "letter")
    print(
        f"{total}{f' ({reasons})' if reasons else ''} in {box.letters.topic!r}{copies}{foreign}",
        file=sys.stderr,
    )
    return 0


def _age(letter: Letter) -> tuple[int, str, int, int]:
    return letter.timestamp_ms, letter.topic, letter.partition, letter.offset


def _redriven(box: Box, letters: Sequence[Letter]) -> Collection[str] | None:
    """Identities of those that were written back; None when Redis cannot be asked."""
    try:
        return box.store.redriven([letter.identity for letter in letters])
    except StoreError as error:
        print(f"which were redriven is not known: {error}", file=sys.stderr)
        return None


def _table(letters: Sequence[Letter], redriven: Collection[str] | None) -> Table:
    table = Table(box=None)
    for name in ("id", "time (UTC)", "reason", "why", "bytes", ""):
        table.add_column(name, no_wrap=name != "why")
    for letter in letters:
        marks = ["truncated"] if letter.truncated else []
        if redriven is not None and letter.identity in redriven:
            marks.append("redriven")
        why = readable(letter.message.encode(errors="replace"), 200)
        cells = (
            letter.id,
            when(letter.timestamp_ms),
            letter.reason,
            why,
            f"{letter.size:,}",
            ", ".join(marks),
        )
        table.add_row(*map(cell, cells))
    return table


def _told(letter: Letter, redriven: Collection[str] | None) -> dict[str, Any]:
    """A letter as JSON, but for its bytes."""
    return {
        "id": letter.id,
        "topic": letter.topic,
        "topic_id": letter.topic_id,
        "partition": letter.partition,
        "offset": letter.offset,
        "time_ms": letter.timestamp_ms,
        "reason": letter.reason,
        "message": letter.message,
        "size": letter.size,
        "sha256": letter.sha256,
        "truncated": letter.truncated,
        "redriven": None if redriven is None else letter.identity in redriven,
        "letter": {"partition": letter.at[0], "offset": letter.at[1]},
    }


def _show(box: Box, args: argparse.Namespace) -> int:
    """Everything about one letter; of several topics with its name, one after the other, the newest."""
    wanted = redrive.full_id(args.id, box.settings.kafka.topic)
    everything = Choice(argparse.Namespace(reason=None, partition=None, since=None, until=None))
    found = [letter for letter in box.chosen(everything, "looking") if letter.id == wanted]
    if not found:
        print(f"no letter {wanted} in {box.letters.topic!r}; it may have left the topic", file=sys.stderr)
        return 1
    letter = found[-1]
    if args.raw:
        sys.stdout.flush()
        sys.stdout.buffer.write(letter.value or b"")
        return 0
    redriven = _redriven(box, [letter])
    if args.json:
        bytes_ = _bytes("key", letter.key) | _bytes("value", letter.value)
        headers = [{"name": name} | _bytes("value", value) for name, value in letter.headers]
        print(msgspec.json.encode(_told(letter, redriven) | bytes_ | {"headers": headers}).decode())
    else:
        _print(letter, redriven)
    return 0


def _print(letter: Letter, redriven: Collection[str] | None) -> None:
    facts = Table.grid(padding=(0, 2))
    rows = [
        ("id", letter.id + (f"  (topic id {letter.topic_id})" if letter.topic_id else "")),
        ("reason", letter.reason),
        ("why", readable(letter.message.encode(errors="replace"))),
        ("time", f"{when(letter.timestamp_ms)} UTC"),
        ("key", readable(letter.key, 1_000)),
        *(
            ("header", f"{readable(name.encode())}: {readable(value, 1_000)}")
            for name, value in letter.headers
        ),
        ("letter", f"partition {letter.at[0]}, offset {letter.at[1]} of the dead-letter topic"),
        ("redriven", "not known" if redriven is None else "yes" if letter.identity in redriven else "no"),
        ("bytes", f"{letter.size:,}"),
    ]
    if letter.truncated:
        rows.append(
            ("truncated", f"only {len(letter.value or b''):,} are here; SHA-256 of all {letter.sha256}")
        )
    for name, value in rows:
        facts.add_row(name, cell(value))
    Console().print(facts)
    print()
    print(readable(letter.value, SHOWN_BYTES))


def _bytes(name: str, value: bytes | None) -> dict[str, Any]:
    """Text where it is text, else base64 under another name."""
    if value is None:
        return {name: None}
    try:
        return {name: value.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(value).decode()}
