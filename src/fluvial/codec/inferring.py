"""`infer = true`: the first valid events decide which features there are, and then it is fixed.

What was decided so far is part of the fold's state: the same log decides the same again, and a resumed
fold goes on from where it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from fluvial.codec.compiled import compile_decode
from fluvial.errors import BadEvent, Reason
from fluvial.schema import (
    LIMIT,
    MAX_CATEGORY,
    FeatureSpec,
    FeatureType,
    Inference,
    Path,
    Schema,
    leaves,
    render,
    usable_name,
)
from fluvial.types import Event, Feature

_parse = msgspec.json.Decoder().decode


class InferringDecode:
    """Decodes while it learns which features there are; compiled like any other once they are fixed.

    `state` is what `state()` returned earlier, or None for nothing seen.
    """

    def __init__(self, schema: Schema, state: Mapping[str, Any] | None) -> None:
        assert schema.infer is not None  # noqa: S101 -- the caller asked
        self._schema = schema
        self._rule: Inference = schema.infer
        self._taken = _declared_members(schema, self._rule.path)
        state = state or {}
        self._types: dict[str, FeatureType] = dict(state.get("features", ()))
        self._events: int = state.get("events", 0)
        self._ignored: int = state.get("ignored", 0)
        self._frame = compile_decode(schema, self._rule.path, passing=True)
        self._fixed = False
        if self._events >= self._rule.events:
            self._fix()

    def state(self) -> dict[str, Any]:
        """Features in their order, valid events seen (up to the limit), events with ignored members."""
        return {
            "features": [[name, kind] for name, kind in self._types.items()],
            "events": self._events,
            "ignored": self._ignored,
        }

    @property
    def features(self) -> tuple[FeatureSpec, ...]:
        """The features found so far, in first-seen order (within one event in alphabetical order)."""
        return tuple(
            FeatureSpec(name=name, type=kind, path=(*self._rule.path, name), required=False)
            for name, kind in self._types.items()
        )

    def decode(
        self, value: bytes | None, key: bytes | None, partition: int, offset: int, timestamp_ms: int
    ) -> Event:
        """Bytes to Event; raises BadEvent. Only a valid event changes what is known."""
        if not self._fixed:
            return self._learn(value, key, partition, offset, timestamp_ms)
        try:
            return self._exact(value, key, partition, offset, timestamp_ms)
        except BadEvent:  # most likely a member that is not among the features: pass over it, and count
            event = self._passing(value, key, partition, offset, timestamp_ms)
        self._ignored += 1
        return event

    def _learn(
        self, value: bytes | None, key: bytes | None, partition: int, offset: int, timestamp_ms: int
    ) -> Event:
        event = self._frame(value, key, partition, offset, timestamp_ms)
        try:
            found = _parse(value or b"")
        except (ValueError, RecursionError):
            raise BadEvent(Reason.MALFORMED, "an undeclared field is not valid JSON or not finite") from None
        for part in self._rule.path:
            found = found[part]
        self._take({name: found[name] for name in sorted(found) if name not in self._taken}, event.x)
        self._events += 1
        if self._events >= self._rule.events:
            self._fix()
        return event

    def _take(self, members: Mapping[str, Any], x: dict[str, Feature]) -> None:
        """Put the event's features into `x` in the order of the known ones, and note those that are new."""
        types = dict(self._types)
        for name, value in members.items():
            kind = _kind(value)
            if kind and name not in types and usable_name(name) and len(types) < self._rule.max_features:
                types[name] = kind
        for name, kind in types.items():
            if (value := members.get(name)) is not None:
                x[name] = _feature(value, kind, (*self._rule.path, name))
        self._types = types
        self._ignored += any(name not in types for name in members)

    def _fix(self) -> None:
        """Nothing is added from now on."""
        schema = msgspec.structs.replace(self._schema, features=self.features)
        self._exact = compile_decode(schema, self._rule.path, passing=False)
        self._passing = compile_decode(schema, self._rule.path, passing=True)
        self._fixed = True


def _declared_members(schema: Schema, path: Path) -> frozenset[str]:
    """Members of the features' object that are declared as something else, or lead to it."""
    size = len(path)
    return frozenset(leaf[size] for _, leaf in leaves(schema) if leaf[:size] == path and len(leaf) > size)


def _kind(value: Any) -> FeatureType | None:
    """What a JSON value can be as a feature; None for null, arrays and objects."""
    match value:
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "category"
    return None


def _feature(value: Any, kind: FeatureType, path: Path) -> Feature:
    """The value as River sees it; the same rules as the compiled path holds."""
    actual = _kind(value)
    if actual != kind:
        msg = f"{render(path)[:200]}: expected a {kind}, as in the first event that had it"
    elif kind == "category":
        if len(value) <= MAX_CATEGORY:
            return str(value)
        msg = f"{render(path)[:200]}: longer than {MAX_CATEGORY} characters"
    elif -LIMIT <= value <= LIMIT:
        return float(value)
    else:
        msg = f"{render(path)[:200]}: beyond {LIMIT:g}"
    raise BadEvent(Reason.SCHEMA, msg)
