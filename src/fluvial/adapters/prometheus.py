"""Metrics as Prometheus reads them: made from the worker's plain attributes when somebody asks.

The loop pays nothing: a custom collector takes one look (`WorkerView`) per scrape, which costs about
20 microseconds a series. Multi-process mode of the client does not work with collectors: one process,
one port.
"""

from __future__ import annotations

import operator
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from http import HTTPStatus
from importlib.metadata import version
from itertools import accumulate, product
from typing import Any

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from fluvial import __version__
from fluvial.adapters.http import Answer, HttpServer, probes
from fluvial.adapters.metric_catalogue import CATALOGUE, OTHER, OUTCOMES, Described, labels_of, values_of
from fluvial.types import MemberStanding, Task
from fluvial.view import METRICS, Histogram, PartitionView, ScoreView, ShardView, WorkerView

Sample = tuple[str, tuple[str, ...], float]
"""Name in the catalogue, values of its own labels, value."""

_FAMILIES = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}


class FluvialCollector(Collector):
    """Looks at the worker once per scrape; what it exposes is exactly the catalogue."""

    def __init__(self, view: Callable[[], WorkerView]) -> None:
        self._view = view

    def collect(self) -> Iterable[Metric]:
        """All families; those of a shard are empty while none is held."""
        now = self._view()
        latency = CATALOGUE["fluvial_score_latency_seconds"]
        families = {
            metric.name: _FAMILIES[metric.type](metric.name, metric.meaning, labels=labels_of(metric))
            for metric in CATALOGUE.values()
            if metric is not latency
        }
        for name, values, value in _process(now):
            families[name].add_metric((now.service, *values), value)
        for shard in now.shards:
            for name, values, value in _shard(shard, now.task):
                families[name].add_metric((now.service, shard.shard, *values), value)
        return [*families.values(), _histogram(latency, now.service, now.scores.latency)]


class MetricsServer:
    """/metrics, /livez and /readyz on one port, from `start` to `close`."""

    def __init__(self, view: Callable[[], WorkerView], host: str = "127.0.0.1", port: int = 9_108) -> None:
        registry = CollectorRegistry()
        registry.register(FluvialCollector(view))
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        self._server = HttpServer(
            {"/metrics": lambda accept: _render(registry, accept), **probes(view)}, host, port
        )

    def start(self) -> None:
        """Listen and serve from a daemon thread. Raises SettingsError when the address cannot be had."""
        self._server.start()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that it listens on."""
        return self._server.address

    def close(self) -> None:
        """Stop at once. Idempotent."""
        self._server.close()


def _render(registry: CollectorRegistry, accept: str) -> Answer:
    encoder, content_type = choose_encoder(accept)
    return Answer(HTTPStatus.OK, encoder(registry), content_type)


def _process(now: WorkerView) -> Iterator[Sample]:
    yield "fluvial_build_info", _build(), 1
    yield "fluvial_service_info", (now.task, now.scope), 1
    yield "fluvial_alive", (), now.alive
    yield "fluvial_ready", (), now.ready
    yield "fluvial_paused", (), now.paused
    yield "fluvial_shards", (), len(now.shards)
    yield "fluvial_start_timestamp_seconds", (), now.started_at
    yield "fluvial_busy_seconds_total", (), now.busy_seconds
    yield "fluvial_batches_total", (), now.batches
    yield from _counted("fluvial_store_errors_total", now.store_errors)
    yield from _counted("fluvial_incidents_total", now.incidents)
    yield from _scores(now.scores)


@cache
def _build() -> tuple[str, str, str]:
    return __version__, version("river"), platform.python_version()


def _scores(scores: ScoreView) -> Iterator[Sample]:
    yield "fluvial_scores_published_total", (), scores.published
    yield "fluvial_scores_refused_total", (), scores.refused
    yield "fluvial_score_errors_total", (), scores.errors


def _shard(shard: ShardView, task: Task) -> Iterator[Sample]:
    yield "fluvial_shard_epoch", (), shard.epoch
    yield "fluvial_model_version", (), shard.version
    yield "fluvial_last_event_timestamp_seconds", (), shard.last_event_time
    for partition in shard.partitions:
        yield from _partition(partition)
    yield from _counted("fluvial_dead_letters_total", shard.dead_letters)
    yield "fluvial_flood_breaker_tripped", (), shard.tripped
    yield "fluvial_flood_breaker_trips_total", (), shard.trips
    yield from _fixed("fluvial_drift_signals_total", shard.signals)
    yield from _fixed("fluvial_last_drift_signal_timestamp_seconds", shard.signal_times)
    for feature, distance in shard.distances.items():
        yield "fluvial_feature_distance", (feature,), distance
    yield from _counted("fluvial_reactions_total", shard.reactions)
    yield from _counted("fluvial_last_reaction_timestamp_seconds", shard.reaction_times)
    yield from _counted("fluvial_versions_total", shard.versions)
    yield from _counted("fluvial_last_version_timestamp_seconds", shard.version_times)
    for horizon in values_of(CATALOGUE["fluvial_prequential"], "horizon"):
        values = shard.metrics.get(horizon, {})
        for name in METRICS[task]:
            yield "fluvial_prequential", (name, horizon), values.get(name, float("nan"))
    yield from _members(shard.members)
    yield "fluvial_unpredicted_events_total", (), shard.unpredicted
    yield "fluvial_nonfinite_answers_total", (), shard.nonfinite
    yield "fluvial_model_errors_total", (), shard.model_errors
    yield from _checkpoint(shard)


def _members(members: tuple[MemberStanding, ...]) -> Iterator[Sample]:
    """By role, so that a series stays what it is when challengers restart and are promoted."""
    challengers: Counter[str] = Counter()
    for member in members:
        role = "champion"
        if not member.champion:
            challengers[member.name] += 1
            role = f"challenger-{challengers[member.name]}"
        yield "fluvial_member_weight", (member.name, role), member.weight
        yield "fluvial_member_age_events", (member.name, role), member.age


def _partition(view: PartitionView) -> Iterator[Sample]:
    partition, ledger = str(view.partition), view.ledger
    for outcome in OUTCOMES:
        count = getattr(ledger, outcome)
        # From the point where this process took over: a restored ledger that went back by a replay
        # would look like a restarted counter, and `rate` would count the whole history again.
        yield "fluvial_events_total", (partition, outcome), max(0, count - getattr(view.taken, outcome))
        yield "fluvial_ledger_offsets", (partition, outcome), count
    yield "fluvial_ledger_offsets", (partition, "gap"), ledger.gaps
    yield "fluvial_ledger_offsets", (partition, "pending"), ledger.pending
    yield "fluvial_next_offset", (partition,), ledger.next
    yield "fluvial_lag_events", (partition,), view.lag


def _checkpoint(shard: ShardView) -> Iterator[Sample]:
    checkpoint = shard.checkpoint
    yield "fluvial_checkpoints_total", (), checkpoint.saved
    yield "fluvial_checkpoint_failures_total", (), checkpoint.failures
    yield "fluvial_checkpoints_too_large_total", (), checkpoint.too_large
    yield "fluvial_journal_entries_given_up_total", (), checkpoint.entries_given_up
    yield "fluvial_checkpoint_sequence", (), shard.sequence
    yield "fluvial_checkpoint_age_seconds", (), checkpoint.age_seconds
    yield "fluvial_checkpoint_bytes", (), checkpoint.last_bytes
    yield "fluvial_checkpoint_duration_seconds", (), checkpoint.last_seconds


def _counted(name: str, counts: Mapping[str, float]) -> Iterator[Sample]:
    """One sample for each value of the metric's only label, 0 where nothing happened."""
    yield from _fixed(name, {(value,): count for value, count in counts.items()})


def _fixed(name: str, counts: Mapping[Any, float]) -> Iterator[Sample]:
    """The fixed label sets of a metric, keyed by tuples; what is outside of them counts as `other`."""
    allowed = [values_of(CATALOGUE[name], label) for label in CATALOGUE[name].labels]
    join = max if name.endswith("_timestamp_seconds") else operator.add
    found: dict[tuple[str, ...], float] = dict.fromkeys(product(*allowed), 0)
    for values, count in counts.items():
        own = tuple(value if value in fixed else OTHER for value, fixed in zip(values, allowed, strict=True))
        found[own] = join(found.get(own, 0), count)
    for values, count in found.items():
        yield name, values, count


def _histogram(metric: Described, service: str, histogram: Histogram) -> HistogramMetricFamily:
    # One copy, so that the buckets and their total agree while the loop goes on counting.
    counts = list(histogram.counts)
    bounds = [*(repr(float(bound)) for bound in histogram.bounds), "+Inf"]
    family = HistogramMetricFamily(metric.name, metric.meaning, labels=labels_of(metric))
    family.add_metric((service,), list(zip(bounds, accumulate(counts), strict=True)), histogram.sum)
    return family
