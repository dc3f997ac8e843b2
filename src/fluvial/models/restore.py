"""The only functions that a checkpoint can call, and the reducers that make it call nothing else.

Python's own reductions of containers, arrays, generators, partials and bound methods call general
functions (`getattr`, `numpy.dtype`, `functools.partial`) with whatever a pickle holds. `dumps` replaces
them by the functions below. Each checks its arguments, builds one kind of value and charges its size to
the load's budget, so that a small pickle cannot ask for a huge array. They also make a pickle
independent of numpy's module layout. The names are part of the format: add, never rename.
"""

from __future__ import annotations

import collections
import copyreg
import datetime as dt
import functools
import random as stdlib_random
import statistics
import struct
import types
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, cast

MODULE = __name__
MAX_NATIVE_ARGUMENT = 10_000_000
"""River's native windows reserve their size at once, and an allocation that fails ends the process."""
_WORDS = 625
"""Length of the Mersenne Twister's state."""
_FORMS = "biufcSUmM"
"""Kinds of numpy scalars that hold no object."""


class Budget:
    """How many bytes restoring may still take, and whose methods may be bound."""

    def __init__(self, size: int, methods: frozenset[tuple[str, str, str]]) -> None:
        self.left = size
        self.methods = methods

    def spend(self, size: int) -> None:
        """Take `size` bytes. Raises ValueError when they are not there."""
        self.left -= size
        if self.left < 0:
            msg = "it asks for far more memory than its size explains"
            raise ValueError(msg)


BUDGET: ContextVar[Budget | None] = ContextVar("BUDGET", default=None)


def _spend(size: int) -> None:
    budget = BUDGET.get()
    if budget is not None:
        budget.spend(size)


def _kind(value: object, *kinds: type) -> None:
    """Exact types only: a subclass could bring methods of its own."""
    if type(value) not in kinds:
        msg = f"{type(value).__qualname__} where {kinds[0].__qualname__} belongs"
        raise ValueError(msg)


def _numpy() -> Any:
    import numpy as np  # noqa: PLC0415  # a tenth of a second: only when a model is loaded

    return np


def ordered_dict() -> collections.OrderedDict[Any, Any]:
    """An empty OrderedDict; its items follow."""
    _spend(200)
    return collections.OrderedDict()


def counter() -> collections.Counter[Any]:
    """An empty Counter; its items follow."""
    _spend(100)
    return collections.Counter()


def default_dict(factory: Callable[[], Any] | None) -> collections.defaultdict[Any, Any]:
    """An empty defaultdict; its items follow. Its factory is a value of the allow-list."""
    _spend(100)
    return collections.defaultdict(factory)


def deque(limit: int | None) -> collections.deque[Any]:
    """An empty deque; its items follow."""
    _kind(limit, int, type(None))
    _spend(800)
    return collections.deque(maxlen=limit)


def partial(target: Callable[..., Any], args: tuple[Any, ...], keywords: dict[str, Any]) -> object:
    """A partial application; it calls nothing. Its target is a value of the allow-list."""
    _kind(args, tuple)
    _kind(keywords, dict)
    if getattr(target, "__module__", None) == MODULE:
        msg = "a partial of a restoring function"
        raise ValueError(msg)
    _spend(200)
    return functools.partial(target, *args, **keywords)


def method(owner: Any, name: str) -> object:
    """A bound method out of the exact (type, attribute) pairs of the allow-list."""
    kind = owner if isinstance(owner, type) else type(owner)
    pair = (kind.__module__, kind.__qualname__, name)
    budget = BUDGET.get()
    if type(name) is not str or (budget is not None and pair not in budget.methods):
        msg = f"the method {name!r} of {kind.__module__}.{kind.__qualname__} is not on the list"
        raise ValueError(msg)
    if name in getattr(owner, "__dict__", {}) and not isinstance(owner, type):
        msg = f"{name!r} is not a method of this object"
        raise ValueError(msg)
    _spend(64)
    return getattr(owner, name)


def list_iterator(items: list[Any], position: int) -> Iterator[Any]:
    """An iterator over a list, part of the way through."""
    _kind(items, list)
    _kind(position, int)
    iterator = iter(items)
    cast("Any", iterator).__setstate__(position)
    return iterator


def complex_number(real: float, imaginary: float) -> complex:
    """A complex number."""
    _kind(real, float)
    _kind(imaginary, float)
    return complex(real, imaginary)


def date_time(text: str, fold: int) -> dt.datetime:
    """A datetime from ISO 8601; time zones are fixed offsets."""
    _kind(text, str)
    return dt.datetime.fromisoformat(text).replace(fold=fold)


def date(ordinal: int) -> dt.date:
    """A date."""
    _kind(ordinal, int)
    return dt.date.fromordinal(ordinal)


def time_delta(days: int, seconds: int, microseconds: int) -> dt.timedelta:
    """A timedelta."""
    for part in (days, seconds, microseconds):
        _kind(part, int)
    return dt.timedelta(days, seconds, microseconds)


def random(version: int, words: bytes, gauss: float | None) -> stdlib_random.Random:
    """A `random.Random` in the state it was dumped in."""
    _kind(words, bytes)
    _kind(gauss, float, type(None))
    _spend(3_000)
    generator = stdlib_random.Random(0)
    generator.setstate((version, struct.unpack(f"<{_WORDS}I", words), gauss))
    return generator


def unseeded() -> stdlib_random.Random:
    """What stands for generators that nobody seeded: no replay can depend on what they would draw."""
    _spend(3_000)
    return stdlib_random.Random(0)


def normal(mean: float, deviation: float) -> object:
    """A `statistics.NormalDist`."""
    _kind(mean, float, int)
    _kind(deviation, float, int)
    return statistics.NormalDist(mean, deviation)


def _dtype(text: str) -> Any:
    np = _numpy()
    _kind(text, str)
    if len(text) > 32 or not text[1:2] or text[1] not in _FORMS:  # `<M8[25us]` is the longest kind
        msg = f"numpy type {text[:40]!r}"
        raise ValueError(msg)
    return np.dtype(text)


def dtype(text: str) -> Any:
    """A numpy type without objects and fields."""
    return _dtype(text)


def array(data: bytes, text: str, shape: tuple[int, ...], order: str) -> Any:
    """A numpy array; `data` are its bytes in `order`, and say how large it is."""
    np = _numpy()
    _kind(data, bytes)
    _kind(shape, tuple)
    for length in shape:
        _kind(length, int)
    if order not in {"C", "F"} or any(length < 0 for length in shape):
        msg = "an array's shape or order"
        raise ValueError(msg)
    _spend(len(data) + 200)
    # reshape checks the product of the shape against the bytes that are really there
    return np.frombuffer(data, dtype=_dtype(text)).reshape(shape, order=cast("Any", order)).copy(order="K")


def scalar(data: bytes, text: str) -> Any:
    """A numpy scalar."""
    np = _numpy()
    _kind(data, bytes)
    _spend(len(data) + 50)
    kind = _dtype(text)
    if len(data) != kind.itemsize:
        msg = "a numpy scalar's size"
        raise ValueError(msg)
    return np.frombuffer(data, dtype=kind)[0] if data else kind.type()


def _bits(name: Any, state: dict[str, Any]) -> None:
    """Check positions: numpy reads its buffers at them without a look."""
    np = _numpy()
    _kind(state, dict)
    for kept, length in (("key", 624), ("buffer", 4)):
        values = state.get(kept)
        if kept == "key" and name == "Philox":
            continue
        if values is not None and (type(values) is not np.ndarray or values.shape != (length,)):
            msg = f"the {kept} of a {name}"
            raise ValueError(msg)
    for kept, limit in (("pos", 624), ("buffer_pos", 4)):
        position = state.get(kept, 0)
        if type(position) is not int or not 0 <= position <= limit:
            msg = f"the position of a {name}"
            raise ValueError(msg)


def random_state(name: str, state: dict[str, Any], has_gauss: int, gauss: float) -> Any:
    """A `numpy.random.RandomState` in the state it was dumped in."""
    np = _numpy()
    _kind(name, str)
    _bits(name, state)
    _spend(5_000)
    made = np.random.RandomState(0)  # River's models hold this one
    made.set_state({"bit_generator": name, "state": state, "has_gauss": has_gauss, "gauss": gauss})
    return made


def generator(state: dict[str, Any]) -> Any:
    """A `numpy.random.Generator` in the state it was dumped in."""
    np = _numpy()
    _kind(state, dict)
    name = state.get("bit_generator")
    if name not in {"MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64"}:
        msg = f"bit generator {name!r}"
        raise ValueError(msg)
    _bits(name, state.get("state", {}))
    _bits(name, {key: value for key, value in state.items() if key in {"buffer", "buffer_pos"}})
    _spend(5_000)
    bits = getattr(np.random, cast("str", name))(0)
    bits.state = state
    return np.random.Generator(bits)


def native(kind: type, args: tuple[Any, ...], state: bytes | None) -> Any:
    """One of River's native objects: made with numbers only, then given its bytes back."""
    if kind not in natives():
        msg = f"{kind!r} is not a native class of River"
        raise ValueError(msg)
    _kind(args, tuple)
    for arg in args:
        _kind(arg, int, float, bool)
        if not abs(arg) <= MAX_NATIVE_ARGUMENT:
            msg = f"{kind.__qualname__} of {arg!r}"
            raise ValueError(msg)
    _kind(state, bytes, type(None))
    _spend(500 + len(state or b""))
    made: Any = kind(*args)
    if state is not None:
        made.__setstate__(state)
    return made


def vector_dict(data: dict[Any, Any], factory: Any, mask: Any, copy: bool) -> Any:
    """River's native dict of weights."""
    from river._river_rust import vectordict  # noqa: PLC0415  # River loads scipy: only when asked

    _kind(data, dict)
    _kind(mask, type(None), set, frozenset)
    _kind(copy, bool)
    _spend(200 + 100 * len(data))
    return vectordict.VectorDict(data, factory, mask, copy)


@functools.cache
def natives() -> frozenset[type]:
    """River's native classes, except VectorDict, which reduces in its own way."""
    from river import _river_rust  # noqa: PLC0415  # River loads scipy: only when asked

    modules = [vars(_river_rust)[name] for name in ("stats", "drift")]
    return frozenset(
        value for module in modules for value in vars(module).values() if isinstance(value, type)
    )


RESULTS: Mapping[str, str] = {
    "ordered_dict": "dict",
    "counter": "dict",
    "default_dict": "dict",
    "deque": "list",
    "partial": "value",
    "method": "value",
    "list_iterator": "value",
    "complex_number": "key",
    "date_time": "key",
    "date": "key",
    "time_delta": "key",
    "random": "value",
    "unseeded": "value",
    "normal": "value",
    "dtype": "value",
    "array": "value",
    "scalar": "key",
    "random_state": "value",
    "generator": "value",
    "native": "value",
    "vector_dict": "value",
}
"""What each function gives: something that takes items, list items, may be a key, or none of these."""


def _plain(value: Any) -> None:
    """Subclasses and attributes would be lost; refuse them at the dump."""
    if getattr(value, "__dict__", None):
        msg = f"a {type(value).__qualname__} with attributes of its own cannot be kept in a checkpoint"
        raise TypeError(msg)


def _filled(empty: Callable[[], Any]) -> Callable[[Any], Any]:
    """The reducer of a mapping that is made empty and then filled."""

    def reduce(value: Any) -> tuple[Any, ...]:
        _plain(value)
        return empty, (), None, None, iter(value.items())

    return reduce


def _partial(value: functools.partial[Any]) -> tuple[Any, ...]:
    _plain(value)
    return partial, (value.func, value.args, value.keywords)


def _method(value: Any) -> tuple[Any, ...]:
    owner = value.__self__ if hasattr(value, "__self__") else value.__objclass__
    return method, (owner, value.__name__)


def _builtin(value: Any) -> Any:
    """A builtin function pickles by name, a method of a builtin object as a pair."""
    owner = value.__self__
    return value.__qualname__ if owner is None or isinstance(owner, types.ModuleType) else _method(value)


def _list_iterator(value: Any) -> tuple[Any, ...]:
    _, (items, *_rest), *position = value.__reduce__()
    return list_iterator, (list(items), *(position or [0]))


def _date_time(value: dt.datetime) -> tuple[Any, ...]:
    if value.tzinfo is not None and not isinstance(value.tzinfo, dt.timezone):
        msg = "a time zone with rules cannot be kept in a checkpoint: use UTC or a fixed offset"
        raise TypeError(msg)
    return date_time, (value.isoformat(), value.fold)


def _random(value: stdlib_random.Random) -> tuple[Any, ...]:
    version, words, gauss = value.getstate()
    return random, (version, struct.pack(f"<{_WORDS}I", *words), gauss)


class _Unseeded:
    """Stands in a dump for every generator that nobody seeded."""


_UNSEEDED = _Unseeded()


def _gaussian(value: Any) -> tuple[Any, ...]:
    """River's trees keep thousands of these, each with an unseeded generator of 2.5 kB that nobody asks."""
    state = vars(value)
    if value.seed is None:
        state = state | {"_rng": _UNSEEDED}
    return copyreg.__newobj__, (type(value),), state  # type: ignore[attr-defined]  # typeshed leaves it out


def _array(value: Any) -> tuple[Any, ...]:
    if value.dtype.hasobject or value.dtype.names is not None:
        msg = "an array of objects or records cannot be kept in a checkpoint: keep a list"
        raise TypeError(msg)
    order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
    return array, (value.tobytes(order=order), value.dtype.str, value.shape, order)


def _random_state(value: Any) -> tuple[Any, ...]:
    state = value.get_state(legacy=False)
    return random_state, (state["bit_generator"], state["state"], state["has_gauss"], state["gauss"])


def _native(value: Any) -> tuple[Any, ...]:
    _, (kind, *args), *state = value.__reduce_ex__(5)
    return native, (kind, tuple(args), state[0] if state else None)


def _numpy_reducers() -> dict[type, Callable[[Any], Any]]:
    np = _numpy()
    table: dict[type, Callable[[Any], Any]] = {
        np.ndarray: _array,
        np.random.RandomState: _random_state,
        np.random.Generator: lambda value: (generator, (value.bit_generator.state,)),
    }
    for code in np.typecodes["All"]:
        if code not in {"O", "V"}:  # the two that can hold anything
            table[type(np.dtype(code))] = lambda value: (dtype, (value.str,))
            table[np.dtype(code).type] = lambda value: (scalar, (value.tobytes(), value.dtype.str))
    return table


@functools.cache
def reducers() -> dict[type, Callable[[Any], Any]]:
    """The pickler's table, by exact type: what is dumped as a call of a function above."""
    from river._river_rust import vectordict  # noqa: PLC0415  # River loads scipy: only when asked
    from river.proba import Gaussian  # noqa: PLC0415  # as above

    table: dict[type, Callable[[Any], Any]] = {
        collections.OrderedDict: _filled(ordered_dict),
        collections.Counter: _filled(counter),
        collections.defaultdict: lambda v: (default_dict, (v.default_factory,), None, None, iter(v.items())),
        collections.deque: lambda v: (deque, (v.maxlen,), None, iter(v)),
        functools.partial: _partial,
        types.MethodType: _method,
        types.MethodDescriptorType: _method,
        types.BuiltinFunctionType: _builtin,
        type(iter([])): _list_iterator,
        complex: lambda v: (complex_number, (v.real, v.imag)),
        dt.datetime: _date_time,
        dt.date: lambda v: (date, (v.toordinal(),)),
        dt.timedelta: lambda v: (time_delta, (v.days, v.seconds, v.microseconds)),
        stdlib_random.Random: _random,
        _Unseeded: lambda _: (unseeded, ()),
        Gaussian: _gaussian,
        statistics.NormalDist: lambda v: (normal, (v.mean, v.stdev)),
        vectordict.VectorDict: lambda v: (vector_dict, v.__reduce__()[1]),
    }
    return table | _numpy_reducers() | dict.fromkeys(natives(), _native)
