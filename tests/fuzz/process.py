"""One process of the fuzzer: a module of its own, since a spawned child cannot import `__main__`."""

from __future__ import annotations

import logging
import signal
from collections import Counter
from typing import Any

from fuzz import corpus
from fuzz.engine import Fuzzer

EPISODE = 2_000
"""Messages under one contract by one model."""


def work(seed: str, events: int, queue: Any) -> None:
    """Fuzz in a process of its own; tells the queue after each episode what came of it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us, and tells what there is
    logging.getLogger("fluvial").setLevel(logging.CRITICAL)
    fuzzer, told = Fuzzer(seed, corpus.payloads()), 0
    for start in range(0, events, EPISODE):
        fuzzer.episode(min(EPISODE, events - start))
        signals = dict(list(fuzzer.signals.items())[told:])
        told = len(fuzzer.signals)
        queue.put((fuzzer.counts, fuzzer.findings, signals))
        fuzzer.counts, fuzzer.findings = Counter(), []
    queue.put(None)
