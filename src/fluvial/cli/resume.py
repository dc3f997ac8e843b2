"""`fluvial resume`: let a service go on that the flood breaker has paused."""

from __future__ import annotations

import argparse

from fluvial.adapters.redis import RedisStore
from fluvial.config import load
from fluvial.keys import Keys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("file", nargs="?", default="fluvial.toml", help="the settings (default %(default)s)")
    parser.add_argument("--shard", action="append", help="only this one (default: all that are paused)")


def run(args: argparse.Namespace) -> int:
    """Say what was paused and resume it; 1 when a shard that was asked for is not paused."""
    settings = load(args.file)
    store = RedisStore(settings.redis, Keys(settings.service), settings.scores)
    try:
        tripped = store.tripped()
        asked = sorted(tripped) if args.shard is None else args.shard
        if not asked:
            print(f"service {settings.service!r} is not paused")
        unknown = [shard for shard in asked if shard not in tripped]
        for shard in unknown:
            print(f"shard {shard!r} is not paused")
        for shard in asked:
            if shard not in unknown:
                went_on = store.resume(shard, tripped[shard])
                print(f"shard {shard!r} was paused: {tripped[shard].because}")
                print(
                    "  resumed; its worker goes on within seconds"
                    if went_on
                    else "  resumed by another meanwhile"
                )
        return 1 if unknown else 0
    finally:
        store.close()
