"""Faults of Kafka under a whole worker: the mock cluster with errors injected, and real brokers.

Each test is named after its row in docs/faults.md.
"""

import logging
import shutil
import subprocess
import tempfile
import uuid
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions

from fluvial.adapters.embedded import EmbeddedKafka, Leash, free_port
from fluvial.errors import OffsetLost, TopologyChanged
from support import fold
from support.kafka_broker import (
    JAVA,
    create_topic,
    delete_before,
    delete_topic,
    kafka_jars,
    properties,
    read_topic,
    wait_for,
)
from support.live import Live
from support.parts import missing

pytestmark = pytest.mark.redis
QUICK = {"reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 200, "fetch.error.backoff.ms": 10}


@pytest.fixture
def make(tmp_path, fresh_redis):
    """A service: `make(bootstrap, mock=..., events=..., **sections)`."""
    made = []

    def make(bootstrap, events=1_200, **sections):
        sections["kafka"] = {"client": QUICK, **sections.get("kafka", {})}
        made.append(Live(tmp_path, bootstrap, fresh_redis, fold.drifting(events), **sections))
        return made[-1]

    yield make
    for live in made:
        live.__exit__()


@pytest.fixture
def on_mock(make, mock_kafka):
    return lambda **sections: make(mock_kafka.bootstrap_servers, mock=mock_kafka, **sections)


def pieces(values, n):
    size = -(-len(values) // n)
    return [values[i : i + size] for i in range(0, len(values), size)]


# ---- passing troubles ---------------------------------------------------------------------------------


def test_kafka_commit_errors(on_mock, mock_kafka, caplog):
    """The mirror of the offsets fails in every way; the state takes no notice."""
    live = on_mock()
    parts = pieces(live.log.values, 6)
    node = live.start()
    errors = (
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.NOT_COORDINATOR,
        KafkaError.OFFSET_METADATA_TOO_LARGE,
        KafkaError.UNKNOWN,
    )
    for part, error in zip(parts, errors, strict=True):
        mock_kafka.inject(8, error, error)
        live.produce(part)
        live.until_folded(node)
    node.stop()
    assert "offsets were not mirrored to the group" in caplog.text
    live.assert_as_undisturbed()


def test_kafka_away(on_mock, mock_kafka):
    """Fetches fail, connections break, the broker is gone, the coordinator moves: offsets stay contiguous."""
    live = on_mock()
    parts = pieces(live.log.values, 4)
    live.produce(parts[0])
    node = live.start()
    live.until_folded(node)
    errors = (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.REQUEST_TIMED_OUT, KafkaError.UNKNOWN)
    mock_kafka.inject(1, *errors * 3)
    live.produce(parts[1])
    live.until_folded(node)
    moved = [KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_NOT_AVAILABLE]
    mock_kafka.inject(8, *moved)
    mock_kafka.inject(10, *moved)
    live.produce(parts[2])
    live.until_folded(node)
    mock_kafka.down()
    turned = node.app.worker.patience.turned_at
    node.until(lambda: node.app.worker.patience.turned_at > turned + 0.5, "half a second of turns")
    assert node.get("/livez")[0] == 200
    mock_kafka.up()
    live.produce(parts[3])
    live.until_folded(node)
    node.stop()
    assert live.learner().ledger.partitions[0].gaps == 0
    live.assert_as_undisturbed()


class OwnBroker:
    """A broker that can be killed and started again on the same files and port."""

    def __init__(self):
        self._java = shutil.which("java")
        if self._java is None:
            missing("a Kafka of one's own needs Java 17")
        self._files = Path(tempfile.mkdtemp(prefix="fluvial-kafka-"))
        self.bootstrap = f"127.0.0.1:{(port := free_port())}"
        self._config = self._files / "server.properties"
        self._config.write_text(properties(self._files, port, free_port()))
        self._base = [self._java, *JAVA, "-cp", f"{kafka_jars()}/*"]
        words = ["format", "--standalone", "-t", uuid.uuid4().hex[:22], "-c", str(self._config)]
        command = [*self._base, "kafka.tools.StorageTool", *words]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        self._leash = None

    def start(self):
        own = Path(tempfile.mkdtemp(prefix="fluvial-kafka-log-"))
        self._leash = Leash([*self._base, "kafka.Kafka", str(self._config)], own)
        wait_for(self.bootstrap, 60)

    def kill(self):
        if self._leash is not None:
            self._leash.stop()
        self._leash = None

    def lose_log(self, partition):
        """The files with the records of one partition are gone from the disk."""
        [place] = self._files.rglob(partition)
        for file in place.glob("0*"):
            file.unlink()
        for name in ("*checkpoint", "*.snapshot"):  # what it remembers of ends
            for file in place.parent.glob(name):
                file.unlink()

    def remove(self):
        self.kill()
        shutil.rmtree(self._files, ignore_errors=True)


@pytest.mark.kafka
@pytest.mark.slow
def test_kafka_broker_killed(make):
    """A real broker is killed under the worker and comes back on the same log."""
    broker = OwnBroker()
    try:
        broker.start()
        live = make(broker.bootstrap)
        first, second = pieces(live.log.values, 2)
        live.produce(first)
        node = live.start()
        live.until_folded(node)
        broker.kill()
        turned = node.app.worker.patience.turned_at
        node.until(lambda: node.app.worker.patience.turned_at > turned + 1.0, "a second of turns")
        broker.start()
        live.produce(second)
        live.until_folded(node)
        node.stop()
        live.assert_as_undisturbed()
    finally:
        broker.remove()


# ---- the log is another one, or not whole -----------------------------------------------------------


@pytest.mark.kafka
def test_kafka_offset_below_start(make, kafka_broker, caplog):
    live = make(kafka_broker)
    first, second = pieces(live.log.values, 2)
    live.produce(first)
    live.run_to_the_end()
    live.produce(second)
    delete_before(kafka_broker, live.topic, 0, 700)
    with pytest.raises(OffsetLost, match=r"offset 600 is below its start .the log holds 700 to 1200"):
        live.start().join()
    assert live.checkpointed() == {0: 600}
    [entry] = live.entries("refused")
    assert entry["detail"]["error"] == "OffsetLost"

    node = live.run_to_the_end(live.with_settings(kafka={"on_lost_offset": "earliest", "client": QUICK}))
    assert node.view.incidents["events-lost"] == 1
    [entry] = live.entries("events-lost")
    assert entry["detail"] == {"events": 100, "from": 600, "to": 700, "then": "earliest"}
    assert "events 600 to 700 had left the log; going on with the same model" in caplog.text
    learner = live.learner()
    ledger = learner.ledger.partitions[0]
    assert (ledger.skipped, ledger.learned, ledger.balanced()) == (100, 1_100, True)
    oracle = fold.genesis(live.settings)
    for event in fold.decoded(live.settings, live.log.values):
        if event.offset == 600:
            oracle.skip(0, 700)
        if not 600 <= event.offset < 700:
            oracle.step(event)
    fold.assert_same_fold(learner, oracle)


@pytest.mark.kafka
@pytest.mark.parametrize("scope", ["topic", "partition"])
def test_kafka_offset_below_start_fresh(make, kafka_broker, caplog, scope):
    """A fresh model behind the lost events: a version of its own, with the model before kept in Redis."""
    live = make(kafka_broker, kafka={"scope": scope, "on_lost_offset": "fresh"})
    first, second = pieces(live.log.values, 2)
    live.produce(first)
    live.run_to_the_end()
    live.produce(second)
    delete_before(kafka_broker, live.topic, 0, 707)
    node = live.start()
    live.until_folded(node)
    assert node.metric("fluvial_incidents_total", incident="events-lost") == 1
    assert node.metric("fluvial_versions_total", cause="events-lost") == 1
    assert node.metric("fluvial_ledger_offsets", outcome="skipped") == 107
    node.stop()
    assert "events 600 to 707 had left the log; going on with a fresh model" in caplog.text
    [entry] = live.entries("events-lost")
    assert entry["detail"] == {"events": 107, "from": 600, "to": 707, "then": "fresh"}

    oracle, retired, outcomes = fold.genesis(live.settings), [], {}
    for event in fold.decoded(live.settings, live.log.values):
        if event.offset == 600:
            retired = oracle.begin_afresh(0, 707).retired
        if not 600 <= event.offset < 707:
            outcomes[event.key] = oracle.step(event)
    fold.assert_same_fold(live.learner() if scope == "topic" else live.learner_of(0), oracle)
    scores = live.scores(outcomes)
    for key, outcome in outcomes.items():
        assert (tuple(scores[key].probabilities.values()), scores[key].version) == (
            outcome.answer,
            outcome.version,
        )
    assert [e["detail"]["cause"] for e in live.entries("version")][-1] == "events-lost"
    store, shard = live.store(), "all" if scope == "topic" else "partition-0"
    assert store.version_blob(shard, retired[0].version) is not None
    store.close()


@pytest.mark.kafka
@pytest.mark.slow
def test_kafka_offset_above_end(make):
    """A broker that lost the topic's log on its disk: the same topic by its id, and nothing in it."""
    broker = OwnBroker()
    try:
        broker.start()
        live = make(broker.bootstrap, events=300, kafka={"on_lost_offset": "fresh"})
        live.produce(live.log.values)
        live.run_to_the_end()
        broker.kill()
        broker.lose_log(f"{live.topic}-0")
        broker.start()
        live.produce(live.log.values[:100])
        with pytest.raises(OffsetLost, match=r"offset 300 is above its end .the log holds 0 to 100"):
            live.start().join()
        assert live.checkpointed() == {0: 300}
        [entry] = live.entries("refused")
        assert entry["detail"]["error"] == "OffsetLost"
    finally:
        broker.remove()


@pytest.mark.kafka
def test_kafka_topic_recreated(make, kafka_broker):
    """Under the same name, with as many events: refused by its id, and the checkpoint stays."""
    live = make(kafka_broker, events=300)
    live.produce(live.log.values)
    live.run_to_the_end()
    delete_topic(kafka_broker, live.topic)
    create_topic(kafka_broker, live.topic)
    live.produce(live.log.values)
    sequence = live.head("sequence")
    with pytest.raises(TopologyChanged, match=r"topic id .*it was created again"):
        live.start().join()
    assert live.head("sequence") == sequence


def add_partition(live):
    admin = AdminClient({"bootstrap.servers": live.bootstrap})
    admin.create_partitions([NewPartitions(live.topic, 2)])[live.topic].result(20)


@pytest.mark.kafka
def test_kafka_partitions_added(make, kafka_broker, monkeypatch, caplog):
    """Noticed while running and at a start; refused by default, learned from as set."""
    monkeypatch.setattr("fluvial.survey.EVERY_SECONDS", 0.3)
    live = make(kafka_broker, events=600)
    first, second = pieces(live.log.values, 2)
    live.produce(first)
    node = live.start()
    live.until_folded(node)
    add_partition(live)
    with pytest.raises(TopologyChanged, match="on_added_partitions"):
        node.join()
    with pytest.raises(TopologyChanged, match="2 partitions, the checkpoint is of 1"):
        live.start().join()
    assert {e["detail"]["error"] for e in live.entries("refused")} == {"TopologyChanged"}
    assert live.checkpointed() == {0: len(first)}

    live.produce(second, 1)
    learning = live.start(live.with_settings(kafka={"client": QUICK, "on_added_partitions": "learn"}))
    live.until_folded(learning)
    assert learning.metric("fluvial_incidents_total", incident="partitions-added") == 1
    learning.stop()
    assert len(live.entries("partitions-added")) == 1
    assert "1 more partitions: [1]: learn" in caplog.text
    ledger = live.learner().ledger.partitions
    assert [(ledger[p].learned, ledger[p].balanced()) for p in (0, 1)] == [(300, True), (300, True)]
    folded = fold.fold(live.settings, live.log.values)
    assert live.learner().metrics() == folded.learner.metrics()


def test_kafka_partition_silent(on_mock, monkeypatch, caplog):
    """The client stops fetching one partition while the other goes on: not ready, said, read again."""
    monkeypatch.setattr("fluvial.survey.EVERY_SECONDS", 0.5)
    monkeypatch.setattr("fluvial.survey.SILENT_SECONDS", 5.0)
    live = on_mock(partitions=2)
    parts = pieces(live.log.values, 4)
    node = live.start()
    node.until_ready()
    for partition in (0, 1):
        live.produce(parts[partition], partition)
    live.until_folded(node)
    node.app._source._consumer.pause([TopicPartition(live.topic, 1)])  # behind the worker's back
    for partition in (0, 1):
        live.produce(parts[2 + partition], partition)
    said = node.until_not_ready("partition 1 is silent at offset")
    assert f"{len(parts[3])} events wait" in said
    assert node.metric("fluvial_incidents_total", incident="partition-silent") >= 1
    live.until_folded(node)
    node.until_ready()
    node.stop()
    assert "reading it again from there" in caplog.text
    assert 1 in {entry["partition"] for entry in live.entries("partition-silent")}
    assert live.learner().events == len(live.log.events)


def test_kafka_another_cluster(on_mock, make):
    """The address leads to another cluster that has a topic of that name."""
    live = on_mock(events=300)
    live.produce(live.log.values)
    live.run_to_the_end()
    with EmbeddedKafka({live.topic: 1, f"{live.topic}.dead-letters": 1}) as other:
        elsewhere = live.with_settings(kafka={"bootstrap_servers": other.bootstrap_servers})
        with pytest.raises(TopologyChanged, match="cluster"):
            live.start(elsewhere).join()
        live.nodes.clear()


def test_kafka_quiet_partition(on_mock):
    """One partition falls silent; its last events are in a checkpoint by time, and never learned again."""
    live = on_mock(partitions=2)
    values = live.log.values
    live.produce(values[:10], 1)
    live.produce(values[10:600], 0)
    node = live.start()
    live.until_folded(node)  # no event follows: only time can have made it
    live.produce(values[600:], 0)
    live.until_folded(node)
    node.stop()
    again = live.run_to_the_end()
    assert again.view.batches == 0
    ledger = live.learner().ledger.partitions
    assert [(e.learned, e.next, e.balanced()) for _, e in sorted(ledger.items())] == [
        (len(values) - 10, len(values) - 10, True),
        (10, 10, True),
    ]


# ---- dead letters -------------------------------------------------------------------------------------


@pytest.mark.kafka
def test_dead_letter_topic_missing(make, kafka_broker, caplog):
    """Back-pressure: no checkpoint goes past a letter that is not out, and nothing is dropped."""
    caplog.set_level(logging.INFO)
    live = make(kafka_broker, letters=False)
    first, second = pieces(live.log.values, 2)
    live.produce(first)
    node = live.start()
    live.until_folded(node)
    live.produce([b"not json", *second])
    said = node.until_not_ready("dead letters wait for")
    assert f"{live.topic}.dead-letters" in said
    assert "does not exist" in said
    assert live.checkpointed()[0] <= len(first)
    create_topic(kafka_broker, f"{live.topic}.dead-letters")
    live.until_folded(node)
    node.stop()
    [letter] = read_topic(kafka_broker, f"{live.topic}.dead-letters")
    assert letter.value() == b"not json"
    folded = fold.fold(live.settings, [*first, b"not json", *second])
    fold.assert_same_fold(live.learner(), folded.learner)
