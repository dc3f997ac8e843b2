"""From a TOML table to a frozen value: secrets, unknown keys, and errors that start with their path."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec

from fluvial.errors import SettingsError

T = TypeVar("T")

_AT = re.compile(r"(.*) - at (`key` in )?`\$\.?(.*)`", re.DOTALL)
_ENUM = re.compile(r"Invalid enum value '?(.*?)'?", re.DOTALL)
_INDEX = re.compile(r"\[[^\]]*\]")
_MISSING = re.compile(r"Object missing required field `(.*)`")
_SECRET = re.compile(r"pass|secret|token|credential|pem|key|oauthbearer\.config", re.IGNORECASE)


class Secret:
    """A string that never shows itself: not in a repr, a log, an error or printed settings."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The string itself, for the one adapter that needs it."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


class ClientProperties(dict[str, str | int | float | bool]):
    """librdkafka properties whose repr hides what could be a secret; otherwise a plain dict."""

    def shown(self) -> dict[str, str | int | float | bool]:
        """For people: what could be a secret as `***`."""
        return {name: "***" if _SECRET.search(name) else value for name, value in self.items()}

    def __repr__(self) -> str:
        return repr(self.shown())


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the settings file."""


@functools.cache
def fields(kind: type[msgspec.Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    """A table's keys; kept, because resolving the annotations takes milliseconds."""
    return msgspec.structs.fields(kind)


def convert(table: Any, kind: type[T], path: str) -> T:
    """The table as a `kind`. Raises SettingsError starting with the path of the fault; shows no secret."""
    try:
        return msgspec.convert(table, kind, dec_hook=_secret)
    except msgspec.ValidationError as error:
        text, inner, is_key = str(error), "", False
        if found := _AT.fullmatch(text):
            text, is_key, inner = found[1], bool(found[2]), found[3]
        where = join(path, inner)
        if missing := _MISSING.fullmatch(text):
            text, where = "missing", join(where, missing[1])
        elif word := _ENUM.fullmatch(text):
            text, where = f"not one of {_choices(kind, inner)}", join(where, word[1][:100] if is_key else "")
        raise SettingsError(f"{where}: {text[:1].lower()}{text[1:300]}") from None


def join(path: str, name: str) -> str:
    """`kafka` and `batch` as `kafka.batch`."""
    return f"{path}.{name}" if path and name else path or name


def refuse_unknown(
    table: Mapping[str, Any], kind: type[msgspec.Struct], path: str, others: Iterable[str] = ()
) -> None:
    """Raise SettingsError at the first key that `kind` does not know, naming the nearest known one.

    `others` are all known paths: a key may have been written under the wrong table.
    """
    known = [field.name for field in fields(kind)]
    for key in table:
        if key in known:
            continue
        near = difflib.get_close_matches(key, known, 1)
        elsewhere = [other for other in others if other.rpartition(".")[2] == key]
        if near:
            hint = f"did you mean {join(path, near[0])}?"
        elif elsewhere:
            hint = f"did you mean {elsewhere[0]}?"
        else:
            hint = f"known here: {', '.join(known)}"
        raise SettingsError(f"{join(path, key[:100])}: unknown; {hint}")


def _secret(kind: type, value: Any) -> Any:
    if kind is Secret and isinstance(value, str):
        return Secret(value)
    msg = "Expected `str`"
    raise TypeError(msg)  # msgspec adds the path


def _choices(kind: Any, path: str) -> str:
    """The allowed words of the field at a path, which may lead through tables and lists of tables."""
    for name in filter(None, _INDEX.sub("", path).split(".")):
        tables = [
            part for part in _parts(kind) if isinstance(part, type) and issubclass(part, msgspec.Struct)
        ]
        kind = next((f.type for table in tables for f in fields(table) if f.name == name), None)
    literals = [part for part in _parts(kind) if get_origin(part) is Literal]
    return ", ".join(repr(str(word)) for part in literals for word in get_args(part)) or "the allowed words"


def _parts(kind: Any) -> Iterator[Any]:
    """A type, and those that it is made of."""
    yield kind
    for part in get_args(kind):
        yield from _parts(part)
