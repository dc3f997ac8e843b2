"""What a checkpoint costs when the state is large: how long the loop stands still, and who else does.

    python benchmarks/stalls.py                  about 1 MB and 20 MB of state, five saves each
    python benchmarks/stalls.py --megabytes 5 --saves 9

A forest of ten learns from the topic's first events and is then made larger by copies of its trees, until
its state has the size that is asked for. Each save is then done in this process, part by part, beside a
thread that ticks each 5 ms, whose largest gap says how long no other thread got a word in. Then a real
`fluvial run` resumes from that state, so many times, and somebody scrapes its /metrics four times a second
while it loads, works and saves.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import secrets
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.table import Table

import parts
from fluvial import config, shard
from fluvial.adapters.kafka import KafkaSource
from fluvial.adapters.redis import RedisStore
from fluvial.codec import Codec
from fluvial.keys import Keys
from fluvial.learner import Learner
from fluvial.models import unpickle
from fluvial.topic_scope import SHARD
from parts import console
from service import KEY, Service, Setup, settings
from speed import machine

sys.path.insert(0, str(parts.HERE / "peers"))  # the factory is loaded in this process, too

TICK = 0.005
SCRAPE = 0.25
TOPIC = 60_000
"""Events of the topic; a large forest learns a few dozen a second."""
PARTS = ("dump", "probe", "seal", "store", "save")
Figures = dict[str, list[float]]


# --- the state -------------------------------------------------------------------------------------


def trained(wanted: config.Settings, events: int) -> Learner:
    """A fold that learned the topic's first events."""
    learner = Learner.genesis(shard.spec_of(wanted), shard.blanks_of(wanted), {0: 0})
    codec = Codec(wanted.schema)
    for offset, (key, value) in enumerate(parts.wire_events(events)):
        learner.steps([codec.decode(value, key.encode(), 0, offset, 1_700_000_000_000)])  # type: ignore[list-item]  # none is bad
    return learner


def enlarge(learner: Learner, size: int) -> None:
    """Give the forest copies of its trees, and of what it keeps for each, until its dump has `size` bytes."""
    forest = learner.mixture.members[0].model
    dumped, count = unpickle.dumps(forest), len(forest.data)
    for _ in range(round(size / len(dumped)) - 1):
        for name, value in vars(unpickle.loads(dumped, own=True)).items():
            if isinstance(value, list) and len(value) == count:
                getattr(forest, name).extend(value)


# --- one save, part by part --------------------------------------------------------------------------


class Ticker(threading.Thread):
    """Wants a word each 5 ms, and knows how long it once had to wait for it."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.gap = 0.0

    def run(self) -> None:
        """Tick."""
        last = time.perf_counter()
        while True:
            time.sleep(TICK)
            now = time.perf_counter()
            self.gap = max(self.gap, now - last - TICK)
            last = now


@contextlib.contextmanager
def timed(figures: Figures, name: str, owner: Any, attribute: str) -> Iterator[None]:
    """Measure each call of `owner.attribute`."""
    call: Callable[..., Any] = getattr(owner, attribute)

    def measured(*args: Any) -> Any:
        started = time.perf_counter()
        try:
            return call(*args)
        finally:
            figures[name][-1] += 1e3 * (time.perf_counter() - started)

    setattr(owner, attribute, measured)
    try:
        yield
    finally:
        setattr(owner, attribute, call)


def saves(kept: shard.Shard, store: RedisStore, count: int) -> Figures:
    """Milliseconds of each part of so many saves, and the ticking thread's largest gap."""
    figures: Figures = {name: [] for name in (*PARTS, "cpu", "gap")}
    ticker, learner = Ticker(), kept.learner
    ticker.start()
    for _ in range(count):
        for values in figures.values():
            values.append(0.0)
        ticker.gap, started, busy = 0.0, time.perf_counter(), time.thread_time()
        with (
            timed(figures, "dump", learner, "state"),
            timed(figures, "dump", unpickle, "dumps"),
            timed(figures, "probe", learner, "probe"),
            timed(figures, "seal", shard, "seal"),
        ):
            blob = kept.sealed(kept.sequence + 1)
        with timed(figures, "store", store, "save"):
            kept.save(store, blob, [], {})
        figures["save"][-1] = 1e3 * (time.perf_counter() - started)
        figures["cpu"][-1] = 1e3 * (time.thread_time() - busy)
        time.sleep(4 * TICK)
        figures["gap"][-1] = 1e3 * ticker.gap
    return figures


# --- a real worker that resumes from it ----------------------------------------------------------------


def resumed(setup: Setup) -> dict[str, float]:
    """Milliseconds: until it is active, of its first save, and of the slowest scrape from then to there."""
    with Service(setup) as service:
        service.wait_until(lambda: service.metrics(), "metrics")
        listening, active, slowest = time.perf_counter(), 0.0, 0.0
        while True:
            asked = time.perf_counter()
            samples: dict[str, float] = {}
            with contextlib.suppress(OSError):  # no answer within five seconds is one that took five
                _, samples = service.metrics()
            now = time.perf_counter()
            slowest = max(slowest, now - asked)
            if not active and "fluvial_checkpoint_bytes" in samples:
                active = now - listening
            if samples.get("fluvial_checkpoints_total", 0.0) >= 1.0:
                took = samples["fluvial_checkpoint_duration_seconds"]
                return {"resume": 1e3 * active, "worker_save": 1e3 * took, "scrape": 1e3 * slowest}
            time.sleep(SCRAPE)


# --- the command ---------------------------------------------------------------------------------------


def measure(options: argparse.Namespace, bootstrap: str, redis_url: str, megabytes: float) -> dict[str, Any]:
    """One size of state."""
    topic = parts.create_topic(bootstrap, "stalls")
    parts.fill(bootstrap, topic, TOPIC)
    name = f"stalls-{secrets.token_hex(4)}"
    setup = Setup(bootstrap, redis_url, topic, model="arf", name=name)
    with tempfile.TemporaryDirectory() as home:
        path = Path(home) / "service.toml"
        path.write_text(settings(setup, name, 0))
        wanted = config.load(path, {"FLUVIAL__CHECKPOINT__KEY": KEY})
    with console.status(f"{megabytes:g} MB: a forest learns {options.events:,} events"):
        learner = trained(wanted, options.events)
        enlarge(learner, round(1e6 * megabytes))
    source, store = KafkaSource(wanted.kafka, name), RedisStore(wanted.redis, Keys(name), wanted.scores)
    claim = store.claim(SHARD, secrets.token_hex(8))
    kept = shard.Shard(wanted, claim, source.topology(10.0), Codec(wanted.schema), learner)
    source.close(5.0)
    with console.status(f"{megabytes:g} MB: {options.saves} saves"):
        figures = saves(kept, store, options.saves)
    size = len(kept.sealed(0))
    with console.status(f"{megabytes:g} MB: {options.saves} restarts"):
        runs = [resumed(setup) for _ in range(options.saves)]
    figures |= {what: [run[what] for run in runs] for what in runs[0]}
    return {"bytes": size, "trees": len(learner.mixture.members[0].model.data), "milliseconds": figures}


ROWS = {
    "dump": "dump",
    "probe": "load a copy and ask it",
    "seal": "sign",
    "store": "Redis",
    "save": "a save, whole: the loop stands still",
    "cpu": "the same in processor time",
    "gap": "longest wait of another thread",
    "worker_save": "a real worker's save",
    "scrape": "its slowest scrape, load and save included",
    "resume": "restart: until it is active again",
}


def shown(result: dict[str, Any]) -> Table:
    """Medians and maxima."""
    title = f"{result['bytes'] / 1e6:.1f} MB of state, {result['trees']} trees: ms"
    table = Table("", "median", "max", title=title, title_justify="left")
    for name, told in ROWS.items():
        values = result["milliseconds"][name]
        table.add_row(told, f"{statistics.median(values):,.0f}", f"{max(values):,.0f}")
    return table


def main() -> None:
    """Measure every size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kafka", metavar="HOST:PORT", help="a Kafka to use instead of starting one")
    parser.add_argument("--redis", metavar="URL", help="a Redis to use instead of starting one")
    parser.add_argument("--megabytes", type=float, nargs="+", default=[1.0, 20.0])
    parser.add_argument("--saves", type=int, default=5, help="and restarts, of each size (default: 5)")
    parser.add_argument("--events", type=int, default=15_000, help="that the forest learns (default: 15,000)")
    parser.add_argument("--json", type=Path, default=parts.RESULTS / "stalls.json", help="where figures go")
    options = parser.parse_args()
    found = []
    with parts.kafka(options.kafka) as bootstrap, parts.redis_server(options.redis) as redis_url:
        for megabytes in options.megabytes:
            found.append(measure(options, bootstrap, redis_url, megabytes))
            console.print(shown(found[-1]))
    kept = {"machine": machine(), "events": options.events, "results": found}
    options.json.write_text(json.dumps(kept, indent=1) + "\n")
    console.print(f"written to {options.json}")


if __name__ == "__main__":
    main()
