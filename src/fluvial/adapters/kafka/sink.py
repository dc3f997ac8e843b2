"""Dead letters: at least once, each a copy of the record with headers that say where from and why."""

from __future__ import annotations

import hashlib
import logging
import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any

from confluent_kafka import (
    KafkaError,
    KafkaException,
    Producer,
)

from fluvial.adapters.kafka.client import (
    MAX_LETTER_BYTES,
    TOO_LARGE,
    Client,
    bounded_close,
    log,
)
from fluvial.config import KafkaSettings
from fluvial.errors import (
    SourceError,
    SourceUnavailable,
)
from fluvial.types import DeadLetter

MAX_WAITING = 10_000  # letters that may wait for their acknowledgement
MAX_WAITING_BYTES = 64_000_000
ROOM_SECONDS = 1.0  # how long `send` waits for room
RETRY_SECONDS = 0.2

# How much of a letter is sent. A batch is refused as a whole, so a refused letter first goes alone.
_WHOLE, _ALONE, _CUT, _BARE = range(4)
_CUT_VALUE = 100_000
_CUT_REST = 20_000
_MESSAGE = 2_000


def letter_headers(letter: DeadLetter, extent: int = _WHOLE) -> list[tuple[str, bytes | None]]:
    """Original headers, then ours: the names of Kafka Connect, so that its tools read them.

    Source: Kafka Connect's `errors.deadletterqueue.context.headers.enable`. `fluvial.id` identifies the
    event, so that duplicates can be told. Where a header comes twice (a letter of a redriven letter),
    the last one counts.
    """
    original = list(letter.headers)
    if extent == _BARE or (extent == _CUT and _size(letter.headers) > _CUT_REST):
        original = []
    place = f"{letter.topic}/{letter.partition}/{letter.offset}"
    message = letter.message[: _MESSAGE if extent < _BARE else 200]
    ours: list[tuple[str, bytes | None]] = [
        ("__connect.errors.topic", letter.topic.encode()),
        ("__connect.errors.partition", str(letter.partition).encode()),
        ("__connect.errors.offset", str(letter.offset).encode()),
        ("__connect.errors.exception.class.name", str(letter.reason).encode()),
        ("__connect.errors.exception.message", message.encode(errors="replace")),
        ("fluvial.id", place.encode()),
    ]
    if letter.topic_id is not None:
        ours.append(("fluvial.topic_id", letter.topic_id.encode()))
    if extent >= _CUT:
        value = letter.value or b""
        ours += [
            ("fluvial.truncated", b"true"),
            ("fluvial.size", str(len(value)).encode()),
            ("fluvial.sha256", hashlib.sha256(value).hexdigest().encode()),
        ]
    return original + ours


def _size(headers: Sequence[tuple[str, bytes | None]]) -> int:
    return sum(len(name) + len(value or b"") for name, value in headers)


class _Pending:
    """A letter on its way, and how much of it goes."""

    __slots__ = ("extent", "letter", "size", "timed")

    def __init__(self, letter: DeadLetter) -> None:
        self.letter = letter
        self.size = len(letter.value or b"") + len(letter.key or b"") + _size(letter.headers)
        self.extent = _ALONE if self.size > MAX_LETTER_BYTES else _WHOLE
        self.timed = letter.timestamp_ms > 0

    def record(self) -> dict[str, Any]:
        """Arguments for the client."""
        letter, value, key = self.letter, self.letter.value, self.letter.key
        if self.extent == _CUT:
            value = (value or b"")[:_CUT_VALUE]
            key = key if key is None or len(key) <= _CUT_REST else key[:_CUT_REST]
        elif self.extent == _BARE:
            value, key = b"", None
        record: dict[str, Any] = {"value": value, "key": key, "headers": letter_headers(letter, self.extent)}
        if self.timed:
            record["timestamp"] = letter.timestamp_ms
        return record


class KafkaSink:
    """Dead letters to a topic, at least once, as `ports.Sink`: original key, bytes, headers and time."""

    def __init__(self, settings: KafkaSettings, topic: str) -> None:
        self.topic = topic
        self._client = Client(settings, "dead-letters")
        own = {"enable.idempotence": True, "acks": "all"}
        defaults = {
            "compression.type": "lz4",
            "linger.ms": 5,
            "message.max.bytes": MAX_LETTER_BYTES,
            "queue.buffering.max.kbytes": 2 * MAX_WAITING_BYTES // 1_000,
        }
        self._producer: Producer = self._client.make(Producer, own, defaults)
        self._unsent: deque[_Pending] = deque()
        self._alone: deque[_Pending] = deque()
        self._in_flight = 0
        self._solo = False
        self._waiting = 0
        self._waiting_bytes = 0
        self._retry_at = 0.0
        self._closed = False

    def send(self, letters: Sequence[DeadLetter]) -> None:
        """Hand over; a letter too large for the topic is truncated and says so.

        While too many wait for their acknowledgement this waits up to `ROOM_SECONDS`, then raises
        SourceUnavailable, having taken none of them.
        """
        end = time.monotonic() + ROOM_SECONDS
        while self._waiting >= MAX_WAITING or self._waiting_bytes >= MAX_WAITING_BYTES:
            self._step(0.05)
            if time.monotonic() > end:
                raise SourceUnavailable(self._why(0.5))
        for letter in letters:
            pending = _Pending(letter)
            self._waiting += 1
            self._waiting_bytes += pending.size
            self._unsent.append(pending)
        self._step(0)

    def flush(self, seconds: float) -> None:
        """Wait until all that was sent is acknowledged, or raise SourceUnavailable; then call again."""
        ask = min(0.5, seconds / 4)  # kept back for finding out why
        end = time.monotonic() + seconds - ask
        while self._waiting:
            left = end - time.monotonic()
            if left <= 0:
                raise SourceUnavailable(self._why(ask))
            self._step(min(left, 0.05))

    def _step(self, seconds: float) -> None:
        """Hand letters to the client and take its reports."""
        self._push()
        self._client.take_reports(self._producer, seconds, f"writing dead letters to {self.topic!r}")

    def _push(self) -> None:
        """Give the client what may go now: a refused letter waits for an empty line and goes alone."""
        if time.monotonic() < self._retry_at or (self._solo and self._in_flight):
            return
        self._solo = False
        if self._alone:
            if not self._in_flight:
                self._solo = self._produce(self._alone[0])
                self._alone.popleft()  # its report may have put it at the end again
            return
        while self._unsent and time.monotonic() >= self._retry_at and self._produce(self._unsent[0]):
            self._unsent.popleft()  # as above

    def _produce(self, pending: _Pending) -> bool:
        """Whether the client took the letter (or it was put aside); False: its queue is full."""
        self._in_flight += 1
        try:
            self._producer.produce(
                self.topic, on_delivery=partial(self._delivered, pending), **pending.record()
            )
        except BufferError:
            self._in_flight -= 1
            return False
        except KafkaException as error:  # refused at once: too large for the client, unknown topic
            self._delivered(pending, error.args[0], None)
        return True

    def _delivered(self, pending: _Pending, error: KafkaError | None, _message: object) -> None:
        """Take one report; runs inside poll."""
        self._in_flight -= 1
        if error is None:
            self._waiting -= 1
            self._waiting_bytes -= pending.size
            return
        self._client.trouble = self._client.log.hide(error.str())
        if error.code() in TOO_LARGE and pending.extent < _BARE:
            pending.extent += 1
            self._alone.append(pending)
            return
        if error.code() == KafkaError.INVALID_TIMESTAMP:
            pending.timed = False
        said = f"a dead letter was not taken by {self.topic!r}: {self._client.trouble} (sent again)"
        self._client.log.once(f"letter {error.name()}", logging.WARNING, said)
        self._retry_at = time.monotonic() + RETRY_SECONDS
        (self._alone if pending.extent else self._unsent).append(pending)

    def _why(self, seconds: float) -> str:
        """Why letters wait, for a person. Asking also wakes the client up when the topic appears."""
        said = f"{self._waiting} dead letters wait for {self.topic!r}"
        try:
            self._client.topic(self._producer, self.topic, seconds)
        except SourceError as error:
            return f"{said}: {error}"
        return f"{said}: {self._client.trouble or 'no answer yet'}"

    def close(self, seconds: float) -> None:
        """Leave, within `seconds`; what is not acknowledged comes again, since no checkpoint covers it."""
        if self._closed:
            return
        self._closed = True
        bounded_close(partial(self._producer.flush, seconds), seconds, "dead-letter producer")
        if self._waiting:
            log.warning("%d dead letters were not acknowledged; they come again", self._waiting)
