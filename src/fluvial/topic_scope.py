"""One model from all partitions: one active worker under a lease, the others stand by.

stand by   until the lease is ours
claim      epoch and token; load or begin; assign at the stored offsets
run        batches, until told to stop or fenced
"""

from __future__ import annotations

import logging
import time

from fluvial.errors import Fenced, FluvialError, OffsetLost, SourceUnavailable, StoreUnavailable
from fluvial.keeper import Keeper
from fluvial.scopes import Scope
from fluvial.shard import Opening

log = logging.getLogger("fluvial.worker")

SHARD = "all"
"""The one shard."""
REHEARSE_SECONDS = 30.0
"""How often a worker that stands by loads the newest checkpoint, to take over at once when it has to."""


class TopicScope(Scope):
    """No group: all partitions are assigned by hand. The lease is liveness; the epoch is safety."""

    _leased_until = 0.0
    _rehearsed_at = -REHEARSE_SECONDS

    def run(self) -> None:
        """Stand by, claim, work; begin again when fenced."""
        self.patience.renew = self._renew_meanwhile
        while not self.patience.stopping:
            try:
                self._stand_by()
                self._work(self._claim())
            except Fenced as error:
                self._dropped(error)

    def leave(self) -> None:
        """Give the lease back, so that who stands by need not wait for its end."""
        self._forget()
        super().leave()
        self.parts.store.unlease(SHARD, self.owner)

    def _work(self, keeper: Keeper) -> None:
        """Fold batches until told to stop. Raises Fenced when somebody else owns the shard."""
        while not self.patience.stopping:
            self.patience.turn()
            self.heed_breaker(keeper, lambda: self._assign(keeper))
            self.heed_requests(keeper, lambda: self._assign(keeper))
            if keeper.trip is not None:
                self.parts.source.pause()  # an assignment since the last turn has begun to read again
            try:
                messages = self.poll()
            except (OffsetLost, SourceUnavailable) as report:
                self.answer(keeper, report)
                self._assign(keeper)
                continue
            if messages and not self.process(keeper, messages):
                self._assign(keeper)
            if keeper.pace.due():
                keeper.checkpoint()
            self._renew()
            self._survey(keeper)
        keeper.checkpoint()

    def _survey(self, keeper: Keeper) -> None:
        """See whether partitions were added or fell silent."""
        ends = self.look_at_the_log()
        if not ends:
            return
        again = self.silent(keeper, ends)
        added = self.survey.added(ends, len(keeper.shard.offsets))
        if keeper.add_partitions({p: ends[p].low for p in added}) or again:
            self._assign(keeper)

    # ---- ownership ---------------------------------------------------------------------------

    @property
    def lease_milliseconds(self) -> int:
        """As the settings say."""
        return int(self.parts.settings.worker.lease_seconds * 1_000)

    def stretch(self, shard: str, size: int) -> None:
        """As everywhere; and short again as soon as the loop turns."""
        super().stretch(shard, size)
        self._leased_until = time.monotonic()

    def _stand_by(self) -> None:
        """Wait until the lease is ours."""
        said, persist = None, self.patience.persist
        while not persist(self._take_lease):
            holder = persist(lambda: self.parts.store.lease_holder(SHARD))
            waiting = f"standing by: {holder or 'somebody else'} is active"
            self.patience.waiting_for = waiting
            if holder != said:
                log.info(waiting)
                said = holder
            self._rehearse()
            self.patience.wait(min(1.0, self.parts.settings.worker.lease_seconds / 5))

    def _rehearse(self) -> None:
        """Load the newest checkpoint and let it go: River is imported then, and a refusal is known early."""
        if time.monotonic() - self._rehearsed_at < REHEARSE_SECONDS:
            return
        self._rehearsed_at = time.monotonic()
        opening = Opening(self.parts.settings, self.parts.store, self.parts.source)
        try:
            opening.rehearse(SHARD)
        except FluvialError as error:
            log.warning("standing by, and could not take over now: %s", error)
        finally:
            self.patience.turn()

    def _take_lease(self) -> bool:
        seconds = self.parts.settings.worker.lease_seconds
        asked = time.monotonic()
        taken = self.parts.store.lease(SHARD, self.owner, self.lease_milliseconds)
        self._leased_until = asked + seconds if taken else 0.0
        return taken

    def _renew(self) -> None:
        """Renew the lease in the last four fifths of its time. Raises Fenced when another worker has it."""
        seconds = self.parts.settings.worker.lease_seconds
        if self._leased_until - time.monotonic() > seconds * 4 / 5:
            return
        if not self.patience.persist(self._take_lease):
            raise Fenced(
                "another worker holds the lease: this one stalled for longer than worker.lease_seconds"
            )

    def _renew_meanwhile(self) -> None:
        """Keep the lease while something else is away. Raises Fenced."""
        seconds = self.parts.settings.worker.lease_seconds
        if not self._leased_until or self._leased_until - time.monotonic() > seconds * 4 / 5:
            return
        try:
            taken = self._take_lease()
        except StoreUnavailable:
            return  # then nobody else gets it either
        if not taken:
            raise Fenced("another worker took the lease during an outage")

    def _claim(self) -> Keeper:
        """Become the shard's writer, get its state, and read from its offsets on."""
        self.patience.waiting_for = "claiming"
        token = self.token()
        claim = self.patience.persist(lambda: self.parts.store.claim(SHARD, token))
        self.reap()  # while no model is there: a walk through 20 MB of trees holds every thread for seconds
        keeper = self.open(claim)
        self._assign(keeper)
        self.patience.waiting_for = None
        self.settle()
        shard = keeper.shard
        log.info("active: epoch %d, checkpoint %d, offsets %s", claim.epoch, shard.sequence, shard.offsets)
        return keeper

    def _assign(self, keeper: Keeper) -> None:
        self.read(keeper, lambda: self.parts.source.assign(keeper.shard.offsets))

    def _dropped(self, error: Fenced) -> None:
        """Somebody else owns the shard: forget it, write nothing, begin again."""
        self.patience.errors["fenced"] += 1
        log.warning("dropped: %s", error)
        self.parts.source.assign({})
        self._forget()
        self.patience.waiting_for = "dropped: another worker owns the shard"

    def _forget(self) -> None:
        self.publisher(SHARD).drop()
        self.keepers.clear()
        self.patience.reports.clear()
        self._leased_until = 0.0
        self.survey.forget()
