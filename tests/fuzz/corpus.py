"""Kept payloads: `corpus/CONTRACT/REASON--WHAT.bin`, each as small as what it hits allows."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

from fluvial.adapters.memory_log import MemoryMessage
from fluvial.codec import Codec
from fluvial.errors import BadEvent
from fluvial.schema import Schema
from fuzz.engine import decoded, settings_of, signal
from fuzz.schemas import NAMED

HOME = Path(__file__).parent / "corpus"
MOST = 2_000
"""Bytes of a payload that is kept."""
STAMP = 1_700_000_000_000


def directory(name: str) -> Path:
    return HOME / name.replace(" ", "-")


def kept(name: str) -> dict[str, bytes]:
    """The payloads of a named contract, by the name of their file."""
    return {path.stem: path.read_bytes() for path in sorted(directory(name).glob("*.bin"))}


def payloads() -> dict[str, list[bytes]]:
    """All of them, for a fuzzer to begin with."""
    return {name: list(kept(name).values()) for name in NAMED}


@cache
def schema(name: str) -> Schema:
    """The named contract."""
    return settings_of(NAMED[name]).schema


def answer(name: str, value: bytes) -> str:
    """What a new decoder says to it: a refusal's shape, or `accepted`."""
    said = decoded(Codec(schema(name)), MemoryMessage("events", 0, 0, value, None, STAMP))
    return signal(said) if isinstance(said, BadEvent) else "accepted"


def minimised(value: bytes, same: Callable[[bytes], bool]) -> bytes:
    """The payload with as much left out as can be while it stays the `same`."""
    size = len(value) // 2
    while size:
        start = 0
        while start < len(value):
            shorter = value[:start] + value[start + size :]
            if same(shorter):
                value = shorter
            else:
                start += size
        size //= 2
    return value


def file_name(shape: str) -> str:
    """A refusal's shape as a file's name; empty when there is not enough in it."""
    reason, _, rest = shape.partition(": ")
    return f"{reason}--{re.sub(r'[^a-z0-9]+', '-', rest.lower()).strip('-')[:60]}"


def keep(name: str, shape: str, value: bytes) -> Path | None:
    """Write the payload down, minimised, unless there is one that hits the same."""
    path = directory(name) / f"{file_name(shape)}.bin"
    if not value or path.exists() or answer(name, value) != shape:
        return None
    small = minimised(value, lambda shorter: answer(name, shorter) == shape)
    if len(small) > MOST:
        return None
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(small)
    return path
