"""`fluvial versions`: what a model was, and the way back to it."""

from __future__ import annotations

import argparse
import getpass
import os
import re
import secrets
import socket
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from fluvial.cli.mapping import add_reading
from fluvial.cli.plain import cell
from fluvial.cli.version_reading import Book, partition_within
from fluvial.errors import CheckpointError, SettingsError
from fluvial.types import Kept, Reply, Rollback

LOOK_SECONDS = 0.2
_SPAN = re.compile(r"(?:(\d+):)?(\d+(?:_\d+)*)\.\.(\d+(?:_\d+)*)", re.ASCII)
MOST = 2**63 - 1
"""No offset, partition or version is larger; a request that names one could not be written down."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    common = argparse.ArgumentParser(add_help=False)
    add = common.add_argument
    add("--config", default="fluvial.toml", metavar="TOML", help="the settings (default %(default)s)")
    add("--shard", help="which one, where there is a model per partition: partition-0 and so on")
    add("--json", action="store_true", help="as JSON")

    def action(name: str, says: str, number: str | None = "number") -> argparse.ArgumentParser:
        made = actions.add_parser(name, help=says, description=says.capitalize() + ".", parents=[common])
        if number:
            made.add_argument("number", type=_version, metavar="N", help="the version")
        return made

    action("list", "all versions that are known, the newest last", None)
    action("show", "everything about one version")
    _compare_arguments(action("compare", "two versions on the same events", None))
    _rollback_arguments(action("rollback", "let an earlier version answer again"))
    for name, says in (("pin", "never drop this version's model"), ("unpin", "let it go like the others")):
        _by(action(name, says))
    annotate = action("annotate", "write a note beside a version")
    annotate.add_argument("text", help="the note; empty removes it")
    _by(annotate)


def _version(text: str) -> int:
    """For argparse, to which anything else is wrong usage."""
    number = int(text)
    if not 0 <= number <= MOST:
        msg = "is no number of a version"
        raise argparse.ArgumentTypeError(msg)
    return number


def _by(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--by", metavar="WHO", help="for the journal (default: your login and host)")


def _rollback_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    _by(parser)
    add("--because", default="", metavar="TEXT", help="why, for the journal")
    add(
        "--relearn",
        action="store_true",
        help="read the log again from where that version had stopped learning",
    )
    add(
        "--skip",
        action="append",
        default=[],
        metavar="[P:]FROM..TO",
        help="leave these offsets (without TO) of partition P (default: the shard's own, else 0) out; "
        "may be repeated",
    )
    add("--withdraw", action="store_true", help="take a request back that no worker has carried out yet")
    add("--wait", type=float, default=15.0, metavar="SECONDS", help="for the answer (default %(default)s)")


def _compare_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("a", type=_version, metavar="A", help="a version")
    add("b", type=_version, metavar="B", help="another one")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--file", metavar="F", help="events: CSV, JSON lines or Parquet")
    source.add_argument("--topic", metavar="FROM..TO", help="events: these offsets of the topic, without TO")
    source.add_argument("--last", type=int, metavar="N", help="events: the newest N of the partition")
    add("--partition", type=int, metavar="P", help="of the topic (default: the shard's own, else 0)")
    add_reading(add, "with --file: ")
    add("--label", metavar="COLUMN", help="with --file: the label's column (default: named as in the schema)")
    add("--learn", action="store_true", help="both learn as they go, each by itself")


def run(args: argparse.Namespace) -> int:
    """Do it; 1 when it cannot be done, or a roll-back has no answer yet. Raises SettingsError."""
    _check_words(args)
    with Book(args.config, args.shard) as book:
        match args.action:
            case "list":
                return _list(book, args)
            case "show":
                return _show(book, args)
            case "compare":
                from fluvial.cli import comparing  # noqa: PLC0415 - River is loaded for this one only

                return comparing.run(book, args)
            case "rollback":
                return _withdraw(book, args) if args.withdraw else _roll_back(book, args)
            case _:
                return _mark(book, args)


# ---- list and show --------------------------------------------------------------------------------


def _list(book: Book, args: argparse.Namespace) -> int:
    versions = book.versions()
    if args.json:
        _print({"service": book.settings.service, "shard": book.shard, "versions": versions})
        return 0 if versions else 1
    if not versions:
        print("no version yet: has `fluvial run` been started with these settings?")
        return 1
    name = book.metric
    metrics = f"fading {name} before", "fading at its end"
    table = Table("", "cause", "where", "event", "when (UTC)", *metrics, "kept", "", box=None)
    for version in versions:
        opened = version["refused"] is None
        cells = (
            f"{version['number']}{' *' if version['serving'] else ''}",
            version["cause"],
            f"{version['partition']}:{version['offset']}" if opened else "",
            f"{version['events']:,}" if opened else "",
            _when(version["time"]),
            _number(version["metrics"].get(name)),
            _number(_at_end(version).get(name)),
            f"{version['size']:,} bytes" if version["kept_since"] is not None else "",
            ", ".join(filter(None, ["pinned" if version["pinned"] else "", version["note"] or ""])),
        )
        table.add_row(*map(cell, cells))
    Console().print(table)
    print("* answers now", file=sys.stderr)
    if any(version["refused"] for version in versions):
        print("`fluvial versions show N` says why one cannot be opened", file=sys.stderr)
    return 0


def _show(book: Book, args: argparse.Namespace) -> int:
    version = book.version(args.number)
    if version is None:
        print(f"version {args.number} is not known; `fluvial versions list` shows which are", file=sys.stderr)
        return 1
    if args.json:
        _print(version)
        return 0
    facts = Table.grid(padding=(0, 2))
    parent = "" if version["parent"] is None else f", after version {version['parent']}"
    rows = [
        ("version", f"{version['number']}{', answers now' if version['serving'] else ''}"),
        ("cause", f"{version['cause']}{parent}"),
        (
            "where",
            f"partition {version['partition']}, offset {version['offset']}, event {version['events']:,}",
        ),
        ("when", _when(version["time"]) or "not known: no event made it"),
        *((f"  {name}", _text(value)) for name, value in version["detail"].items()),
        ("fading before", _metrics(version["metrics"])),
        ("at its end", _end(version)),
        ("model", "not kept" if version["kept_since"] is None else f"{version['size']:,} bytes"),
    ]
    if version["kept_since"] is not None:
        rows += [
            ("kept since", f"{_when(version['kept_since'])} UTC"),
            ("learned up to", ", ".join(f"{p}: {offset:,}" for p, offset in version["offsets"].items())),
            ("settings", f"{version['settings']}{'' if version['same_settings'] else ' (others than now)'}"),
        ]
    rows += [("pinned", f"by {version['pinned']}")] if version["pinned"] else []
    rows += [("note", version["note"])] if version["note"] else []
    if version["refused"]:
        rows.append(("refused", version["refused"]))
    for name, value in rows:
        facts.add_row(name, cell(value))
    Console().print(facts)
    return 0


def _at_end(version: Mapping[str, Any]) -> Mapping[str, float]:
    """The fading metrics at its end; none where it answered no event, since they tell of others alone."""
    if version["metrics_at_end"] is None or version["events_at_end"] == version["events"]:
        return {}
    metrics: Mapping[str, float] = version["metrics_at_end"]
    return metrics


def _end(version: Mapping[str, Any]) -> str:
    if version["metrics_at_end"] is None:
        return "it has not ended"
    return _metrics(_at_end(version)) if _at_end(version) else "it answered no event"


# ---- marks ----------------------------------------------------------------------------------------


def _mark(book: Book, args: argparse.Namespace) -> int:
    """Pin, unpin or annotate."""
    number, by = args.number, args.by or _me()
    if args.action == "annotate":
        if all(version["number"] != number for version in book.versions()):
            raise SettingsError(f"version {number} is not known; `fluvial versions list` shows which are")
        book.store.annotate(book.shard, number, args.text, by)
        done, said = True, "annotated" if args.text else "has no note now"
    elif args.action == "pin":
        done = book.store.pin(book.shard, number, by)
        said = (
            "pinned" if done else "has no kept model to pin: one that answers now is kept once it is replaced"
        )
    else:
        done = book.store.kept(book.shard).get(number, Kept()).pinned is not None
        done = done and book.store.pin(book.shard, number, None)
        said = "no longer pinned" if done else "is not pinned; `fluvial versions list` shows which are"
    if args.json:
        _print({"version": number, "done": done})
    else:
        print(f"version {number} {said}", file=sys.stdout if done else sys.stderr)
    return 0 if done else 1


# ---- roll-back ------------------------------------------------------------------------------------


def _roll_back(book: Book, args: argparse.Namespace) -> int:
    spans = tuple(_span(text, book.own) for text in args.skip)
    if spans and not args.relearn:
        raise SettingsError("--skip: leaves out of what is learned again; add --relearn")
    request = Rollback(
        id=secrets.token_hex(8),
        version=args.number,
        by=args.by or _me(),
        because=args.because,
        at=time.time(),
        relearn=args.relearn,
        skip=spans,
    )
    if not book.store.ask(book.shard, request):
        standing = book.store.asked(book.shard)
        who = f" {standing.by} asks for version {standing.version}" if standing else ""
        raise SettingsError(f"another request stands:{who}; wait for it, or take it back with --withdraw")
    reply = _reply(book, request, args.wait)
    made, refused = (reply.version, reply.because) if reply is not None else (None, "")
    if args.json:
        told = {"request": request.id, "to": request.version, "answered": reply is not None}
        _print(told | {"version": made, "refused": refused or None})
    elif made is not None:
        again = "; it learns again first, see `fluvial status`" if args.relearn else ""
        print(f"version {args.number} answers again, as version {made}{again}")
    elif refused:
        print(f"not rolled back: {refused}", file=sys.stderr)
    else:
        holder = book.store.lease_holder(book.shard)
        why = f"{holder} has not answered yet" if holder else "no worker runs"
        then = "the request stands until one carries it out, or --withdraw takes it back"
        print(f"{why}: {then}", file=sys.stderr)
    return 0 if made is not None or (args.wait <= 0 and not refused) else 1


def _reply(book: Book, request: Rollback, seconds: float) -> Reply | None:
    """What the owner answers within so many seconds."""
    until = time.monotonic() + seconds
    while True:
        reply = book.store.answered(book.shard)
        if reply is not None and reply.id == request.id:
            return reply
        if time.monotonic() >= until:
            return None
        time.sleep(LOOK_SECONDS)


def _withdraw(book: Book, args: argparse.Namespace) -> int:
    standing = book.store.asked(book.shard)
    if standing is None or standing.version != args.number:
        done, said = False, f"nobody asks for version {args.number} (any more)"
    elif (made := _carried_out(book, standing)) is not None:
        done, said = False, f"too late: it was carried out, as version {made}"
    elif done := book.store.withdraw(book.shard, standing):
        said = "taken back"
    else:
        said = "too late: a worker is carrying it out; `fluvial versions list` shows what becomes of it"
    if args.json:
        _print({"to": args.number, "withdrawn": done})
    else:
        print(said)
    return 0 if done else 1


def _carried_out(book: Book, request: Rollback) -> int | None:
    """The version that it made, by the newest checkpoint: its worker may have ended before it said so."""
    try:
        checkpoint = book.checkpoint()
    except CheckpointError:  # one that cannot be read made nothing that counts
        return None
    lineage = checkpoint.header.lineage if checkpoint is not None else ()
    return next((v.number for v in lineage if v.detail.get("request") == request.id), None)


def _span(text: str, own: int | None = None) -> tuple[int, int, int]:
    """Partition and offsets; `own`: the one partition that the shard has, if it has but one.

    Raises SettingsError for what is no span, an empty one, and one of another shard's partition.
    """
    found = _SPAN.fullmatch(text)
    if found is None:
        raise SettingsError(f"--skip: {text!r} is not FROM..TO or PARTITION:FROM..TO")
    partition = partition_within(own, None if found[1] is None else int(found[1]), "--skip")
    span = partition, int(found[2]), int(found[3])
    if max(span) > MOST:
        raise SettingsError(f"--skip: {text!r} is beyond what an offset can be")
    if span[1] >= span[2]:
        raise SettingsError(f"--skip: {text!r} is empty; offsets count from FROM up to and without TO")
    return span


# ---- words ----------------------------------------------------------------------------------------


def _me() -> str:
    """Login and host; in a container the user often has no name, and is told by number."""
    try:
        login = getpass.getuser()
    except (KeyError, OSError):
        login = f"uid-{os.getuid()}"
    return f"{login}@{socket.gethostname()}"


def _check_words(args: argparse.Namespace) -> None:
    """Words that cannot be written down as UTF-8 are refused. Raises SettingsError."""
    for name, option in (("because", "--because"), ("by", "--by"), ("text", "the note")):
        try:
            (getattr(args, name, None) or "").encode()
        except UnicodeEncodeError as error:
            raise SettingsError(
                f"{option}: not UTF-8 at character {error.start + 1}; say it in UTF-8"
            ) from None


def _print(value: Any) -> None:
    print(msgspec.json.encode(value).decode())


def _when(seconds: float | None) -> str:
    return "" if not seconds else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _metrics(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()) or "none yet"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
