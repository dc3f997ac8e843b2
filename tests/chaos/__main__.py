"""`python -m chaos`: a run under fire, one line a fault, and a verdict. Status 0: good, 1: not, 2: usage."""

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path
from random import SystemRandom

import msgspec
import pytest

from chaos import verify
from chaos.faults import WEIGHTS, Storm, drawn
from chaos.feed import FACTORIES, Feed, schema
from chaos.watch import Watch
from chaos.world import World
from fluvial.adapters.redis import RedisStore
from fluvial.config import Secret
from fluvial.errors import FluvialError
from support.kafka_broker import read_topic

RATES = {"linear": 800, "adaptive": 400, "arf": 100}
"""Events a second: enough to keep a worker at work, little enough to catch up after an outage."""
PATIENCE_SECONDS = 120.0
"""Without any progress after the last fault was taken back: something is stuck."""


def parser():
    made = argparse.ArgumentParser(prog="chaos", description=__doc__)
    made.add_argument("--seed", type=int, help="of faults and events (default: random, and printed)")
    made.add_argument("--seconds", type=float, default=60.0, help="of faults (default %(default)g)")
    made.add_argument("--workers", type=int, choices=(1, 2, 3), default=2)
    made.add_argument("--scope", choices=("topic", "partition"), default="topic")
    made.add_argument("--partitions", type=int, default=1)
    made.add_argument("--model", choices=tuple(FACTORIES), default="linear")
    made.add_argument("--policy", choices=("observe", "reset", "reweight"), default="reweight")
    made.add_argument("--protocol", choices=("classic", "consumer"), default="classic")
    made.add_argument("--assignor", choices=("cooperative-sticky", "range"), default="cooperative-sticky")
    made.add_argument("--rate", type=float, help="events a second (default: what suits the model)")
    made.add_argument("--kinds", help=f"only these faults, with commas: {', '.join(WEIGHTS)}")
    made.add_argument("--json", type=Path, help="write the report to this file")
    made.add_argument("--break", dest="broken", help="run a build broken on purpose: see chaos/broken.py")
    return made


class Run:
    """One run, from an empty log to a verdict."""

    def __init__(self, options, tell=print):
        self.options = options
        self.tell = tell
        self.verdict = None
        self.world = World(options, schema(options.model), FACTORIES[options.model])
        self.feed = Feed(
            self.world.broker.bootstrap,
            self.world.topic,
            model=options.model,
            seed=options.seed,
            rate=options.rate or RATES[options.model],
            partitions=options.partitions,
        )
        self.watch = Watch(self.world.redis.port, self.world.keys, self.world.shards, self.feed.delivered)
        self.storm = Storm(self.world, self.watch, tell)
        self._stuck = []

    def go(self):
        """All of it; the report."""
        began = time.monotonic()
        self._under_fire()
        scores = self.watch.finish()
        self.verdict = verify.verify(self.world.settings, self.world.shards, self._left(scores))
        self.verdict.check("no head ever went back", self.watch.faults)
        self.verdict.check("no worker ended that was not ended", self.storm.odd)
        self.verdict.check("everything is folded in the end", self._stuck)
        self.verdict.check("every event was taken by the broker", self.feed.failed)
        return self._report(time.monotonic() - began)

    def _under_fire(self):
        for slot in self.world.slots:
            slot.start(self.options.seed + slot.number + 1)
        self.feed.start()
        self.watch.start()
        self.storm.until(lambda: self.watch.total > 0, PATIENCE_SECONDS)
        kinds = self.options.kinds and set(self.options.kinds.split(","))
        self.storm.run(drawn(self.options.seed, self.options.workers, kinds), self.options.seconds)
        self.tell("the faults are over: everything is made whole, and the workers catch up")
        self.storm.heal()
        self.feed.finish()
        self._catch_up()
        for slot in self.world.slots:
            self.storm.end(slot)

    def _catch_up(self):
        """Wait until the checkpoints hold all of the log, as long as they get anywhere."""
        ends = self.world.broker.ends(self.world.topic)
        before, since = None, time.monotonic()
        while (now := self.world.heads()) != ends:
            if now != before:
                before, since = now, time.monotonic()
            if time.monotonic() - since > PATIENCE_SECONDS:
                said = "".join(f"\n--- {slot}:\n{slot.said()}" for slot in self.world.slots)
                self._stuck.append(f"the checkpoints stand at {now}, the log ends at {ends}{said}")
                return
            self.storm.turn(0.05)

    def _left(self, scores):
        """Read back everything that the service left."""
        world = self.world
        straight = msgspec.structs.replace(world.settings.redis, url=Secret(world.redis.url))
        store = RedisStore(straight, world.keys, world.settings.scores)
        try:
            blobs = {shard: next(iter(store.load(shard)), None) for shard in world.shards}
        except FluvialError as error:
            self._stuck.append(str(error))
            blobs = {}
        journal = list(reversed(store.entries(10_000)))
        store.close()
        return verify.Left(
            records=read_topic(world.broker.bootstrap, world.topic, 120),
            letters=read_topic(world.broker.bootstrap, f"{world.topic}.dead-letters", 120),
            made=self.feed.made,
            seen=self.watch.scores,
            scores=scores,
            journal=journal,
            blobs=blobs,
            notes=sorted(world.directory.glob("order-*.jsonl")),
        )

    def _report(self, seconds):
        options = {k: v for k, v in vars(self.options).items() if k != "json"}
        counts = self.storm.counts
        return {
            "seed": self.options.seed,
            "good": self.verdict.good,
            "options": options,
            "seconds": round(seconds, 1),
            "kills": counts["SIGKILL"],
            "starts": sum(slot.lives for slot in self.world.slots),
            "fenced_by_the_group": self.storm.fenced,
            "faults": {kind: n for kind, n in sorted(counts.items()) if kind != "SIGKILL"},
            "made": dict(self.feed.counts()),
            "counts": dict(self.verdict.counts),
            "checks": self.verdict.faults,
        }

    def close(self):
        """End everything; what the workers said stays where something was wrong."""
        self.feed.stop()
        self.watch.close()
        self.world.close()
        if self.verdict is not None and self.verdict.good:
            self.world.remove()
        else:
            self.tell(f"what the workers said is in {self.world.directory}")


def run(options, tell=print):
    """One run's report."""
    going = Run(options, tell)
    try:
        return going.go()
    finally:
        going.close()


def told(report):
    """The report as lines."""
    kinds = ", ".join(f"{kind} {n}" for kind, n in report["faults"].items())
    yield f"faults: {sum(report['faults'].values())} ({kinds})"
    ended = report["fenced_by_the_group"]
    yield f"workers: {report['kills']} SIGKILLs, {report['starts']} starts, {ended} ended by the group"
    made = Counter(report["made"])
    kinds = f"{made['learned']:,} with a label, {made['scored']:,} without, {made['dead']:,} bad"
    yield f"events: {made.total():,} ({kinds})"
    for what, n in report["counts"].items():
        yield f"{what}: {n:,}"
    for name, faults in report["checks"].items():
        yield f"  {'BAD ' if faults else 'good'}  {name}" + (f": {len(faults)} faults" if faults else "")
        yield from (f"          {fault}" for fault in faults[: verify.SHOWN])
    verdict = "GOOD: as if nothing had happened" if report["good"] else "BAD"
    yield f"verdict: {verdict}   (--seed {report['seed']})"


def main(argv=None):
    options = parser().parse_args(argv)
    options.seed = SystemRandom().randrange(10**6) if options.seed is None else options.seed
    said = " ".join(f"--{k} {v}" for k, v in vars(options).items() if v is not None and k != "json")
    print(f"chaos {said}", flush=True)
    try:
        report = run(options, tell=lambda line: print(line, flush=True))
    except (pytest.skip.Exception, pytest.fail.Exception) as missing:
        print(f"chaos cannot run here: {missing}", file=sys.stderr)
        return 2
    for line in told(report):
        print(line)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1, default=str) + "\n")
    return 0 if report["good"] else 1


if __name__ == "__main__":
    sys.exit(main())
