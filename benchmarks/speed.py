"""How fast: Fluvial with everything on, River alone in memory, and what one would write instead.

    python benchmarks/speed.py throughput    (a) River alone, (b) Fluvial, (c) peers; interleaved rounds
    python benchmarks/speed.py checkpoints   a checkpoint each second against none
    python benchmarks/speed.py latency       event to readable score, at 1,000 events a second
    python benchmarks/speed.py memory        resident memory over a million events
    python benchmarks/speed.py scaling       two workers against one, a partition each
    python benchmarks/speed.py               all of them

Without --kafka and --redis it starts a Kafka (Java, Maven) and a redis-server of its own. Each system
runs as its own process; each round runs every system once; ratios are taken within a round, and the
median of the rounds is reported. An interval starts after a warm-up. Give a Redis of your own an empty
database: the peers write `model`, `position` and `score:*` into it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import redis
from rich.table import Table

import latency
import parts
import scaling
from parts import console
from service import NEVER, Service, Setup

FULLEST = {"linear": 90_000, "tree": 40_000, "arf": 4_000}
"""Events a second that nobody here exceeds: what the topic is filled for."""
RIVER, OBSERVE, REWEIGHT = "River alone", "Fluvial observe", "Fluvial reweight"
ERRORS = "Fluvial observe, errors alone"
FLUVIAL = {OBSERVE: ("observe", True), ERRORS: ("observe", False), REWEIGHT: ("reweight", True)}
"""By name: the policy, and whether features and predictions are watched too."""
PARTS = ("throughput", "checkpoints", "latency", "memory", "scaling")
MILLION = 1_000_000

Result = dict[str, Any]


class Ground:
    """What all measurements stand on: servers, options, the filled topic."""

    def __init__(self, options: argparse.Namespace, bootstrap: str, redis_url: str) -> None:
        self.options = options
        self.bootstrap = bootstrap
        self.redis = redis_url
        self._topic: tuple[str, int] | None = None

    def topic(self, events: int) -> str:
        """A topic of at least so many events, filled once."""
        if self._topic is None or self._topic[1] < events:
            name = self.empty_topic()
            size = parts.fill(self.bootstrap, name, events)
            console.print(f"{events:,} events of {size:.0f} bytes in {name}")
            self._topic = (name, events)
        return self._topic[0]

    def empty_topic(self) -> str:
        """A new topic and its dead-letter topic."""
        return parts.create_topic(self.bootstrap, "bench")

    def needed(self, models: Sequence[str]) -> int:
        """Events that last for one interval of the fastest model, with room to spare."""
        seconds = self.options.seconds + self.options.warm_up + 3
        return int(seconds * max(FULLEST[model] for model in models))

    def clean(self) -> None:
        """Empty our own Redis between two runs; somebody else's is left alone."""
        if not self.options.redis:
            redis.Redis.from_url(self.redis).flushall()

    def setup(self, model: str, policy: str, checkpoint_seconds: float = 1.0, topic: str = "") -> Setup:
        """Fluvial's side of a measurement."""
        return Setup(
            self.bootstrap,
            self.redis,
            topic or self.topic(self.needed([model])),
            model=model,
            policy=policy,
            preset=self.options.fluvial_model == "preset",
            checkpoint_seconds=checkpoint_seconds,
        )


# --- one run ---------------------------------------------------------------------------------------


def run_service(ground: Ground, setup: Setup) -> Result:
    """Events a second of a real worker, from its own counters."""
    with Service(setup) as service:
        service.wait_for_events()
        time.sleep(ground.options.warm_up)
        (start, before), busy = service.metrics(), service.cpu()
        time.sleep(ground.options.seconds)
        (end, after), busy = service.metrics(), service.cpu() - busy
    learned = 'fluvial_events_total{outcome="learned",partition="0"}'
    if not after.get('fluvial_lag_events{partition="0"}', 1.0):
        sys.exit("the topic ran dry during the interval: raise FULLEST or lower --seconds")
    events = after[learned] - before[learned]
    saved = after["fluvial_checkpoints_total"] - before["fluvial_checkpoints_total"]
    return {
        "events": events,
        "seconds": end - start,
        "events_per_second": events / (end - start),
        "cpu_us_per_event": 1e6 * busy / max(1.0, events),
        "accuracy": after.get('fluvial_prequential{horizon="total",metric="accuracy"}'),
        "checkpoints": saved,
        "checkpoint_bytes": after["fluvial_checkpoint_bytes"],
    }


def run_script(ground: Ground, peer: parts.Peer, arguments: Sequence[str]) -> Result:
    """Run a peer in its own environment and read its one line."""
    options = ground.options
    interval = ["--seconds", str(options.seconds), "--warm-up", str(options.warm_up)]
    script = parts.HERE / "peers" / peer.script
    command = [str(peer.python()), str(script), *peer.arguments, *arguments, *interval]
    limit = options.seconds + options.warm_up + 60
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=True)
        return dict(json.loads(done.stdout.splitlines()[-1]))
    except subprocess.TimeoutExpired:
        sys.exit(f"{peer.name} did not finish in {limit:.0f} s: did the topic run dry?")
    except subprocess.CalledProcessError as error:
        sys.exit(f"{peer.name} failed:\n{error.stderr[-2_000:]}")


def run_river(ground: Ground, model: str) -> Result:
    hand = parts.PEERS["by hand"]
    river = parts.Peer(RIVER, "river_alone.py", hand.requires, home_of=hand.script)
    return run_script(ground, river, ["--events", str(parts.events_file()), "--model", model])


def run_peer(ground: Ground, peer: parts.Peer, work: str, model: str) -> Result:
    topic = ground.topic(ground.needed([model]))
    where = ["--bootstrap-servers", ground.bootstrap, "--topic", topic, "--redis", ground.redis]
    return run_script(ground, peer, [*where, "--work", work, "--model", model])


# --- throughput ------------------------------------------------------------------------------------


def systems(ground: Ground, model: str) -> dict[str, Callable[[], Result]]:
    """Everything to be run in a round, by name."""
    every: dict[str, Callable[[], Result]] = {RIVER: lambda: run_river(ground, model)}
    for name, (policy, planes) in FLUVIAL.items():
        setup = replace(ground.setup(model, policy), planes=planes)
        every[name] = lambda setup=setup: run_service(ground, setup)
    for peer in parts.PEERS.values():
        for work in ("same", "bare"):
            every[f"{peer.name}, {work}"] = lambda peer=peer, work=work: run_peer(ground, peer, work, model)
    wanted = ground.options.systems
    return {name: go for name, go in every.items() if not wanted or any(w in name for w in wanted)}


def throughput(ground: Ground) -> Result:
    options = ground.options
    ground.topic(ground.needed(options.models))
    found: Result = {}
    for model in options.models:
        runs: dict[str, list[Result]] = {}
        every = systems(ground, model)
        for number in range(1, options.rounds + 1):
            for name, go in every.items():
                ground.clean()
                with console.status(f"{model}, round {number} of {options.rounds}: {name}"):
                    runs.setdefault(name, []).append(go())
        speeds = {name: [run["events_per_second"] for run in many] for name, many in runs.items()}
        found[model] = {"ratios": ratios(speeds), "runs": runs}
        console.print(shown(model, runs, found[model]["ratios"]))
    return found


def ratios(speeds: dict[str, list[float]]) -> dict[str, float]:
    """Medians over the rounds of ratios taken within a round."""
    found: dict[str, float] = {}
    rounds = range(len(next(iter(speeds.values()))))

    def add(name: str, above: str, below: Sequence[str]) -> None:
        if above in speeds and below:
            each = [speeds[above][i] / max(speeds[b][i] for b in below) for i in rounds]
            found[name] = statistics.median(each)

    for name in FLUVIAL:
        add(f"{name} / {RIVER}", name, [RIVER] if RIVER in speeds else [])
        for work in ("same", "bare"):
            peers = [peer for peer in speeds if peer.endswith(f", {work}")]
            add(f"{name} / best peer, {work}", name, peers)
    return found


def shown(model: str, runs: dict[str, list[Result]], compared: dict[str, float]) -> Table:
    table = Table(title=f"{model}: events a second", title_justify="left")
    for name in ("system", "median", "lowest", "highest", "CPU µs an event", "accuracy"):
        table.add_column(name, justify="left" if name == "system" else "right")
    for name, many in runs.items():
        speeds = [run["events_per_second"] for run in many]
        accuracy = many[-1].get("accuracy")
        numbers = (statistics.median(speeds), min(speeds), max(speeds))
        cpu = statistics.median(run["cpu_us_per_event"] for run in many)
        shown_accuracy = f"{accuracy:.4f}" if accuracy else ""
        table.add_row(name, *(f"{n:,.0f}" for n in numbers), f"{cpu:.1f}", shown_accuracy)
    table.add_section()
    for name, ratio in compared.items():
        table.add_row(name, f"{ratio:.2f}")
    return table


# --- checkpoints -----------------------------------------------------------------------------------


def checkpoints(ground: Ground) -> Result:
    """A signed checkpoint each second against none at all."""
    options = ground.options
    models = [model for model in options.models if model != "arf"] or options.models
    ground.topic(ground.needed(models))
    found: Result = {}
    for model in models:
        runs: dict[str, list[Result]] = {"each second": [], "none": []}
        for number in range(1, options.rounds + 1):
            for name, seconds in (("each second", 1.0), ("none", NEVER)):
                ground.clean()
                with console.status(f"checkpoints, {model}, round {number} of {options.rounds}: {name}"):
                    runs[name].append(run_service(ground, ground.setup(model, "observe", seconds)))
        pairs = zip(runs["each second"], runs["none"], strict=True)
        ratio = statistics.median(a["events_per_second"] / b["events_per_second"] for a, b in pairs)
        found[model] = {"ratios": {"each second / none": ratio}, "runs": runs}
        console.print(shown(f"{model}, checkpoints", runs, found[model]["ratios"]))
    return found


# --- latency ---------------------------------------------------------------------------------------


def measure_latency(ground: Ground) -> Result:
    """From the producer's stamp until another process has read the score from Redis."""
    ground.clean()
    found: Result = {}
    for policy in ("observe", "reweight"):
        topic = ground.empty_topic()
        with Service(ground.setup("linear", policy, topic=topic)) as service:
            service.wait_for_ready()
            with console.status(f"latency, {policy}: {ground.options.latency_seconds:.0f} s"):
                found[policy] = latency.measure(
                    ground.bootstrap, ground.redis, topic, service.name, ground.options.latency_seconds
                )
    table = Table(title="event to score readable, at 1,000 events a second, ms", title_justify="left")
    columns = ("p50_ms", "p90_ms", "p99_ms", "max_ms", "scores")
    for name in ("policy", *columns):
        table.add_column(name, justify="left" if name == "policy" else "right")
    for policy, result in found.items():
        table.add_row(policy, *(f"{result[name]:,.1f}" for name in columns))
    console.print(table)
    return found


# --- memory ----------------------------------------------------------------------------------------


def memory(ground: Ground) -> Result:
    """Resident memory while a million events go by, the first fifth left out."""
    found: Result = {}
    topic = ground.topic(MILLION + 2 * MILLION // 5)  # the client prefetches to the end, and shrinks there
    for policy in ("observe", "reweight"):
        ground.clean()
        samples: list[tuple[float, int]] = []
        with Service(ground.setup("linear", policy, topic=topic)) as service:
            service.wait_for_events()
            watched = psutil.Process(service.process.pid)
            with console.status(f"memory, {policy}: a million events"):
                while not samples or samples[-1][0] < MILLION:
                    samples.append((service.learned()[1], watched.memory_info().rss))
                    time.sleep(0.5)
        settled = [(events, rss) for events, rss in samples if events >= MILLION / 5]
        slope = statistics.linear_regression(*zip(*settled, strict=True)).slope
        found[policy] = {
            "bytes_per_event": slope,
            "rss_at_200_000": settled[0][1],
            "rss_at_1_000_000": settled[-1][1],
            "samples": samples,
        }
        at = f"{settled[0][1] / 1e6:.1f} MB at 200,000 events, {settled[-1][1] / 1e6:.1f} MB at a million"
        console.print(f"memory, {policy}: {at}; slope {slope:.2f} bytes an event")
    return found


# --- scaling ---------------------------------------------------------------------------------------


def measure_scaling(ground: Ground) -> Result:
    """A tree a partition: learned by one worker, and by two."""
    options = ground.options
    events = 2 * ground.needed(["tree"])
    topic = scaling.topic(ground.bootstrap, events)
    ground.clean()
    found = scaling.measure(ground.setup("tree", "observe", topic=topic), options.rounds, options.seconds)
    console.print(scaling.shown("tree", found))
    return found


# --- the command -----------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", nargs="?", choices=[*PARTS, "all"], default="all")
    parser.add_argument("--kafka", metavar="HOST:PORT", help="a Kafka to use instead of starting one")
    parser.add_argument("--redis", metavar="URL", help="a Redis to use instead of starting one")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of an interval (default: 10)")
    parser.add_argument("--warm-up", type=float, default=3.0, help="seconds before it (default: 3)")
    parser.add_argument("--latency-seconds", type=float, default=30.0)
    parser.add_argument("--models", type=_names, default=["linear", "tree", "arf"], metavar="linear,tree,arf")
    parser.add_argument(
        "--systems",
        type=_names,
        default=[],
        metavar="NAME,...",
        help="only those whose name holds one of these",
    )
    parser.add_argument(
        "--fluvial-model",
        choices=["factory", "preset"],
        default="factory",
        help="the River model that the others use, or Fluvial's own preset",
    )
    parser.add_argument("--json", type=Path, default=parts.RESULTS / "speed.json", help="where figures go")
    return parser.parse_args()


def _names(text: str) -> list[str]:
    return text.split(",")


def machine() -> Result:
    """What it ran on."""
    names = ("river", "confluent-kafka", "redis", "numpy", "msgspec")
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in names},
    }


def save(path: Path, part: str, options: argparse.Namespace, result: Result) -> None:
    """Put one part's figures beside those of the others."""
    kept = json.loads(path.read_text()) if path.exists() else {}
    given = {name: str(value) for name, value in vars(options).items() if name not in {"json", "part"}}
    kept[part] = {"machine": machine(), "options": given, "result": result}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(kept, indent=1) + "\n")
    console.print(f"{part}: written to {path}")


def main() -> None:
    options = arguments()
    measure = {
        "throughput": throughput,
        "checkpoints": checkpoints,
        "latency": measure_latency,
        "memory": memory,
        "scaling": measure_scaling,
    }
    with parts.kafka(options.kafka) as bootstrap, parts.redis_server(options.redis) as redis_url:
        ground = Ground(options, bootstrap, redis_url)
        for part in PARTS if options.part == "all" else (options.part,):
            save(options.json, part, options, measure[part](ground))


if __name__ == "__main__":
    main()
