"""`fluvial explain`: why a score is what it is, and why a drift fired, asked of a copy of the state."""

from __future__ import annotations

import argparse
import codecs
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from fluvial.cli import find_modules_here
from fluvial.cli.explain_drift import explain_drift
from fluvial.cli.explain_view import show_drift, show_score
from fluvial.cli.loaded_state import Loaded, blob_of, newest_blob, open_state
from fluvial.config import Settings, load
from fluvial.errors import BadEvent, SettingsError
from fluvial.explaining import explain
from fluvial.topic_scope import SHARD as TOPIC_SHARD
from fluvial.types import Event, Score, Task

SECONDS = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("key", nargs="?", help="explain the latest score of this key; its event is read again")
    asked.add_argument("--event", metavar="JSON", help="explain what would be said of this event")
    asked.add_argument("--file", metavar="PATH", help="the same for each line of a file of events")
    asked.add_argument(
        "--drift",
        nargs="?",
        type=int,
        const=1,
        metavar="N",
        help="why the newest drift fired (N: the Nth newest)",
    )
    parser.add_argument(
        "--state", metavar="PATH", help="ask a checkpoint in a file instead of the newest in Redis"
    )
    parser.add_argument("--shard", help="which model is asked (default: all, or that of the score)")
    parser.add_argument("--config", default="fluvial.toml", help="the settings (default %(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON object per explanation")


def run(args: argparse.Namespace) -> int:
    """Print it; 1 when there is nothing to explain."""
    settings = load(args.config)
    find_modules_here()
    if args.drift is not None:
        return _drift(settings, args)
    score = None if args.key is None else _score_of(settings, args.key)
    shard = args.shard or (TOPIC_SHARD if score is None else score.shard)
    state = _state(settings, shard, args.state)
    for event in _events(settings, state, args, score):
        told = told_score(settings, state, event, score)
        if args.json:
            print(msgspec.json.encode(told).decode())
        else:
            show_score(Console(), told)
    return 0


def _drift(settings: Settings, args: argparse.Namespace) -> int:
    told = explain_drift(
        settings, args.drift, lambda shard: _state(settings, args.shard or shard, args.state)
    )
    if args.json:
        print(msgspec.json.encode(told).decode())
    else:
        show_drift(Console(), told)
    return 0


def _state(settings: Settings, shard: str, path: str | None) -> Loaded:
    return open_state(settings, shard, newest_blob(settings, shard) if path is None else blob_of(path))


def _score_of(settings: Settings, key: str) -> Score:
    from fluvial.scoring import Scores  # noqa: PLC0415 - only for a key

    with Scores(settings.redis, settings.service) as scores:
        score = scores.get(key)
    if score is None:
        raise SettingsError(
            f"{key!r} has no score (never seen, or older than scores.ttl_seconds): "
            "explain its event by --event"
        )
    return score


def _events(
    settings: Settings, state: Loaded, args: argparse.Namespace, score: Score | None
) -> Iterator[Event]:
    """What is to be explained, decoded as the worker would."""
    if score is not None:
        yield _decode(state, _read_again(settings, score), "the score's event")
    elif args.event is not None:
        yield _decode(state, args.event.encode(), "--event")
    else:
        try:
            lines = Path(args.file).read_bytes().removeprefix(codecs.BOM_UTF8).splitlines()
        except OSError as error:
            raise SettingsError(f"--file: {args.file} cannot be read: {error.strerror}") from error
        if not any(line.strip() for line in lines):
            raise SettingsError(f"--file: there is no event in {args.file}")
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _decode(state, line, f"{args.file}, line {number}")


def _decode(state: Loaded, value: bytes, where: str) -> Event:
    try:
        return state.codec.decode(value, None, 0, 0, int(time.time() * 1_000))
    except BadEvent as bad:
        raise SettingsError(f"{where} would be dead-lettered ({bad.reason}): {bad.message}") from bad


def _read_again(settings: Settings, score: Score) -> bytes:
    """The bytes that the score was made of, from Kafka. Raises SourceError, SettingsError."""
    from fluvial.adapters.kafka import KafkaSource  # noqa: PLC0415 - only for a key

    source = KafkaSource(settings.kafka, settings.service)
    try:
        source.assign({score.partition: score.offset})
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            for message in source.poll(1, 0.5):
                if message.offset() == score.offset:
                    return message.value() or b""
    finally:
        source.close(SECONDS)
    raise SettingsError(
        f"offset {score.offset} of partition {score.partition} did not come within {SECONDS:g} s: "
        "explain its event by --event"
    )


def told_score(settings: Settings, state: Loaded, event: Event, score: Score | None) -> dict[str, Any]:
    """The explanation, classes by their declared names, with what the reader should know beside it."""
    explanation = explain(state.learner, event.x)
    label = settings.schema.label
    regression = label.task is Task.REGRESSION
    told: dict[str, Any] = msgspec.to_builtins(explanation)
    told["task"] = str(label.task)
    told["classes"] = [] if regression else [str(c) for c in label.classes]
    told["explained"] = "the prediction" if regression else str(label.classes[explanation.choice])
    told["served"] = None if score is None else msgspec.to_builtins(score)
    told["checkpoint"] = {"sequence": state.header.sequence, "created_at": state.header.created_at}
    return told
