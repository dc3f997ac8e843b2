"""The `[schema]` table, which is written for people, as the contract that the codec compiles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from fluvial.config.tables import Section, convert, join, refuse_unknown
from fluvial.errors import SettingsError
from fluvial.schema import (
    LIMIT,
    FeatureSpec,
    FeatureType,
    Inference,
    LabelSpec,
    Path,
    Schema,
    check,
)
from fluvial.types import Task

TaskName = Literal["binary", "multiclass", "regression"]
PathText = str | list[str]
"""Dots for nesting; a list when a key holds a dot."""


class FeatureTable(Section, frozen=True):
    """`[schema.features.NAME]`."""

    type: FeatureType
    path: PathText | None = None
    """Default: `features.NAME`."""
    required: bool | None = None
    """Default: true, unless a default is given."""
    default: bool | float | str | None = None
    """Stands in for an absent or null field."""
    range: tuple[float, float] | None = None
    """Numbers and integers: smallest and largest allowed value."""
    values: list[str] = msgspec.field(default_factory=list)
    """Categories: the allowed values; empty for any."""


class LabelTable(Section, frozen=True):
    """`[schema.label]`."""

    type: TaskName
    path: PathText = "label"
    classes: list[str | int | bool] | None = None
    """In order; binary: negative, positive (default false, true). Required for multiclass."""
    range: tuple[float, float] | None = None
    """Regression: smallest and largest allowed value."""


class InferTable(Section, frozen=True):
    """`infer = { ... }`."""

    events: int = 100
    """Valid events after which the features are fixed."""
    max_features: int = 64
    path: PathText = "features"
    """The object whose scalar members are the features; "" for the event itself."""


class WeightTable(Section, frozen=True):
    """`[schema.weight]`."""

    path: PathText = "weight"


class SchemaTable(Section, frozen=True):
    """`[schema]`."""

    label: TaskName | LabelTable
    features: dict[str, FeatureType | FeatureTable] = msgspec.field(default_factory=dict)
    infer: bool | InferTable = False
    id: PathText | None = None
    key: PathText | None = None
    """Default: Kafka's message key."""
    time: PathText | None = None
    """Default: Kafka's timestamp."""
    time_unit: Literal["s", "ms", "us", "iso"] = "s"
    weight: PathText | WeightTable | None = None
    unknown: Literal["refuse", "ignore"] = "refuse"
    max_bytes: int = 1_000_000


def schema_from(table: Any) -> Schema:
    """Parse and check. Raises SettingsError starting with the path of the fault."""
    if not isinstance(table, Mapping):
        msg = "schema: expected a table"
        raise SettingsError(msg)
    refuse_unknown(table, SchemaTable, "schema")
    for name, kind in (("label", LabelTable), ("infer", InferTable), ("weight", WeightTable)):
        if isinstance(table.get(name), Mapping):
            refuse_unknown(table[name], kind, f"schema.{name}")
    features = table.get("features", {})
    if not isinstance(features, Mapping):
        msg = 'schema.features: expected a table, a line per feature: amount = "number"'
        raise SettingsError(msg)
    read = convert({**table, "features": {}}, SchemaTable, "schema")
    schema = Schema(
        features=tuple(_feature(name, entry) for name, entry in features.items()),
        label=_label(LabelTable(type=read.label) if isinstance(read.label, str) else read.label),
        id=_path(read.id, "schema.id"),
        key=_path(read.key, "schema.key"),
        time=_path(read.time, "schema.time"),
        time_unit=read.time_unit,
        weight=_path(
            read.weight.path if isinstance(read.weight, WeightTable) else read.weight, "schema.weight"
        ),
        unknown=read.unknown,
        max_bytes=read.max_bytes,
        infer=_inference(InferTable() if read.infer is True else read.infer or None),
    )
    check(schema)
    return schema


def _feature(name: str, entry: Any) -> FeatureSpec:
    where = join("schema.features", name)
    if isinstance(entry, Mapping):
        refuse_unknown(entry, FeatureTable, where)
    elif isinstance(entry, str):
        entry = {"type": entry}
    read = convert(entry, FeatureTable, where)
    default = read.default
    if isinstance(default, bool) != (read.type == "boolean") and default is not None:
        raise SettingsError(f"{where}.default: is not a {read.type}")
    low, high = read.range or (-LIMIT, LIMIT)
    return FeatureSpec(
        name=name,
        type=read.type,
        path=_path(read.path, f"{where}.path") or ("features", name),
        required=default is None if read.required is None else read.required,
        default=default if isinstance(default, str) or default is None else float(default),
        low=low,
        high=high,
        values=tuple(read.values),
    )


def _label(read: LabelTable) -> LabelSpec:
    task = Task(read.type)
    classes = read.classes
    if classes is None:
        classes = [False, True] if task == Task.BINARY else []
    low, high = read.range or (-LIMIT, LIMIT)
    path = _path(read.path, "schema.label.path") or ()
    return LabelSpec(task=task, path=path, classes=tuple(classes), low=low, high=high)


def _inference(read: InferTable | None) -> Inference | None:
    if read is None:
        return None
    path = () if read.path in ("", []) else _path(read.path, "schema.infer.path")
    return Inference(events=read.events, max_features=read.max_features, path=path or ())


def _path(text: PathText | None, where: str) -> Path | None:
    if text is None:
        return None
    parts = tuple(text.split(".")) if isinstance(text, str) else tuple(text)
    if not parts or not all(parts):
        raise SettingsError(f"{where}: {text!r} is not a path; write a.b for b inside a")
    return parts
