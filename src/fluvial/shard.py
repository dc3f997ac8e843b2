"""One shard held by this process: its fold, and how that becomes a signed checkpoint and comes back.

Everything that decides between *resume*, *begin* and *refuse* is here, and nothing else is.
"""

from __future__ import annotations

import hashlib
import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import metadata
from operator import attrgetter
from typing import Any, TypeVar

import msgspec

from fluvial.breaker import Breaker
from fluvial.checkpoint import (
    MAX_HEADER,
    Expectation,
    Header,
    Opened,
    SigningKey,
    compare,
    runtime,
    seal,
    unseal,
)
from fluvial.codec import Codec
from fluvial.config import Settings, fingerprint
from fluvial.crew import Spec, nested
from fluvial.errors import CheckpointLost, CheckpointRefused, LostState, SettingsError, TopologyChanged
from fluvial.kept import seal_kept
from fluvial.late import Lateness
from fluvial.learner import Learner
from fluvial.models import build, unpickle
from fluvial.models.blank import make_blank
from fluvial.policies import make_policy
from fluvial.ports import Source, Store
from fluvial.types import Answer, Claim, Commit, Entry, Head, Retired, Topology, Version

T = TypeVar("T")
SECONDS = 10.0
"""How long the log may take to answer a question at the start."""
LARGE = 1_000_000
"""Bytes of a state that takes a while: the lease is stretched for it, the cyclic collector kept off it."""


def spec_of(settings: Settings) -> Spec:
    """What the fold is configured with."""
    extra = extra_classes(settings)
    limit = settings.checkpoint.max_bytes

    def load(blob: bytes) -> Any:
        # Blanks and snapshots come out of a payload that was verified when it was loaded.
        return unpickle.loads(blob, extra, limit, own=True)

    label = settings.schema.label
    return Spec(
        task=label.task,
        size=label.size,
        policy=make_policy(settings.policy),
        dump=unpickle.dumps,
        load=load,
        drift=settings.drift,
        evaluation=settings.evaluation,
        weighted=settings.schema.weight is not None,
        keep=settings.policy.keep,
        part=settings.policy.part,
        warm=settings.policy.warm,
        lateness=Lateness(settings.policy.label_delay),
        features=settings.schema.names,
        classes=tuple(map(str, label.classes)),
    )


def extra_classes(settings: Settings) -> frozenset[tuple[str, str]]:
    """What a checkpoint may hold beside the allow-list: the user's own models, and their detector.

    Raises SettingsError.
    """
    detector = settings.drift.detector
    if ":" not in detector:
        return unpickle.parse_extra(settings.model.allow)
    module, _, name = detector.partition(":")
    try:
        attrgetter(name)(importlib.import_module(module))
    except Exception as error:  # a module of the user's may raise anything
        # Said here: the loader, which looks it up next, would tell of a checkpoint where there may be none.
        hint = f"drift.detector: {detector!r} cannot be imported ({error}); it reads `package.module:Class`"
        raise SettingsError(hint) from error
    return unpickle.parse_extra((*settings.model.allow, detector))


def blanks_of(settings: Settings) -> dict[str, bytes]:
    """Make the model, once in a lineage: a pickle per lane."""
    extra = unpickle.parse_extra(settings.model.allow)
    lanes = build(settings.model, settings.schema)
    return {lane: make_blank(partial(lanes.__getitem__, lane), extra) for lane in lanes}


def model_fingerprint(settings: Settings) -> str:
    """Digest of the model's settings: a lineage keeps the model that it began with."""
    told = msgspec.json.encode(msgspec.to_builtins(settings.model), order="sorted")
    return hashlib.sha256(told).hexdigest()[:16]


def signing_keys(settings: Settings) -> tuple[SigningKey, ...]:
    """The configured key, if there is one."""
    key = settings.checkpoint.key
    return () if key is None else (SigningKey(settings.checkpoint.key_id, key),)


def _digest(blob: bytes) -> str:
    return hashlib.sha256(blob).hexdigest()


class Shard:
    """The fold of one shard with its claim; `save` makes it durable."""

    def __init__(
        self, settings: Settings, claim: Claim, topology: Topology, codec: Codec, learner: Learner
    ) -> None:
        self.settings = settings
        self.claim = claim
        self.topology = topology
        self.codec = codec
        self.learner = learner
        self.breaker = Breaker(settings.dead_letters)
        self.sequence = claim.head.sequence if claim.head is not None else 0
        self.loaded_at = time.monotonic()
        self._keys = signing_keys(settings)
        self._fingerprint = fingerprint(settings)
        self._model = model_fingerprint(settings)
        self._wrapped = ", ".join(sorted({type(m.model).__name__ for m in learner.mixture.members}))

    @property
    def offsets(self) -> dict[int, int]:
        """The next offset of each partition."""
        return self.learner.ledger.offsets()

    @unpickle.uncollected()
    def sealed(self, sequence: int) -> bytes:
        """Dump the state, ask a loaded copy for its answers, and put both into a signed envelope.

        Raises CheckpointTooLarge.
        """
        fold = self.learner.state()
        state = {"fold": fold, "inference": self.codec.state(), "breaker": self.breaker.state()}
        payload = unpickle.dumps(state)
        answers = self.learner.probe(fold["members"])
        header = self._header(sequence, len(payload))
        key = self._keys[0] if self._keys else None
        return seal(payload, header, answers, key, self.settings.checkpoint.max_bytes)

    @unpickle.uncollected()
    def sealed_version(self, retired: Retired, sequence: int) -> bytes:
        """A replaced model in a signed envelope, to go with this checkpoint. Raises CheckpointTooLarge."""
        learner, key = self.learner, self._keys[0] if self._keys else None
        header = self._header(sequence, 0)
        return seal_kept(retired, header, learner.crew, key, self.settings.checkpoint.max_bytes)

    def _header(self, sequence: int, size: int) -> Header:
        return Header(
            service=self.settings.service,
            shard=self.claim.shard,
            epoch=self.claim.epoch,
            sequence=sequence,
            offsets=self.offsets,
            cluster=self.topology.cluster_id,
            topic=self.topology.topic_id,
            settings=self._fingerprint,
            schema=self.settings.schema.hash,
            model=self._model,
            model_class=self._wrapped,
            created_at=time.time(),
            size=size,
            runtime=runtime(),
            lineage=self._told_lineage(),
        )

    def _told_lineage(self) -> tuple[Version, ...]:
        """For the header, whose size is bounded: a policy or a roll-back may have said very much."""
        lineage = tuple(self.learner.lineage.versions)
        while len(msgspec.json.encode(lineage)) > MAX_HEADER // 4:
            lineage = lineage[1:]
        return lineage

    def save(
        self, store: Store, blob: bytes, entries: Sequence[Entry], versions: Mapping[int, bytes]
    ) -> None:
        """Make `blob`, sealed for the next sequence, the newest checkpoint. Raises StoreError.

        The fold's unsaid entries are journalled with it. May be repeated with the same arguments when the
        answer was lost.
        """
        entries = [*entries, *self.learner.unsaid]
        store.save(self.claim, self.sequence + 1, blob, self.offsets, entries, versions)
        self.learner.unsaid.clear()
        self.sequence += 1
        head = Head(sequence=self.sequence, digest=_digest(blob), offsets=self.offsets)
        self.claim = msgspec.structs.replace(self.claim, head=head)


class Opening:
    """How a claimed shard gets its state: resumed, begun, rebuilt, or refused."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        source: Source,
        partition: int | None = None,
        stretch: Callable[[str, int], None] = lambda _shard, _size: None,
    ) -> None:
        self._settings = settings
        self._partition = partition
        """The shard's only one; None: the shard has all."""
        self._store = store
        self._source = source
        self._stretch = stretch
        self.entries: list[Entry] = []
        """What is to be journalled with the first checkpoint."""

    def open(self, claim: Claim) -> Shard:
        """Give the shard its state.

        Raises LostState, TopologyChanged, CheckpointRefused, StoreError, SourceError.
        """
        self.entries.clear()  # of an attempt that an outage cut short
        topology = self._source.topology(SECONDS)
        committed = self._ours(self._source.committed(SECONDS))
        if claim.head is None:
            return self._begin(claim, topology, committed)
        shard = self._resume(claim, topology)
        self._compare_with_witness(claim, committed)
        return shard

    @unpickle.uncollected()
    def rehearse(self, shard: str) -> None:
        """Load what the shard would be resumed from, and let it go.

        Raises CheckpointRefused, TopologyChanged, StoreError, SourceError.
        """
        blobs = self._store.load(shard)
        if not blobs:
            blanks_of(self._settings)
            return
        nobody = Claim(shard=shard, epoch=0, token="", head=None, published={})
        self._load(nobody, self._source.topology(SECONDS), blobs[0])
        self.entries.clear()

    def reopen(self, claim: Claim, topology: Topology) -> Shard:
        """Give the shard the state of its newest checkpoint again, after the model raised."""
        self.entries.clear()  # of an attempt that an outage cut short
        return self._resume(claim, topology)

    # ---- begin -------------------------------------------------------------------------------

    def _begin(self, claim: Claim, topology: Topology, committed: Mapping[int, Commit]) -> Shard:
        """Start a lineage, unless Kafka remembers one that the store has lost."""
        lost = {p: c.offset for p, c in committed.items() if c.metadata}
        if lost and self._settings.checkpoint.on_lost_state == "fail":
            raise LostState(
                f"Kafka remembers checkpoints of {self._settings.service!r} (next offsets {lost}) and "
                "the store has none: an empty or wrong Redis. Point redis.url at the right one, or begin a "
                'fresh lineage with checkpoint.on_lost_state = "fresh"'
            )
        offsets = self._ours(self._source.start_offsets(self._settings.kafka.start, SECONDS))
        if lost:
            self._note("lost-state", {"kafka": lost, "then": "fresh"})
        return self._genesis(claim, topology, offsets, "started", 1)

    def _genesis(
        self, claim: Claim, topology: Topology, offsets: Mapping[int, int], kind: str, number: int
    ) -> Shard:
        spec, blanks = spec_of(self._settings), blanks_of(self._settings)
        learner = Learner.genesis(spec, blanks, offsets, number)
        self._note(kind, {"offsets": dict(offsets), "model": msgspec.to_builtins(self._settings.model)})
        return Shard(self._settings, claim, topology, Codec(self._settings.schema), learner)

    # ---- resume ------------------------------------------------------------------------------

    @unpickle.uncollected()
    def _resume(self, claim: Claim, topology: Topology) -> Shard:
        """Load the newest checkpoint that may be loaded; the settings say what happens without one."""
        refused: list[CheckpointRefused] = []
        for blob in self._blobs(claim):
            if len(blob) >= LARGE:
                self._stretch(claim.shard, len(blob))
            try:
                shard = self._load(claim, topology, blob)
            except CheckpointRefused as error:
                refused.append(error)
                self._note("checkpoint-refused", {"why": str(error)})
                continue
            if len(blob) >= LARGE:
                unpickle.exempt()
            return shard
        if self._settings.checkpoint.on_refused != "replay":
            raise refused[0] if refused else CheckpointRefused("the store named no checkpoint to load")
        offsets = self._ours(self._source.start_offsets("earliest", SECONDS))
        # Behind the models that the lineage before this one left: they keep their numbers, and the requests
        # for them. The last of that lineage was not kept: it has the number that is left out.
        number = max(self._store.kept(claim.shard), default=-1) + 2
        return self._genesis(claim, topology, offsets, "replayed", number)

    def _blobs(self, claim: Claim) -> Sequence[bytes]:
        """The kept generations; none where the settings say what then, else CheckpointLost. Or Fenced."""
        try:
            return self._store.load(claim.shard, claim)
        except CheckpointLost as error:
            if self._settings.checkpoint.on_refused != "replay":
                raise
            self._note("checkpoint-refused", {"why": str(error)})
            return ()

    def _load(self, claim: Claim, topology: Topology, blob: bytes) -> Shard:
        """Check the envelope and the log, load the payload, compare its answers with the recorded ones."""
        opened = unseal(blob, self._expectation(claim, blob), signing_keys(self._settings))
        self._same_generation(opened.header, claim, blob)
        self._same_log(opened.header, topology)
        if opened.header.model != model_fingerprint(self._settings):
            raise CheckpointRefused(
                "the checkpoint's model was made under other [model] settings; a lineage keeps the model "
                "that it began with: put them back, or take another service name"
            )
        try:
            return self._restore(claim, topology, opened)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            why = f"{type(error).__name__}: {error}"
            raise CheckpointRefused(
                f"the checkpoint's state has another shape than this release's ({why})"
            ) from error

    def _restore(self, claim: Claim, topology: Topology, opened: Opened) -> Shard:
        state = self._unpickle(opened.payload)
        learner = Learner(spec_of(self._settings), state["fold"])
        self._compare(opened, learner.probe(state["fold"]["members"]))
        if opened.header.settings != fingerprint(self._settings):
            self._note("settings-changed", {"checkpoint": opened.header.settings})
        codec = Codec(self._settings.schema, state["inference"])
        shard = Shard(self._settings, claim, topology, codec, learner)
        shard.breaker = Breaker(self._settings.dead_letters, state.get("breaker"))
        return shard

    def _same_generation(self, header: Header, claim: Claim, blob: bytes) -> None:
        """Tell the generation before the head's from a blob that stands in for the head's."""
        head = claim.head
        if head is None or _digest(blob) == head.digest:
            return
        if header.sequence >= head.sequence:
            raise CheckpointRefused(
                f"checkpoint {header.sequence} has another digest than the head holds: it was replaced"
            )
        detail = {"sequence": header.sequence, "head": head.sequence, "offsets": header.offsets}
        self._note("previous-generation", detail)

    def _expectation(self, claim: Claim, blob: bytes) -> Expectation:
        head = claim.head if claim.head is not None and _digest(blob) == claim.head.digest else None
        return Expectation(
            service=self._settings.service,
            shard=claim.shard,
            schema=self._settings.schema.hash,
            river=metadata.version("river"),
            sequence=head.sequence if head else None,
            offsets=dict(head.offsets) if head else None,
            max_bytes=self._settings.checkpoint.max_bytes,
        )

    def _unpickle(self, payload: bytes) -> Mapping[str, Any]:
        extra = extra_classes(self._settings)
        limit = self._settings.checkpoint.max_bytes
        state: Mapping[str, Any] = unpickle.loads(payload, extra, limit)
        # Pickles within the pickle: checked here once, since the fold loads them again and again as its own.
        fold = state["fold"]
        members, *others = nested(fold)
        unpickle.verify(members, extra, limit)  # the learner loads them at once
        for blob in others:
            unpickle.loads(blob, extra, limit)
        return state

    def _compare(self, opened: Opened, answers: Sequence[Answer]) -> None:
        """Hold what a loaded copy answered against what one answered when the checkpoint was made."""
        try:
            compare(opened.answers, answers, exact=opened.portable)
        except CheckpointRefused as error:
            if self._settings.checkpoint.on_refused != "try":
                raise
            self._note("answers-differ", {"why": str(error)})
        if not opened.portable:
            self._note("other-platform", {"checkpoint": msgspec.to_builtins(opened.header.runtime)})

    def _same_log(self, header: Header, topology: Topology) -> None:
        """Refuse another cluster, a recreated topic, or other partitions: offsets would mean nothing."""
        if header.cluster != topology.cluster_id:
            what = f"cluster {topology.cluster_id!r}, the checkpoint is of {header.cluster!r}"
        elif header.topic and topology.topic_id and header.topic != topology.topic_id:
            what = f"topic id {topology.topic_id}, the checkpoint is of {header.topic}: it was created again"
        elif self._partition is None and self._too_many_or_few(len(header.offsets), topology.partitions):
            what = (
                f"{topology.partitions} partitions, the checkpoint is of {len(header.offsets)} "
                "(kafka.on_added_partitions decides about more)"
            )
        else:
            return
        raise TopologyChanged(
            f"{self._source.topic} is another log: {what}. Offsets of one log mean nothing in another; point "
            "the settings at the right one, or take another service name for a fresh lineage"
        )

    def _too_many_or_few(self, known: int, found: int) -> bool:
        """Fewer are another log; more are a decision of the settings, which the keeper carries out."""
        return found < known or (found > known and self._settings.kafka.on_added_partitions == "fail")

    def _compare_with_witness(self, claim: Claim, committed: Mapping[int, Commit]) -> None:
        """Say it when Kafka's commits are ahead: the tail of the store was lost and is replayed."""
        assert claim.head is not None  # noqa: S101 - open() asked
        ahead = {p: c.offset for p, c in committed.items() if c.offset > claim.head.offsets.get(p, 0)}
        if ahead:
            behind = {p: o - claim.head.offsets.get(p, 0) for p, o in ahead.items()}
            self._note("older-checkpoint", {"kafka": ahead, "replayed": behind})

    def _ours(self, by_partition: Mapping[int, T]) -> dict[int, T]:
        """What is said of this shard's partitions."""
        return {p: v for p, v in by_partition.items() if self._partition in {None, p}}

    def _note(self, kind: str, detail: Mapping[str, Any]) -> None:
        self.entries.append(Entry(kind=kind, time=time.time(), detail=detail))
