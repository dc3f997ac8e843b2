"""Settings for people, editors and comparisons."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from fluvial.config.schema_table import SchemaTable
from fluvial.config.settings import Settings
from fluvial.config.tables import ClientProperties, Secret, Section

_FOLD = ("schema", "model", "policy", "drift", "evaluation")
"""Sections that change what the fold computes."""


def fingerprint(settings: Settings) -> str:
    """Digest of what influences the fold: a checkpoint made under other settings tells by it."""
    parts = {name: getattr(settings, name) for name in _FOLD}
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()[:16]


def describe(settings: Settings) -> dict[str, Any]:
    """All settings as plain values, with secrets hidden, ready to be printed."""
    shown: dict[str, Any] = _plain(settings)
    shown["kafka"] |= {"group": settings.group, "dead_letters": settings.dead_letter_topic}
    shown["redis"]["url"] = shown_url(settings.redis.url)
    return shown


def shown_url(url: Secret) -> str:
    """A URL as far as it is no secret: scheme, hosts and path; `***` for who and with what password."""
    scheme, separator, rest = url.reveal().partition("://")
    who, at, place = rest.rpartition("@")
    if not separator or not scheme.replace("+", "").isalpha() or "=" in place:
        return "***"
    place = place.partition("?")[0].partition("#")[0]
    return f"{scheme}://{'***@' if who or at else ''}{place}"


def json_schema() -> dict[str, Any]:
    """JSON Schema of the settings file, for editors that complete and check TOML."""
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for field in msgspec.structs.fields(Settings):
        kind: Any = SchemaTable if field.name == "schema" else field.type
        required = field.name in {"service", "kafka", "schema", "model"}
        fields.append(
            (field.name, kind) if required else (field.name, kind, msgspec.field(default_factory=kind))
        )
    file = msgspec.defstruct("SettingsFile", fields, bases=(Section,), kw_only=True, frozen=True)
    return msgspec.json.schema(file, schema_hook=_secret_schema)


def _secret_schema(kind: type) -> dict[str, Any]:
    if kind is Secret:
        return {"type": "string"}
    raise NotImplementedError


def _plain(value: Any) -> Any:
    match value:
        case Secret():
            return "***"
        case ClientProperties():
            return value.shown()
        case msgspec.Struct():
            return {name: _plain(getattr(value, name)) for name in value.__struct_fields__}
        case dict():
            return {name: _plain(inner) for name, inner in value.items()}
        case tuple() | list():
            return [_plain(inner) for inner in value]
    return value
