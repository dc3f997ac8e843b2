"""Whether the store keeps what it acknowledges: asked at the start, and with each look at the log after.

A server can become unfit under the worker: somebody sets another eviction policy or switches the
append-only file off, or a failover leads to one that is set up otherwise.
"""

from __future__ import annotations

import logging

from fluvial.types import StoreReport

log = logging.getLogger("fluvial.worker")


def unfit(report: StoreReport) -> list[str]:
    """Why a store would lose what it acknowledged; empty when it would not."""
    if not report.told:
        return ["it does not say whether it is (redis.username may not ask for INFO: docs/security.md)"]
    faults = []
    if report.embedded:
        faults.append(f"version {report.version} is older than 7.0")
    if not report.persistent:
        faults.append("it is not persistent (set `appendonly yes`)")
    if report.eviction not in {"noeviction", "unknown"}:
        faults.append(f"it evicts keys ({report.eviction}; set `maxmemory-policy noeviction`)")
    return faults


class Fitness:
    """What the store said of itself last."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self._told = True

    @property
    def said(self) -> str:
        """One sentence; empty while the store is fit."""
        return f"Redis is not fit to hold checkpoints: {'; '.join(self.faults)}" if self.faults else ""

    def first(self, report: StoreReport) -> None:
        """Take what it says before anything is trusted to it: silence counts as unfit."""
        self.faults, self._told = unfit(report), report.told

    def changed(self, report: StoreReport) -> bool:
        """Take what it says now; True when that is something else. Silence is said once, and is no change."""
        if not report.told:
            if self._told:
                log.warning("whether Redis is fit can no longer be told: redis.username may not ask for INFO")
            self._told = False
            return False
        before, self.faults, self._told = self.faults, unfit(report), True
        return self.faults != before
