"""Two workers against one on two partitions: a model per partition, shared out by the consumer group."""

from __future__ import annotations

import statistics
import time
import uuid
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from rich.table import Table

import parts
from parts import console
from service import Service, Setup

PARTITIONS = 2
SETTLE = 3.0
"""Seconds after the last partition has begun to learn: prefetch and first checkpoints."""


def measure(setup: Setup, rounds: int, seconds: float) -> dict[str, Any]:
    """Events a second of one worker and of two, interleaved, and the median of the rounds' ratios."""
    runs: dict[int, list[float]] = {1: [], 2: []}
    for number in range(1, rounds + 1):
        for workers, speeds in runs.items():
            with console.status(f"scaling, round {number} of {rounds}: {workers} of them"):
                speeds.append(_run(setup, workers, seconds))
    pairs = zip(runs[2], runs[1], strict=True)
    return {
        "one": runs[1],
        "two": runs[2],
        "ratios": {"two workers / one": statistics.median(a / b for a, b in pairs)},
    }


def _run(setup: Setup, workers: int, seconds: float) -> float:
    """Events a second of so many workers of one service, from their own counters."""
    name = f"bench-{uuid.uuid4().hex[:8]}"
    with ExitStack() as stack:
        running = [
            stack.enter_context(
                Service(replace(setup, name=name, kafka={"scope": "partition", "instance_id": f"worker-{k}"}))
            )
            for k in range(workers)
        ]
        _wait_for_all(running)
        time.sleep(SETTLE)
        begun = [_learned(service) for service in running]
        time.sleep(seconds)
        ended = [_learned(service) for service in running]
    return sum((b - a) / (end - start) for (start, a), (end, b) in zip(begun, ended, strict=True))


def _wait_for_all(running: list[Service]) -> None:
    """Until every worker learns from its share of the partitions."""
    share = PARTITIONS // len(running)
    for service in running:
        service.wait_until(lambda s=service: len(_partitions(s)) == share, "learning from its partitions")


def _partitions(service: Service) -> dict[str, float]:
    _, samples = service.metrics()
    learned = 'fluvial_events_total{outcome="learned",partition='
    return {name: value for name, value in samples.items() if name.startswith(learned) and value > 0}


def _learned(service: Service) -> tuple[float, float]:
    """When, and how many events it had learned from all of its partitions."""
    now = time.perf_counter()
    return now, sum(_partitions(service).values())


def topic(bootstrap: str, events: int) -> str:
    """A topic of two partitions with so many events."""
    name = parts.create_topic(bootstrap, "scaling", PARTITIONS)
    parts.fill(bootstrap, name, events)
    return name


def shown(model: str, found: dict[str, Any]) -> Table:
    """The rounds and their ratio."""
    table = Table(title=f"{model}: events a second, two partitions", title_justify="left")
    table.add_column("workers")
    table.add_column("median", justify="right")
    for name in ("one", "two"):
        table.add_row(name, f"{statistics.median(found[name]):,.0f}")
    table.add_row("two / one", f"{found['ratios']['two workers / one']:.2f}")
    return table
