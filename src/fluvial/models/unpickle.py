"""Pickles that can only hold a model: an exact list of names, and no call but our own restoring functions.

`loads` reads the bytes twice: `verify` follows them without running anything, then Python's unpickler
makes the objects and is again given nothing but what the list names. Either alone would hold against
a foreign name; together they also hold against what a listed class could be made to do.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import gc
import importlib
import io
import pickle
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fluvial.errors import CheckpointRefused, SettingsError
from fluvial.models import allowed, restore
from fluvial.models.verify import FLOOR, Entry, Machine, Unsafe

LIMIT = 256_000_000
"""Largest pickle that is looked at, in bytes, unless the settings say otherwise."""
Names = frozenset[tuple[str, str]]


def _pairs(*tables: Mapping[str, Iterable[str]]) -> Names:
    return frozenset((module, name) for table in tables for module, names in table.items() for name in names)


CLASSES: Names = _pairs(allowed.RIVER, allowed.OURS)
VALUES: Names = _pairs(allowed.FUNCTIONS, allowed.FOREIGN)
RESTORING: Names = frozenset((restore.MODULE, name) for name in restore.RESULTS)
ALLOWED: Names = CLASSES | VALUES | RESTORING
METHODS = frozenset(allowed.METHODS)
IN_ORDER: Names = _pairs(
    {
        "river.forest.adaptive_random_forest": ("ARFClassifier", "BaseTreeClassifier"),
        "river.tree.extremely_fast_decision_tree": ("ExtremelyFastDecisionTreeClassifier",),
        "river.tree.hoeffding_adaptive_tree_classifier": ("HoeffdingAdaptiveTreeClassifier",),
        "river.tree.hoeffding_tree_classifier": ("HoeffdingTreeClassifier",),
        "river.tree.last_classifier": ("LASTClassifier",),
        "river.tree.splitter.nominal_splitter_classif": ("NominalSplitterClassif",),
    }
)
"""Loaded as the class of the same name in `fluvial.models.trees`: River's walks a set of strings."""
AS_OURS = {
    **dict.fromkeys(IN_ORDER, "fluvial.models.trees"),
    ("river.naive_bayes.gaussian", "GaussianNB"): "fluvial.models.bayes",
}
"""River's names, and the module whose class of the same name is loaded for them."""


def parse_extra(names: Iterable[str]) -> Names:
    """The settings' `model.allow` ("package.module:Class") as pairs. Raises SettingsError."""
    pairs = []
    for name in names:
        module, colon, qualified = name.partition(":")
        parts = [*module.split("."), *qualified.split(".")]
        if not colon or not all(part.isidentifier() for part in parts):
            msg = f"model.allow: {name!r} is not of the form package.module:Class"
            raise SettingsError(msg)
        pairs.append((module, qualified))
    return frozenset(pairs)


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Without Python's cyclic collector, for the length of this context.

    A load makes objects by the hundred thousand and no garbage: the collector would walk through all of
    them, and the live model, again and again, each time in one go and with the interpreter's lock in hand.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def exempt() -> None:
    """Let the collector leave alone for good what was loaded, in `uncollected` before that ends.

    It would go through all of it at once, twice: seconds with the interpreter's lock for 20 MB. The price:
    what lives now and is in a cycle when it dies is kept. River's models have no cycles.
    """
    gc.freeze()


class _Breathing(io.BytesIO):
    """Bytes that pass in frames of 64 kB, each a call into Python, where another thread may get a word in.

    Between two such calls the pickling is C and keeps the interpreter's lock for as long as it takes.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        """As BytesIO."""
        return super().read(size)

    def write(self, data: Any, /) -> int:
        """As BytesIO."""
        return super().write(data)


@uncollected()
def dumps(value: Any) -> bytes:
    """Pickle (protocol 5) in the form that `loads` accepts.

    Raises whatever pickling raises (TypeError, AttributeError, PicklingError, RecursionError) for a
    value that cannot be kept, such as a lambda; `inspect.faults` says it better beforehand.
    """
    buffer = _Breathing()
    pickler = pickle.Pickler(buffer, protocol=5)
    pickler.dispatch_table = restore.reducers()
    pickler.dump(value)
    return buffer.getvalue()


@uncollected()
def loads(blob: bytes, extra: Names = frozenset(), limit: int = LIMIT, *, own: bool = False) -> Any:
    """Load what `dumps` made. `extra`: classes of the user's own (`parse_extra`).

    `own=True` leaves out the first reading, half of the time: only for bytes that this very process
    dumped and never let go, or had verified. Raises CheckpointRefused, and says what to do.
    """
    with _refusing(blob, extra, limit):
        if not own:
            _read(blob, extra)
        return _Unpickler(blob, extra).load()


@uncollected()
def verify(blob: bytes, extra: Names = frozenset(), limit: int = LIMIT) -> None:
    """Only the first reading, for bytes that `loads(own=True)` is given later. Raises CheckpointRefused."""
    with _refusing(blob, extra, limit):
        _read(blob, extra)


def _read(blob: bytes, extra: Names) -> None:
    Machine(blob, functools.partial(_entry, extra)).run()


@contextlib.contextmanager
def _refusing(blob: bytes, extra: Names, limit: int) -> Iterator[None]:
    """Bound what may be taken, and turn everything that is raised into CheckpointRefused."""
    if len(blob) > limit:
        msg = f"it has {len(blob)} bytes, over the limit of {limit}: raise checkpoint.max_bytes to load it"
        raise CheckpointRefused(msg)
    token = restore.BUDGET.set(restore.Budget(2 * len(blob) + FLOOR, METHODS | _methods(extra)))
    try:
        yield
    except (KeyboardInterrupt, CheckpointRefused):
        raise  # nothing on the list raises KeyboardInterrupt: it is the operator's
    except Unsafe as error:
        msg = f"the checkpoint's pickle is not one of ours ({error}): it was altered or another program's"
        raise CheckpointRefused(msg) from None
    except BaseException as error:  # noqa: BLE001  # native objects raise PanicException, which is no Exception
        msg = (
            f"the checkpoint's pickle cannot be loaded ({type(error).__name__}: {str(error)[:200]}); it was "
            'damaged, or made by other versions: rebuild it from the log (checkpoint.on_refused = "replay")'
        )
        raise CheckpointRefused(msg) from None
    finally:
        restore.BUDGET.reset(token)


class _Unpickler(pickle.Unpickler):
    """Python's unpickler, given only what the list names."""

    def __init__(self, blob: bytes, extra: Names) -> None:
        super().__init__(_Breathing(blob))
        self._extra = extra

    def find_class(self, module: str, name: str) -> Any:
        """The object of an exact pair; the walk along a dotted name follows the match, never makes it."""
        return _resolve(module, name, self._extra)

    def persistent_load(self, _pid: Any) -> Any:
        """Refused: a checkpoint has no outside."""
        msg = "the checkpoint's pickle refers to something outside itself; it was altered"
        raise CheckpointRefused(msg)


def _resolve(module: str, name: str, extra: Names) -> Any:
    if (module, name) not in ALLOWED and (module, name) not in extra:
        msg = (
            f"the checkpoint names {module}:{name}, which is not on the allow-list; if it is a class of your "
            f'model, add "{module}:{name}" to model.allow, else the checkpoint was altered'
        )
        raise CheckpointRefused(msg)
    try:
        found: Any = importlib.import_module(AS_OURS.get((module, name), module))
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        msg = (
            f"{module}:{name} cannot be imported ({error}): install the package the checkpoint was made with"
        )
        raise CheckpointRefused(msg) from None
    return found


@functools.cache
def _entry(extra: Names, module: str, name: str) -> Entry:
    """What the verifier lets this name be used for."""
    label = f"{module}:{name}"
    if (module, name) in RESTORING:
        return Entry(label, called=True, holds=restore.RESULTS[name])
    found = _resolve(module, name, extra)
    own = (module, name) in extra
    if not isinstance(found, type) or (module, name) in VALUES or module.startswith("river._river_rust"):
        return Entry(label)
    if issubclass(found, list | collections.deque):
        holds = "list"
    elif issubclass(found, dict):
        holds = "dict"
    else:
        holds = "identity" if own or found.__hash__ is object.__hash__ else "value"
    # River's own deques (Holt-Winters) reduce to a call of their class with numbers.
    called = own or issubclass(found, collections.deque)
    return Entry(label, made=True, args=own or issubclass(found, tuple), called=called, holds=holds)


def _methods(extra: Names) -> frozenset[tuple[str, str, str]]:
    """Public methods of the user's own classes may be bound."""
    return frozenset(
        (module, name, attribute)
        for module, name in extra
        for attribute, value in vars(_resolve(module, name, extra)).items()
        if callable(value) and not attribute.startswith("__")
    )
