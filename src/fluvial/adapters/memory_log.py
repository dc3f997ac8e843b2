"""The in-process twins of source and sink: the same contract without a socket, for tests and folds."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence

from fluvial.adapters.start import parse_start
from fluvial.errors import OffsetLost, SourceFatal, SourceUnavailable
from fluvial.types import Commit, DeadLetter, Lag, Topology

_CREATE_TIME = 1  # confluent_kafka.TIMESTAMP_CREATE_TIME


class MemoryMessage:
    """One record, with the accessors of `confluent_kafka.Message`."""

    __slots__ = ("_headers", "_key", "_offset", "_partition", "_timestamp_ms", "_topic", "_value")

    def __init__(
        self,
        topic: str,
        partition: int,
        offset: int,
        value: bytes | None,
        key: bytes | None = None,
        timestamp_ms: int = 0,
        headers: Sequence[tuple[str, bytes | None]] | None = None,
    ) -> None:
        self._topic = topic
        self._partition = partition
        self._offset = offset
        self._value = value
        self._key = key
        self._timestamp_ms = timestamp_ms
        self._headers = headers

    def topic(self) -> str:
        """Where it came from."""
        return self._topic

    def partition(self) -> int:
        """Its partition."""
        return self._partition

    def offset(self) -> int:
        """Its own offset."""
        return self._offset

    def value(self) -> bytes | None:
        """None: a tombstone."""
        return self._value

    def key(self) -> bytes | None:
        """Its key."""
        return self._key

    def timestamp(self) -> tuple[int, int]:
        """Kind (1: given by the producer) and milliseconds."""
        return _CREATE_TIME, self._timestamp_ms

    def headers(self) -> Sequence[tuple[str, bytes | None]] | None:
        """None: it has none."""
        return self._headers

    def error(self) -> None:
        """Nothing goes wrong here: what does is raised."""


class MemoryTopic:
    """A log in memory. Another thread may append; offsets may have gaps, and the start may move."""

    def __init__(
        self,
        partitions: int = 1,
        name: str = "events",
        cluster_id: str = "memory",
        topic_id: str | None = "memory-1",
    ) -> None:
        self.name = name
        self.cluster_id = cluster_id
        self.topic_id = topic_id
        self.commits: dict[str, dict[int, Commit]] = {}
        """Per group and partition: what sources mirrored."""
        self.available = True
        """False: every question is answered by SourceUnavailable, and nothing arrives."""
        self.changed = threading.Condition()
        self._logs: list[deque[MemoryMessage]] = [deque() for _ in range(partitions)]
        self._low = [0] * partitions
        self._high = [0] * partitions

    def grow(self, partitions: int) -> None:
        """Get more partitions, so many in all."""
        with self.changed:
            for _ in range(partitions - len(self._logs)):
                self._logs.append(deque())
                self._low.append(0)
                self._high.append(0)

    @property
    def partitions(self) -> int:
        """How many there are."""
        return len(self._logs)

    def append(
        self,
        value: bytes | None,
        key: bytes | None = None,
        partition: int = 0,
        timestamp_ms: int = 0,
        headers: Sequence[tuple[str, bytes | None]] | None = None,
    ) -> int:
        """Add a record; its offset."""
        with self.changed:
            offset = self._high[partition]
            record = MemoryMessage(self.name, partition, offset, value, key, timestamp_ms, headers)
            self._logs[partition].append(record)
            self._high[partition] = offset + 1
            self.changed.notify_all()
        return offset

    def skip(self, partition: int, offsets: int) -> None:
        """Leave a gap, as transaction markers and compaction do."""
        with self.changed:
            self._high[partition] += offsets

    def trim(self, partition: int, low: int) -> None:
        """Move the log's start, as retention does."""
        with self.changed:
            self._low[partition] = max(low, self._low[partition])
            self._high[partition] = max(self._high[partition], low)
            while self._logs[partition] and self._logs[partition][0].offset() < low:
                self._logs[partition].popleft()
            self.changed.notify_all()

    def bounds(self, partition: int) -> Lag:
        """Start and end of one partition's log."""
        return Lag(self._low[partition], self._high[partition])

    def read(self, partition: int, offset: int, limit: int) -> list[MemoryMessage]:
        """At most `limit` records from this offset on."""
        log = self._logs[partition]
        first = _bisect(log, offset)
        return [log[i] for i in range(first, min(first + limit, len(log)))]

    def at(self, partition: int, timestamp_ms: int) -> int:
        """Offset of the first record of this time or later; the log's end when there is none."""
        for record in self._logs[partition]:
            if record.timestamp()[1] >= timestamp_ms:
                return record.offset()
        return self._high[partition]


def _bisect(log: Sequence[MemoryMessage], offset: int) -> int:
    """Index of the first record at this offset or later."""
    low, high = 0, len(log)
    while low < high:
        middle = (low + high) // 2
        if log[middle].offset() < offset:
            low = middle + 1
        else:
            high = middle
    return low


class MemorySource:
    """A `ports.Source` over a `MemoryTopic`."""

    def __init__(self, topic: MemoryTopic, group: str = "fluvial-memory") -> None:
        self.topic = topic.name
        self._log = topic
        self._group = group
        self._next: dict[int, int] = {}
        self._silent: set[int] = set()
        self._seen: dict[int, Lag] = {}
        self._lost: deque[OffsetLost] = deque()
        self._paused = False

    def topology(self, seconds: float) -> Topology:  # noqa: ARG002 -- nothing here takes time
        """Ask which log this is."""
        self._ask()
        return Topology(self._log.cluster_id, self._log.topic_id, self._log.partitions)

    def bounds(self, partition: int, seconds: float) -> Lag:  # noqa: ARG002 -- as above
        """Start and end of one partition's log."""
        self._ask()
        if not 0 <= partition < self._log.partitions:
            msg = f"topic {self.topic!r} has no partition {partition}"
            raise SourceFatal(msg)
        return self._log.bounds(partition)

    def ends(self, seconds: float) -> Mapping[int, Lag]:
        """Start and end of every partition that the topic has now."""
        return {p: self.bounds(p, seconds) for p in range(self._log.partitions)}

    def start_offsets(self, start: str, seconds: float) -> Mapping[int, int]:
        """Offset of each partition for `earliest`, `latest` or an ISO 8601 time."""
        bounds = {p: self.bounds(p, seconds) for p in range(self._log.partitions)}
        if start == "earliest":
            return {p: lag.low for p, lag in bounds.items()}
        if start == "latest":
            return {p: lag.high for p, lag in bounds.items()}
        return {p: self._log.at(p, parse_start(start)) for p in bounds}

    def committed(self, seconds: float) -> Mapping[int, Commit]:  # noqa: ARG002 -- as above
        """Commits of the service's group."""
        self._ask()
        return dict(self._log.commits.get(self._group, {}))

    def assign(self, offsets: Mapping[int, int]) -> None:
        """Read these partitions from these offsets. Raises OffsetLost before anything is changed."""
        for partition, offset in offsets.items():
            lag = self.bounds(partition, 0)
            if not lag.low <= offset <= lag.high:
                raise OffsetLost(partition, offset, lag.low, lag.high)
        self._next = dict(offsets)
        self._silent = set()
        self._seen = {}
        self._lost.clear()
        self._paused = False

    def poll(self, limit: int, seconds: float) -> Sequence[MemoryMessage]:
        """Next records; the partitions share the batch."""
        if self._lost:
            raise self._lost.popleft()
        end = time.monotonic() + seconds
        with self._log.changed:
            while True:
                records = [] if self._paused or not self._log.available else self._take(limit)
                left = end - time.monotonic()
                if records or left <= 0:
                    break
                if self._lost:
                    raise self._lost.popleft()
                self._log.changed.wait(left)
        return records

    def _take(self, limit: int) -> list[MemoryMessage]:
        records: list[MemoryMessage] = []
        active = [p for p in self._next if p not in self._silent]
        # The fullest partition must not starve the others, and what one leaves the next may take.
        for taken, partition in enumerate(active):
            offset, lag = self._next[partition], self._log.bounds(partition)
            self._seen[partition] = lag
            if offset < lag.low:
                self._silent.add(partition)
                self._lost.append(OffsetLost(partition, offset, lag.low, lag.high))
                continue
            share = -(-(limit - len(records)) // (len(active) - taken))
            found = self._log.read(partition, offset, share)
            if found:
                self._next[partition] = found[-1].offset() + 1
                records += found
        return records

    def pause(self) -> None:
        """Stop reading."""
        self._paused = True

    def resume(self) -> None:
        """Read again."""
        self._paused = False

    def lag(self) -> Mapping[int, Lag]:
        """Log ends as seen by the last poll."""
        return dict(self._seen)

    def commit(self, offsets: Mapping[int, int], metadata: str) -> None:
        """Mirror the offsets."""
        mirrored = {p: Commit(offset, metadata) for p, offset in offsets.items()}
        self._log.commits.setdefault(self._group, {}).update(mirrored)

    def close(self, seconds: float) -> None:  # noqa: ARG002 -- as above
        """Leave. Idempotent."""
        self._next = {}

    def _ask(self) -> None:
        if not self._log.available:
            msg = f"topic {self.topic!r} is away"
            raise SourceUnavailable(msg)


class MemorySink:
    """A `ports.Sink` that collects: `letters` holds what was acknowledged."""

    def __init__(self, topic: str = "events.dead-letters", room: int = 10_000) -> None:
        self.topic = topic
        self.letters: list[DeadLetter] = []
        self.available = True
        """False: nothing is acknowledged."""
        self._waiting: list[DeadLetter] = []
        self.room = room
        """Letters that may wait for their acknowledgement."""

    def send(self, letters: Sequence[DeadLetter]) -> None:
        """Hand over. Raises SourceUnavailable, having taken none, while too many wait."""
        self._deliver()
        if len(self._waiting) >= self.room:
            raise SourceUnavailable(self._why())
        self._waiting += letters
        self._deliver()

    def flush(self, seconds: float) -> None:  # noqa: ARG002 -- nothing here takes time
        """Raise SourceUnavailable unless all was acknowledged."""
        self._deliver()
        if self._waiting:
            raise SourceUnavailable(self._why())

    def close(self, seconds: float) -> None:
        """Leave. Idempotent."""

    def _deliver(self) -> None:
        if self.available:
            self.letters += self._waiting
            self._waiting = []

    def _why(self) -> str:
        return f"{len(self._waiting)} dead letters wait for {self.topic!r}: it is away"
