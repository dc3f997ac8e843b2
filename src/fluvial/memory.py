"""The ring of recent labelled events: what a fresh model is warmed on and a change is dated by."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fluvial.types import Answer, Feature, Label

RING = 2_000

Row = tuple[dict[str, Feature], Label, float, Answer, int]
"""Features, label, sample weight, what was served, the chosen class."""
Learned = tuple[dict[str, Feature], Label, float]
"""Features, label, sample weight: what a model is taught."""


class Memory:
    """The newest `RING` labelled events and their losses, the newest last."""

    def __init__(self, events: Iterable[Learned] = (), losses: Iterable[float] = ()) -> None:
        self._rows: deque[Row | Learned] = deque(events, maxlen=RING)
        self._losses = deque(losses, maxlen=RING)

    def extend(self, rows: Sequence[Row], losses: Sequence[float]) -> None:
        """Take rows as the fold has them, at no cost; only what `Learned` says matters here."""
        self._rows.extend(rows)
        self._losses.extend(losses)

    def losses(self, newest: int) -> list[float]:
        """Losses of the `newest` events at most."""
        return list(self._losses)[-newest:] if newest > 0 else []

    def newest(self, count: int) -> list[Learned]:
        """The last `count` events, oldest first."""
        return [row[:3] for row in list(self._rows)[-count:]] if count > 0 else []

    def state(self) -> dict[str, Any]:
        """Values as tuples, keys once per shape: a tenth of the bytes and of the time of dicts."""
        shapes: dict[tuple[str, ...], int] = {}
        rows = [
            (shapes.setdefault(tuple(row[0]), len(shapes)), tuple(row[0].values()), row[1], row[2])
            for row in self._rows
        ]
        return {"shapes": list(shapes), "rows": rows, "losses": list(self._losses)}

    @classmethod
    def restore(cls, state: Mapping[str, Any]) -> Memory:
        """Undo `state`, keys in the same order."""
        shapes = state["shapes"]
        rows = ((dict(zip(shapes[s], values, strict=True)), y, w) for s, values, y, w in state["rows"])
        return cls(rows, state["losses"])
