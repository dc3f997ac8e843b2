"""The loop: poll, fold, publish, checkpoint, housekeeping. Effects live here, decisions elsewhere.

    stand by   until the lease is ours
    claim      epoch and token; load or begin; assign at the stored offsets
    run        batches, until told to stop or fenced

A batch ends with its scores and dead letters handed over; a checkpoint is

    1  flush scores and dead letters
    2  save (state, next offsets), fenced, with the journal's entries in the same script
    3  commit to Kafka, for lag tools

While the store or the dead-letter topic is away nothing is consumed, but polling goes on.
"""

from __future__ import annotations

import copy
import gc
import logging
import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from fluvial.config import Settings
from fluvial.errors import (
    BadEvent,
    CheckpointTooLarge,
    Fenced,
    FluvialError,
    ModelError,
    OffsetLost,
    Reason,
    SourceFatal,
    SourceUnavailable,
    StoreError,
    StoreFull,
    StoreUnavailable,
    StoreUnfit,
)
from fluvial.pace import Pace
from fluvial.ports import Message, Sink, Source, Store
from fluvial.publisher import Publisher
from fluvial.shard import Opening, Shard
from fluvial.types import Action, DeadLetter, Entry, PartitionLedger, Rare, Score, StoreReport

log = logging.getLogger("fluvial.worker")
T = TypeVar("T")

SHARD = "all"
"""The one shard of `scope = "topic"`."""
MAX_ENTRIES = 10_000
"""Journal entries kept while no checkpoint can be saved; the oldest give way."""
KEPT_VERSIONS = 10
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


class Stopped(Exception):
    """The worker was told to stop while it waited."""


class TooManyModelErrors(FluvialError):
    """The breaker: the model raises too often to go on without a person."""


class Worker:
    """One process's work on one service. `run` returns when it was told to `stop`."""

    def __init__(self, settings: Settings, source: Source, sink: Sink, store: Store, owner: str) -> None:
        self.settings = settings
        self.owner = owner
        self._source = source
        self._sink = sink
        self._store = store
        self._opening = Opening(settings, store, source)
        self.publisher = Publisher(store)
        self.shard: Shard | None = None
        self.pace = Pace(settings.checkpoint, time.monotonic)
        self._stop_by: float | None = None
        self._reports: deque[OffsetLost | SourceUnavailable] = deque()
        self._leased_until = 0.0
        self._waited = 0.0
        self._entries: deque[Entry] = deque(maxlen=MAX_ENTRIES)
        self._versions: dict[int, bytes] = {}
        self._poisoned: dict[tuple[int, int], str] = {}
        self._model_errors: deque[int] = deque(maxlen=max(1, settings.worker.max_model_errors))
        self._limit = min(FIRST_BATCH, settings.kafka.batch)
        self._hear: list[Callable[[Rare], None]] = []
        self._show_nothing_yet()

    def _show_nothing_yet(self) -> None:
        """Set what the view is made from: plain attributes, bumped here and read from other threads."""
        self.started_at = time.time()
        self.turned_at = time.monotonic()
        self.waiting_for: str | None = "starting"
        self.busy_seconds = 0.0
        self.batches = 0
        self.events = 0
        self.dead_letters: Counter[str] = Counter()
        self.model_errors = 0
        self.store_errors: Counter[str] = Counter()
        self.happened: Counter[tuple[str, ...]] = Counter()
        """Since the start: ("signal", plane, kind), ("reaction", action), ("version", cause)."""
        self.happened_at: dict[tuple[str, ...], float] = {}
        self.saved = 0
        self.saved_at = 0.0
        self.saved_bytes = 0
        self.save_failures = 0
        self.too_large = 0
        self.last_event_time: float | None = None
        self.taken: dict[int, PartitionLedger] = {}
        """The ledger as it was when the shard was claimed; so were these counts."""
        self.counted_before: Counter[str] = Counter()

    def listen(self, hear: Callable[[Rare], None]) -> None:
        """Be told of everything rare that the fold says (the demo's live view)."""
        self._hear.append(hear)

    def stop(self) -> None:
        """Finish the batch, save a checkpoint, give the lease back. Safe to call from a signal handler."""
        self._stop_by = time.monotonic() + self.settings.worker.grace_seconds / 2

    @property
    def _stopping(self) -> bool:
        return self._stop_by is not None

    # ---- the loop ----------------------------------------------------------------------------

    def run(self) -> None:
        """Work until told to stop. Raises what a person has to decide; then nothing is lost."""
        try:
            self._check_store()
            while not self._stopping:
                try:
                    self._stand_by()
                    self._claim()
                    self._work()
                except Fenced as error:
                    self._dropped(error)
        except Stopped:
            pass
        finally:
            self._leave()

    def _work(self) -> None:
        """Fold batches until told to stop. Raises Fenced when somebody else owns the shard."""
        shard = self._held()
        while not self._stopping:
            self.turned_at = time.monotonic()
            try:
                messages = self._poll()
            except (OffsetLost, SourceUnavailable) as report:
                self._answer(shard, report)
                continue
            if messages:
                shard = self._process(shard, messages)
            if self.pace.due():
                self._checkpoint(shard)
            self._renew()
        self._checkpoint(shard)

    def _poll(self) -> Sequence[Message]:
        """The next batch. Raises OffsetLost or SourceUnavailable, also one that came during an outage."""
        if self._reports:
            raise self._reports.popleft()
        return self._source.poll(self._limit, self.settings.kafka.wait_ms / 1_000)

    def _answer(self, shard: Shard, report: OffsetLost | SourceUnavailable) -> None:
        """Read again from the shard's offsets: after either report a partition may have gone silent."""
        if isinstance(report, OffsetLost):
            self._give_up_lost(shard, report)
        else:
            log.warning("reading again from the shard's offsets: %s", report)
        self._assign(shard)

    def _process(self, shard: Shard, messages: Sequence[Message]) -> Shard:
        """Fold one batch and hand over what came of it; returns the shard to go on with."""
        started, waited = time.monotonic(), self._waited
        try:
            scores = self._fold(shard, messages)
        except ModelError as error:
            return self._refold(shard, error)
        claim = shard.claim
        oldest = messages[0].timestamp()[1] / 1_000
        if self.settings.scores.enabled:
            self._persist(lambda: self.publisher.submit(claim, scores, oldest))
        self.pace.count(len(messages))
        took = time.monotonic() - started - (self._waited - waited)
        self.batches += 1
        self.events += len(messages)
        self.busy_seconds += took
        # Slow models get smaller batches; the fold does not depend on how events come in batches.
        fitting = int(len(messages) * BATCH_SECONDS / max(took, 1e-6))
        self._limit = max(1, min(self.settings.kafka.batch, fitting))
        return shard

    def _fold(self, shard: Shard, messages: Sequence[Message]) -> list[tuple[str, Score]]:
        """Decode and step each message. Raises ModelError."""
        decode, score_of, step = shard.codec.decode, shard.codec.score_of, shard.learner.step
        name, now = shard.claim.shard, time.time()
        scores: list[tuple[str, Score]] = []
        for message in messages:
            try:
                event = decode(
                    message.value(),
                    message.key(),
                    message.partition(),
                    message.offset(),
                    message.timestamp()[1],
                )
            except BadEvent as bad:
                self._refuse(shard, message, bad.reason, bad.message)
                continue
            if self._poisoned and (event.partition, event.offset) in self._poisoned:
                why = self._poisoned[event.partition, event.offset]
                self._refuse(shard, message, Reason.MODEL, why)
                continue
            outcome = step(event)
            if event.key is not None and outcome.known:
                made = score_of(event, outcome.answer, outcome.choice, outcome.version, name, now)
                scores.append((event.key, made))
            if outcome.rare is not None:
                self._note(outcome.rare)
            self.last_event_time = event.time
        return scores

    # ---- what a batch leaves behind ----------------------------------------------------------

    def _refuse(self, shard: Shard, message: Message, reason: Reason, why: str) -> None:
        """Dead-letter one message and account for it."""
        shard.learner.refuse(message.partition(), message.offset())
        self.dead_letters[reason] += 1
        letter = DeadLetter(
            topic=self._source.topic,
            partition=message.partition(),
            offset=message.offset(),
            key=message.key(),
            value=message.value(),
            headers=tuple(message.headers() or ()),
            timestamp_ms=message.timestamp()[1],
            reason=reason,
            message=why,
        )
        self._persist(lambda: self._sink.send([letter]))

    def _note(self, rare: Rare) -> None:
        """Keep what the fold said for the next checkpoint's journal, and count it."""
        self._entries.extend(rare.entries)
        for retired in rare.retired:
            self._versions[retired.version] = retired.blob
            self._versions = dict(sorted(self._versions.items())[-KEPT_VERSIONS:])
        for signal in rare.signals:
            self._happened("signal", signal.plane, signal.kind)
            log.info("%s on %s at event %d: %.3f -> %.3f", signal.kind, signal.plane, signal.events,
                     signal.before, signal.after)  # fmt: skip
        for version in rare.versions:
            self._happened("version", version.cause)
            if version.cause in set(Action):
                self._happened("reaction", version.cause)
            log.info("version %d: %s at event %d", version.number, version.cause, version.events)
        if any(entry.kind == "hold" for entry in rare.entries):
            self._happened("reaction", Action.HOLD)
        for hear in self._hear:
            hear(rare)

    def _happened(self, *what: str) -> None:
        self.happened[what] += 1
        self.happened_at[what] = time.time()

    def _checkpoint(self, shard: Shard) -> None:
        """Make everything up to here durable: scores and dead letters, then state, then Kafka's mirror."""
        started, waited, saved = self.pace.started(), self._waited, True
        try:
            self._persist(self.publisher.flush)
            self._persist(lambda: self._sink.flush(self.settings.redis.timeout_seconds))
            entries, versions = list(self._entries), dict(self._versions)
            # Sealed once: a repeated save must be the same one, or the store takes it for a rival's.
            blob = shard.sealed(shard.sequence + 1)
            self._persist(lambda: shard.save(self._store, blob, entries, versions))
        except (CheckpointTooLarge, StoreFull) as error:
            saved = False
            self.save_failures += 1
            self.too_large += isinstance(error, CheckpointTooLarge)
            log.error("checkpoint not saved, the last good one is kept: %s", error)  # noqa: TRY400 - it says all
        else:
            self._entries.clear()
            self._versions.clear()
            # Those still ahead stay known: a checkpoint may be saved on the way back to the offender.
            offsets = shard.offsets
            self._poisoned = {at: why for at, why in self._poisoned.items() if at[1] >= offsets[at[0]]}
            self.saved += 1
            self.saved_at = time.monotonic()
            self.saved_bytes = len(blob)
            self._source.commit(shard.offsets, f"{shard.sequence}:{shard.claim.epoch}")
        finally:
            # An outage on the way is not what a checkpoint takes: fifty times that would be an hour.
            self.pace.ended(started + self._waited - waited, saved=saved)

    # ---- ownership ---------------------------------------------------------------------------

    def _check_store(self) -> None:
        """Refuse a store that would lose what it acknowledged, unless the settings accept it."""
        faults = unfit(self._persist(self._store.report))
        if not faults:
            return
        text = f"Redis is not fit to hold checkpoints: {'; '.join(faults)}"
        if not self.settings.redis.allow_unfit:
            raise StoreUnfit(f"{text}. To go on all the same: redis.allow_unfit = true")
        log.warning("%s; going on, as redis.allow_unfit says", text)

    def _stand_by(self) -> None:
        """Wait until the lease is ours."""
        said = None
        while not self._persist(self._take_lease):
            holder = self._persist(lambda: self._store.lease_holder(SHARD))
            self.waiting_for = f"standing by: {holder or 'somebody else'} is active"
            if holder != said:
                log.info(self.waiting_for)
                said = holder
            self._wait(min(1.0, self.settings.worker.lease_seconds / 5))

    def _take_lease(self) -> bool:
        seconds = self.settings.worker.lease_seconds
        asked = time.monotonic()
        taken = self._store.lease(SHARD, self.owner, int(seconds * 1_000))
        self._leased_until = asked + seconds if taken else 0.0
        return taken

    def _renew(self) -> None:
        """Renew the lease in the last four fifths of its time. Raises Fenced when another worker has it."""
        seconds = self.settings.worker.lease_seconds
        if self._leased_until - time.monotonic() > seconds * 4 / 5:
            return
        if not self._persist(self._take_lease):
            raise Fenced(
                "another worker holds the lease: this one stalled for longer than worker.lease_seconds"
            )

    def _claim(self) -> None:
        """Become the shard's writer, get its state, and read from its offsets on."""
        self.waiting_for = "claiming"
        token = secrets.token_hex(16)
        claim = self._persist(lambda: self._store.claim(SHARD, token))
        shard = self._persist(lambda: self._opening.open(claim))
        if claim.head is None:
            self._persist(lambda: self._store.forget(claim))
            shard.claim = msgspec.structs.replace(claim, published={})
        self.shard = shard
        self.counted_before = Counter(shard.learner.counts)
        self.counted_before["unpredicted"] = shard.learner.evaluation.unpredicted
        self.taken = {p: copy.copy(ledger) for p, ledger in shard.learner.ledger.partitions.items()}
        self._entries.extend(self._opening.entries)
        self._opening.entries.clear()
        detail = {
            "owner": self.owner,
            "epoch": claim.epoch,
            "sequence": shard.sequence,
            "offsets": shard.offsets,
        }
        self._entries.append(Entry(kind="claimed", time=time.time(), detail=detail))
        # Before the first event there is something to go back to, and another worker sees whose it is.
        self._checkpoint(shard)
        self._assign(shard)
        self.waiting_for = None
        # River and its imports are some 300,000 objects that never die: walk them no more.
        gc.unfreeze()  # a model of an earlier claim may have died since
        gc.collect()
        gc.freeze()
        log.info("active: epoch %d, checkpoint %d, offsets %s", claim.epoch, shard.sequence, shard.offsets)

    def _assign(self, shard: Shard) -> None:
        """Read from the shard's offsets on; one that is outside the log is a decision of the settings."""
        assigned = False
        while not assigned:
            try:
                self._persist(lambda: self._source.assign(shard.offsets))
                assigned = True
            except OffsetLost as lost:
                self._give_up_lost(shard, lost)
        self._reports.clear()  # they were about the assignment before

    def _give_up_lost(self, shard: Shard, lost: OffsetLost) -> None:
        """Go on from the log's start with the same model, when the settings say so; otherwise raise."""
        wanted = shard.offsets[lost.partition]
        if self.settings.kafka.on_lost_offset == "fail" or wanted > lost.high:
            raise lost
        shard.learner.skip(lost.partition, lost.low)
        self.pace.count(1)
        detail = {"events": lost.low - wanted, "from": wanted, "to": lost.low}
        log.warning(
            "partition %d: events %d to %d had left the log; going on", lost.partition, wanted, lost.low
        )
        self._entries.append(
            Entry(
                kind="events-lost", partition=lost.partition, offset=lost.low, time=time.time(), detail=detail
            )
        )

    def _refold(self, shard: Shard, error: ModelError) -> Shard:
        """The model raised: its state is void. Load the last checkpoint, fold again without the offender."""
        self.model_errors += 1
        self._model_errors.append(shard.learner.events)
        log.warning("%s; folding again from the last checkpoint without it", error)
        within = shard.learner.events - self._model_errors[0] <= 10_000
        if len(self._model_errors) >= self.settings.worker.max_model_errors and within:
            raise TooManyModelErrors(
                f"the model raised on {len(self._model_errors)} of 10,000; the last: {error.detail}. "
                "Nothing is lost; mend the model or the schema, or raise worker.max_model_errors"
            ) from error
        self._poisoned[error.partition, error.offset] = error.detail
        self._persist(self.publisher.flush)
        self._entries.clear()
        self._versions.clear()
        again = self._persist(lambda: self._opening.reopen(shard.claim, shard.topology))
        self._entries.extend(self._opening.entries)
        self._opening.entries.clear()
        self.shard = again
        self._assign(again)
        return again

    # ---- waiting -----------------------------------------------------------------------------

    def _wait(self, seconds: float) -> None:
        """Sleep in small pieces. Raises Stopped when told to stop."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.turned_at = time.monotonic()
            if self._stopping:
                raise Stopped
            time.sleep(min(0.05, seconds))

    def _persist(self, action: Callable[[], T]) -> T:
        """Do it; while the store or the brokers are away, consume nothing, keep the client alive, try again.

        Raises Stopped when told to stop and half the grace has passed.
        """
        delay, was, began = 0.1, self.waiting_for, time.monotonic()
        try:
            while True:
                tried = time.monotonic()
                try:
                    return action()
                except (StoreUnavailable, SourceUnavailable) as error:
                    self._away(error, first=delay <= 0.1)
                    self._keep_alive(delay)
                    delay = min(2.0, 2.0 * delay)
        finally:
            self._waited += tried - began
            # Also when it ends in another error that somebody answers: a full store, a lost offset.
            if delay > 0.1:
                self._source.resume()
                self.waiting_for = was
                log.info("the wait is over")

    def _away(self, error: StoreUnavailable | SourceUnavailable, *, first: bool) -> None:
        if isinstance(error, StoreUnavailable):
            self.store_errors["unavailable"] += 1
        if self._stop_by is not None and time.monotonic() > self._stop_by:
            log.warning(
                "stopping without a last checkpoint (%s); what came after the newest is folded again", error
            )
            raise Stopped
        if first:
            self._source.pause()
            self.waiting_for = str(error)
            log.warning("waiting: %s", error)

    def _keep_alive(self, seconds: float) -> None:
        """Let the Kafka client turn while nothing is consumed."""
        self.turned_at = time.monotonic()
        try:
            early = self._source.poll(1, seconds)
        except (OffsetLost, SourceUnavailable) as report:
            self._reports.append(report)
        else:
            if early:
                raise SourceFatal("records came while reading was paused: a restart reads them again")
        if time.monotonic() - self.turned_at < seconds / 2:  # nothing is assigned yet: it came back at once
            time.sleep(seconds / 2)

    # ---- the end -----------------------------------------------------------------------------

    def _held(self) -> Shard:
        if self.shard is None:
            raise Fenced("the shard was dropped")
        return self.shard

    def _dropped(self, error: Fenced) -> None:
        """Somebody else owns the shard: forget it, write nothing, begin again."""
        self.store_errors["fenced"] += 1
        log.warning("dropped: %s", error)
        self._source.assign({})
        self._forget()
        self.waiting_for = "dropped: another worker owns the shard"

    def _forget(self) -> None:
        self.publisher.drop()
        self.shard = None
        self._entries.clear()
        self._versions.clear()
        self._poisoned.clear()
        self._reports.clear()
        self._leased_until = 0.0

    def _leave(self) -> None:
        """Give everything back; what cannot be given back expires."""
        self.waiting_for = "stopping"
        self._forget()
        self.publisher.close()
        try:
            self._store.unlease(SHARD, self.owner)
        except StoreError as error:
            log.warning("the lease was not given back and expires by itself: %s", error)
        self._sink.close(2.0)
        self._source.close(5.0)
        self._store.close()
