"""Why an event was refused, in the sender's words: a reason and the place in the JSON."""

from __future__ import annotations

import re
from itertools import accumulate

import msgspec

from fluvial.errors import BadEvent, Reason

MAX_QUOTED = 200
"""Characters of a message: a dead letter's header is no place for a payload."""
MAX_DEPTH = 256
"""Nesting of ignored fields; the decoder's own limit would depend on how deep the caller's stack is."""
SHALLOW = 2 * MAX_DEPTH
"""Bytes that cannot nest deeper: each bracket has to be closed."""
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in _STEPS)
_AT = re.compile(r"(.*) - at `(\$.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_INVALID = re.compile(r"Invalid enum value (.*)", re.DOTALL)
_WORDS = {"float": "number", "int": "integer", "str": "string", "bool": "boolean", "datetime": "time"}


def refusal(value: bytes | None, error: Exception | None, label: str, max_bytes: int) -> BadEvent:
    """The BadEvent for a value that could not be decoded; `label` is where the label's path is shown."""
    if not value:
        return BadEvent(Reason.EMPTY, "no value (a tombstone)" if value is None else "no bytes")
    if len(value) > max_bytes:
        return BadEvent(Reason.TOO_LARGE, f"{len(value)} bytes, schema.max_bytes is {max_bytes}")
    if not isinstance(error, msgspec.ValidationError):
        return BadEvent(Reason.MALFORMED, _clean(str(error)))
    text, path = _placed(str(error))
    reason = Reason.LABEL if path == label and not text.startswith("unknown field") else Reason.SCHEMA
    return BadEvent(reason, f"{_printable(path[:MAX_QUOTED])}: {_clean(text)}")


def too_deep(value: bytes) -> bool:
    """Whether the JSON nests deeper than MAX_DEPTH: the same answer whatever the caller's stack."""
    if value.count(b"[") + value.count(b"{") <= MAX_DEPTH:
        return False
    brackets = _STRING.sub(b"", value).translate(None, _NO_BRACKETS)
    return max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > MAX_DEPTH


def deep() -> BadEvent:
    """The refusal of what `too_deep` found."""
    return BadEvent(Reason.MALFORMED, f"nested deeper than {MAX_DEPTH}")


def _placed(text: str) -> tuple[str, str]:
    """What is wrong, and the path where it is, out of the decoder's message."""
    path = "$"
    found = _AT.fullmatch(text)
    if found:
        text, path = found[1], found[2]
    if missing := _MISSING.fullmatch(text):
        return "missing", f"{path}.{missing[1]}"
    if unknown := _UNKNOWN.fullmatch(text):
        return f"unknown field {unknown[1][:MAX_QUOTED]!r}", path
    if invalid := _INVALID.fullmatch(text):
        return f"not in the declared set: {invalid[1]}", path
    return text, path


def _clean(text: str) -> str:
    """The message with JSON's words for types, printable, at most MAX_QUOTED characters."""
    if text.startswith("Expected "):
        text = (
            text.replace("`float` that's a multiple of 1.0", "integer").replace("`", "").replace("E", "e", 1)
        )
        text = re.sub("|".join(rf"\b{word}\b" for word in _WORDS), lambda word: _WORDS[word[0]], text)
    text = _printable(text[: 2 * MAX_QUOTED])
    return text if len(text) <= MAX_QUOTED else text[: MAX_QUOTED - 1] + "\u2026"


def _printable(text: str) -> str:
    """One line for a log or a header, whatever the sender put into it."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)
