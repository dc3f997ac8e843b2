"""Reading the dead-letter topic back: each record as the event that it was, and why it was refused."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from fluvial.adapters.kafka.client import ASK_SECONDS, Client, bounded_close
from fluvial.config import KafkaSettings
from fluvial.errors import SourceUnavailable

STALLED_SECONDS = 15.0
"""Without a record before the end for so long, reading is given up."""
_BATCH = 500
_SPAN = 1_024
_EOF = KafkaError._PARTITION_EOF  # noqa: SLF001 -- the client spells its local codes so
_FIRST_OF_OURS = "__connect.errors.topic"

Headers = tuple[tuple[str, bytes | None], ...]


class Letter(msgspec.Struct, frozen=True):
    """One dead letter: the event as it was, why it was refused, and where the letter lies."""

    topic: str
    partition: int
    offset: int
    """Of the event, not of the letter."""
    topic_id: str | None
    """None where the broker told none."""
    reason: str
    message: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    """The event's own."""
    timestamp_ms: int
    """The event's time in Kafka; 0 where it has none."""
    truncated: bool
    """Larger than the topic takes: what is here is not all of it."""
    size: int
    """Of the original value, in bytes."""
    sha256: str | None
    """Of the original value; only of truncated letters."""
    at: tuple[int, int]
    """Partition and offset in the dead-letter topic."""

    @property
    def id(self) -> str:
        """What a person calls it by; topics of the same name, one after the other, share it."""
        return f"{self.topic}/{self.partition}/{self.offset}"

    @property
    def identity(self) -> str:
        """The same for every copy of this letter, and for no other."""
        return f"{self.topic_id or ''}:{self.id}"


def letter_of(message: Message) -> Letter | None:
    """Read one record; None when it is no dead letter of ours."""
    headers = cast("Sequence[tuple[str, bytes | None]]", message.headers() or ())
    # Ours were put behind the event's own; a redriven letter of a letter may have both.
    starts = [index for index, (name, _) in enumerate(headers) if name == _FIRST_OF_OURS]
    start = starts[-1] if starts else len(headers)
    ours = {name: (value or b"").decode(errors="replace") for name, value in headers[start:]}
    value = message.value()
    try:
        size = int(ours.get("fluvial.size", len(value or b"")))
        partition = int(ours["__connect.errors.partition"])
        offset = int(ours["__connect.errors.offset"])
        topic, reason = ours[_FIRST_OF_OURS], ours["__connect.errors.exception.class.name"]
    except (KeyError, ValueError):
        return None
    return Letter(
        topic=topic,
        partition=partition,
        offset=offset,
        topic_id=ours.get("fluvial.topic_id") or None,
        reason=reason,
        message=ours.get("__connect.errors.exception.message", ""),
        key=message.key(),
        value=value,
        headers=tuple(headers[:start]),
        timestamp_ms=max(0, message.timestamp()[1]),
        truncated=ours.get("fluvial.truncated") == "true",
        size=size,
        sha256=ours.get("fluvial.sha256"),
        at=(message.partition() or 0, message.offset() or 0),
    )


class Seen:
    """Which letters there were: a bit each, by spans of offsets, since a flood has many in a row."""

    def __init__(self) -> None:
        self._spans: dict[tuple[str | None, str, int, int], int] = {}

    def first(self, letter: Letter) -> bool:
        """Whether this is the first copy of the letter."""
        span, bit = divmod(letter.offset, _SPAN)
        key = (letter.topic_id, letter.topic, letter.partition, span)
        bits = self._spans.get(key, 0)
        self._spans[key] = bits | 1 << bit
        return not bits >> bit & 1


class KafkaLetters:
    """The dead-letter topic as it stands: what comes in later is not read. Joins no group."""

    def __init__(self, settings: KafkaSettings, topic: str, group: str) -> None:
        """Connect at the first question. `group`: the service's, under whose rights it reads."""
        self.topic = topic
        self.read = 0
        """Records read since `letters` began."""
        self.foreign = 0
        """Of those, records that are no dead letters of ours."""
        self._client = Client(settings, "letters")
        own = {
            "group.id": group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",  # what left the topic meanwhile is no letter any more
            "enable.partition.eof": True,
        }
        self._consumer: Consumer = self._client.make(Consumer, own, {"fetch.queue.backoff.ms": 100})
        self._bounds: Mapping[int, tuple[int, int]] | None = None

    def records(self) -> int:
        """How many records there are, about. Raises SourceUnavailable, SourceFatal (no such topic)."""
        return sum(high - low for low, high in self._ends().values())

    def letters(self) -> Iterator[Letter]:
        """Every letter from the start up to the end that the first question found, copies included.

        In the order in which they were written within a partition of the dead-letter topic.
        Raises SourceUnavailable, SourceFatal.
        """
        self.read = self.foreign = 0
        ends = {p: high for p, (low, high) in self._ends().items() if high > low}
        self._consumer.assign([TopicPartition(self.topic, p, self._ends()[p][0]) for p in ends])
        heard = time.monotonic()
        while ends:
            for message in self._batch():
                heard = time.monotonic()
                yield from self._taken(message, ends)
            if time.monotonic() - heard > STALLED_SECONDS:
                trouble = f": {self._client.trouble}" if self._client.trouble else ""
                raise SourceUnavailable(
                    f"reading {self.topic!r}: nothing came for {STALLED_SECONDS:g} s{trouble}"
                )
        self._consumer.unassign()

    def _batch(self) -> Sequence[Message]:
        try:
            return self._consumer.consume(_BATCH, 0.2)
        except KafkaException as error:
            raise self._client.explain(error.args[0], f"reading {self.topic!r}") from None

    def _taken(self, message: Message, ends: dict[int, int]) -> Iterator[Letter]:
        """Yield its letter, if it is one; leave from `ends` what is read to its end."""
        partition, offset, error = message.partition() or 0, message.offset() or 0, message.error()
        if error is not None and error.code() != _EOF:
            if self._client.fatal is not None or not error.retriable():
                raise self._client.explain(error, f"reading {self.topic!r}")
            return
        end = ends.get(partition)
        if end is None:
            return
        if error is not None or offset >= end - 1:
            del ends[partition]
        if error is not None or offset >= end:
            return
        self.read += 1
        letter = letter_of(message)
        if letter is None:
            self.foreign += 1
        else:
            yield letter

    def _ends(self) -> Mapping[int, tuple[int, int]]:
        if self._bounds is None:
            _, found = self._client.topic(self._consumer, self.topic, ASK_SECONDS)
            self._bounds = {p: self._ask(p) for p in found}
        return self._bounds

    def _ask(self, partition: int) -> tuple[int, int]:
        try:
            told = self._consumer.get_watermark_offsets(
                TopicPartition(self.topic, partition), timeout=ASK_SECONDS
            )
        except KafkaException as error:
            raise self._client.explain(error.args[0], f"asking for the end of {self.topic!r}") from None
        if not told:  # None, which the stubs leave out: no answer in time
            raise SourceUnavailable(f"asking for the end of {self.topic!r}: no answer")
        return told

    def close(self) -> None:
        """Leave."""
        bounded_close(self._consumer.close, ASK_SECONDS, "letters")
