"""The loop: poll, fold, publish, checkpoint, housekeeping. Effects live here, decisions elsewhere.

    stand by   until the lease is ours
    claim      epoch and token; load or begin; assign at the stored offsets
    run        batches, until told to stop or fenced

While the store or the dead-letter topic is away nothing is consumed, but polling goes on.
"""

from __future__ import annotations

import gc
import logging
import secrets
import time
from collections.abc import Callable, Sequence

import msgspec

from fluvial.config import Settings
from fluvial.errors import Fenced, OffsetLost, SourceUnavailable, StoreError, StoreUnfit
from fluvial.keeper import Keeper, Parts
from fluvial.patience import Patience, Stopped
from fluvial.ports import Message, Sink, Source, Store
from fluvial.publisher import Publisher
from fluvial.shard import Shard
from fluvial.tally import Tally
from fluvial.types import Claim, Entry, Rare, StoreReport

log = logging.getLogger("fluvial.worker")

SHARD = "all"
"""The one shard of `scope = "topic"`."""
FIRST_BATCH = 16
"""Before it is known how slow the model is: five hundred slow events would look like a stuck loop."""
BATCH_SECONDS = 0.5
"""A batch is cut so that it takes about this long at most: the lease is renewed between batches."""


def unfit(report: StoreReport) -> list[str]:
    """Why a store would lose what it acknowledged; empty when it would not."""
    faults = []
    if report.embedded:
        faults.append(f"version {report.version} is older than 7.0")
    if not report.persistent:
        faults.append("it is not persistent (set `appendonly yes`)")
    if report.eviction not in {"noeviction", "unknown"}:
        faults.append(f"it evicts keys ({report.eviction}; set `maxmemory-policy noeviction`)")
    return faults


class Worker:
    """One process's work on one service. `run` returns when it was told to `stop`."""

    def __init__(self, settings: Settings, source: Source, sink: Sink, store: Store, owner: str) -> None:
        self.settings = settings
        self.owner = owner
        self._parts = Parts(settings, source, sink, store)
        self.patience = Patience(source, settings.worker.grace_seconds)
        self.publisher = Publisher(store)
        self.tally = Tally()
        self.keeper: Keeper | None = None
        self.started_at = time.time()
        self._leased_until = 0.0
        self._limit = min(FIRST_BATCH, settings.kafka.batch)
        self._hear: list[Callable[[Rare], None]] = []

    def listen(self, hear: Callable[[Rare], None]) -> None:
        """Be told of everything rare that the fold says (the demo's live view)."""
        self._hear.append(hear)

    def stop(self) -> None:
        """Finish the batch, save a checkpoint, give the lease back. Safe to call from a signal handler."""
        self.patience.stop()

    @property
    def shard(self) -> Shard | None:
        """The shard that is kept now, if one is."""
        keeper = self.keeper
        return None if keeper is None else keeper.shard

    # ---- the loop ----------------------------------------------------------------------------

    def run(self) -> None:
        """Work until told to stop. Raises what a person has to decide; then nothing is lost."""
        try:
            self._check_store()
            while not self.patience.stopping:
                try:
                    self._stand_by()
                    self._work(self._claim())
                except Fenced as error:
                    self._dropped(error)
        except Stopped:
            pass
        finally:
            self._leave()

    def _work(self, keeper: Keeper) -> None:
        """Fold batches until told to stop. Raises Fenced when somebody else owns the shard."""
        while not self.patience.stopping:
            self.patience.turn()
            try:
                messages = self._poll()
            except (OffsetLost, SourceUnavailable) as report:
                self._answer(keeper, report)
                continue
            if messages:
                self._process(keeper, messages)
            if keeper.pace.due():
                keeper.checkpoint()
            self._renew()
        keeper.checkpoint()

    def _poll(self) -> Sequence[Message]:
        """The next batch. Raises OffsetLost or SourceUnavailable, also one that came during an outage."""
        if self.patience.reports:
            raise self.patience.reports.popleft()
        return self._parts.source.poll(self._limit, self.settings.kafka.wait_ms / 1_000)

    def _process(self, keeper: Keeper, messages: Sequence[Message]) -> None:
        before = keeper.tally.busy_seconds
        if not keeper.process(messages):
            self._assign(keeper)
            return
        # Slow models get smaller batches; the fold does not depend on how events come in batches.
        took = keeper.tally.busy_seconds - before
        fitting = int(len(messages) * BATCH_SECONDS / max(took, 1e-6))
        self._limit = max(1, min(self.settings.kafka.batch, fitting))

    def _answer(self, keeper: Keeper, report: OffsetLost | SourceUnavailable) -> None:
        """Read again from the shard's offsets: after either report a partition may have gone silent."""
        if isinstance(report, OffsetLost):
            keeper.give_up_lost(report)
        else:
            log.warning("reading again from the shard's offsets: %s", report)
        self._assign(keeper)

    # ---- ownership ---------------------------------------------------------------------------

    def _check_store(self) -> None:
        """Refuse a store that would lose what it acknowledged, unless the settings accept it."""
        faults = unfit(self.patience.persist(self._parts.store.report))
        if not faults:
            return
        text = f"Redis is not fit to hold checkpoints: {'; '.join(faults)}"
        if not self.settings.redis.allow_unfit:
            raise StoreUnfit(f"{text}. To go on all the same: redis.allow_unfit = true")
        log.warning("%s; going on, as redis.allow_unfit says", text)

    def _stand_by(self) -> None:
        """Wait until the lease is ours."""
        said, persist = None, self.patience.persist
        while not persist(self._take_lease):
            holder = persist(lambda: self._parts.store.lease_holder(SHARD))
            waiting = f"standing by: {holder or 'somebody else'} is active"
            self.patience.waiting_for = waiting
            if holder != said:
                log.info(waiting)
                said = holder
            self.patience.wait(min(1.0, self.settings.worker.lease_seconds / 5))

    def _take_lease(self) -> bool:
        seconds = self.settings.worker.lease_seconds
        asked = time.monotonic()
        taken = self._parts.store.lease(SHARD, self.owner, int(seconds * 1_000))
        self._leased_until = asked + seconds if taken else 0.0
        return taken

    def _renew(self) -> None:
        """Renew the lease in the last four fifths of its time. Raises Fenced when another worker has it."""
        seconds = self.settings.worker.lease_seconds
        if self._leased_until - time.monotonic() > seconds * 4 / 5:
            return
        if not self.patience.persist(self._take_lease):
            raise Fenced(
                "another worker holds the lease: this one stalled for longer than worker.lease_seconds"
            )

    def _claim(self) -> Keeper:
        """Become the shard's writer, get its state, and read from its offsets on."""
        persist, store = self.patience.persist, self._parts.store
        self.patience.waiting_for = "claiming"
        token = secrets.token_hex(16)
        claim = persist(lambda: store.claim(SHARD, token))
        keeper = Keeper(self._parts, self.patience, self.tally, self.publisher, claim)
        if claim.head is None:
            persist(lambda: store.forget(claim))
            keeper.shard.claim = msgspec.structs.replace(claim, published={})
        keeper.hear = self._hear
        self.keeper = keeper
        keeper.keep(self._claimed(claim, keeper.shard))
        # Before the first event there is something to go back to, and another worker sees whose it is.
        keeper.checkpoint()
        self._assign(keeper)
        self.patience.waiting_for = None
        # River and its imports are some 300,000 objects that never die: walk them no more.
        gc.unfreeze()  # a model of an earlier claim may have died since
        gc.collect()
        gc.freeze()
        shard = keeper.shard
        log.info("active: epoch %d, checkpoint %d, offsets %s", claim.epoch, shard.sequence, shard.offsets)
        return keeper

    def _claimed(self, claim: Claim, shard: Shard) -> Entry:
        detail = {
            "owner": self.owner,
            "epoch": claim.epoch,
            "sequence": shard.sequence,
            "offsets": shard.offsets,
        }
        return Entry(kind="claimed", time=time.time(), detail=detail)

    def _assign(self, keeper: Keeper) -> None:
        """Read from the shard's offsets on; one that is outside the log is a decision of the settings."""
        assigned = False
        while not assigned:
            try:
                self.patience.persist(lambda: self._parts.source.assign(keeper.shard.offsets))
                assigned = True
            except OffsetLost as lost:
                keeper.give_up_lost(lost)
        self.patience.reports.clear()  # they were about the assignment before

    # ---- the end -----------------------------------------------------------------------------

    def _dropped(self, error: Fenced) -> None:
        """Somebody else owns the shard: forget it, write nothing, begin again."""
        self.patience.errors["fenced"] += 1
        log.warning("dropped: %s", error)
        self._parts.source.assign({})
        self._forget()
        self.patience.waiting_for = "dropped: another worker owns the shard"

    def _forget(self) -> None:
        self.publisher.drop()
        self.keeper = None
        self.patience.reports.clear()
        self._leased_until = 0.0

    def _leave(self) -> None:
        """Give everything back; what cannot be given back expires."""
        self.patience.waiting_for = "stopping"
        self._forget()
        self.publisher.close()
        try:
            self._parts.store.unlease(SHARD, self.owner)
        except StoreError as error:
            log.warning("the lease was not given back and expires by itself: %s", error)
        self._parts.sink.close(2.0)
        self._parts.source.close(5.0)
        self._parts.store.close()
