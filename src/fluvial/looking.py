"""One look at a worker: from its plain attributes to a `WorkerView`, from any thread."""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Sequence
from math import nan

from fluvial.keeper import Keeper
from fluvial.learner import Learner
from fluvial.ports import Source
from fluvial.publisher import Publisher
from fluvial.shard import Shard
from fluvial.tally import Tally
from fluvial.types import Lag
from fluvial.view import DISTANCES, CheckpointView, Histogram, PartitionView, ScoreView, ShardView, WorkerView
from fluvial.worker import Worker

STALLED_SECONDS = 30.0
"""The loop turns several times a second; after this long it is not coming back by itself."""


def look(worker: Worker, source: Source, refused_scores: int = 0) -> WorkerView:
    """What the worker shows now."""
    keepers, waiting = list(worker.scope.keepers.values()), worker.patience.waiting_for
    tallies = list(worker.scope.tallies.values())
    alive = time.monotonic() - worker.patience.turned_at < STALLED_SECONDS
    reasons = []
    if not alive:
        reasons.append(f"the loop has not turned for {time.monotonic() - worker.patience.turned_at:.0f} s")
    if waiting is not None:
        reasons.append(waiting)
    trips = {k.shard.claim.shard: k.trip for k in keepers if k.trip is not None}
    held = "shard {}: paused by the flood breaker until `fluvial resume`: {}"
    reasons += [held.format(shard, trip.because) for shard, trip in trips.items()]
    reasons += [f"partition {p} is parked: {why}" for p, why in worker.scope.parked.copy().items()]
    survey = worker.scope.survey
    reasons += [*survey.silent.values(), *filter(None, [survey.away])]
    unfit = tuple(filter(None, [worker.scope.fitness.said]))
    accepted = worker.settings.redis.allow_unfit
    reasons += () if accepted else unfit
    return WorkerView(
        service=worker.settings.service,
        task=worker.settings.schema.label.task,
        scope=worker.settings.kafka.scope,
        alive=alive,
        ready=bool(keepers) and not reasons,
        not_ready=tuple(reasons),
        warnings=unfit if accepted else (),
        paused=bool(keepers) and (waiting is not None or len(trips) == len(keepers)),
        started_at=worker.started_at,
        busy_seconds=sum(tally.busy_seconds for tally in tallies),
        batches=sum(tally.batches for tally in tallies),
        incidents=sum((tally.incidents for tally in tallies), Counter()),
        store_errors=dict(worker.patience.errors),
        scores=_scores(list(worker.scope.publishers.values()), refused_scores),
        shards=tuple(_shard(keeper, source) for keeper in keepers),
    )


def _scores(publishers: Sequence[Publisher], refused: int) -> ScoreView:
    """What all of them published."""
    latency = Histogram()
    for publisher in publishers:
        latency.counts = [a + b for a, b in zip(latency.counts, publisher.latency.counts, strict=True)]
        latency.sum += publisher.latency.sum
    return ScoreView(
        published=sum(publisher.published for publisher in publishers),
        refused=refused + sum(publisher.given_up for publisher in publishers),
        errors=sum(publisher.errors for publisher in publishers),
        latency=latency,
    )


def _give_way() -> None:
    time.sleep(0.001)


def _shard(keeper: Keeper, source: Source) -> ShardView:
    shard, tally = keeper.shard, keeper.tally
    learner = shard.learner
    happened, at = dict(tally.happened), dict(tally.happened_at)
    return ShardView(
        shard=shard.claim.shard,
        epoch=shard.claim.epoch,
        sequence=shard.sequence,
        version=learner.lineage.current,
        last_event_time=tally.last_event_time if tally.last_event_time is not None else nan,
        partitions=_partitions(tally, shard, source),
        metrics=learner.metrics(_give_way),
        members=learner.mixture.standings(learner.events),
        signals={(what[1], what[2]): n for what, n in happened.items() if what[0] == "signal"},
        distances=_distances(learner),
        reactions={what[1]: n for what, n in happened.items() if what[0] == "reaction"},
        versions={what[1]: n for what, n in happened.items() if what[0] == "version"},
        signal_times={(what[1], what[2]): t for what, t in at.items() if what[0] == "signal"},
        reaction_times={what[1]: t for what, t in at.items() if what[0] == "reaction"},
        version_times={what[1]: t for what, t in at.items() if what[0] == "version"},
        dead_letters=dict(tally.dead_letters),
        tripped=keeper.trip is not None,
        trips=tally.trips,
        unpredicted=learner.evaluation.unpredicted - tally.counted_before["unpredicted"],
        nonfinite=learner.counts["non-finite"] - tally.counted_before["non-finite"],
        model_errors=tally.model_errors,
        checkpoint=_checkpoint(keeper),
    )


def _distances(learner: Learner) -> dict[str, float]:
    """Of the features that the settings declare."""
    known = learner.planes.distances()
    return {name: known.get(name, nan) for name in learner.spec.features[:DISTANCES]}


def _partitions(tally: Tally, shard: Shard, source: Source) -> tuple[PartitionView, ...]:
    ends = source.lag()
    views = []
    for partition, ledger in list(shard.learner.ledger.partitions.items()):
        now, end = copy.copy(ledger), ends.get(partition)
        taken = tally.taken.get(partition, now)
        views.append(PartitionView(partition=partition, ledger=now, taken=taken, lag=_lag(end, now.next)))
    return tuple(views)


def _lag(end: Lag | None, following: int) -> float:
    return nan if end is None or end.high < 0 else float(max(0, end.high - following))


def _checkpoint(keeper: Keeper) -> CheckpointView:
    tally = keeper.tally
    since = tally.saved_at or keeper.shard.loaded_at
    return CheckpointView(
        saved=tally.saved,
        age_seconds=time.monotonic() - since,
        last_bytes=tally.saved_bytes,
        last_seconds=keeper.pace.took if tally.saved else nan,
        failures=tally.save_failures,
        too_large=tally.too_large,
        entries_given_up=tally.entries_given_up,
    )
