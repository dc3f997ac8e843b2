"""The truth about a run, from the topic alone: a fold of its own, and what the service left held against it.

Nothing here comes from the worker, its keeper, its shards or its publisher. `Codec` and `Learner` define
what the fold is; the order of events, the accounting, the scores and the last state are worked out anew
from the records of the topic. Where the model is linear, its answers are also computed with River alone.
"""

import json
from collections import Counter
from dataclasses import dataclass, field

from river import linear_model, optim, preprocessing

from fluvial.checkpoint import Expectation, SigningKey, unseal
from fluvial.codec import Codec, decode_score
from fluvial.crew import Spec
from fluvial.errors import BadEvent
from fluvial.learner import Learner
from fluvial.models import build, unpickle
from fluvial.models.blank import make_blank
from fluvial.policies import make_policy
from support.fold import assert_same_fold, copied

SHOWN = 5
"""Examples of what differs."""
HELD_OUT = 500
"""Events over which two models are asked for the same answers at the end."""


@dataclass
class Verdict:
    """What was found: each check with its faults, and how much was compared."""

    faults: dict[str, list[str]] = field(default_factory=dict)
    counts: Counter = field(default_factory=Counter)

    @property
    def good(self):
        return not any(self.faults.values())

    def check(self, name, faults=()):
        """Note a check, and what it found wrong."""
        self.faults.setdefault(name, []).extend(faults)


@dataclass
class Left:
    """What the service left behind, and what was seen on the way."""

    records: list
    """The topic, read back."""
    letters: list
    """The dead-letter topic, read back."""
    made: list
    """The events as they were made."""
    seen: dict
    """Each score as it was first seen."""
    scores: dict
    """Each score at the end."""
    journal: list
    """Entries, the oldest first."""
    blobs: dict
    """The newest checkpoint of each shard."""
    notes: list = field(default_factory=list)
    """Paths of the workers' notes, where the order had to be noted."""


def verify(settings, shards, left):
    """The verdict on a run. `shards`: the partitions of each."""
    verdict = Verdict()
    verdict.counts["events"] = len(left.records)
    by_offset = {(r.partition(), r.offset()): r for r in left.records}
    check_topic(verdict, left)
    check_letters(verdict, left, settings.kafka.topic)
    verdict.check("a published score is never replaced", replaced(left))
    answers, folds = {}, {}
    for shard, partitions in shards.items():
        lines = Lines(settings, by_offset, partitions)
        if len(partitions) == 1:
            lines.straight(partitions[0])
        else:
            verdict.check("the noted order fits every checkpoint", lines.noted(left.notes, shard))
        folds[shard] = lines
        for key, found in lines.answers.items():
            answers[key] = (shard, found)
    check_scores(verdict, settings, left, answers)
    for shard, lines in folds.items():
        check_state(verdict, settings, shard, lines, left)
        check_journal(verdict, shard, lines, left)
    if settings.model.factory.endswith(":linear") and settings.policy.name != "reweight":
        check_with_river(verdict, left, [p for own in shards.values() if len(own) == 1 for p in own])
    return verdict


# --- what the topic holds ----------------------------------------------------------------------------


def check_topic(verdict, left):
    """Each event that was made is in the topic once: the driver itself must not be at fault."""
    found = Counter(record.key().decode() for record in left.records)
    wanted = {f"e{i}" for i in range(len(left.made))}
    faults = [f"{key} is there {n} times" for key, n in found.items() if n > 1]
    faults += [f"{key} is not there" for key in sorted(wanted - set(found))]
    verdict.check("each event made is in the topic once", faults)


def check_letters(verdict, left, topic):
    """Each bad event has a letter with its own bytes, and no other event has one."""
    faults, found = [], {}
    for letter in left.letters:
        headers = dict(letter.headers())
        found.setdefault(headers["fluvial.id"].decode(), letter)
        verdict.counts["dead letters"] += 1
    wanted = {}
    for record in left.records:
        if left.made[int(record.key()[1:])].kind == "dead":
            wanted[f"{topic}/{record.partition()}/{record.offset()}"] = record
    faults += [f"{at} was bad and has no dead letter" for at in sorted(wanted.keys() - found.keys())]
    faults += [f"{at} has a dead letter and was good" for at in sorted(found.keys() - wanted.keys())]
    for at in wanted.keys() & found.keys():
        if found[at].value() != wanted[at].value() or found[at].key() != wanted[at].key():
            faults.append(f"the dead letter of {at} has other bytes")
    verdict.counts["dead letters that came twice"] = len(left.letters) - len(found)
    verdict.check("each bad event, and no other, has a dead letter", faults)


def replaced(left):
    """Scores that a reader could have seen change."""
    for key, seen in left.seen.items():
        last = left.scores.get(key)
        if last != seen:
            yield f"{key}: {seen} became {last}"


# --- the folds --------------------------------------------------------------------------------------


def spec_of(settings):
    extra = unpickle.parse_extra(settings.model.allow)
    return Spec(
        task=settings.schema.label.task,
        size=settings.schema.label.size,
        policy=make_policy(settings.policy),
        dump=unpickle.dumps,
        load=lambda blob: unpickle.loads(blob, extra, settings.checkpoint.max_bytes),
        drift=settings.drift,
        evaluation=settings.evaluation,
        weighted=settings.schema.weight is not None,
        keep=settings.policy.keep,
        warm=settings.policy.warm,
        features=settings.schema.names,
        classes=tuple(map(str, settings.schema.label.classes)),
    )


def genesis(settings, partitions):
    """A fold before its first event."""
    extra = unpickle.parse_extra(settings.model.allow)
    lanes = build(settings.model, settings.schema)
    blanks = {lane: make_blank(lambda lane=lane: lanes[lane], extra) for lane in lanes}
    return Learner.genesis(spec_of(settings), blanks, dict.fromkeys(partitions, 0))


class Lines:
    """The fold of one shard, along every line that a worker went before it crashed or was fenced.

    On one partition there is one line. On several, each owner read on from a checkpoint in an order of
    its own; what came after the next owner's checkpoint did not count, but scores of it may be out.
    """

    def __init__(self, settings, by_offset, partitions):
        self._codec = Codec(settings.schema)
        self._by_offset = by_offset
        self.learner = genesis(settings, partitions)
        self.answers = {}
        """Key to what each line answered: (answer, choice, version, event), or None without an answer."""
        self.entries = []
        """The last line's journal, as (kind, partition, offset)."""
        self.branches = 0

    def straight(self, partition):
        """Fold the only partition."""
        offset = 0
        while (partition, offset) in self._by_offset:
            self._step(partition, offset)
            offset += 1

    def noted(self, notes, shard):
        """Fold along every line that was noted; what does not fit."""
        stretches = [s for path in notes for s in read_notes(path, shard)]
        stretches.sort(key=lambda s: s.epoch)  # stable: within an epoch as written
        starts = Counter(sum(s.offsets.values()) for s in stretches)
        kept = {0: (copied(self.learner), [])}
        for stretch in stretches:
            at = sum(stretch.offsets.values())
            if at not in kept:
                yield f"epoch {stretch.epoch} began at {stretch.offsets}, where nobody had been"
                return
            state, entries = kept[at]
            self.learner, self.entries = copied(state), list(entries)
            if self.learner.ledger.offsets() != stretch.offsets:
                reached = self.learner.ledger.offsets()
                yield f"epoch {stretch.epoch} began at {stretch.offsets}, those before it reached {reached}"
                return
            self.branches += 1
            for partition, offset in stretch.read:
                if (partition, offset) not in self._by_offset:
                    yield f"epoch {stretch.epoch} read {partition}/{offset}, which is not in the topic"
                    return
                self._step(partition, offset)
                at += 1
                if starts[at]:
                    kept[at] = (copied(self.learner), list(self.entries))

    def _step(self, partition, offset):
        record = self._by_offset[partition, offset]
        try:
            event = self._codec.decode(record.value(), record.key(), partition, offset, record.timestamp()[1])
        except BadEvent:
            self.learner.refuse(partition, offset)
            return
        outcome = self.learner.step(event)
        told = (outcome.answer, outcome.choice, outcome.version, event) if outcome.known else None
        self.answers.setdefault(event.key, []).append(told)
        if outcome.rare is not None:
            self.entries += [(e.kind, e.partition, e.offset) for e in outcome.rare.entries]


@dataclass
class Stretch:
    """What one owner read, from one assignment to the next."""

    epoch: int
    offsets: dict[int, int]
    read: list


def read_notes(path, shard):
    """The stretches of one process. A last line that a crash cut short tells nothing."""
    epoch, stretches = None, []
    for line in path.read_text().split("\n")[:-1]:
        kind, *rest = json.loads(line)
        if kind == "claim" and rest[0] == shard:
            epoch = rest[1]
        elif kind == "assign" and rest[0]:
            offsets = {int(p): o for p, o in rest[0].items()}
            stretches.append(Stretch(epoch, dict(sorted(offsets.items())), []))
        elif kind == "read" and stretches:
            for partition, first, following in rest[0]:
                stretches[-1].read += [(partition, offset) for offset in range(first, following)]
    return stretches


# --- scores -----------------------------------------------------------------------------------------


def told_by(settings, told, shard):
    """What a score has to say, less the time at which it was made."""
    answer, choice, version, event = told
    classes = settings.schema.label.classes
    names = [str(c).lower() if isinstance(c, bool) else str(c) for c in classes]
    probabilities = dict(zip(names, answer, strict=True))
    return (classes[choice], probabilities, version, shard, event.partition, event.offset, event.time)


def check_scores(verdict, settings, left, answers):
    """Each event that has an answer has a score, equal to the fold's to the last bit; no other has one."""
    missing, differing = [], []
    for key, (shard, found) in answers.items():
        raw = left.scores.get(key)
        if raw is None:
            if None not in found:
                missing.append(f"{key} has no score")
            continue
        score = decode_score(raw)
        is_told = (score.prediction, score.probabilities, score.version, score.shard,
                   score.partition, score.offset, score.event_time)  # fmt: skip
        verdict.counts["scores compared"] += 1
        wanted = [told_by(settings, told, shard) for told in found if told is not None]
        if is_told not in wanted:
            differing.append(f"{key}: {is_told} instead of {wanted[:1]}")
    extra = [f"{key} has a score and was never answered" for key in left.scores.keys() - answers.keys()]
    verdict.counts["scores missing"] = len(missing)
    verdict.counts["scores that differ"] = len(differing)
    verdict.check("each score is the fold's, bit for bit", [*missing, *differing, *extra])


def check_with_river(verdict, left, partitions):
    """River alone, as one would write it, for as long as one model answers: in version 1, no challengers."""
    faults = []
    for partition in partitions:
        model = preprocessing.StandardScaler() | linear_model.LogisticRegression(optim.SGD(0.05))
        records = [record for record in left.records if record.partition() == partition]
        for record in sorted(records, key=lambda r: r.offset()):
            key = record.key().decode()
            made = left.made[int(key[1:])]
            if made.kind == "dead":
                continue
            answer = model.predict_proba_one(dict(made.x))
            if made.kind == "learned":
                model.learn_one(dict(made.x), made.y)
            score = decode_score(left.scores[key]) if key in left.scores else None
            if score is not None and score.version > 1:
                break
            verdict.counts["scores computed with River alone"] += 1
            wanted = {"false": answer[False], "true": answer[True]}
            if score is None or score.probabilities != wanted:
                faults.append(f"{key}: {score} instead of {wanted}")
    verdict.check("a linear model's scores are River's, bit for bit", faults)


# --- the last state ---------------------------------------------------------------------------------


def load(settings, shard, blob):
    """The fold in a checkpoint."""
    key = SigningKey(settings.checkpoint.key_id, settings.checkpoint.key)
    expect = Expectation(settings.service, shard, settings.schema.hash, river_version())
    opened = unseal(blob, expect, (key,))
    return Learner(spec_of(settings), spec_of(settings).load(opened.payload)["fold"])


def river_version():
    from importlib import metadata

    return metadata.version("river")


def check_state(verdict, settings, shard, lines, left):
    """The newest checkpoint is the fold's last state: its ledger, its numbers, its next answers."""
    if left.blobs.get(shard) is None:
        verdict.check("the last checkpoint is the fold's state", [f"{shard} has no checkpoint"])
        return
    kept = load(settings, shard, left.blobs[shard])
    verdict.check("each offset is accounted for, once", accounted(kept.ledger, left))
    faults = []
    if kept.ledger.order != lines.learner.ledger.order:
        faults.append(f"{shard}: the checksum of the order is another")
    held = held_out(settings, kept, left)
    try:
        assert_same_fold(copied(kept), copied(lines.learner), held)
    except AssertionError as error:
        faults.append(f"{shard}: {str(error)[:300]}")
    verdict.counts["answers of the last state compared"] += len(held)
    verdict.check("the last checkpoint is the fold's state", faults)


def accounted(ledger, left):
    """Where the ledger differs from what the topic holds."""
    for partition, entry in ledger.partitions.items():
        kinds = Counter(left.made[int(r.key()[1:])].kind for r in left.records if r.partition() == partition)
        wanted = (0, kinds.total(), kinds["learned"], kinds["scored"], kinds["dead"], 0, 0)
        told = (entry.start, entry.next, entry.learned, entry.scored, entry.dead, entry.skipped, entry.gaps)
        if told != wanted or not entry.balanced():
            names = "start, next, learned, scored, dead, skipped, gaps"
            yield f"partition {partition}: {names} are {told} instead of {wanted}"


def held_out(settings, learner, left):
    """Events for the time after the end, made from the topic's first good ones."""
    codec = Codec(settings.schema)
    partition, entry = next(iter(learner.ledger.partitions.items()))
    good = [made.value for made in left.made if made.kind == "learned"][:HELD_OUT]
    return [codec.decode(value, None, partition, entry.next + i, 0) for i, value in enumerate(good)]


def check_journal(verdict, shard, lines, left):
    """Each of the fold's entries is there once and in order; claims have rising epochs."""
    told = [entry for entry in left.journal if entry["shard"] == shard]
    mine = [(e["kind"], e["partition"], e["offset"]) for e in told if e.get("offset") is not None]
    faults = []
    if mine != lines.entries:
        twice = [entry for entry, n in Counter(mine).items() if n > 1]
        lost = [entry for entry in lines.entries if entry not in set(mine)]
        faults.append(f"{shard}: {len(mine)} instead of {len(lines.entries)}; twice {twice}, lost {lost}")
    epochs = [entry["detail"]["epoch"] for entry in told if entry["kind"] == "claimed"]
    if epochs != sorted(set(epochs)):
        faults.append(f"{shard}: claims have the epochs {epochs}")
    verdict.counts["journal entries compared"] += len(mine)
    verdict.counts["claims"] += len(epochs)
    verdict.counts["lines folded"] += max(1, lines.branches)
    verdict.check("the journal has each entry of the fold once, in order", faults)
