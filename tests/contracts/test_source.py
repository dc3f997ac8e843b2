"""What every source does: over memory, the mock cluster and a real Kafka."""

import time

import pytest

from fluvial.adapters.kafka import KafkaSource
from fluvial.adapters.memory_log import MemorySource, MemoryTopic
from fluvial.config import KafkaSettings
from fluvial.errors import OffsetLost, SettingsError, SourceFatal
from fluvial.types import Commit, Lag
from support.kafka_broker import create_topic, delete_before, produce_values, unique_topic


class MemoryWorld:
    kind = "memory"

    def __init__(self, partitions):
        self.log = MemoryTopic(partitions)

    def open(self):
        return MemorySource(self.log)

    def append(self, records, headers=None):
        for value, key, partition, timestamp_ms in records:
            self.log.append(value, key, partition, timestamp_ms or 0, headers)

    def trim(self, partition, low):
        self.log.trim(partition, low)


class KafkaWorld:
    def __init__(self, kind, bootstrap, topic):
        self.kind = kind
        self.settings = KafkaSettings(
            bootstrap_servers=bootstrap, topic=topic, client={"fetch.wait.max.ms": 20}
        )
        self.opened = []

    def open(self):
        source = KafkaSource(self.settings, self.settings.topic)
        self.opened.append(source)
        return source

    def append(self, records, headers=None):
        produce_values(self.settings.bootstrap_servers, self.settings.topic, records, headers)

    def trim(self, partition, low):
        delete_before(self.settings.bootstrap_servers, self.settings.topic, partition, low)


def make_worlds(request):
    worlds = []

    def make(partitions=1):
        if request.param == "memory":
            world = MemoryWorld(partitions)
        elif request.param == "mock":
            cluster = request.getfixturevalue("mock_kafka")
            topic = unique_topic()
            cluster.create_topic(topic, partitions)
            world = KafkaWorld("mock", cluster.bootstrap_servers, topic)
        else:
            bootstrap = request.getfixturevalue("kafka_broker")
            world = KafkaWorld("kafka", bootstrap, create_topic(bootstrap, unique_topic(), partitions))
        worlds.append(world)
        return world

    yield make
    for world in worlds:
        for source in getattr(world, "opened", ()):
            source.close(5)


@pytest.fixture(params=["memory", "mock", pytest.param("kafka", marks=pytest.mark.kafka)])
def make_world(request):
    yield from make_worlds(request)


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def make_trimmed_world(request):
    """Worlds whose log's start can be moved; the mock cluster's only moves when it is overfilled."""
    yield from make_worlds(request)


def values(count, partition=0, start=0):
    return [(b"%d" % i, b"k%d" % i, partition, None) for i in range(start, start + count)]


def read(source, count, limit=500):
    found = []
    deadline = time.monotonic() + 20
    while len(found) < count:
        assert time.monotonic() < deadline, f"only {len(found)} of {count}"
        batch = source.poll(limit, 0.1)
        assert len(batch) <= limit
        found += batch
    return found


def read_until_lost(source, limit=500):
    found = []
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            found += source.poll(limit, 0.1)
        except OffsetLost as lost:
            return found, lost
    pytest.fail("no OffsetLost")


def test_reads_from_the_stated_offset_in_order(make_world):
    world = make_world()
    world.append(values(100))
    source = world.open()
    source.assign({0: 40})
    found = read(source, 60, limit=7)
    assert [m.offset() for m in found] == list(range(40, 100))
    assert [m.value() for m in found] == [b"%d" % i for i in range(40, 100)]
    assert source.poll(10, 0.05) in ([], ())


def test_a_record_has_all_its_parts(make_world):
    world = make_world()
    headers = [("a", b"1"), ("a", b"2"), ("none", None)]
    world.append([(None, b"key", 0, 1_234), (b"", None, 0, 5_678)], headers)
    source = world.open()
    source.assign({0: 0})
    tombstone, empty = read(source, 2)
    assert (tombstone.value(), tombstone.key(), tombstone.timestamp()) == (None, b"key", (1, 1_234))
    assert (empty.value(), empty.key(), empty.partition(), empty.timestamp()[1]) == (b"", None, 0, 5_678)
    assert list(tombstone.headers()) == headers


def test_several_partitions_each_in_order(make_world):
    world = make_world(3)
    for partition in range(3):
        world.append(values(200, partition))
    source = world.open()
    source.assign({0: 0, 1: 50, 2: 200})
    found = read(source, 350, limit=50)
    for partition, start in ((0, 0), (1, 50)):
        assert [m.offset() for m in found if m.partition() == partition] == list(range(start, 200))


def test_assigning_again_replaces_and_goes_back(make_world):
    world = make_world(2)
    world.append(values(50, 0))
    world.append(values(50, 1))
    source = world.open()
    source.assign({0: 0, 1: 0})
    read(source, 100)
    source.assign({1: 10})
    assert [(m.partition(), m.offset()) for m in read(source, 40)] == [(1, i) for i in range(10, 50)]


def test_an_offset_outside_the_log_is_refused_at_assign(make_world):
    world = make_world()
    world.append(values(10))
    source = world.open()
    with pytest.raises(OffsetLost, match="above its end") as lost:
        source.assign({0: 11})
    assert (lost.value.partition, lost.value.offset, lost.value.low, lost.value.high) == (0, 11, 0, 10)
    source.assign({0: 10})
    assert list(source.poll(10, 0.1)) == []
    world.append(values(1))
    assert read(source, 1)[0].offset() == 10


def test_an_offset_below_the_start_is_refused_at_assign(make_trimmed_world):
    world = make_trimmed_world()
    world.append(values(20))
    world.trim(0, 15)
    source = world.open()
    with pytest.raises(OffsetLost, match="below its start") as lost:
        source.assign({0: 4})
    assert (lost.value.low, lost.value.high) == (15, 20)
    assert source.bounds(0, 5) == Lag(15, 20)
    source.assign({0: 15})
    assert [m.offset() for m in read(source, 5)] == list(range(15, 20))


def test_an_offset_lost_while_reading_is_reported_once_and_others_go_on(make_trimmed_world):
    world = make_trimmed_world(2)
    world.append(values(20, 0))
    source = world.open()
    source.assign({0: 0, 1: 0})
    read(source, 20)
    source.pause()
    world.append(values(30, 0))
    world.append(values(5, 1))
    world.trim(0, 40)
    source.resume()
    found, lost = read_until_lost(source)
    assert (lost.partition, lost.offset, lost.low, lost.high) == (0, 20, 40, 50)
    found += [] if len(found) == 5 else read(source, 5 - len(found))
    assert {m.partition() for m in found} == {1}
    assert list(source.poll(10, 0.3)) == []
    source.assign({0: 40, 1: 5})
    assert [m.offset() for m in read(source, 10)] == list(range(40, 50))


def test_pause_loses_nothing(make_world):
    world = make_world()
    world.append(values(300))
    source = world.open()
    source.assign({0: 0})
    found = read(source, 20, limit=20)
    for _ in range(3):
        source.pause()
        assert list(source.poll(100, 0.05)) == []
        source.resume()
        found += read(source, 20, limit=20)
    found += read(source, 300 - len(found))
    assert [m.offset() for m in found] == list(range(300))


def test_assign_ends_a_pause(make_world):
    world = make_world()
    world.append(values(10))
    source = world.open()
    source.assign({0: 0})
    source.pause()
    source.assign({0: 5})
    assert [m.offset() for m in read(source, 5)] == list(range(5, 10))


def test_topology_bounds_and_start(make_world):
    world = make_world(3)
    world.append(values(7, 1))
    source = world.open()
    topology = source.topology(5)
    assert topology.partitions == 3
    assert topology.cluster_id
    assert topology == source.topology(5)
    assert source.bounds(1, 5) == Lag(0, 7)
    assert source.start_offsets("earliest", 5) == {0: 0, 1: 0, 2: 0}
    assert source.start_offsets("latest", 5) == {0: 0, 1: 7, 2: 0}
    with pytest.raises(SettingsError, match=r"kafka\.start: 'tomorrow'"):
        source.start_offsets("tomorrow", 5)
    with pytest.raises(SourceFatal):
        source.bounds(17, 5)


def test_start_at_a_time(make_world):
    world = make_world(2)
    base = 1_700_000_000_000
    world.append([(b"x", None, 0, base + 1_000 * i) for i in range(10)])
    source = world.open()
    if world.kind == "mock":
        with pytest.raises(SourceFatal, match="cannot look up a time"):
            source.start_offsets("2023-11-14T22:13:25Z", 5)
        return
    assert source.start_offsets("2023-11-14T22:13:25Z", 5) == {0: 5, 1: 0}
    assert source.start_offsets("2023-11-14T22:13:25", 5) == {0: 5, 1: 0}
    assert source.start_offsets("2023-11-15T00:13:24.500+02:00", 5) == {0: 5, 1: 0}
    assert source.start_offsets("2033-01-01", 5) == {0: 10, 1: 0}


def test_lag_is_known_once_read(make_world):
    world = make_world(2)
    world.append(values(9, 0))
    source = world.open()
    assert source.lag() == {}
    source.assign({0: 0})
    read(source, 9)
    assert source.lag() == {0: Lag(0, 9)}


def test_commit_is_mirrored_with_metadata_and_never_resumed_from(make_world):
    world = make_world(2)
    world.append(values(10, 0))
    source = world.open()
    assert source.committed(5) == {}
    source.assign({0: 0, 1: 0})
    read(source, 10)
    source.commit({0: 4}, "7:2")
    source.close(5)
    source.close(5)
    again = world.open()
    assert again.committed(5) == {0: Commit(4, "7:2")}
    again.assign({0: 0})
    assert read(again, 10)[0].offset() == 0
