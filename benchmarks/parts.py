"""What the benchmarks run against: a Kafka, a Redis, a topic full of events, the peers' environments."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import redis
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from rich.console import Console
from rich.progress import track

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))  # the broker is started exactly as the tests start theirs

from fluvial import streams  # noqa: E402  after the path
from fluvial.adapters.embedded import Leash, free_port  # noqa: E402

CACHE = Path.home() / ".cache" / "fluvial-bench"
DISTINCT = 100_000
"""Distinct events; a topic repeats them with other ids, keys and times."""
SEED = 101
KEYS = 10_000
RESULTS = HERE / "results"
console = Console(width=None if sys.stdout.isatty() else 110)  # a log takes the whole table


# --- servers -------------------------------------------------------------------------------------


@contextlib.contextmanager
def kafka(address: str | None) -> Iterator[str]:
    """Bootstrap servers of the Kafka at `address`, or of one that lives as long as this context."""
    if address:
        yield address
        return
    from support import kafka_broker

    java = shutil.which("java")
    if java is None:
        sys.exit("the benchmark needs a Kafka: install Java 17 and Maven, or name one with --kafka host:port")
    console.print("starting Kafka ...")
    leash, bootstrap = kafka_broker.start_broker(java, kafka_broker.kafka_jars())
    try:
        kafka_broker.wait_for(bootstrap, 60)
        yield bootstrap
    finally:
        leash.stop()


@contextlib.contextmanager
def redis_server(address: str | None) -> Iterator[str]:
    """URL of the Redis at `address`, or of one (append-only, noeviction) for the length of this context."""
    if address:
        yield address
        return
    binary = shutil.which("redis-server", path="/usr/bin:/usr/local/bin:/opt/homebrew/bin")
    if binary is None:
        sys.exit(
            "the benchmark needs a Redis: install redis-server, or name one with --redis redis://host:port/0"
        )
    directory, port = Path(tempfile.mkdtemp(prefix="fluvial-bench-redis-")), free_port()
    settings = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory), "--save", ""]
    durable = ["--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction"]
    leash = Leash([binary, *settings, *durable], directory)
    url = f"redis://127.0.0.1:{port}/0"
    try:
        client = redis.Redis.from_url(url)
        for _ in range(100):
            with contextlib.suppress(redis.ConnectionError):
                client.ping()
                break
            time.sleep(0.05)
        else:
            sys.exit(f"redis-server did not start: {leash.output()}")
        yield url
    finally:
        leash.stop()


# --- events --------------------------------------------------------------------------------------


def events_file() -> Path:
    """Agrawal events (JSON lines of features and label), made once: River makes 10,000 a second."""
    path = CACHE / f"agrawal-{SEED}-{DISTINCT}.jsonl"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".half")
    pairs = streams.named("agrawal-still").make(SEED, DISTINCT)
    with half.open("w") as out:
        for x, y in track(pairs, "making events", total=DISTINCT, console=console):
            features = {name: shortened(value) for name, value in x.items()}
            out.write(json.dumps({"features": features, "label": y}, separators=(",", ":")) + "\n")
    half.rename(path)
    return path


def shortened(value: float | str) -> float | int | str:
    """Cents and whole numbers, as a feed would write them."""
    return int(value) if isinstance(value, float) and value.is_integer() else round(float(value), 2)


def wire_events(count: int) -> Iterator[tuple[str, bytes]]:
    """(key, JSON) of `count` events: the distinct ones over and over, with fresh id, key and time."""
    bodies = [line.rstrip(b"}\n") for line in events_file().read_bytes().splitlines()]
    rng = Random(SEED)
    for number in range(count):
        key = f"key-{int(rng.random() * KEYS)}"
        head = f'{{"id":"event-{number:07d}","key":"{key}","time":{1_700_000_000 + number / 1_000:.3f},'
        yield key, head.encode() + bodies[number % DISTINCT][1:] + b"}"


def create_topic(bootstrap: str, prefix: str, partitions: int = 1) -> str:
    """A new topic under a name of its own, and its dead-letter topic."""
    name = f"{prefix}-{uuid.uuid4().hex[:8]}"
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    sizes = {name: partitions, f"{name}.dead-letters": 1}
    wanted = [NewTopic(n, num_partitions=size, replication_factor=1) for n, size in sizes.items()]
    for future in admin.create_topics(wanted).values():
        future.result(20)
    return name


def fill(bootstrap: str, topic: str, count: int) -> float:
    """Produce `count` events (lz4) and wait for them all; returns their mean size in bytes."""
    producer = Producer({"bootstrap.servers": bootstrap, "compression.type": "lz4", "linger.ms": 20})
    size = 0
    for key, value in track(wire_events(count), "filling the topic", total=count, console=console):
        size += len(value)
        while True:
            try:
                producer.produce(topic, value, key)
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    if producer.flush(120):
        sys.exit("the events could not be delivered: is the broker alive?")
    return size / count


# --- the peers' environments -----------------------------------------------------------------------

COMMON = ("river==0.26.1", "orjson==3.*", "redis[hiredis]>=5.2,<9")


@dataclass(frozen=True)
class Peer:
    """A script, the requirements of its environment and further arguments."""

    name: str
    script: str
    requires: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    home_of: str = ""
    """The script whose environment it shares; default its own."""

    @property
    def home(self) -> Path:
        """Where its environment is."""
        return CACHE / (self.home_of or self.script).removesuffix(".py")

    def python(self) -> Path:
        """The interpreter of the peer's own environment, made on first use."""
        python = self.home / "bin" / "python"
        stamp = self.home / "requirements"
        wanted = "\n".join((*COMMON, *self.requires))
        if stamp.exists() and stamp.read_text() == wanted:
            return python
        console.print(f"installing {self.name} into {self.home} ...")
        subprocess.run([sys.executable, "-m", "venv", str(self.home)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *COMMON, *self.requires], check=True)
        stamp.write_text(wanted)
        return python


PEERS = {
    peer.name: peer
    for peer in (
        Peer("by hand", "hand_written.py", ("confluent-kafka==2.16.1",)),
        Peer("by hand, tutorial", "hand_written.py", ("confluent-kafka==2.16.1",), ("--decode", "json")),
        Peer("Quix Streams", "quix.py", ("quixstreams==3.28.1",)),
        Peer("Bytewax", "bytewax_flow.py", ("bytewax==0.21.1", "confluent-kafka==2.16.1")),
        Peer("FastStream", "faststream_app.py", ("faststream[confluent]==0.7.8",)),
    )
}
