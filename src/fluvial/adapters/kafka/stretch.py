"""A stretch of a topic, read again and again in one order, without a trace in Kafka."""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from confluent_kafka import KafkaError
from confluent_kafka import Message as KafkaMessage

from fluvial.adapters.kafka.source import KafkaSource
from fluvial.config import KafkaSettings
from fluvial.errors import SettingsError
from fluvial.ports import Message

SECONDS = 10.0
SILENT_SECONDS = 5.0
"""Without a record below the stretch's end, after which a broker is asked whether one is to come at all."""
BATCH = 500


class Bounds(NamedTuple):
    """From the first offset up to, and without, the second."""

    first: int
    end: int


class Stretch:
    """Partitions of a topic between two places each: offsets, `earliest`, `latest` or times.

    Several partitions come in the order of the messages' timestamps, which is the same each time; that of
    a live worker is not fixed. Raises SettingsError, SourceError.
    """

    def __init__(
        self, settings: KafkaSettings, service: str, first: str, end: str, partition: int | None
    ) -> None:
        self._settings, self._service = settings, service
        source = KafkaSource(settings, service)
        try:
            ends = source.ends(SECONDS)
            if partition is not None and partition not in ends:
                raise SettingsError(f"--partition: topic {settings.topic!r} has none of number {partition}")
            chosen = sorted(ends) if partition is None else [partition]
            lows = self._places(source, first, "--from")
            highs = self._places(source, end, "--to")
        finally:
            source.close(SECONDS)
        self.bounds: dict[int, Bounds] = {}
        for p in chosen:
            low = lows[p] if isinstance(lows, Mapping) else lows
            high = min(highs[p] if isinstance(highs, Mapping) else highs, ends[p].high)
            if low < ends[p].low:
                raise SettingsError(
                    f"--from: partition {p} begins at offset {ends[p].low}; {low} has left the log"
                )
            self.bounds[p] = Bounds(low, max(low, high))
        self.events = sum(b.end - b.first for b in self.bounds.values())

    def _places(self, source: KafkaSource, place: str, option: str) -> Mapping[int, int] | int:
        """The offset of each partition, or the one of all."""
        if place.isdecimal():
            return int(place)
        try:
            return source.start_offsets(place, SECONDS)
        except SettingsError:
            raise SettingsError(
                f"{option}: {place!r} is no offset, earliest, latest or time such as 2026-01-31T12:00:00Z"
            ) from None

    def read(self) -> Iterator[Message]:
        """Read the stretch from its beginning."""
        parts = [self._read(p, bounds) for p, bounds in self.bounds.items() if bounds.end > bounds.first]
        if len(parts) == 1:
            yield from parts[0]
        else:
            yield from heapq.merge(*parts, key=_order)

    def _read(self, partition: int, bounds: Bounds) -> Iterator[Message]:
        return read_partition(self._settings, self._service, partition, bounds)


def read_partition(
    settings: KafkaSettings, service: str, partition: int, bounds: Bounds
) -> Iterator[Message]:
    """The messages of one partition between two offsets. Raises SourceError, OffsetLost."""
    source = _ToItsEnd(settings, service)
    try:
        source.assign({partition: bounds.first})
        heard = time.monotonic()
        while not source.at_end:
            for message in source.poll(BATCH, 0.5):
                heard = time.monotonic()
                if message.offset() >= bounds.end:
                    return
                yield message
                if message.offset() == bounds.end - 1:
                    return
            if time.monotonic() - heard > SILENT_SECONDS:
                source.bounds(partition, SECONDS)  # raises when nobody is there to send anything
                heard = time.monotonic()
    finally:
        source.close(SECONDS)


class _ToItsEnd(KafkaSource):
    """Notices the log's end, which may lie behind offsets that hold no record: a transaction's markers."""

    def __init__(self, settings: KafkaSettings, service: str) -> None:
        self.at_end = False
        super().__init__(settings, service, {"enable.partition.eof": True})

    def _report(self, message: KafkaMessage) -> bool:
        error = message.error()
        if error is not None and error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 -- a local code
            self.at_end = True
        return super()._report(message)


def _order(message: Message) -> tuple[int, int, int]:
    return message.timestamp()[1], message.partition(), message.offset()
