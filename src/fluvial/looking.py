"""One look at a worker: from its plain attributes to a `WorkerView`, from any thread."""

from __future__ import annotations

import copy
import time
from math import nan

from fluvial.ports import Source
from fluvial.shard import Shard
from fluvial.types import Lag
from fluvial.view import CheckpointView, PartitionView, ShardView, WorkerView
from fluvial.worker import Worker

STALLED_SECONDS = 30.0
"""The loop turns several times a second; after this long it is not coming back by itself."""


def look(worker: Worker, source: Source, refused_scores: int = 0) -> WorkerView:
    """What the worker shows now."""
    shard, waiting = worker.shard, worker.waiting_for
    alive = time.monotonic() - worker.turned_at < STALLED_SECONDS
    reasons = []
    if not alive:
        reasons.append(f"the loop has not turned for {time.monotonic() - worker.turned_at:.0f} s")
    if waiting is not None:
        reasons.append(waiting)
    return WorkerView(
        service=worker.settings.service,
        task=worker.settings.schema.label.task,
        scope=worker.settings.kafka.scope,
        alive=alive,
        ready=shard is not None and not reasons,
        not_ready=tuple(reasons),
        paused=shard is not None and waiting is not None,
        started_at=worker.started_at,
        busy_seconds=worker.busy_seconds,
        batches=worker.batches,
        store_errors=dict(worker.store_errors),
        scores=worker.publisher.view(refused_scores),
        shards=() if shard is None else (_shard(worker, shard, source),),
    )


def _shard(worker: Worker, shard: Shard, source: Source) -> ShardView:
    learner = shard.learner
    happened, at = dict(worker.happened), dict(worker.happened_at)
    return ShardView(
        shard=shard.claim.shard,
        epoch=shard.claim.epoch,
        sequence=shard.sequence,
        version=learner.lineage.current,
        last_event_time=worker.last_event_time if worker.last_event_time is not None else nan,
        partitions=_partitions(worker, shard, source),
        metrics=learner.metrics(),
        members=learner.mixture.standings(learner.events),
        signals={(what[1], what[2]): n for what, n in happened.items() if what[0] == "signal"},
        reactions={what[1]: n for what, n in happened.items() if what[0] == "reaction"},
        versions={what[1]: n for what, n in happened.items() if what[0] == "version"},
        signal_times={(what[1], what[2]): t for what, t in at.items() if what[0] == "signal"},
        reaction_times={what[1]: t for what, t in at.items() if what[0] == "reaction"},
        version_times={what[1]: t for what, t in at.items() if what[0] == "version"},
        dead_letters=dict(worker.dead_letters),
        unpredicted=learner.evaluation.unpredicted - worker.counted_before["unpredicted"],
        nonfinite=learner.counts["non-finite"] - worker.counted_before["non-finite"],
        model_errors=worker.model_errors,
        checkpoint=_checkpoint(worker, shard),
    )


def _partitions(worker: Worker, shard: Shard, source: Source) -> tuple[PartitionView, ...]:
    ends = source.lag()
    views = []
    for partition, ledger in list(shard.learner.ledger.partitions.items()):
        now, end = copy.copy(ledger), ends.get(partition)
        taken = worker.taken.get(partition, now)
        views.append(PartitionView(partition=partition, ledger=now, taken=taken, lag=_lag(end, now.next)))
    return tuple(views)


def _lag(end: Lag | None, following: int) -> float:
    return nan if end is None or end.high < 0 else float(max(0, end.high - following))


def _checkpoint(worker: Worker, shard: Shard) -> CheckpointView:
    since = worker.saved_at or shard.loaded_at
    return CheckpointView(
        saved=worker.saved,
        age_seconds=time.monotonic() - since,
        last_bytes=worker.saved_bytes,
        last_seconds=worker.pace.took if worker.saved else nan,
        failures=worker.save_failures,
        too_large=worker.too_large,
    )
