"""`fluvial generate`: events of a drifting stream into a topic, or to standard output as JSON lines."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from fluvial.adapters.kafka import KafkaProducer
from fluvial.config import KafkaSettings
from fluvial.errors import SourceUnavailable
from fluvial.streams import STREAMS, Stream, named, wire

WAIT_SECONDS = 30.0
"""How long a broker may take to answer at the start, and to acknowledge the rest at the end."""


class Target(Protocol):
    """Where events go."""

    def send(self, key: str, value: bytes) -> None:
        """Hand over one event."""

    def close(self) -> None:
        """Wait until everything is there. Raises SourceError."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = "Write events of a stream whose concept changes at known places."
    parser.add_argument(
        "--stream", choices=sorted(STREAMS), default="market", help="which stream (default: market)"
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--events", type=_count, default=20_000, metavar="N", help="how many (default: 20,000)"
    )
    length.add_argument("--forever", action="store_true", help="until it is stopped")
    parser.add_argument(
        "--rate", type=_rate, metavar="R", help="events per second (default: as fast as it goes)"
    )
    parser.add_argument(
        "--drift-every",
        type=_count,
        metavar="N",
        help="events between two drifts (default: the stream's own)",
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="the same seed gives the same events (default: 1)"
    )
    parser.add_argument("--bootstrap-servers", metavar="HOST:PORT", help="Kafka; without it, standard output")
    parser.add_argument("--topic", default="events", help="topic to write to (default: events)")
    parser.add_argument(
        "--create-topic",
        type=_count,
        metavar="N",
        help="create the topic with N partitions when it is missing",
    )


def _count(text: str) -> int:
    value = int(text.replace("_", "").replace(",", ""))
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _rate(text: str) -> float:
    value = float(text)
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError("must be more than 0 events per second")
    return value


def run(args: argparse.Namespace) -> int:
    """Write the events; being stopped by Ctrl-C or SIGTERM is a good end. Raises SourceError."""
    stream = named(args.stream)
    with _stop_signals() as stop:
        target = _to_kafka(args) if args.bootstrap_servers else _Lines(flush=args.rate is not None)
        sent = _write(args, stream, target, stop)
        target.close()
    where = f"to topic {args.topic!r}" if args.bootstrap_servers else "written"
    print(f"{sent:,} events of {stream.name!r} {where}", file=sys.stderr)
    return 0


def _write(args: argparse.Namespace, stream: Stream, target: Target, stop: threading.Event) -> int:
    """Send the events at their pace until the end or the stop; how many were sent."""
    every = args.drift_every or stream.every
    # At a pace the events are about now; without one they are the same bytes for the same seed.
    clock = time.time if args.rate or args.forever else None
    events = wire(stream, args.seed, None if args.forever else args.events, every, clock)
    sent = 0
    for key, value in _paced(events, args.rate, stop):
        if stop.is_set():
            break
        target.send(key, value)
        sent += 1
        if stream.drifts and sent % every == 0:
            print(f"drift: the concept changes at event {sent:,}", file=sys.stderr)
    return sent


def _paced(
    events: Iterator[tuple[str, bytes]], rate: float | None, stop: threading.Event
) -> Iterator[tuple[str, bytes]]:
    """Give each event at its time; a stall is caught up with, but not by more than a second's worth."""
    if rate is None:
        yield from events
        return
    due = time.monotonic()
    while not stop.is_set():
        now = time.monotonic()
        if due > now:
            stop.wait(due - now)
            continue
        event = next(events, None)  # made when it is due, so that its time is true
        if event is None:
            return
        yield event
        due = max(due, now - 1.0) + 1.0 / rate


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Set the event at the first Ctrl-C or SIGTERM; a second one ends the process at once."""
    stop = threading.Event()

    def handle(number: int, _frame: object) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Lines:
    """Standard output, one JSON object a line."""

    def __init__(self, *, flush: bool) -> None:
        self._flush = flush

    def send(self, key: str, value: bytes) -> None:
        """Write a line; the key is in the event."""
        del key
        sys.stdout.buffer.write(value + b"\n")
        if self._flush:
            sys.stdout.buffer.flush()

    def close(self) -> None:
        """Write out what is buffered."""
        sys.stdout.buffer.flush()


class _Topic:
    """A Kafka topic."""

    def __init__(self, producer: KafkaProducer) -> None:
        self._producer = producer

    def send(self, key: str, value: bytes) -> None:
        """Queue an event; waits while the queue is full."""
        self._producer.send(value, key)
        self._producer.poll()

    def close(self) -> None:
        """Wait for the broker. Raises SourceUnavailable when some were not taken."""
        left = self._producer.flush(WAIT_SECONDS)
        if left or self._producer.failed:
            why = f": {self._producer.error}" if self._producer.error else ""
            msg = f"{left + self._producer.failed:,} events were not acknowledged{why}; is the broker there?"
            raise SourceUnavailable(msg)


def _to_kafka(args: argparse.Namespace) -> _Topic:
    """Connect, and make the topic where that is asked for. Raises SourceError, with what to do."""
    producer = KafkaProducer(KafkaSettings(bootstrap_servers=args.bootstrap_servers, topic=args.topic))
    if args.create_topic:
        producer.create_topic(args.create_topic, WAIT_SECONDS)
    else:
        producer.partitions(WAIT_SECONDS)
    return _Topic(producer)
