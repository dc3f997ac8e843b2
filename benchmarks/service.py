"""Fluvial as a process of its own: `fluvial run FILE`, watched through its /metrics."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psutil

from fluvial.adapters.embedded import free_port
from parts import HERE

COMMAND = [str(Path(sys.executable).parent / "fluvial"), "run"]
KEY = "0123456789abcdef" * 4  # checkpoints are signed, as they would be; this key protects nothing
FEATURES = ("salary", "commission", "age", "elevel", "car", "zipcode", "hvalue", "hyears", "loan")
PRESETS = {"linear": "linear", "tree": "tree", "arf": "forest"}
START_SECONDS = 60.0
NEVER = 1_000_000.0
_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
Samples = dict[str, float]


@dataclass(frozen=True)
class Setup:
    """What is run."""

    bootstrap: str
    redis: str
    topic: str
    model: str = "linear"
    policy: str = "observe"
    preset: bool = False
    """Fluvial's own preset instead of the explicit River model that the others use."""
    planes: bool = True
    """Whether features and predictions are watched for drift, as they are by default."""
    checkpoint_seconds: float = 1.0
    """`NEVER` for none."""
    kafka: Mapping[str, str | int] = field(default_factory=dict)
    """More of `[kafka]`."""
    name: str = ""
    """Of a service that goes on; empty: a new one."""


def settings(setup: Setup, service: str, port: int) -> str:
    """The service's TOML file."""
    quoted = json.dumps
    model = (
        f"preset = {quoted(PRESETS[setup.model])}" if setup.preset else f'factory = "common:{setup.model}"'
    )
    kafka = {"bootstrap_servers": setup.bootstrap, "topic": setup.topic, **setup.kafka}
    lines = [
        f"service = {quoted(service)}",
        f"kafka = {{ {', '.join(f'{name} = {quoted(value)}' for name, value in kafka.items())} }}",
        f"redis = {{ url = {quoted(setup.redis)} }}",
        "[schema]",
        'id = "id"',
        'key = "key"',
        'time = "time"',
        'label = "binary"',
        "[schema.features]",
        *(f'{name} = "number"' for name in FEATURES),
        "[model]",
        model,
        "[policy]",
        f"name = {quoted(setup.policy)}",
        *([] if setup.planes else ["[drift]", "planes = []"]),
        "[checkpoint]",
        f"every_seconds = {setup.checkpoint_seconds}",
        *(["every_events = 1_000_000_000"] if setup.checkpoint_seconds >= NEVER else []),
        "[metrics]",
        f"port = {port}",
    ]
    return "\n".join(lines) + "\n"


class Service:
    """One running worker, of a service of its own or of `name`; the context manager ends it with SIGTERM."""

    def __init__(self, setup: Setup) -> None:
        self.name = setup.name or f"bench-{uuid.uuid4().hex[:8]}"
        self.port = free_port()
        self._directory = tempfile.TemporaryDirectory(prefix="fluvial-bench-")
        home = Path(self._directory.name)
        config, self._log = home / "service.toml", home / "log"
        config.write_text(settings(setup, self.name, self.port))
        paths = os.pathsep.join(filter(None, (str(HERE / "peers"), os.environ.get("PYTHONPATH"))))
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*COMMAND, str(config)],
                env={**os.environ, "PYTHONPATH": paths, "FLUVIAL__CHECKPOINT__KEY": KEY},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._directory.cleanup()

    def said(self) -> str:
        """The end of its log."""
        return self._log.read_text(errors="replace")[-2_000:]

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
            return str(answer.read(), "utf-8")

    def metrics(self) -> tuple[float, Samples]:
        """When, and every sample, as `name{labels}` without the service's own labels."""
        before = time.perf_counter()
        text = self._get("/metrics")
        now = (before + time.perf_counter()) / 2
        found: Samples = {}
        for name, labels, value in _SAMPLE.findall(text):
            kept = [
                part for part in labels.split(",") if part and not part.startswith(("service=", "shard="))
            ]
            series = f"{name}{{{','.join(sorted(kept))}}}" if kept else name
            found[series] = float(value)
        return now, found

    def learned(self, partition: int = 0) -> tuple[float, float]:
        """When, and how many events of the partition it had learned."""
        now, samples = self.metrics()
        return now, samples.get(f'fluvial_events_total{{outcome="learned",partition="{partition}"}}', 0.0)

    def cpu(self) -> float:
        """Seconds of processor time that it has used, all its threads together."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def wait_until(self, ready: Any, what: str, seconds: float = START_SECONDS) -> None:
        """Ask again and again; ends the benchmark with the service's log when it does not come."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            try:
                if ready():
                    return
            except (urllib.error.URLError, OSError):
                pass  # not listening yet
            time.sleep(0.05)
        sys.exit(f"fluvial run: {what} did not come about; its log ends:\n{self.said()}")

    def wait_for_events(self, count: float = 1.0, seconds: float = START_SECONDS) -> None:
        """Until it has learned that many."""
        self.wait_until(lambda: self.learned()[1] >= count, f"learning {count:,.0f} events", seconds)

    def wait_for_ready(self) -> None:
        """Until /readyz says yes."""
        self.wait_until(lambda: self._get("/readyz"), "readiness")
