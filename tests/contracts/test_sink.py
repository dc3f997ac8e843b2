"""What every sink does: over memory, the mock cluster and a real Kafka."""

import pytest

from fluvial.adapters.kafka import KafkaSink, letter_headers
from fluvial.adapters.memory_log import MemorySink
from fluvial.config import KafkaSettings
from fluvial.errors import Reason
from fluvial.types import DeadLetter
from support.kafka_broker import create_topic, read_topic, unique_topic


def letter(offset=0, value=b"{broken", key=b"k", headers=(), timestamp_ms=1_700_000_000_123, message="why"):
    return DeadLetter(
        "events", 2, offset, key, value, tuple(headers), timestamp_ms, Reason.MALFORMED, message
    )


class MemoryWorld:
    def __init__(self):
        self.sink = MemorySink()

    def read(self):
        return [(a.key, a.value, a.timestamp_ms, letter_headers(a)) for a in self.sink.letters]


class KafkaWorld:
    def __init__(self, bootstrap, topic):
        self.bootstrap, self.topic = bootstrap, topic
        self.sink = KafkaSink(KafkaSettings(bootstrap_servers=bootstrap, topic="events"), topic)

    def read(self):
        found = read_topic(self.bootstrap, self.topic)
        return [(m.key(), m.value(), m.timestamp()[1], m.headers()) for m in found]


@pytest.fixture(params=["memory", "mock", pytest.param("kafka", marks=pytest.mark.kafka)])
def world(request):
    if request.param == "memory":
        world = MemoryWorld()
    elif request.param == "mock":
        cluster = request.getfixturevalue("mock_kafka")
        cluster.create_topic("dead", 1)
        world = KafkaWorld(cluster.bootstrap_servers, "dead")
    else:
        bootstrap = request.getfixturevalue("kafka_broker")
        world = KafkaWorld(bootstrap, create_topic(bootstrap, unique_topic("dead")))
    yield world
    world.sink.close(5)


def test_a_letter_keeps_the_event_and_says_where_from_and_why(world):
    original = (("trace", b"1"), ("trace", b"2"), ("none", None))
    world.sink.send([letter(7, headers=original, message="$.x: expected a number")])
    world.sink.flush(10)
    [(key, value, timestamp_ms, headers)] = world.read()
    assert (key, value, timestamp_ms) == (b"k", b"{broken", 1_700_000_000_123)
    assert tuple(headers[:3]) == original
    assert dict(headers[3:]) == {
        "__connect.errors.topic": b"events",
        "__connect.errors.partition": b"2",
        "__connect.errors.offset": b"7",
        "__connect.errors.exception.class.name": b"malformed",
        "__connect.errors.exception.message": b"$.x: expected a number",
        "fluvial.id": b"events/2/7",
    }


def test_tombstones_and_empty_events_stay_apart(world):
    world.sink.send([letter(0, value=None, key=None), letter(1, value=b"", key=b"")])
    world.sink.flush(10)
    assert [(key, value) for key, value, _, _ in world.read()] == [(None, None), (b"", b"")]


def test_all_are_there_after_a_flush(world):
    for start in range(0, 3_000, 500):
        world.sink.send([letter(i, value=b"%d" % i) for i in range(start, start + 500)])
    world.sink.flush(20)
    assert sorted(int(value) for _, value, _, _ in world.read()) == list(range(3_000))
    world.sink.flush(0.1)


def test_closing_twice_is_fine(world):
    world.sink.close(2)
    world.sink.close(2)


def test_a_message_that_is_no_text_is_sent_all_the_same(world):
    world.sink.send([letter(0, message="lone \ud800 surrogate " + "x" * 100_000)])
    world.sink.flush(10)
    [(_, _, _, headers)] = world.read()
    assert dict(headers)["__connect.errors.exception.message"].startswith(b"lone ? surrogate xxx")
    assert sum(len(value or b"") for _, value in headers) < 10_000
