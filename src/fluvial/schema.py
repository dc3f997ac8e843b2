"""The events' contract: which fields there are, where they stand in the JSON, and what they may be.

The order of `features` is the order in which every model sees them. Nothing else reaches a model.
"""

from __future__ import annotations

import hashlib
import math
from typing import Literal

import msgspec

from fluvial.errors import SettingsError
from fluvial.types import Task

FeatureType = Literal["number", "integer", "boolean", "category"]
Path = tuple[str, ...]

LIMIT = 1e100
"""Largest magnitude of a number without a declared range: its square is still finite."""
MAX_FEATURES = 10_000
MAX_CLASSES = 1_000
MAX_KEY_BYTES = 512
MAX_NAME = 128
"""Characters in the name of a JSON member."""
MAX_CATEGORY = 256
"""Characters in a category's value or a class."""


class FeatureSpec(msgspec.Struct, frozen=True):
    """One declared feature."""

    name: str
    type: FeatureType
    path: Path
    required: bool = True
    default: float | str | None = None
    """Used when the field is absent or null; without it an absent optional feature is an absent key."""
    low: float = -LIMIT
    high: float = LIMIT
    values: tuple[str, ...] = ()
    """The allowed names of a category; empty: any, of which the model tells at most 100 apart."""


class LabelSpec(msgspec.Struct, frozen=True):
    """What is being predicted."""

    task: Task
    path: Path = ("label",)
    classes: tuple[str | int | bool, ...] = ()
    """In declared order; the names that scores use. Binary: (negative, positive)."""
    low: float = -LIMIT
    high: float = LIMIT

    @property
    def size(self) -> int:
        """Length of an answer: the number of classes, 1 in regression."""
        return len(self.classes) or 1


class Inference(msgspec.Struct, frozen=True):
    """`infer = true`: the features are learned from the first events and then fixed."""

    events: int = 100
    """Valid events after which the set of features is fixed."""
    max_features: int = 64
    path: Path = ("features",)
    """The JSON object whose scalar members are the features; empty: the event less its declared fields."""


class Schema(msgspec.Struct, frozen=True):
    """The whole contract."""

    features: tuple[FeatureSpec, ...]
    label: LabelSpec
    id: Path | None = None
    key: Path | None = None
    """None: Kafka's message key."""
    time: Path | None = None
    """None: Kafka's timestamp."""
    time_unit: Literal["s", "ms", "us", "iso"] = "s"
    weight: Path | None = None
    unknown: Literal["refuse", "ignore"] = "refuse"
    """What happens to an event with a field that is not declared."""
    max_bytes: int = 1_000_000
    infer: Inference | None = None

    @property
    def hash(self) -> str:
        """Digest of the contract: a checkpoint made under another one is refused."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()[:16]

    @property
    def names(self) -> tuple[str, ...]:
        """Feature names in schema order."""
        return tuple(feature.name for feature in self.features)


def render(path: Path) -> str:
    """The path as messages show it: `$.features.age`."""
    return ".".join(("$", *path))


def check(schema: Schema) -> None:
    """Raise SettingsError, starting with the path in the settings, when the contract cannot be kept."""
    _check_features(schema)
    for number, feature in enumerate(schema.features):
        where = f"schema.features.{feature.name or number}"
        _check_name(where, feature.name)
        _check_range(where, feature.low, feature.high, allowed=feature.type in {"number", "integer"})
        _check_values(where, feature)
        _check_default(where, feature)
    _check_label(schema.label)
    _check_paths(schema)


def usable_name(name: str) -> bool:
    """Whether a JSON member may be called so: the decoder takes no quotes, backslashes or controls."""
    return 0 < len(name) <= MAX_NAME and '"' not in name and "\\" not in name and min(name) >= " "


def _check_features(schema: Schema) -> None:
    names = schema.names
    if schema.infer is None and not names:
        msg = "schema.features: empty; declare at least one feature, or set schema.infer = true"
    elif schema.infer is not None and names:
        msg = "schema.infer: cannot stand beside schema.features; remove one of the two"
    elif len(names) > MAX_FEATURES:
        msg = f"schema.features: {len(names)} features, at most {MAX_FEATURES} are allowed"
    elif len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        msg = f"schema.features.{twice}: declared twice"
    elif schema.infer is not None and not (
        1 <= schema.infer.events <= 1_000_000 and 1 <= schema.infer.max_features <= MAX_FEATURES
    ):
        msg = f"schema.infer: events must be 1 to 1,000,000 and max_features 1 to {MAX_FEATURES:,}"
    elif not 1 <= schema.max_bytes <= 100_000_000:
        msg = "schema.max_bytes: must be 1 to 100,000,000"
    else:
        return
    raise SettingsError(msg)


def _check_name(where: str, name: str) -> None:
    if not usable_name(name):
        msg = f"{where}: a name has 1 to {MAX_NAME} characters, no quotes, backslashes or control characters"
        raise SettingsError(msg)


def _check_range(where: str, low: float, high: float, *, allowed: bool) -> None:
    if not allowed and (low, high) != (-LIMIT, LIMIT):
        msg = f"{where}.range: only numbers, integers and regression labels have one"
    elif not (math.isfinite(low) and math.isfinite(high) and low < high):
        msg = f"{where}.range: expected two finite numbers, the lower one first"
    else:
        return
    raise SettingsError(msg)


def _check_values(where: str, feature: FeatureSpec) -> None:
    values = feature.values
    if values and feature.type != "category":
        msg = f"{where}.values: only a category has a set of values"
    elif len(values) > MAX_CLASSES:
        msg = f"{where}.values: {len(values)} values, at most {MAX_CLASSES} are allowed"
    elif len(set(values)) < len(values):
        msg = f"{where}.values: a value is listed twice"
    elif any(len(value) > MAX_CATEGORY for value in values):
        msg = f"{where}.values: a value has at most {MAX_CATEGORY} characters"
    else:
        return
    raise SettingsError(msg)


def _check_default(where: str, feature: FeatureSpec) -> None:
    default = feature.default
    if default is None:
        return
    if feature.required:
        msg = f"{where}.default: a required feature has none; set required = false"
    elif (feature.type == "category") != isinstance(default, str):
        msg = f"{where}.default: is not a {feature.type}"
    elif isinstance(default, str):
        if (not feature.values or default in feature.values) and len(default) <= MAX_CATEGORY:
            return
        msg = f"{where}.default: {default[:100]!r} is not among schema.features.{feature.name}.values"
    elif not feature.low <= default <= feature.high:
        msg = f"{where}.default: {default} is outside the range {feature.low:g} to {feature.high:g}"
    elif feature.type == "integer" and default != math.floor(default):
        msg = f"{where}.default: {default} is not an integer"
    elif feature.type == "boolean" and default not in {0.0, 1.0}:
        msg = f"{where}.default: is not a boolean"
    else:
        return
    raise SettingsError(msg)


def _check_label(label: LabelSpec) -> None:
    regression = label.task == Task.REGRESSION
    _check_range("schema.label", label.low, label.high, allowed=regression)
    classes = label.classes
    kinds = {type(c) for c in classes}
    if regression:
        msg = "schema.label.classes: regression has none" if classes else ""
    elif label.task == Task.BINARY and len(classes) != 2:
        msg = f"schema.label.classes: binary needs two (negative, positive), got {len(classes)}"
    elif label.task == Task.MULTICLASS and not 2 <= len(classes) <= MAX_CLASSES:
        msg = f"schema.label.classes: multiclass needs 2 to {MAX_CLASSES}, got {len(classes)}"
    elif len(kinds) > 1:
        msg = "schema.label.classes: all must be strings, all integers or all booleans (1 is not true)"
    elif len(set(classes)) < len(classes):
        msg = "schema.label.classes: a class is listed twice"
    elif any(isinstance(c, str) and not 0 < len(c) <= MAX_CATEGORY for c in classes):
        msg = f"schema.label.classes: a class has 1 to {MAX_CATEGORY} characters"
    elif any(isinstance(c, int) and not -(2**63) <= c < 2**63 for c in classes):
        msg = "schema.label.classes: an integer class must fit in 64 bits"
    else:
        return
    if msg:
        raise SettingsError(msg)


def _check_paths(schema: Schema) -> None:
    """No two fields may share a path, stand inside one another, or read the same in a message."""
    seen: dict[str, str] = {}
    parents: dict[str, str] = {}
    for where, path in leaves(schema):
        for part in path:
            _check_name(f"{where}: path {render(path)!r}", part)
        if not path:
            msg = f"{where}: the path is empty"
            raise SettingsError(msg)
        shown = render(path)
        inside = [render(path[:size]) for size in range(1, len(path))]
        other = seen.get(shown) or parents.get(shown) or next((seen[p] for p in inside if p in seen), None)
        if other:
            msg = f"{where}: its path {shown} is, contains or lies inside that of {other}"
            raise SettingsError(msg)
        seen[shown] = where
        parents.update(dict.fromkeys(inside, where))
    if schema.infer is not None:
        for size in range(1, len(schema.infer.path) + 1):
            other = seen.get(render(schema.infer.path[:size]))
            if other:
                msg = f"schema.infer.path: lies inside the path of {other}"
                raise SettingsError(msg)


def leaves(schema: Schema) -> list[tuple[str, Path]]:
    """Every declared field: where the settings declare it, and its path in the JSON."""
    found = [(f"schema.features.{feature.name}", feature.path) for feature in schema.features]
    found.append(("schema.label.path", schema.label.path))
    for name in ("id", "key", "time", "weight"):
        path = getattr(schema, name)
        if path is not None:
            found.append((f"schema.{name}", path))
    return found
