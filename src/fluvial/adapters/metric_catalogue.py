"""Every metric that Fluvial exposes, once: the collector, the docs page and the tests read this list.

Names follow https://prometheus.io/docs/practices/naming/. Every series carries `service`; what belongs to
a shard carries `shard` too and vanishes when the shard is given up. Label values are fixed sets,
partitions and members of the mixture: never anything that an event can say.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Literal

import msgspec

from fluvial.errors import Reason
from fluvial.types import Action, SignalKind, Task
from fluvial.view import CAUSES, HORIZONS, INCIDENTS, METRICS, PLANES, STORE_ERRORS

OTHER = "other"
"""Where a value goes that is outside its fixed set."""

OUTCOMES = ("learned", "scored", "dead", "skipped")
"""What becomes of an event."""

VALUES: Mapping[str, tuple[str, ...]] = {
    "outcome": OUTCOMES,
    "reason": (*Reason, OTHER),
    "plane": (*PLANES, OTHER),
    "kind": tuple(SignalKind),
    "action": (*Action, OTHER),
    "cause": (*CAUSES, OTHER),
    "horizon": HORIZONS,
    "error": (*STORE_ERRORS, OTHER),
    "incident": (*INCIDENTS, OTHER),
}
"""The fixed sets; every one of their values is exposed from the start, at 0."""


class Described(msgspec.Struct, frozen=True):
    """One metric."""

    name: str
    """As queried; a histogram without `_bucket`, `_sum`, `_count`."""
    type: Literal["counter", "gauge", "histogram"]
    unit: str
    meaning: str
    labels: tuple[str, ...] = ()
    """Beside `service`, and `shard` for what belongs to a shard."""


PROCESS = (
    Described(
        "fluvial_build_info", "gauge", "", "Always 1; what is running.", ("version", "river", "python")
    ),
    Described("fluvial_service_info", "gauge", "", "Always 1; what the service does.", ("task", "scope")),
    Described("fluvial_alive", "gauge", "0 or 1", "The worker's loop has turned lately (as /livez says)."),
    Described(
        "fluvial_ready", "gauge", "0 or 1", "The worker holds its shard and events flow (as /readyz says)."
    ),
    Described(
        "fluvial_paused",
        "gauge",
        "0 or 1",
        "Consumption of all that the worker holds stands still on purpose.",
    ),
    Described("fluvial_shards", "gauge", "shards", "Shards held; 0 while the worker stands by."),
    Described("fluvial_start_timestamp_seconds", "gauge", "seconds since the epoch", "Start of the worker."),
    Described(
        "fluvial_busy_seconds_total",
        "counter",
        "seconds",
        "Time spent working rather than waiting for events.",
    ),
    Described("fluvial_batches_total", "counter", "batches", "Batches that held at least one event."),
    Described(
        "fluvial_store_errors_total", "counter", "errors", "Calls to the store that failed.", ("error",)
    ),
    Described(
        "fluvial_incidents_total",
        "counter",
        "incidents",
        "Journal entries of the kinds that a person should look at.",
        ("incident",),
    ),
    Described("fluvial_scores_published_total", "counter", "scores", "Scores written for readers."),
    Described(
        "fluvial_scores_refused_total",
        "counter",
        "scores",
        "Scores that the store left out: older than what readers already saw, or over the key limit.",
    ),
    Described("fluvial_score_errors_total", "counter", "writes", "Writes of scores that failed."),
    Described(
        "fluvial_score_latency_seconds",
        "histogram",
        "seconds",
        "From an event's Kafka timestamp until its score could be read.",
    ),
)
"""What belongs to the process."""

SHARD = (
    Described("fluvial_shard_epoch", "gauge", "claims", "Epoch under which the shard is held."),
    Described("fluvial_model_version", "gauge", "version number", "The version that serves."),
    Described(
        "fluvial_last_event_timestamp_seconds",
        "gauge",
        "seconds since the epoch",
        "Event time of the newest event.",
    ),
    Described(
        "fluvial_events_total",
        "counter",
        "events",
        "What became of the events that this process handled.",
        ("partition", "outcome"),
    ),
    Described(
        "fluvial_ledger_offsets",
        "gauge",
        "offsets",
        "What became of every offset of the partition since the model's beginning, in all processes; "
        "`gap` are the offsets that Kafka itself leaves, `pending` those whose labels are not known yet. The "
        "sum is the next offset less the first.",
        ("partition", "outcome"),
    ),
    Described("fluvial_next_offset", "gauge", "offset", "The next offset to read.", ("partition",)),
    Described(
        "fluvial_lag_events", "gauge", "events", "Events in the log that are not read yet.", ("partition",)
    ),
    Described(
        "fluvial_dead_letters_total", "counter", "events", "Events dead-lettered, by reason.", ("reason",)
    ),
    Described(
        "fluvial_flood_breaker_tripped",
        "gauge",
        "0 or 1",
        "Too many events were refused: nothing is consumed until `fluvial resume`.",
    ),
    Described("fluvial_flood_breaker_trips_total", "counter", "trips", "How often that happened."),
    Described(
        "fluvial_drift_signals_total",
        "counter",
        "signals",
        "What the monitors had to say.",
        ("plane", "kind"),
    ),
    Described(
        "fluvial_last_drift_signal_timestamp_seconds",
        "gauge",
        "seconds since the epoch",
        "When a monitor last said so; 0: not in this process.",
        ("plane", "kind"),
    ),
    Described(
        "fluvial_feature_distance",
        "gauge",
        "population stability index",
        "How far the last thousand events are from all since the feature's reference began: under 0.1 "
        "little, over 0.25 much. Not a number for 1,024 labelled events, and so after each drift of it.",
        ("feature",),
    ),
    Described("fluvial_reactions_total", "counter", "reactions", "What the policy asked for.", ("action",)),
    Described(
        "fluvial_last_reaction_timestamp_seconds",
        "gauge",
        "seconds since the epoch",
        "When the policy last asked for it; 0: not in this process.",
        ("action",),
    ),
    Described("fluvial_versions_total", "counter", "versions", "Versions made by this process.", ("cause",)),
    Described(
        "fluvial_last_version_timestamp_seconds",
        "gauge",
        "seconds since the epoch",
        "When a version was last made for this cause; 0: not in this process.",
        ("cause",),
    ),
    Described(
        "fluvial_prequential",
        "gauge",
        "of the metric",
        "Prequential metrics (predict, then learn) over the whole stream, a window, and fading; "
        "not a number until there is something to measure.",
        ("metric", "horizon"),
    ),
    Described("fluvial_member_weight", "gauge", "0 to 1", "Weight in the mixture.", ("member", "role")),
    Described(
        "fluvial_member_age_events",
        "gauge",
        "events",
        "Events learned since fresh.",
        ("member", "role"),
    ),
    Described(
        "fluvial_unpredicted_events_total", "counter", "events", "Events for which the model had no answer."
    ),
    Described("fluvial_nonfinite_answers_total", "counter", "answers", "Answers that were no finite number."),
    Described("fluvial_model_errors_total", "counter", "events", "Valid events on which the model raised."),
    Described("fluvial_checkpoints_total", "counter", "checkpoints", "Checkpoints saved."),
    Described(
        "fluvial_checkpoint_failures_total",
        "counter",
        "attempts",
        "Attempts that did not end in a saved checkpoint.",
    ),
    Described(
        "fluvial_checkpoints_too_large_total",
        "counter",
        "attempts",
        "Attempts refused because of their size, which are failures too.",
    ),
    Described(
        "fluvial_journal_entries_given_up_total",
        "counter",
        "entries",
        "Journal entries that gave way because no checkpoint could be saved for so long.",
    ),
    Described("fluvial_checkpoint_sequence", "gauge", "checkpoints", "Number of the newest checkpoint."),
    Described(
        "fluvial_checkpoint_age_seconds",
        "gauge",
        "seconds",
        "Since the newest checkpoint was saved or loaded.",
    ),
    Described("fluvial_checkpoint_bytes", "gauge", "bytes", "Size of the newest checkpoint."),
    Described(
        "fluvial_checkpoint_duration_seconds",
        "gauge",
        "seconds",
        "What the newest checkpoint took, dump to answer.",
    ),
)
"""What belongs to a shard that the worker holds."""

FIXED = {
    "fluvial_ledger_offsets": {"outcome": (*OUTCOMES, "gap", "pending")},
}
"""Where a metric's label has other values than `VALUES` says."""

CATALOGUE: Mapping[str, Described] = {metric.name: metric for metric in (*PROCESS, *SHARD)}


def labels_of(metric: Described) -> tuple[str, ...]:
    """All its labels, in order."""
    return ("service", *(() if metric in PROCESS else ("shard",)), *metric.labels)


def values_of(metric: Described, label: str) -> tuple[str, ...]:
    """The fixed set of a label's values; empty for partitions, features, members and descriptions."""
    return FIXED.get(metric.name, {}).get(label) or VALUES.get(label, ())


def _table(metrics: tuple[Described, ...]) -> list[str]:
    lines = ["| name | type | unit | labels | meaning |", "|---|---|---|---|---|"]
    for metric in metrics:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{metric.name}` | {metric.type} | {metric.unit} | {labels} | {metric.meaning} |")
    return lines


def _quoted(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def page() -> str:
    """`docs/metrics.md`; written by `python -m fluvial.adapters.metric_catalogue > docs/metrics.md`."""
    values = [f"- `{label}`: {_quoted(fixed)}" for label, fixed in VALUES.items()]
    lines = [
        "# Metrics",
        "",
        "What `/metrics` exposes. This page is generated from `src/fluvial/adapters/metric_catalogue.py`.",
        "",
        "Counters count from the start of the process. Every label set is there from the start, at 0, and",
        "the number of series is constant: label values come from the fixed sets below, from partitions,",
        "from declared features and from the members of the mixture, never from events.",
        "",
        "## The process",
        "",
        "Each also carries `service`. The standard `process_*` and `python_gc_*` metrics of the Prometheus",
        "client for Python stand beside them, without it.",
        "",
        *_table(PROCESS),
        "",
        "## A shard",
        "",
        "Each also carries `service` and `shard`, and is there only while the worker holds the shard; those",
        "of a partition only while it holds the partition. A worker that stands by shows none of them.",
        "",
        *_table(SHARD),
        "",
        "## Label values",
        "",
        *values,
        f"- `metric`: {_quoted(METRICS[Task.BINARY])}; in regression {_quoted(METRICS[Task.REGRESSION])}",
        "- `partition`: the partition's number",
        "- `feature`: a declared feature, the first 50 of the schema; none with `schema.infer`",
        "- `member`: the member's name; `role`: `champion`, `challenger-1`, `challenger-2` and so on",
        "",
        "## Probes",
        "",
        "On the same port: `/livez` answers 200 while the worker's loop turns and 503 when it has stopped;",
        "`/readyz` answers 200 when the worker holds its shard and events flow, else 503 with the reasons:",
        '`{"ready": false, "paused": false, "reasons": [...], "warnings": [...]}`. Warnings are what the',
        "settings accept and change nothing. A worker that stands by is alive, not ready.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
