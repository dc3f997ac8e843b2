"""Event to score readable: one process sends stamped events, another reads Redis until each is there."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from multiprocessing.connection import Connection

import msgspec
import redis
from confluent_kafka import Producer

from fluvial.keys import Keys
from parts import wire_events

RATE = 1_000
WARM_UP = 5
"""Seconds of events that are not counted: caches, the first checkpoint, the client's first fetches."""
WINDOW = 64
"""Scores that are asked for at once."""
GIVE_UP = 30.0


def produce(bootstrap: str, topic: str, count: int) -> None:
    """Send `count` events, one each millisecond, each under its own key and stamped as it leaves."""
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0, "acks": "all"})
    events = [msgspec.json.decode(value) for _, value in wire_events(count)]
    encode = msgspec.json.Encoder().encode
    due = time.perf_counter()
    for number, event in enumerate(events):
        while (now := time.perf_counter()) < due:
            time.sleep(min(0.0005, due - now))
        event["key"] = f"latency-{number}"
        event["time"] = time.time()
        producer.produce(topic, encode(event), event["key"])
        producer.poll(0)
        due += 1.0 / RATE
    producer.flush(30)


def watch(redis_url: str, service: str, count: int, out: Connection) -> None:
    """Ask for the next scores until all have been read; send the seconds that each took."""
    client = redis.Redis.from_url(redis_url)
    keys = Keys(service)
    names = [keys.score(f"latency-{number}") for number in range(count)]
    decode = msgspec.json.Decoder().decode
    client.ping()
    out.send("ready")
    took: list[float] = []
    last = time.monotonic()
    while len(took) < count:
        found = client.mget(names[len(took) : len(took) + WINDOW])
        now = time.time()
        there = 0
        for value in found:
            if value is None:
                break
            score = decode(value)
            if score["offset"] != len(took):
                break
            took.append(now - score["event_time"])
            there += 1
        if there:
            last = time.monotonic()
        elif time.monotonic() - last > GIVE_UP:
            break
        else:
            time.sleep(0.0005)
    out.send(took)


def measure(bootstrap: str, redis_url: str, topic: str, service: str, seconds: float) -> dict[str, float]:
    """Percentiles in milliseconds, the warm-up left out."""
    count = int((seconds + WARM_UP) * RATE)
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    watcher = context.Process(target=watch, args=(redis_url, service, count, there), daemon=True)
    watcher.start()
    here.recv()
    sender = context.Process(target=produce, args=(bootstrap, topic, count), daemon=True)
    sender.start()
    took = here.recv()
    sender.join(60)
    watcher.join(10)
    if len(took) < count:
        msg = f"only {len(took):,} of {count:,} scores could be read; did the worker stop?"
        raise SystemExit(msg)
    counted = [1_000 * one for one in took[WARM_UP * RATE :]]
    cuts = statistics.quantiles(counted, n=100)
    return {
        "scores": len(counted),
        "p50_ms": cuts[49],
        "p90_ms": cuts[89],
        "p99_ms": cuts[98],
        "max_ms": max(counted),
    }
