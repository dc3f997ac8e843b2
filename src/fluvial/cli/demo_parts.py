"""What runs in the demo: embedded Kafka and Redis, the feeder, the real worker, and its twin.

The worker is the one of `fluvial run`, with its real Kafka and Redis adapters over real sockets. Only
its store has one more thing to do: it tells the record which scores it published. The twin folds the same
log with the same model and never reacts.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from math import nan
from typing import Self

import msgspec

from fluvial.adapters.embedded import EmbeddedKafka, EmbeddedRedis
from fluvial.adapters.kafka import KafkaSink, KafkaSource
from fluvial.adapters.prometheus import MetricsServer
from fluvial.adapters.redis import RedisStore
from fluvial.cli.demo_feed import JOIN_SECONDS, Feeder, Task, TwinProcess
from fluvial.cli.demo_plan import PARTITION, SERVICE, TOPIC, Plan, settings_of
from fluvial.cli.demo_record import Record
from fluvial.config import (
    Settings,
)
from fluvial.errors import FluvialError, SourceError, StoreError
from fluvial.keys import Keys
from fluvial.looking import look
from fluvial.scoring import Scores
from fluvial.types import Claim, MemberStanding, PartitionLedger, Score
from fluvial.view import CheckpointView, Histogram, WorkerView
from fluvial.worker import Worker


class Now(msgspec.Struct, frozen=True):
    """The numbers of one moment, for the views."""

    seconds: float
    """Since the first event."""
    rate: float
    """Events per second lately."""
    lag: float
    version: int
    checkpoint: CheckpointView
    members: tuple[MemberStanding, ...]
    ledger: PartitionLedger | None
    late: float
    """Seconds within which 99 of 100 batches had their scores readable."""
    score: tuple[str, Score] | None
    """A key, and what was just read for it from Redis."""
    waiting: str
    """What the worker waits for, if it does."""


class HeardStore(RedisStore):
    """The real store; it also says which scores it published."""

    hear: Callable[[Sequence[tuple[str, Score]]], None] | None = None

    def publish(self, claim: Claim, scores: Sequence[tuple[str, Score]]) -> int:
        """Write the scores, then tell."""
        written = super().publish(claim, scores)
        if self.hear is not None:
            self.hear(scores)
        return written


class _Lines(logging.Handler):
    """Warnings of the worker go into the record: standard error is where the picture is."""

    def __init__(self, record: Record) -> None:
        super().__init__(logging.WARNING)
        self._record = record

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one line. Before the first event all it has to say is that an embedded Redis is just that."""
        if self._record.worker.until:
            self._record.logged(record.getMessage())


class Parts:
    """Everything that runs, from `__enter__` to `__exit__`; nothing of it is left afterwards."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.record = Record(plan.events, plan.every)
        self.redis_kind = ""
        self.metrics_at = ""
        self._stack = ExitStack()
        self._rates: list[tuple[float, int]] = []
        self._looked: tuple[float, WorkerView | None] = (0.0, None)
        self._score: tuple[float, tuple[str, Score] | None] = (0.0, None)
        self._newest_key: str | None = None
        self._stopped_at: float | None = None
        self._last: Now | None = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._log_into(stack)
            kafka = _enter_kafka(stack)
            self._twin = TwinProcess(self.plan, kafka.bootstrap_servers, self.record)
            stack.callback(self._twin.close)
            stack.callback(self._twin.stop)
            redis = stack.enter_context(EmbeddedRedis())
            self.redis_kind = redis.kind
            settings = settings_of(self.plan, kafka.bootstrap_servers, redis.url)
            self._scores = stack.enter_context(Scores(redis.url, SERVICE))
            self._make_worker(settings)
            self._feeder = Feeder(self.plan, settings, self.record, self._position)
            metrics = MetricsServer(self.look, settings.metrics.host, settings.metrics.port)
            stack.callback(metrics.close)
            metrics.start()
            self.metrics_at = "http://{}:{}/metrics".format(*metrics.address)
            self._work = Task("demo-worker", self._worker.run)
            self._feed = Task("demo-feeder", self._feeder.run)
            self._judge = Task("demo-twin", self._twin.run)
            stack.callback(self.stop)
            for task in self._tasks:
                task.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _log_into(self, stack: ExitStack) -> None:
        logger, handler = logging.getLogger("fluvial"), _Lines(self.record)
        logger.addHandler(handler)
        stack.callback(logger.removeHandler, handler)
        stack.callback(setattr, logger, "propagate", logger.propagate)
        logger.propagate = False

    def _make_worker(self, settings: Settings) -> None:
        self._store = HeardStore(settings.redis, Keys(SERVICE), settings.scores)
        self._store.hear = self._hear_scores
        self._source = KafkaSource(settings.kafka, SERVICE)
        sink = KafkaSink(settings.kafka, settings.dead_letter_topic)
        self._worker = Worker(settings, self._source, sink, self._store, f"demo:{os.getpid()}")
        self._worker.listen(self.record.heard)

    def _hear_scores(self, scores: Sequence[tuple[str, Score]]) -> None:
        for _, score in scores:
            self.record.served(score.offset, score.prediction)
        if scores:
            self._newest_key = scores[-1][0]

    # ---- while it runs -----------------------------------------------------------------------

    @property
    def _tasks(self) -> tuple[Task, ...]:
        return (self._feed, self._judge, self._work)

    def finished(self) -> bool:
        """Whether everything that was sent is folded. Raises what ended a part before its time."""
        for task in self._tasks:
            if task.error is not None:
                raise task.error
        if not self._work.is_alive():
            msg = "the worker ended before the events did"
            raise FluvialError(msg)
        return self._feeder.done and self._position() >= self._feeder.sent

    def _position(self) -> int:
        return min(self._worker.tally.events, self.record.twin.until)

    def stop(self) -> None:
        """End the feeding, then the worker, with a last checkpoint. Idempotent."""
        if self._stopped_at is not None:
            return
        self._stopped_at = time.monotonic()
        self._last = self.now()
        self._feeder.stop()
        self._feed.join(JOIN_SECONDS)
        self._worker.stop()
        self._work.join(JOIN_SECONDS)
        self._twin.stop()
        self._judge.join(JOIN_SECONDS)

    def look(self) -> WorkerView:
        """The worker's view of itself, which /metrics shows too."""
        return look(self._worker, self._source, self._store.scores_refused)

    def now(self) -> Now:
        """The numbers of this moment; after the stop, those of the last."""
        if self._last is not None:
            return self._last
        view = self.look()
        shard = view.shards[0] if view.shards else None
        partition = next((p for p in shard.partitions if p.partition == PARTITION), None) if shard else None
        return Now(
            seconds=self._seconds(),
            rate=self._rate(),
            lag=partition.lag if partition else nan,
            version=shard.version if shard else 0,
            checkpoint=shard.checkpoint if shard else CheckpointView(),
            members=shard.members if shard else (),
            ledger=partition.ledger if partition else None,
            late=within(view.scores.latency),
            score=self._read_score(),
            waiting=view.not_ready[0] if view.not_ready else "",
        )

    def _seconds(self) -> float:
        return time.monotonic() - self._feeder.began if self._feeder.began else 0.0

    def _rate(self) -> float:
        """Events per second over the last two seconds or so."""
        now = time.monotonic()
        lately = [(at, n) for at, n in self._rates if now - at < 2.5] or self._rates[-1:]
        if not lately and self._feeder.began:
            lately = [(self._feeder.began, 0)]
        self._rates = [*lately, (now, self.record.until)]
        (at, first), (_, last) = self._rates[0], self._rates[-1]
        return (last - first) / (now - at) if now > at else 0.0

    def _read_score(self) -> tuple[str, Score] | None:
        """Read a fresh score back, as an application would, once a second."""
        read_at, score = self._score
        key = self._newest_key
        if key is None or time.monotonic() - read_at < 1.0:
            return score
        try:
            found = self._scores.get(key)
        except StoreError:
            return score  # the worker says on its own what is the matter with Redis
        self._score = (time.monotonic(), (key, found) if found is not None else score)
        return self._score[1]


def _enter_kafka(stack: ExitStack) -> EmbeddedKafka:
    """Start a Kafka with the topic; where it lives in a client it has a fixed number of partitions."""
    try:
        return stack.enter_context(EmbeddedKafka({TOPIC: 1, f"{TOPIC}.dead-letters": 1}))
    except SourceError:
        return stack.enter_context(EmbeddedKafka({TOPIC: 4, f"{TOPIC}.dead-letters": 4}))


def within(histogram: Histogram, share: float = 0.99) -> float:
    """The bound under which this share of the observations lies; nan without any."""
    total, seen = sum(histogram.counts), 0
    if not total:
        return nan
    for bound, count in zip(histogram.bounds, histogram.counts, strict=False):
        seen += count
        if seen >= share * total:
            return bound
    return float("inf")
