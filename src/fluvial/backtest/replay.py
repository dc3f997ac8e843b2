"""Records folded as a worker folds them: decoded, dead-lettered by reason, stepped; and timed."""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import NamedTuple

import msgspec

from fluvial.backtest.footprint import Footprint
from fluvial.backtest.trace import Trace
from fluvial.breaker import Breaker
from fluvial.codec import Codec
from fluvial.config import Settings
from fluvial.errors import BadEvent, FluvialError, ModelError, Reason
from fluvial.late import Lateness
from fluvial.learner import Learner
from fluvial.policies import Own
from fluvial.shard import blanks_of, spec_of
from fluvial.types import Event, Outcome

CHUNK = 100
"""Records between two looks at the clock and at the weights; the fold does not depend on it."""


class Record(NamedTuple):
    """One message, from whatever kind of log."""

    value: bytes | None
    key: bytes | None
    partition: int
    offset: int
    timestamp_ms: int
    delay: float | None = None
    """After how much its label is known, where a column says it."""


class Records(NamedTuple):
    """Where records come from. `read` begins anew each time and gives the same ones."""

    read: Callable[[], Iterator[Record]]
    starts: Mapping[int, int]
    """The first offset of each partition."""
    name: str
    """For people: files, or a topic and its stretch."""
    unit: str | None = None
    """What a record's own delay counts: `events` or `seconds`; None: records have none."""


class Run(NamedTuple):
    """One fold among those that are compared."""

    name: str
    settings: Settings


class Refusal(msgspec.Struct, frozen=True):
    """An event that was left out, and why."""

    partition: int
    offset: int
    message: str


class Folded(NamedTuple):
    """What a run came to."""

    run: Run
    learner: Learner
    trace: Trace
    dead: Mapping[str, int]
    """Dead letters by reason."""
    dead_first: Mapping[str, Refusal]
    """The first of each reason: mostly it tells of all of them."""
    trips: int
    """How often the live service would have paused for a person, at a flood of them."""
    seconds: float
    """Spent decoding and folding: neither reading files nor drawing."""
    peak_bytes: int | None
    """Most memory that the process held meanwhile; None where the system does not tell."""


class _Replay:
    """A fold under way. The model's errors are answered as in a worker: back, and on without the offender."""

    def __init__(self, run: Run, records: Records, watch: Callable[[int], object]) -> None:
        self._run, self._records, self._watch = run, records, watch
        self._delays: dict[tuple[int, int], float] = {}
        self._poisoned: dict[tuple[int, int], str] = {}
        self._poisoned_labels: dict[tuple[int, int], str] = {}
        self._errors: list[int] = []
        self.dead: Counter[str] = Counter()
        self.dead_first: dict[str, Refusal] = {}
        self.trips = 0
        self.seconds = 0.0
        self._begin()

    def _begin(self) -> None:
        settings = self._run.settings
        spec = spec_of(settings)
        if self._records.unit is not None:
            lateness = Lateness(delay_of=self._delay_of, unit=self._records.unit)
            spec = msgspec.structs.replace(spec, lateness=lateness)
        self.codec = Codec(settings.schema)
        self.learner = Learner.genesis(spec, blanks_of(settings), self._records.starts)
        task, policy = settings.schema.label.task, spec.policy
        self.trace = Trace(task, policy.at_fault) if isinstance(policy, Own) else Trace(task)
        self.breaker = Breaker(settings.dead_letters)

    def _delay_of(self, event: Event) -> float:
        return self._delays.pop((event.partition, event.offset))

    def run(self) -> None:
        """Fold everything. Raises FluvialError."""
        while True:
            try:
                self._pass()
            except ModelError as error:
                self._again_without(error)
            else:
                return

    def _pass(self) -> None:
        records, done = self._records.read(), 0
        while chunk := list(islice(records, CHUNK)):
            began = time.perf_counter()
            self._fold(chunk)
            self.seconds += time.perf_counter() - began
            done += len(chunk)
            self._watch(done)

    def _again_without(self, error: ModelError) -> None:
        """Begin anew without the event on which the model raised, as often as a worker would."""
        worker = self._run.settings.worker
        self._errors.append(error.offset)
        recent = [at for at in self._errors if abs(at - error.offset) <= 10_000]
        if len(recent) >= worker.max_model_errors:
            raise FluvialError(
                f"the model raised on {len(recent)} of 10,000 events; the last, at offset {error.offset}: "
                f"{error.detail}. Mend the model or the schema, or raise worker.max_model_errors"
            ) from error
        poisoned = self._poisoned_labels if error.late else self._poisoned
        poisoned[error.partition, error.offset] = error.detail
        self._delays.clear()
        self.dead.clear()
        self.dead_first.clear()
        self.trips, self.seconds = 0, 0.0
        self._begin()
        for at, why in self._poisoned_labels.items():
            self.learner.give_up_label(*at, why)

    def _fold(self, chunk: Iterable[Record]) -> None:
        """Decode and step; a bad event is accounted for at its place."""
        good: list[Event] = []
        decode = self.codec.decode
        inferring = self.codec.schema.infer is not None
        for record in chunk:
            at = (record.partition, record.offset)
            try:
                event = decode(record.value, record.key, *at, record.timestamp_ms)
                self._look_beside(record, event)
            except BadEvent as bad:
                self._step(good)
                self._refuse(record, bad)
                continue
            good.append(event)
            if inferring:  # a codec with a state must not run ahead of the fold
                self._step(good)
        self._step(good)
        self.trace.weigh(self.learner.mixture.standings(self.learner.events))

    def _look_beside(self, record: Record, event: Event) -> None:
        """What the schema does not know. Raises BadEvent."""
        at = (event.partition, event.offset)
        if at in self._poisoned:
            raise BadEvent(Reason.MODEL, self._poisoned[at])
        if self._records.unit is not None:
            if record.delay is None:
                raise BadEvent(Reason.LABEL, "the delay of its label is no number of at least 0")
            if event.y is not None:  # else nobody will ask
                self._delays[at] = record.delay

    def _step(self, events: list[Event]) -> None:
        if events:
            outcomes: list[Outcome] = self.learner.steps(events)
            self.trace.take(events, outcomes)
            events.clear()

    def _refuse(self, record: Record, bad: BadEvent) -> None:
        self.learner.refuse(record.partition, record.offset)
        self.dead[bad.reason] += 1
        self.dead_first.setdefault(bad.reason, Refusal(record.partition, record.offset, bad.message))
        place = self.learner.ledger.handled()
        if self.breaker.refused(place, record.partition, record.offset, bad.reason):
            self.trips += 1
            self.breaker.resumed()


def replay(run: Run, records: Records, watch: Callable[[int], object] = lambda _: None) -> Folded:
    """Fold `records` under the run's settings. `watch` hears how many were folded. Raises FluvialError."""
    gc.collect()
    footprint = Footprint()
    fold = _Replay(run, records, watch)
    fold.run()
    return Folded(
        run=run,
        learner=fold.learner,
        trace=fold.trace,
        dead=dict(fold.dead),
        dead_first=dict(fold.dead_first),
        trips=fold.trips,
        seconds=fold.seconds,
        peak_bytes=footprint.peak_bytes(),
    )
