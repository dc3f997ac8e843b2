"""The planes beside the error: the features, and what was answered. Said and counted; nothing reacts to them.

They are worked in spans of several of the learner's blocks. What a plane knows of the features outlives
every model; what it knows of the predictions belongs to the model that made them.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from struct import Struct
from struct import error as StructError  # noqa: N812 - a class by a function's name
from typing import Any

import numpy as np

from fluvial.config import DataPlane, DriftSettings
from fluvial.drift.plane import SAMPLE, SPAN, Columns, Plane
from fluvial.types import Answer, Feature, Label, Signal, Task

Row = tuple[dict[str, Feature], Label, float, Answer, int]
"""Features, label, weight, what was served, the chosen class: as the learner gathers them."""
Newest = Callable[[int], Sequence[tuple[dict[str, Feature], Label, float]]]
"""The newest so many labelled events that the fold remembers."""

WATCHED = 256
"""Features that are watched at most, the first of the schema."""
CLASSES = 16
"""Classes whose mean probability is watched at most; the shares of all are."""
SETTLING = 2_000
"""Labelled events of a fresh model before its answers are watched: until then they move because it learns."""
REMEMBERED = 32
"""Blocks of predictions that are kept, to say how far they moved."""


class Planes:
    """Both planes of one fold."""

    def __init__(
        self,
        task: Task,
        settings: DriftSettings,
        names: Sequence[str],
        classes: Sequence[str],
        state: Mapping[str, Any] | None = None,
    ) -> None:
        """`names`: the declared features; none: those of the first events. `classes`: in declared order."""
        state = state or {}
        self._settings = settings
        on = settings.planes
        self._features_on = "features" in on
        self.features: Plane | None = None
        self._declared = bool(names) and len(names) <= WATCHED
        """All features are known, and come in the declared order."""
        names = names or state.get("names", ())
        if self._features_on and names:
            self._watch(names, state.get("features"))
        self._waiting: int = state.get("waiting", 0)
        """Events of the present span."""
        self._fresh_at: int = state.get("fresh_at", 0)
        self._answers = Answers(task, classes) if "predictions" in on else None
        self.predictions: Plane | None = None
        if self._answers is not None:
            self.predictions = self._plane("predictions", self._answers.names, state.get("predictions"))
            self._answers.load(state.get("answers", ()))

    def _plane(self, name: DataPlane, columns: Sequence[str], state: Mapping[str, Any] | None) -> Plane:
        known = state if state is not None and tuple(state["names"]) == tuple(columns) else None
        return Plane(name, columns, self._settings.levels(name), known)

    def _watch(self, names: Sequence[str], state: Mapping[str, Any] | None = None) -> None:
        self._names = tuple(names[:WATCHED])
        self._packers: dict[int, Struct] = {}
        self.features = self._plane("features", self._names, state)

    def update(self, rows: Sequence[Row], events: int, newest: Newest) -> tuple[Signal, ...]:
        """Take a block of rows, the last one labelled event number `events`; at a span's end watch it."""
        if self._answers is not None and rows:
            self._answers.take(rows)
        self._waiting += len(rows)
        if self._waiting < SPAN:
            return ()
        span, self._waiting = self._waiting, 0
        return self._watch_features(span, events, newest) + self._watch_answers(span, events)

    def _watch_features(self, span: int, events: int, newest: Newest) -> tuple[Signal, ...]:
        def recent(count: int) -> Columns:
            return self._columns([row[0] for row in newest(count)])

        if self.features is not None:
            return self.features.update(recent(span), events, recent)
        if self._features_on and events >= SAMPLE:
            names = list(dict.fromkeys(chain.from_iterable(x for x, *_ in newest(SAMPLE))))
            if names:
                self._watch(names)
        return ()

    def _watch_answers(self, span: int, events: int) -> tuple[Signal, ...]:
        if self.predictions is None or self._answers is None or events < self._fresh_at + SETTLING + span:
            return ()
        return self.predictions.update(self._answers.recent(span), events, self._answers.recent)

    def restart(self, events: int) -> None:
        """Another model answers after labelled event number `events`."""
        self._fresh_at = events
        if self.predictions is not None:
            self.predictions.restart()

    def _columns(self, xs: Sequence[dict[str, Feature]]) -> Columns:
        """Features column by column; the short way when all declared ones are there and are numbers."""
        width = len(self._names)
        if self._declared and set(map(len, xs)) == {width}:
            packer = self._packers.get(len(xs))
            if packer is None:
                packer = self._packers[len(xs)] = Struct(f"{len(xs) * width}d")
            try:
                packed = packer.pack(*chain.from_iterable([x.values() for x in xs]))
            except StructError:
                pass  # a text among them
            else:
                return np.frombuffer(packed).reshape(len(xs), width).T.copy()
        return list(zip(*[map(x.get, self._names) for x in xs], strict=True))

    def distances(self) -> dict[str, float]:
        """Population stability index of each feature, newest against reference."""
        return {} if self.features is None else self.features.distances()

    def state(self) -> dict[str, Any]:
        """Everything it needs to go on, as primitives."""
        return {
            "names": () if self.features is None else self.features.names,
            "features": None if self.features is None else self.features.state(),
            "predictions": None if self.predictions is None else self.predictions.state(),
            "fresh_at": self._fresh_at,
            "waiting": self._waiting,
            "answers": () if self._answers is None else self._answers.state(),
        }


class Answers:
    """What was served, column by column, and the newest of it."""

    def __init__(self, task: Task, classes: Sequence[str]) -> None:
        self._regression = task is Task.REGRESSION
        self._classes = tuple(classes)
        shown = () if self._regression else range(len(classes))[-1 if task is Task.BINARY else 0 :][:CLASSES]
        self._shown = tuple(shown)
        self.names = (
            ("prediction",)
            if self._regression
            else ("class", *(f"probability of {self._classes[k]}" for k in self._shown))
        )
        self._blocks: list[list[list[float]]] = []

    def take(self, rows: Sequence[Row]) -> None:
        """Remember a block's answers."""
        if self._regression:
            block: list[list[float]] = [[row[3][0] for row in rows]]
        else:
            block = [[row[4] for row in rows], *([row[3][k] for row in rows] for k in self._shown)]
        self._blocks = [*self._blocks[1 - REMEMBERED :], block]

    def _named(self, block: list[list[float]]) -> Columns:
        if self._regression:
            return block
        names = self._classes
        return [[names[int(k)] for k in block[0]], *block[1:]]

    def recent(self, events: int) -> Columns:
        """The newest so many answers, if they are still here."""
        first, found = len(self._blocks), 0
        while first and found < events:
            first -= 1
            found += len(self._blocks[first][0])
        parts = zip(*self._blocks[first:], strict=True)
        return self._named([list(chain.from_iterable(part))[-events:] for part in parts])

    def state(self) -> list[list[bytes]]:
        """As primitives, numbers as doubles in bytes."""
        return [[array("d", column).tobytes() for column in block] for block in self._blocks]

    def load(self, state: Sequence[Sequence[bytes]]) -> None:
        """Undo `state`."""
        self._blocks = [[array("d", column).tolist() for column in block] for block in state]
