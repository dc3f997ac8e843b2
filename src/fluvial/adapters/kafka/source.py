"""The log, read at offsets that the caller states."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, cast

from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka import Message as KafkaMessage
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # OffsetSpec is public, and not said to be
    AdminClient,
    OffsetSpec,
)

from fluvial.adapters.kafka.client import (
    ASK_SECONDS,
    EMBEDDED,
    GONE,
    LOST,
    NO_TOPIC_ID,
    REFUSED,
    REPORT_SECONDS,
    Client,
    bounded_close,
    log,
)
from fluvial.adapters.start import parse_start
from fluvial.config import KafkaSettings
from fluvial.errors import (
    OffsetLost,
    SourceFatal,
    SourceUnavailable,
    TopologyChanged,
)
from fluvial.ports import Message
from fluvial.types import Commit, Lag, Topology

ENDS = (OffsetSpec.earliest(), OffsetSpec.latest())  # type: ignore[no-untyped-call]  # the client's own

NOT_THERE = GONE | {KafkaError._NOENT, KafkaError._TIMED_OUT}  # noqa: SLF001 -- local codes
"""How the admin client answers for a partition that it finds nowhere."""


class KafkaSource:
    """A topic's log as `ports.Source`. One thread uses it; the client has its own underneath."""

    def __init__(
        self, settings: KafkaSettings, service: str, membership: Mapping[str, Any] | None = None
    ) -> None:
        self.topic = settings.topic
        self._settings = settings
        self._service = service
        self._group = settings.group or f"fluvial-{service}"
        self._membership = dict(membership or {})
        self._closed = False
        self._known: Topology | None = None
        self._look_at = 0.0
        self._connect()

    def _connect(self) -> None:
        """Make the clients; nothing of those before, if there were any, is known to them."""
        self._client = Client(self._settings, self._service)
        own = {
            "group.id": self._group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "on_commit": self._on_commit,
            **self._membership,
        }
        # A full queue makes the fetcher sleep this long: at the default second, ten-megabyte events crawl.
        defaults = {"fetch.queue.backoff.ms": 100}
        self._consumer: Consumer = self._client.make(Consumer, own, defaults)
        self._admin: AdminClient = self._client.make(AdminClient, {}, {})
        uncommitted = self._client.common.get("isolation.level") == "read_uncommitted"
        self._isolation = IsolationLevel.READ_UNCOMMITTED if uncommitted else IsolationLevel.READ_COMMITTED
        self._assigned: list[TopicPartition] = []
        self._reports: deque[KafkaMessage] = deque()
        self._paused = False

    def topology(self, seconds: float) -> Topology:
        """Ask which log this is. Raises SourceUnavailable, SourceFatal (no such topic)."""
        end = time.monotonic() + seconds
        cluster_id, found = self._client.topic(self._admin, self.topic, seconds)
        topic_id = None
        if not cluster_id.startswith(EMBEDDED):  # it has no such request; asking would cost the time-out
            topic_id = self._topic_id(end - time.monotonic())
        self._admin.poll(0)
        self._known = Topology(cluster_id=cluster_id, topic_id=topic_id, partitions=len(found))
        return self._known

    def _topic_id(self, seconds: float) -> str | None:
        """The topic's id, which changes when it is deleted and made again; None where nobody tells it."""
        seconds = max(seconds, 0.1)
        asked = self._admin.describe_topics(TopicCollection([self.topic]), request_timeout=seconds)
        try:
            told = asked[self.topic].result(seconds + 0.1)
        except KafkaException as error:
            reason = error.args[0]
            if reason.retriable() or reason.code() in {KafkaError._TIMED_OUT, KafkaError._TRANSPORT}:  # noqa: SLF001 -- local codes
                raise self._client.explain(reason, f"asking for the id of topic {self.topic!r}") from None
            self._client.log.once("topic id", logging.INFO, f"the broker tells no topic id: {reason.str()}")
            return None
        except TimeoutError:
            msg = f"asking for the id of topic {self.topic!r}: no answer within {seconds:.1f} s"
            raise SourceUnavailable(msg) from None
        topic_id = str(told.topic_id)
        return None if topic_id in NO_TOPIC_ID else topic_id

    def bounds(self, partition: int, seconds: float) -> Lag:
        """Start and end of one partition's log. Raises SourceUnavailable."""
        return self._bounds([partition], seconds)[partition]

    def _bounds(self, partitions: Iterable[int], seconds: float) -> dict[int, Lag]:
        """Ask for all at once, and not by the consumer: behind its fetches each answer takes .5 s."""
        where = [TopicPartition(self.topic, partition) for partition in partitions]
        if not where:
            return {}
        seconds = max(seconds, 0.1)
        end, found = time.monotonic() + seconds + 0.1, list[dict[int, int]]()
        for spec in ENDS:
            asked = self._admin.list_offsets(
                dict.fromkeys(where, spec), isolation_level=self._isolation, request_timeout=seconds
            )
            found.append({at.partition: self._told(at.partition, f, end) for at, f in asked.items()})
        self._admin.poll(0)
        low, high = found
        return {partition: Lag(low=low[partition], high=high[partition]) for partition in low}

    def _told(self, partition: int, answer: Future[Any], end: float) -> int:
        """One partition's offset. Raises SourceUnavailable, SourceFatal (no such partition)."""
        doing = f"asking for the bounds of partition {partition}"
        try:
            offset = int(answer.result(max(end - time.monotonic(), 0.01)).offset)
        except (TimeoutError, KafkaException) as error:
            self._admin.poll(0)  # the reason (a refused password) comes as a report of its own
            late = KafkaError(KafkaError._TIMED_OUT)  # noqa: SLF001 -- a local code
            reason = error.args[0] if isinstance(error, KafkaException) else late
            if reason.code() in NOT_THERE:  # also said of a partition whose leader is away
                self._look_for(partition, doing, max(end - time.monotonic(), 0.1))
            raise self._client.explain(reason, doing) from None
        if offset < 0:  # a broker that has just come back says so, without an error
            msg = f"{doing}: the broker does not know them yet"
            raise SourceUnavailable(msg)
        return offset

    def _look_for(self, partition: int, doing: str, seconds: float) -> None:
        """Raise SourceFatal when there is no such partition."""
        _, found = self._client.topic(self._admin, self.topic, seconds)
        if partition not in found:
            msg = f"{doing}: topic {self.topic!r} has no such partition, only {len(found)}"
            raise SourceFatal(msg)
        # One that was added: the consumer learns of it with its next look at the topic.
        with contextlib.suppress(KafkaException):
            self._consumer.list_topics(self.topic, timeout=seconds)

    def ends(self, seconds: float) -> Mapping[int, Lag]:
        """Start and end of every partition that the topic has now. Raises SourceUnavailable, SourceFatal."""
        end = time.monotonic() + seconds
        _, found = self._client.topic(self._admin, self.topic, seconds)
        return self._bounds(found, end - time.monotonic())

    def start_offsets(self, start: str, seconds: float) -> Mapping[int, int]:
        """Offset of each partition for `earliest`, `latest` or an ISO 8601 time (UTC unless it says).

        A time after the last event means the log's end. Raises SettingsError (no such time),
        SourceUnavailable, SourceFatal (the embedded Kafka cannot look up a time).
        """
        moment = None if start in {"earliest", "latest"} else parse_start(start)
        end = time.monotonic() + seconds
        cluster_id, found = self._client.topic(self._admin, self.topic, seconds)
        if moment is not None and cluster_id.startswith(EMBEDDED):
            msg = f"kafka.start = {start!r}: the embedded Kafka cannot look up a time; use earliest or latest"
            raise SourceFatal(msg)
        bounds = self._bounds(found, end - time.monotonic())
        if moment is not None:
            return self._at(moment, bounds, end - time.monotonic())
        return {p: lag.low if start == "earliest" else lag.high for p, lag in bounds.items()}

    def _at(self, milliseconds: int, bounds: Mapping[int, Lag], seconds: float) -> dict[int, int]:
        wanted = [TopicPartition(self.topic, p, milliseconds) for p in bounds]
        try:
            answers = self._consumer.offsets_for_times(wanted, timeout=max(seconds, 0.01))
        except KafkaException as error:
            raise self._client.explain(error.args[0], "looking up the start time") from None
        for answer in answers:
            if answer.error is not None:
                raise self._client.explain(answer.error, f"looking up the time in {answer.partition}")
        return {a.partition: a.offset if a.offset >= 0 else bounds[a.partition].high for a in answers}

    def committed(self, seconds: float) -> Mapping[int, Commit]:
        """Kafka's commits of the service's group: the witness. Absent partitions have none."""
        end = time.monotonic() + seconds
        _, found = self._client.topic(self._admin, self.topic, seconds)
        wanted = [TopicPartition(self.topic, p) for p in found]
        try:
            answers = self._consumer.committed(wanted, timeout=max(end - time.monotonic(), 0.01))
        except KafkaException as error:
            raise self._client.explain(error.args[0], "asking for the group's commits") from None
        for answer in answers:
            if answer.error is not None:
                raise self._client.explain(answer.error, f"asking for the commit of {answer.partition}")
        return {a.partition: Commit(a.offset, a.metadata or "") for a in answers if a.offset >= 0}

    def assign(self, offsets: Mapping[int, int]) -> None:
        """Read these partitions by hand from these offsets; replaces an earlier assignment and a pause.

        Raises OffsetLost before anything is changed when an offset is outside the log, SourceUnavailable.
        """
        bounds = self._bounds(offsets, ASK_SECONDS)
        for number, offset in offsets.items():
            lag = bounds[number]
            if not lag.low <= offset <= lag.high:
                raise OffsetLost(number, offset, lag.low, lag.high)
        self.resume()
        self._reports.clear()
        self._assigned = [TopicPartition(self.topic, p, offset) for p, offset in offsets.items()]
        self._consumer.assign(self._assigned)
        # An assignment does not take back a pause of its partitions.
        self._consumer.resume(self._assigned)

    def poll(self, limit: int, seconds: float) -> Sequence[Message]:
        """Next records, at most `limit`, waiting at most `seconds`; in offset order within a partition.

        Good records that came with a bad report are delivered first, the report is raised by the next
        call: OffsetLost (which may take `REPORT_SECONDS` to find out what the log holds), SourceFatal,
        TopologyChanged (the topic was made anew while it was read).
        """
        if self._reports or self._client.gone or self._client.fatal is not None:
            self._answer()
        try:
            messages = self._consumer.consume(limit, seconds)
        except KafkaException as error:
            raise self._client.explain(error.args[0], "reading") from None
        if any(map(_error_of, messages)):  # 0.05 us a message; the loop body only runs on trouble
            messages = [message for message in messages if message.error() is None or self._report(message)]
        return cast("Sequence[Message]", messages)

    def _report(self, message: KafkaMessage) -> bool:
        """Keep what must be answered, log the rest; never a record (False)."""
        error = message.error()
        if error is None or error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 -- a local code
            return False
        if error.fatal() or error.code() in REFUSED | LOST | GONE:
            self._reports.append(message)
        else:
            said = f"partition {message.partition()}: {self._client.log.hide(error.str())}"
            self._client.log.once(error.name(), logging.WARNING, f"{said} (the client tries again)")
        return False

    def _answer(self) -> None:
        """Raise what the oldest report means."""
        if self._client.fatal is not None:
            raise self._client.explain(self._client.fatal, f"reading topic {self.topic!r}")
        if self._reports:
            self._answer_report(self._reports.popleft())
        if self._client.gone:
            self._look_whether_gone()

    def _answer_report(self, message: KafkaMessage) -> None:
        error, number = message.error(), message.partition()
        if error is None or number is None:
            return
        if error.code() in LOST:
            self._lost(number, message.offset())
        elif error.code() in GONE:
            self._client.gone = True
        else:
            raise self._client.explain(error, f"reading partition {number}")

    def _look_whether_gone(self) -> None:
        """Raise SourceFatal when the topic is gone, TopologyChanged when it is another one by now."""
        now, known = time.monotonic(), self._known
        if now < self._look_at:
            return
        self._look_at = now + ASK_SECONDS
        try:
            found = self.topology(REPORT_SECONDS)
        except SourceUnavailable as error:
            self._client.log.once("gone?", logging.WARNING, str(error))
            return  # asked again later
        self._client.gone = False
        if known is not None and known.topic_id != found.topic_id:
            msg = f"topic {self.topic!r} was deleted and made again while it was read (id {found.topic_id})"
            raise TopologyChanged(msg)

    def _lost(self, number: int, offset: int | None) -> None:
        """Raise OffsetLost with what the log holds now."""
        lag = self.bounds(number, REPORT_SECONDS)
        if offset is None or offset < 0:
            offset = next((t.offset for t in self._assigned if t.partition == number), 0)
        if lag.low <= offset <= lag.high:
            # The log's end was behind for a moment (a new leader): read on where the loop stands.
            log.warning("partition %d: offset %d is in the log again; reading on", number, offset)
            self._read_again(number, offset)
            return
        raise OffsetLost(number, offset, lag.low, lag.high)

    def _read_again(self, number: int, offset: int) -> None:
        self._consumer.incremental_unassign([TopicPartition(self.topic, number)])
        self._consumer.incremental_assign([TopicPartition(self.topic, number, offset)])
        if self._paused:
            self._consumer.pause([TopicPartition(self.topic, number)])

    def pause(self) -> None:
        """Stop fetching without giving anything up; `poll` returns nothing and keeps the client alive."""
        if self._assigned and not self._paused:
            self._consumer.pause(self._assigned)
            self._paused = True

    def resume(self) -> None:
        """Fetch again, where it stopped."""
        if self._paused:
            self._consumer.resume(self._assigned)
            self._paused = False

    def lag(self) -> Mapping[int, Lag]:
        """Log ends as last seen by the client, without asking a broker. Absent: not known yet.

        They stand still while paused.
        """
        known = {}
        for where in self._assigned:
            answer = self._consumer.get_watermark_offsets(where, cached=True)
            if answer is not None and answer[1] >= 0:
                known[where.partition] = Lag(low=max(answer[0], 0), high=answer[1])
        return known

    def commit(self, offsets: Mapping[int, int], metadata: str) -> None:
        """Mirror the checkpoint's offsets for lag tools. Errors are logged; the state does not care.

        A refused authorisation is raised by the next `poll`.
        """
        mirrored = [TopicPartition(self.topic, p, offset, metadata) for p, offset in offsets.items()]
        try:
            self._consumer.commit(offsets=mirrored, asynchronous=True)
        except KafkaException as error:
            self._on_commit(error.args[0], [])

    def _on_commit(self, error: KafkaError | None, partitions: Sequence[TopicPartition]) -> None:
        """Runs inside poll: it only takes note."""
        errors = [error] if error is not None else [p.error for p in partitions if p.error is not None]
        bare = KafkaError._FATAL  # noqa: SLF001 -- a local code; what was fatal is reported by the next poll
        for each in [e for e in errors if e.code() != bare]:
            if each.fatal() or each.code() in REFUSED:
                self._client.fatal = each
            else:
                said = f"offsets were not mirrored to the group: {self._client.log.hide(each.str())}"
                self._client.log.once(f"commit {each.name()}", logging.WARNING, said)

    def close(self, seconds: float) -> None:
        """Leave, within `seconds`. Idempotent."""
        if not self._closed:
            self._closed = True
            bounded_close(self._consumer.close, seconds, "consumer")


_error_of = KafkaMessage.error
