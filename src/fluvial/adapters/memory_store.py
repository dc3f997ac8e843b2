"""The store's in-process twin: the same contract, no server.

Several stores opened on one `MemoryBacking` are several workers on one Redis:

    backing = MemoryBacking()
    a, b = MemoryStore(backing), MemoryStore(backing)
    claim = a.claim("all", "token-a")
    b.claim("all", "token-b")          # from here on a's writes are Fenced

Failures on demand, before the call did anything or after it had its effect (a lost answer):

    a.fail_next = StoreUnavailable("away")
    a.lose_answer = StoreUnavailable("the answer was lost")
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec

from fluvial.adapters.generations import known_to_the_group, older_generation
from fluvial.adapters.versions import MAX_PINS, asking, outdated
from fluvial.config import ScoreSettings, VersionSettings
from fluvial.errors import CheckpointLost, Fenced, StoreError
from fluvial.keys import KEPT_REDRIVEN
from fluvial.types import (
    Claim,
    Entry,
    Head,
    Kept,
    Membership,
    Reply,
    Rollback,
    Score,
    StoreReport,
    Trip,
)

JOURNAL_LENGTH = 10_000
MAX_NOTES = 1_000
"""Notes on versions without a model; a save that lets a model go lets older ones go, as `flip.lua` does."""
FOR_TESTS = StoreReport(version="memory", persistent=False, eviction="noeviction", embedded=True)


@dataclass(slots=True)
class MemoryShard:
    """What the store knows of one shard."""

    epoch: int = 0
    token: str = ""
    head: Head | None = None
    blobs: list[bytes | None] = field(default_factory=list)
    """The kept generations, newest first; a test makes one None to lose it."""
    versions: dict[int, bytes] = field(default_factory=dict)
    kept: dict[int, Kept] = field(default_factory=dict)
    published: dict[int, int] = field(default_factory=dict)
    journalled: tuple[Entry, ...] = ()
    member: tuple[str, int] = ("", -1)
    """Group and generation of the member that claimed it last."""
    resumed: str = ""
    """Id of the trip that a person resumed last."""


@dataclass(slots=True)
class MemoryBacking:
    """What outlives a worker: the twin of a server."""

    clock: Callable[[], float] = time.time
    shards: dict[str, MemoryShard] = field(default_factory=dict)
    leases: dict[str, tuple[str, float]] = field(default_factory=dict)
    scores: dict[str, tuple[Score, float]] = field(default_factory=dict)
    """Score and the time at which it expires, by key."""
    journal: deque[tuple[float, str, Entry]] = field(default_factory=lambda: deque(maxlen=JOURNAL_LENGTH))
    tripped: dict[str, Trip] = field(default_factory=dict)
    """By shard."""
    asked: dict[str, Rollback] = field(default_factory=dict)
    answered: dict[str, Reply] = field(default_factory=dict)
    report: StoreReport = FOR_TESTS
    """What it says of itself."""
    redriven: dict[str, int] = field(default_factory=dict)
    """When the run began that wrote a dead letter back, by its id."""
    lock: threading.RLock = field(default_factory=threading.RLock)

    def score(self, key: str) -> Score | None:
        """The latest score of a key, while it lives."""
        score, until = self.scores.get(key, (None, 0.0))
        return score if until > self.clock() else None


class MemoryStore:
    """`ports.Store` in memory. Stores on the same backing may be used from several threads."""

    def __init__(
        self,
        backing: MemoryBacking | None = None,
        scores: ScoreSettings | None = None,
        versions: VersionSettings | None = None,
    ) -> None:
        self.backing = backing or MemoryBacking()
        self.scores_written = 0
        self.scores_refused = 0
        self.store_errors = 0
        self.fail_next: Exception | None = None
        """Raised by the next call, which then does nothing."""
        self.lose_answer: Exception | None = None
        """Raised by the next call after it had its effect."""
        self._scores = scores or ScoreSettings()
        self._versions = versions or VersionSettings()

    @contextmanager
    def _call(self) -> Iterator[MemoryBacking]:
        failure, self.fail_next = self.fail_next, None
        if failure is not None:
            self.store_errors += 1
            raise failure
        with self.backing.lock:
            yield self.backing
        failure, self.lose_answer = self.lose_answer, None
        if failure is not None:
            self.store_errors += 1
            raise failure

    def report(self) -> StoreReport:
        """A store fit for demo and tests, unless its backing says otherwise."""
        with self._call() as backing:
            return backing.report

    def lease(self, shard: str, owner: str, milliseconds: int) -> bool:
        """Take or renew it; see the port."""
        with self._call() as backing:
            if self._holder(shard) not in {None, owner}:
                return False
            backing.leases[shard] = (owner, backing.clock() + milliseconds / 1000)
            return True

    def unlease(self, shard: str, owner: str) -> None:
        """Give it back if it is ours."""
        with self._call() as backing:
            holder, _ = backing.leases.get(shard, (None, 0.0))
            if holder == owner:  # also when it has expired, as in Redis nothing is left of it then
                del backing.leases[shard]

    def lease_holder(self, shard: str) -> str | None:
        """Who holds it."""
        with self._call():
            return self._holder(shard)

    def _holder(self, shard: str) -> str | None:
        owner, until = self.backing.leases.get(shard, (None, 0.0))
        return owner if until > self.backing.clock() else None

    def claim(self, shard: str, token: str, membership: Membership | None = None) -> Claim:
        """Become the shard's writer; see the port."""
        with self._call() as backing:
            stored = backing.shards.setdefault(shard, MemoryShard())
            if membership is not None:
                known_to_the_group(shard, membership)
                group, generation = stored.member
                younger = group == membership.group and generation > membership.generation
                if stored.token != token and younger and self._holder(shard) is not None:
                    raise Fenced(older_generation(shard, membership, generation))
                stored.member = (membership.group, membership.generation)
                until = backing.clock() + membership.milliseconds / 1000
                backing.leases[shard] = (membership.owner, until)
            if stored.token != token:
                stored.epoch, stored.token = stored.epoch + 1, token
            return Claim(shard, stored.epoch, token, stored.head, dict(stored.published))

    def _owned(self, claim: Claim) -> MemoryShard:
        stored = self.backing.shards.get(claim.shard, MemoryShard())
        if (stored.epoch, stored.token) != (claim.epoch, claim.token):
            msg = f"shard {claim.shard}: epoch {claim.epoch} is no longer its writer"
            raise Fenced(msg)
        return stored

    def load(self, shard: str, claim: Claim | None = None) -> Sequence[bytes]:
        """Blobs of the kept generations, newest first; see the port."""
        with self._call() as backing:
            stored = self._owned(claim) if claim else backing.shards.get(shard, MemoryShard())
            found = [blob for blob in stored.blobs if blob is not None]
            if stored.blobs and not found:
                msg = f"shard {shard}: the head names checkpoints of which none is left"
                raise CheckpointLost(msg)
            return found

    def save(
        self,
        claim: Claim,
        sequence: int,
        blob: bytes,
        offsets: Mapping[int, int],
        entries: Sequence[Entry],
        versions: Mapping[int, bytes],
    ) -> None:
        """All of it or nothing; see the port."""
        digest = hashlib.sha256(blob).hexdigest()
        with self._call():
            stored = self._owned(claim)
            if stored.head is not None and (stored.head.sequence, stored.head.digest) == (sequence, digest):
                return
            if sequence != (stored.head.sequence if stored.head else 0) + 1:
                msg = f"shard {claim.shard}: sequence {sequence} does not follow the stored one"
                raise Fenced(msg)
            stored.head = Head(sequence, digest, dict(offsets))
            stored.blobs = [blob, *[kept for kept in stored.blobs if kept is not None][:1]]
            stored.versions |= versions
            now = self.backing.clock()
            for number, model in versions.items():
                known = stored.kept.get(number, Kept())
                stored.kept[number] = msgspec.structs.replace(known, at=now, size=len(model))
            gone = outdated(stored.kept, self._versions, now)
            for number in gone:
                stored.versions.pop(number, None)
                stored.kept[number] = Kept(note=stored.kept[number].note)
            if gone:
                stored.kept = _known(stored.kept)
            self._append(claim.shard, entries)

    def publish(self, claim: Claim, scores: Sequence[tuple[str, Score]]) -> int:
        """Write the latest score of each key; see the port."""
        if not scores:
            return 0
        with self._call() as backing:
            stored = self._owned(claim)
            newest = {k: s for k, s in scores if s.offset >= stored.published.get(s.partition, 0)}
            for _, score in scores:
                mark = stored.published.get(score.partition, 0)
                stored.published[score.partition] = max(mark, score.offset + 1)
            now = backing.clock()
            most = self._scores.max_keys
            full = len(backing.scores) >= most and sum(t > now for _, t in backing.scores.values()) >= most
            kept = {k: s for k, s in newest.items() if not full or backing.score(k) is not None}
            backing.scores |= {k: (s, now + self._scores.ttl_seconds) for k, s in kept.items()}
            self.scores_written += len(kept)
            self.scores_refused += len(newest) - len(kept)
            return len(kept)

    def journal(self, claim: Claim, entries: Sequence[Entry]) -> None:
        """Append entries that belong to no checkpoint; see the port."""
        with self._call():
            stored = self._owned(claim)
            if entries and tuple(entries) != stored.journalled:
                stored.journalled = tuple(entries)
                self._append(claim.shard, entries)

    def _append(self, shard: str, entries: Sequence[Entry]) -> None:
        self.backing.journal.extend((self.backing.clock(), shard, entry) for entry in entries)

    def entries(self, limit: int) -> Sequence[Mapping[str, object]]:
        """The journal's newest entries, newest first."""
        with self._call() as backing:
            newest = list(reversed(backing.journal))[:limit]
        return [{"at": at, "shard": shard, **_builtins(entry)} for at, shard, entry in newest]

    def version_blob(self, shard: str, number: int) -> bytes | None:
        """The model that served as this version; see the port."""
        with self._call() as backing:
            return backing.shards.get(shard, MemoryShard()).versions.get(number)

    def kept(self, shard: str) -> Mapping[int, Kept]:
        """What is known of each version; see the port."""
        with self._call() as backing:
            return dict(backing.shards.get(shard, MemoryShard()).kept)

    def pin(self, shard: str, number: int, by: str | None) -> bool:
        """Pin or unpin; see the port."""
        with self._call() as backing:
            kept = backing.shards.get(shard, MemoryShard()).kept
            known = kept.get(number, Kept())
            if by is not None and known.at is None:
                return False
            if by is not None and sum(k.pinned is not None for k in kept.values()) >= MAX_PINS:
                raise StoreError(f"{MAX_PINS} versions are pinned: unpin one first")
            kind = "unpinned" if by is None else "pinned"
            self._mark(shard, number, msgspec.structs.replace(known, pinned=by), kind, {"by": by})
            return True

    def annotate(self, shard: str, number: int, text: str, by: str) -> None:
        """Write a note; see the port."""
        with self._call() as backing:
            known = backing.shards.get(shard, MemoryShard()).kept.get(number, Kept())
            noted = msgspec.structs.replace(known, note=text or None)
            self._mark(shard, number, noted, "annotated", {"by": by, "note": text})

    def _mark(self, shard: str, number: int, kept: Kept, kind: str, detail: Mapping[str, Any]) -> None:
        stored = self.backing.shards.setdefault(shard, MemoryShard())
        if stored.kept.get(number, Kept()) != kept:
            stored.kept = {**stored.kept, number: kept}
            if kept == Kept():
                del stored.kept[number]
            self._append(shard, [Entry(kind, time=time.time(), detail={"version": number, **detail})])

    def ask(self, shard: str, request: Rollback) -> bool:
        """Ask for a roll-back; see the port."""
        with self._call() as backing:
            standing, reply = backing.asked.get(shard), backing.answered.get(shard)
            if standing is None and (reply is None or reply.id != request.id):
                backing.asked[shard] = request
                self._append(shard, [asking("rollback-asked", request)])
            return standing is None or standing.id == request.id

    def asked(self, shard: str) -> Rollback | None:
        """What is asked for; see the port."""
        with self._call() as backing:
            return backing.asked.get(shard)

    def withdraw(self, shard: str, request: Rollback) -> bool:
        """Take it back; see the port."""
        with self._call() as backing:
            standing = backing.asked.get(shard)
            if standing is None or standing.id != request.id:
                return False
            if standing.taken and self._holder(shard) is not None:
                return False
            del backing.asked[shard]
            self._append(shard, [asking("rollback-withdrawn", request)])
            return True

    def take(self, claim: Claim, request: Rollback) -> Rollback | None:
        """Begin to carry it out; see the port."""
        taken = msgspec.structs.replace(request, taken=True)
        with self._call() as backing:
            self._owned(claim)
            standing = backing.asked.get(claim.shard)
            if standing is None or standing.id != request.id:
                return None
            backing.asked[claim.shard] = taken
            return taken

    def answer(self, claim: Claim, request: Rollback, reply: Reply) -> None:
        """Say what became of it; see the port."""
        with self._call() as backing:
            self._owned(claim)
            standing = backing.asked.get(claim.shard)
            if standing is not None and standing.id == request.id:
                del backing.asked[claim.shard]
            if backing.answered.get(claim.shard) != reply:
                backing.answered[claim.shard] = reply
                if reply.version is None:
                    self._append(claim.shard, [asking("rollback-refused", request, reply.because)])

    def answered(self, shard: str) -> Reply | None:
        """What became of the newest; see the port."""
        with self._call() as backing:
            return backing.answered.get(shard)

    def trip(self, claim: Claim, trip: Trip) -> bool:
        """Store that the flood breaker paused the shard; see the port."""
        with self._call() as backing:
            if self._owned(claim).resumed == trip.id:
                return False
            if backing.tripped.get(claim.shard) != trip:
                backing.tripped[claim.shard] = trip
                self._append(claim.shard, [_about("tripped", trip)])
            return True

    def tripped(self) -> Mapping[str, Trip]:
        """What paused a shard; see the port."""
        with self._call() as backing:
            return dict(backing.tripped)

    def resume(self, shard: str, trip: Trip) -> bool:
        """Let it go on; see the port."""
        with self._call() as backing:
            stored, standing = backing.shards.setdefault(shard, MemoryShard()), backing.tripped.get(shard)
            if standing != trip:
                return standing is None and stored.resumed == trip.id
            del backing.tripped[shard]
            stored.resumed = trip.id
            self._append(shard, [_about("resumed", trip)])
            return True

    def redriven(self, ids: Sequence[str]) -> Collection[str]:
        """Those that were written back; see the port."""
        with self._call() as backing:
            return {name for name in ids if name in backing.redriven}

    def remember_redriven(self, ids: Sequence[str], run: int, entry: Entry | None) -> None:
        """Remember them; see the port."""
        with self._call() as backing:
            new = any(backing.redriven.get(name) != run for name in ids)
            backing.redriven |= dict.fromkeys(ids, run)
            oldest = sorted(backing.redriven, key=lambda name: (backing.redriven[name], name))
            for name in oldest[:-KEPT_REDRIVEN]:
                del backing.redriven[name]
            if new and entry is not None:
                self._append("", [entry])

    def forget(self, claim: Claim) -> None:
        """Start a fresh lineage; see the port."""
        with self._call() as backing:
            self._owned(claim)
            backing.shards[claim.shard] = MemoryShard(epoch=claim.epoch, token=claim.token)

    def close(self) -> None:
        """Nothing to leave."""


def _known(kept: Mapping[int, Kept]) -> dict[int, Kept]:
    """What is left to be known of versions: those with a model, and the newest of the others with a note."""
    noted = set(sorted(n for n, k in kept.items() if k.at is None and k.note is not None)[-MAX_NOTES:])
    return {n: k for n, k in kept.items() if k.at is not None or n in noted}


def _about(kind: str, trip: Trip) -> Entry:
    return Entry(kind, trip.partition, trip.offset, time.time(), {"because": trip.because})


def _builtins(entry: Entry) -> dict[str, Any]:
    """The entry as JSON would bring it back, as the real store does."""
    fields: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(entry))
    return fields
