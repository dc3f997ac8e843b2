"""A real Apache Kafka (KRaft, one broker a run) and the mock cluster, as fixtures.

`FLUVIAL_TEST_KAFKA` names any broker to use instead. Otherwise Maven fetches the jars once into
`~/.cache/fluvial-tests/kafka-4.2.0` (`FLUVIAL_TEST_CACHE` moves it) and Java starts one.
"""

import os
import shutil
import subprocess
import tempfile
import time
import uuid
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from fluvial.adapters.embedded import EmbeddedKafka, Leash, free_port
from support.parts import missing

VERSION = "4.2.0"
MAX_MESSAGE = 12_000_000  # room for the ten-megabyte events of the tests
START_SECONDS = 60
JAVA = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")

POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>fluvial.tests</groupId><artifactId>kafka</artifactId><version>1</version><dependencies>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version>
</dependency><dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId>
<version>{VERSION}</version></dependency></dependencies></project>
"""


def cache() -> Path:
    root = os.environ.get("FLUVIAL_TEST_CACHE") or Path.home() / ".cache" / "fluvial-tests"
    return Path(root) / f"kafka-{VERSION}"


def kafka_jars() -> Path:
    """The folder of jars, fetched by Maven into a temporary one first so that half a copy never counts."""
    home = cache()
    libs = home / "libs"
    if libs.is_dir() and any(libs.glob(f"kafka_2.13-{VERSION}.jar")):
        return libs
    mvn = shutil.which("mvn")
    if mvn is None:
        missing("a real Kafka needs Maven (mvn) to fetch it, or FLUVIAL_TEST_KAFKA=host:port")
    home.mkdir(parents=True, exist_ok=True)
    half = Path(tempfile.mkdtemp(dir=home))
    (half / "pom.xml").write_text(POM)
    command = [mvn, "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={half / 'libs'}"]
    try:
        subprocess.run(command, cwd=half, check=True, capture_output=True, text=True, timeout=300)
        if not libs.exists():
            (half / "libs").rename(libs)
    except (subprocess.SubprocessError, OSError) as error:
        said = getattr(error, "stdout", None) or str(error)
        missing(f"Maven could not fetch Kafka: {str(said)[-300:]}")
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return libs


def properties(directory: Path, port: int, controller: int) -> str:
    settings = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller}",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": directory / "data",
        "auto.create.topics.enable": "false",
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 2,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 2,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "share.coordinator.state.topic.num.partitions": 1,
        "group.initial.rebalance.delay.ms": 0,
        "message.max.bytes": MAX_MESSAGE,
        "replica.fetch.max.bytes": MAX_MESSAGE,
        "fetch.max.bytes": 60_000_000,
        "log.retention.ms": -1,  # events in the tests may be thirty years old
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())


def start_broker(java: str, libs: Path) -> tuple[Leash, str]:
    directory = Path(tempfile.mkdtemp(prefix="fluvial-kafka-"))
    port, controller = free_port(), free_port()
    config = directory / "server.properties"
    config.write_text(properties(directory, port, controller))
    base = [java, *JAVA, "-cp", f"{libs}/*"]
    identity = uuid.uuid4().hex[:22]
    subprocess.run(
        [*base, "kafka.tools.StorageTool", "format", "--standalone", "-t", identity, "-c", str(config)],
        check=True,
        capture_output=True,
        timeout=START_SECONDS,
    )
    return Leash([*base, "kafka.Kafka", str(config)], directory), f"127.0.0.1:{port}"


def wait_for(bootstrap: str, seconds: float) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    end = time.monotonic() + seconds
    while True:
        try:
            if admin.list_topics(timeout=1).brokers:
                break
        except KafkaException:
            if time.monotonic() > end:
                raise
    for number in range(8):  # names that fall to each of the two partitions of offsets
        wait_for_coordinator(bootstrap, f"warm-{number}", end)


NOT_YET = {
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError._TIMED_OUT,
}


def wait_for_coordinator(bootstrap: str, group: str, end: float) -> None:
    """A broker that has just started answers for groups a moment later than for topics."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "log_level": 0})
    try:
        while time.monotonic() < end:
            try:
                consumer.committed([TopicPartition("warm", 0)], timeout=2)
            except KafkaException as error:
                if error.args[0].code() not in NOT_YET:
                    return  # asking is not allowed here: it answers
                time.sleep(0.1)
            else:
                return
    finally:
        consumer.close()


@pytest.fixture(scope="session")
def kafka_broker():
    """Bootstrap servers of a real Kafka."""
    given = os.environ.get("FLUVIAL_TEST_KAFKA")
    if given:
        yield given
        return
    java = shutil.which("java")
    if java is None:
        missing("a real Kafka needs Java 17, or FLUVIAL_TEST_KAFKA=host:port")
    leash, bootstrap = start_broker(java, kafka_jars())
    try:
        try:
            wait_for(bootstrap, START_SECONDS)
        except KafkaException:
            pytest.fail(f"Kafka did not start: {leash.output()}", pytrace=False)
        yield bootstrap
    finally:
        leash.stop()


@pytest.fixture
def mock_kafka():
    """A running `EmbeddedKafka` without topics: call `create_topic(name, partitions)`."""
    with EmbeddedKafka({}) as cluster:
        yield cluster


def unique_topic(prefix="events"):
    return f"{prefix}-{uuid.uuid4().hex[:10]}"


def create_topic(bootstrap, name, partitions=1, **config):
    """Create a topic on a real Kafka and wait until it can be used; `max_message_bytes=...` and so on."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    settings = {key.replace("_", "."): str(value) for key, value in config.items()}
    new = NewTopic(name, num_partitions=partitions, replication_factor=1, config=settings)
    admin.create_topics([new])[name].result(20)
    for _ in range(200):
        found = admin.list_topics(name, timeout=10).topics[name]
        if found.error is None and len(found.partitions) == partitions:
            return name
        time.sleep(0.05)
    msg = f"topic {name} did not appear"
    raise AssertionError(msg)


def delete_topic(bootstrap, name):
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.delete_topics([name])[name].result(20)
    while admin.list_topics(name, timeout=10).topics[name].error is None:
        time.sleep(0.05)


def delete_before(bootstrap, topic, partition, offset):
    """Move the log's start, as retention does."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.delete_records([TopicPartition(topic, partition, offset)]).values():
        future.result(20)


def produce_values(bootstrap, topic, records, headers=None, **client):
    """Produce (value, key, partition, timestamp_ms) and wait; None leaves partition or time to the client."""
    failed = []
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "linger.ms": 5,
            "compression.type": "lz4",
            "message.max.bytes": MAX_MESSAGE,
            "queue.buffering.max.messages": 1_000_000,
            **client,
        }
    )

    def delivered(error, _message):
        if error is not None:
            failed.append(error)

    for value, key, partition, timestamp_ms in records:
        options = {}
        if partition is not None:
            options["partition"] = partition
        if timestamp_ms is not None:
            options["timestamp"] = timestamp_ms
        while True:
            try:
                producer.produce(topic, value, key, headers=headers, on_delivery=delivered, **options)
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    left = producer.flush(60)
    assert not left, f"{left} not delivered"
    assert not failed, failed[0]


def read_topic(bootstrap, topic, seconds=20):
    """Every message of a topic from its start to its end as of now, in order within a partition."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"read-{uuid.uuid4().hex}",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "enable.partition.eof": True,
        }
    )
    try:
        parts, ends = [], set()
        for number in consumer.list_topics(topic, timeout=10).topics[topic].partitions:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=10)
            parts.append(TopicPartition(topic, number, low))
            if high == low:
                ends.add(number)
        consumer.assign(parts)
        messages, deadline = [], time.monotonic() + seconds
        while len(ends) < len(parts):
            assert time.monotonic() < deadline, f"{topic} could not be read in {seconds} s"
            for message in consumer.consume(1_000, 0.2):
                if message.error() is None:
                    messages.append(message)
                elif message.error().code() == -191:  # _PARTITION_EOF
                    ends.add(message.partition())
                else:
                    raise KafkaException(message.error())
        return messages
    finally:
        consumer.close()
