"""What a shard's work came to in this process: plain numbers, bumped by the loop, read from anywhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping

from fluvial.types import Action, PartitionLedger, Rare


class Tally:
    """Counts for the view. They outlive a claim: a process that gets its shard back counts on."""

    def __init__(self) -> None:
        self.busy_seconds = 0.0
        self.batches = 0
        self.events = 0
        self.dead_letters: Counter[str] = Counter()
        self.trips = 0
        """Of the flood breaker."""
        self.model_errors = 0
        self.happened: Counter[tuple[str, ...]] = Counter()
        """("signal", plane, kind), ("reaction", action), ("version", cause)."""
        self.happened_at: dict[tuple[str, ...], float] = {}
        self.incidents: Counter[str] = Counter()
        """Journal entries of the kinds that a person should look at."""
        self.entries_given_up = 0
        """Journal entries that gave way because no checkpoint could be saved for so long."""
        self.saved = 0
        self.saved_at = 0.0
        self.saved_bytes = 0
        self.save_failures = 0
        self.too_large = 0
        self.last_event_time: float | None = None
        self.taken: dict[int, PartitionLedger] = {}
        """The ledger as it was when the shard was claimed; so were these counts."""
        self.counted_before: Counter[str] = Counter()

    def note(self, rare: Rare) -> None:
        """Count what the fold said."""
        for signal in rare.signals:
            self._count("signal", signal.plane, signal.kind)
        for version in rare.versions:
            self._count("version", version.cause)
            if version.cause in set(Action):
                self._count("reaction", version.cause)
        for action in (Action.HOLD, Action.CHALLENGE, Action.DISMISS):  # make no version
            if any(entry.kind == action for entry in rare.entries):
                self._count("reaction", action)

    def moved(self, before: Mapping[int, PartitionLedger], now: Mapping[int, PartitionLedger]) -> None:
        """The log is read again from earlier offsets: what was counted in this process stays counted."""
        for partition, ledger in now.items():
            taken, old = self.taken.get(partition), before.get(partition)
            if taken is None or old is None:
                continue
            for name in ledger.__struct_fields__:
                was = getattr(taken, name) + getattr(ledger, name) - getattr(old, name)
                setattr(taken, name, was)

    def _count(self, *what: str) -> None:
        self.happened[what] += 1
        self.happened_at[what] = time.time()
