"""`fluvial status`: what a service is doing, read from Redis and Kafka without disturbing it."""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from fluvial.adapters.kafka import KafkaSource
from fluvial.adapters.redis import RedisStore
from fluvial.cli.plain import cell
from fluvial.cli.signal_words import change, moved_in, moved_words
from fluvial.config import Settings, load
from fluvial.errors import SourceError
from fluvial.keys import Keys

TOPIC_SHARD = "all"
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
    if not args.no_kafka:
        _add_lag(settings, status["shards"])
    if args.json:
        print(msgspec.json.encode(status).decode())
    else:
        _show(status)
    return 0 if any(shard["checkpoint"] is not None for shard in status["shards"]) else 1


def _read(settings: Settings, journal: int) -> dict[str, Any]:
    """Everything that Redis says."""
    store = RedisStore(settings.redis, Keys(settings.service), settings.scores)
    try:
        return {
            "service": settings.service,
            "scope": settings.kafka.scope,
            "shards": [*_shards(settings, store)],
            "journal": list(store.entries(journal)),
        }
    finally:
        store.close()


def _shards(settings: Settings, store: RedisStore) -> Iterator[dict[str, Any]]:
    """Each shard: in partition scope one after the other, until there is no further one."""
    paused = store.tripped()
    for number in itertools.count():
        topic_scope = settings.kafka.scope == "topic"
        shard = TOPIC_SHARD if topic_scope else f"partition-{number}"
        blobs, holder = store.load(shard), store.lease_holder(shard)
        if topic_scope or blobs or holder or shard in paused:
            yield {
                "shard": shard,
                "active": holder,
                "paused": paused[shard].because if shard in paused else None,
                "asked": msgspec.to_builtins(store.asked(shard)),
                "checkpoint": None if not blobs else _header(settings, shard, blobs[0]),
                "lag": None,
            }
        if topic_scope or not (blobs or holder):
            return


def _header(settings: Settings, shard: str, blob: bytes) -> dict[str, Any]:
    """What the newest checkpoint says of itself, once its signature holds."""
    from fluvial.checkpoint import Expectation, runtime, unseal  # noqa: PLC0415 - only with a checkpoint
    from fluvial.shard import signing_keys  # noqa: PLC0415 - as above

    expect = Expectation(
        service=settings.service,
        shard=shard,
        schema=settings.schema.hash,
        river=runtime().river,
        max_bytes=settings.checkpoint.max_bytes,
    )
    header = unseal(blob, expect, signing_keys(settings)).header
    told: dict[str, Any] = msgspec.to_builtins(header, str_keys=False)
    return {**told, "age_seconds": time.time() - header.created_at}


def _add_lag(settings: Settings, shards: Sequence[dict[str, Any]]) -> None:
    """Events in the log behind each checkpoint, per partition; or why it cannot be told."""
    known = [shard for shard in shards if shard["checkpoint"] is not None]
    if not known:
        return
    source = KafkaSource(settings.kafka, settings.service)
    try:
        for shard in known:
            offsets = shard["checkpoint"]["offsets"].items()
            shard["lag"] = {int(p): source.bounds(int(p), SECONDS).high - offset for p, offset in offsets}
    except SourceError as error:
        for shard in known:
            shard["lag"] = str(error)
    finally:
        source.close(SECONDS)


def _show(status: Mapping[str, Any]) -> None:
    console = Console()
    console.print(f"service  {status['service']}, a model per {status['scope']}")
    if not status["shards"]:
        console.print("no shard yet: has `fluvial run` been started with these settings?")
    for shard in status["shards"]:
        console.print(_facts(shard))
    if status["journal"]:
        console.print(_journal(status["journal"]))


def _facts(shard: Mapping[str, Any]) -> Table:
    facts = Table.grid(padding=(0, 2))
    for name, value in _rows(shard):
        facts.add_row(name, cell(value))
    return facts


def _rows(shard: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    checkpoint = shard["checkpoint"]
    yield "shard", shard["shard"]
    yield "active", shard["active"] or "nobody holds the lease"
    if shard["paused"] is not None:
        yield "paused", f"until `fluvial resume`: {shard['paused']}"
    if shard["asked"] is not None:
        yield "asked", _request(shard["asked"])
    if checkpoint is None:
        yield "checkpoint", "none yet: has `fluvial run` been started with these settings?"
    else:
        age, size = checkpoint["age_seconds"], checkpoint["size"]
        sequence, epoch = checkpoint["sequence"], checkpoint["epoch"]
        yield "checkpoint", f"number {sequence} of epoch {epoch}, {age:.1f} s ago, {size:,} bytes"
        yield "model", checkpoint["model_class"]
        yield "offsets", _pairs(checkpoint["offsets"])
    if shard["lag"] is not None:
        yield "behind it", _pairs(shard["lag"]) if isinstance(shard["lag"], dict) else shard["lag"]


def _request(asked: Mapping[str, Any]) -> str:
    """A roll-back that was asked for and is not answered yet."""
    when = datetime.fromtimestamp(asked["at"], UTC).strftime("%Y-%m-%d %H:%M:%S")
    return f"roll back to version {asked['version']} ({asked['by']}, {when}): {asked['because']}"


def _pairs(values: Mapping[Any, Any]) -> str:
    return ", ".join(f"{key}: {value:,}" for key, value in values.items())


def _journal(entries: Sequence[Mapping[str, Any]]) -> Table:
    table = Table("when (UTC)", "what", "where", "detail", title="journal, newest first", box=None)
    for entry in entries:
        when = datetime.fromtimestamp(float(entry["at"]), UTC).strftime("%Y-%m-%d %H:%M:%S")
        where = "" if entry.get("offset") is None else f"{entry['partition']}:{entry['offset']}"
        detail = entry.get("detail") or {}
        table.add_row(when, *map(cell, (str(entry["kind"]), where, _summary(str(entry["kind"]), detail))))
    return table


def _summary(kind: str, detail: Mapping[str, Any]) -> str:
    """The few words of an entry that a person looks for first."""
    if kind in {"drift", "warning", "recovered"}:
        moved = moved_in(detail)
        rise = moved_words(moved[0]) if moved else change(detail["before"], detail["after"])
        also = f"; also {', '.join(other.name for other in moved[1:])}" if moved[1:] else ""
        return f"{detail['plane']} {rise}, since event {detail['since']}{also}"
    if kind == "version":
        return f"version {detail['number']}: {detail['cause']} at event {detail['events']}"
    return msgspec.json.encode(detail).decode()[:100]
