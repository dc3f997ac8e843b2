"""A worker as a process of its own, with a TOML file, a log and a hash seed; and what it left in Redis."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import msgspec
from confluent_kafka import Consumer, TopicPartition

from fluvial.adapters.redis import RedisStore
from fluvial.checkpoint import Expectation, unseal
from fluvial.codec import decode_score
from fluvial.config import load
from fluvial.keys import Keys
from fluvial.learner import Learner
from fluvial.models import unpickle
from fluvial.shard import blanks_of, signing_keys, spec_of
from fluvial.worker import SHARD
from support import fold
from support.kafka_broker import create_topic, produce_values, unique_topic

TESTS = Path(__file__).resolve().parents[1]
RUN = """
import logging, sys
logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
from fluvial import app, config
app.run(config.load(sys.argv[1]))
"""
KEY = "0123456789abcdef" * 3


def toml(table):
    """A table as TOML: sections, and inline tables in them, so that features keep their order."""
    plain = {k: v for k, v in table.items() if not isinstance(v, dict)}
    lines = [f"{json.dumps(k)} = {inline(v)}" for k, v in plain.items()]
    for name, section in table.items():
        if isinstance(section, dict):
            lines += [f"[{name}]", *(f"{json.dumps(k)} = {inline(v)}" for k, v in section.items())]
    return "\n".join(lines) + "\n"


def inline(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {inline(v)}" for k, v in value.items()) + "}"
    return json.dumps(value)


class Service:
    """One service on a topic of its own: settings, what is produced, one worker at a time.

    Every event has a key of its own and scores live for an hour, so that each can be read afterwards.
    """

    def __init__(
        self,
        directory,
        bootstrap,
        redis,
        log,
        factory,
        policy="observe",
        /,  # a section may be called `redis`
        *,
        partitions=1,
        letters=None,
        **sections,
    ):
        self.log = log
        self.bootstrap = bootstrap
        self.redis = redis
        self.topic = create_topic(bootstrap, unique_topic("orders"), partitions)
        create_topic(bootstrap, f"{self.topic}.dead-letters", **(letters or {}))
        self.directory = Path(directory)
        self.config = self.directory / f"{self.topic}.toml"
        self.output = self.directory / f"{self.topic}.log"
        table = {
            "service": f"s-{uuid.uuid4().hex[:8]}",
            "kafka": {"bootstrap_servers": bootstrap, "topic": self.topic},
            "redis": {"url": redis.url},
            "schema": log.schema,
            "model": {"factory": f"support.factories:{factory}", "allow": fold.OWN}
            if isinstance(factory, str)
            else factory,
            "policy": {"name": policy} if isinstance(policy, str) else policy,
            "checkpoint": {"every_seconds": 0.2, "key": KEY},
            "worker": {"lease_seconds": 1.0},
            "metrics": {"enabled": False},
        }
        for name, part in sections.items():
            table[name] = {**table.get(name, {}), **part}
        self.config.write_text(toml(table))
        self.settings = load(self.config, {})
        self.keys = Keys(self.settings.service)
        self.process = None
        self.lives = 0

    # ---- the topic ---------------------------------------------------------------------------

    def produce(self, values, partition=0):
        produce_values(self.bootstrap, self.topic, [(value, None, partition, None) for value in values])

    def ends(self):
        """The end of each partition's log."""
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": "ends"})
        try:
            partitions = consumer.list_topics(self.topic, timeout=10).topics[self.topic].partitions
            return {
                p: consumer.get_watermark_offsets(TopicPartition(self.topic, p), timeout=10)[1]
                for p in partitions
            }
        finally:
            consumer.close()

    # ---- the process -------------------------------------------------------------------------

    def start(self, hash_seed):
        assert self.process is None, "one at a time"
        paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
        environ = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": os.pathsep.join(paths)}
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", RUN, str(self.config)],
                env=environ,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.lives += 1

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def kill(self):
        """SIGKILL, now."""
        self.process.kill()
        self.process.wait()
        self.process = None

    def terminate(self, seconds=30):
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(seconds)
        self.process = None
        return code

    def said(self):
        return self.output.read_text(errors="replace")[-4_000:]

    def alive(self):
        assert self.process.poll() is None, f"the worker ended with {self.process.poll()}:\n{self.said()}"

    def wait(self, ready, what, seconds=60):
        until = time.monotonic() + seconds
        while not ready():
            self.alive()
            assert time.monotonic() < until, f"{what} did not come about in {seconds} s:\n{self.said()}"
            time.sleep(0.005)

    def wait_until_published(self, offset, seconds=60):
        """Until the scores below `offset` of partition 0 are out."""
        self.wait(lambda: self.published().get(0, 0) >= offset, f"the score of offset {offset}", seconds)

    def wait_until_folded(self, seconds=90):
        """Until a checkpoint holds every event of the topic."""
        ends = self.ends()
        self.wait(lambda: self.checkpointed() == ends, f"a checkpoint of {ends}", seconds)

    def run_to_the_end(self, hash_seed, seconds=90):
        """Start, fold everything, stop; the exit code."""
        before = self.output.stat().st_size if self.output.exists() else 0
        self.start(hash_seed)
        # What is in the store may be the end already, and a signal before there is a handler just kills.
        self.wait(lambda: b" active: epoch " in self.output.read_bytes()[before:], "a claim", seconds)
        self.wait_until_folded(seconds)
        return self.terminate()

    # ---- what it left ------------------------------------------------------------------------

    def published(self):
        found = self.redis.cli.hgetall(self.keys.published(SHARD))
        return {int(partition): int(offset) for partition, offset in found.items()}

    def checkpointed(self):
        offsets = self.redis.cli.hget(self.keys.head(SHARD), "offsets")
        return {} if not offsets else msgspec.json.decode(offsets, type=dict[int, int])

    def scores(self, keys):
        """Each key's score, by key."""
        found, keys = {}, list(keys)
        for start in range(0, len(keys), 5_000):
            chunk = keys[start : start + 5_000]
            values = self.redis.cli.mget([self.keys.score(key) for key in chunk])
            found |= {k: decode_score(v) for k, v in zip(chunk, values, strict=True) if v is not None}
        return found

    def journal(self):
        """Every entry, the oldest first, as (kind, fields)."""
        entries = list(reversed(self.store().entries(10_000)))
        return [(entry["kind"], entry) for entry in entries]

    def store(self):
        return RedisStore(self.settings.redis, self.keys, self.settings.scores)

    def learner(self):
        """The fold in the newest checkpoint, loaded as the next worker would."""
        store = self.store()
        try:
            blob = store.load(SHARD)[0]
        finally:
            store.close()
        settings = self.settings
        expect = Expectation(settings.service, SHARD, settings.schema.hash, "0.26.1")
        opened = unseal(blob, expect, signing_keys(settings))
        extra = unpickle.parse_extra(settings.model.allow)
        return Learner(spec_of(settings), unpickle.loads(opened.payload, extra)["fold"])

    def genesis(self):
        return Learner.genesis(
            spec_of(self.settings), blanks_of(self.settings), dict.fromkeys(self.ends(), 0)
        )


def assert_scores(service, log, outcomes):
    """Every single score is the oracle's, bit for bit; where it had no answer there is none.

    `outcomes` are a fold's, or (probabilities or None) of a plain River loop.
    """
    keys = [f"e{i}" for i in range(len(outcomes))]
    scores = service.scores(keys)
    names = [str(c).lower() if isinstance(c, bool) else str(c) for c in log.classes]
    missing, differing = [], []
    for offset, (key, outcome) in enumerate(zip(keys, outcomes, strict=True)):
        answer, version, known = outcome, 1, outcome is not None
        if hasattr(outcome, "answer"):
            answer, version, known = outcome.answer, outcome.version, outcome.known
        score = scores.get(key)
        if (score is None) == known:
            missing.append(offset)
            continue
        if not known:
            continue
        best = log.classes[answer.index(max(answer))]
        expected = (best, dict(zip(names, answer, strict=True)), version, offset)
        if (score.prediction, score.probabilities, score.version, score.offset) != expected:
            differing.append((offset, score, expected))
    assert not missing, f"{len(missing)} scores missing or too many, first at {missing[:5]}"
    assert not differing, f"{len(differing)} of {len(outcomes)} differ, first {differing[0]}"
