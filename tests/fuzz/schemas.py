"""Contracts to fuzz under, and valid events for them."""

from __future__ import annotations

import random
from typing import Any

from fluvial.schema import FeatureSpec, Path, Schema

Table = dict[str, Any]

NAMED: dict[str, Table] = {
    "plain": {
        "key": "key",
        "time": "time",
        "label": {"type": "binary"},
        "features": {
            "a": "number",
            "b": {"type": "number", "range": [-10.0, 10.0]},
            "n": {"type": "integer", "range": [-5.0, 2.0**53]},
            "c": "boolean",
            "d": {"type": "category", "values": ["p", "q", "ü"]},
        },
    },
    "optional": {
        "id": "id",
        "time": "at",
        "time_unit": "ms",
        "weight": {"path": "w"},
        "unknown": "ignore",
        "max_bytes": 3_000,
        "label": {"type": "regression", "range": [-1_000.0, 1_000.0]},
        "features": {
            "a": {"type": "number", "required": False},
            "b": {"type": "number", "default": 0.5},
            "n": {"type": "integer", "default": 3.0},
            "c": {"type": "boolean", "default": True},
        },
    },
    "nested": {
        "id": "meta.id",
        "key": "meta.key",
        "time": "meta.time",
        "time_unit": "iso",
        "label": {"type": "multiclass", "path": "out.label", "classes": ["a", "b", "c", "d", "e"]},
        "features": {
            "deep": {"type": "number", "path": "one.two.three.deep"},
            "side": {"type": "number", "path": "one.side"},
            "kind": {"type": "category", "path": "kind"},
            "odd name": {"type": "boolean", "path": ["one", "a.b"]},
        },
    },
    "numbered": {
        "label": {"type": "multiclass", "classes": [3, 1, 2]},
        "unknown": "ignore",
        "features": {
            "a": "number",
            "kind": {"type": "category", "path": "kind", "required": False},
            "n": {"type": "integer", "path": "n"},
        },
    },
    "inferred": {"infer": {"events": 30, "max_features": 6}, "key": "key", "label": "binary"},
    "inferred flat": {
        "infer": {"events": 10, "max_features": 8, "path": ""},
        "unknown": "ignore",
        "label": {"type": "regression"},
    },
}
LABELS: tuple[Any, ...] = (
    {"type": "binary"},
    {"type": "binary", "classes": ["no", "yes"]},
    {"type": "binary", "path": "deep.answer", "classes": [7, -7]},
    {"type": "multiclass", "classes": ["a", "b", "c"]},
    {"type": "multiclass", "path": "deep.answer", "classes": [5, 0, 9]},
    {"type": "regression"},
    {"type": "regression", "path": "deep.answer", "range": [-1.0, 1.0]},
)
NAMES = ["a", "b", "x y", "ü", "e\u0301", "\u00e9", "A", "_", "$", "label2", "f0", "class", "\U0001f600", "0"]


def random_table(rng: random.Random) -> Table:
    """A contract that nobody thought of."""
    features: Table = {}
    for name in rng.sample(NAMES, rng.randint(1, 7)):
        kind = rng.choice(["number", "number", "integer", "boolean", "category"])
        feature: Table = {"type": kind, "path": _place(rng, name)}
        if kind in {"number", "integer"} and rng.random() < 0.5:
            feature["range"] = sorted([float(rng.randint(-100, 0)), float(rng.randint(1, 100))])
        if kind == "category" and rng.random() < 0.5:
            feature["values"] = ["p", "q", "ü"]
        if rng.random() < 0.4:
            feature["required"] = False
        elif rng.random() < 0.2:
            feature["default"] = {"boolean": True, "category": "q"}.get(kind, 1.0)
        features[name] = feature
    table: Table = {"features": features, "label": rng.choice(LABELS)}
    for name, path in (("id", "the id"), ("key", "deep.key"), ("time", "time"), ("weight", "weight")):
        if rng.random() < 0.5:
            table[name] = path
    table["time_unit"] = rng.choice(["s", "ms", "us", "iso"])
    table["unknown"] = rng.choice(["refuse", "ignore"])
    table["max_bytes"] = rng.choice([1_000_000, 2_000])
    return table


def _place(rng: random.Random, name: str) -> list[str]:
    return [*rng.choice([["features"], ["deep"], ["deep", "er"], ["features", "\u00e9"], []]), f"f {name}"]


# --- valid events ----------------------------------------------------------------------------------


def put(event: Table, path: Path, value: Any) -> None:
    """Put a value at its place."""
    for part in path[:-1]:
        event = event.setdefault(part, {})
    event[path[-1]] = value


def number_in(rng: random.Random, low: float, high: float, *, whole: bool) -> float | int:
    """A number in the range, now and then one of its ends or an extreme."""
    ordinary = rng.gauss(0.0, 1.0) if low < -1.0 and high > 1.0 else rng.uniform(low, high)
    value = rng.choice([low, high, 0.0, 1e-300, 12345.0]) if rng.random() < 0.03 else ordinary
    value = min(max(value, low), high)
    if not whole:
        return value
    value = float(round(min(max(4.0 * ordinary, low), high)))
    return rng.choice([int, float])(value)


def value_of(rng: random.Random, feature: FeatureSpec) -> Any:
    if feature.type == "boolean":
        return rng.random() < 0.5
    if feature.type == "category":
        return rng.choice(feature.values or ("red", "green", "grün", ""))
    return number_in(rng, feature.low, feature.high, whole=feature.type == "integer")


def time_of(rng: random.Random, unit: str) -> Any:
    seconds = 1_600_000_000 + rng.randrange(10**8)
    if unit == "iso":
        return rng.choice(["2024-02-29T12:00:00Z", "1999-12-31T23:59:59.5+01:00", "2024-01-01T00:00:00"])
    return seconds * {"s": 1, "ms": 1_000, "us": 1_000_000}[unit]


def valid(rng: random.Random, schema: Schema) -> Table:
    """An event that keeps the contract; the label depends a little on a feature."""
    event: Table = {}
    for feature in schema.features:
        if feature.required or rng.random() < 0.7:
            put(event, feature.path, value_of(rng, feature))
        elif rng.random() < 0.3:
            put(event, feature.path, None)
    if schema.infer is not None:
        members = {f"m{k}": rng.gauss(0, 1) for k in range(4)} | {"flag": True, "text": rng.choice("xyz")}
        for name, value in members.items():
            put(event, (*schema.infer.path, name), value)
    if rng.random() < 0.9:
        label = schema.label
        y: Any = (
            rng.choice(label.classes) if label.classes else number_in(rng, label.low, label.high, whole=False)
        )
        put(event, label.path, y)
    for path, value in (
        (schema.id, rng.choice([rng.randrange(10**9), "an id", -1])),
        (schema.key, f"k{rng.randrange(40)}"),
        (schema.time, time_of(rng, schema.time_unit)),
        (schema.weight, rng.choice([0.5, 1, 2.0])),
    ):
        if path is not None:
            put(event, path, value)
    if schema.unknown == "ignore" and rng.random() < 0.2:
        event["something else"] = rng.choice([1, [1, {"a": None}], {"b": "c"}])
    return event
