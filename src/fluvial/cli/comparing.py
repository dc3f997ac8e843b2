"""`fluvial versions compare`: two versions asked about the same events."""

from __future__ import annotations

import argparse
import functools
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
from rich.console import Console
from rich.table import Table

from fluvial.adapters.kafka import KafkaSource
from fluvial.adapters.kafka.stretch import Bounds, read_partition
from fluvial.adapters.parquet import ParquetRows, rows_of
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
from fluvial.mixture import Member, Mixture, NonFiniteAnswer, Rest
from fluvial.models import unpickle
from fluvial.shard import extra_classes, spec_of
from fluvial.types import Answer, Event, Label, Retired, Task

SECONDS = 10.0
_OFFSET = r"(\d+(?:_\d+)*)?"
_STRETCH = re.compile(rf"{_OFFSET}\.\.{_OFFSET}", re.ASCII)
EXACT = 1_000
"""Up to so many differing events the test is exact."""


class Record(NamedTuple):
    """What a row of a file or a message of the topic comes down to."""

    value: bytes | None
    key: bytes | None
    offset: int
    milliseconds: int


class Contestant:
    """One version, asked and judged, and taught as a worker teaches.

    `mixture`: its champions, by their weights. An event on which it raises counts as one without an answer.
    """

    def __init__(self, number: int, mixture: Mixture, evaluation: Prequential, *, weighted: bool) -> None:
        self.number = number
        self.mixture = mixture
        self.evaluation = evaluation
        self.why: str | None = None
        """Why it had no answer to the first event without one."""
        self._weighted = weighted
        self._answers: Sequence[Answer | None] = ()
        self._served: Answer | None = None
        self._raised = False

    def meet(self, event: Event, y: Label) -> Answer | None:
        """Ask and judge; None, which its metrics leave out, where there is no answer."""
        self._served, self._raised, why = None, False, "the model answered nothing, or nothing finite"
        try:
            self._answers = self._ask(event)
            self._served = self.mixture.combine(self._answers)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - native objects raise PanicException, no Exception
            self._raised, why = True, f"the model raised {type(error).__name__}: {error}"
        if self._served is not None:
            self.evaluation.extend([(y, self._served)])
            return self._served
        self.evaluation.unpredicted += 1
        self.why = self.why or f"event {event.offset:,}: {why}"
        return None

    def learn(self, event: Event, y: Label) -> None:
        """Teach it the event that it met last: first the weights, then each member, as `Learner` does.

        One on which it raised is left out, as a worker dead-letters it. Raises SettingsError when it raises.
        """
        if self._raised:
            return
        if self._served is not None:
            self.mixture.reweigh(y, self._answers, self._served)
        try:
            self.mixture.teach(event.x, y, **({"w": event.weight} if self._weighted else {}))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # as above
            raise SettingsError(
                f"--learn: version {self.number} raised {type(error).__name__} as it was to learn event "
                f"{event.offset:,}: {error}; leave that event out, or compare without --learn"
            ) from error

    def _ask(self, event: Event) -> Sequence[Answer | None]:
        """Each member's answer, None where it is not finite. Raises what a model does."""
        members = self.mixture.members
        try:
            return (members[0].ask(event.x),) if len(members) == 1 else self.mixture.ask(event.x)
        except NonFiniteAnswer:
            return [_finite(member, event) for member in members]


def _finite(member: Member, event: Event) -> Answer | None:
    try:
        return member.ask(event.x)
    except NonFiniteAnswer:
        return None


def contestant(
    book: Book, retired: Retired, crew: Crew, scale: float = 0.0, rest: Rest = (0, ())
) -> Contestant:
    """A version from its kept model. `scale`, `rest`: what a mixture that learns goes on from."""
    label = book.settings.schema.label
    members = crew.champions(retired, 0)
    weights = [retired.weights.get(member.lane, 1.0) for member in members]
    weights = [weight / sum(weights) for weight in weights]  # as where a kept model comes back
    mixture = Mixture(label.task, label.size, members, weights, scale, rest)
    evaluation = Prequential(label.task, label.size, book.settings.evaluation)
    weighted = book.settings.schema.weight is not None
    return Contestant(retired.version, mixture, evaluation, weighted=weighted)


def run(book: Book, args: argparse.Namespace) -> int:
    """Compare; 1 when there was no labelled event."""
    if args.a == args.b:
        raise SettingsError("A and B are one version")
    args.partition = partition_within(book.own, args.partition, "--partition")
    find_modules_here()
    newest = functools.cache(lambda: _state(book))
    pair = [_open(book, number, newest, learn=args.learn) for number in (args.a, args.b)]
    codec, task = _codec(book, newest), book.settings.schema.label.task
    counts, lead, why = Counter[str](), BatchMeans(), ""
    for record in _records(book, args, codec):
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
    y = event.y
    if y is None:
        return "left"
    answers = [one.meet(event, y) for one in pair]
    if learn:
        for one in pair:
            one.learn(event, y)
    first, second = (None if answer is None else _loss(task, y, answer) for answer in answers)
    if first is None or second is None:
        return "unanswered"
    lead.add(first - second)
    return "equal" if first == second else "first" if first < second else "second"


def _loss(task: Task, y: Any, answer: Answer) -> float:
    if task is Task.REGRESSION:
        return abs(float(y) - answer[0])
    return 0.0 if answer.index(max(answer)) == int(y) else 1.0


Newest = Callable[[], Any]
"""The state in the newest checkpoint, loaded once. Raises CheckpointRefused, SettingsError."""


def _open(book: Book, number: int, newest: Newest, *, learn: bool) -> Contestant:
    """The kept model, or the one that answers now. Raises CheckpointRefused, SettingsError."""
    settings = book.settings
    spec, extra = spec_of(settings), extra_classes(settings)
    opened = book.kept(number)
    if opened is not None:
        limit = settings.checkpoint.max_bytes
        retired, crew = load_kept(opened, lambda blob: unpickle.loads(blob, extra, limit), spec)
        # It has no scale of its own, and goes on from that of the lineage, as after a roll-back.
        scaled = learn and spec.task is Task.REGRESSION and book.checkpoint() is not None
        return contestant(book, retired, crew, newest()["fold"]["scale"] if scaled else 0.0)
    checkpoint = book.checkpoint()
    if checkpoint is None or not checkpoint.header.lineage or checkpoint.header.lineage[-1].number != number:
        raise SettingsError(
            f"version {number} has no kept model; `fluvial versions list` shows which have one"
        )
    return serving(book, Learner(spec, newest()["fold"]), learn=learn)


def serving(book: Book, learner: Learner, *, learn: bool) -> Contestant:
    """The version that answers now: a copy of its champions. Without learning all are asked."""
    clock, resting = learner.mixture.rest
    lanes, members = list(learner.crew.blanks), learner.mixture.members
    rest = (clock, tuple(lanes.index(members[k].lane) for k in resting)) if learn else (0, ())
    return contestant(book, learner.retired(), learner.crew, learner.mixture.scale, rest)


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


def _codec(book: Book, newest: Newest) -> Codec:
    """As the worker decodes; what an inferring schema has settled on is in the checkpoint."""
    schema = book.settings.schema
    return Codec(schema) if schema.infer is None else Codec(schema, newest()["inference"])


# ---- events ---------------------------------------------------------------------------------------


def _records(book: Book, args: argparse.Namespace, codec: Codec) -> Iterator[Record]:
    """The events that were asked for. Raises SettingsError, SourceError."""
    if args.file is not None:
        return _of_file(args, codec)
    for option in ("label", "format", "delimiter"):
        if getattr(args, option):
            raise SettingsError(f"--{option}: says what a file is, and the events of a topic are no file's")
    return _of_topic(book, args)


def _of_file(args: argparse.Namespace, codec: Codec) -> Iterator[Record]:
    """Numbered from 1, mapped as `fluvial produce` maps them. Raises SettingsError.

    What an inferring schema has settled on is the columns' types: a category `01` is no number.
    """
    settled = {} if codec.schema.infer is None else {each.name: each.type for each in codec.features}

    def mapping(columns: Sequence[str]) -> Mapping:
        types = {name: kind for name, kind in settled.items() if name in columns}
        return Mapping(schema=codec.schema, label=args.label, types=types)

    with rows_of(args.file, args.format, args.delimiter) as file:
        values: Iterator[bytes]
        if isinstance(file, ParquetRows) or file.format == "csv":
            encode = compile_mapping(mapping(file.columns), file)
            values = (encode(row)[0] for row in file.cells())
        elif mapping(()).maps:
            names = file.field_names()
            encode = compile_mapping(mapping(names), file, names)
            values = (encode([row.get(name) for name in names])[0] for row in file.objects())
        else:
            values = file.lines()
        for number, value in enumerate(values, 1):
            yield Record(value, None, number, 0)


def _of_topic(book: Book, args: argparse.Namespace) -> Iterator[Record]:
    """A stretch of one partition. Raises SourceUnavailable, OffsetLost, SettingsError."""
    source = KafkaSource(book.settings.kafka, book.settings.service)
    try:
        known = source.bounds(args.partition, SECONDS)
    finally:
        source.close(SECONDS)
    bounds = _stretch(args, known.low, known.high)
    for message in read_partition(book.settings.kafka, book.settings.service, args.partition, bounds):
        yield Record(message.value(), message.key(), message.offset(), message.timestamp()[1])


def _stretch(args: argparse.Namespace, low: int, high: int) -> Bounds:
    """What is asked for of a log from `low` up to `high`. Raises SettingsError for what it has not."""
    if low >= high:
        raise SettingsError(f"partition {args.partition} of the topic has no event")
    has = f"partition {args.partition} has the offsets {low}..{high}, without the last"
    if args.last is not None:
        if args.last < 1:
            raise SettingsError(f"--last: {args.last} is no number of events; say at least 1")
        return Bounds(max(low, high - args.last), high)
    found = _STRETCH.fullmatch(args.topic)
    if found is None:
        raise SettingsError(f"--topic: {args.topic!r} is not FROM..TO; {has}")
    first, end = int(found[1] or low), int(found[2] or high)
    if first >= end:
        raise SettingsError(f"--topic: {args.topic!r} is empty, it ends before it begins; {has}")
    if first < low or end > high:
        raise SettingsError(f"--topic: {args.topic!r} is not within the log; {has}")
    return Bounds(first, end)


# ---- the result -----------------------------------------------------------------------------------


def _result(pair: list[Contestant], task: Task, counts: Counter[str], *, learn: bool) -> dict[str, Any]:
    kind = "sign test, which was nearer" if task is Task.REGRESSION else "McNemar, which alone was right"
    first, second = counts["first"], counts["second"]
    both = counts["equal"] + first + second
    told = {"events": both, "only_first": first, "only_second": second, "p": paired(first, second)}
    return {
        "versions": [one.number for one in pair],
        "learning": learn,
        "events": both + counts["unanswered"],
        "left_out": counts["left"],
        "metrics": [one.evaluation.metrics()["total"] for one in pair],
        "unpredicted": [one.evaluation.unpredicted for one in pair],
        "first_unpredicted": [one.why for one in pair],
        "test": {"name": kind, **told},
    }


def _difference(task: Task, lead: BatchMeans) -> dict[str, Any]:
    """The second's accuracy, or mean absolute error, less the first's, with 95 % confidence.

    On the events that both answered; without one there is none.
    """
    number = task is Task.REGRESSION
    way, ends = (-1.0 if number else 1.0), lead.interval()
    low, high = sorted(way * end for end in ends) if ends is not None else (None, None)
    told = way * lead.mean if lead.events else None
    return {"of": "mae" if number else "accuracy", "is": told, "low": low, "high": high}


def paired(first: int, second: int) -> float:
    """Two-sided p of so uneven a split when both are equally good: exact, or normal for many."""
    n, least = first + second, min(first, second)
    if n == 0:
        return 1.0
    if n <= EXACT:
        return min(1.0, 2 * sum(math.comb(n, k) for k in range(least + 1)) / float(2**n))
    return math.erfc(max(0.0, abs(first - second) - 1.0) / math.sqrt(2.0 * n))


def _show(told: dict[str, Any]) -> None:
    how = "learning as they go" if told["learning"] else "without learning"
    if told["events"]:
        Console().print(_table(told))
    print(f"{told['events']:,} events, {how}", file=sys.stderr)
    if told["left_out"]:
        why = f"; the first refused: {told['first_refused']}" if told["first_refused"] else ""
        print(f"{told['left_out']:,} more have no label or were refused{why}", file=sys.stderr)
    for number, count, why in zip(
        told["versions"], told["unpredicted"], told["first_unpredicted"], strict=True
    ):
        if count:
            without = f"version {number} had no answer to {count:,} events, which its metrics leave out"
            print(f"{without}; the first, {why}")
    if told["events"]:
        _show_test(told)


def _table(told: dict[str, Any]) -> Table:
    a, b = told["versions"]
    table = Table("", f"version {a}", f"version {b}", "difference", box=None)
    first, second = told["metrics"]
    for name in first | second:
        values = [each.get(name) for each in (first, second)]
        cells = ["" if value is None else f"{value:.4f}" for value in values]
        more = f"{second[name] - first[name]:+.4f}" if name in first and name in second else ""
        table.add_row(name, *cells, more)
    return table


def _show_test(told: dict[str, Any]) -> None:
    """What is told of the events that both answered."""
    a, b = told["versions"]
    test, by = told["test"], told["difference"]
    if not test["events"]:
        print("no event was answered by both: there is nothing to test")
        return
    split = f"{a} on {test['only_first']:,}, {b} on {test['only_second']:,}"
    of = "" if test["events"] == told["events"] else f"of the {test['events']:,} events that both answered, "
    print(f"{test['name']}: {of}{split}; p = {test['p']:.2g}")
    if by["low"] is not None:
        sure = f"{by['low']:+.4f} to {by['high']:+.4f} with 95 % confidence, neighbours taken together"
        print(f"{by['of']}, {b} less {a}: {by['is']:+.4f}, {sure}")
