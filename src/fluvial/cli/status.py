"""`fluvial status`: what a service is doing, read from Redis and Kafka without disturbing it."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from fluvial.adapters.kafka import KafkaSource
from fluvial.adapters.redis import RedisStore
from fluvial.config import Settings, load
from fluvial.errors import SourceError
from fluvial.keys import Keys

SHARD = "all"
SECONDS = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("file", nargs="?", default="fluvial.toml", help="the settings (default %(default)s)")
    parser.add_argument("--journal", type=int, default=10, metavar="N", help="newest entries (default 10)")
    parser.add_argument("--no-kafka", action="store_true", help="leave out the lag")
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def run(args: argparse.Namespace) -> int:
    """Print it; 1 when there is no checkpoint yet."""
    settings = load(args.file)
    status = _read(settings, args.journal)
    if not args.no_kafka and status["checkpoint"] is not None:
        status["lag"] = _lag(settings, status["checkpoint"]["offsets"])
    if args.json:
        print(msgspec.json.encode(status).decode())
    else:
        _show(status)
    return 0 if status["checkpoint"] is not None else 1


def _read(settings: Settings, journal: int) -> dict[str, Any]:
    """Everything that Redis says."""
    store = RedisStore(settings.redis, Keys(settings.service), settings.scores)
    try:
        blobs = store.load(SHARD)
        return {
            "service": settings.service,
            "active": store.lease_holder(SHARD),
            "paused": {shard: trip.because for shard, trip in store.tripped().items()},
            "checkpoint": None if not blobs else _header(settings, blobs[0]),
            "lag": None,
            "journal": list(store.entries(journal)),
        }
    finally:
        store.close()


def _header(settings: Settings, blob: bytes) -> dict[str, Any]:
    """What the newest checkpoint says of itself, once its signature holds."""
    from fluvial.checkpoint import Expectation, runtime, unseal  # noqa: PLC0415 - only with a checkpoint
    from fluvial.shard import signing_keys  # noqa: PLC0415 - as above

    expect = Expectation(
        service=settings.service,
        shard=SHARD,
        schema=settings.schema.hash,
        river=runtime().river,
        max_bytes=settings.checkpoint.max_bytes,
    )
    header = unseal(blob, expect, signing_keys(settings)).header
    told: dict[str, Any] = msgspec.to_builtins(header, str_keys=False)
    return {**told, "age_seconds": time.time() - header.created_at}


def _lag(settings: Settings, offsets: Mapping[int, int]) -> dict[int, int] | str:
    """Events in the log behind the checkpoint, per partition; or why it cannot be told."""
    source = KafkaSource(settings.kafka, settings.service)
    try:
        return {int(p): source.bounds(int(p), SECONDS).high - offset for p, offset in offsets.items()}
    except SourceError as error:
        return str(error)
    finally:
        source.close(SECONDS)


def _show(status: Mapping[str, Any]) -> None:
    console = Console()
    checkpoint = status["checkpoint"]
    facts = Table.grid(padding=(0, 2))
    facts.add_row("service", status["service"])
    facts.add_row("active", status["active"] or "nobody holds the lease")
    for shard, why in status["paused"].items():
        facts.add_row("paused", f"shard {shard}, until `fluvial resume`: {why}")
    if checkpoint is None:
        facts.add_row("checkpoint", "none yet: has `fluvial run` been started with these settings?")
    else:
        age, size = checkpoint["age_seconds"], checkpoint["size"]
        sequence, epoch = checkpoint["sequence"], checkpoint["epoch"]
        facts.add_row("checkpoint", f"number {sequence} of epoch {epoch}, {age:.1f} s ago, {size:,} bytes")
        facts.add_row("model", checkpoint["model_class"])
        facts.add_row("offsets", _pairs(checkpoint["offsets"]))
    if status["lag"] is not None:
        facts.add_row(
            "behind it", _pairs(status["lag"]) if isinstance(status["lag"], dict) else status["lag"]
        )
    console.print(facts)
    if status["journal"]:
        console.print(_journal(status["journal"]))


def _pairs(values: Mapping[Any, Any]) -> str:
    return ", ".join(f"{key}: {value:,}" for key, value in values.items())


def _journal(entries: Sequence[Mapping[str, Any]]) -> Table:
    table = Table("when (UTC)", "what", "where", "detail", title="journal, newest first", box=None)
    for entry in entries:
        when = datetime.fromtimestamp(float(entry["at"]), UTC).strftime("%Y-%m-%d %H:%M:%S")
        where = "" if entry.get("offset") is None else f"{entry['partition']}:{entry['offset']}"
        detail = entry.get("detail") or {}
        table.add_row(when, str(entry["kind"]), where, _summary(str(entry["kind"]), detail))
    return table


def _summary(kind: str, detail: Mapping[str, Any]) -> str:
    """The few words of an entry that a person looks for first."""
    if kind in {"drift", "warning", "recovered"}:
        rise = f"{detail['before']:.3f} -> {detail['after']:.3f}"
        return f"{detail['plane']} {rise}, since event {detail['since']}"
    if kind == "version":
        return f"version {detail['number']}: {detail['cause']} at event {detail['events']}"
    return msgspec.json.encode(detail).decode()[:100]
