"""`fluvial dead-letters redrive`: write dead letters back to the topic that they came from."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice

from fluvial.adapters.kafka import KafkaProducer, Letter
from fluvial.cli.letter_reading import Box, Choice, Watched, add_filters, counted
from fluvial.cli.stopping import Stop
from fluvial.errors import SettingsError, SourceUnavailable
from fluvial.types import Entry

WAIT_SECONDS = 30.0
INTERRUPTED = 130
CHUNK = 500
"""Letters that are written, acknowledged and remembered together: so many may come twice after a crash."""
NAMED = 5

WORD = """\
What redriving means to a model that learns: the events go to the end of the topic and are learned after
everything that came since, by the model of now, with the features and the label of then. They count in
the metrics and for drift; a score under their key takes the place of a newer event's. Redrive what is
still true."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the action's arguments."""
    parser.description = (
        "Write letters back to the topic that they came from: original bytes, key, headers and time."
    )
    parser.epilog = WORD
    add = parser.add_argument
    add("id", nargs="*", help="only these, as in the list (default: all that the filters choose)")
    add_filters(parser)
    add("--limit", type=int, metavar="N", help="at most the first N")
    add("--again", action="store_true", help="also those that were redriven before")
    add("--now", action="store_true", help="stamp them with the present time instead of their own")
    add("--dry-run", action="store_true", help="only say what would be written")
    add("--yes", action="store_true", help="do not ask")


class Plan:
    """Which letters are to be written, and how many are not and why."""

    def __init__(self, box: Box, args: argparse.Namespace) -> None:
        self._box = box
        self._choice = Choice(args)
        self._again: bool = args.again
        self._limit: int | None = args.limit
        self.topic = box.settings.kafka.topic
        self.ids = frozenset(full_id(name, self.topic) for name in args.id)
        self.found: set[str] = set()
        """Of `ids`, those that there are."""
        self.truncated: list[str] = []
        self.elsewhere = 0
        """Letters of other topics."""
        self.before = 0
        """Letters that were redriven before."""

    def letters(self, doing: str) -> Iterator[Letter]:
        """Those to be written, in the order in which they were refused. Raises SourceError, StoreError."""
        self.found.clear()
        self.truncated.clear()
        self.elsewhere = self.before = 0
        return islice(self._fresh(doing), self._limit)

    def _fresh(self, doing: str) -> Iterator[Letter]:
        meant = (letter for letter in self._box.chosen(self._choice, doing) if self._whole(letter))
        while chunk := list(islice(meant, CHUNK)):
            known = () if self._again else self._box.store.redriven([letter.identity for letter in chunk])
            for letter in chunk:
                if letter.identity in known:
                    self.before += 1
                else:
                    yield letter

    def _whole(self, letter: Letter) -> bool:
        """Whether it is meant and can be written back."""
        if self.ids and letter.id not in self.ids:
            return False
        if self.ids:
            self.found.add(letter.id)
        if letter.topic != self.topic:
            self.elsewhere += 1
            return False
        if letter.truncated:
            self.truncated.append(f"{letter.id} ({letter.size:,} bytes)")
            return False
        return True

    def told(self) -> dict[str, object]:
        """How they were chosen, for the journal."""
        some = {"ids": sorted(self.ids)[:NAMED]} if self.ids else {}
        return {**self._choice.told(), **some, **({"again": True} if self._again else {})}

    def left_out(self) -> list[str]:
        """What is not written, and why."""
        said = []
        if self.before:
            said.append(
                f"{counted(self.before, 'letter')} redriven before: left out (--again takes them too)"
            )
        if self.elsewhere:
            said.append(f"{counted(self.elsewhere, 'letter')} of other topics than {self.topic!r}: left out")
        if self.truncated:
            some = ", ".join(self.truncated[:NAMED]) + (", …" if len(self.truncated) > NAMED else "")
            said.append(
                f"{counted(len(self.truncated), 'truncated letter')}: refused, since the dead-letter topic "
                f"holds only their beginning. Take the whole events from where they came from: {some}"
            )
        missing = sorted(self.ids - self.found)
        if missing:
            said.append(
                f"no such letter: {', '.join(missing[:NAMED])}{', …' if len(missing) > NAMED else ''}"
            )
        return said


def run(box: Box, args: argparse.Namespace) -> int:
    """Count, ask, write; 1 when a letter that was named could not be written or the person said no."""
    if args.limit is not None and args.limit < 1:
        raise SettingsError("--limit: expected 1 or more")
    plan = Plan(box, args)
    reasons = Counter(letter.reason for letter in plan.letters("counting"))
    number = reasons.total()
    for line in plan.left_out():
        print(line, file=sys.stderr)
    wrong = bool(plan.ids and (plan.truncated or plan.ids - plan.found))
    if not number:
        print("nothing to redrive")
        return 1 if wrong else 0
    by_reason = ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common())
    print(f"{counted(number, 'event')} to topic {plan.topic!r}: {by_reason}")
    if args.dry_run:
        print(f"\n{WORD}\n\ndry run: nothing is written")
        return 1 if wrong else 0
    if not args.yes and not _agreed():
        print("nothing was written")
        return 1
    return _write(box, plan, number, now=args.now) or (1 if wrong else 0)


def _agreed() -> bool:
    """Ask the person. Raises SettingsError when there is none."""
    if not sys.stdin.isatty():
        raise SettingsError("nobody to ask: say --yes to go on, --dry-run to look")
    print(f"\n{WORD}\n")
    return input("Redrive them? [y/N] ").strip().lower() in {"y", "yes"}


def _write(box: Box, plan: Plan, number: int, *, now: bool) -> int:
    """Write, wait for the acknowledgements, remember; chunk by chunk."""
    producer = KafkaProducer(box.settings.kafka)
    partitions = producer.partitions(WAIT_SECONDS)
    began, written = int(time.time() * 1_000), 0
    entry: Entry | None = Entry(kind="redriven", time=time.time(), detail={"events": number, **plan.told()})
    with Stop() as stop, Watched("redriving", number) as watched:
        letters = islice(plan.letters(""), number)  # two bars would fight over the line
        while not stop.said and (chunk := list(islice(letters, CHUNK))):
            _send(producer, chunk, partitions, now=now)
            box.store.remember_redriven([letter.identity for letter in chunk], began, entry)
            entry = None
            written += len(chunk)
            watched.show(written)
    print(f"{'interrupted: ' if stop.said else ''}{counted(written, 'event')} written to {plan.topic!r}")
    return INTERRUPTED if stop.said else 0


def _send(producer: KafkaProducer, letters: Sequence[Letter], partitions: int, *, now: bool) -> None:
    """Write them to the partitions that they came from. Raises SourceUnavailable, SourceFatal."""
    failed = producer.failed
    for letter in letters:
        # Where the topic was made anew with fewer partitions, its key decides.
        partition = letter.partition if letter.partition < partitions else -1
        time_ms = 0 if now else letter.timestamp_ms
        producer.send(letter.value, letter.key, partition, letter.headers, time_ms)
        producer.poll()
    left = producer.flush(WAIT_SECONDS) + producer.failed - failed
    if left:
        why = f": {producer.error}" if producer.error else ""
        raise SourceUnavailable(
            f"{left:,} of {counted(len(letters), 'event')} were not acknowledged{why}. What was written "
            "before is remembered; of these some may be in the topic. Run it again"
        )


def full_id(name: str, topic: str) -> str:
    """topic/partition/offset, also from partition/offset. Raises SettingsError."""
    parts = name.split("/")
    if len(parts) == 2:
        parts.insert(0, topic)
    if len(parts) != 3 or not (parts[1].isdecimal() and parts[2].isdecimal()):
        raise SettingsError(
            f"{name!r} is no letter's id: topic/partition/offset, as `dead-letters list` shows it"
        )
    return "/".join(parts)
