"""`fluvial produce FILE`: rows of a file as events in a topic, as fast as it goes or at a rate."""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Self

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from fluvial.adapters.files import RowFile
from fluvial.adapters.kafka import KafkaProducer
from fluvial.adapters.parquet import ParquetRows, rows_of
from fluvial.cli.mapping import Mapping, add_reading, compile_mapping, json_key, parse_types
from fluvial.cli.stopping import Stop
from fluvial.config import KafkaSettings, Settings, load
from fluvial.errors import FluvialError, SettingsError, SourceUnavailable

WAIT_SECONDS = 30.0
"""How long a broker may take to answer at the start, and to acknowledge the rest at the end."""
INTERRUPTED = 130  # what shells say of a Ctrl-C
_LOOK = 200  # rows between two looks at the clock
_LINE_SECONDS = 5.0  # between two plain lines

Record = tuple[bytes, str | None]
"""An event's bytes and its message key."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add = parser.add_argument
    parser.description = (
        "Write the rows of a CSV, JSON-lines or Parquet file to a topic. Columns become the "
        "event's features; lines of JSON go as they are unless --label, --features, --time or --id map them."
    )
    add("file", help="CSV (with a header) or JSON lines, plain or gzipped; Parquet")
    add(
        "--config", metavar="TOML", help="take servers, topic and the events' shape from a service's settings"
    )
    add("--bootstrap-servers", metavar="HOST:PORT", help="Kafka (default: the settings')")
    add("--topic", help="topic to write to (default: the settings')")
    add("--create-topic", type=_count, metavar="N", help="create it with N partitions when it is missing")
    add_reading(add)
    add("--key", metavar="COLUMN", help="message key; dotted for JSON lines")
    add("--id", metavar="COLUMN", help="the event's id")
    add("--time", metavar="COLUMN", help="the event's time")
    add("--time-unit", choices=("s", "ms", "us", "iso"), help="of that column (default: s, or iso for text)")
    add("--label", metavar="COLUMN", help="what is to be predicted")
    add("--features", metavar="A,B,C", help="columns that are features (default: all others)")
    add("--types", default="", metavar="A=TYPE,...", help="number, integer, boolean or category by column")
    add("--partition-by", default="key", metavar="HOW", help="key (default), round-robin, or a number")
    add("--rate", type=_rate, metavar="N", help="events per second (default: as fast as it goes)")
    add("--limit", type=_count, metavar="N", help="stop after so many")


def _count(text: str) -> int:
    value = int(text.replace("_", "").replace(",", ""))
    if value < 1:
        msg = "must be at least 1"
        raise argparse.ArgumentTypeError(msg)
    return value


def _rate(text: str) -> float:
    value = float(text)
    if not 0.0 < value < float("inf"):
        msg = "must be more than 0 events per second"
        raise argparse.ArgumentTypeError(msg)
    return value


def run(args: argparse.Namespace) -> int:
    """Write the rows: 0 when all were acknowledged, 1 with the reason on stderr, 130 after a Ctrl-C."""
    try:
        settings = load(args.config) if args.config else None
        kafka = _kafka(args, settings)
        with rows_of(args.file, args.format, args.delimiter) as file:
            records = _records(args, settings, file)  # a wrong column is said before anything is sent
            producer = KafkaProducer(kafka)
            partition = _partitions(args, producer)
            return _feed(args, file, records, producer, partition)
    except FluvialError as error:
        print(f"produce: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED


def _kafka(args: argparse.Namespace, settings: Settings | None) -> KafkaSettings:
    """Where to write: the options over the settings."""
    servers = args.bootstrap_servers or (settings.kafka.bootstrap_servers if settings else "")
    topic = args.topic or (settings.kafka.topic if settings else "")
    for option, value in (("--bootstrap-servers", servers), ("--topic", topic)):
        if not value:
            msg = f"{option}: missing; say it, or --config FILE with a service's settings"
            raise SettingsError(msg)
    if settings is None:
        return KafkaSettings(bootstrap_servers=servers, topic=topic)
    return msgspec.structs.replace(settings.kafka, bootstrap_servers=servers, topic=topic)


def _records(
    args: argparse.Namespace, settings: Settings | None, file: RowFile | ParquetRows
) -> Iterator[Record]:
    """Events of the file, mapped. Raises SettingsError before the first one for a wrong column."""
    mapping = Mapping(
        schema=settings.schema if settings else None,
        key=args.key,
        id=args.id,
        time=args.time,
        time_unit=args.time_unit,
        label=args.label,
        features=tuple(filter(None, args.features.split(","))) if args.features is not None else None,
        types=parse_types(args.types),
    )
    records: Iterator[Record]
    if isinstance(file, ParquetRows) or file.format == "csv":
        encode = compile_mapping(mapping, file)
        records = map(encode, file.cells())
    elif mapping.maps:
        names = file.field_names()
        encode = compile_mapping(mapping, file, names)
        records = (encode([row.get(name) for name in names]) for row in file.objects())
    elif args.key is not None:
        path = tuple(args.key.split("."))
        records = ((line, json_key(line, path)) for line in file.lines())
    else:
        records = ((line, None) for line in file.lines())
    return itertools.islice(records, args.limit)


def _partitions(args: argparse.Namespace, producer: KafkaProducer) -> Callable[[], int]:
    """Which partition the next event goes to; -1 leaves it to the key."""
    if args.create_topic and not producer.create_topic(args.create_topic, WAIT_SECONDS):
        print(f"topic {producer.topic!r} is there already", file=sys.stderr)
    count = producer.partitions(WAIT_SECONDS)
    if args.partition_by == "key":
        return lambda: -1
    if args.partition_by == "round-robin":
        turn = itertools.cycle(range(count))
        return lambda: next(turn)
    if not args.partition_by.isdecimal() or int(args.partition_by) >= count:
        msg = f"--partition-by: {args.partition_by!r} is not key, round-robin or 0 to {count - 1}"
        raise SettingsError(msg)
    number = int(args.partition_by)
    return lambda: number


class _Sent(NamedTuple):
    rows: int
    seconds: float


def _feed(
    args: argparse.Namespace,
    file: RowFile | ParquetRows,
    records: Iterator[Record],
    producer: KafkaProducer,
    partition: Callable[[], int],
) -> int:
    """Send everything, wait for the acknowledgements and say how it went."""
    began = time.monotonic()
    rows, failed = 0, ""
    with Stop() as stop, _Display(file, args.limit) as display:
        try:
            for value, key in _paced(records, args.rate, producer, stop):
                producer.send(value, key, partition())
                rows += 1
                if rows % _LOOK == 0 or args.rate:
                    producer.poll()
                    display.show(_Sent(rows, time.monotonic() - began))
        except FluvialError as error:  # a broken row: what came before it is sent
            failed = str(error)
        left = producer.flush(WAIT_SECONDS)
        display.show(_Sent(rows, time.monotonic() - began), last=True)
    _summary(producer, left, time.monotonic() - began, interrupted=stop.said)
    if failed:
        raise SettingsError(failed)
    if left or producer.failed:
        why = f": {producer.error}" if producer.error else ""
        msg = f"{left + producer.failed:,} events were not acknowledged{why}"
        raise SourceUnavailable(msg)
    return INTERRUPTED if stop.said else 0


def _paced(
    records: Iterator[Record], rate: float | None, producer: KafkaProducer, stop: Stop
) -> Iterator[Record]:
    """Give each record at its time; a stall is caught up with, but not by more than a second's worth."""
    due = time.monotonic()
    for record in records:
        while rate is not None and not stop.said and (wait := due - time.monotonic()) > 0:
            producer.poll(min(wait, 0.1))
        if stop.said:
            return
        yield record
        if rate is not None:
            due = max(due, time.monotonic() - 1.0) + 1.0 / rate


def _summary(producer: KafkaProducer, left: int, seconds: float, *, interrupted: bool) -> None:
    rate = producer.acknowledged / max(seconds, 1e-6)
    print(
        f"{'interrupted: ' if interrupted else ''}{producer.acknowledged:,} events in topic "
        f"{producer.topic!r} after {seconds:.1f} s ({rate:,.0f} a second)"
        + (f", {left + producer.failed:,} not acknowledged" if left or producer.failed else "")
    )


class _Display:
    """A progress bar on a terminal, a plain line every few seconds elsewhere; both on stderr."""

    def __init__(self, file: RowFile | ParquetRows, limit: int | None) -> None:
        self._file = file
        self._limit = limit
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._said = time.monotonic()

    def __enter__(self) -> Self:
        console = Console(stderr=True)
        if console.is_terminal:
            columns: Sequence[Any] = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn(
                    "{task.percentage:>3.0f} %  {task.fields[rows]:,} events, {task.fields[rate]:,.0f}/s"
                ),
                TimeRemainingColumn(),
            )
            self._progress = Progress(*columns, console=console)
            self._progress.start()
            self._task = self._progress.add_task(self._file.path.name, total=1.0, rows=0, rate=0.0)
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def show(self, sent: _Sent, *, last: bool = False) -> None:
        """How far it is: by bytes read, or by rows where a limit will end it earlier."""
        now = time.monotonic()
        if not last and now - self._said < (0.1 if self._progress else _LINE_SECONDS):
            return
        self._said = now
        done = max(self._file.position / max(self._file.size, 1), sent.rows / (self._limit or float("inf")))
        rate = sent.rows / max(sent.seconds, 1e-6)
        if self._progress is not None:
            self._progress.update(self._task, completed=done, rows=sent.rows, rate=rate)
        elif not last:
            print(f"{sent.rows:,} events, {rate:,.0f} a second, {done:.0%} of the file", file=sys.stderr)
