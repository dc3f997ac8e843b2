"""What is Kafka's own about the source: settings, lost offsets, errors, absent brokers."""

import logging
import socket
import threading
import time
from concurrent.futures import Future
from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError

from fluvial import config
from fluvial.adapters.kafka import OWNED, KafkaSource, client
from fluvial.adapters.kafka import source as sources
from fluvial.config import KafkaSettings
from fluvial.errors import OffsetLost, SettingsError, SourceFatal, SourceUnavailable, TopologyChanged
from fluvial.types import Commit, Lag
from support.kafka_broker import (
    create_topic,
    delete_before,
    delete_topic,
    produce_values,
    unique_topic,
)


@pytest.fixture
def open_source():
    opened = []

    def open_source(bootstrap, topic, service="svc", **settings):
        source = KafkaSource(KafkaSettings(bootstrap_servers=bootstrap, topic=topic, **settings), service)
        opened.append(source)
        return source

    yield open_source
    for source in opened:
        source.close(5)


def read(source, count, seconds=20):
    found, deadline = [], time.monotonic() + seconds
    while len(found) < count:
        assert time.monotonic() < deadline, f"only {len(found)} of {count}"
        found += source.poll(500, 0.1)
    return found


def poll_until(source, kind, seconds=20):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            source.poll(500, 0.1)
        except kind as error:
            return error
    pytest.fail(f"no {kind.__name__}")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# ---- settings


@pytest.mark.parametrize("name", sorted(OWNED))
def test_owned_properties_are_refused_by_name(name):
    for table in ({"client": {name: "x"}}, {"client_files": {name: "/dev/null"}}):
        with pytest.raises(SettingsError, match=rf"kafka\.client(_files)?\.{name.replace('.', '[.]')}: "):
            KafkaSource(KafkaSettings(bootstrap_servers="h:1", topic="t", **table), "svc")


def test_the_settings_refuse_no_property_that_the_source_lets_pass():
    assert config.OWNED_PROPERTIES.keys() <= OWNED


def test_an_unknown_property_is_a_settings_error():
    with pytest.raises(SettingsError, match=r'No such configuration property: "fetch\.mni\.bytes"'):
        KafkaSource(KafkaSettings(bootstrap_servers="h:1", topic="t", client={"fetch.mni.bytes": 1}), "svc")


def test_a_secret_never_shows_itself(caplog, tmp_path):
    (tmp_path / "password").write_text("hunter2-in-a-file\n")
    files = {"sasl.password": str(tmp_path / "password")}
    with pytest.raises(SettingsError) as refused:
        KafkaSource(
            KafkaSettings(
                bootstrap_servers="h:1", topic="t", client_files={"security.protocol": files["sasl.password"]}
            ),
            "svc",
        )
    assert "hunter2" not in str(refused.value)
    caplog.set_level(logging.DEBUG)
    client = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN", "sasl.username": "u"}
    source = KafkaSource(
        KafkaSettings(
            bootstrap_servers=f"127.0.0.1:{free_port()}",
            topic="t",
            client={**client, "debug": "conf,security,broker"},
            client_files=files,
        ),
        "svc",
    )
    with pytest.raises(SourceUnavailable) as away:
        source.topology(0.5)
    source.poll(10, 0.2)
    source.close(2)
    assert len(caplog.records) > 5
    assert "hunter2" not in caplog.text + str(away.value) + repr(source.__dict__)


def test_a_missing_secret_file_says_which(tmp_path):
    settings = KafkaSettings(
        bootstrap_servers="h:1", topic="t", client_files={"sasl.password": str(tmp_path / "no")}
    )
    with pytest.raises(SettingsError, match=r"kafka\.client_files\.sasl\.password: .* cannot be read"):
        KafkaSource(settings, "svc")


def test_a_small_queue_is_warned_about(caplog):
    settings = KafkaSettings(bootstrap_servers="h:1", topic="t", client={"queued.min.messages": 5_000})
    client.client_properties(settings)
    assert "throttles" in caplog.text


def test_operator_properties_reach_the_client(mock_kafka, open_source):
    mock_kafka.create_topic("t", 1)
    source = open_source(mock_kafka.bootstrap_servers, "t", client={"max.partition.fetch.bytes": 1_000})
    assert source.topology(5).partitions == 1


# ---- the mock cluster


def test_no_such_topic_is_fatal_and_says_how_to_make_it(mock_kafka, open_source):
    source = open_source(mock_kafka.bootstrap_servers, "nope")
    with pytest.raises(SourceFatal, match=r"--create --topic nope --partitions"):
        source.topology(5)
    with pytest.raises(SourceFatal, match="does not exist"):
        source.start_offsets("earliest", 5)


def test_brokers_away_is_bounded_and_mended_by_itself(mock_kafka, open_source):
    mock_kafka.create_topic("t", 1)
    produce_values(mock_kafka.bootstrap_servers, "t", [(b"1", None, 0, None)])
    backoff = {"reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 100}
    source = open_source(mock_kafka.bootstrap_servers, "t", client=backoff)
    source.assign({0: 0})
    read(source, 1)
    mock_kafka.down()
    for ask in (source.topology, source.committed, lambda s: source.bounds(0, s)):
        with pytest.raises(SourceUnavailable, match=mock_kafka.bootstrap_servers):
            ask(0.3)
    for _ in range(5):
        assert list(source.poll(10, 0.05)) == []
    mock_kafka.up()
    produce_values(mock_kafka.bootstrap_servers, "t", [(b"2", None, 0, None)])
    assert [m.value() for m in read(source, 1)] == [b"2"]


def test_a_log_whose_ends_the_broker_does_not_know_yet_is_not_there_yet(mock_kafka, open_source, monkeypatch):
    """One that has just come back answers -1001 without an error: no reason to call the log empty."""
    mock_kafka.create_topic("t", 1)
    source = open_source(mock_kafka.bootstrap_servers, "t")

    def list_offsets(asked, **_):
        answers = {at: Future() for at in asked}
        for answer in answers.values():
            answer.set_result(SimpleNamespace(offset=-1001))
        return answers

    monkeypatch.setattr(source, "_admin", SimpleNamespace(list_offsets=list_offsets, poll=lambda _: None))
    for ask in (lambda: source.bounds(0, 1), lambda: source.assign({0: 0})):
        with pytest.raises(SourceUnavailable, match="does not know them yet"):
            ask()


def test_retriable_fetch_errors_lose_nothing(mock_kafka, open_source):
    mock_kafka.create_topic("t", 1)
    source = open_source(mock_kafka.bootstrap_servers, "t", client={"fetch.error.backoff.ms": 10})
    source.assign({0: 0})
    errors = (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.REQUEST_TIMED_OUT, KafkaError.UNKNOWN)
    mock_kafka.inject(1, *errors * 3)
    produce_values(mock_kafka.bootstrap_servers, "t", [(b"%d" % i, None, 0, None) for i in range(50)])
    assert [m.offset() for m in read(source, 50)] == list(range(50))


def test_evicted_offsets_are_lost_and_said_once(mock_kafka, open_source):
    mock_kafka.create_topic("t", 2)
    bootstrap = mock_kafka.bootstrap_servers
    source = open_source(bootstrap, "t")
    produce_values(bootstrap, "t", [(b"x" * 100_000, None, 0, None) for _ in range(10)], **{"linger.ms": 0})
    source.assign({0: 0, 1: 0})
    read(source, 10)
    source.pause()
    big = [(b"y" * 100_000, None, 0, None) for _ in range(100)]
    produce_values(bootstrap, "t", big, **{"linger.ms": 0, "compression.type": "none"})
    source.resume()
    lost = poll_until(source, OffsetLost)
    assert (lost.partition, lost.offset, lost.high) == (0, 10, 110)
    assert 10 < lost.low < 110
    assert list(source.poll(10, 0.2)) == []
    with pytest.raises(OffsetLost, match="below its start"):
        source.assign({0: 10})
    source.assign({0: lost.low})
    assert read(source, 1)[0].offset() == lost.low


@pytest.mark.parametrize("paused", [False, True])
def test_an_offset_that_is_in_the_log_again_is_read_on_from(mock_kafka, open_source, caplog, paused):
    mock_kafka.create_topic("t", 1)
    produce_values(mock_kafka.bootstrap_servers, "t", [(b"%d" % i, None, 0, None) for i in range(10)])
    source = open_source(mock_kafka.bootstrap_servers, "t")
    source.assign({0: 0})
    assert len(source.poll(3, 5)) == 3
    if paused:
        source.pause()
    source._lost(0, 3)  # what a report says after an election, when the end was behind for a moment
    assert "in the log again" in caplog.text
    if paused:
        assert list(source.poll(10, 0.3)) == []
        source.resume()
    assert [m.offset() for m in read(source, 7)] == list(range(3, 10))


def test_good_records_of_a_batch_come_before_its_report(mock_kafka, open_source):
    mock_kafka.create_topic("t", 2)
    produce_values(mock_kafka.bootstrap_servers, "t", [(b"1", None, 1, None)])
    source = open_source(mock_kafka.bootstrap_servers, "t")
    source.assign({0: 0, 1: 0})
    [good] = read(source, 1)
    error = KafkaError(KafkaError._AUTO_OFFSET_RESET)
    bad = SimpleNamespace(error=lambda: error, partition=lambda: 0, offset=lambda: 9)
    batches = [[good, bad, good]]
    consumer = source._consumer
    fake = SimpleNamespace(
        consume=lambda limit, seconds: batches.pop(0) if batches else [],
        get_watermark_offsets=consumer.get_watermark_offsets,
        close=consumer.close,
    )
    source._consumer, kept = fake, sources._error_of
    try:
        sources._error_of = lambda message: message.error()
        assert source.poll(10, 0.1) == [good, good]
        with pytest.raises(OffsetLost, match="partition 0: offset 9 is above its end"):
            source.poll(10, 0.1)
        assert source.poll(10, 0.1) == []
    finally:
        sources._error_of = kept


@pytest.mark.parametrize(
    "code", [KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED]
)
def test_a_refused_fetch_is_fatal(mock_kafka, open_source, code):
    mock_kafka.create_topic("t", 1)
    source = open_source(mock_kafka.bootstrap_servers, "t")
    source.assign({0: 0})
    mock_kafka.inject(1, *[code] * 5)
    if code == KafkaError.CLUSTER_AUTHORIZATION_FAILED:
        source._client._on_error(KafkaError(code))  # comes as a report of the client
    error = poll_until(source, SourceFatal)
    assert "uthorization" in str(error)


def test_commit_errors_are_logged_and_authorisation_is_fatal(mock_kafka, open_source, caplog):
    mock_kafka.create_topic("t", 1)
    source = open_source(mock_kafka.bootstrap_servers, "t")
    source.assign({0: 0})
    mock_kafka.inject(8, KafkaError.OFFSET_METADATA_TOO_LARGE)
    source.commit({0: 0}, "1:1")
    deadline = time.monotonic() + 10
    while "not mirrored" not in caplog.text:
        assert time.monotonic() < deadline
        source.poll(10, 0.05)
    source.commit({0: 0}, "2:1")
    mock_kafka.inject(8, KafkaError.GROUP_AUTHORIZATION_FAILED)
    source.commit({0: 0}, "3:1")
    poll_until(source, SourceFatal)


def test_the_same_trouble_is_said_once(caplog, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(client.time, "monotonic", lambda: now[0])
    said = client._ClientLog(())
    for _ in range(5):
        said.once("FAIL", logging.WARNING, "broker away")
    assert caplog.text.count("broker away") == 1
    now[0] += client.QUIET_SECONDS
    said.once("FAIL", logging.WARNING, "broker away")
    assert "broker away (and 4 more like it)" in caplog.text


def test_close_gives_up_on_a_client_that_hangs(mock_kafka, caplog):
    mock_kafka.create_topic("t", 1)
    source = KafkaSource(KafkaSettings(bootstrap_servers=mock_kafka.bootstrap_servers, topic="t"), "svc")
    consumer, hung = source._consumer, threading.Event()
    source._consumer = SimpleNamespace(close=hung.wait)
    source.close(0.05)
    assert "did not close" in caplog.text
    hung.set()
    consumer.close()


def test_two_services_have_two_groups(mock_kafka, open_source):
    mock_kafka.create_topic("t", 1)
    one = open_source(mock_kafka.bootstrap_servers, "t", "one")
    one.commit({0: 0}, "1:1")
    one.close(5)
    assert open_source(mock_kafka.bootstrap_servers, "t", "one").committed(5) == {0: Commit(0, "1:1")}
    assert open_source(mock_kafka.bootstrap_servers, "t", "two").committed(5) == {}


# ---- a real Kafka


@pytest.mark.kafka
def test_a_recreated_topic_has_another_id(kafka_broker, open_source):
    topic = create_topic(kafka_broker, unique_topic(), 2)
    source = open_source(kafka_broker, topic)
    before = source.topology(10)
    assert before.topic_id
    delete_topic(kafka_broker, topic)
    create_topic(kafka_broker, topic, 2)
    after = source.topology(10)
    assert after.topic_id != before.topic_id
    assert (after.cluster_id, after.partitions) == (before.cluster_id, before.partitions)


@pytest.mark.kafka
def test_a_topic_deleted_under_the_reader_is_noticed(kafka_broker, open_source):
    topic = create_topic(kafka_broker, unique_topic())
    produce_values(kafka_broker, topic, [(b"1", None, 0, None)])
    source = open_source(kafka_broker, topic, client={"topic.metadata.propagation.max.ms": 500})
    source.assign({0: 0})
    read(source, 1)
    delete_topic(kafka_broker, topic)
    assert "does not exist" in str(poll_until(source, SourceFatal, 40))


@pytest.mark.kafka
def test_a_topic_made_anew_under_the_reader_is_noticed(kafka_broker, open_source):
    topic = create_topic(kafka_broker, unique_topic())
    produce_values(kafka_broker, topic, [(b"1", None, 0, None)])
    source = open_source(kafka_broker, topic)
    source.topology(5)
    source.assign({0: 0})
    read(source, 1)
    delete_topic(kafka_broker, topic)
    create_topic(kafka_broker, topic)
    source._client._on_error(KafkaError(KafkaError._UNKNOWN_PARTITION))  # what a refresh in between says
    assert "made again" in str(poll_until(source, TopologyChanged))


@pytest.mark.kafka
def test_retention_passing_a_fresh_consumer_is_reported(kafka_broker, open_source):
    topic = create_topic(kafka_broker, unique_topic())
    produce_values(kafka_broker, topic, [(b"%d" % i, None, 0, None) for i in range(100)])
    source = open_source(kafka_broker, topic)
    delete_before(kafka_broker, topic, 0, 60)
    assert source.start_offsets("earliest", 5) == {0: 60}
    with pytest.raises(OffsetLost) as lost:
        source.assign({0: 59})
    assert (lost.value.low, lost.value.high) == (60, 100)


@pytest.mark.kafka
def test_ten_megabytes_arrive_whole(kafka_broker, open_source):
    topic = create_topic(kafka_broker, unique_topic(), max_message_bytes=12_000_000)
    large = [bytes([i]) * 10_000_000 for i in range(4)]
    records = [(value, None, 0, None) for value in large]
    produce_values(kafka_broker, topic, records, **{"compression.type": "none"})
    source = open_source(kafka_broker, topic)
    source.assign({0: 0})
    assert [m.value() == value for m, value in zip(read(source, 4), large, strict=True)] == [True] * 4


@pytest.mark.kafka
def test_transaction_markers_are_gaps_and_the_end_is_reached(kafka_broker, open_source):
    from confluent_kafka import Producer

    topic = create_topic(kafka_broker, unique_topic())
    producer = Producer({"bootstrap.servers": kafka_broker, "transactional.id": unique_topic("tx")})
    producer.init_transactions(20)
    for ending in (producer.commit_transaction, producer.abort_transaction, producer.commit_transaction):
        producer.begin_transaction()
        producer.produce(topic, ending.__name__.encode())
        producer.flush(10)
        ending(20)
    source = open_source(kafka_broker, topic)
    source.assign({0: 0})
    found = read(source, 2)
    assert [m.offset() for m in found] == [0, 4]
    assert source.bounds(0, 5) == Lag(0, 6)
    source.assign({0: 5})  # the next one to read after the last record
    assert list(source.poll(10, 0.2)) == []


def test_an_absent_broker_is_bounded(open_source):
    source = open_source(f"127.0.0.1:{free_port()}", "t")
    with pytest.raises(SourceUnavailable, match=r"127\.0\.0\.1"):
        source.topology(0.5)
    with pytest.raises(SourceUnavailable):
        source.committed(0.5)
