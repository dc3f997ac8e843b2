"""One process of the fuzzer: a module of its own, since a spawned child cannot import `__main__`."""

from __future__ import annotations

import logging
from typing import Any

from fuzz import corpus
from fuzz.engine import Fuzzer

EPISODE = 2_000
"""Messages under one contract by one model."""


def work(seed: str, events: int, queue: Any) -> None:
    """Fuzz in a process of its own; tells the queue after each episode, and at the end everything."""
    logging.getLogger("fluvial").setLevel(logging.CRITICAL)
    fuzzer, done = Fuzzer(seed, corpus.payloads()), 0
    while done < events:
        size = min(EPISODE, events - done)
        fuzzer.episode(size)
        done += size
        queue.put(("done", size, len(fuzzer.findings)))
    queue.put(("end", (fuzzer.counts, fuzzer.findings, fuzzer.signals), fuzzer.episodes))
