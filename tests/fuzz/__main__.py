"""Fuzz for as long as told: `python -m fuzz --events 1_000_000 --processes 2`.

Prints what became of the payloads, by reason, and each finding with its messages as JSON. The same seed
and the same number of processes do the same again. Exit status 1 when something did not hold.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fuzz import corpus
from fuzz.process import work


def fuzz(read: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Run the processes and gather what they found."""
    context = multiprocessing.get_context("spawn")
    queue, started = context.Queue(), time.monotonic()
    share = -(-read.events // read.processes)
    sizes = [min(share, read.events - k * share) for k in range(read.processes)]
    children = [
        context.Process(target=work, args=(f"{read.seed}/{k}", size, queue), daemon=True)
        for k, size in enumerate(sizes)
    ]
    for child in children:
        child.start()
    counts, findings, signals, episodes = Counter[str](), [], {}, 0
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task, done, left = progress.add_task("", total=read.events, rate=""), 0, len(children)
        while left:
            message = _next(queue, children)
            if message[0] == "done":
                done += message[1]
                rate = done / (time.monotonic() - started)
                progress.update(task, completed=done, rate=f"{rate:,.0f}/s")
                continue
            left -= 1
            counts.update(message[1][0])
            findings += message[1][1]
            signals |= message[1][2]
            episodes += message[2]
    seconds = time.monotonic() - started
    return {
        "seed": read.seed,
        "processes": read.processes,
        "payloads": sum(counts.values()),
        "episodes": episodes,
        "seconds": round(seconds, 1),
        "rate": round(read.events / seconds),
        "counts": {str(what): n for what, n in counts.most_common()},
        "refusals told apart": len(signals),
        "findings": findings,
        "signals": signals,
    }


def _next(queue: Any, children: Sequence[Any]) -> Any:
    while True:
        try:
            return queue.get(timeout=1.0)
        except Exception as error:  # queue.Empty: is anybody still there?
            if any(child.exitcode not in {None, 0} for child in children):
                raise SystemExit("a process of the fuzzer ended; what it said is above") from error


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fuzz", description="Mutated payloads through decoder and worker.")
    parser.add_argument("--events", type=int, default=1_000_000, metavar="N", help="payloads (1_000_000)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="processes (1)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument(
        "--keep", action="store_true", help="add a small payload for each new refusal to the corpus"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0 when everything held."""
    read = arguments(argv)
    console = Console(stderr=True)
    console.print(f"seed {read.seed}", highlight=False)
    result = fuzz(read, console)
    signals = result.pop("signals")
    if read.keep:
        found = [corpus.keep(name, shape, v) for (name, shape), v in signals.items() if name != "random"]
        console.print(f"{sum(path is not None for path in found)} payloads added to the corpus")
    if read.json:
        print(json.dumps(result, indent=1))
    else:
        for what, count in result["counts"].items():
            print(f"{what:<12} {count:>10,}")
        shapes, found = result["refusals told apart"], len(result["findings"])
        print(f"{'payloads':<12} {result['payloads']:>10,}  in {result['seconds']:,} s, {result['rate']:,}/s")
        print(f"{shapes} refusals told apart, {found} findings")
        for finding in result["findings"]:
            print(json.dumps(finding))
    return 1 if result["findings"] else 0


if __name__ == "__main__":
    sys.exit(main())
