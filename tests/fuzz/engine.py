"""One episode: a contract, a model, some hundred messages through the decoder and through a real worker."""

from __future__ import annotations

import base64
import hashlib
import random
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

from fluvial.adapters.memory_log import MemoryMessage, MemorySink, MemorySource, MemoryTopic
from fluvial.adapters.memory_store import MemoryBacking, MemoryStore
from fluvial.checkpoint import Expectation, runtime, unseal
from fluvial.codec import Codec
from fluvial.config import Settings, parse
from fluvial.errors import BadEvent, Reason
from fluvial.learner import Learner
from fluvial.models import unpickle
from fluvial.shard import blanks_of, signing_keys, spec_of
from fluvial.types import Event
from fluvial.worker import Worker
from fuzz import contract
from fuzz.mutations import Spoiler
from fuzz.schemas import NAMED, Table, random_table
from support import fold

PARTITIONS = 2
MESSAGES = 1_000
POOL = 400
"""Payloads that are kept to be spoilt further, under each named contract."""
PRESETS = ["linear", "linear", "rates", "bayes", "tree", "adaptive-tree", "auto"]
POLICIES = ["observe", "reset", "reweight"]


class Finding(Exception):
    """Something that must hold does not."""


def settings_of(table: Table, preset: str = "linear", policy: str = "observe") -> Settings:
    """Settings for the twins."""
    return parse(
        {
            "service": "fuzz",
            "kafka": {"bootstrap_servers": "nowhere:1", "topic": "events", "wait_ms": 1},
            "schema": table,
            "model": {"preset": preset},
            "policy": {"name": policy, **({"restart_every": 150} if policy == "reweight" else {})},
            "redis": {"allow_unfit": True},
            "checkpoint": {"key": "k" * 40, "every_events": 300},
            "dead_letters": {"max_run": 0, "max_share": 1.0},
        }
    )


def preset_for(rng: random.Random, table: Table) -> str:
    """A model that can learn under this contract."""
    regression = "regression" in str(table["label"])
    preset = rng.choice(PRESETS)
    if "weight" in table:
        return "tree"  # most others take no sample weight
    return "linear" if preset == "bayes" and regression else preset


def signal(bad: BadEvent) -> str:
    """The shape of a refusal: its reason and its message without names, numbers and what was quoted."""
    text = re.sub(r"(unknown field|declared set).*", r"\1", bad.message)
    text = re.sub(r"`[^`]*`|'[^']*'|\$[^:]*", "…", text)
    text = re.sub(r"[^\x20-\x7e…]+", "?", re.sub(r"0x[0-9a-f]+|[-+]?\d[\d.e+]*", "#", text))
    return f"{bad.reason}: {text[:80]}"


# --- the decoder alone -----------------------------------------------------------------------------


def decoded(codec: Codec, message: MemoryMessage) -> Event | BadEvent:
    """Decode it and hold the answer against the contract. Raises Finding."""
    value, key, stamp = message.value(), message.key(), message.timestamp()[1]
    try:
        event = codec.decode(value, key, message.partition(), message.offset(), stamp)
    except BadEvent as bad:
        told = (
            bad.reason in set(Reason) and bad.message and len(bad.message) < 700 and bad.message.isprintable()
        )
        if not told:
            raise Finding(f"a message that is none: {bad.message!r}") from bad
        _hold_refusal(codec, message, bad)
        return bad
    except Exception as error:
        raise Finding(f"the decoder raised {error!r}") from error
    try:
        contract.assert_sound(codec.schema, event)
    except (AssertionError, ValueError) as error:
        raise Finding(f"accepted, and not within the contract: {event} ({error!r})") from error
    if codec.schema.infer is None:
        _hold_event(codec, message, event)
    return event


def _hold_event(codec: Codec, message: MemoryMessage, event: Event) -> None:
    try:
        wanted = contract.expected(
            codec.schema,
            message.value(),
            message.key(),
            message.partition(),
            message.offset(),
            message.timestamp()[1],
        )
    except contract.Unsure:
        return
    except contract.Broken as broken:
        raise Finding(f"accepted, although {broken}") from broken
    if repr(wanted) != repr(event) or list(wanted.x) != list(event.x):
        raise Finding(f"accepted as {event}, it is {wanted}")


def _hold_refusal(codec: Codec, message: MemoryMessage, bad: BadEvent) -> None:
    """What keeps the contract is not refused."""
    if codec.schema.infer is not None or "nested deeper" in bad.message:
        return
    try:
        wanted = contract.expected(
            codec.schema,
            message.value(),
            message.key(),
            message.partition(),
            message.offset(),
            message.timestamp()[1],
        )
    except (contract.Unsure, contract.Broken):
        return
    raise Finding(f"refused ({bad}), although it is {wanted}")


# --- the whole worker ------------------------------------------------------------------------------


class Feed(MemorySource):
    """Hands over all there is, notes the order, and stops the worker at the end."""

    def __init__(self, topic: MemoryTopic) -> None:
        super().__init__(topic, "fuzz")
        self.handed: list[MemoryMessage] = []
        self.at_the_end: Any = None

    def poll(self, limit: int, seconds: float) -> list[MemoryMessage]:
        messages = list(super().poll(limit, 0.0))
        self.handed += messages
        if not messages:
            self.at_the_end()
        return messages


class Run:
    """What a worker came to over these messages."""

    def __init__(self, settings: Settings, messages: list[tuple[Any, ...]]) -> None:
        topic, self.backing, self.sink = MemoryTopic(PARTITIONS), MemoryBacking(), MemorySink()
        for number, message in enumerate(messages):
            topic.append(message[0], message[1], number % PARTITIONS, *message[2:])
        self.settings = settings
        self.source = Feed(topic)
        worker = Worker(settings, self.source, self.sink, MemoryStore(self.backing), "fuzz")
        self.source.at_the_end = worker.stop
        worker.run()

    def learner(self) -> Learner:
        """The fold in the newest checkpoint."""
        ((shard, stored),) = self.backing.shards.items()
        expect = Expectation("fuzz", shard, self.settings.schema.hash, runtime().river)
        opened = unseal(stored.blobs[0], expect, signing_keys(self.settings))
        return Learner(spec_of(self.settings), unpickle.loads(opened.payload)["fold"])


def check_run(settings: Settings, messages: list[tuple[Any, ...]]) -> tuple[Counter[str], dict[str, bytes]]:
    """Fold the messages by a worker and beside it, and compare; counts, and a payload for each signal.

    Beside it: only what the decoder accepts meets the model, and what it refuses never existed.
    """
    try:
        run = Run(settings, messages)
    except Exception as error:
        raise Finding(f"the worker ended: {error!r}") from error
    if len(run.source.handed) != len(messages):
        raise Finding("the worker did not read everything")
    alone = Learner.genesis(spec_of(settings), blanks_of(settings), dict.fromkeys(range(PARTITIONS), 0))
    codec, refused, counts = Codec(settings.schema), {}, Counter[str]()
    signals: dict[str, bytes] = {}
    scores: dict[str, Any] = {}
    for message in run.source.handed:
        event = decoded(codec, message)
        if isinstance(event, BadEvent):
            refused[message.partition(), message.offset()] = event
            counts[event.reason] += 1
            signals.setdefault(signal(event), message.value() or b"")
            continue
        try:
            outcome = alone.step(event)
        except Exception as error:
            raise Finding(f"the model raised on a valid event: {event}, {error!r}") from error
        counts["scored" if event.y is None else "learned"] += 1
        if event.key is not None and outcome.known:
            scores[event.key] = codec.score_of(
                event, outcome.answer, outcome.choice, outcome.version, "", 0.0
            )
    learner = run.learner()
    _hold_letters(run, refused)
    _hold_ledger(learner, alone, refused)
    _hold_state(learner, alone)
    _hold_scores(run, scores)
    return counts, signals


def _hold_letters(run: Run, refused: dict[tuple[int, int], BadEvent]) -> None:
    """One letter each, with what came and why."""
    letters = {(letter.partition, letter.offset): letter for letter in run.sink.letters}
    if len(letters) != len(run.sink.letters) or letters.keys() != refused.keys():
        raise Finding(f"letters and refusals differ at {sorted(letters.keys() ^ refused.keys())[:5]}")
    for message in run.source.handed:
        letter = letters.get((message.partition(), message.offset()))
        if letter is None:
            continue
        bad = refused[message.partition(), message.offset()]
        came = (message.value(), message.key(), tuple(message.headers() or ()), message.timestamp()[1])
        if (letter.value, letter.key, letter.headers, letter.timestamp_ms) != came:
            raise Finding(f"a letter holds something else than came: {letter}")
        if (letter.reason, letter.message) != (bad.reason, bad.message):
            raise Finding(f"another reason each time: {letter.reason}, {letter.message} and {bad}")


def _hold_ledger(learner: Learner, alone: Learner, refused: dict[tuple[int, int], BadEvent]) -> None:
    for partition, ledger in learner.ledger.partitions.items():
        beside = alone.ledger.partitions[partition]
        dead = sum(p == partition for p, _ in refused)
        if (ledger.learned, ledger.scored, ledger.dead) != (beside.learned, beside.scored, dead):
            raise Finding(f"accounted for otherwise: {ledger}, {dead} were refused, {beside}")
        if not ledger.balanced() or ledger.gaps or ledger.skipped:
            raise Finding(f"not accounted for exactly once: {ledger}")


def _hold_state(learner: Learner, alone: Learner) -> None:
    """The model, to the bit, is one that never met what was refused."""
    here, there = fold.portrait(learner), fold.portrait(alone)
    for name in here.keys() - {"ledger"}:
        if repr(here[name]) != repr(there[name]):
            raise Finding(f"the state's {name} is another: {here[name]!r:.300} {there[name]!r:.300}")
    for one, other in zip(learner.mixture.members, alone.mixture.members, strict=True):
        # Both from a pickle: what a model caches is not what it knows.
        here, there = (
            side.spec.load(side.spec.dump(m.model)) for side, m in ((learner, one), (alone, other))
        )
        if fingerprint(here) != fingerprint(there):
            raise Finding(f"a model's numbers are others: {one.lane}")
    dumps = learner.state()["members"], alone.state()["members"]
    if repr(learner.probe(dumps[0])) != repr(alone.probe(dumps[1])):
        raise Finding("the model answers otherwise")


def _hold_scores(run: Run, scores: dict[str, Any]) -> None:
    kept = {key: score for key, (score, _) in run.backing.scores.items()}
    if kept.keys() != scores.keys():
        raise Finding(f"scores of other keys: {sorted(kept.keys() ^ scores.keys())[:5]}")
    for key, wanted in scores.items():
        found = kept[key]
        here, there = (
            (s.prediction, dict(s.probabilities or {}), s.version, s.partition, s.offset, s.event_time)
            for s in (found, wanted)
        )
        if repr(here) != repr(there):
            raise Finding(f"the score of {key!r} is {found}, not {wanted}")


def fingerprint(thing: Any) -> str:
    """A digest of every number in a model, whatever its pickle looks like."""
    digest = hashlib.sha256()
    _describe(thing, digest.update, {})
    return digest.hexdigest()


def _describe(thing: Any, say: Callable[[bytes], None], seen: dict[int, Any]) -> None:
    if isinstance(thing, float):
        say(b"f" + struct.pack(">d", thing))
    elif thing is None or isinstance(thing, bool | int | str | bytes):
        say(f"{type(thing).__name__}{thing!r};".encode())
    elif isinstance(thing, set | frozenset):
        say(repr(sorted(map(repr, thing))).encode())
    elif hasattr(thing, "__qualname__"):
        say(f"{thing.__module__}.{thing.__qualname__};".encode())
    elif id(thing) in seen:
        say(b"again;")
    else:
        seen[id(thing)] = thing  # kept, so that no other object gets its id
        say(b"[")
        for part in _parts(thing):
            _describe(part, say, seen)
        say(b"]")


def _parts(thing: Any) -> Iterable[Any]:
    """What it is made of, as pickling sees it."""
    if isinstance(thing, list | tuple):
        return thing
    if type(thing) is dict:
        # An unseeded generator serves `sample` alone, which nothing here calls; any two are different.
        idle = {"_rng"} if thing.get("seed", 0) is None else set()
        return chain.from_iterable(item for item in thing.items() if item[0] not in idle)
    return (list(part) if hasattr(part, "__next__") else part for part in thing.__reduce_ex__(4))


# --- episodes --------------------------------------------------------------------------------------


class Fuzzer:
    """Episodes one after the other, from one seed; learns from refusals that it had not seen."""

    def __init__(self, seed: str, corpus: dict[str, list[bytes]] | None = None) -> None:
        self.seed = seed
        self.pool: dict[str, list[bytes]] = {name: list((corpus or {}).get(name, ())) for name in NAMED}
        self.signals: dict[tuple[str, str], bytes] = {}
        self.counts: Counter[str] = Counter()
        self.findings: list[dict[str, Any]] = []
        self.episodes = 0

    def episode(self, size: int = MESSAGES) -> None:
        """One contract, one model, `size` messages."""
        rng = random.Random(f"{self.seed} {self.episodes}")
        self.episodes += 1
        name = rng.choice([*NAMED, None, None])
        table = NAMED[name] if name is not None else random_table(rng)
        settings = settings_of(table, preset_for(rng, table), rng.choice(POLICIES))
        messages = self._messages(rng, settings, name, size)
        try:
            counts, signals = check_run(settings, messages)
        except Finding as finding:
            self._found(finding, settings, table, messages)
            return
        self.counts.update(counts)
        for shape, value in signals.items():
            self._learn(name, shape, value)

    def _messages(
        self, rng: random.Random, settings: Settings, name: str | None, size: int
    ) -> list[tuple[Any, ...]]:
        spoiler, pool = Spoiler(rng, settings.schema), self.pool.get(name or "", [])
        messages = []
        for _ in range(size):
            value: bytes | None
            roll = rng.random()
            if roll < 0.25:
                value = spoiler.fresh()
            elif roll < 0.995:
                value = spoiler.spoilt(rng.choice(pool) if pool and rng.random() < 0.4 else None)
            else:
                value = rng.choice([None, b"", rng.randbytes(rng.randint(1, 40))])
            messages.append((value, spoiler.key(), spoiler.timestamp(), spoiler.headers()))
        return messages

    def _learn(self, name: str | None, shape: str, value: bytes) -> None:
        key = (name or "random", shape)
        if key in self.signals:
            return
        self.signals[key] = value
        if name is not None and 0 < len(value) < 5_000 and len(self.pool[name]) < POOL:
            self.pool[name].append(value)

    def _found(
        self, finding: Finding, settings: Settings, table: Table, messages: list[tuple[Any, ...]]
    ) -> None:
        small = shrunk(settings, messages)
        self.counts["in episodes with a finding"] += len(messages)
        self.findings.append(
            {
                "what": str(finding)[:2_000],
                "seed": self.seed,
                "episode": self.episodes - 1,
                "schema": table,
                "model": settings.model.preset,
                "policy": settings.policy.name,
                "messages": [
                    [None if v is None else base64.b64encode(v).decode() for v in message[:2]] + [message[2]]
                    for message in small[:20]
                ],
            }
        )


def shrunk(settings: Settings, messages: list[tuple[Any, ...]], tries: int = 60) -> list[tuple[Any, ...]]:
    """Fewer messages over which something does not hold."""
    size = len(messages) // 2
    while size and tries:
        for start in range(0, len(messages), size):
            fewer = messages[:start] + messages[start + size :]
            tries -= 1
            if fewer and _fails(settings, fewer):
                messages = fewer
                break
            if not tries:
                break
        else:
            size //= 2
    return messages


def _fails(settings: Settings, messages: list[tuple[Any, ...]]) -> bool:
    try:
        check_run(settings, messages)
    except Finding:
        return True
    return False
