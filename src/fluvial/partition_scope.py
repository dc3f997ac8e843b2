"""A model per partition: Kafka's consumer group shares the partitions out among the workers.

What the group does is taken note of while polling and carried out between batches: claim, load, take
at the stored offsets. A revoked partition gets a last checkpoint while it is still ours; a lost one is
dropped without a word. Neither proves who owns it: epoch and token do.

What stops one shard stops that one alone: the flood breaker sets its partition aside, and an error that a
person has to decide about parks it. The worker's other shards go on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import cast

from fluvial.errors import (
    CheckpointError,
    CheckpointLost,
    Fenced,
    FluvialError,
    LostState,
    MemberFenced,
    OffsetLost,
    OutOfOrder,
    SourceFatal,
    SourceUnavailable,
    StoreError,
    StoreUnavailable,
)
from fluvial.keeper import Keeper, TooManyModelErrors
from fluvial.ports import Member, Message
from fluvial.scopes import Scope
from fluvial.types import Changes, Claim, Entry, Membership

log = logging.getLogger("fluvial.worker")

LATER_SECONDS = 2.0
"""After being fenced, until a partition that the group still calls ours is claimed again."""
REJOINS = 3
"""How often a worker whose name the group refuses joins anew; then two live processes have that name."""
REJOIN_SECONDS = 300.0
"""A refusal longer ago is forgotten."""
CLOSE_SECONDS = 5.0
"""For a refused client to close; it can hang, and is left behind then."""
OF_A_SHARD = (CheckpointError, CheckpointLost, LostState, OffsetLost, OutOfOrder, TooManyModelErrors)
"""What a person has to decide about one shard; everything else concerns the worker."""
POLL_INTERVAL_MS = 300_000
"""The client's default: a member that does not poll for so long is expelled."""


def shard_of(partition: int) -> str:
    """How the shard of a partition is called."""
    return f"partition-{partition}"


class PartitionScope(Scope):
    """A keeper for each partition that the group gave us."""

    def run(self) -> None:
        """Follow the group; fold what is ours."""
        self._wanted: dict[int, float] = {}
        """Partitions that are ours and not yet claimed, and when to try."""
        self._busy: Keeper | None = None
        """Whose work is under way: it cannot be given a last checkpoint from within."""
        self._renewed_at = 0.0
        self._refused: list[float] = []
        """When the group refused our name."""
        self.patience.renew = self._renew_meanwhile
        self.patience.waiting_for = "joining the group"
        self._member.join(self._revoked)
        while not self.patience.stopping:
            try:
                self._turn()
            except MemberFenced as error:
                self._join_anew(error)
        for held in list(self.keepers):
            self._guarded(held, Keeper.checkpoint)

    def _turn(self) -> None:
        """Read a batch, do what the group did, fold."""
        self.patience.turn()
        self._heed_breakers()
        try:
            messages = self.poll()
        except (OffsetLost, SourceUnavailable) as report:
            self._reported(report)
            messages = ()
        claimed = self._follow(self._member.changes())
        for partition, share in by_partition(messages).items():
            if partition not in claimed:  # read under the claim before; it is read again under this one
                self._fold(partition, share)
        self._housekeep()

    @property
    def _member(self) -> Member:
        return cast("Member", self.parts.source)  # what the composition root makes for this scope

    def leave(self) -> None:
        """Let go of every partition."""
        for keeper in self.keepers.values():
            self.parts.store.unlease(keeper.shard.claim.shard, self.owner)
        self.keepers.clear()
        super().leave()

    # ---- a batch -----------------------------------------------------------------------------

    def _fold(self, partition: int, messages: Sequence[Message]) -> None:
        """Fold one partition's share; what came for a partition that was dropped meanwhile is not ours."""

        def work(keeper: Keeper) -> None:
            if not self.process(keeper, messages):
                self._take(keeper)

        self._guarded(partition, work)

    def _housekeep(self) -> None:
        """Checkpoints that are due, leases, and what the view says."""
        for partition, keeper in list(self.keepers.items()):
            if keeper.pace.due():
                self._guarded(partition, Keeper.checkpoint)
        now = time.monotonic()
        if now - self._renewed_at >= 1.0:
            self._renewed_at = now
            for partition in list(self.keepers):
                self._guarded(partition, self._renew)
            self._hold_parked()
        ends = self.look_at_the_log()
        for partition, keeper in list(self.keepers.items()) if ends else ():
            if self.silent(keeper, ends):
                self._guarded(partition, self._take)
        if ends:
            self._look_for_orphans(ends)
        if not self._wanted:
            none = "standing by: the group gave this worker no partition"
            self.patience.waiting_for = None if self.keepers or self.parked else none

    def _look_for_orphans(self, partitions: Collection[int]) -> None:
        """Let the group share out anew when it has left a partition to nobody.

        That lasts for ever otherwise: a static member that is killed while it hands a partition over, and
        returns, gets what is left of its old share without a rebalance. Who holds what is read in the
        store: the client's question to the group can abort the process (librdkafka #5397).
        """
        ours = self.keepers.keys() | self._wanted.keys()
        store = self.parts.store
        try:
            nobodys = [p for p in partitions if p not in ours and store.lease_holder(shard_of(p)) is None]
        except StoreError:
            return  # who has to write says it, and waits
        orphans = self.survey.orphans(nobodys)
        if not orphans:
            return
        log.warning(
            "the group gives partitions %s to nobody: joining it again, so that it shares out", orphans
        )
        detail = {"partitions": orphans}
        self.untold.append(Entry(kind="partition-unowned", time=time.time(), detail=detail))
        self._member.rejoin()

    def _heed_breakers(self) -> None:
        """Read nothing of a shard that is paused, until it is resumed."""

        def work(keeper: Keeper) -> None:
            self.heed_breaker(keeper, lambda: self._take(keeper))
            self.heed_requests(keeper, lambda: self._take(keeper))
            if keeper.trip is not None:
                self._member.set_aside(keeper.shard.offsets)

        for partition in list(self.keepers):
            self._guarded(partition, work)

    def _guarded(self, partition: int | None, work: Callable[[Keeper], None]) -> None:
        """Let a keeper work; when it is fenced or a person has to decide, drop it alone."""
        keeper = self.keepers.get(partition)
        if keeper is None or partition is None:
            return
        self._busy = keeper
        try:
            work(keeper)
        except Fenced as error:
            keeper.publisher.drop()
            if self.keepers.get(partition) is keeper:
                self.patience.errors["fenced"] += 1
                self._drop(partition, f"fenced: {error}")
                # A younger claim: the group will say that it is not ours any more, or it was a straggler's.
                self._wanted[partition] = time.monotonic() + LATER_SECONDS
        except OF_A_SHARD as error:
            keeper.publisher.drop()
            self.claim = keeper.shard.claim
            self._park(partition, error)
        finally:
            self._busy = None

    def _park(self, partition: int, error: FluvialError) -> None:
        """Leave a shard alone until a person has decided; a worker that has nothing else ends with it."""
        self._drop(partition, "parked")
        self._wanted.pop(partition, None)
        if not self.keepers and not self._wanted:
            raise error
        why = f"{type(error).__name__}: {error}"
        log.error("partition %d is parked, the others go on: %s", partition, why)
        self._member.set_aside([partition])
        self.tally(shard_of(partition)).incidents["refused"] += 1
        self.journal_refusal(error)
        self.parked[partition] = why

    def _renew(self, keeper: Keeper) -> None:
        shard, milliseconds = keeper.shard.claim.shard, self.lease_milliseconds
        if not self.patience.persist(lambda: self.parts.store.lease(shard, self.owner, milliseconds)):
            raise Fenced(f"shard {shard}: another worker holds the lease")

    def _hold_parked(self) -> None:
        """A parked shard is this worker's all the same: the group gave it, and nobody is to look for it."""
        for partition in self.parked:
            try:
                self.parts.store.lease(shard_of(partition), self.owner, self.lease_milliseconds)
            except StoreError:
                return  # as above

    def _renew_meanwhile(self) -> None:
        """Keep the leases while something else is away; who has lost one and waits is told so."""
        if time.monotonic() - self._renewed_at < 1.0:
            return
        self._renewed_at = time.monotonic()
        for keeper in list(self.keepers.values()):
            try:
                kept = self.parts.store.lease(keeper.shard.claim.shard, self.owner, self.lease_milliseconds)
            except StoreUnavailable:
                return  # then nobody else gets one either
            if not kept and keeper is self._busy:
                keeper.abandon()

    @property
    def lease_milliseconds(self) -> int:
        """Twice what the group waits for a member."""
        return 2 * self.parts.settings.kafka.session_timeout_ms

    # ---- what the group does -----------------------------------------------------------------

    def _join_anew(self, error: MemberFenced) -> None:
        """Leave the group that refuses our name, and join as at first; too often means a living rival.

        The broker may take a member that it lost sight of during an outage for its own rival.
        """
        now = time.monotonic()
        self._refused = [*(at for at in self._refused if now - at < REJOIN_SECONDS), now]
        if len(self._refused) > REJOINS:
            raise SourceFatal(
                f"{error}. That was so {REJOINS} times before within {REJOIN_SECONDS:g} s: two live workers "
                "have one kafka.instance_id. Give each a name of its own, or take `auto`"
            ) from error
        log.warning("leaving the group and joining it anew: %s", error)
        self.patience.waiting_for = f"joining the group anew: {error}"
        detail = {"why": str(error), "held": sorted(p for p in self.keepers if p is not None)}
        self.untold.append(Entry(kind="member-fenced", time=time.time(), detail=detail))
        self._hold_nothing()
        self.patience.wait(error.wait)
        self._member.join_anew(CLOSE_SECONDS)

    def _hold_nothing(self) -> None:
        """Write nothing more, and let whoever is next claim at once."""
        held = [partition for partition in self.keepers if partition is not None]
        for partition in held:
            self._drop(partition, "the group refuses this worker's name")
        try:
            for partition in held:
                self.parts.store.unlease(shard_of(partition), self.owner)
        except StoreError as trouble:
            log.warning("leases were not given back and expire by themselves: %s", trouble)
        self._wanted.clear()
        self.parked.clear()
        self.patience.reports.clear()
        self.survey.forget()

    def _follow(self, changes: Changes) -> Collection[int]:
        """Drop what was lost, claim what was given; returns what was claimed."""
        for partition in changes.lost:
            self._wanted.pop(partition, None)
            self.parked.pop(partition, None)
            self._drop(partition, "lost: the group gave it to another worker")
        self._wanted.update(dict.fromkeys(changes.given, 0.0))
        now = time.monotonic()
        due = [partition for partition, at in self._wanted.items() if at <= now]
        claimed = [partition for partition in due if self._claim(partition)]
        for partition in claimed:
            self._guarded(partition, self._take)
        if claimed:
            self.reap()
            self.settle()
        return claimed

    def _claim(self, partition: int) -> bool:
        """Become the writer of a partition's shard and load it; False when it is not ours after all."""
        shard, token = shard_of(partition), self.token()
        self.patience.waiting_for = f"claiming partition {partition}"
        try:
            claim = self.claim = self.patience.persist(lambda: self._ask_for(partition, shard, token))
            keeper = self.open(claim, partition)
        except Fenced as error:
            self.keepers.pop(partition, None)
            log.info("partition %d: %s; trying again", partition, error)
            if partition in self._wanted:
                self._wanted[partition] = time.monotonic() + LATER_SECONDS
            return False
        except OF_A_SHARD as error:
            self._park(partition, error)
            return False
        if self._wanted.pop(partition, None) is None:  # taken away while an outage was waited out
            self._drop(partition, "taken away while it was claimed")
            return False
        log.info("partition %d is ours: epoch %d, offsets %s", partition, claim.epoch, keeper.shard.offsets)
        self.parked.pop(partition, None)
        return True

    def _ask_for(self, partition: int, shard: str, token: str) -> Claim:
        if partition not in self._wanted:
            raise Fenced("taken away while an outage was waited out")
        return self.parts.store.claim(shard, token, self._membership())

    def _membership(self) -> Membership:
        settings = self.parts.settings
        return Membership(
            group=f"{settings.group}/{settings.kafka.protocol}",
            generation=self._member.generation(),
            owner=self.owner,
            milliseconds=self.lease_milliseconds,
        )

    def _take(self, keeper: Keeper) -> None:
        """Read for it from its offsets on; what is paused is set aside again before the next poll."""
        self.read(keeper, lambda: self._member.take(keeper.shard.offsets))

    def _reported(self, report: OffsetLost | SourceUnavailable) -> None:
        """Read again where the client may have gone silent."""
        concerned = [report.partition] if isinstance(report, OffsetLost) else list(self.keepers)

        def work(keeper: Keeper) -> None:
            self.answer(keeper, report)
            self._take(keeper)

        for partition in concerned:
            self._guarded(partition, work)

    def _revoked(self, partitions: Sequence[int]) -> None:
        """Called while polling: a last checkpoint for what is still ours, within a fifth of the interval."""
        client = self.parts.settings.kafka.client
        budget = float(client.get("max.poll.interval.ms", POLL_INTERVAL_MS)) / 5_000
        until = time.monotonic() + budget
        for partition in partitions:
            self._wanted.pop(partition, None)
            self.parked.pop(partition, None)
            keeper = self.keepers.pop(partition, None)
            if keeper is None:
                continue
            if keeper is self._busy:
                keeper.abandon()  # it waits for an outage's end in the middle of something
            elif time.monotonic() < until:
                keeper.last_checkpoint()
            self._let_go(partition, keeper, "revoked")

    def _drop(self, partition: int, why: str) -> None:
        """Write nothing more for it."""
        keeper = self.keepers.pop(partition, None)
        if keeper is not None:
            self._let_go(partition, keeper, why)

    def _let_go(self, partition: int, keeper: Keeper, why: str) -> None:
        if keeper is not self._busy:
            keeper.publisher.drop()
        log.info("partition %d let go (%s)", partition, why)


def by_partition(messages: Sequence[Message]) -> Mapping[int, list[Message]]:
    """The same messages, a list for each partition, in their order."""
    shares: dict[int, list[Message]] = {}
    for message in messages:
        shares.setdefault(message.partition(), []).append(message)
    return shares
