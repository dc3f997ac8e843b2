"""What is Kafka's own about dead letters: sizes, a missing topic, brokers that go away."""

import hashlib
import logging
import socket

import pytest
from confluent_kafka import KafkaError

from fluvial.adapters.kafka import KafkaSink
from fluvial.adapters.kafka import sink as sinks
from fluvial.adapters.memory_log import MemorySink
from fluvial.config import KafkaSettings
from fluvial.errors import Reason, SettingsError, SourceUnavailable
from fluvial.types import DeadLetter
from support.kafka_broker import create_topic, read_topic, unique_topic

FAST = {"reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 100, "retry.backoff.ms": 20}


def letter(offset=0, value=b"{broken", key=b"k", headers=(), timestamp_ms=1_700_000_000_123):
    return DeadLetter(
        "events", 0, offset, key, value, tuple(headers), timestamp_ms, Reason.MALFORMED, "not JSON"
    )


@pytest.fixture
def open_sink():
    opened = []

    def open_sink(bootstrap, topic, **client):
        settings = KafkaSettings(bootstrap_servers=bootstrap, topic="events", client=FAST | client)
        opened.append(KafkaSink(settings, topic))
        return opened[-1]

    yield open_sink
    for sink in opened:
        sink.close(2)


def by_id(messages):
    return {dict(m.headers())["fluvial.id"]: m for m in messages}


def test_owned_properties_are_refused():
    settings = KafkaSettings(bootstrap_servers="h:1", topic="t", client={"acks": 0})
    with pytest.raises(SettingsError, match=r"kafka\.client\.acks"):
        KafkaSink(settings, "dead")


def test_a_missing_topic_is_named_and_nothing_is_dropped(mock_kafka, open_sink):
    sink = open_sink(mock_kafka.bootstrap_servers, "dead", **{"topic.metadata.propagation.max.ms": 100})
    for offset in range(3):
        sink.send([letter(offset)])
        with pytest.raises(SourceUnavailable, match=r"topic 'dead' does not exist .*--create --topic dead"):
            sink.flush(0.8)
    mock_kafka.create_topic("dead", 1)
    sink.flush(20)
    assert by_id(read_topic(mock_kafka.bootstrap_servers, "dead")).keys() == {
        b"events/0/0",
        b"events/0/1",
        b"events/0/2",
    }


def test_brokers_away_and_back(mock_kafka, open_sink):
    mock_kafka.create_topic("dead", 1)
    sink = open_sink(mock_kafka.bootstrap_servers, "dead")
    sink.send([letter(0)])
    sink.flush(10)
    mock_kafka.down()
    sink.send([letter(i) for i in range(1, 100)])
    for _ in range(2):
        with pytest.raises(SourceUnavailable, match="99 dead letters wait for 'dead'"):
            sink.flush(0.4)
    mock_kafka.up()
    sink.flush(20)
    assert len(by_id(read_topic(mock_kafka.bootstrap_servers, "dead"))) == 100


def test_a_delivery_that_times_out_is_sent_again(mock_kafka, open_sink):
    mock_kafka.create_topic("dead", 1)
    sink = open_sink(mock_kafka.bootstrap_servers, "dead", **{"message.timeout.ms": 200})
    mock_kafka.down()
    sink.send([letter(i) for i in range(5)])
    with pytest.raises(SourceUnavailable):
        sink.flush(1.5)
    mock_kafka.up()
    sink.flush(20)
    assert len(by_id(read_topic(mock_kafka.bootstrap_servers, "dead"))) == 5


def test_an_error_answer_is_sent_again(mock_kafka, open_sink):
    mock_kafka.create_topic("dead", 1)
    sink = open_sink(mock_kafka.bootstrap_servers, "dead")
    mock_kafka.inject(0, KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.INVALID_TIMESTAMP)
    sink.send([letter(0)])
    sink.flush(20)
    assert by_id(read_topic(mock_kafka.bootstrap_servers, "dead")).keys() == {b"events/0/0"}


def test_innocents_in_a_refused_batch_stay_whole(mock_kafka, open_sink):
    mock_kafka.create_topic("dead", 1)
    sink = open_sink(mock_kafka.bootstrap_servers, "dead", **{"linger.ms": 50})
    mock_kafka.inject(0, KafkaError.MSG_SIZE_TOO_LARGE)
    sink.send([letter(i, value=b"%d" % i) for i in range(20)])
    sink.flush(20)
    found = by_id(read_topic(mock_kafka.bootstrap_servers, "dead"))
    assert {identity: m.value() for identity, m in found.items()} == {
        b"events/0/%d" % i: b"%d" % i for i in range(20)
    }
    assert not any("fluvial.truncated" in dict(m.headers()) for m in found.values())


def test_too_many_waiting_push_back_and_take_nothing(mock_kafka, open_sink, monkeypatch):
    monkeypatch.setattr(sinks, "MAX_WAITING", 10)
    monkeypatch.setattr(sinks, "ROOM_SECONDS", 0.2)
    mock_kafka.create_topic("dead", 1)
    sink = open_sink(mock_kafka.bootstrap_servers, "dead")
    mock_kafka.down()
    sink.send([letter(i) for i in range(10)])
    with pytest.raises(SourceUnavailable, match="10 dead letters wait"):
        sink.send([letter(99)])
    mock_kafka.up()
    sink.flush(20)
    assert len(read_topic(mock_kafka.bootstrap_servers, "dead")) == 10


def test_the_client_queue_being_full_drops_nothing(mock_kafka, open_sink):
    mock_kafka.create_topic("dead", 1)
    sink = open_sink(mock_kafka.bootstrap_servers, "dead", **{"queue.buffering.max.messages": 7})
    sink.send([letter(i) for i in range(300)])
    sink.flush(20)
    assert len(by_id(read_topic(mock_kafka.bootstrap_servers, "dead"))) == 300


def test_closing_without_a_broker_is_bounded_and_says_what_is_left(caplog):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        servers = f"127.0.0.1:{probe.getsockname()[1]}"
    sink = KafkaSink(KafkaSettings(bootstrap_servers=servers, topic="events"), "dead")
    sink.send([letter(0)])
    with caplog.at_level(logging.WARNING):
        sink.close(0.3)
    assert "1 dead letters were not acknowledged" in caplog.text


def test_the_twin_pushes_back_too():
    sink = MemorySink(room=2)
    sink.available = False
    sink.send([letter(0), letter(1)])
    with pytest.raises(SourceUnavailable):
        sink.send([letter(2)])
    with pytest.raises(SourceUnavailable):
        sink.flush(0.1)
    sink.available = True
    sink.flush(0.1)
    assert [a.offset for a in sink.letters] == [0, 1]


@pytest.mark.kafka
@pytest.mark.parametrize("size", [999_800, 1_100_000, 10_000_000, 33_000_000])
def test_a_letter_too_large_for_its_topic_is_cut_and_says_so(kafka_broker, open_sink, size):
    topic = create_topic(kafka_broker, unique_topic("dead"), max_message_bytes=1_000_000)
    sink = open_sink(kafka_broker, topic, **{"compression.type": "none"})
    value = (bytes(range(256)) * (size // 256 + 1))[:size]
    sink.send([letter(0), letter(1, value=value, headers=[("trace", b"1")]), letter(2)])
    sink.flush(30)
    found = by_id(read_topic(kafka_broker, topic))
    assert len(found) == 3
    cut = found[b"events/0/1"]
    headers = dict(cut.headers())
    assert value.startswith(cut.value())
    assert len(cut.value()) == 100_000
    assert (headers["fluvial.truncated"], headers["fluvial.size"]) == (b"true", b"%d" % len(value))
    assert headers["fluvial.sha256"] == hashlib.sha256(value).hexdigest().encode()
    assert headers["trace"] == b"1"
    assert headers["__connect.errors.offset"] == b"1"
    assert (cut.key(), cut.timestamp()[1]) == (b"k", 1_700_000_000_123)
    for whole in (b"events/0/0", b"events/0/2"):
        assert found[whole].value() == b"{broken"
        assert "fluvial.truncated" not in dict(found[whole].headers())


@pytest.mark.kafka
def test_a_letter_with_a_huge_key_and_headers_goes_bare(kafka_broker, open_sink):
    topic = create_topic(kafka_broker, unique_topic("dead"), max_message_bytes=5_000)
    sink = open_sink(kafka_broker, topic, **{"compression.type": "none"})
    small = [letter(i, value=b"x" * 3_000) for i in range(10)]
    sink.send([letter(50, b"v" * 90_000, b"k" * 50_000, [("h", b"h" * 50_000)]), *small])
    sink.flush(30)
    found = by_id(read_topic(kafka_broker, topic))
    assert len(found) == 11
    bare = found.pop(b"events/0/50")
    assert (bare.value(), bare.key(), dict(bare.headers())["fluvial.size"]) == (b"", None, b"90000")
    assert {len(m.value()) for m in found.values()} == {3_000}


@pytest.mark.kafka
def test_ten_megabytes_stay_whole_where_the_topic_takes_them(kafka_broker, open_sink):
    topic = create_topic(kafka_broker, unique_topic("dead"), max_message_bytes=12_000_000)
    sink = open_sink(kafka_broker, topic, **{"compression.type": "none"})
    sink.send([letter(0, value=b"v" * 10_000_000)])
    sink.flush(30)
    [message] = read_topic(kafka_broker, topic)
    assert message.value() == b"v" * 10_000_000


@pytest.mark.kafka
def test_a_timestamp_that_the_broker_refuses_is_left_out(kafka_broker, open_sink):
    topic = create_topic(kafka_broker, unique_topic("dead"), message_timestamp_after_max_ms=1_000)
    sink = open_sink(kafka_broker, topic)
    sink.send([letter(0, timestamp_ms=4_000_000_000_000)])
    sink.flush(20)
    [message] = read_topic(kafka_broker, topic)
    assert message.timestamp()[1] < 4_000_000_000_000
