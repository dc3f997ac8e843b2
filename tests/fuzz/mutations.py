"""How a payload is spoilt: by rules that know JSON and the contract, and as bytes."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Callable
from typing import Any

from fluvial.schema import LIMIT, Schema
from fuzz.schemas import Table, valid

HUGE = 100_000
TOKENS = [
    b"NaN", b"nan", b"-NaN", b"Infinity", b"-Infinity", b"inf", b"1e308", b"-1e308", b"1e309", b"1e999",
    b"-1e999", b"1e-400", b"-0", b"-0.0", b"0e0", b"1E5", b"1e+5", b"01", b"+1", b"1.", b".5", b"1e",
    b"0x10", b"1_000", b"--1", b"1e100", b"1.0000000000000002e100", b"-1e100", b"5e-324",
    b"2.2250738585072011e-308", b"9007199254740993", b"9223372036854775807", b"9223372036854775808",
    b"-9223372036854775808", b"-9223372036854775809", b"18446744073709551615", b"18446744073709551616",
    b"1" + b"0" * 400, b"0." + b"3" * 900, b"1" * 5_000, b"0.1e1", b"3.0", b"3.5", b"123456789012345678",
    b"4.35", b"0.30000000000000004", b"1e22", b"1e23", b"true", b"false", b"null", b"True", b"None",
    b"undefined", b"tru", b"nulll", b"[]", b"{}", b"[1]", b"[[[]]]", b'{"a":{}}', b"[null]", b'""',
    b'"1"', b'"0.5"', b'"true"', b'"NaN"', b'"null"', b"'a'", b'"p"', b'"P"', b'"yes"', b'"\\u0000"',
    b'"\x00"', b'"\n"', b'"\x7f"', b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\ud83d\\ude00"', b'"\\u00e9"',
    b'"e\xcc\x81"', b'"\xc3\xa9"', b'"\xff"', b'"\xc0\x80"', b'"\xed\xa0\x80"', b'"\xf4\x90\x80\x80"',
    b'"\xe2\x80\xa8"', b'"\\x41"', b'"\\', b'"', b'"\\u12"', b'"abc', b'"' + b"x" * 256 + b'"',
    b'"' + b"x" * 257 + b'"', b'"' + "ä".encode() * 300 + b'"', b'"' + b"k" * 512 + b'"',
    b'"' + b"k" * 513 + b'"', b'"\xe2\x80\xae\xef\xbb\xbf"', b'"1969-12-31"', b'"1899-12-31T23:59:59Z"',
    b'"9999-12-31T23:59:59-14:00"', b'"0001-01-01T00:00:00Z"', b'"2024-02-30T00:00:00Z"',
    b'"2024-01-01T00:00:60Z"', b'"24-1-1"', b"-2208988800", b"-2208988801", b"253402300800", b"1e12",
    b"0", b"-1", b"1", b"2", b"", b" ", b",", b":", b"/**/1", b"1 // no", b"[", b"]", b"{", b"}",
]  # fmt: skip
SPLICES = [
    *TOKENS,
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\x00",
    b"\\",
    b'","',
    b'":',
    b"}{",
    b"\r\n",
    b"\x1b[31m",
    b"%s",
    b"<!--",
]
NAMES = [
    "",
    " ",
    "a",
    "A",
    "b ",
    "\x00",
    "__class__",
    "\u00e9",
    "e\u0301",
    "\ud800",
    "x" * 200,
    "$",
    "a.b",
    "0",
    "label",
]
KEYS = [
    None, b"", b"k", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\x00", b"\n", b"k" * 512, b"k" * 513,
    b"k" * HUGE, "ä".encode() * 256, "ä".encode() * 257, "\U0001f600".encode(), b"\x1b[2J", b" ",
]  # fmt: skip
STAMPS = [0, -1, 1, 2**31, 2**63 - 1, -(2**63), 253_402_300_799_000, 253_402_300_799_001, -62_135_596_800_000]
HEADERS = [
    None, [], [("", b"")], [("a", None)], [("a", b"1"), ("a", b"2")], [("ü", b"\xff\x00")],
    [("h", b"x" * 10_000)], [(f"h{n}", b"v") for n in range(60)],
    [("__fluvial.errors.reason", b"forged")],
]  # fmt: skip


class Spoiler:
    """Spoils events of one contract; everything comes from `rng`."""

    def __init__(self, rng: random.Random, schema: Schema) -> None:
        self._rng = rng
        self._schema = schema
        self._raw: list[bytes] = []
        self._rules = (
            [self._token] * 10 + [self._limit] * 3 + [self._deep, self._long]
            + [self._drop, self._rename, self._unknown, self._twice, self._move, self._wrap, self._label] * 2
        )  # fmt: skip

    def fresh(self) -> bytes:
        """A valid payload, its members in some order."""
        event = valid(self._rng, self._schema)
        if self._rng.random() < 0.3:
            items = list(event.items())
            self._rng.shuffle(items)
            event = dict(items)
        return json.dumps(event, ensure_ascii=self._rng.random() < 0.5).encode()

    def spoilt(self, base: bytes | None = None) -> bytes:
        """A payload that is most likely wrong; on the way from `base`, or from a valid one."""
        rng = self._rng
        event = _parsed(base) if base is not None else valid(rng, self._schema)
        if event is None or rng.random() < 0.15:
            value = base if base is not None else self.fresh()
        else:
            self._raw = []
            for _ in range(rng.choice([1, 1, 1, 2, 3])):
                rng.choice(self._rules)(event)
            value = self._written(event)
            if rng.random() < 0.9:
                return value
        for _ in range(rng.choice([1, 1, 2, 4])):
            value = self._damaged(value)
        return value

    def key(self) -> bytes | None:
        """Kafka's key."""
        return b"k%d" % self._rng.randrange(40) if self._rng.random() < 0.9 else self._rng.choice(KEYS)

    def timestamp(self) -> int:
        """Kafka's time in milliseconds."""
        rng = self._rng
        return 1_700_000_000_000 + rng.randrange(10**9) if rng.random() < 0.95 else rng.choice(STAMPS)

    def headers(self) -> Any:
        """Kafka's headers."""
        return None if self._rng.random() < 0.9 else self._rng.choice(HEADERS)

    # ---- rules on the tree ---------------------------------------------------------------------

    def _places(self, event: Table) -> list[tuple[Table, str]]:
        """Every member of every object."""
        found, todo = [], [event]
        while todo:
            node = todo.pop()
            for name, value in node.items():
                found.append((node, name))
                if isinstance(value, dict):
                    todo.append(value)
        return found

    def _place(self, event: Table) -> tuple[Table, str]:
        places = self._places(event)
        if not places:
            event["a"] = 1
            return event, "a"
        return self._rng.choice(places)

    def _as_is(self, raw: bytes) -> str:
        """A stand-in for bytes that no JSON library would write."""
        self._raw.append(raw)
        return f"@@{len(self._raw) - 1}@@"

    def _token(self, event: Table) -> None:
        node, name = self._place(event)
        node[name] = self._as_is(self._rng.choice(TOKENS))

    def _limit(self, event: Table) -> None:
        """A number at, or a step beyond, a limit of the contract."""
        rng = self._rng
        ranged = [(f.path, f.low, f.high) for f in self._schema.features if f.type in {"number", "integer"}]
        ranged.append((self._schema.label.path, self._schema.label.low, self._schema.label.high))
        path, low, high = rng.choice(ranged)
        end, away = rng.choice([(low, -math.inf), (high, math.inf), (LIMIT, math.inf), (-LIMIT, -math.inf)])
        node: Any = event
        for part in path[:-1]:
            node = node.get(part) if isinstance(node, dict) else None
        if isinstance(node, dict):
            node[path[-1]] = rng.choice(
                [end, math.nextafter(end, away), math.nextafter(end, 0.0), end + 1.0, -end]
            )

    def _drop(self, event: Table) -> None:
        node, name = self._place(event)
        del node[name]

    def _rename(self, event: Table) -> None:
        node, name = self._place(event)
        others = [*NAMES, name.upper(), f"{name} ", name[:-1], f"{name}\u0301"]
        node[self._rng.choice(others)] = node.pop(name)

    def _unknown(self, event: Table) -> None:
        node, _ = self._place(event)
        many = 1 if self._rng.random() < 0.98 else 300
        for number in range(many):
            node[self._rng.choice(NAMES) if many == 1 else f"n{number}"] = self._as_is(
                self._rng.choice(TOKENS)
            )

    def _twice(self, event: Table) -> None:
        """The same member again, before or after, perhaps with another value."""
        node, name = self._place(event)
        value = (
            copy.deepcopy(node[name]) if self._rng.random() < 0.3 else self._as_is(self._rng.choice(TOKENS))
        )
        again = self._as_is(json.dumps(name).encode())
        items = list(node.items())
        items.insert(self._rng.randint(0, len(items)), (again, value))
        node.clear()
        node.update(items)

    def _move(self, event: Table) -> None:
        node, name = self._place(event)
        value = node.pop(name)
        other = self._rng.choice([n for n, _ in self._places(event)] or [event])
        other[name] = value

    def _wrap(self, event: Table) -> None:
        node, name = self._place(event)
        value = node[name]
        node[name] = self._rng.choice([[value], {name: value}, [value, value], json.dumps(value)[:300]])

    def _label(self, event: Table) -> None:
        label = self._schema.label
        others: list[Any] = [0, 1, 2, -1, 1.0, 0.5, "0", "", "true", "A", "NO", None, [], True, False, 10**20]
        node: Any = event
        for part in label.path[:-1]:
            node = node.setdefault(part, {}) if isinstance(node, dict) else None
        if isinstance(node, dict):
            node[label.path[-1]] = self._rng.choice([*others, *label.classes, *map(str, label.classes)])

    def _deep(self, event: Table) -> None:
        node, name = self._place(event)
        depth = self._rng.choice([5, 254, 255, 256, 257, 300, 1_000] + [50_000] * (self._rng.random() < 0.05))
        opening, closing = self._rng.choice([(b"[", b"]"), (b'{"a":', b"}")])
        node[name] = self._as_is(
            opening * depth + b"1" + closing * self._rng.choice([depth, depth, depth - 1])
        )

    def _long(self, event: Table) -> None:
        node, name = self._place(event)
        size = self._rng.choice(
            [255, 256, 257, 2_000, 4_000, 4_000, HUGE if self._rng.random() < 0.1 else 600]
        )
        node[name] = self._as_is(
            b'"' + self._rng.choice([b"x", "ä".encode(), b"\\n", b"[", b"9"]) * size + b'"'
        )

    def _written(self, event: Table) -> bytes:
        separators = self._rng.choice([(",", ":"), (", ", ": ")])
        value = json.dumps(event, ensure_ascii=True, separators=separators).encode()
        for number in reversed(range(len(self._raw))):
            value = value.replace(b'"@@%d@@"' % number, self._raw[number])
        return value

    # ---- as bytes --------------------------------------------------------------------------------

    def _damaged(self, value: bytes) -> bytes:
        rng = self._rng
        at = rng.randint(0, len(value))
        end = min(len(value), at + rng.choice([1, 1, 2, 5, 40]))
        return rng.choice(_DAMAGES)(rng, value, at, end)


def _flipped(rng: random.Random, value: bytes, at: int, end: int) -> bytes:
    return value[:at] + bytes(byte ^ (1 << rng.randrange(8)) for byte in value[at : at + 1]) + value[at + 1 :]


def _as_a_whole(rng: random.Random, value: bytes, at: int, end: int) -> bytes:
    if rng.random() < 0.2:
        return value.decode("latin-1").encode(rng.choice(["utf-16", "utf-16-le", "utf-32"]))
    return rng.choice([value + value, b"[" + value + b"]", b" \n" + value + b" ", value.upper()])


_DAMAGES: list[Callable[[random.Random, bytes, int, int], bytes]] = [
    lambda rng, value, at, end: value[:at],
    lambda rng, value, at, end: value[:at] + value[end:],
    lambda rng, value, at, end: value[:at] + rng.choice(SPLICES) + value[at:],
    lambda rng, value, at, end: value[:at] + rng.choice(SPLICES) + value[end:],
    lambda rng, value, at, end: value[:at] + value[at:end] * 2 + value[end:],
    lambda rng, value, at, end: value[:at] + rng.randbytes(rng.choice([1, 2, 8])) + value[at:],
    _flipped,
    _as_a_whole,
]


def _parsed(value: bytes | None) -> Table | None:
    """The payload as a tree, when it is one of an object."""
    try:
        found = json.loads(value or b"")
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
