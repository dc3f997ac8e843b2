"""What keeps a model from being replayed exactly, found before it meets an event.

`faults` walks the object and names each part with its mend. `replay_faults` lets two processes with
different hash seeds live through the same made events, and holds their answers against each other.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import types
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from fluvial.config import ModelSettings
from fluvial.errors import ModelRefused
from fluvial.models.blank import make_blank
from fluvial.models.unpickle import ALLOWED, Names
from fluvial.schema import Schema

EVENTS = 500
_MEMORY_LIMIT_OFF = 2**31
"""Events between two looks at the memory; above this a tree never looks."""
_NOMINAL = "river.tree.splitter.nominal_splitter_classif"
_HASH_SEEDS = ("1", "2")
_ATOMS = (str, bytes, int, float, bool, type(None), complex)


class Job(msgspec.Struct, frozen=True):
    """What the child process is asked to live through."""

    builder: str
    """`package.module:function` of (ModelSettings, Schema), returning lane name -> model."""
    settings: ModelSettings
    schema: Schema
    events: int


class Run(msgspec.Struct, frozen=True):
    """What one lane said in the child; answers are text, exact to the last bit."""

    lane: str
    full: list[str]
    """Predicted before every learned event."""
    resumed: list[str]
    """The same, dumped and loaded half way."""
    quiet: list[str]
    """Predicted only in the last fifth."""
    mutates: list[str]
    """The methods that changed the features they were given."""
    unordered: str = ""
    """Where a category's values stand in a set after all; a structure, so it needs no tie to be found."""
    raised: str = ""
    """What it raised on a valid event, and where."""


def faults(model: Any, extra: Names = frozenset()) -> list[str]:
    """What has to be changed in this untrained model; empty when it can be replayed.

    `extra`: the user's own classes (`unpickle.parse_extra`).
    """
    places: dict[str, list[str]] = {}
    for path, part in walk("model", model):
        for fault in (*_of_object(part), *_of_kind(part, extra)):
            places.setdefault(fault, []).append(path)
    found = [f"{_where(paths)}: {fault}" for fault, paths in places.items()]
    if not found:
        try:
            make_blank(lambda: model, extra)
        except ModelRefused as error:
            found.append(str(error))
    return found


def unordered(model: Any) -> str:
    """Where a trained model walks a category's values in a set's order; empty: nowhere.

    River's own splitter does, and is only there when River's class was not loaded as ours: in a class
    derived from a tree, or in one that makes its trees by itself.
    """
    paths = [path for path, part in walk("model", model) if type(part).__module__ == _NOMINAL]
    return _where(paths) if paths else ""


def _where(paths: list[str]) -> str:
    """The shortest of the ways, and how many there are beside it (an ensemble has many alike)."""
    shortest = min(paths, key=len)
    return shortest if len(paths) == 1 else f"{shortest} (and {len(paths) - 1} more alike)"


def _of_object(part: Any) -> Iterator[str]:
    name = type(part).__name__
    state = _attributes(part)
    if not type(part).__module__.startswith(("river.", "fluvial.")):
        return
    if state.get("seed", 0) is None:
        yield f"{name} has seed=None, so a replay draws other numbers: give it a seed, such as seed=1"
    period = state.get("memory_estimate_period")
    if isinstance(period, int) and period < _MEMORY_LIMIT_OFF:
        yield (
            f"{name} limits itself by sizes in memory, which differ after loading: "
            "set memory_estimate_period=2**62 and bound it by max_depth"
        )
    if name == "Select" and sum(isinstance(key, str) for key in state.get("keys", ())) > 1:
        yield (
            "Select keeps names in a set, whose order differs between processes: "
            "declare only the wanted features in the schema instead"
        )


def _of_kind(part: Any, extra: Names) -> Iterator[str]:
    """Functions and classes that a checkpoint cannot name."""
    if isinstance(part, types.FunctionType):
        kind: Any = part
    elif isinstance(part, type):
        kind = part
    else:
        kind = type(part)
    module, name = kind.__module__, kind.__qualname__
    if isinstance(part, types.FunctionType) and ("<lambda>" in name or part.__closure__):
        what = "a lambda" if "<lambda>" in name else f"the closure {part.__name__}"
        yield f"{what} cannot be kept in a checkpoint: make it a function of a module"
    elif "<locals>" in name or module == "__main__":
        yield f"{name} cannot be imported by a restarted worker: move it to the top of a module"
    elif _listable(kind) and (module, name) not in ALLOWED and (module, name) not in extra:
        yield f'{name} is not on the allow-list: add "{module}:{name}" to model.allow'


def _listable(kind: Any) -> bool:
    """Whether it would stand in a checkpoint by its name; Python's and numpy's own parts have their ways."""
    return kind.__module__.split(".")[0] not in {
        "builtins",
        "collections",
        "functools",
        "numpy",
        "random",
    } and (not kind.__module__.startswith(("datetime", "statistics", "_", "copy", "types")))


def _attributes(part: Any) -> Mapping[str, Any]:
    state = dict(getattr(part, "__dict__", {}))
    for kind in type(part).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in {"__dict__", "__weakref__"} and hasattr(part, name):
                state[name] = getattr(part, name)
    return state


def walk(path: str, root: Any) -> Iterator[tuple[str, Any]]:
    """Every part once, with the way to it."""
    seen: set[int] = set()
    todo = [(path, root)]
    while todo:
        path, part = todo.pop()
        if id(part) in seen or isinstance(part, _ATOMS):
            continue
        seen.add(id(part))
        yield path, part
        todo += reversed(list(_parts(path, part)))


def _parts(path: str, part: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(part, type | types.ModuleType):
        return
    if isinstance(part, Mapping):
        yield from ((f"{path}[{key!r}]", value) for key, value in part.items())
        yield from ((f"{path} key", key) for key in part)
    elif isinstance(part, list | tuple | set | frozenset):
        yield from ((f"{path}[{index}]", value) for index, value in enumerate(part))
    elif isinstance(part, functools.partial):
        yield f"{path}.func", part.func
        yield from ((f"{path}.args[{index}]", value) for index, value in enumerate(part.args))
        yield from ((f"{path}.{name}", value) for name, value in part.keywords.items())
    elif isinstance(part, types.MethodType):
        yield f"{path}.__self__", part.__self__
    if isinstance(getattr(part, "default_factory", None), object):
        yield f"{path}.default_factory", getattr(part, "default_factory", None)
    if not isinstance(part, types.FunctionType):
        yield from ((f"{path}.{name}", value) for name, value in _attributes(part).items())


def replay_faults(
    settings: ModelSettings,
    schema: Schema,
    builder: str = "fluvial.models:build",
    events: int = EVENTS,
    seconds: float = 300.0,
) -> list[str]:
    """Let the model live twice under different hash seeds, and say where the lives differ.

    Starts two processes. Raises ModelRefused when one of them cannot build the model or takes longer
    than `seconds`.
    """
    job = msgspec.json.encode(Job(builder, settings, schema, events))
    with ThreadPoolExecutor(len(_HASH_SEEDS)) as pool:  # a life is mostly the import of River: side by side
        first, second = pool.map(lambda seed: _live(job, seed, seconds), _HASH_SEEDS)
    found: list[str] = []
    for run, other in zip(first, second, strict=True):
        found += _differences(run, other)
    return found


def _live(job: bytes, hash_seed: str, seconds: float) -> list[Run]:
    # The child inherits the environment as it is; only the hash seed is ours to choose.
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "fluvial.models.replay_child"]
    try:
        done = subprocess.run(  # noqa: S603  # our own module, no shell
            command, input=job, capture_output=True, env=environment, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        msg = f"the model took over {seconds:.0f} s for a few hundred events: make it smaller"
        raise ModelRefused(msg) from None
    if done.returncode:
        told = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise ModelRefused(
            f"the model cannot be built in a new process: {told[-1] if told else 'no message'}"
        )
    return msgspec.json.decode(done.stdout, type=list[Run])


def _differences(run: Run, other: Run) -> Iterator[str]:
    lane = f"lane {run.lane!r}"
    if run.raised:
        yield f"{lane}: {run.raised}, on a valid event of the declared schema: encode or scale before it"
        return
    if run.unordered:
        yield (
            f"{lane}: {run.unordered} keeps a category's values in a set, and ties between them go by the "
            "hash seed: derive or make the tree from fluvial.models.trees in place of river.tree and "
            "river.forest, or take a preset"
        )
    for method in run.mutates:
        yield f"{lane}: {method} changes the features it is given: copy them in the model"
    pairs = (
        (
            run.full,
            other.full,
            "answers differ between processes: labels or names in a set, or an unseeded part",
        ),
        (run.full, run.resumed, "answers differ after dumping and loading half way"),
        (
            run.full[-len(run.quiet) :],
            run.quiet,
            "answers depend on whether it was asked before: predicting changes it",
        ),
    )
    for left, right, what in pairs:
        if left != right:
            at = next(i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b)
            yield f"{lane}: {what} (first at answer {at}: {left[at]} and {right[at]})"
