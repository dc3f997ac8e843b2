"""A backtest of a file is the live run of the same events through Kafka, bit for bit.

The worker is a process with another hash seed; this one folds the file, or the topic once more. Compared
are the whole state (members, weights, monitors, metrics, lineage, ledger), what both answer next, every
score, the journal's signals and versions, and the dead letters.
"""

import argparse
import csv
import gzip

import pytest

from fluvial.backtest import replay
from fluvial.cli import backtest, produce
from fluvial.cli.backtest_feed import feed_of
from support import fold
from support.live import Live
from support.service import assert_scores

pytestmark = [pytest.mark.redis, pytest.mark.timeout(240)]
CASES = {
    "reset": (lambda: fold.drifting(4_000), "linear", {"name": "reset"}),
    "reweight": (lambda: fold.five(3_000), "softmax", {"name": "reweight", "restart_every": 700}),
    "tree, late labels": (
        lambda: fold.drifting(3_000),
        "hoeffding",
        {"name": "reweight", "restart_every": 900, "label_delay": 150},
    ),
    "regression": (lambda: fold.numbers(3_000), "regression", {"name": "reweight", "restart_every": 700}),
}
BAD = {100: b"{", 101: b'{"key": "x", "time": 1, "features": {}}', 1_500: b'{"label": true}'}


def arguments(*words):
    parser = argparse.ArgumentParser(exit_on_error=False)
    backtest.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


def backtested(*words):
    """The only run of a command."""
    args = arguments(*words)
    (run,) = backtest.runs_of(args)
    return replay(run, feed_of(args, run.settings).records)


def assert_same(service, folded, log):
    kept, told = service.learner(), [kind for kind, _ in service.journal()]
    assert kept.ledger.partitions[0].dead == sum(folded.dead.values())
    assert told.count("version") == len(folded.trace.versions) > 0
    assert told.count("drift") == len(folded.trace.drifts)
    assert repr(kept.metrics()) == repr(folded.learner.metrics())
    following = fold.following(service.settings, kept, log)
    fold.assert_same_fold(kept, fold.copied(folded.learner), following)


@pytest.mark.parametrize("kafka", ["mock", pytest.param("real", marks=pytest.mark.kafka)])
@pytest.mark.parametrize("case", CASES)
def test_a_backtest_is_the_live_run(case, kafka, tmp_path, redis_server, request):
    make, factory, policy = CASES[case]
    log = make()
    mock = request.getfixturevalue("mock_kafka") if kafka == "mock" else None
    bootstrap = mock.bootstrap_servers if mock else request.getfixturevalue("kafka_broker")
    values = [BAD.get(i, value) for i, value in enumerate(log.values)]
    sections = {"model": {"factory": f"support.factories:{factory}", "allow": fold.OWN}, "policy": policy}
    with Live(tmp_path, bootstrap, redis_server, log, mock=mock, **sections) as service:
        service.produce(values)
        service.start_process(hash_seed=len(case))
        service.wait_until_folded()
        path = tmp_path / "log.jsonl.gz"
        with gzip.open(path, "wb") as file:
            file.write(b"\n".join(values))
        from_file = backtested(service.config, path)
        from_topic = backtested(service.config, "--topic", "--to", len(values))
        assert service.terminate() == 0
        assert from_file.dead == from_topic.dead
        assert sum(from_file.dead.values()) == len(BAD)
        for folded in (from_file, from_topic):
            assert_same(service, folded, log)
        assert from_file.trace.curve.sums == from_topic.trace.curve.sums


@pytest.mark.kafka
def test_a_csv_is_what_produce_sends(tmp_path, redis_server, kafka_broker):
    log = fold.drifting(2_000)
    path = tmp_path / "rows.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "time", "a", "b", "label"])
        for i, (time, x, y) in enumerate(log.events):
            writer.writerow([f"e{i}", time, repr(x["a"]), repr(x["b"]), str(y).lower()])
    with Live(tmp_path, kafka_broker, redis_server, log) as service:
        parser = argparse.ArgumentParser()
        produce.add_arguments(parser)
        assert produce.run(parser.parse_args([str(path), "--config", str(service.config)])) == 0
        service.start_process(hash_seed=11)
        service.wait_until_folded()
        assert service.terminate() == 0
        folded = backtested(service.config, path)
        assert_same(service, folded, log)
        oracle = fold.fold(service.settings, log.values)
        assert_scores(service, log, oracle.outcomes)


def test_several_partitions_come_in_one_order_each_time(tmp_path, redis_server, mock_kafka):
    """By message time; every event once, from where the stretch begins to where it ends."""
    log = fold.drifting(2_000)
    with Live(
        tmp_path, mock_kafka.bootstrap_servers, redis_server, log, mock=mock_kafka, partitions=2
    ) as service:
        service.spread(0, 2_000)
        one = backtested(service.config, "--topic", "--from", "100", "--to", "900")
        other = backtested(service.config, "--topic", "--from", "100", "--to", "900")
        alone = backtested(service.config, "--topic", "--partition", "1")
    ledgers = one.learner.ledger.partitions
    assert {p: (led.start, led.next, led.learned) for p, led in ledgers.items()} == {
        0: (100, 900, 800),
        1: (100, 900, 800),
    }
    assert one.learner.ledger.order == other.learner.ledger.order
    fold.assert_same_fold(one.learner, other.learner)
    assert {p: led.learned for p, led in alone.learner.ledger.partitions.items()} == {1: 1_000}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--from", "yesterday"], "--from: 'yesterday' is no offset"),
        (["--partition", "7"], "none of number 7"),
        (["--topic", "elsewhere"], "elsewhere"),
    ],
)
def test_a_stretch_that_is_not_there_is_told(words, says, tmp_path, redis_server, mock_kafka, capsys):
    with Live(
        tmp_path, mock_kafka.bootstrap_servers, redis_server, fold.drifting(10), mock=mock_kafka
    ) as service:
        words = words if "--topic" in words else ["--topic", *words]
        assert backtest.run(arguments(service.config, *words)) in {1, 2}
    assert says in capsys.readouterr().err
