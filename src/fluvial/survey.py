"""What the log looks like beside what was read: partitions added, silent, or nobody's.

The client tells neither. It reads what it was assigned, and its cached log ends come with the answers to
its fetches: they stand still for exactly the partition in trouble. So the brokers are asked now and then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping

from fluvial.types import Lag

EVERY_SECONDS = 10.0
ASK_SECONDS = 1.0
"""How long one survey may keep the loop."""
SILENT_SECONDS = 30.0
"""Nothing read for so long although there is something."""
ORPHAN_SECONDS = 60.0
"""Nobody's for so long: not on its way to somebody who is slow. Between two attempts to mend it, too."""


class Survey:
    """Compares log ends with next offsets, over time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next_at = clock() + EVERY_SECONDS
        self._stood: dict[int, tuple[int, float]] = {}
        """Partition to the next offset at which it was first seen to wait, and when."""
        self.silent: dict[int, str] = {}
        """Partition to what is to be said of it."""
        self.away = ""
        """Why the brokers could not be asked the last time; empty when they answered."""
        self._unowned: dict[int, float] = {}
        """Partition to when it was first seen to be nobody's."""

    def due(self) -> bool:
        """Whether to ask the brokers now; at most every ten seconds."""
        now = self._clock()
        if now < self._next_at:
            return False
        self._next_at = now + EVERY_SECONDS
        return True

    def compare(self, ends: Mapping[int, Lag], offsets: Mapping[int, int]) -> list[int]:
        """Look at log ends and next offsets; returns the partitions that fell silent just now."""
        now, fallen = self._clock(), []
        for partition, offset in offsets.items():
            end = ends.get(partition)
            stood, since = self._stood.get(partition, (-1, now))
            if end is None or end.high <= offset or offset != stood:
                self._stood[partition] = (offset, now)
                self.silent.pop(partition, None)
            elif now - since >= SILENT_SECONDS and partition not in self.silent:
                waiting = end.high - offset
                self.silent[partition] = (
                    f"partition {partition} is silent at offset {offset}: {waiting} events wait"
                )
                fallen.append(partition)
        return fallen

    def added(self, ends: Mapping[int, Lag], known: int) -> list[int]:
        """Partitions of the topic beyond those `known` many that the shard has."""
        return sorted(ends)[known:]

    def orphans(self, unowned: Collection[int]) -> list[int]:
        """Of the partitions that are nobody's now, those that are to be given an owner."""
        now = self._clock()
        self._unowned = {p: self._unowned.get(p, now) for p in unowned}
        orphans = sorted(p for p, since in self._unowned.items() if now - since >= ORPHAN_SECONDS)
        if orphans:
            self._unowned.clear()  # the attempt gets its time
        return orphans

    def forget(self) -> None:
        """Nothing is held any more, or nothing was read for another reason."""
        self._stood.clear()
        self.silent.clear()
