"""The contract in plain Python: what a payload must become, written without the decoder."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime
from typing import Any

from fluvial.schema import LIMIT, MAX_CATEGORY, MAX_KEY_BYTES, FeatureSpec, Path, Schema, leaves
from fluvial.types import Event, Task

EARLIEST, LATEST = -2_208_988_800.0, 253_402_300_799.0
UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6}
PLAIN_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)?", re.ASCII)


class Broken(Exception):
    """The payload breaks the contract."""


class Unsure(Exception):
    """Plain Python cannot tell: a corner where JSON libraries differ by right."""


def demand(holds: object, why: str) -> None:
    if not holds:
        raise Broken(why)


def expected(
    schema: Schema, value: bytes | None, key: bytes | None, partition: int, offset: int, timestamp_ms: int
) -> Event:
    """The event that these bytes are. Raises Broken, or Unsure. Not for contracts that are inferred."""
    demand(value and len(value) <= schema.max_bytes, "no bytes, or too many")
    document = parsed(value or b"", lenient=schema.unknown == "ignore")
    demand(isinstance(document, dict), "no object")
    known = tree(schema)
    shaped(document, known, strict=schema.unknown == "refuse")
    x: dict[str, float | str] = {}
    for feature in schema.features:
        found = dig(document, feature.path)
        if found is None:
            demand(not feature.required, f"{feature.name} is missing")
            found = feature.default
            if found is None:
                continue
            x[feature.name] = found
        else:
            x[feature.name] = as_feature(feature, found)
    weight = dig(document, schema.weight)
    if weight is not None:
        weight = number(weight)
        demand(1e-6 <= weight <= 1e6, "weight")
    return Event(
        partition,
        offset,
        time_of(schema, document, timestamp_ms),
        name_of(schema.key, document) if schema.key is not None else message_key(key),
        x,
        label_of(schema, document),
        1.0 if weight is None else weight,
        None if schema.id is None else name_of(schema.id, document),
    )


def parsed(value: bytes, *, lenient: bool) -> Any:
    """The document. `lenient`: the decoder does not look into the strings that it passes over."""
    if b"\\ud" in value.lower():
        raise Unsure("half a surrogate pair is JSON to some")

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            raise Unsure("a member twice: the decoder checks each of them")
        return made

    def constant(name: str) -> None:
        raise Broken(name)

    try:
        text = value.decode()
    except ValueError as error:
        raise (Unsure if lenient else Broken)(str(error)) from None
    try:
        return json.loads(text, object_pairs_hook=members, parse_constant=constant)
    except ValueError as error:
        if "integer string conversion" in str(error):  # thousands of digits
            raise Unsure(str(error)) from None
        raise Broken(str(error)) from None
    except RecursionError:
        raise Unsure("deep") from None


def tree(schema: Schema) -> dict[str, Any]:
    """Declared members: an object is a dict, a field is None."""
    known: dict[str, Any] = {}
    for _, path in leaves(schema):
        node = known
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = None
    return known


def shaped(document: Any, known: dict[str, Any], *, strict: bool) -> None:
    """Objects where objects are declared, and no other members where these are refused."""
    for name, value in document.items():
        if name not in known:
            demand(not strict, f"unknown {name!r}")
        elif isinstance(known[name], dict) and value is not None:
            demand(isinstance(value, dict), f"{name!r} is no object")
            shaped(value, known[name], strict=strict)
    # A null object is an absent one, which is found missing when something in it is needed.


def dig(document: Any, path: Path | None) -> Any:
    """What stands there; None where nothing does."""
    for part in path or ():
        document = document.get(part) if isinstance(document, dict) else None
    return None if path is None else document


def number(value: Any) -> float:
    demand(isinstance(value, int | float) and not isinstance(value, bool), "no number")
    try:
        made = float(value)
    except OverflowError:
        raise Broken("beyond a double") from None
    demand(math.isfinite(made), "not finite")
    return made


def characters(value: Any) -> str:
    demand(isinstance(value, str), "no string")
    demand(not any("\ud800" <= c <= "\udfff" for c in value), "half a surrogate pair")
    return str(value)


def as_feature(feature: FeatureSpec, value: Any) -> float | str:
    if feature.type == "boolean":
        demand(isinstance(value, bool), "no boolean")
        return 1.0 if value else 0.0
    if feature.type == "category":
        text = characters(value)
        demand(text in feature.values if feature.values else len(text) <= MAX_CATEGORY, "category")
        return text
    made = number(value)
    demand(feature.low <= made <= feature.high, "out of range")
    demand(feature.type == "number" or made == math.floor(made), "no integer")
    return made


def label_of(schema: Schema, document: Any) -> bool | int | float | None:
    label, value = schema.label, dig(document, schema.label.path)
    if value is None:
        return None
    if label.task is Task.REGRESSION:
        made = number(value)
        demand(label.low <= made <= label.high, "label out of range")
        return made
    # 1 is not True, and 1.0 is not 1: the class, and its type.
    places = [i for i, c in enumerate(label.classes) if c == value and type(c) is type(value)]
    demand(places, "label outside the set")
    return bool(places[0]) if label.task is Task.BINARY else places[0]


def name_of(path: Path, document: Any) -> str:
    """A key or an id: a string or an integer of 64 bits."""
    value = dig(document, path)
    if isinstance(value, int) and not isinstance(value, bool):
        if not -(2**63) <= value < 2**63:
            raise Unsure("an integer of more than 64 bits")
        return str(value)
    text = characters(value)
    demand(0 < len(text.encode()) <= MAX_KEY_BYTES, "key or id: empty or too long")
    return text


def message_key(key: bytes | None) -> str | None:
    if not key:
        return None
    demand(len(key) <= MAX_KEY_BYTES, "the message's key is too long")
    try:
        return key.decode()
    except ValueError:
        raise Broken("the message's key is not UTF-8") from None


def time_of(schema: Schema, document: Any, timestamp_ms: int) -> float:
    if schema.time is None:
        demand(0 <= timestamp_ms <= LATEST * 1e3, "the message's time")
        return timestamp_ms / 1e3
    value = dig(document, schema.time)
    if schema.time_unit != "iso":
        made = number(value)
        unit = UNITS[schema.time_unit]
        demand(EARLIEST * unit <= made <= LATEST * unit, "time")
        return made / unit
    try:
        when = datetime.fromisoformat(characters(value))
    except ValueError:
        raise Unsure("what ISO 8601 allows") from None
    if not PLAIN_TIME.fullmatch(value):  # Python reads 2024-02-21.0000e1009T12:00:00Z, too
        raise Unsure("what ISO 8601 allows")
    seconds = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    demand(EARLIEST <= seconds <= LATEST + 1.0, "time")
    return seconds


def assert_sound(schema: Schema, event: Event) -> None:
    """What must hold of any accepted event, inferred contracts included."""
    assert math.isfinite(event.time)
    assert event.key is None or 0 <= len(event.key.encode()) <= MAX_KEY_BYTES
    assert 1e-6 <= event.weight <= 1e6
    for name, value in event.x.items():
        assert type(name) is str
        if type(value) is str:
            assert len(value) <= MAX_CATEGORY
            value.encode()
        else:
            assert type(value) is float, name
            assert -LIMIT <= value <= LIMIT or any(f.name == name for f in schema.features)
    label = schema.label
    if event.y is None:
        return
    if label.task is Task.REGRESSION:
        assert type(event.y) is float
        assert label.low <= event.y <= label.high
    elif label.task is Task.BINARY:
        assert type(event.y) is bool
    else:
        assert type(event.y) is int
        assert 0 <= event.y < len(label.classes)
    if schema.infer is not None:
        assert len(event.x) <= schema.infer.max_features
