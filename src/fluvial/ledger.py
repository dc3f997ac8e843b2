"""What became of every offset: learned, scored only, dead-lettered, skipped, or never there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fluvial.errors import OutOfOrder
from fluvial.types import PartitionLedger

MASK = (1 << 64) - 1
MULTIPLIER = 6_364_136_223_846_793_005
"""Knuth's, of the linear congruential generator MMIX: any odd multiplier with good mixing would do."""


class Ledger:
    """A ledger per partition and the checksum of the order in which offsets of all partitions came."""

    def __init__(self, partitions: dict[int, PartitionLedger], order: int = 0) -> None:
        self.partitions = partitions
        self.order = order

    @classmethod
    def starting_at(cls, offsets: Mapping[int, int]) -> Ledger:
        """Nothing accounted for yet."""
        return cls({p: PartitionLedger(start=o, next=o) for p, o in sorted(offsets.items())})

    def advance(self, partition: int, offset: int) -> PartitionLedger:
        """Account for one offset and return its partition's ledger, for the caller to say what became of it.

        Raises OutOfOrder when the offset was accounted for already or the partition is not ours.
        """
        ledger = self.partitions.get(partition)
        if ledger is None:
            raise OutOfOrder(f"partition {partition} is not part of this shard")
        if offset != ledger.next:
            self._jump(ledger, partition, offset)
        ledger.next = offset + 1
        self.order = ((self.order + offset * 1_021 + partition + 1) * MULTIPLIER) & MASK
        return ledger

    def _jump(self, ledger: PartitionLedger, partition: int, offset: int) -> None:
        if offset < ledger.next:
            raise OutOfOrder(
                f"partition {partition}: offset {offset} came again; the next one is {ledger.next}"
            )
        ledger.gaps += offset - ledger.next

    def offsets(self) -> dict[int, int]:
        """The next offset of each partition."""
        return {p: ledger.next for p, ledger in self.partitions.items()}

    def state(self) -> dict[str, Any]:
        """As primitives."""
        rows = {
            p: (e.start, e.next, e.learned, e.scored, e.dead, e.skipped, e.gaps)
            for p, e in self.partitions.items()
        }
        return {"partitions": rows, "order": self.order}

    @classmethod
    def restore(cls, state: Mapping[str, Any]) -> Ledger:
        """Undo `state`."""
        return cls({p: PartitionLedger(*row) for p, row in state["partitions"].items()}, state["order"])
