"""Try every mutant: break a copy of the tree, run the tests that must fail, and see whether they do.

    python -m mutants                       all of them (`make mutants`)
    python -m mutants --only no-mac-check   one; may be repeated
    python -m mutants --json                the table as JSON
    python -m mutants --list                what there is

First the tests run on an unbroken copy, where all must pass. Exit status 1 when a mutant lives.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mutants import Mutant, Stale, copy_tree
from mutants.catalogue import MUTANTS

SECONDS = 600
"""After this long a broken build hangs, which is not what its tests are to say."""
OPTIONS = ["-q", "-p", "no:cacheprovider", "-rfEs", "--tb=no", "--timeout=240", "--no-header"]
_LINE = re.compile(r"^(FAILED|ERROR|SKIPPED) (.*?)(?: - .*)?$", re.MULTILINE)


class Ran:
    """What came of one run of pytest in a copy."""

    def __init__(self, code: int, output: str) -> None:
        self.code = code
        self.output = output
        told = _LINE.findall(output)
        self.failed = [node for word, node in told if word == "FAILED"]
        self.skipped = [node for word, node in told if word == "SKIPPED"]

    def fails(self, test: str) -> bool:
        """Whether this test, or a case of it, failed."""
        return any(node == test or node.startswith(f"{test}[") for node in self.failed)


def run_tests(root: Path, tests: Sequence[str]) -> Ran:
    """Run them in the copy under `root`, on its own code."""
    environ = {**os.environ, "PYTHONPATH": str(root / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    environ.pop("PYTEST_ADDOPTS", None)
    command = [sys.executable, "-m", "pytest", *OPTIONS, *tests]
    try:
        done = subprocess.run(
            command, cwd=root, env=environ, capture_output=True, text=True, check=False, timeout=SECONDS
        )
    except subprocess.TimeoutExpired as error:
        return Ran(-1, f"{error.stdout or ''}\nhung for {SECONDS} s")
    return Ran(done.returncode, done.stdout + done.stderr)


def baseline(chosen: Sequence[Mutant]) -> Ran:
    """The tests of these mutants on an unbroken copy."""
    with tempfile.TemporaryDirectory(prefix="fluvial-unbroken-") as directory:
        root = copy_tree(Path(directory))
        return run_tests(root, sorted({test for mutant in chosen for test in mutant.tests}))


def attempt(mutant: Mutant) -> dict[str, Any]:
    """Break a copy, run the tests, say what came of it."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"fluvial-{mutant.name}-") as directory:
        root = copy_tree(Path(directory))
        try:
            mutant.apply(root)
        except Stale as error:
            verdict, by, ran = "stale", [], Ran(-1, str(error))
        else:
            ran = run_tests(root, mutant.tests)
            by = [test for test in mutant.tests if ran.fails(test)]
            verdict = _verdict(ran, len(by) == len(mutant.tests))
    row = {
        "mutant": mutant.name,
        "verdict": verdict,
        "tests": by,
        "cases": len(ran.failed),
        "seconds": round(time.monotonic() - started, 1),
        "loses": mutant.loses,
    }
    if verdict != "dies":
        row["output"] = ran.output[-2_000:]
        row["passed"] = [test for test in mutant.tests if test not in by]
    return row


def _verdict(ran: Ran, all_fail: bool) -> str:
    if ran.code == 0 and ran.skipped and " passed" not in ran.output:
        return "untried"  # a part is missing on this machine
    # 1 is pytest's word for "tests failed"; anything else is a build that does not even run.
    return "dies" if ran.code == 1 and all_fail else "lives"


def told(row: dict[str, Any]) -> str:
    """One line of the table."""
    by = row["tests"] if row["verdict"] == "dies" else row.get("passed", [])
    names = [test.rpartition("/")[2] for test in by]
    return f"{row['mutant']:<28} {row['verdict']:<6} {row['seconds']:>6.1f} s  {', '.join(names)}"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mutants", description="Builds broken on purpose, which must die.")
    parser.add_argument("--only", action="append", metavar="NAME", help="this one; may be repeated")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    parser.add_argument("--list", action="store_true", help="print names and what a user would lose")
    read = parser.parse_args(argv)
    unknown = {*(read.only or ())} - {mutant.name for mutant in MUTANTS}
    if unknown:
        parser.error(f"no mutant {', '.join(sorted(unknown))}; --list names them")
    return read


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0 when every mutant died."""
    read = arguments(argv)
    chosen = [mutant for mutant in MUTANTS if not read.only or mutant.name in read.only]
    if read.list:
        for mutant in chosen:
            print(f"{mutant.name:<28} {mutant.loses}")
        return 0
    said = sys.stderr if read.json else sys.stdout
    print(f"{len(chosen)} mutants; first their tests on an unbroken copy ...", file=said, flush=True)
    unbroken = baseline(chosen)
    if unbroken.code != 0:
        print(unbroken.output[-4_000:], file=sys.stderr)
        print("the tests do not pass on the unbroken copy: mend that first", file=sys.stderr)
        return 2
    for line in unbroken.skipped:
        print(f"skipped here: {line}", file=said)
    rows = []
    for mutant in chosen:
        rows.append(attempt(mutant))
        print(told(rows[-1]), file=said, flush=True)
    untried = [row for row in rows if row["verdict"] == "untried"]
    alive = [row for row in rows if row["verdict"] not in {"dies", "untried"}]
    for row in alive:
        print(f"\n{row['mutant']}: {row['verdict']}. A user would lose: {row['loses']}", file=said)
        print(row["output"], file=said)
    died, seconds = len(rows) - len(alive) - len(untried), sum(row["seconds"] for row in rows)
    print(f"{died} of {len(rows)} died, {len(untried)} could not be tried, {seconds:.0f} s", file=said)
    if read.json:
        print(json.dumps(rows, indent=1))
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())
