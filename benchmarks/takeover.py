"""From SIGKILL to learning again, on a real Kafka and Redis.

    python benchmarks/takeover.py standby     topic scope: the active worker is killed, a standby goes on
    python benchmarks/takeover.py survivor    partition scope: one of two members is killed
    python benchmarks/takeover.py returning   partition scope: a static member is killed and started again
    python benchmarks/takeover.py             all of them

Without --kafka and --redis it starts a Kafka (Java, Maven) and a redis-server of its own. While it measures,
a thread sends 100 events a second to each partition. "Learning again" is the first event that the worker
counts in its own /metrics, asked for every 20 ms; each round has workers, a topic and a service of its own.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import threading
import time
import urllib.error
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from confluent_kafka import Producer
from rich.table import Table

import parts
from parts import console
from service import Service, Setup
from speed import machine

RATE = 100
"""Events a second, for each partition."""
SESSION_MS = 6_000
"""The shortest that a broker takes without being told otherwise."""
GIVE_UP = 120.0
AIMS = {"standby": 10.0, "survivor": SESSION_MS / 1_000 + 4.0, "returning": 3.0}
IMPORTS = {
    "Python": "pass",
    "Fluvial": "import fluvial.app",
    "River": "import fluvial.app, river.linear_model, river.preprocessing, river.drift",
}
"""What a start has to load, each with what is above it."""


class Feed:
    """Sends events to every partition of a new topic until it is closed."""

    def __init__(self, bootstrap: str, partitions: int) -> None:
        self.topic = parts.create_topic(bootstrap, "takeover", partitions)
        self._producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0})
        self._partitions = partitions
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._producer.flush(10)

    def _send(self) -> None:
        events = itertools.cycle(parts.wire_events(parts.DISTINCT))
        while not self._over.wait(1.0 / RATE):
            for partition, (key, value) in zip(range(self._partitions), events, strict=False):
                self._producer.produce(self.topic, value, key, partition=partition)
            self._producer.poll(0)


def seconds_until_learned(worker: Service, partition: int, since: float) -> float:
    """From `since` until the worker has learned an event of the partition."""
    while True:
        try:
            now, learned = worker.learned(partition)
        except (urllib.error.URLError, OSError):
            learned = 0.0  # it is not listening yet
        if learned:
            return now - since
        if worker.process.poll() is not None or time.perf_counter() - since > GIVE_UP:
            sys.exit(f"the worker learned nothing; its log ends:\n{worker.said()}")
        time.sleep(0.02)


def kill(worker: Service) -> float:
    """SIGKILL; when."""
    at = time.perf_counter()
    worker.process.kill()
    worker.process.wait()
    return at


def held(worker: Service) -> list[int]:
    """Which of the first two partitions it learns from now."""
    return [partition for partition in (0, 1) if worker.learned(partition)[1]]


def standby(bootstrap: str, redis: str) -> float:
    """Topic scope: SIGKILL of the active worker to the first event that the standby learns."""
    with Feed(bootstrap, 1) as feed:
        setup = Setup(bootstrap, redis, feed.topic)
        with Service(setup) as one, Service(replace(setup, name=one.name)) as two:
            one.wait_until(lambda: held(one) or held(two), "learning")
            active, other = (one, two) if held(one) else (two, one)
            other.wait_until(lambda: other.metrics()[1]["fluvial_alive"], "standing by")
            time.sleep(8.0)  # it has rehearsed by then
            return seconds_until_learned(other, 0, kill(active))


def survivor(bootstrap: str, redis: str) -> float:
    """Partition scope, two members: SIGKILL of one to the other's first event of its partition."""
    with Feed(bootstrap, 2) as feed:
        kafka = {"scope": "partition", "session_timeout_ms": SESSION_MS}
        setup = Setup(bootstrap, redis, feed.topic, kafka=kafka)
        with Service(setup) as dead, Service(replace(setup, name=dead.name)) as alive:
            both = lambda: sorted([held(dead), held(alive)]) == [[0], [1]]  # noqa: E731 - it is waited for
            dead.wait_until(both, "a partition each")
            time.sleep(3.0)  # and checkpoints of it
            [partition] = held(dead)
            return seconds_until_learned(alive, partition, kill(dead))


def returning(bootstrap: str, redis: str) -> float:
    """Partition scope, a static member that was killed: from its start to its first event."""
    with Feed(bootstrap, 1) as feed:
        setup = Setup(bootstrap, redis, feed.topic, kafka={"scope": "partition"})
        with Service(setup) as worker:
            worker.wait_until(lambda: held(worker), "learning")
            time.sleep(3.0)
            kill(worker)
        since = time.perf_counter()
        with Service(replace(setup, name=worker.name)) as again:
            return seconds_until_learned(again, 0, since)


def imports(rounds: int) -> dict[str, float]:
    """Median seconds of a process that only loads."""
    found = {}
    for name, code in IMPORTS.items():
        took = []
        for _ in range(rounds):
            since = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            took.append(time.perf_counter() - since)
        found[name] = statistics.median(took)
    return found


MEASURES: dict[str, Callable[[str, str], float]] = {
    "standby": standby,
    "survivor": survivor,
    "returning": returning,
}


def show(result: dict[str, Any]) -> None:
    table = Table("", "median", "least", "most", "aim", title="seconds from SIGKILL to learning again")
    for name, row in result.items():
        took = row["seconds"]
        figures = [f"{f(took):.2f}" for f in (statistics.median, min, max)]
        table.add_row(name, *figures, f"{row['aim']:g}{'' if row['met'] else ' MISSED'}")
        for what, seconds in row.get("imports", {}).items():
            table.add_row(f"  a process that loads {what}", f"{seconds:.2f}")
    console.print(table)


def measure(name: str, rounds: int, bootstrap: str, redis: str) -> dict[str, Any]:
    """One measure's rounds."""
    took = []
    for number in range(rounds):
        took.append(MEASURES[name](bootstrap, redis))
        console.print(f"{name} {number + 1} of {rounds}: {took[-1]:.2f} s")
    median = statistics.median(took)
    row = {"seconds": took, "median": median, "aim": AIMS[name], "met": median <= AIMS[name]}
    return row | ({"imports": imports(rounds)} if name == "returning" else {})


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", nargs="?", choices=[*MEASURES, "all"], default="all")
    parser.add_argument("--kafka", metavar="HOST:PORT", help="a Kafka to use instead of starting one")
    parser.add_argument("--redis", metavar="URL", help="a Redis to use instead of starting one")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, default=parts.RESULTS / "takeover.json", help="where figures go")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    chosen = list(MEASURES) if options.part == "all" else [options.part]
    result: dict[str, Any] = {}
    with parts.kafka(options.kafka) as bootstrap, parts.redis_server(options.redis) as redis:
        for name in chosen:
            result[name] = measure(name, options.rounds, bootstrap, redis)
    kept = json.loads(options.json.read_text()) if options.json.exists() else {}
    kept |= {name: {"machine": machine(), **row} for name, row in result.items()}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(kept, indent=1) + "\n")
    show(result)


if __name__ == "__main__":
    main()
