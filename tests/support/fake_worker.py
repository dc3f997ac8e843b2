"""A worker that is nothing but numbers: every look finds it a little further."""

import time

from fluvial.errors import Reason
from fluvial.types import Action, MemberStanding, PartitionLedger, SignalKind, Task
from fluvial.view import (
    CAUSES,
    HORIZONS,
    METRICS,
    CheckpointView,
    Histogram,
    PartitionView,
    ScoreView,
    ShardView,
    WorkerView,
)

QUALITY = {
    "accuracy": 0.87,
    "no_change_accuracy": 0.55,
    "majority_accuracy": 0.6,
    "kappa": 0.71,
    "kappa_temporal": 0.68,
    "log_loss": 0.31,
    "roc_auc": 0.93,
    "mae": 2.5,
    "last_value_mae": 6.0,
    "rmse": 3.4,
    "r2": 0.82,
}


class FakeWorker:
    """Give its `view` to whatever shows a worker; set attributes to change what is seen."""

    def __init__(self, task=Task.BINARY, service="fake", partitions=(0, 1, 2)):
        self.task = task
        self.service = service
        self.partitions = partitions
        self.holding = True
        self.alive = True
        self.ready = True
        self.not_ready = ()
        self.broken = None
        self.looks = 0
        self.latency = Histogram()

    def view(self):
        self.looks += 1
        if self.broken is not None:
            raise self.broken
        for milliseconds in (3, 12, 60, 240):
            self.latency.observe(milliseconds / 1000)
        return WorkerView(
            service=self.service,
            task=self.task,
            alive=self.alive,
            ready=self.ready,
            not_ready=self.not_ready,
            started_at=1_700_000_000.0,
            busy_seconds=0.4 * self.looks,
            batches=4 * self.looks,
            store_errors={"unavailable": self.looks // 10},
            scores=ScoreView(published=900 * self.looks, latency=self.latency),
            shards=(self.shard(),) if self.holding else (),
        )

    def shard(self):
        n, now = self.looks, time.time()
        return ShardView(
            shard="topic",
            epoch=3,
            sequence=n,
            version=1 + n // 5,
            last_event_time=now,
            partitions=tuple(self.partition(p) for p in self.partitions),
            metrics={h: {name: QUALITY[name] for name in METRICS[self.task]} for h in HORIZONS},
            members=(
                MemberStanding(name="linear", champion=True, weight=0.7, age=1_000 * n),
                MemberStanding(name="linear", champion=False, weight=0.2, age=300),
                MemberStanding(name="linear", champion=False, weight=0.1, age=1_300),
            ),
            signals={("error", kind): n for kind in SignalKind},
            distances={"amount": 0.02, "country": 0.13},
            reactions=dict.fromkeys(Action, n),
            versions=dict.fromkeys(CAUSES, n),
            signal_times={("error", kind): now for kind in SignalKind},
            reaction_times=dict.fromkeys(Action, now),
            version_times=dict.fromkeys(CAUSES, now),
            dead_letters={Reason.SCHEMA: 2 * n, Reason.MALFORMED: n},
            checkpoint=CheckpointView(
                saved=n, age_seconds=0.4, last_bytes=180_000, last_seconds=0.003, failures=n // 20
            ),
        )

    def partition(self, number):
        n = self.looks
        taken = PartitionLedger(start=0, next=5_000, learned=4_900, scored=60, dead=30, skipped=4, gaps=6)
        now = PartitionLedger(
            start=0,
            next=5_000 + 304 * n,
            learned=4_900 + 300 * n,
            scored=60 + 3 * n,
            dead=30 + n,
            skipped=4,
            gaps=6,
        )
        return PartitionView(partition=number, ledger=now, taken=taken, lag=12.0)
