"""Scores leave while the next batch is computed: one batch under way at a time, in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future

from fluvial.errors import StoreError, StoreFull
from fluvial.ports import Store
from fluvial.types import Claim, Score
from fluvial.view import Histogram

Batch = Sequence[tuple[str, Score]]


class Publisher:
    """Sends each batch's scores from a thread of its own.

    `submit` waits for the batch before and raises what became of it; a batch that failed is kept, and
    `flush` tries it again. A full store costs the batch: scores give way before checkpoints do.
    """

    def __init__(self, store: Store, pool: Executor, clock: Callable[[], float] = time.time) -> None:
        """Send from a thread of `pool`: of one thread, where several shards share a store."""
        self._store = store
        self._clock = clock
        self._pool = pool
        self._under_way: Future[int] | None = None
        self._send: Callable[[], int] | None = None
        self.published = 0
        self.given_up = 0
        """Scores dropped because the store was full."""
        self.errors = 0
        self.latency = Histogram()

    def submit(self, claim: Claim, scores: Batch, oldest: float) -> None:
        """Send `scores`, once the batch before is out. `oldest`: Kafka's time of the batch's first event."""
        self.flush()
        if not scores:
            return
        self._send = lambda: self._publish(claim, scores, oldest)
        self._under_way = self._pool.submit(self._send)

    def _publish(self, claim: Claim, scores: Batch, oldest: float) -> int:
        try:
            written = self._store.publish(claim, scores)
        except StoreFull:
            self.errors += 1
            self.given_up += len(scores)
            return 0
        # The oldest event of a batch waited longest: a pessimistic sample, one a batch.
        if oldest > 0.0:  # below: the topic keeps no time
            self.latency.observe(max(0.0, self._clock() - oldest))
        return written

    def flush(self) -> None:
        """Wait until nothing is under way. Raises StoreError; then call again: the batch is kept."""
        if self._send is None:
            return
        under_way, self._under_way = self._under_way, None
        try:
            self.published += under_way.result() if under_way is not None else self._send()
        except StoreError:
            self.errors += 1
            raise
        self._send = None

    def drop(self) -> None:
        """Forget what is under way: the shard is no longer ours."""
        if self._under_way is not None:
            self._under_way.exception()  # wait for it: the store is told from one thread at a time
        self._under_way = self._send = None
