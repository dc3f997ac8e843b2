"""One shard at work in this process: fold a batch, hand over what comes of it, make it durable.

A batch ends with its scores and dead letters handed over; a checkpoint is

    1  flush scores and dead letters
    2  save (state, next offsets), fenced, with the journal's entries in the same script
    3  commit to Kafka, for lag tools
"""

from __future__ import annotations

import copy
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from fluvial.config import Settings
from fluvial.errors import (
    BadEvent,
    CheckpointTooLarge,
    FluvialError,
    ModelError,
    OffsetLost,
    Reason,
    StoreFull,
    TopologyChanged,
)
from fluvial.pace import Pace
from fluvial.patience import Patience
from fluvial.ports import Message, Sink, Source, Store
from fluvial.publisher import Publisher
from fluvial.shard import LARGE, Opening
from fluvial.tally import Tally
from fluvial.types import (
    Claim,
    DeadLetter,
    Entry,
    Event,
    Outcome,
    Rare,
    Retired,
    Rollback,
    Score,
    Trip,
)
from fluvial.view import INCIDENTS

log = logging.getLogger("fluvial.worker")
T = TypeVar("T")

MAX_ENTRIES = 10_000
"""Journal entries kept while no checkpoint can be saved; then the oldest give way, counted."""
ASK_SECONDS = 1.0
"""How often a paused worker asks whether a person has resumed it."""


class TooManyModelErrors(FluvialError):
    """The breaker: the model raises too often to go on without a person."""


@dataclass(frozen=True)
class Parts:
    """What a worker works with."""

    settings: Settings
    source: Source
    sink: Sink
    store: Store


class Keeper:
    """Keeps one shard: its fold, what is not yet durable of it, and the way back when the model raises."""

    def __init__(
        self,
        parts: Parts,
        patience: Patience,
        tally: Tally,
        publisher: Publisher,
        claim: Claim,
        partition: int | None,
        stretch: Callable[[str, int], None],
    ) -> None:
        """Give the claimed shard its state; `Opening.open` says what may be raised.

        `partition`: the shard's only one; None when it has all. `stretch`: told of a large state before it
        is loaded or saved, which takes a while. May raise Fenced and StoreError.
        """
        self._parts = parts
        self._patience = patience
        self._abandoned = False
        self.tally = tally
        self.publisher = publisher
        self.pace = Pace(parts.settings.checkpoint, time.monotonic)
        self.hear: Sequence[Callable[[Rare], None]] = ()
        """Told of everything rare that the fold says."""
        self._entries: deque[Entry] = deque()
        self._entries_given_up = 0
        self._retired: dict[int, Retired] = {}
        self._versions: dict[int, bytes] = {}
        """Replaced models, sealed."""
        self._ignored: set[int] = set()
        """Added partitions that are left out."""
        self._poisoned: dict[tuple[int, int], str] = {}
        self._poisoned_labels: dict[tuple[int, int], str] = {}
        """Of late labels, whose events were answered."""
        self._model_errors: deque[int] = deque(maxlen=max(1, parts.settings.worker.max_model_errors))
        self._stretch = stretch
        self._opening = Opening(parts.settings, parts.store, parts.source, partition, stretch)
        self.shard = self._persist(lambda: self._opening.open(claim))
        self._keep_opening_entries()
        tripped = self._persist(parts.store.tripped)
        self.shard.breaker.adopt(tripped.get(claim.shard))
        self._ask_at = 0.0
        self.look_for_requests_at = 0.0
        self._start_counting()

    def _start_counting(self) -> None:
        learner = self.shard.learner
        self.tally.counted_before = Counter(learner.counts)
        self.tally.counted_before["unpredicted"] = learner.evaluation.unpredicted
        self.tally.taken = {p: copy.copy(ledger) for p, ledger in learner.ledger.partitions.items()}

    def _keep_opening_entries(self) -> None:
        for entry in self._opening.entries:
            self.keep(entry)
        self._opening.entries.clear()

    def _persist(self, action: Callable[[], T]) -> T:
        """Wait out outages, unless the shard is taken away meanwhile: then Fenced."""
        return self._patience.persist(action, lambda: self._abandoned)

    def abandon(self) -> None:
        """The shard was taken away while something of it waits for an outage's end: write nothing more."""
        self._abandoned = True

    # ---- a batch -----------------------------------------------------------------------------

    def process(self, messages: Sequence[Message]) -> bool:
        """Fold one batch and hand over what came of it; False when the shard went back to its checkpoint."""
        started, waited = time.monotonic(), self._patience.waited
        handled = self.shard.learner.ledger.handled()
        if self.trip is not None:
            return True  # they are read again once it is resumed
        try:
            scores = self._fold(messages)
        except ModelError as error:
            self._refold(error)
            return False
        claim = self.shard.claim
        oldest = messages[0].timestamp()[1] / 1_000
        if self._parts.settings.scores.enabled:
            self._persist(lambda: self.publisher.submit(claim, scores, oldest))
        self.pace.count(len(messages))
        self.tally.batches += 1
        self.tally.events += self.shard.learner.ledger.handled() - handled
        self.tally.busy_seconds += time.monotonic() - started - (self._patience.waited - waited)
        return True

    def _fold(self, messages: Sequence[Message]) -> list[tuple[str, Score]]:
        """Decode all, step each until the flood breaker trips, then make the scores. Raises ModelError.

        In three passes: a tree of megabytes leaves nothing of ours in the processor's caches, and what is
        done five hundred times on end is fetched once.
        """
        shard, done = self.shard, list[tuple[Event, Outcome]]()
        good: list[Event] = []
        events: Iterable[Event | BadEvent] = self._decoded(messages)
        if shard.codec.schema.infer is None:
            events = list(events)  # an inferring codec has a state: it must not run ahead of the fold
        for message, event in zip(messages, events, strict=True):
            if not isinstance(event, BadEvent):
                good.append(event)
                continue
            self._step(good, done)
            if self._refuse(message, event.reason, event.message):
                break
        self._step(good, done)
        if done:
            self.tally.last_event_time = done[-1][0].time
        name, now, score_of = shard.claim.shard, time.time(), shard.codec.score_of
        return [
            (event.key, score_of(event, o.answer, o.choice, o.version, name, now))
            for event, o in done
            if event.key is not None and o.known
        ]

    def _step(self, events: list[Event], done: list[tuple[Event, Outcome]]) -> None:
        """Fold a run of good events, and empty it."""
        outcomes = self.shard.learner.steps(events)
        for outcome in outcomes:
            if outcome.rare is not None:
                self._note(outcome.rare)
        done += zip(events, outcomes, strict=True)
        events.clear()

    def _decoded(self, messages: Sequence[Message]) -> Iterator[Event | BadEvent]:
        """Each message as an event, or why it is none; one on which the model raised is none either."""
        decode, poisoned = self.shard.codec.decode, self._poisoned
        for message in messages:
            partition, offset = message.partition(), message.offset()
            try:
                event = decode(message.value(), message.key(), partition, offset, message.timestamp()[1])
            except BadEvent as bad:
                yield bad
                continue
            at = partition, offset
            yield BadEvent(Reason.MODEL, poisoned[at]) if poisoned and at in poisoned else event

    def _refuse(self, message: Message, reason: Reason, why: str) -> bool:
        """Dead-letter one message and account for it; True when the flood breaker trips at it."""
        learner = self.shard.learner
        left_out = learner.left_out(message.partition(), message.offset())
        learner.refuse(message.partition(), message.offset())
        if left_out:
            return False
        self.tally.dead_letters[reason] += 1
        letter = DeadLetter(
            topic=self._parts.source.topic,
            partition=message.partition(),
            offset=message.offset(),
            key=message.key(),
            value=message.value(),
            headers=tuple(message.headers() or ()),
            timestamp_ms=message.timestamp()[1],
            reason=reason,
            message=why,
            topic_id=self.shard.topology.topic_id,
        )
        self._persist(lambda: self._parts.sink.send([letter]))
        place = learner.ledger.handled()
        tripped = self.shard.breaker.refused(place, letter.partition, letter.offset, reason)
        self.tally.trips += tripped
        return tripped

    # ---- the flood breaker -------------------------------------------------------------------

    @property
    def trip(self) -> Trip | None:
        """Why nothing is folded now."""
        return self.shard.breaker.trip

    def held(self) -> Trip | None:
        """Why nothing may be folded now, until a person resumes it; asks the store once a second.

        The first time it makes everything before it durable. Raises Fenced.
        """
        trip = self.trip
        if trip is None or time.monotonic() < self._ask_at:
            return trip
        first, claim = self._ask_at == 0.0, self.shard.claim
        if first:
            self.checkpoint()
        if not self._persist(lambda: self._parts.store.trip(claim, trip)):
            log.warning("resumed behind offset %d of partition %d", trip.offset, trip.partition)
            self._ask_at = 0.0
            self.shard.breaker.resumed()
            self.pace.count(1)
            return None
        if first:
            log.error("paused: %s. `fluvial dead-letters list`, then `fluvial resume`", trip.because)
        self._ask_at = time.monotonic() + ASK_SECONDS
        return trip

    def give_up_lost(self, lost: OffsetLost) -> None:
        """Go on from the log's start, with this model or a fresh one, as the settings say; else raise."""
        answer, partition = self._parts.settings.kafka.on_lost_offset, lost.partition
        learner, wanted = self.shard.learner, self.shard.offsets[partition]
        if answer == "fail" or wanted > lost.high:
            raise lost
        model = "a fresh model" if answer == "fresh" else "the same model"
        log.warning(
            "partition %d: events %d to %d had left the log; going on with %s",
            partition, wanted, lost.low, model,
        )  # fmt: skip
        detail = {"events": lost.low - wanted, "from": wanted, "to": lost.low, "then": answer}
        self.keep(Entry("events-lost", partition, lost.low, time.time(), detail))
        self.pace.count(1)
        if answer == "earliest":
            learner.skip(partition, lost.low)
        elif (rare := learner.begin_afresh(partition, lost.low)) is not None:
            self._note(rare)

    def add_partitions(self, starts: Mapping[int, int]) -> bool:
        """Answer partitions that the topic got since, as the settings say; True when they are read too.

        Raises TopologyChanged.
        """
        answer = self._parts.settings.kafka.on_added_partitions
        fresh = {p: offset for p, offset in starts.items() if p not in self._ignored}
        if not fresh:
            return False
        text = f"topic {self._parts.source.topic!r} got {len(fresh)} more partitions: {sorted(fresh)}"
        if answer == "fail":
            raise TopologyChanged(
                f"{text}. Their events are not learned; nothing is lost. Decide with "
                'kafka.on_added_partitions = "learn" or "ignore"'
            )
        log.warning("%s: %s, as kafka.on_added_partitions says", text, answer)
        self.keep(Entry(kind="partitions-added", time=time.time(), detail={"starts": fresh, "then": answer}))
        self.pace.count(1)
        if answer == "ignore":
            self._ignored.update(fresh)
            return False
        for partition, offset in fresh.items():
            self.shard.learner.ledger.add(partition, offset)
        return True

    def roll_back(self, kept: Retired, request: Rollback) -> None:
        """Let a kept model answer again; the caller saves that before anything else is folded."""
        learner = self.shard.learner
        before = copy.deepcopy(learner.ledger.partitions)
        rare = learner.roll_back(kept, request)
        if request.relearn:
            self.shard.breaker.begin_again()
            self.tally.moved(before, learner.ledger.partitions)
        if rare is not None:
            self._note(rare)

    @property
    def unsaved(self) -> bool:
        """Whether something waits for the next checkpoint to be journalled with."""
        return bool(self._entries)

    def persist(self, action: Callable[[], T]) -> T:
        """Wait out outages, unless the shard is taken away meanwhile: then Fenced."""
        return self._persist(action)

    def _refold(self, error: ModelError) -> None:
        """The model raised: its state is void. Load the last checkpoint, to go on without the offender."""
        learner = self.shard.learner
        self.tally.model_errors += 1
        self._model_errors.append(learner.events)
        log.warning("%s; folding again from the last checkpoint without it", error)
        within = learner.events - self._model_errors[0] <= 10_000
        if len(self._model_errors) >= self._parts.settings.worker.max_model_errors and within:
            raise TooManyModelErrors(
                f"the model raised on {len(self._model_errors)} of 10,000; the last: {error.detail}. "
                "Nothing is lost; mend the model or the schema, or raise worker.max_model_errors"
            ) from error
        poisoned = self._poisoned_labels if error.late else self._poisoned
        poisoned[error.partition, error.offset] = error.detail
        self._persist(self.publisher.flush)
        self._entries.clear()
        self._retired.clear()
        self._versions.clear()
        before = self.shard
        self.shard = self._persist(lambda: self._opening.reopen(before.claim, before.topology))
        self._keep_opening_entries()
        self._give_up_labels()

    def _give_up_labels(self) -> None:
        """Leave out the late labels on which the model raised: pending ones now, others when they come."""
        for (partition, offset), why in self._poisoned_labels.items():
            if self.shard.learner.give_up_label(partition, offset, why):
                self.keep(Entry("label-given-up", partition, offset, time.time(), {"why": why}))
                self.pace.count(1)

    # ---- what is not yet durable -------------------------------------------------------------

    def keep(self, entry: Entry) -> None:
        """Keep an entry for the journal, which the next checkpoint writes."""
        if entry.kind in INCIDENTS:
            self.tally.incidents[entry.kind] += 1
        if len(self._entries) >= MAX_ENTRIES:
            self._entries.popleft()
            self._entries_given_up += 1
            self.tally.entries_given_up += 1
        self._entries.append(entry)

    def _note(self, rare: Rare) -> None:
        """Keep what the fold said for the next checkpoint, and count it."""
        for entry in rare.entries:
            self.keep(entry)
        for retired in rare.retired:
            self._retired[retired.version] = retired
            self._retired = self._newest(self._retired)
        self.tally.note(rare)
        for signal in rare.signals:
            log.info("%s on %s at event %d: %.3f -> %.3f", signal.kind, signal.place, signal.events,
                     signal.before, signal.after)  # fmt: skip
        for version in rare.versions:
            log.info("version %d: %s at event %d", version.number, version.cause, version.events)
        for hear in self.hear:
            hear(rare)

    def _models(self) -> dict[int, bytes]:
        """Replaced models for the next checkpoint, each sealed once."""
        for number, retired in self._retired.items():
            try:
                self._versions[number] = self.shard.sealed_version(retired, self.shard.sequence + 1)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # noqa: BLE001 - its model is asked, and native ones raise no Exception
                log.warning("version %d is not kept: %s", number, error)
                detail = {"version": number, "why": str(error)}
                self.keep(Entry(kind="version-not-kept", time=time.time(), detail=detail))
        self._retired.clear()
        self._versions = self._newest(self._versions)  # while no checkpoint can be saved they wait
        return dict(self._versions)

    def _newest(self, versions: dict[int, T]) -> dict[int, T]:
        """As many as are kept in the end; the others would be dropped at once."""
        return dict(sorted(versions.items())[-max(1, self._parts.settings.versions.keep) :])

    def _journal(self) -> list[Entry]:
        """The entries for the next checkpoint, and how many are missing from them."""
        if not self._entries_given_up:
            return list(self._entries)
        detail = {"entries": self._entries_given_up, "because": "no checkpoint could be saved"}
        return [Entry(kind="journal-gap", time=time.time(), detail=detail), *self._entries]

    def checkpoint(self) -> None:
        """Make everything up to here durable: scores and dead letters, then state, then Kafka's mirror."""
        shard, parts = self.shard, self._parts
        started, waited, saved = self.pace.started(), self._patience.waited, False
        try:
            self._persist(self.publisher.flush)
            self._persist(lambda: parts.sink.flush(parts.settings.redis.timeout_seconds))
            if self.tally.saved_bytes >= LARGE:
                self._persist(lambda: self._stretch(shard.claim.shard, self.tally.saved_bytes))
            versions = self._models()
            entries = self._journal()
            # Sealed once: a repeated save must be the same one, or the store takes it for a rival's.
            blob = shard.sealed(shard.sequence + 1)
            self._persist(lambda: shard.save(parts.store, blob, entries, versions))
            saved = True
        except (CheckpointTooLarge, StoreFull) as error:
            self.tally.save_failures += 1
            self.tally.too_large += isinstance(error, CheckpointTooLarge)
            log.error("checkpoint not saved, the last good one is kept: %s", error)  # noqa: TRY400 - it says all
        finally:
            # An outage on the way is not what a checkpoint takes: fifty times that would be an hour.
            self.pace.ended(started + self._patience.waited - waited, saved=saved)
        if saved:
            self._saved(len(blob))

    def last_checkpoint(self) -> None:
        """Save once more, without waiting for anything, and let it be when that fails: it costs a refold."""
        shard = self.shard
        try:
            self.publisher.flush()
            self._parts.sink.flush(self._parts.settings.redis.timeout_seconds)
            blob = shard.sealed(shard.sequence + 1)
            versions = self._models()
            shard.save(self._parts.store, blob, self._journal(), versions)
        except FluvialError as error:
            log.warning("no last checkpoint of %s: %s", shard.claim.shard, error)
        else:
            self._saved(len(blob))

    def _saved(self, size: int) -> None:
        """Forget what is durable now, and mirror it to Kafka."""
        shard, tally = self.shard, self.tally
        self._entries.clear()
        self._entries_given_up = 0
        self._versions.clear()
        # Those still ahead stay known: a checkpoint may be saved on the way back to the offender.
        offsets = shard.offsets
        self._poisoned = _ahead(self._poisoned, offsets)
        self._poisoned_labels = _ahead(self._poisoned_labels, offsets)
        tally.saved += 1
        tally.saved_at = time.monotonic()
        tally.saved_bytes = size
        self._parts.source.commit(offsets, f"{shard.sequence}:{shard.claim.epoch}")


def _ahead(poisoned: Mapping[tuple[int, int], str], offsets: Mapping[int, int]) -> dict[tuple[int, int], str]:
    return {at: why for at, why in poisoned.items() if at[1] >= offsets[at[0]]}
