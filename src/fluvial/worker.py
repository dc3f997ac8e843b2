"""One process's work on one service: its parts, its scope, its end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from fluvial.config import Settings
from fluvial.errors import FluvialError, StoreError, StoreUnfit
from fluvial.keeper import Keeper, Parts
from fluvial.partition_scope import PartitionScope
from fluvial.patience import Patience, Stopped
from fluvial.ports import Sink, Source, Store
from fluvial.publisher import Publisher
from fluvial.scopes import Scope
from fluvial.shard import Shard
from fluvial.tally import Tally
from fluvial.topic_scope import SHARD, TopicScope
from fluvial.types import Rare

log = logging.getLogger("fluvial.worker")


class Worker:
    """`run` returns when it was told to `stop`. Everything else may be read from any thread."""

    def __init__(self, settings: Settings, source: Source, sink: Sink, store: Store, owner: str) -> None:
        self.settings = settings
        self.owner = owner
        self.started_at = time.time()
        self._parts = Parts(settings, source, sink, store)
        self.patience = Patience(source, settings.worker.grace_seconds)
        kind = PartitionScope if settings.kafka.scope == "partition" else TopicScope
        self.scope: Scope = kind(self._parts, self.patience, owner)

    def listen(self, hear: Callable[[Rare], None]) -> None:
        """Be told of everything rare that the fold says (the demo's live view)."""
        self.scope.hear.append(hear)

    def stop(self) -> None:
        """Finish the batch, save a checkpoint, give leases back. Safe to call from a signal handler."""
        self.patience.stop()

    # ---- topic scope's only shard ------------------------------------------------------------

    @property
    def keeper(self) -> Keeper | None:
        """Who keeps the one shard of topic scope, if somebody does."""
        return self.scope.keepers.get(None)

    @property
    def shard(self) -> Shard | None:
        """The one shard of topic scope, if it is kept here."""
        keeper = self.keeper
        return None if keeper is None else keeper.shard

    @property
    def tally(self) -> Tally:
        """Its counts."""
        return self.scope.tally(SHARD)

    @property
    def publisher(self) -> Publisher:
        """Who sends its scores."""
        return self.scope.publisher(SHARD)

    # ---- the process -------------------------------------------------------------------------

    def run(self) -> None:
        """Work until told to stop. Raises what a person has to decide; then nothing is lost."""
        try:
            self._check_store()
            self.scope.run()
        except Stopped:
            pass
        except FluvialError as error:
            self.scope.journal_refusal(error)
            raise
        finally:
            self._leave()

    def _check_store(self) -> None:
        """Refuse a store that would lose what it acknowledged, unless the settings accept it."""
        fitness = self.scope.fitness
        fitness.first(self.patience.persist(self._parts.store.report))
        if not fitness.said:
            return
        if not self.settings.redis.allow_unfit:
            raise StoreUnfit(f"{fitness.said}. To go on all the same: redis.allow_unfit = true")
        log.warning("%s; going on, as redis.allow_unfit says", fitness.said)

    def _leave(self) -> None:
        """Give everything back; what cannot be given back expires."""
        self.patience.waiting_for = "stopping"
        try:
            self.scope.leave()
        except StoreError as error:
            log.warning("a lease was not given back and expires by itself: %s", error)
        self._parts.sink.close(2.0)
        self._parts.source.close(5.0)
        self._parts.store.close()
