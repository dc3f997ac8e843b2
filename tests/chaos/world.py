"""What can be broken, and how it is made whole: a broker, a Redis, proxies before both, and workers."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import msgspec
from confluent_kafka import Consumer, TopicPartition

from fluvial.config import load
from fluvial.keys import Keys
from support import fold
from support.kafka_broker import JAVA, create_topic, kafka_jars, properties, wait_for
from support.parts import missing
from support.redis_server import RedisServer, free_port, need_redis
from support.service import KEY, TESTS, toml
from support.tcp_proxy import TcpProxy

LEASH = '"$@" & read -r how; kill "-${how:-9}" $!; wait'
"""Ends the broker as it is told on its input, or at once when the driver is gone."""
RUN = """
import ctypes, sys
die_with_parent = getattr(ctypes.CDLL(None), "prctl", None)  # Linux has it
if die_with_parent is not None:
    die_with_parent(1, 9)
from fluvial.cli import main
sys.exit(main(["run", sys.argv[1]]))
"""
"""`fluvial run`, which ends when the driver does, however that ends."""
START_SECONDS = 60
YOUNG_SECONDS = 15
"""Before its handlers are set, a worker that starts ends by SIGTERM itself."""


class Broker:
    """One real Kafka that can be stopped and started again on what it kept.

    Each worker has a listener of its own, advertised at a proxy's port, so that one of them alone can
    lose it. `bootstrap` is for everybody else.
    """

    def __init__(self, workers):
        java = shutil.which("java")
        if java is None:
            missing("chaos needs Java 17 for a Kafka of its own")
        self.directory = Path(tempfile.mkdtemp(prefix="fluvial-chaos-kafka-"))
        plain, controller = free_port(), free_port()
        self.bootstrap = f"127.0.0.1:{plain}"
        behind = [free_port() for _ in range(workers)]
        self.proxies = [TcpProxy(port) for port in behind]
        self._config = self.directory / "server.properties"
        self._config.write_text(
            properties(self.directory, plain, controller) + self._listeners(plain, controller, behind)
        )
        self._java = [java, *JAVA, "-cp", f"{kafka_jars()}/*"]
        self._process = None
        identity = uuid.uuid4().hex[:22]
        command = [*self._java, "kafka.tools.StorageTool", "format", "--standalone", "-t", identity]
        subprocess.run([*command, "-c", str(self._config)], check=True, capture_output=True, timeout=60)

    def _listeners(self, plain, controller, behind):
        """Later lines count: those of the tests' one broker come first."""
        names = [f"W{n}" for n in range(len(behind))]
        listen = [f"PLAINTEXT://127.0.0.1:{plain}", f"CONTROLLER://127.0.0.1:{controller}"]
        told = list(listen)
        for name, port, proxy in zip(names, behind, self.proxies, strict=True):
            listen.append(f"{name}://127.0.0.1:{port}")
            told.append(f"{name}://127.0.0.1:{proxy.port}")
        protocols = [f"{name}:PLAINTEXT" for name in ["PLAINTEXT", "CONTROLLER", *names]]
        settings = {
            "listeners": ",".join(listen),
            "advertised.listeners": ",".join(told),
            "listener.security.protocol.map": ",".join(protocols),
            "group.min.session.timeout.ms": 1_000,
            "group.consumer.min.session.timeout.ms": 1_000,
            "group.consumer.session.timeout.ms": 6_000,
            "group.consumer.min.heartbeat.interval.ms": 500,
            "group.consumer.heartbeat.interval.ms": 1_000,
            "log.retention.check.interval.ms": 30_000,
        }
        return "".join(f"{name}={value}\n" for name, value in settings.items())

    def start(self):
        """Start it on what it kept; `wait` says when it answers."""
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", LEASH, "leash", *self._java, "kafka.Kafka", str(self._config)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self):
        wait_for(self.bootstrap, START_SECONDS)

    def stop(self, how="9"):
        """SIGKILL (9) or an orderly end (TERM), which is cut short after ten seconds."""
        if self._process is None:
            return
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(how.encode() + b"\n")
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process = None

    def close(self):
        self.stop()
        for proxy in self.proxies:
            proxy.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def ends(self, topic):
        """The end of each partition's log."""
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": "ends"})
        try:
            partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
            return {
                p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=10)[1] for p in partitions
            }
        finally:
            consumer.close()


class Slot:
    """The place of one worker: its settings, its proxies, and the process that runs there now."""

    def __init__(self, number, world):
        self.number = number
        self.kafka = world.broker.proxies[number]
        self.redis = TcpProxy(world.redis.port)
        self.config = world.directory / f"worker-{number}.toml"
        self.output = world.directory / f"worker-{number}.log"
        self.process = None
        self.stopped = False
        """By SIGSTOP."""
        self.wanted = False
        self.armed = False
        """To be killed at a moment that its proxy will see."""
        self.tripped = False
        """That moment came."""
        self.lives = 0
        self.began = 0.0
        self._launch = world.launch
        self._directory = world.directory

    def __str__(self):
        return f"worker {self.number} (life {self.lives})"

    @property
    def running(self):
        return self.process is not None and not self.stopped

    def start(self, hash_seed):
        """A new life, under this seed for hashes."""
        self.lives += 1
        self.began = time.monotonic()
        self.wanted, self.armed, self.tripped = True, False, False
        self.redis.disarm()
        paths = [str(TESTS.parent / "src"), str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
        environ = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": os.pathsep.join(paths)}
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, *self._command()], env=environ, stdout=output, stderr=subprocess.STDOUT
            )

    def _command(self):
        if self._launch is None:
            return ["-c", RUN, str(self.config)]
        order = self._directory / f"order-{self.number}-{self.lives}.jsonl"
        return ["-m", "chaos.launch", str(self.config), str(order), *self._launch]

    def send(self, number):
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    def arm(self, marker, *, answered):
        """Have it killed at its next request to Redis with `marker`: before that is done, or just after."""
        self.armed = True
        self.redis.trip(marker, self._trip, answered=answered)

    def _trip(self):
        process = self.process
        if process is not None:
            self.tripped = True
            self.send(signal.SIGKILL)
        self.armed = False

    def kill(self):
        """SIGKILL, which also ends one that is stopped."""
        self.wanted = False
        if self.process is not None:
            self.send(signal.SIGKILL)
            self.process.wait()
        self.process, self.stopped = None, False

    def ended(self):
        """The exit code, once, of a process that is gone; else None."""
        code = None if self.process is None else self.process.poll()
        if code is not None:
            self.process, self.stopped = None, False
        return code

    def said(self, characters=1_500):
        return self.output.read_text(errors="replace")[-characters:]


class World:
    """All of it, with the settings that the workers share.

    `sections` are added to their tables, `topic` to the settings of the topic.
    """

    def __init__(self, options, schema, factory, sections=None, topic=None):
        need_redis()
        self.options = options
        self.directory = Path(tempfile.mkdtemp(prefix="fluvial-chaos-"))
        self.launch = launch_of(options)
        self.redis = RedisServer("--appendfsync", "no")
        self.broker = Broker(options.workers)
        self.redis.start()
        self.broker.start()
        self.broker.wait()
        self.topic = create_topic(self.broker.bootstrap, "events", options.partitions, **(topic or {}))
        create_topic(self.broker.bootstrap, "events.dead-letters")
        self.slots = [Slot(number, self) for number in range(options.workers)]
        for slot in self.slots:
            slot.config.write_text(toml(self._table(slot, schema, factory, sections or {})))
        self.settings = load(self.slots[0].config, {})
        self.keys = Keys(self.settings.service)

    def _table(self, slot, schema, factory, sections):
        options = self.options
        kafka = {
            "bootstrap_servers": f"127.0.0.1:{slot.kafka.port}",
            "topic": self.topic,
            "client": {"reconnect.backoff.max.ms": 500},
        }
        if options.scope == "partition":
            kafka |= {"scope": "partition", "session_timeout_ms": 6_000, "instance_id": f"w{slot.number}"}
            kafka |= {"protocol": options.protocol, "assignor": options.assignor}
        table = {
            "service": "chaos",
            "kafka": kafka,
            "redis": {"url": f"redis://127.0.0.1:{slot.redis.port}/0", "timeout_seconds": 1.0},
            "schema": schema,
            "model": {"factory": f"support.factories:{factory}", "allow": fold.OWN},
            "policy": {"name": options.policy, "restart_every": 1_000},
            "checkpoint": {"every_seconds": 0.2, "key": KEY},
            "scores": {"ttl_seconds": 86_400},
            "worker": {"lease_seconds": 2.0},
            "metrics": {"enabled": False},
        }
        for name, part in sections.items():
            table[name] = {**table.get(name, {}), **part}
        return table

    @property
    def shards(self):
        """Name and partitions of each shard."""
        partitions = range(self.options.partitions)
        if self.options.scope == "topic":
            return {"all": tuple(partitions)}
        return {f"partition-{p}": (p,) for p in partitions}

    def heads(self):
        """The next offset of each partition in the newest checkpoints."""
        found = {}
        for shard in self.shards:
            offsets = self.redis.cli.hget(self.keys.head(shard), "offsets")
            found |= msgspec.json.decode(offsets, type=dict[int, int]) if offsets else {}
        return found

    def close(self):
        for slot in self.slots:
            slot.kill()
            slot.redis.close()
        self.broker.close()
        self.redis.stop()

    def remove(self):
        """Nothing went wrong: nobody wants to read what the workers said."""
        shutil.rmtree(self.directory, ignore_errors=True)


def launch_of(options):
    """Arguments for `chaos.launch`; None where `fluvial run` itself will do."""
    broken = getattr(options, "broken", None)
    if broken:
        return ["--break", broken]
    return [] if options.scope == "topic" and options.partitions > 1 else None
