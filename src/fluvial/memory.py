"""The ring of recent labelled events: what a fresh model is warmed on and a change is dated by."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from fluvial.types import Feature, Label

RING = 2_000

Remembered = tuple[dict[str, Feature], Label, float, float]
"""Features, label, sample weight, loss of what was served."""


class Memory:
    """The newest `RING` labelled events, the newest last."""

    def __init__(self, events: Iterable[Remembered] = ()) -> None:
        self.ring: deque[Remembered] = deque(events, maxlen=RING)
        self.extend = self.ring.extend

    def losses(self, newest: int) -> list[float]:
        """Losses of the `newest` events at most."""
        losses = [row[3] for row in self.ring]
        return losses[-newest:] if newest > 0 else []

    def newest(self, count: int) -> list[Remembered]:
        """The last `count` events, oldest first."""
        return list(self.ring)[-count:] if count > 0 else []

    def state(self) -> dict[str, Any]:
        """Values as tuples, keys once per shape: a tenth of the bytes and of the time of dicts."""
        shapes: dict[tuple[str, ...], int] = {}
        rows = [
            (shapes.setdefault(tuple(x), len(shapes)), tuple(x.values()), y, weight, loss)
            for x, y, weight, loss in self.ring
        ]
        return {"shapes": list(shapes), "rows": rows}

    @classmethod
    def restore(cls, state: Mapping[str, Any]) -> Memory:
        """Undo `state`, keys in the same order."""
        shapes = state["shapes"]
        return cls(
            (dict(zip(shapes[shape], values, strict=True)), y, weight, loss)
            for shape, values, y, weight, loss in state["rows"]
        )
