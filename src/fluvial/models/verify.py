"""Reads a pickle without running it, and refuses what a checkpoint of ours never holds.

Python's unpickler calls, sets attributes and reserves memory as the bytes tell it. An allow-list of
names is not enough: `BUILD` on a class rewrites it for the whole process, a second `BUILD` calls what
the first one planted, `LONG_BINPUT` reserves 64 GB, a nested tuple as a key takes for ever to hash.
This machine knows the opcodes that protocol 5 writes, follows what kind of value each place holds, and
lets pass: instances of listed classes made without arguments and given their state once, calls of the
restoring functions, and plain values. Source: CPython's `Lib/pickletools.py` and `Modules/_pickle.c`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

MAX_KEY = 1_000
"""Most elements of a tuple used as a key, nested ones counted: a tuple is hashed in full each time."""
MAX_TEXT = 250
"""Longest name of a module or class."""
FLOOR = 1_000_000
"""Bytes that any pickle may take."""


def bound(size: int) -> int:
    """Bytes that the objects of a pickle of `size` bytes may take.

    River's models take up to 13 times their pickle's size. A dict of empty sets takes 50 times: small
    ones may, while large ones, which could exhaust a machine, stay within 16 times.
    """
    return FLOOR + min(64 * size, 16 * size + 256_000_000)


class Entry(msgspec.Struct, frozen=True, gc=False):
    """What one global name may be used for."""

    name: str
    made: bool = False
    """May be instantiated without its `__init__`, and given a state."""
    args: bool = False
    """May be instantiated with arguments (named tuples; the user's own)."""
    called: bool = False
    """May be called."""
    holds: str = "value"
    """`dict` or `list` when items may be added to what it makes; `key` when that may be a key."""


class Unsafe(Exception):  # told to the caller as CheckpointRefused
    """The pickle does something that no checkpoint does; the message says what."""


class _Kind:
    """A value of which nothing else need be known."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


PLAIN: Final = _Kind("plain")
LARGE: Final = _Kind("integer too large for a key")
LIST: Final = _Kind("list")
DICT: Final = _Kind("dict")
SET: Final = _Kind("set")
VALUE: Final = _Kind("value")
_HOLDS: Final = {"dict": DICT, "list": LIST, "key": PLAIN, "value": VALUE}


class _Object:
    """An instance of a listed class."""

    __slots__ = ("built", "entry")

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.built = False


_UNHASHABLE: Final = -1
_EMPTY: Final = 1
"""A tuple is kept as its weight: one more than the weights of its elements, or unhashable."""

# Opcode -> its whole length, for those that push a plain value of fixed size.
_FIXED: Final = {ord("N"): 1, 0x88: 1, 0x89: 1, ord("K"): 2, ord("M"): 3, ord("J"): 5, ord("G"): 9}
_LENGTHS: Final = {0x8C: 1, ord("X"): 4, 0x8D: 8, ord("C"): 1, ord("B"): 4, 0x8E: 8, 0x96: 8}
_TEXT: Final = frozenset({0x8C, ord("X"), 0x8D})


class Machine:
    """One reading of one pickle."""

    def __init__(self, blob: bytes, resolve: Callable[[str, str], Entry]) -> None:
        self.blob = blob
        self.resolve = resolve
        self.at = 0
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: list[Any] = []
        self.cost = 0
        """Estimated bytes of the objects made."""

    def run(self) -> None:
        """Read to the end. Raises Unsafe."""
        if self.blob[:2] != b"\x80\x05":
            msg = "it is not a pickle of protocol 5"
            raise Unsafe(msg)
        self.at = 2
        try:
            self._loop()
        except IndexError:
            msg = f"it is cut off or malformed near byte {self.at}"
            raise Unsafe(msg) from None
        if self.at != len(self.blob) or self.stack or self.marks:
            msg = f"something is left over at byte {self.at} of {len(self.blob)}"
            raise Unsafe(msg)

    def _loop(self) -> None:
        """Plain values and the memo, two thirds of all opcodes, are dealt with here; others have handlers."""
        blob, memo, most, stack, at = self.blob, self.memo, bound(len(self.blob)), self.stack, self.at
        while True:
            code = blob[at]
            length = _FIXED.get(code)
            if length is not None:
                stack.append(PLAIN)
                at += length
            elif code == 0x68:  # BINGET
                stack.append(memo[blob[at + 1]])
                at += 2
            elif code == 0x94:  # MEMOIZE
                memo.append(stack[-1])
                at += 1
            elif code == 0x2E:  # STOP
                self.at = at + 1
                stack.pop()
                return
            else:
                self.at = at + 1
                handler = _HANDLERS.get(code)
                if handler is None:
                    msg = f"opcode {code:#04x} at byte {at} is not one that a checkpoint holds"
                    raise Unsafe(msg)
                handler(self)
                if self.cost > most:
                    msg = "it asks for far more memory than its size explains"
                    raise Unsafe(msg)
                stack, at = self.stack, self.at

    def number(self, size: int) -> int:
        """The unsigned number at the cursor."""
        end = self.at + size
        if end > len(self.blob):
            raise IndexError
        value = int.from_bytes(self.blob[self.at : end], "little")
        self.at = end
        return value

    def skip(self, length: int) -> None:
        """Pass over `length` bytes of data."""
        self.at += length
        if self.at > len(self.blob):
            raise IndexError

    def since_mark(self) -> list[Any]:
        """The values above the mark, taken off."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    def frame(self) -> None:
        """FRAME announces no more than what is there."""
        if self.number(8) > len(self.blob) - self.at:
            raise IndexError

    def sized(self) -> None:
        """A string, bytes or bytearray; short strings are kept, they may name a global."""
        code = self.blob[self.at - 1]
        length = self.number(_LENGTHS[code])
        start = self.at
        self.skip(length)
        if code == 0x96:  # BYTEARRAY8
            self.stack.append(VALUE)
        elif code in _TEXT and length <= MAX_TEXT:
            self.stack.append(self.blob[start : self.at].decode("utf-8", "replace"))
        else:
            self.stack.append(PLAIN)

    def long1(self) -> None:
        """An integer; one over 64 bits can be made to collide with others as a key."""
        length = self.number(1)
        self.skip(length)
        self.stack.append(PLAIN if length <= 8 else LARGE)  # bytes

    def long4(self) -> None:
        """A large integer."""
        self.skip(self.number(4))
        self.stack.append(LARGE)

    def mark(self) -> None:
        """MARK."""
        self.marks.append(self.stack)
        self.stack = []

    def pop(self) -> None:
        """POP takes a value, or the mark when there is none above it."""
        if self.stack:
            self.stack.pop()
        else:
            self.stack = self.marks.pop()

    def pop_mark(self) -> None:
        """POP_MARK."""
        self.since_mark()

    def get4(self) -> None:
        """LONG_BINGET."""
        self.stack.append(self.memo[self.number(4)])

    def empty_list(self) -> None:
        """EMPTY_LIST."""
        self.cost += 56
        self.stack.append(LIST)

    def empty_dict(self) -> None:
        """EMPTY_DICT."""
        self.cost += 64
        self.stack.append(DICT)

    def empty_set(self) -> None:
        """EMPTY_SET."""
        self.cost += 216
        self.stack.append(SET)

    def empty_tuple(self) -> None:
        """EMPTY_TUPLE."""
        self.stack.append(_EMPTY)

    def tuple_n(self) -> None:
        """TUPLE1, TUPLE2, TUPLE3."""
        size = self.blob[self.at - 1] - 0x84
        if len(self.stack) < size:
            raise IndexError
        items = self.stack[-size:]
        del self.stack[-size:]
        self._tuple(items)

    def tuple_mark(self) -> None:
        """TUPLE."""
        self._tuple(self.since_mark())

    def _tuple(self, items: list[Any]) -> None:
        self.cost += 40 + 8 * len(items)
        self.stack.append(_weight(items))

    def frozen_set(self) -> None:
        """FROZENSET: its elements are hashed."""
        items = self.since_mark()
        self.cost += 216 + 16 * len(items)
        for item in items:
            _check_key(item)
        self.stack.append(_weight(items))

    def append(self) -> None:
        """APPEND."""
        self.stack.pop()
        self._list()

    def appends(self) -> None:
        """APPENDS."""
        self.since_mark()
        self._list()

    def _list(self) -> None:
        target = self.stack[-1]
        if target is not LIST and not (type(target) is _Object and target.entry.holds == "list"):
            msg = f"it appends to {_tell(target)}"
            raise Unsafe(msg)

    def set_item(self) -> None:
        """SETITEM."""
        self.stack.pop()
        self._items([self.stack.pop()])

    def set_items(self) -> None:
        """SETITEMS."""
        self._items(self.since_mark()[::2])

    def _items(self, keys: list[Any]) -> None:
        target = self.stack[-1]
        if target is not DICT and not (type(target) is _Object and target.entry.holds == "dict"):
            msg = f"it sets items of {_tell(target)}"
            raise Unsafe(msg)
        self.cost += 40 * len(keys)
        for key in keys:
            if key is not PLAIN and type(key) is not str:
                _check_key(key)

    def add_items(self) -> None:
        """ADDITEMS."""
        items = self.since_mark()
        if self.stack[-1] is not SET:
            msg = f"it adds elements to {_tell(self.stack[-1])}"
            raise Unsafe(msg)
        self.cost += 40 * len(items)
        for item in items:
            _check_key(item)

    def stack_global(self) -> None:
        """STACK_GLOBAL: an exact name of the list."""
        name = self.stack.pop()
        module = self.stack.pop()
        if type(name) is not str or type(module) is not str:
            msg = "it names a class by something that is no short string"
            raise Unsafe(msg)
        self.stack.append(self.resolve(module, name))

    def new_object(self) -> None:
        """NEWOBJ: `cls.__new__(cls, *args)`."""
        args = self.stack.pop()
        entry = self.stack.pop()
        if type(entry) is not Entry or not entry.made or type(args) is not int:
            msg = f"it makes an instance of {_tell(entry)}"
            raise Unsafe(msg)
        if args != _EMPTY and not entry.args:
            msg = f"it makes a {entry.name} with arguments"
            raise Unsafe(msg)
        self.cost += 150
        self.stack.append(_Object(entry))

    def reduce(self) -> None:
        """REDUCE: `function(*args)`."""
        args = self.stack.pop()
        entry = self.stack.pop()
        if type(entry) is not Entry or not entry.called or type(args) is not int:
            msg = f"it calls {_tell(entry)}"
            raise Unsafe(msg)
        self.cost += 64
        self.stack.append(_Object(entry) if entry.made else _HOLDS[entry.holds])

    def build(self) -> None:
        """BUILD: once for each instance, since a first state could plant what a second one calls."""
        state = self.stack.pop()
        target = self.stack[-1]
        if type(target) is not _Object or target.built:
            msg = f"it sets the state of {_tell(target)}" + (" twice" if type(target) is _Object else "")
            raise Unsafe(msg)
        if type(state) is _Object or type(state) is Entry:
            msg = f"it gives {_tell(target)} an object for a state"
            raise Unsafe(msg)
        target.built = True


def _tell(value: Any) -> str:
    if type(value) is Entry:
        return value.name
    if type(value) is _Object:
        return f"a {value.entry.name}"
    return value.name if isinstance(value, _Kind) else "a tuple or text"


def _weight(items: list[Any]) -> int:
    weight = 1
    for item in items:
        if type(item) is int:
            if item < 0:
                return _UNHASHABLE
            weight += item
        elif item is PLAIN or type(item) is str or _by_identity(item):
            weight += 1
        else:
            return _UNHASHABLE
    return weight if weight <= MAX_KEY else _UNHASHABLE


def _by_identity(item: Any) -> bool:
    return type(item) is Entry or (type(item) is _Object and item.entry.holds == "identity")


def _check_key(key: Any) -> None:
    if key is PLAIN or type(key) is str or (type(key) is int and key > 0) or _by_identity(key):
        return
    msg = f"it uses {_tell(key)} as a key, which cannot be hashed in bounded time"
    raise Unsafe(msg)


_HANDLERS: Final[dict[int, Callable[[Machine], None]]] = {
    0x95: Machine.frame,
    **dict.fromkeys(_LENGTHS, Machine.sized),
    0x8A: Machine.long1,
    0x8B: Machine.long4,
    ord("("): Machine.mark,
    ord("0"): Machine.pop,
    ord("1"): Machine.pop_mark,
    ord("j"): Machine.get4,
    ord("]"): Machine.empty_list,
    ord("}"): Machine.empty_dict,
    0x8F: Machine.empty_set,
    ord(")"): Machine.empty_tuple,
    0x85: Machine.tuple_n,
    0x86: Machine.tuple_n,
    0x87: Machine.tuple_n,
    ord("t"): Machine.tuple_mark,
    0x91: Machine.frozen_set,
    ord("a"): Machine.append,
    ord("e"): Machine.appends,
    ord("s"): Machine.set_item,
    ord("u"): Machine.set_items,
    0x90: Machine.add_items,
    0x93: Machine.stack_global,
    0x81: Machine.new_object,
    ord("R"): Machine.reduce,
    ord("b"): Machine.build,
}
