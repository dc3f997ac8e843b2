"""What /metrics exposes is the catalogue, no more and no less, and always the same series."""

import random
from math import isnan, nan
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from fluvial.adapters.metric_catalogue import CATALOGUE, PROCESS, labels_of, page, values_of
from fluvial.adapters.prometheus import FluvialCollector, MetricsServer
from fluvial.config import EvaluationSettings
from fluvial.evaluation import Prequential
from fluvial.types import MemberStanding, PartitionLedger, Task
from fluvial.view import METRICS, Histogram, PartitionView, ShardView, WorkerView
from support.fake_worker import FakeWorker
from support.prometheus_server import assert_every_panel_has_data

DOCS = Path(__file__).parents[1] / "docs" / "metrics.md"


def exposed(view):
    registry = CollectorRegistry()
    registry.register(FluvialCollector(view))
    return generate_latest(registry).decode()


def series(text):
    """{(sample name, labels): value}."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse(text)
        for sample in family.samples
    }


def value(view, name, **labels):
    found = [
        v
        for (n, own), v in series(exposed(view)).items()
        if n == name and labels.items() <= dict(own).items()
    ]
    assert len(found) == 1, f"{name} {labels}: {found}"
    return found[0]


def empty_shard(**fields):
    members = (MemberStanding(name="linear", champion=True, weight=1.0, age=0),)
    members += tuple(MemberStanding(name="linear", champion=False, weight=0.0, age=0) for _ in range(2))
    partitions = tuple(
        PartitionView(p, PartitionLedger(start=0, next=0), PartitionLedger(start=0, next=0))
        for p in (0, 1, 2)
    )
    distances = {"amount": nan, "country": nan}
    own = {"shard": "topic", "members": members, "partitions": partitions, "distances": distances}
    return ShardView(**(own | fields))


def worker_with(**fields):
    return lambda: WorkerView(service="fake", task=Task.BINARY, shards=(empty_shard(**fields),))


def ledger_counts(before, after, outcome):
    view = worker_with(partitions=(PartitionView(0, after, before),))
    return value(view, "fluvial_events_total", outcome=outcome)


@pytest.mark.parametrize("task", Task)
def test_what_is_exposed_is_the_catalogue(task):
    families = {}
    for family in parse(exposed(FakeWorker(task).view)):
        name = family.name + "_total" if family.type == "counter" else family.name
        families[name] = family
    assert set(families) == set(CATALOGUE)
    for name, metric in CATALOGUE.items():
        family = families[name]
        assert (family.type, family.documentation) == (metric.type, metric.meaning)
        assert family.samples, name
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(labels_of(metric)), name


def test_every_value_of_every_fixed_label_is_exposed():
    text = exposed(worker_with())
    for metric in CATALOGUE.values():
        for label in metric.labels:
            if fixed := values_of(metric, label):
                found = {dict(own)[label] for (name, own) in series(text) if name == metric.name}
                assert found == set(fixed), metric.name


@pytest.mark.parametrize("task", Task)
def test_series_are_the_same_before_and_after_anything_happened(task):
    worker = FakeWorker(task)
    fresh = WorkerView(service="fake", task=task, shards=(empty_shard(),))
    assert set(series(exposed(lambda: fresh))) == set(series(exposed(worker.view)))


def test_counters_start_at_zero_and_what_is_unknown_is_no_number():
    found = series(exposed(worker_with()))
    for (name, labels), number in found.items():
        if name.endswith("_total"):
            assert number == 0, (name, labels)
    assert all(isnan(v) for (n, _), v in found.items() if n in {"fluvial_prequential", "fluvial_lag_events"})


def test_values_outside_a_fixed_set_make_no_series():
    junk = {f"reason-{i}": 1 for i in range(1_000)}
    planes = {(f"plane-{i}", "drift"): 2 for i in range(1_000)}
    view = worker_with(dead_letters=junk, signals=planes, version_times={"a": 5.0, "b": 9.0})
    assert set(series(exposed(view))) == set(series(exposed(worker_with())))
    assert value(view, "fluvial_dead_letters_total", reason="other") == 1_000
    assert value(view, "fluvial_drift_signals_total", plane="other", kind="drift") == 2_000
    assert value(view, "fluvial_last_version_timestamp_seconds", cause="other") == 9.0


def test_a_partition_that_is_given_up_vanishes():
    worker = FakeWorker(partitions=(0, 1))
    both = series(exposed(worker.view))
    worker.partitions = (1,)
    one = series(exposed(worker.view))
    gone = set(both) - set(one)
    assert gone == {key for key in both if ("partition", "0") in key[1]}
    assert gone


def test_a_worker_that_holds_nothing_shows_the_process_only():
    worker = FakeWorker()
    worker.holding = False
    bare = {
        name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count")
        for name, _ in series(exposed(worker.view))
    }
    assert bare == {metric.name for metric in PROCESS}


def test_events_count_from_where_this_process_took_over():
    taken = PartitionLedger(start=0, next=1_000_000, learned=1_000_000)
    assert ledger_counts(taken, PartitionLedger(start=0, next=1_000_007, learned=1_000_007), "learned") == 7


def test_a_ledger_that_went_back_never_makes_a_negative_counter():
    taken = PartitionLedger(start=0, next=10, learned=10)
    assert ledger_counts(taken, PartitionLedger(start=0, next=5, learned=5), "learned") == 0


def test_members_are_told_apart_when_they_share_a_name():
    worker = FakeWorker()
    roles = {"champion": 0.7, "challenger-1": 0.2, "challenger-2": 0.1}
    for role, weight in roles.items():
        assert value(worker.view, "fluvial_member_weight", role=role, member="linear") == weight


def test_histogram_buckets_are_cumulative_and_bounds_are_inclusive():
    histogram = Histogram(bounds=(0.1, 1.0))
    for seconds in (0.1, 0.1000001, 1.0, 50.0):
        histogram.observe(seconds)
    assert histogram.counts == [1, 2, 1]
    worker = FakeWorker()
    worker.latency = histogram
    found = series(exposed(worker.view))  # the look adds 3, 12, 60 and 240 ms
    buckets = {dict(labels)["le"]: v for (n, labels), v in found.items() if n.endswith("_bucket")}
    assert buckets == {"0.1": 4.0, "1.0": 7.0, "+Inf": 8.0}
    assert found[("fluvial_score_latency_seconds_count", (("service", "fake"),))] == 8.0


def test_one_look_per_scrape():
    worker = FakeWorker()
    exposed(worker.view)
    assert worker.looks == 1


@pytest.mark.parametrize("task", Task)
def test_the_prequential_metrics_are_those_that_the_evaluation_has(task):
    size = {Task.BINARY: 2, Task.MULTICLASS: 3, Task.REGRESSION: 1}[task]
    evaluation = Prequential(task, size, EvaluationSettings())
    rng = random.Random(1)
    for _ in range(300):
        answer = tuple(rng.random() for _ in range(size))
        total = sum(answer) if size > 1 else 1.0
        evaluation.extend([(rng.randrange(max(size, 2)), tuple(a / total for a in answer))])
    found = evaluation.metrics()
    for horizon in values_of(CATALOGUE["fluvial_prequential"], "horizon"):
        assert set(found[horizon]) == set(METRICS[task]), horizon


def test_the_docs_page_is_the_catalogue():
    assert DOCS.read_text() == page(), "run: python -m fluvial.adapters.metric_catalogue > docs/metrics.md"


def test_openmetrics_is_well_formed():
    server = MetricsServer(FakeWorker().view, port=0)
    answer = server._server._routes["/metrics"]("application/openmetrics-text; version=1.0.0")
    assert answer.content_type.startswith("application/openmetrics-text")
    assert {f.name for f in parse_openmetrics(answer.body.decode())} >= {
        "fluvial_alive",
        "process_start_time_seconds",
    }


@pytest.mark.prometheus
@pytest.mark.parametrize("task", Task)
def test_promtool_has_nothing_to_say(task, promtool):
    checked = promtool("check", "metrics", data=exposed(FakeWorker(task).view).encode())
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


@pytest.mark.prometheus
@pytest.mark.parametrize("task", [Task.BINARY, Task.REGRESSION])
def test_every_panel_and_annotation_shows_data_from_a_real_prometheus(task):
    server = MetricsServer(FakeWorker(task).view, port=0)
    server.start()
    try:
        assert_every_panel_has_data(server.address)
    finally:
        server.close()


@pytest.mark.prometheus
def test_the_helper_notices_a_panel_without_data():
    """A worker that stands by has no accuracy to show: the assertion must bite."""
    worker = FakeWorker()
    worker.holding = False
    server = MetricsServer(worker.view, port=0)
    server.start()
    try:
        with pytest.raises(AssertionError, match="Model against baseline"):
            assert_every_panel_has_data(server.address, seconds=6)
    finally:
        server.close()
