"""The whole service in this process: the composition root on whatever Kafka and Redis it is pointed at.

`Live` is one service with its topic; `start` runs a worker as `fluvial run` puts it together, in a
thread, with its metrics on a free port. What a test looks at is what an operator sees: /readyz, /metrics,
the journal, the log, and what is in Redis.
"""

import json
import re
import signal
import threading
import time
import uuid
from importlib import metadata

import msgspec

from fluvial.adapters.redis import RedisStore
from fluvial.app import App
from fluvial.checkpoint import Expectation, unseal
from fluvial.codec import Codec
from fluvial.config import RedisSettings, Secret, load
from fluvial.keys import Keys
from fluvial.learner import Learner
from fluvial.models import unpickle
from fluvial.partition_scope import shard_of
from fluvial.shard import blanks_of, signing_keys, spec_of
from support import fold, web
from support.kafka_broker import create_topic, unique_topic
from support.service import KEY, Service, assert_scores, toml
from support.tcp_proxy import TcpProxy

SECONDS = 40


class Node:
    """One worker with real parts in a thread; what it raised is raised by `join`."""

    def __init__(self, settings):
        self.app = App(settings)
        self.raised = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            self.app.run()
        except BaseException as error:  # noqa: BLE001 - raised again by join
            self.raised = error

    @property
    def view(self):
        return self.app.view()

    def until(self, ready, what, seconds=SECONDS):
        until = time.monotonic() + seconds
        while not ready():
            assert self.thread.is_alive(), f"the worker ended before {what}: {self.raised!r}"
            assert time.monotonic() < until, f"{what} did not come about; not ready: {self.view.not_ready}"
            time.sleep(0.01)

    def until_ready(self):
        self.until(lambda: self.view.ready, "readiness")

    def until_not_ready(self, word):
        """Until /readyz is 503 and says this; the whole sentence."""
        said = []

        def says():
            status, body = self.get("/readyz")
            said[:] = json.loads(body)["reasons"]
            return status == 503 and any(word in reason for reason in said)

        self.until(says, f"not ready because of {word!r}")
        return " ".join(said)

    def get(self, path):
        """Status and body of a request to the port of its metrics."""
        self.until(lambda: self.app.metrics is not None, "a port")
        return web.get(self.app.metrics.address, path)

    def metric(self, name, **labels):
        """The sum of a metric's samples with these labels."""
        total, wanted = 0.0, [f'{key}="{value}"' for key, value in labels.items()]
        for line in self.get("/metrics")[1].splitlines():
            if re.match(rf"{name}[{{ ]", line) and all(label in line for label in wanted):
                total += float(line.split()[-1])
        return total

    def stop(self):
        self.app.worker.stop()
        self.join()

    def join(self):
        self.thread.join(SECONDS)
        assert not self.thread.is_alive(), "the worker did not end"
        if self.raised is not None:
            raise self.raised

    def end(self):
        """Stop it, however it stands."""
        self.app.worker.stop()
        self.thread.join(SECONDS)


class Live(Service):
    """A service on a topic of its own; `start` a worker in this process, `launch` one as its own."""

    def __init__(
        self, directory, bootstrap, redis, log, /, *, partitions=1, mock=None, letters=True, **sections
    ):
        self.log, self.bootstrap, self.redis = log, bootstrap, redis
        self.values = log.values  # made anew each time it is asked for
        self.topic, self.partitions = unique_topic("live"), partitions
        make = self._on_mock(mock) if mock else self._on_broker
        make(self.topic, partitions)
        if letters:
            make(f"{self.topic}.dead-letters", 1)
        self.directory = directory
        self.config, self.output = directory / f"{self.topic}.toml", directory / f"{self.topic}.log"
        self.table = {
            "service": f"s-{uuid.uuid4().hex[:8]}",
            "kafka": {"bootstrap_servers": bootstrap, "topic": self.topic},
            "redis": {"url": redis.url},
            "schema": log.schema,
            "model": {"factory": "support.factories:linear", "allow": fold.OWN},
            "policy": {"name": "reset"},
            "checkpoint": {"every_seconds": 0.05, "key": KEY},
            "worker": {"lease_seconds": 1.0},
            "metrics": {"port": 0},
        }
        self.settings = self.with_settings(**sections)
        self.table = merged(self.table, sections)
        self.keys = Keys(self.settings.service)
        self.process, self.processes, self.lives, self.nodes = None, [], 0, []

    def _on_broker(self, name, partitions):
        create_topic(self.bootstrap, name, partitions)

    @staticmethod
    def _on_mock(cluster):
        return cluster.create_topic

    def with_settings(self, **sections):
        """The settings with other sections over them."""
        self.config.write_text(toml(merged(self.table, sections)))
        return load(self.config, {})

    def start(self, settings=None):
        """A worker in a thread of this process."""
        node = Node(settings or self.settings)
        self.nodes.append(node)
        return node

    def run_to_the_end(self, settings=None):
        """Start a worker, wait until a checkpoint holds the whole topic, stop it."""
        node = self.start(settings)
        node.until_ready()  # what is in the store may be the end already
        self.until_folded(node)
        node.stop()
        return node

    def launch(self, hash_seed):
        """A worker as a process, besides those that run already."""
        self.start_process(hash_seed)
        made, self.process = self.process, None
        self.processes.append(made)
        return made

    start_process = Service.start

    def until(self, ready, what, seconds=SECONDS):
        """Where no worker of this process is to be watched."""
        until = time.monotonic() + seconds
        while not ready():
            assert time.monotonic() < until, f"{what} did not come about:\n{self.said()}"
            time.sleep(0.01)

    def until_folded(self, node):
        ends = self.ends()
        node.until(lambda: self.checkpointed() == ends, f"a checkpoint of {ends}")

    def __exit__(self, *_):
        for node in self.nodes:
            node.end()
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()
        super().__exit__()

    # ---- what it left ------------------------------------------------------------------------

    def store(self):
        """By the server's own address, whatever the workers are told."""
        url = Secret(self.redis.url)
        return RedisStore(RedisSettings(url=url), self.keys, self.settings.scores)

    def checkpointed(self):
        """The next offsets of all shards' newest checkpoints."""
        if self.settings.kafka.scope == "topic":
            return super().checkpointed()
        found = {}
        for partition in range(self.partitions):
            offsets = self.redis.cli.hget(self.keys.head(shard_of(partition)), "offsets")
            found |= msgspec.json.decode(offsets, type=dict[int, int]) if offsets else {partition: 0}
        return found

    def learner_of(self, partition):
        """The fold in the newest checkpoint of one partition's shard."""
        store, settings, shard = self.store(), self.settings, shard_of(partition)
        blob = store.load(shard)[0]
        store.close()
        expect = Expectation(settings.service, shard, settings.schema.hash, metadata.version("river"))
        opened = unseal(blob, expect, signing_keys(settings))
        state = unpickle.loads(opened.payload, unpickle.parse_extra(settings.model.allow))
        return Learner(spec_of(settings), state["fold"])

    def spread(self, start, stop):
        """Produce events `start` to `stop` of the log, in turn over the partitions."""
        for partition in range(self.partitions):
            numbers = [n for n in range(start, stop) if n % self.partitions == partition]
            self.produce([self.values[n] for n in numbers], partition)

    def assert_each_as_undisturbed(self, fed):
        """Each partition is a fold of its own, bit for bit, whoever had it when."""
        codec = Codec(self.settings.schema)
        scores = self.scores(f"e{n}" for n in range(fed))
        for partition in range(self.partitions):
            learner = Learner.genesis(spec_of(self.settings), blanks_of(self.settings), {partition: 0})
            numbers = range(partition, fed, self.partitions)
            for offset, number in enumerate(numbers):
                event = codec.decode(self.values[number], None, partition, offset, 0)
                outcome, score = learner.step(event), scores[f"e{number}"]
                assert tuple(score.probabilities.values()) == outcome.answer, (partition, offset)
                assert (score.shard, score.offset) == (shard_of(partition), offset)
            fold.assert_same_fold(self.learner_of(partition), learner)

    def kinds(self):
        return [kind for kind, _ in self.journal()]

    def entries(self, kind):
        return [entry for found, entry in self.journal() if found == kind]

    def head(self, field):
        found = self.redis.cli.hget(self.keys.head("all"), field)
        return None if found is None else found.decode()

    def assert_as_undisturbed(self, values=None):
        """Scores, state and metrics are those of an independent fold of the same bytes, bit for bit."""
        values = self.log.values if values is None else values
        folded = fold.fold(self.settings, values)
        assert_scores(self, self.log, [o for o in folded.outcomes if o is not None])
        kept = self.learner()
        ledger = kept.ledger.partitions[0]
        assert (ledger.next, ledger.balanced()) == (len(values), True)
        assert kept.metrics() == folded.learner.metrics()
        fold.assert_same_fold(kept, folded.learner)
        told = [(kind, e["offset"]) for kind, e in self.journal() if e.get("offset") is not None]
        entries = [(e.kind, e.offset) for o in folded.outcomes if o and o.rare for e in o.rare.entries]
        assert told == entries, "each journal entry of the fold exactly once"


def merged(table, sections):
    return {**table, **{name: {**table.get(name, {}), **part} for name, part in sections.items()}}


class SlowProxy(TcpProxy):
    """Every chunk towards the server waits for `delay` seconds."""

    delay = 0.0

    def _up(self, client, server, armed):
        super()._up(client, _Delayed(server, self), armed)


class _Delayed:
    def __init__(self, server, proxy):
        self._server, self._proxy = server, proxy

    def sendall(self, data):
        time.sleep(self._proxy.delay)
        self._server.sendall(data)

    def shutdown(self, how):
        self._server.shutdown(how)
