"""`fluvial versions compare`: two versions asked about the same events."""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
from rich.console import Console
from rich.table import Table

from fluvial.adapters.files import RowFile
from fluvial.adapters.kafka import KafkaSource
from fluvial.adapters.kafka.stretch import Bounds, read_partition
from fluvial.adapters.parquet import rows_of
from fluvial.cli import find_modules_here
from fluvial.cli.batch_means import BatchMeans
from fluvial.cli.mapping import Mapping, compile_mapping
from fluvial.cli.version_reading import Book, partition_within
from fluvial.codec import Codec
from fluvial.crew import Crew, nested
from fluvial.errors import BadEvent, SettingsError
from fluvial.evaluation import Prequential
from fluvial.kept import load_kept
from fluvial.learner import Learner
from fluvial.mixture import Mixture, NonFiniteAnswer, uniform
from fluvial.models import unpickle
from fluvial.shard import extra_classes, spec_of
from fluvial.types import Answer, Event, Retired, Task

SECONDS = 10.0
EXACT = 1_000
"""Up to so many differing events the test is exact."""


class Record(NamedTuple):
    """What a row of a file or a message of the topic comes down to."""

    value: bytes | None
    key: bytes | None
    offset: int
    milliseconds: int


class Contestant:
    """One version, asked and judged."""

    def __init__(self, book: Book, number: int, retired: Retired, crew: Crew) -> None:
        label = book.settings.schema.label
        self.number = number
        self._weighted = book.settings.schema.weight is not None
        self._members = crew.champions(retired, 0)
        weights = [retired.weights.get(member.lane, 1.0) for member in self._members]
        self._mixture = Mixture(label.task, label.size, self._members, weights)
        self._uniform = uniform(label.size)
        self.evaluation = Prequential(label.task, label.size, book.settings.evaluation)

    def answer(self, event: Event) -> Answer:
        """Ask; what cannot be told counts as uniform."""
        answers: list[Answer | None] = []
        for member in self._members:
            try:
                answers.append(member.ask(event.x))
            except NonFiniteAnswer:
                answers.append(None)
        answer = self._mixture.combine(answers)
        if answer is None:
            self.evaluation.unpredicted += 1
        return answer or self._uniform

    def learn(self, event: Event) -> None:
        """Teach it one event."""
        for member in self._members:
            member.teach(event.x, event.y, **({"w": event.weight} if self._weighted else {}))


def run(book: Book, args: argparse.Namespace) -> int:
    """Compare; 1 when there was no labelled event."""
    if args.a == args.b:
        raise SettingsError("A and B are one version")
    args.partition = partition_within(book.own, args.partition, "--partition")
    find_modules_here()
    pair = [_contestant(book, number) for number in (args.a, args.b)]
    codec, task = _codec(book), book.settings.schema.label.task
    counts, lead, why = Counter[str](), BatchMeans(), ""
    for record in _records(book, args):
        try:
            event = codec.decode(record.value, record.key, args.partition, record.offset, record.milliseconds)
        except BadEvent as bad:
            counts["left"] += 1
            why = why or f"{bad.reason}: {bad.message}"
            continue
        counts[_meet(pair, task, event, lead, learn=args.learn)] += 1
    told = _result(pair, task, counts, learn=args.learn)
    told |= {"difference": _difference(task, lead), "first_refused": why or None}
    if args.json:
        print(msgspec.json.encode(told).decode())
    else:
        _show(told)
    return 0 if told["events"] else 1


def _meet(pair: list[Contestant], task: Task, event: Event, lead: BatchMeans, *, learn: bool) -> str:
    """Ask both, judge both; who was better. `lead` takes by how much less the second was off."""
    if event.y is None:
        return "left"
    losses = []
    for one in pair:
        answer = one.answer(event)
        one.evaluation.extend([(event.y, answer)])
        losses.append(_loss(task, event.y, answer))
        if learn:
            one.learn(event)
    lead.add(losses[0] - losses[1])
    return "equal" if losses[0] == losses[1] else "first" if losses[0] < losses[1] else "second"


def _loss(task: Task, y: Any, answer: Answer) -> float:
    if task is Task.REGRESSION:
        return abs(float(y) - answer[0])
    return 0.0 if answer.index(max(answer)) == int(y) else 1.0


def _contestant(book: Book, number: int) -> Contestant:
    """The kept model, or the one that answers now. Raises CheckpointRefused, SettingsError."""
    settings = book.settings
    spec, extra = spec_of(settings), extra_classes(settings)
    opened = book.kept(number)
    if opened is not None:
        limit = settings.checkpoint.max_bytes
        retired, crew = load_kept(opened, lambda blob: unpickle.loads(blob, extra, limit), spec)
        return Contestant(book, number, retired, crew)
    checkpoint = book.checkpoint()
    if checkpoint is None or not checkpoint.header.lineage or checkpoint.header.lineage[-1].number != number:
        raise SettingsError(
            f"version {number} has no kept model; `fluvial versions list` shows which have one"
        )
    learner = Learner(spec, _state(book)["fold"])
    return Contestant(book, number, learner.retired(), learner.crew)


def _state(book: Book) -> Any:
    """The newest checkpoint's, through the allow-list, the pickles in it too."""
    settings, checkpoint = book.settings, book.checkpoint()
    if checkpoint is None:
        raise SettingsError("there is no checkpoint yet")
    extra, limit = extra_classes(settings), settings.checkpoint.max_bytes
    state = unpickle.loads(checkpoint.payload, extra, limit)
    for blob in nested(state["fold"]):
        unpickle.verify(blob, extra, limit)
    return state


def _codec(book: Book) -> Codec:
    """As the worker decodes; what an inferring schema has settled on is in the checkpoint."""
    schema = book.settings.schema
    return Codec(schema) if schema.infer is None else Codec(schema, _state(book)["inference"])


# ---- events ---------------------------------------------------------------------------------------


def _records(book: Book, args: argparse.Namespace) -> Iterator[Record]:
    return _of_file(book, args) if args.file else _of_topic(book, args)


def _of_file(book: Book, args: argparse.Namespace) -> Iterator[Record]:
    with rows_of(args.file) as file:
        if isinstance(file, RowFile) and file.format == "json":
            values: Iterator[bytes] = file.lines()
        else:
            encode = compile_mapping(Mapping(schema=book.settings.schema, label=args.label), file)
            values = (encode(row)[0] for row in file.cells())
        for number, value in enumerate(values):
            yield Record(value, None, number, 0)


def _of_topic(book: Book, args: argparse.Namespace) -> Iterator[Record]:
    """A stretch of one partition. Raises SourceUnavailable, OffsetLost, SettingsError."""
    source = KafkaSource(book.settings.kafka, book.settings.service)
    try:
        known = source.bounds(args.partition, SECONDS)
    finally:
        source.close(SECONDS)
    bounds = Bounds(*_stretch(args, known.low, known.high))
    if bounds.first >= bounds.end:
        return
    for message in read_partition(book.settings.kafka, book.settings.service, args.partition, bounds):
        yield Record(message.value(), message.key(), message.offset(), message.timestamp()[1])


def _stretch(args: argparse.Namespace, low: int, high: int) -> tuple[int, int]:
    if args.last is not None:
        return max(low, high - args.last), high
    first, dots, after = args.topic.partition("..")
    try:
        begin, end = int(first or low), int(after or high)
    except ValueError:
        dots = ""
    if not dots:
        raise SettingsError(f"--topic: {args.topic!r} is not FROM..TO")
    return begin, min(end, high)


# ---- the result -----------------------------------------------------------------------------------


def _result(pair: list[Contestant], task: Task, counts: Counter[str], *, learn: bool) -> dict[str, Any]:
    kind = "sign test, which was nearer" if task is Task.REGRESSION else "McNemar, which alone was right"
    first, second = counts["first"], counts["second"]
    told = {"only_first": first, "only_second": second, "p": paired(first, second)}
    return {
        "versions": [one.number for one in pair],
        "learning": learn,
        "events": counts["equal"] + counts["first"] + counts["second"],
        "left_out": counts["left"],
        "metrics": [one.evaluation.metrics()["total"] for one in pair],
        "unpredicted": [one.evaluation.unpredicted for one in pair],
        "test": {"name": kind, **told},
    }


def _difference(task: Task, lead: BatchMeans) -> dict[str, Any]:
    """The second's accuracy, or mean absolute error, less the first's, with 95 % confidence."""
    number = task is Task.REGRESSION
    way, ends = (-1.0 if number else 1.0), lead.interval()
    low, high = sorted(way * end for end in ends) if ends is not None else (None, None)
    return {"of": "mae" if number else "accuracy", "is": way * lead.mean, "low": low, "high": high}


def paired(first: int, second: int) -> float:
    """Two-sided p of so uneven a split when both are equally good: exact, or normal for many."""
    n, least = first + second, min(first, second)
    if n == 0:
        return 1.0
    if n <= EXACT:
        return min(1.0, 2 * sum(math.comb(n, k) for k in range(least + 1)) / float(2**n))
    return math.erfc(max(0.0, abs(first - second) - 1.0) / math.sqrt(2.0 * n))


def _show(told: dict[str, Any]) -> None:
    a, b = told["versions"]
    table = Table("", f"version {a}", f"version {b}", "difference", box=None)
    first, second = told["metrics"]
    for name in first:
        table.add_row(name, f"{first[name]:.4f}", f"{second[name]:.4f}", f"{second[name] - first[name]:+.4f}")
    Console().print(table)
    test = told["test"]
    how = "learning as they go" if told["learning"] else "without learning"
    print(f"{told['events']:,} events, {how}", file=sys.stderr)
    if told["left_out"]:
        why = f"; the first refused: {told['first_refused']}" if told["first_refused"] else ""
        print(f"{told['left_out']:,} more have no label or were refused{why}", file=sys.stderr)
    split = f"{a} on {test['only_first']:,}, {b} on {test['only_second']:,}"
    print(f"{test['name']}: {split}; p = {test['p']:.2g}")
    by = told["difference"]
    if by["low"] is not None:
        sure = f"{by['low']:+.4f} to {by['high']:+.4f} with 95 % confidence, neighbours taken together"
        print(f"{by['of']}, {b} less {a}: {by['is']:+.4f}, {sure}")
