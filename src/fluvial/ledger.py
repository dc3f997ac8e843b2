"""What became of every offset: learned, scored only, dead-lettered, skipped, or never there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from fluvial.errors import OutOfOrder
from fluvial.types import PartitionLedger

MASK = (1 << 64) - 1
MULTIPLIER = 6_364_136_223_846_793_005
"""Knuth's, of the linear congruential generator MMIX: any odd multiplier with good mixing would do."""


class Ledger:
    """A ledger per partition, and a checksum of the order in which the partitions' events came.

    The order is a sequence of runs: events of one partition until one of another comes. A run is told
    by its partition and the next offset at its end, so the checksum does not depend on batches.
    """

    def __init__(
        self, partitions: dict[int, PartitionLedger], runs: int = 0, running: int | None = None
    ) -> None:
        self.partitions = partitions
        self._runs = runs
        """Checksum of the runs that ended."""
        self._running = running
        """The partition of the present run."""

    @classmethod
    def starting_at(cls, offsets: Mapping[int, int]) -> Ledger:
        """Nothing accounted for yet."""
        return cls({p: PartitionLedger(start=o, next=o) for p, o in sorted(offsets.items())})

    def advance(self, partition: int, offset: int) -> PartitionLedger:
        """Account for one offset and return its partition's ledger, for the caller to say what became of it.

        Raises OutOfOrder when the offset was accounted for already or the partition is not ours.
        """
        ledger = self.partitions.get(partition)
        if ledger is None or offset != ledger.next:
            ledger = self._jump(partition, offset)
        if partition != self._running:
            self._runs, self._running = self.order, partition
        ledger.next = offset + 1
        return ledger

    def add(self, partition: int, offset: int) -> None:
        """Account for a partition that the log got since, from `offset` on."""
        self.partitions = {**self.partitions, partition: PartitionLedger(start=offset, next=offset)}

    def running(self, partition: int) -> PartitionLedger | None:
        """The ledger of the present run, when it is this partition's; None: `advance` has to begin one."""
        return self.partitions.get(partition) if partition == self._running else None

    def _jump(self, partition: int, offset: int) -> PartitionLedger:
        ledger = self.partitions.get(partition)
        if ledger is None:
            raise OutOfOrder(f"partition {partition} is not part of this shard")
        if offset < ledger.next:
            raise OutOfOrder(f"partition {partition}: offset {offset} came again, next is {ledger.next}")
        ledger.gaps += offset - ledger.next
        return ledger

    @property
    def order(self) -> int:
        """The checksum, the present run included."""
        if self._running is None:
            return self._runs
        run = self.partitions[self._running].next * 1_021 + self._running + 1
        return ((self._runs + run) * MULTIPLIER) & MASK

    @property
    def newest(self) -> int:
        """The partition of the newest event."""
        return min(self.partitions) if self._running is None else self._running

    def handled(self) -> int:
        """Events accounted for; offsets that were skipped or never there are none."""
        return sum(p.learned + p.pending + p.scored + p.dead for p in self.partitions.values())

    def offsets(self) -> dict[int, int]:
        """The next offset of each partition."""
        return {p: ledger.next for p, ledger in self.partitions.items()}

    def before(self, partition: int, offset: int, *, labelled: bool = True) -> dict[str, Any]:
        """State as it stood before this offset, which is under way: accounted for, perhaps counted too."""
        state = self.state()
        under_way = msgspec.structs.replace(self.partitions[partition], next=offset)
        if self.partitions[partition].balanced():
            counted = "scored" if not labelled else "pending" if under_way.pending else "learned"
            setattr(under_way, counted, getattr(under_way, counted) - 1)
        state["partitions"][partition] = msgspec.structs.astuple(under_way)
        return state

    def state(self) -> dict[str, Any]:
        """As primitives."""
        rows = {p: msgspec.structs.astuple(ledger) for p, ledger in self.partitions.items()}
        return {"partitions": rows, "runs": self._runs, "running": self._running}

    @classmethod
    def restore(cls, state: Mapping[str, Any]) -> Ledger:
        """Undo `state`."""
        rows = {p: PartitionLedger(*row) for p, row in state["partitions"].items()}
        return cls(rows, state["runs"], state["running"])
