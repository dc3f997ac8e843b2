"""What a worker shows of itself: plain values that metrics, probes and status pages are made from.

The worker bumps plain attributes while it works and builds one `WorkerView` when somebody looks, from
another thread than the loop's: it reads counters that move meanwhile, and copies what it hands out.

*Counters* count from the start of the process and never go back, except for a partition's ledger, which
is part of the state: `PartitionView` therefore carries the ledger as it was when the partition was taken.
A number that cannot be told yet is `nan`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from math import nan
from typing import Literal

import msgspec

from fluvial.types import MemberStanding, PartitionLedger, Task

HORIZONS = ("total", "window", "fading")
"""Over what a prequential metric is taken."""

_CLASSIFICATION = (
    "accuracy",
    "no_change_accuracy",
    "majority_accuracy",
    "kappa",
    "kappa_temporal",
    "log_loss",
    "roc_auc",
)
METRICS: Mapping[Task, tuple[str, ...]] = {
    Task.BINARY: _CLASSIFICATION,
    Task.MULTICLASS: _CLASSIFICATION,
    Task.REGRESSION: ("mae", "last_value_mae", "rmse", "r2"),
}
"""Which prequential metrics a task has."""

CAUSES = (
    "genesis",
    "reset",
    "promotion",
    "restart",
    "non-finite",
    "events-lost",
    "refit",
    "recall",
    "rollback",
    "manual",
)
"""What makes a version; any other cause is shown as `other`."""

INCIDENTS = (
    "events-lost",
    "partitions-added",
    "partition-silent",
    "older-checkpoint",
    "previous-generation",
    "lost-state",
    "store-unfit",
    "checkpoint-refused",
    "replayed",
    "answers-differ",
    "other-platform",
    "journal-gap",
    "version-not-kept",
    "label-given-up",
    "member-fenced",
    "partition-unowned",
    "refused",
)
"""Kinds of journal entries that a person should look at; counted."""

PLANES = ("error", "features", "predictions")
"""What monitors watch."""

DISTANCES = 50
"""Features whose distance is shown at most."""

STORE_ERRORS = ("unavailable", "full", "fenced")
"""How a store fails; any other way is shown as `other`."""

LATENCY_BOUNDS = (0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0)
"""Seconds; dense around the 100 ms that a fresh score may take at most."""


class Histogram(msgspec.Struct):
    """Counts of observations by upper bound, each counted in the first bucket that holds it."""

    bounds: tuple[float, ...] = LATENCY_BOUNDS
    """Inclusive upper bounds, ascending, without infinity."""
    counts: list[int] = []
    """One more than `bounds`: the last holds what is above all of them."""
    sum: float = 0.0

    def __post_init__(self) -> None:
        """Start with empty buckets."""
        if not self.counts:
            self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class PartitionView(msgspec.Struct, frozen=True):
    """One partition that the worker holds; one that it does not hold is not shown."""

    partition: int
    ledger: PartitionLedger
    """As it stands in the state; `ledger.next` is the next offset to read."""
    taken: PartitionLedger
    """A copy of the ledger as it was when this process took the partition (claimed or loaded it)."""
    lag: float = nan
    """Events in the log that are not read yet; nan until the log's end is known."""


class CheckpointView(msgspec.Struct, frozen=True):
    """How checkpointing of one shard goes."""

    saved: int = 0
    """Checkpoints saved by this process."""
    age_seconds: float = nan
    """Since the newest one was saved (or loaded)."""
    last_bytes: int = 0
    last_seconds: float = nan
    """What the last one took: dump, signature and write."""
    failures: int = 0
    """Attempts that did not end in a saved checkpoint; a size over the limit is counted here too."""
    too_large: int = 0
    entries_given_up: int = 0
    """Journal entries that gave way because no checkpoint could be saved for so long."""
    """Attempts refused because of their size; the last good one was kept."""


class ScoreView(msgspec.Struct, frozen=True):
    """How publishing scores goes."""

    published: int = 0
    refused: int = 0
    """Scores that the store left out: older than what readers already saw, or over the key limit."""
    errors: int = 0
    """Writes that failed and were tried again or given up."""
    latency: Histogram = msgspec.field(default_factory=Histogram)
    """Seconds from an event's Kafka timestamp until its score could be read."""


class ShardView(msgspec.Struct, frozen=True):
    """One shard that the worker holds; a worker standing by shows none."""

    shard: str
    epoch: int = 0
    sequence: int = 0
    """Of the newest checkpoint."""
    version: int = 0
    """Number of the serving version."""
    last_event_time: float = nan
    """Event time of the newest event of the fold."""
    partitions: tuple[PartitionView, ...] = ()
    metrics: Mapping[str, Mapping[str, float]] = {}
    """Horizon (`HORIZONS`) -> name (`METRICS` of the task) -> value."""
    members: tuple[MemberStanding, ...] = ()
    """Of the mixture; names are few and fixed by the settings. Several may share one: they are told
    apart by being the champion, or by their order among the challengers of that name."""
    signals: Mapping[tuple[str, str], int] = {}
    """(plane, kind) -> count, kinds as in `SignalKind`."""
    distances: Mapping[str, float] = {}
    """Declared feature, the first `DISTANCES` of the schema -> how far it is from its reference; nan: not
    told yet. Empty where the events decide the features: their names would be label values."""
    reactions: Mapping[str, int] = {}
    """Action, as in `Action` -> count."""
    versions: Mapping[str, int] = {}
    """Cause (`CAUSES`) -> count made by this process."""
    signal_times: Mapping[tuple[str, str], float] = {}
    """(plane, kind) -> wall time of the last one; absent: none in this process."""
    reaction_times: Mapping[str, float] = {}
    """Action -> wall time of the last one."""
    version_times: Mapping[str, float] = {}
    """Cause -> wall time of the last one."""
    dead_letters: Mapping[str, int] = {}
    """Reason, as in `errors.Reason` -> count."""
    tripped: bool = False
    """The flood breaker has paused the shard."""
    trips: int = 0
    """How often it did so in this process."""
    unpredicted: int = 0
    """Events for which the model had no answer."""
    nonfinite: int = 0
    """Answers that were no finite number and were not published."""
    model_errors: int = 0
    """Valid events on which the model raised."""
    checkpoint: CheckpointView = CheckpointView()


class WorkerView(msgspec.Struct, frozen=True):
    """One look at a worker."""

    service: str
    task: Task
    scope: Literal["topic", "partition"] = "topic"
    alive: bool = True
    """The loop has turned lately; when False the process should be ended by whoever watches it."""
    ready: bool = False
    """It holds what it should and events flow; when False, `not_ready` says why."""
    not_ready: tuple[str, ...] = ()
    """Sentences for people, without secrets."""
    warnings: tuple[str, ...] = ()
    """What the settings accept although it is not as it should be; no reason not to be ready."""
    paused: bool = False
    """Consumption of all that it holds stands still on purpose (back-pressure, breaker)."""
    started_at: float = nan
    """Wall time of the start of the worker."""
    busy_seconds: float = 0.0
    """Time spent working rather than waiting for events."""
    batches: int = 0
    """Batches that held at least one event."""
    store_errors: Mapping[str, int] = {}
    """Kind (`STORE_ERRORS`) -> count."""
    incidents: Mapping[str, int] = {}
    """Kind (`INCIDENTS`) -> count of this process."""
    scores: ScoreView = ScoreView()
    shards: tuple[ShardView, ...] = ()
    """What it holds; empty while it stands by or claims."""
