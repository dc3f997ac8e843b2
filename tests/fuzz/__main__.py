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

SAID_SECONDS = 30.0
"""Between two lines of progress where there is no terminal for a bar."""


class Result:
    """What came of it so far."""

    def __init__(self, read: argparse.Namespace) -> None:
        self._read = read
        self._started = time.monotonic()
        self.counts: Counter[str] = Counter()
        self.findings: list[dict[str, Any]] = []
        self.signals: dict[tuple[str, str], bytes] = {}
        self.episodes = 0

    def add(self, counts: Counter[str], findings: list[dict[str, Any]], signals: dict[Any, bytes]) -> None:
        """One more episode."""
        self.counts.update(counts)
        self.findings += findings
        self.signals |= signals
        self.episodes += 1

    def told(self) -> dict[str, Any]:
        """As JSON."""
        payloads, seconds = sum(self.counts.values()), time.monotonic() - self._started
        return {
            "seed": self._read.seed,
            "processes": self._read.processes,
            "payloads": payloads,
            "episodes": self.episodes,
            "seconds": round(seconds, 1),
            "rate": round(payloads / seconds),
            "counts": {str(what): n for what, n in self.counts.most_common()},
            "refusals told apart": len(self.signals),
            "findings": self.findings,
        }


def fuzz(read: argparse.Namespace, console: Console) -> Result:
    """Run the processes and gather what they find, until the end or Ctrl-C."""
    context = multiprocessing.get_context("spawn")
    queue, result = context.Queue(), Result(read)
    share = -(-read.events // read.processes)
    sizes = [min(share, read.events - k * share) for k in range(read.processes)]
    children = [
        context.Process(target=work, args=(f"{read.seed}/{k}", size, queue), daemon=True)
        for k, size in enumerate(sizes)
    ]
    for child in children:
        child.start()
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}/s"), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task, left, said = progress.add_task("", total=read.events, rate=0), len(children), time.monotonic()
        try:
            while left:
                episode = _next(queue, children)
                if episode is None:
                    left -= 1
                    continue
                before = len(result.findings)
                result.add(*episode)
                for finding in result.findings[before:]:  # at once: the end may be half an hour away
                    console.print(json.dumps(finding), highlight=False, markup=False, soft_wrap=True)
                now = result.told()
                progress.update(task, completed=now["payloads"], rate=now["rate"])
                if not console.is_terminal and time.monotonic() - said > SAID_SECONDS:
                    said = time.monotonic()
                    found = len(result.findings)
                    console.print(f"{now['payloads']:,} payloads, {now['rate']}/s, {found} findings")
        except KeyboardInterrupt:
            console.print("stopped; what there is so far:")
    for child in children:
        child.terminate()
        child.join()
    return result


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
    gathered = fuzz(read, console)
    result = gathered.told()
    if read.keep:
        found = [
            corpus.keep(name, shape, v) for (name, shape), v in gathered.signals.items() if name != "random"
        ]
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
