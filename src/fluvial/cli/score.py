"""`fluvial score`: the latest score of a key, as an application would read it."""

from __future__ import annotations

import argparse
import sys
import time

import msgspec
from rich.console import Console
from rich.table import Table

from fluvial.cli.plain import cell, printable
from fluvial.config import load
from fluvial.scoring import Scores
from fluvial.types import Score


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("key", nargs="+", help="what the events are keyed by")
    parser.add_argument("--config", default="fluvial.toml", help="the settings (default %(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, `null` without a score")


def run(args: argparse.Namespace) -> int:
    """Print each key's score; 1 when one has none."""
    settings = load(args.config)
    with Scores(settings.redis, settings.service) as scores:
        found = scores.get_many(args.key)
    if args.json:
        for key in args.key:
            print(msgspec.json.encode(found.get(key)).decode())
    else:
        _show(args.key, found)
    return 0 if all(key in found for key in args.key) else 1


def _show(keys: list[str], found: dict[str, Score]) -> None:
    table = Table("key", "prediction", "probability", "version", "made", "from", box=None)
    for key in keys:
        score = found.get(key)
        if score is None:
            why = "no score (never seen, or older than scores.ttl_seconds)"
            print(f"{printable(key)}: {why}", file=sys.stderr)
            continue
        chance = max(score.probabilities.values()) if score.probabilities else None
        cells = (
            key,
            str(score.prediction),
            "" if chance is None else f"{chance:.3f}",
            str(score.version),
            f"{time.time() - score.made_at:.1f} s ago",
            f"partition {score.partition}, offset {score.offset}",
        )
        table.add_row(*map(cell, cells))
    if table.row_count:
        Console().print(table)
