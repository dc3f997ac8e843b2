"""How a row becomes an event: columns to JSON paths, cells to JSON values."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol, cast, get_args

import msgspec

from fluvial.adapters.files import fault_of_delimiter, nearest
from fluvial.errors import SettingsError
from fluvial.schema import FeatureType, LabelSpec, Path, Schema
from fluvial.types import Task

Convert = Callable[[Any], Any]
"""A cell to a JSON value."""
Encode = Callable[[Sequence[Any]], tuple[bytes, str | None]]
"""A row to an event's bytes and its message key."""

_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
"""In seconds."""


class Mapping(msgspec.Struct, frozen=True, kw_only=True):
    """Which columns are what. None: not said."""

    schema: Schema | None = None
    key: str | None = None
    id: str | None = None
    time: str | None = None
    time_unit: str | None = None
    label: str | None = None
    features: tuple[str, ...] | None = None
    types: dict[str, FeatureType] = msgspec.field(default_factory=dict)

    @property
    def maps(self) -> bool:
        """Whether anything beside the message key was said, so that JSON lines are built anew."""
        return any(part is not None for part in (self.id, self.time, self.label, self.features))


def add_reading(add: Callable[..., Any], when: str = "") -> None:
    """Declare how a file is read, the same for every command that reads one."""
    add("--format", choices=("csv", "json", "parquet"), help=f"{when}what it is (default: by its name)")
    cells = f"{when}between the cells (default: comma; tab for .tsv)"
    add("--delimiter", type=delimiter, default="", metavar="C", help=cells)


def delimiter(text: str) -> str:
    """For argparse, to which a wrong one is wrong usage; empty is the default."""
    if text and (wrong := fault_of_delimiter(text)):
        raise argparse.ArgumentTypeError(wrong)
    return text


def parse_types(text: str) -> dict[str, FeatureType]:
    """`a=category,b=number`. Raises SettingsError."""
    types: dict[str, FeatureType] = {}
    for part in filter(None, text.split(",")):
        name, _, kind = part.partition("=")
        if kind not in get_args(FeatureType):
            msg = f"--types: {part!r} is not COLUMN=number, integer, boolean or category"
            raise SettingsError(msg)
        types[name] = cast("FeatureType", kind)
    return types


class Columns(Protocol):
    """A file with named columns."""

    @property
    def path(self) -> object:
        """For messages."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Their names, in order."""


def compile_mapping(mapping: Mapping, file: Columns, fields: Sequence[str] | None = None) -> Encode:
    """Settle once where every column goes. Raises SettingsError for a column that is not there.

    With a schema only declared fields are written, at their paths. Without one the event is
    `{"id", "key", "time", "features": {...}, "label"}`, of which only what was named is there.
    `fields` are the columns where the file does not name them itself.
    """
    columns = tuple(file.columns if fields is None else fields)
    places = _Places(mapping, columns, str(file.path))
    steps = [*places.special(), *places.features()]
    key = places.key_index

    def encode(row: Sequence[Any]) -> tuple[bytes, str | None]:
        event: dict[str, Any] = {}
        for index, path, convert in steps:
            cell = row[index]
            if cell is None or cell == "":
                continue  # an empty cell is an absent field
            part = event
            for name in path[:-1]:
                part = part.setdefault(name, {})
            part[path[-1]] = convert(cell)
        return _encode(event), message_key(row)

    def message_key(row: Sequence[Any]) -> str | None:
        return None if key is None or row[key] is None or row[key] == "" else str(row[key])

    return encode


_encode = msgspec.json.Encoder().encode

Step = tuple[int, Path, Convert]
"""Index of the column, where it goes, what becomes of it."""


class _Places:
    """Where the columns of one file go."""

    def __init__(self, mapping: Mapping, columns: tuple[str, ...], file: str) -> None:
        self._mapping = mapping
        self._schema = mapping.schema
        self._columns = columns
        self._file = file
        self._used: set[str] = set()
        self.key_index = self._find(mapping.key, "--key", self._declared("key"))
        for name in mapping.types:
            self._index(name, "--types")

    def _index(self, name: str, option: str) -> int:
        if name not in self._columns:
            raise SettingsError(
                f"{option}: {self._file} has no column {name!r}{nearest(name, self._columns)}"
            )
        return self._columns.index(name)

    def _declared(self, field: str) -> Path | None:
        path: Path | None = getattr(self._schema, field, None)
        return path

    def _find(self, said: str | None, option: str, path: Path | None) -> int | None:
        """The column that was named, else the one named like the schema's field, if there is one."""
        name = said if said is not None else (path[-1] if path else None)
        if name is None or (said is None and name not in self._columns):
            return None
        self._used.add(name)
        return self._index(name, option)

    def _refuse_undeclared(self) -> None:
        """A column that was named and that the schema has no place for would be left out in silence."""
        for field in ("id", "time"):
            named = getattr(self._mapping, field)
            if named is not None and self._schema is not None and self._declared(field) is None:
                raise SettingsError(
                    f"--{field} {named}: the settings have no field for it; declare schema.{field}"
                )

    def special(self) -> list[Step]:
        """Id, key, time, label and weight."""
        self._refuse_undeclared()
        said, schema = self._mapping, self._schema
        path = schema or _WIRE
        label = self._find(said.label, "--label", schema.label.path if schema else None)
        if label is None and schema is not None and said.label is None:
            columns = ", ".join(self._columns[:20])
            raise SettingsError(f"--label: name the label's column in {self._file}; its columns: {columns}")
        found: list[tuple[int | None, Path | None, Convert]] = [
            (self._find(said.id, "--id", self._declared("id")), path.id, str),
            (self.key_index, path.key, str),
            (self._find(said.time, "--time", self._declared("time")), path.time, self._time()),
            (label, path.label.path, label_converter(schema.label) if schema else scalar),
            (self._find(None, "", self._declared("weight")), path.weight, scalar),
        ]
        return [(index, where, convert) for index, where, convert in found if index is not None and where]

    def features(self) -> list[Step]:
        """The named columns, else all that are nothing else."""
        names = self._mapping.features
        if self._schema is not None and self._schema.features:
            declared = {feature.name: feature for feature in self._schema.features}
            for name in names or ():
                if name not in declared:
                    raise SettingsError(
                        f"--features: {name!r} is not declared{nearest(name, tuple(declared))}"
                    )
            chosen = [declared[name] for name in names] if names else list(declared.values())
            for feature in chosen:
                if feature.required or names:
                    self._index(feature.name, f"schema.features.{feature.name}")
            return [
                (self._columns.index(f.name), f.path, self._converter(f.name, f.type))
                for f in chosen
                if f.name in self._columns
            ]
        root: Path = ("features",)
        if self._schema is not None and self._schema.infer is not None:
            root = self._schema.infer.path
        if names is None:
            names = tuple(name for name in self._columns if name not in self._used)
        return [(self._index(n, "--features"), (*root, n), self._converter(n, None)) for n in names]

    def _converter(self, name: str, declared: FeatureType | None) -> Convert:
        return _CONVERTERS[self._mapping.types.get(name) or declared]

    def _time(self) -> Convert:
        written = self._schema.time_unit if self._schema is not None and self._schema.time else "s"
        return time_converter(self._mapping.time_unit, written)


_WIRE = Schema(
    features=(), label=LabelSpec(Task.REGRESSION, ("label",)), id=("id",), key=("key",), time=("time",)
)
"""Where things are when no settings say otherwise."""


def scalar(cell: Any) -> Any:
    """Number or boolean where the text is one, else the text: what JSON cannot hold stays a text."""
    if not isinstance(cell, str):
        return cell
    if cell in {"true", "false", "True", "False"}:
        return cell in {"true", "True"}
    return number(cell)


def number(cell: Any) -> Any:
    """A finite number, else the cell as it is: the service says what is wrong with it."""
    if not isinstance(cell, str) or "_" in cell:
        return cell
    try:
        value = float(cell)
    except ValueError:
        return cell
    if not math.isfinite(value):
        return cell
    text = cell.strip()
    return int(text) if len(text) < 16 and text.lstrip("+-").isdecimal() else value


def boolean(cell: Any) -> Any:
    """True or false, also from 1 and 0."""
    return {"true": True, "1": True, "false": False, "0": False}.get(str(cell).strip().lower(), cell)


_CONVERTERS: dict[FeatureType | None, Convert] = {
    None: scalar,
    "number": number,
    "integer": number,
    "boolean": boolean,
    "category": str,
}


def label_converter(label: LabelSpec) -> Convert:
    """The declared class that a cell names, `1.0` the class 1 too, else what `scalar` makes of it."""
    if label.task is Task.REGRESSION:
        return number
    named: dict[str, Any] = {}
    for each in label.classes:
        named[str(each).lower() if isinstance(each, bool) else str(each)] = each
    if label.task is Task.BINARY and all(isinstance(each, bool) for each in label.classes):
        named |= {"1": True, "0": False, "True": True, "False": False}

    whole = {float(each): each for each in label.classes if type(each) is int}

    def convert(cell: Any) -> Any:
        if isinstance(cell, str):
            cell = named.get(cell, scalar(cell))
        return whole.get(cell, cell) if type(cell) is float else cell

    return convert


def time_converter(read: str | None, written: str) -> Convert:
    """A time in the unit `read` (None: a number is seconds, a text ISO 8601) in the unit `written`."""

    def convert(cell: Any) -> Any:
        value = number(cell)
        if read == written and not isinstance(value, str):
            return value
        try:
            return _written(_seconds(value, read), written)
        except (TypeError, ValueError, OverflowError, OSError):
            return cell  # the service says what is wrong with it

    return convert


def _seconds(value: Any, read: str | None) -> float:
    """Since the epoch. Raises what `datetime` and `float` do: on no time, and on one out of their range."""
    if isinstance(value, str):
        moment = datetime.fromisoformat(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return float(value) * _UNITS.get(read or "s", 1.0)


def _written(seconds: float, unit: str) -> Any:
    if unit == "iso":
        return datetime.fromtimestamp(seconds, UTC).isoformat()
    return seconds / _UNITS[unit] if unit == "s" else round(seconds / _UNITS[unit])


def json_key(line: bytes, path: Path) -> str | None:
    """The message key in a line of JSON; None where it has none or the line is broken."""
    try:
        value = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None  # it goes as it is, and becomes a dead letter
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return None if value is None or isinstance(value, dict | list) else str(value)
