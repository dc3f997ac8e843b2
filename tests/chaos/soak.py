"""`python -m chaos.soak`: an hour at a steady rate, and whether memory, handles and threads stay flat."""

import argparse
import json
import resource
import sys
import time
from pathlib import Path

import psutil
import pytest
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from chaos.feed import FACTORIES, Feed, schema
from chaos.slope import slope
from chaos.world import World

SERIES = {"rss": "resident memory, MB", "handles": "open handles", "threads": "threads"}
GRAINS = {"rss": resource.getpagesize() / 1e6}
"""Memory is counted in pages; a single handle or thread more is told."""
SEGMENT = 32_000_000


def parser():
    made = argparse.ArgumentParser(prog="soak", description=__doc__)
    made.add_argument("--minutes", type=float, default=60.0, help="in all (default %(default)g)")
    made.add_argument(
        "--warm",
        type=float,
        default=10.0,
        help="minutes that do not count (default %(default)g, a sixth at most)",
    )
    made.add_argument(
        "--backlog",
        type=float,
        default=60.0,
        help="seconds of events that wait when the worker starts (default %(default)g)",
    )
    made.add_argument(
        "--every", type=float, default=5.0, help="seconds between samples (default %(default)g)"
    )
    made.add_argument("--rate", type=float, default=500.0, help="events a second (default %(default)g)")
    made.add_argument("--model", choices=tuple(FACTORIES), default="linear")
    made.add_argument("--policy", choices=("observe", "reset", "reweight"), default="reweight")
    made.add_argument("--seed", type=int, default=1)
    made.add_argument(
        "--json", type=Path, default=Path("soak.json"), help="samples and verdict (default %(default)s)"
    )
    return made


class Soak:
    """One worker, one partition, no faults."""

    def __init__(self, options):
        self.options = options
        options.workers, options.partitions, options.scope = 1, 1, "topic"
        sections = {"checkpoint": {"every_seconds": 1.0}, "scores": {"ttl_seconds": 60}}
        # The worker is abreast of the log: what is behind it may go.
        topic = {"segment_bytes": SEGMENT, "retention_bytes": 4 * SEGMENT, "retention_ms": -1}
        self.world = World(options, schema(options.model), FACTORIES[options.model], sections, topic)
        self.feed = Feed(
            self.world.broker.bootstrap,
            self.world.topic,
            model=options.model,
            seed=options.seed,
            rate=options.rate,
            partitions=1,
            keep=False,
        )
        self.samples = []

    def go(self, show):
        """Run and sample; `show(share done, sample)` after each."""
        (slot,) = self.world.slots
        self.feed.start()
        # As after any restart: catching up, the heap takes the size that a burst needs. A worker that was
        # never behind takes it bit by bit later, whenever the machine pauses for longer than before.
        time.sleep(self.options.backlog)
        slot.start(self.options.seed)
        while not self.world.heads().get(0):
            self._alive(slot)
            time.sleep(0.05)
        process, began, length = psutil.Process(slot.process.pid), time.monotonic(), 60 * self.options.minutes
        while (now := time.monotonic() - began) < length:
            self._alive(slot)
            self.samples.append(self._sample(process, now))
            show(now / length, self.samples[-1])
            time.sleep(min(self.options.every, max(0.0, length - now)))
        slot.send(15)
        return slot.process.wait(self.world.settings.worker.grace_seconds + 10)

    def _alive(self, slot):
        if slot.process.poll() is not None:
            raise RuntimeError(f"the worker ended with {slot.process.poll()}:\n{slot.said()}")

    def _sample(self, process, now):
        folded = self.world.heads()[0]
        return {
            "seconds": round(now, 2),
            "rss": process.memory_info().rss / 1e6,
            "handles": process.num_fds(),
            "threads": process.num_threads(),
            "folded": folded,
            "behind": self.feed.written - folded,
        }

    def close(self):
        self.feed.stop()
        self.world.close()
        self.world.remove()


def verdict(samples, warm_seconds):
    """Each series after the warm-up: where it began and ended, its slope, whether that is flat."""
    counted = [s for s in samples if s["seconds"] >= warm_seconds]
    seconds = [s["seconds"] for s in counted]
    found = {}
    for name in SERIES:
        values = [s[name] for s in counted]
        line = slope(seconds, values, grain=GRAINS.get(name, 0.0))
        found[name] = {
            "first": values[0],
            "last": values[-1],
            "per_hour": line.per_hour,
            "half_width": line.half_width,
            "flat": line.flat,
        }
    return found


def table(found):
    made = Table("", "first", "last", "slope an hour (95 %)", "")
    for name, title in SERIES.items():
        row = found[name]
        rises = f"{row['per_hour']:+.3f} ± {row['half_width']:.3f}"
        made.add_row(
            title, f"{row['first']:.1f}", f"{row['last']:.1f}", rises, "flat" if row["flat"] else "NOT FLAT"
        )
    return made


def soaked(options, console):
    """Run with a progress bar; the report."""
    soak = Soak(options)
    columns = (TextColumn("soak"), BarColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    try:
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("", total=1.0)

            def show(share, s):
                said = f"{s['folded']:,} events, {s['rss']:.1f} MB, {s['handles']} handles"
                progress.update(task, completed=share, description=said)

            status = soak.go(show)
    finally:
        soak.close()
    warm = 60 * min(options.warm, options.minutes / 6)
    return {
        "options": {k: v for k, v in vars(options).items() if k != "json"},
        "warm_seconds": warm,
        "status": status,
        "events": soak.samples[-1]["folded"],
        "verdict": verdict(soak.samples, warm),
        "samples": soak.samples,
    }


def main(argv=None):
    options, console = parser().parse_args(argv), Console()
    try:
        report = soaked(options, console)
    except (pytest.skip.Exception, pytest.fail.Exception) as missing:
        print(f"soak cannot run here: {missing}", file=sys.stderr)
        return 2
    options.json.write_text(json.dumps(report, indent=1) + "\n")
    flat = all(row["flat"] for row in report["verdict"].values())
    console.print(table(report["verdict"]))
    console.print(f"{report['events']:,} events; samples in {options.json}; {'flat' if flat else 'NOT FLAT'}")
    return 0 if flat and report["status"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
