"""False alarms, delays and costs of the three planes: `python benchmarks/planes.py alarms --level 10000`.

Everything is drawn from fixed seeds, so a table can be made again. Parts: `error` (the error plane's ADWIN
by delta), `alarms` (features, by distribution and number of features), `delays` (shifts of the mean and
others), `cost` (microseconds an event).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from fluvial.drift.error import CLOCK, OneSided
from fluvial.drift.plane import SPAN, Columns, Plane
from fluvial.types import Signal, SignalKind

Draw = Callable[[np.random.Generator, int, int], Columns]
"""Generator, columns, events -> a stretch of a stationary stream."""


def _numbers(draw: Callable[[np.random.Generator, tuple[int, int]], NDArray[np.float64]]) -> Draw:
    return lambda rng, width, events: draw(rng, (width, events))


def _common(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
    """All columns nearly the same."""
    noise: NDArray[np.float64] = rng.normal(size=shape) * 0.3 + rng.normal(size=(1, shape[1]))
    return noise


def _absent(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
    values: NDArray[np.float64] = rng.normal(size=shape)
    values[rng.random(shape) < 0.1] = np.nan
    return values


def _categories(count: int, slope: float) -> Draw:
    shares = np.arange(1, count + 1) ** -slope
    names = np.array([f"value-{k}" for k in range(count)], dtype=object)

    def draw(rng: np.random.Generator, width: int, events: int) -> Columns:
        chosen = rng.choice(count, size=(width, events), p=shares / shares.sum())
        return [list(names[row]) for row in chosen]

    return draw


STREAMS: dict[str, Draw] = {
    "normal": _numbers(lambda rng, shape: rng.normal(size=shape)),
    "all alike": _numbers(_common),
    "heavy tails (Cauchy)": _numbers(lambda rng, shape: rng.standard_cauchy(size=shape)),
    "skewed (log-normal, 2)": _numbers(lambda rng, shape: rng.lognormal(0.0, 2.0, size=shape)),
    "counts (Poisson 2)": _numbers(lambda rng, shape: rng.poisson(2.0, size=shape).astype(float)),
    "binary, half": _numbers(lambda rng, shape: (rng.random(shape) < 0.5).astype(float)),
    "binary, 2 in 100": _numbers(lambda rng, shape: (rng.random(shape) < 0.02).astype(float)),
    "zero in 7 of 10": _numbers(lambda rng, shape: np.maximum(rng.normal(size=shape) - 0.524, 0.0)),
    "a tenth absent": _numbers(_absent),
    "4 categories": _categories(4, 0.0),
    "100 categories": _categories(100, 0.0),
    "1,000 categories (Zipf)": _categories(1_000, 1.0),
}


def spans(draw: Draw, rng: np.random.Generator, width: int, events: int) -> Iterator[Columns]:
    """A stationary stream in spans, drawn a thousand at a time."""
    while events > 0:
        drawn = draw(rng, width, 1_000 * SPAN)
        for first in range(0, min(events, 1_000 * SPAN), SPAN):
            if isinstance(drawn, np.ndarray):
                yield drawn[:, first : first + SPAN]
            else:
                yield [column[first : first + SPAN] for column in drawn]
        events -= 1_000 * SPAN


def watch(plane: Plane, stream: Iterator[Columns], start: int = 0) -> Iterator[Signal]:
    """Everything that the plane says."""
    events, last = start, None
    for span in stream:
        events += SPAN
        last = span
        yield from plane.update(span, events, lambda _, last=last: last)


def alarms(level: int, events: int, width: int, names: list[str], seed: int) -> None:
    """Print the mean distance of false drifts and of false warnings, in units of the expected one."""
    print(f"| {width} columns | drifts | of {level:,} | warnings | of {level // 10:,} |")
    for number, name in enumerate(STREAMS):
        if names and name not in names:
            continue
        plane = Plane("features", [f"f{k}" for k in range(width)], (level // 10, level))
        rng = np.random.default_rng([seed, number, width])
        said = [s.kind for s in watch(plane, spans(STREAMS[name], rng, width, events))]
        counted = [said.count(kind) for kind in (SignalKind.DRIFT, SignalKind.WARNING)]
        per = [events / max(1, n) / one for n, one in zip(counted, (level, level // 10), strict=True)]
        print(f"| {name} | {counted[0]} | {per[0]:.2f} | {counted[1]} | {per[1]:.2f} |", flush=True)


def error(events: int, seed: int) -> None:
    """Print how many events lie between two false rises of the error plane's ADWIN, by delta."""
    rates = (0.05, 0.1, 0.2, 0.3, 0.5)
    for delta in (0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002):
        rises = 0
        for rate in rates:
            rng, detector = np.random.default_rng([seed, int(1_000 * rate)]), OneSided(delta)
            for _ in range(events // 32_000):
                losses = (rng.random(32_000) < rate).astype(float).tolist()
                for first in range(0, 32_000, CLOCK):
                    detector.update(losses[first : first + CLOCK])
                    rises += detector.rose
        print(f"| {delta} | {rises} | {len(rates) * events / max(1, rises):,.0f} |", flush=True)


def _shifted(size: float) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    return lambda values: values + size


CHANGES: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "mean + 0.2": _shifted(0.2),
    "mean + 0.5": _shifted(0.5),
    "mean - 1": _shifted(-1.0),
    "spread x 1.5": lambda values: 1.5 * values,
    "spread / 1.5": lambda values: values / 1.5,
    "a constant": lambda values: 0.0 * values,
    "absent in 1 of 20": lambda values: np.where(np.arange(len(values)) % 20 == 7, np.nan, values),
}


def delays(level: int, width: int, before: int, runs: int, seed: int) -> None:
    """Print how long a change of the first of `width` normal columns takes to be said."""
    print(f"| change of 1 of {width} | found | median delay | 9 of 10 within | named first |")
    for number, (name, change) in enumerate(CHANGES.items()):
        found, right = [], 0
        for run in range(runs):
            rng = np.random.default_rng([seed, number, run])
            plane = Plane("features", [f"f{k}" for k in range(width)], (level // 10, level))
            for _ in watch(plane, spans(STREAMS["normal"], rng, width, before)):
                pass
            after = rng.normal(size=(width, 10_000 // SPAN * SPAN))
            after[0] = change(after[0])
            stretch = (after[:, k : k + SPAN] for k in range(0, after.shape[1], SPAN))
            drift = next((s for s in watch(plane, stretch, before) if s.kind is SignalKind.DRIFT), None)
            if drift is not None:
                found.append(drift.events - before)
                right += drift.moved[0].name == "f0"
        nine = sorted(found)[int(0.9 * len(found)) - 1] if found else 0
        middle = statistics.median(found) if found else 0
        print(f"| {name} | {len(found)} of {runs} | {middle:,.0f} | {nine:,} | {right} |", flush=True)


def cost(width: int, seed: int) -> None:
    """Print the microseconds that an event costs at different ages, best of five stretches."""
    rng = np.random.default_rng(seed)
    plane = Plane("features", [f"f{k}" for k in range(width)], (10**8, 10**9))
    stretches = list(spans(STREAMS["normal"], rng, width, 32_000))
    for number, age in enumerate((32_000, 64_000, 96_000, 128_000, 160_000)):
        start = time.process_time()
        for span in stretches:
            plane.update(span, age, lambda _: ())
        taken = (time.process_time() - start) / 32_000 * 1e6
        print(f"{width} columns, events {number * 32_000:,} to {age:,}: {taken:.2f} us an event", flush=True)


def main() -> None:
    """Run the part that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["error", "alarms", "delays", "cost"])
    parser.add_argument("--level", type=int, default=10_000, help="expected events between false drifts")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=10, help="columns")
    parser.add_argument("--before", type=int, default=5_120, help="delays: events before the change")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--stream", action="append", default=[])
    args = parser.parse_args()
    if args.part == "error":
        error(args.events, args.seed)
    elif args.part == "alarms":
        alarms(args.level, args.events, args.width, args.stream, args.seed)
    elif args.part == "delays":
        delays(args.level, args.width, args.before, args.runs, args.seed)
    else:
        cost(args.width, args.seed)


if __name__ == "__main__":
    main()
