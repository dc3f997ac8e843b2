"""What topic scope and partition scope share: opening a shard, reading, counting."""

from __future__ import annotations

import gc
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from fluvial import rollback
from fluvial.errors import Fenced, FluvialError, OffsetLost, SourceUnavailable, StoreError
from fluvial.fitness import Fitness
from fluvial.keeper import Keeper, Parts
from fluvial.patience import Patience
from fluvial.ports import Message
from fluvial.publisher import Publisher
from fluvial.survey import ASK_SECONDS, Survey
from fluvial.tally import Tally
from fluvial.types import Claim, Entry, Lag, Rare

log = logging.getLogger("fluvial.worker")

FIRST_BATCH = 16
"""Before it is known how slow the model is: five hundred slow events would look like a stuck loop."""
BATCH_SECONDS = 0.5
"""A batch is cut so that it takes about this long at most: leases are renewed between batches."""
STATE_BYTES_A_SECOND = 1_000_000
"""Slowest acceptable loading or saving of a state, during which nothing else renews its lease."""


class Scope:
    """The shards that one worker keeps, and how it reads for them."""

    def __init__(self, parts: Parts, patience: Patience, owner: str) -> None:
        self.parts = parts
        self.patience = patience
        self.owner = owner
        self.keepers: dict[int | None, Keeper] = {}
        """By partition; in topic scope the only one, by None."""
        self.tallies: dict[str, Tally] = {}
        """By shard; a shard that is lost and comes back counts on."""
        self.publishers: dict[str, Publisher] = {}
        self.claim: Claim | None = None
        """The claim that a refusal is journalled under."""
        self.untold: list[Entry] = []
        """What happened while nothing was held; the next claim journals it."""
        self.parked: dict[int, str] = {}
        """Partitions that are left alone until a person has decided, and why."""
        self.hear: list[Callable[[Rare], None]] = []
        # One thread for all shards: the store is told from one at a time.
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fluvial-scores")
        self.survey = Survey()
        self.fitness = Fitness()
        self._waited = 0.0
        self._limit = min(FIRST_BATCH, parts.settings.kafka.batch)

    def run(self) -> None:
        """Work until told to stop."""
        raise NotImplementedError

    def leave(self) -> None:
        """Write nothing more; give back what can be given back. Raises StoreError."""
        for publisher in self.publishers.values():
            publisher.drop()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def journal_refusal(self, error: FluvialError) -> None:
        """Write down what a person has to decide, under the newest claim, as far as the store lets it."""
        if self.claim is None:
            return
        detail = {"error": type(error).__name__, "why": str(error)}
        try:
            self.parts.store.journal(self.claim, [Entry(kind="refused", time=time.time(), detail=detail)])
        except StoreError as trouble:
            log.warning("the reason of the end was not journalled: %s", trouble)

    def tally(self, shard: str) -> Tally:
        """The shard's counts."""
        return self.tallies.setdefault(shard, Tally())

    def publisher(self, shard: str) -> Publisher:
        """Who sends the shard's scores."""
        if shard not in self.publishers:
            self.publishers[shard] = Publisher(self.parts.store, self._pool)
        return self.publishers[shard]

    # ---- opening -----------------------------------------------------------------------------

    def open(self, claim: Claim, partition: int | None = None) -> Keeper:
        """Give a claimed shard its state, and make that durable before the first event."""
        shard, persist, self.claim = claim.shard, self.patience.persist, claim
        tally, publisher = self.tally(shard), self.publisher(shard)
        keeper = Keeper(self.parts, self.patience, tally, publisher, claim, partition, self.stretch)
        if claim.head is None:
            persist(lambda: self.parts.store.forget(claim))
            keeper.shard.claim = msgspec.structs.replace(claim, published={})
        keeper.hear = self.hear
        detail = {
            "owner": self.owner,
            "epoch": claim.epoch,
            "sequence": keeper.shard.sequence,
            "offsets": keeper.shard.offsets,
        }
        for entry in (*self.untold, Entry(kind="claimed", time=time.time(), detail=detail)):
            keeper.keep(entry)
        self.keepers[partition] = keeper
        # Before the first event there is something to go back to, and another worker sees whose it is.
        keeper.checkpoint()
        self.untold.clear()
        return keeper

    @property
    def lease_milliseconds(self) -> int:
        """How long a lease lasts that is not renewed."""
        raise NotImplementedError

    def stretch(self, shard: str, size: int) -> None:
        """Take the lease for as long as a state of `size` bytes may keep the loop. Raises Fenced, StoreError.

        Two workers whose load outlasts the lease would take it from each other for ever.
        """
        milliseconds = self.lease_milliseconds + 1_000 * size // STATE_BYTES_A_SECOND
        if not self.parts.store.lease(shard, self.owner, milliseconds):
            raise Fenced(f"shard {shard}: another worker holds the lease")

    def reap(self) -> None:
        """Free what died in cycles, a model of an earlier claim perhaps: a walk through everything."""
        gc.unfreeze()
        gc.collect()

    def settle(self) -> None:
        """River and its imports are some 300,000 objects that never die: walk them no more."""
        gc.freeze()

    @staticmethod
    def token() -> str:
        """What a claim is told apart by."""
        return secrets.token_hex(16)

    # ---- the flood breaker -------------------------------------------------------------------

    def heed_breaker(self, keeper: Keeper, read_again: Callable[[], None]) -> None:
        """Ask whether the flood breaker has paused the shard; once it is resumed, read on behind it."""
        was = keeper.trip
        if keeper.held() is None and was is not None:
            read_again()

    # ---- roll-backs --------------------------------------------------------------------------

    def heed_requests(self, keeper: Keeper, read_again: Callable[[], None]) -> None:
        """Carry out a roll-back that a person asked for, once a second at most."""
        if rollback.heed(self.parts, keeper, self.stretch):
            read_again()

    # ---- the log beside what was read of it ---------------------------------------------------

    def look_at_the_log(self) -> Mapping[int, Lag]:
        """Ask the brokers for the log's ends when it is time; empty when it is not, or they are away."""
        if not self.survey.due():
            return {}
        self._look_at_the_store()
        if self.patience.waited - self._waited > 0.1:
            self.survey.forget()  # while an outage is waited out nothing is read
        self._waited = self.patience.waited
        try:
            ends = self.parts.source.ends(ASK_SECONDS)
        except SourceUnavailable as error:
            self.survey.away = f"no look at the log: {error}"
            return {}
        self.survey.away = ""
        return ends

    def _look_at_the_store(self) -> None:
        """Ask the store whether it is still fit; a change is said, and journalled by one of the keepers."""
        keeper = next(iter(self.keepers.values()), None)
        if keeper is None:
            return
        try:
            if not self.fitness.changed(self.parts.store.report()):
                return
        except StoreError:
            return  # who has to write says it, and waits
        if self.fitness.faults:
            then = "going on" if self.parts.settings.redis.allow_unfit else "not ready"
            log.warning("%s; %s, as redis.allow_unfit says", self.fitness.said, then)
            detail = {"why": self.fitness.faults, "then": then}
            keeper.keep(Entry(kind="store-unfit", time=time.time(), detail=detail))
        else:
            log.warning("Redis is fit to hold checkpoints again")
            keeper.keep(Entry(kind="store-fit", time=time.time()))
        keeper.pace.count(1)  # an idle shard is to write it down, too

    def silent(self, keeper: Keeper, ends: Mapping[int, Lag]) -> bool:
        """Whether a partition of the keeper fell silent just now: said, journalled, and to be read again."""
        # What a person has paused stands still, and has not fallen silent.
        fallen = self.survey.compare({} if keeper.trip is not None else ends, keeper.shard.offsets)
        for partition in fallen:
            said = self.survey.silent[partition]
            log.warning("%s; reading it again from there", said)
            entry = Entry(
                kind="partition-silent", partition=partition, time=time.time(), detail={"said": said}
            )
            keeper.keep(entry)
        return bool(fallen)

    # ---- reading -----------------------------------------------------------------------------

    def poll(self) -> Sequence[Message]:
        """The next batch. Raises OffsetLost or SourceUnavailable, also one that came during an outage."""
        if self.patience.reports:
            raise self.patience.reports.popleft()
        return self.parts.source.poll(self._limit, self.parts.settings.kafka.wait_ms / 1_000)

    def process(self, keeper: Keeper, messages: Sequence[Message]) -> bool:
        """Fold the messages; False when the shard went back to its checkpoint and is to be read again."""
        before = keeper.tally.busy_seconds
        if not keeper.process(messages):
            return False
        # Slow models get smaller batches; the fold does not depend on how events come in batches.
        took = keeper.tally.busy_seconds - before
        fitting = int(len(messages) * BATCH_SECONDS / max(took, 1e-6))
        self._limit = max(1, min(self.parts.settings.kafka.batch, fitting))
        return True

    def read(self, keeper: Keeper, assign: Callable[[], None]) -> None:
        """Call `assign`; an offset outside the log is a decision of the settings."""
        assigned = False
        while not assigned:
            try:
                self.patience.persist(assign)
                assigned = True
            except OffsetLost as lost:
                keeper.give_up_lost(lost)
        self.patience.reports.clear()  # they were about the assignment before

    def answer(self, keeper: Keeper, report: OffsetLost | SourceUnavailable) -> None:
        """Take what the client reported: a partition may have gone silent, to be read again."""
        if isinstance(report, OffsetLost):
            keeper.give_up_lost(report)
        else:
            log.warning("reading again from the shard's offsets: %s", report)
