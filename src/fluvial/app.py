"""The composition root: from settings to a running worker. The only place that knows all the parts."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import logging
import os
import secrets
import signal
import socket
import threading
import time
from types import FrameType

from fluvial.adapters.kafka import KafkaMember, KafkaSink, KafkaSource
from fluvial.adapters.prometheus import MetricsServer
from fluvial.adapters.redis import RedisStore
from fluvial.config import Settings
from fluvial.keys import Keys
from fluvial.looking import look
from fluvial.view import WorkerView
from fluvial.worker import Worker

log = logging.getLogger("fluvial")

M_ARENA_MAX, M_MMAP_THRESHOLD = -8, -3
"""As in glibc's malloc.h."""
LARGE_BYTES = 65_536
"""From here on memory comes from the system, and goes back to it when it is freed."""
STUCK_SECONDS = 60.0
"""Above this long without a turn of the loop the process is ended: a supervisor starts it again, exactly."""


def steady_heap() -> None:
    """Keep resident memory from creeping up, where the C library is glibc.

    One heap for all threads: else each thread of the Kafka client gets its own, and what one frees another
    cannot use, a megabyte in an hour. And what is large stays out of it: else the library learns to
    take large blocks from the heap too, and it grew by a tenth of a megabyte in an hour. Call it before the
    clients are made: heaps that are there stay.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(M_ARENA_MAX, 1)
        libc.mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)


class App:
    """One worker with real parts around it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        source = KafkaMember if settings.kafka.scope == "partition" else KafkaSource
        self._source = source(settings.kafka, settings.service)
        self._store = RedisStore(
            settings.redis, Keys(settings.service), settings.scores, versions=settings.versions
        )
        sink = KafkaSink(settings.kafka, settings.dead_letter_topic)
        # The end is random: in containers on the host's network every worker is process 1 of one host.
        owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self.worker = Worker(settings, self._source, sink, self._store, owner)
        self.metrics: MetricsServer | None = None

    def view(self) -> WorkerView:
        """What the worker shows now; from any thread."""
        return look(self.worker, self._source, self._store.scores_refused)

    def run(self) -> None:
        """Serve metrics and work until the worker is told to stop."""
        wanted = self.settings.metrics
        if wanted.enabled:
            server = MetricsServer(self.view, wanted.host, wanted.port)
            server.start()
            self.metrics = server  # only now: whoever sees it may ask where it listens
            host, port = server.address
            log.info("metrics at http://%s:%d/metrics", host, port)
        try:
            self.worker.run()
        finally:
            if self.metrics is not None:
                self.metrics.close()


class Watchdog(threading.Thread):
    """Ends the process when the loop no longer turns or a shutdown takes too long.

    A client can hang in `close()`, and a fatal error can come without a callback. Ending at once is
    safe: what is not in the checkpoint is folded again.
    """

    def __init__(self, worker: Worker, grace_seconds: float, stuck_seconds: float = STUCK_SECONDS) -> None:
        super().__init__(name="fluvial-watchdog", daemon=True)
        self._worker = worker
        self._grace = grace_seconds
        self._stuck = stuck_seconds
        self._done = threading.Event()
        self.stop_asked: float | None = None

    def finish(self) -> None:
        """The worker has left: there is nothing to watch any more."""
        self._done.set()

    def run(self) -> None:
        """Look once a second."""
        while not self._done.wait(1.0):
            now = time.monotonic()
            if self.stop_asked is not None and now - self.stop_asked > self._grace:
                self._end(f"the shutdown took longer than worker.grace_seconds = {self._grace:g}")
            if self.stop_asked is None and now - self._worker.patience.turned_at > self._stuck:
                self._end(f"the loop has not turned for {self._stuck:g} s")

    def _end(self, why: str) -> None:
        log.critical("%s: ending the process; it resumes from the last checkpoint", why)
        faulthandler.dump_traceback()
        os._exit(70)


def run(settings: Settings, stuck_seconds: float = STUCK_SECONDS) -> None:
    """Run one service in the foreground until SIGTERM or SIGINT; a second one ends it at once."""
    steady_heap()
    app = App(settings)
    watchdog = Watchdog(app.worker, settings.worker.grace_seconds, stuck_seconds)
    watchdog.start()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if watchdog.stop_asked is not None:
            os._exit(128 + number)
        watchdog.stop_asked = time.monotonic()
        app.worker.stop()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        app.run()
    finally:
        watchdog.finish()
        for number, handler in before.items():
            signal.signal(number, handler)
