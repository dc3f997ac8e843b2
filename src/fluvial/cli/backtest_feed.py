"""Where a backtest's records come from: files as `fluvial produce` would send them, or a topic."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from fluvial.adapters.files import RowFile, nearest
from fluvial.adapters.kafka import Stretch
from fluvial.adapters.parquet import ParquetRows, rows_of
from fluvial.backtest import Record, Records
from fluvial.cli.mapping import Mapping, compile_mapping, json_key, parse_types
from fluvial.config import Settings
from fluvial.errors import SettingsError
from fluvial.late import checked_delay

Row = tuple[bytes, str | None, float | None]
"""An event's bytes, its message key, after how much its label is known."""


class Feed:
    """The records, and how far they have been read."""

    def __init__(self, records: Records, share: Callable[[int], float]) -> None:
        self.records = records
        self.share = share
        """Of all, after so many of one run."""


def feed_of(args: argparse.Namespace, settings: Settings) -> Feed:
    """What the arguments ask for. Raises SettingsError for a wrong file, column or place, SourceError."""
    if bool(args.files) == (args.topic is not None):
        msg = "give files, or --topic for a stretch of the topic"
        raise SettingsError(msg)
    unit = None if args.label_delay_column is None else args.label_delay_unit
    return _Files(args, settings, unit).feed() if args.files else _topic(args, settings, unit)


class _Files:
    """Files, one after the other; row number is offset."""

    def __init__(self, args: argparse.Namespace, settings: Settings, unit: str | None) -> None:
        self._args, self._settings, self._unit = args, settings, unit
        self._sizes = [_size(Path(path)) for path in args.files]
        self._at = 0
        self._open: RowFile | ParquetRows | None = None

    def feed(self) -> Feed:
        for path in self._args.files:
            _refuse_stream(path)
            with _opened(self._args, path) as file:
                next(self._rows(file), None)  # a wrong column is said before anything is folded
        name = ", ".join(Path(path).name for path in self._args.files)
        return Feed(Records(self._records, {0: 0}, name, self._unit), self._share)

    def _share(self, done: int) -> float:
        if self._args.limit:
            limit: int = self._args.limit
            return min(1.0, done / limit)
        now = 0.0
        if self._open is not None and self._open.size:
            now = self._open.position / self._open.size * self._sizes[self._at]
        return float(min(1.0, (sum(self._sizes[: self._at]) + now) / max(sum(self._sizes), 1)))

    def _records(self) -> Iterator[Record]:
        rows = islice(self._all_rows(), self._args.limit)
        for offset, (value, key, delay) in enumerate(rows):
            yield Record(value, None if key is None else key.encode(), 0, offset, 0, delay)

    def _all_rows(self) -> Iterator[Row]:
        for at, path in enumerate(self._args.files):
            self._at = at
            with _opened(self._args, path) as file:
                self._open = file
                yield from self._rows(file)

    def _rows(self, file: RowFile | ParquetRows) -> Iterator[Row]:
        args, column = self._args, self._args.label_delay_column
        mapping = mapping_of(args, self._settings)
        if file.format == "json" and isinstance(file, RowFile) and not mapping.maps:
            return self._as_they_are(file, args.key, column)
        if file.format == "json" and isinstance(file, RowFile):
            names = file.field_names()
            rows: Iterator[Any] = ([row.get(name) for name in names] for row in file.objects())
        else:
            names, rows = file.columns, file.cells()
        if column is not None and self._settings.schema.infer is not None and mapping.features is None:
            raise SettingsError("--label-delay-column with an inferred schema: say --features too")
        encode = compile_mapping(mapping, file, names)
        if column is None:
            return ((*encode(row), None) for row in rows)
        if column not in names:
            raise SettingsError(
                f"--label-delay-column: {file.path} has no column {column!r}{nearest(column, names)}"
            )
        place = names.index(column)
        return ((*encode(row), checked_delay(row[place])) for row in rows)

    def _as_they_are(self, file: RowFile, key: str | None, column: str | None) -> Iterator[Row]:
        """Lines of JSON that are events already."""
        key_path = None if key is None else tuple(key.split("."))
        for line in file.lines():
            message_key = None if key_path is None else json_key(line, key_path)
            yield line, message_key, None if column is None else delay_in(line, column)


def delay_in(value: bytes | None, column: str) -> float | None:
    """The delay that stands in a JSON event at a dotted path."""
    try:
        found = msgspec.json.decode(value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    for name in column.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return checked_delay(found)


def mapping_of(args: argparse.Namespace, settings: Settings) -> Mapping:
    """Which columns are what, as for `fluvial produce`."""
    return Mapping(
        schema=settings.schema,
        key=args.key,
        id=args.id,
        time=args.time,
        time_unit=args.time_unit,
        label=args.label,
        features=tuple(filter(None, args.features.split(","))) if args.features is not None else None,
        types=parse_types(args.types),
    )


def _opened(args: argparse.Namespace, path: str) -> RowFile | ParquetRows:
    return rows_of(path, args.format, args.delimiter)


def _refuse_stream(path: str) -> None:
    """A pipe gives its bytes once, and the first rows are tried before each run begins anew."""
    there = Path(path)
    if there.exists() and not there.is_file() and not there.is_dir():
        raise SettingsError(f"{path}: is no regular file, and is read several times: write it to a file")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # said when it is opened


def _topic(args: argparse.Namespace, settings: Settings, unit: str | None) -> Feed:
    kafka = msgspec.structs.replace(settings.kafka, topic=args.topic or settings.kafka.topic)
    first, end = args.first or "earliest", args.end or "latest"
    stretch = Stretch(kafka, settings.service, first, end, args.partition)
    if settings.kafka.scope == "partition" and len(stretch.bounds) > 1:
        msg = 'kafka.scope = "partition" has a model a partition: choose one with --partition N'
        raise SettingsError(msg)
    column = args.label_delay_column

    def read() -> Iterator[Record]:
        for m in islice(stretch.read(), args.limit):
            value, delay = m.value(), None
            if column is not None:
                delay = delay_in(value, column)
            yield Record(value, m.key(), m.partition(), m.offset(), m.timestamp()[1], delay)

    starts = {p: bounds.first for p, bounds in stretch.bounds.items()}
    places = ", ".join(f"{p}: {b.first} to {b.end}" for p, b in stretch.bounds.items())
    total = min(stretch.events, args.limit or stretch.events)
    name = f"topic {kafka.topic} ({places})"
    return Feed(Records(read, starts, name, unit), lambda done: done / total if total else 1.0)
