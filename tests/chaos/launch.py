"""A worker that notes in which order it read the log, or that is broken on purpose.

    python -m chaos.launch SETTINGS NOTES [--break NAME]

Where one model learns from several partitions the order of its events is not fixed, and only whoever
read them knows it. Notes are one JSON line each, written before anything is done with what they tell, so
that they outlive a SIGKILL: `["claim", shard, epoch]`, `["assign", {partition: offset}]` and
`["read", [[partition, first, next], ...]]`.
"""

import argparse
import ctypes
import json
import os
import signal
import sys
from pathlib import Path

from fluvial import app
from fluvial.adapters.kafka import KafkaSource
from fluvial.adapters.redis import RedisStore
from fluvial.cli import log_to_stderr
from fluvial.config import load


class Notes:
    """A file that each line reaches in one write."""

    def __init__(self, path):
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, *line):
        os.write(self._file, json.dumps(line).encode() + b"\n")


def runs(messages):
    """Messages as [partition, first offset, next offset] of each stretch without a gap."""
    found = []
    for message in messages:
        partition, offset = message.partition(), message.offset()
        if found and found[-1][0] == partition and found[-1][2] == offset:
            found[-1][2] = offset + 1
        else:
            found.append([partition, offset, offset + 1])
    return found


def noting_source(base, notes):
    """A source of class `base` that notes what it is assigned and what it hands over."""

    class Source(base):
        def assign(self, offsets):
            notes.write("assign", {str(p): o for p, o in offsets.items()})
            super().assign(offsets)

        def poll(self, limit, seconds):
            messages = super().poll(limit, seconds)
            if messages:
                notes.write("read", runs(messages))
            return messages

    return Source


def noting_store(base, notes):
    """A store of class `base` that notes each claim."""

    class Store(base):
        def claim(self, shard, *more):
            claim = super().claim(shard, *more)
            notes.write("claim", shard, claim.epoch)
            return claim

    return Store


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("settings", type=Path)
    parser.add_argument("notes", type=Path)
    parser.add_argument("--break", dest="broken")
    args = parser.parse_args()
    die_with_parent = getattr(ctypes.CDLL(None), "prctl", None)  # Linux has it
    if die_with_parent is not None:
        die_with_parent(1, signal.SIGKILL)
    log_to_stderr("info", as_json=False)
    if args.broken:
        from chaos.broken import BUILDS

        BUILDS[args.broken]()
    settings = load(args.settings)
    if settings.kafka.scope == "topic":
        notes = Notes(args.notes)
        app.KafkaSource = noting_source(KafkaSource, notes)
        app.RedisStore = noting_store(RedisStore, notes)
    app.run(settings)


if __name__ == "__main__":
    sys.exit(main())
