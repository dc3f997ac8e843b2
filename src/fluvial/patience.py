"""Waiting out what is away: nothing is consumed, nothing is given up, and the Kafka client is kept alive."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import TypeVar

from fluvial.errors import Fenced, OffsetLost, SourceFatal, SourceUnavailable, StoreUnavailable
from fluvial.ports import Source

log = logging.getLogger("fluvial.worker")
T = TypeVar("T")

PIECE_SECONDS = 0.25
"""Between two renewals of the lease while something is waited for."""


class Stopped(Exception):
    """The worker was told to stop while it waited."""


class Patience:
    """Does what a port may refuse for a while, until it is done or the worker is told to stop."""

    def __init__(self, source: Source, grace_seconds: float) -> None:
        self._source = source
        self._grace = grace_seconds
        self._stop_by: float | None = None
        self.waiting_for: str | None = "starting"
        """None while nothing keeps the worker from its work."""
        self.renew: Callable[[], None] = lambda: None
        """Called during an outage, to keep what would run out meanwhile. May raise Fenced."""
        self.turned_at = time.monotonic()
        """When the loop was last seen turning."""
        self.waited = 0.0
        """Seconds spent on outages."""
        self.errors: Counter[str] = Counter()
        self.reports: deque[OffsetLost | SourceUnavailable] = deque()
        """What the client reported during an outage, to be answered after it."""

    def stop(self) -> None:
        """Wait no longer than half the grace for anything. Safe to call from a signal handler."""
        self._stop_by = time.monotonic() + self._grace / 2

    @property
    def stopping(self) -> bool:
        """Whether the worker was told to stop."""
        return self._stop_by is not None

    def turn(self) -> None:
        """The loop turns."""
        self.turned_at = time.monotonic()

    def wait(self, seconds: float) -> None:
        """Sleep in small pieces. Raises Stopped when told to stop."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.turn()
            if self.stopping:
                raise Stopped
            time.sleep(min(0.05, seconds))

    def persist(self, action: Callable[[], T], abandoned: Callable[[], bool] = lambda: False) -> T:
        """Do it; while the store or the brokers are away, consume nothing, keep the client alive, try again.

        Raises Stopped when told to stop and half the grace has passed, Fenced when `abandoned` says so.
        """
        delay, waited, was, began = 0.1, False, self.waiting_for, time.monotonic()
        try:
            while True:
                tried = time.monotonic()
                try:
                    return action()
                except (StoreUnavailable, SourceUnavailable) as error:
                    self._away(error, first=not waited)
                    waited = True
                    self._keep_alive(delay, asks_store=isinstance(error, StoreUnavailable))
                    if abandoned():
                        raise Fenced("taken away during an outage") from error
                    delay = min(2.0, 2.0 * delay)
        finally:
            self.waited += tried - began
            # Also when it ends in another error that somebody answers: a full store, a lost offset.
            if waited:
                self._source.resume()
                self.waiting_for = was
                log.info("the wait is over")

    def _away(self, error: StoreUnavailable | SourceUnavailable, *, first: bool) -> None:
        if isinstance(error, StoreUnavailable):
            self.errors["unavailable"] += 1
        if self._stop_by is not None and time.monotonic() > self._stop_by:
            log.warning(
                "stopping without a last checkpoint (%s); what came after the newest is folded again", error
            )
            raise Stopped
        if first:
            self._source.pause()
            self.waiting_for = str(error)
            log.warning("waiting: %s", error)

    def _keep_alive(self, seconds: float, *, asks_store: bool) -> None:
        """Let the Kafka client turn while nothing is consumed; renew the lease where the store is there."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.turn()
            if not asks_store:
                self.renew()
            piece = min(left, PIECE_SECONDS)
            try:
                early = self._source.poll(1, piece)
            except (OffsetLost, SourceUnavailable) as report:
                self.reports.append(report)
            else:
                if early:
                    raise SourceFatal("records came while reading was paused: a restart reads them again")
            if time.monotonic() - self.turned_at < piece / 2:  # nothing is assigned yet: it came back at once
                time.sleep(piece / 2)
