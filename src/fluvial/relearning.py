"""Learning a stretch of the log again after a roll-back, a bad span of it left out.

What is read again was answered before: those answers were served and evaluated, and are not given a
second time. So the members are only taught, without predictions, monitors or reactions, until each
partition is back where it was when the roll-back was carried out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Span = tuple[int, int, int]
"""Partition, first offset, the next one after it."""


class Relearning:
    """Which offsets are learned again, and which of them are left out."""

    def __init__(self, until: Mapping[int, int], skip: Sequence[Span] = ()) -> None:
        self.until = dict(until)
        """By partition, the offset from which on everything is as ever."""
        self.skip = tuple(skip)

    def concerns(self, partition: int, offset: int) -> bool:
        """Whether this event was answered before."""
        return offset < self.until.get(partition, 0)

    def leaves_out(self, partition: int, offset: int) -> bool:
        """Whether it is in a span that is not learned again."""
        return any(p == partition and first <= offset < after for p, first, after in self.skip)

    def over(self, offsets: Mapping[int, int]) -> bool:
        """Whether every partition is back where it was."""
        return all(offsets.get(partition, end) >= end for partition, end in self.until.items())

    def state(self) -> dict[str, Any]:
        """As primitives."""
        return {"until": dict(self.until), "skip": list(self.skip)}

    @classmethod
    def restore(cls, state: Mapping[str, Any] | None) -> Relearning | None:
        """Undo `state`."""
        return None if state is None else cls(state["until"], [(p, a, b) for p, a, b in state["skip"]])
