"""Who feeds the demo and who is compared with: the producer at its pace, and the twin's process."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable

import msgspec

from fluvial.adapters.kafka import KafkaProducer
from fluvial.cli.demo_plan import PARTITION, RIGHT, STREAM, Plan
from fluvial.cli.demo_record import Record
from fluvial.config import Settings
from fluvial.errors import FluvialError, SourceUnavailable
from fluvial.streams import named, wire

AHEAD = 400
"""Events on their way at most. The embedded Kafka drops the oldest beyond some 15,000; this is half a
second's worth, so that a slow machine sees a lower rate and never a growing lag."""
NAP = 0.01
FLUSH_SECONDS = 5.0
JOIN_SECONDS = 15.0


class Task(threading.Thread):
    """A thread whose failure is kept for whoever waits for it."""

    def __init__(self, name: str, do: Callable[[], None]) -> None:
        super().__init__(name=name, daemon=True)
        self._do = do
        self.error: Exception | None = None

    def run(self) -> None:
        """Do it."""
        try:
            self._do()
        except Exception as error:  # noqa: BLE001 - it is raised again where the demo waits
            self.error = error


class Feeder:
    """Sends the stream at its pace, as a producer of its own would."""

    def __init__(self, plan: Plan, settings: Settings, record: Record, position: Callable[[], int]) -> None:
        """`position()` is how many events worker and twin both have behind them."""
        self._plan = plan
        self._position = position
        self._record = record
        self._producer = KafkaProducer(settings.kafka)
        self._stop = threading.Event()
        self.sent = 0
        self.began = 0.0
        self.done = False

    def run(self) -> None:
        """Send until the end, the stop, or the end of the time. Raises SourceError."""
        plan = self._plan
        labelled = msgspec.json.Decoder(_Labelled)
        due = self.began = time.monotonic()
        for key, value in wire(named(STREAM), plan.seed, plan.events, plan.every, time.time):
            if not self._wait(due):
                break
            self._record.sent(labelled.decode(value).label)
            self._producer.send(value, key, PARTITION)
            self.sent += 1
            # A stall is caught up with, but not by more than a quarter of a second's worth.
            due = max(due, time.monotonic() - 0.25) + 1.0 / plan.rate
            if self.sent == 1 and self._wait_for_first():
                due = self.began = time.monotonic()
        left = self._producer.flush(FLUSH_SECONDS)
        if left or self._producer.failed:
            lost = left + self._producer.failed
            msg = f"the embedded Kafka did not take {lost:,} events: {self._producer.error}"
            raise SourceUnavailable(msg)
        self.done = True

    def _wait_for_first(self) -> bool:
        """Wait until worker and twin are up: they have folded the first event. False: no more events."""
        while not self._position():
            self._producer.poll(0)
            if self._stop.wait(NAP):
                return False
        return True

    def stop(self) -> None:
        """Send no more."""
        self._stop.set()

    def _wait(self, due: float) -> bool:
        """Wait until an event is due and nobody is far behind; False: no more events."""
        most = self._plan.most_seconds
        while not self._stop.is_set():
            now = time.monotonic()
            if most is not None and now - self.began > most:
                return False
            if now >= due and self.sent - self._position() < AHEAD:
                return True
            self._producer.poll(0)
            self._stop.wait(max(NAP, min(due - now, 0.1)))
        return False


class _Labelled(msgspec.Struct):
    """Of an event on the wire, its label."""

    label: bool


class TwinProcess:
    """The twin, in a process of its own, on a leash: closing its input ends it, however we end."""

    def __init__(self, plan: Plan, servers: str, record: Record) -> None:
        self._record = record
        self._process = subprocess.Popen(  # noqa: S603 -- our own module; nothing of it comes from input
            [sys.executable, "-m", "fluvial.cli.demo_twin", servers, plan.model],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # a Ctrl-C in the terminal is for us to answer
        )
        self._stopped = False

    def run(self) -> None:
        """Take its judgements until it ends. Raises FluvialError when it ends by itself."""
        assert self._process.stdout is not None  # noqa: S101 - a pipe, as asked for
        assert self._process.stderr is not None  # noqa: S101 - a pipe, as asked for
        # Unbuffered: what is there, at most so much; empty at its end.
        while judged := self._process.stdout.read(4_096):
            for right in judged:
                self._record.twin_said(right == RIGHT)
        if not self._stopped:
            said = self._process.stderr.read().decode(errors="replace").strip().splitlines()
            msg = f"the twin ended before the events did: {said[-1] if said else 'it said nothing'}"
            raise FluvialError(msg)

    def stop(self) -> None:
        """End it."""
        self._stopped = True
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(JOIN_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """Close its pipes, after whoever reads them is done."""
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
