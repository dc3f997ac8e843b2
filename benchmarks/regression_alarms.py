"""False alarms and delays of the error plane in regression: `python benchmarks/regression_alarms.py`.

A preset learns a rule of five features (`heavy`: with noise of infinite variance) or River's Friedman
function, event by event, and the error plane watches it as the fold does, under `observe`. Nothing changes
in `plain`, `heavy` and `friedman`: each drift is a false alarm. In `turn` the rule turns round half way, in
`noisier` the noise grows from .5 to .65: counted are the drifts before, and the events until the first one
after it.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
from collections.abc import Iterator

from river.datasets import synth

from fluvial.config import DriftSettings
from fluvial.drift.error import CLOCK, ErrorMonitor
from fluvial.models.presets import PRESETS
from fluvial.schema import FeatureSpec, LabelSpec, Schema
from fluvial.types import SignalKind, Task

RING = 2_000
STILL, CHANGING = ("plain", "heavy", "friedman"), ("turn", "noisier")
Pair = tuple[dict[str, float], float]


def stream(kind: str, seed: int, events: int) -> Iterator[Pair]:
    """Features and target."""
    if kind == "friedman":
        for x, y in itertools.islice(synth.Friedman(seed=seed), events):
            yield {f"f{name}": value for name, value in x.items()}, y
        return
    rng = random.Random(seed)
    for number in range(events):
        changed = number >= events // 2
        x = {f"f{k}": rng.gauss(0.0, 1.0) for k in range(5)}
        rule = (3.0 * x["f0"] + x["f1"]) * (-1.0 if kind == "turn" and changed else 1.0)
        deviation = {"noisier": 0.65 if changed else 0.5}.get(kind, 0.1)
        noise = rng.gauss(0.0, deviation)
        if kind == "heavy":
            noise = 0.3 * rng.gauss(0.0, 1.0) / max(1e-3, abs(rng.gauss(0.0, 1.0)))
        yield x, rule + noise


def drifts(kind: str, preset: str, seed: int, events: int) -> list[int]:
    """At which events drift was said."""
    names = [f"f{k}" for k in range(10 if kind == "friedman" else 5)]
    features = tuple(FeatureSpec(name, "number", ("features", name)) for name in names)
    (model,) = PRESETS[preset](Schema(features, LabelSpec(Task.REGRESSION)), 1).values()
    monitor, ring, said = ErrorMonitor(Task.REGRESSION, DriftSettings()), list[float](), list[int]()
    for number, (x, y) in enumerate(stream(kind, seed, events), 1):
        ring.append(monitor.loss(y, model.predict_one(x) or 0.0))
        model.learn_one(x, y)
        if number % CLOCK == 0:
            del ring[:-RING]
            signals = monitor.update(ring[-CLOCK:], number, ring.copy)
            said += [number for signal in signals if signal.kind is SignalKind.DRIFT]
    return said


def main() -> None:
    """Print a line for each stream and preset."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=20_000, help="of each stream")
    parser.add_argument("--seeds", type=int, default=10, help="streams of each kind, from seed 11 on")
    args = parser.parse_args()
    for kind, preset in itertools.product((*STILL, *CHANGING), ("linear", "tree")):
        found = [drifts(kind, preset, seed, args.events) for seed in range(11, 11 + args.seeds)]
        half = args.events // 2 if kind in CHANGING else args.events
        false = sum(number <= half for said in found for number in said)
        line = f"{kind:9} {preset:7} {false} false drifts in {half * args.seeds:,} events"
        if kind in CHANGING:
            delays = [next((n - half for n in said if n > half), None) for said in found]
            known = [d for d in delays if d is not None]
            middle = statistics.median(known) if known else "-"
            line += f"; found {len(known)} of {len(delays)}, after {middle} at the median"
        print(line, flush=True)


if __name__ == "__main__":
    main()
