"""The ring of recent labelled events: what a fresh model is warmed on and a change is dated by."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice, repeat
from typing import Any

from fluvial.types import Answer, Feature, Label

RING = 2_000

Row = tuple[dict[str, Feature], Label, float, Answer, int]
"""Features, label, sample weight, what was served, the chosen class."""
Learned = tuple[dict[str, Feature], Label, float]
"""Features, label, sample weight: what a model is taught."""


class Memory:
    """The newest `RING` labelled events that were answered, and their losses, the newest last."""

    def __init__(
        self, events: Iterable[Learned] = (), losses: Iterable[float] = (), gaps: Iterable[int] = ()
    ) -> None:
        self._rows: deque[Row | Learned] = deque(events, maxlen=RING)
        self._losses = deque(losses, maxlen=RING)
        self._gaps = deque(gaps or repeat(0, len(self._rows)), maxlen=RING)
        """Labelled events right before each, that have no row."""

    def extend(self, rows: Sequence[Row], losses: Sequence[float], gaps: Mapping[int, int]) -> None:
        """Take rows as the fold has them, at no cost; only what `Learned` says matters here.

        `gaps`: labelled events without a row right before one, by its index in `rows`.
        """
        self._rows.extend(rows)
        self._losses.extend(losses)
        self._gaps.extend([gaps.get(i, 0) for i in range(len(rows))] if gaps else repeat(0, len(rows)))

    def gaps(self) -> list[int]:
        """How many labelled events without a row came right before each of these."""
        return list(self._gaps)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._rows)

    def losses(self, newest: int) -> list[float]:
        """Losses of the `newest` events at most."""
        return list(self._losses)[-newest:] if newest > 0 else []

    def newest(self, count: int) -> list[Learned]:
        """The last `count` events, oldest first."""
        return [row[:3] for row in islice(reversed(self._rows), max(0, count))][::-1]

    def state(self) -> dict[str, Any]:
        """As columns, numbers as doubles in bytes: a third of the bytes and of the time of rows."""
        shapes: dict[tuple[str, ...], int] = {}
        xs = [row[0] for row in self._rows]
        return {
            "shape": [shapes.setdefault(tuple(x), len(shapes)) for x in xs],
            "shapes": list(shapes),
            "values": _packed(list(chain.from_iterable(x.values() for x in xs))),
            "labels": [row[1] for row in self._rows],
            "weights": array("d", [row[2] for row in self._rows]).tobytes(),
            "losses": array("d", self._losses).tobytes(),
            "gaps": array("q", self._gaps).tobytes() if any(self._gaps) else b"",
        }

    @classmethod
    def restore(cls, state: Mapping[str, Any]) -> Memory:
        """Undo `state`, keys in the same order."""
        shapes, values = state["shapes"], iter(_unpacked(state["values"]))
        xs = [dict(zip(shapes[shape], values, strict=False)) for shape in state["shape"]]
        rows = zip(xs, state["labels"], _unpacked(state["weights"]), strict=True)
        return cls(rows, _unpacked(state["losses"]), array("q", state.get("gaps", b"")))


def _packed(values: list[Feature]) -> bytes | list[Feature]:
    """Doubles as bytes; as they are when there is a text among them."""
    try:
        return array("d", values).tobytes()  # type: ignore[type-var]  # a text raises
    except TypeError:
        return values


def _unpacked(values: bytes | list[Any]) -> Iterable[Any]:
    return array("d", values) if isinstance(values, bytes) else values
