"""The four places where the world plugs in, and the one where a drift policy does.

Each port has a real adapter and an in-memory twin in `adapters/`; one contract suite
(`tests/contracts/`) runs over both. A port's methods block at most as long as their `seconds` say.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from fluvial.types import (
    Changes,
    Claim,
    Commit,
    DeadLetter,
    Decision,
    Entry,
    Kept,
    Lag,
    Membership,
    Reply,
    Rollback,
    Score,
    Standing,
    StoreReport,
    Topology,
    Trip,
)


class Message(Protocol):
    """One record, with the accessors of `confluent_kafka.Message` (a wrapper would cost a microsecond)."""

    def value(self) -> bytes | None: ...
    def key(self) -> bytes | None: ...
    def partition(self) -> int: ...
    def offset(self) -> int: ...
    def timestamp(self) -> tuple[int, int]: ...  # (type, milliseconds)
    def headers(self) -> Sequence[tuple[str, bytes | None]] | None: ...


class Source(Protocol):
    """A topic's log, read at offsets that the caller states. Never resumes by itself."""

    topic: str

    def topology(self, seconds: float) -> Topology:
        """Ask which log this is. Raises SourceUnavailable, SourceFatal (no such topic)."""

    def bounds(self, partition: int, seconds: float) -> Lag:
        """Start and end of one partition's log. Raises SourceUnavailable."""

    def ends(self, seconds: float) -> Mapping[int, Lag]:
        """Start and end of each partition that the topic has now, from the brokers. SourceUnavailable."""

    def start_offsets(self, start: str, seconds: float) -> Mapping[int, int]:
        """Offset of each partition for `earliest`, `latest` or an ISO 8601 time."""

    def committed(self, seconds: float) -> Mapping[int, Commit]:
        """Kafka's commits of the service's group: the witness. Absent partitions have none."""

    def assign(self, offsets: Mapping[int, int]) -> None:
        """Read these partitions by hand from these offsets; replaces an earlier assignment and a pause.

        Raises OffsetLost before anything is changed when an offset is outside the log, SourceUnavailable.
        """

    def poll(self, limit: int, seconds: float) -> Sequence[Message]:
        """Next records, at most `limit`, waiting at most `seconds`; in offset order within a partition.

        Transient client errors are logged and left to the client. Raises OffsetLost once per
        report (the partition is silent afterwards until it is assigned again; finding out what the
        log still holds may take two seconds more), SourceFatal, and TopologyChanged when the topic
        was made anew meanwhile.
        """

    def pause(self) -> None:
        """Stop fetching without giving anything up; `poll` returns nothing and keeps the client alive."""

    def resume(self) -> None:
        """Fetch again."""

    def lag(self) -> Mapping[int, Lag]:
        """Log ends as last seen by the client, without asking a broker. Absent: not known yet."""

    def commit(self, offsets: Mapping[int, int], metadata: str) -> None:
        """Mirror the checkpoint's offsets for lag tools. Errors are logged; the state does not care."""

    def close(self, seconds: float) -> None:
        """Leave. Idempotent."""


class Member(Source, Protocol):
    """A source whose partitions a consumer group says: scope partition.

    Once it is joined every method that asks the brokers may raise MemberFenced, mostly `poll` does.
    """

    def join(self, on_revoke: Callable[[Sequence[int]], None]) -> None:
        """Become a member of the service's group, which from now on says which partitions are ours.

        `poll` calls `on_revoke` from within while these partitions are still ours; it must not raise, nor
        use the source but for `commit`. Everything else that the group does is told by `changes`.
        """

    def changes(self) -> Changes:
        """What the group did since the last call; nothing given is read before it is taken."""

    def take(self, offsets: Mapping[int, int]) -> None:
        """Read these partitions of ours from these offsets, besides those taken before; or again.

        Raises OffsetLost before anything is changed when an offset is outside the log, SourceUnavailable.
        """

    def set_aside(self, partitions: Collection[int]) -> None:
        """Read nothing of these partitions of ours until they are taken again; the others go on."""

    def rejoin(self) -> None:
        """Leave and join the same group again, so that it shares out anew.

        What is ours is revoked on the way, now or while polling.
        """

    def join_anew(self, seconds: float) -> None:
        """Leave a membership that was refused (MemberFenced) behind, within `seconds`, and join as at first.

        Nothing is ours until it is given again; of the old membership nothing is heard any more.
        """

    def generation(self) -> int:
        """Of our membership; below 0 while the group does not know us."""


class Sink(Protocol):
    """Where dead letters go: at least once, back-pressure instead of loss."""

    def send(self, letters: Sequence[DeadLetter]) -> None:
        """Hand over; a letter too large for the topic is truncated and says so.

        Raises SourceUnavailable, having taken none of them, while too many wait to be acknowledged.
        """

    def flush(self, seconds: float) -> None:
        """Wait until all that was sent is acknowledged, or raise SourceUnavailable; then call again."""

    def close(self, seconds: float) -> None:
        """Leave. Idempotent."""


class Store(Protocol):
    """Checkpoints, fenced; scores, fenced; the journal. All keys of one service.

    *Fenced* means: the write's epoch and token are no longer the shard's. Then nothing was written.
    Every write may be repeated with the same arguments and then changes nothing.
    """

    def report(self) -> StoreReport:
        """What the store is. Raises StoreUnavailable."""

    def lease(self, shard: str, owner: str, milliseconds: int) -> bool:
        """Take or renew the shard's lease; False while another owner holds it. Liveness, not safety."""

    def unlease(self, shard: str, owner: str) -> None:
        """Give the lease back if it is ours."""

    def lease_holder(self, shard: str) -> str | None:
        """Who holds the lease now."""

    def claim(self, shard: str, token: str, membership: Membership | None = None) -> Claim:
        """Raise the shard's epoch and become its writer; the same token again returns the same epoch.

        Members of a group also take the lease. Fenced: the shard was claimed in a younger generation of
        the same group, whose lease lives, or the generation is below 0 (the group does not know us).
        """

    def load(self, shard: str, claim: Claim | None = None) -> Sequence[bytes]:
        """Blobs of the kept generations, newest first; empty when there is none.

        With a claim they are the generations that it found; Fenced when it is no longer the shard's.
        Raises StoreError when the head names blobs of which none is left: never a silent fresh start.
        """

    def save(
        self,
        claim: Claim,
        sequence: int,
        blob: bytes,
        offsets: Mapping[int, int],
        entries: Sequence[Entry],
        versions: Mapping[int, bytes],
    ) -> None:
        """Flip the head to `blob`, append the journal and keep the replaced models, all or nothing.

        Of the kept models those go that `VersionSettings` no longer wants, unless they are pinned.

        `sequence` is the stored one plus one, or the stored one with the same blob (a repeated
        write: answered as done). Anything else, or another epoch or token: Fenced.
        Raises StoreUnavailable, StoreFull.
        """

    def publish(self, claim: Claim, scores: Sequence[tuple[str, Score]]) -> int:
        """Write the latest score of each key, in one or a few writes; returns how many were written.

        Scores come in offset order within a partition. Those below the partition's published
        offset are left out (a replay after a crash): a reader never sees time run backwards.
        Raises Fenced, StoreUnavailable, StoreFull.
        """

    def journal(self, claim: Claim, entries: Sequence[Entry]) -> None:
        """Append entries that belong to no checkpoint (claims, refusals). Raises Fenced."""

    def entries(self, limit: int) -> Sequence[Mapping[str, object]]:
        """The journal's newest entries, newest first, each with `at` (wall time) and the entry's fields."""

    def version_blob(self, shard: str, number: int) -> bytes | None:
        """The model that served as this version, if it is still kept."""

    def kept(self, shard: str) -> Mapping[int, Kept]:
        """What is known of each version that has a model, a pin or a note."""

    def pin(self, shard: str, number: int, by: str | None) -> bool:
        """Never drop this version's model, or (None) let it go like the others; journalled once.

        False: there is no model to pin. Raises StoreError when so many are pinned already.
        """

    def annotate(self, shard: str, number: int, text: str, by: str) -> None:
        """Write a note beside a version, or remove it (empty); journalled once. Raises StoreError."""

    def ask(self, shard: str, request: Rollback) -> bool:
        """A person asks the shard's owner for a roll-back; journalled once. Needs no claim.

        The same request again changes nothing. False: another one stands.
        """

    def asked(self, shard: str) -> Rollback | None:
        """What is asked for and not answered yet."""

    def withdraw(self, shard: str, request: Rollback) -> bool:
        """A person takes it back; journalled.

        False: it does not stand (any more), or it is taken and a worker holds the shard's lease.
        """

    def take(self, claim: Claim, request: Rollback) -> Rollback | None:
        """The owner begins to carry it out: as it stands from now on, or None: it was taken back meanwhile.

        Raises Fenced.
        """

    def answer(self, claim: Claim, request: Rollback, reply: Reply) -> None:
        """The owner says what became of a request, which then no longer stands; refusals are journalled.

        Raises Fenced.
        """

    def answered(self, shard: str) -> Reply | None:
        """What became of the newest request that was answered."""

    def trip(self, claim: Claim, trip: Trip) -> bool:
        """Store and journal that the flood breaker paused the shard; the same trip again changes nothing.

        False: a person has resumed this very trip. Raises Fenced.
        """

    def tripped(self) -> Mapping[str, Trip]:
        """What paused a shard and is not resumed yet, by shard."""

    def resume(self, shard: str, trip: Trip) -> bool:
        """A person lets the shard go on; journalled. False: it is not this trip that pauses it (any more).

        Needs no claim: it changes nothing that an owner writes.
        """

    def redriven(self, ids: Sequence[str]) -> Collection[str]:
        """Those of these dead letters that were written back to their topic, as far as is remembered."""

    def remember_redriven(self, ids: Sequence[str], run: int, entry: Entry | None) -> None:
        """Remember dead letters as written back by the run that began at `run` (milliseconds, wall time).

        `entry` is journalled with them. Of so many the oldest are forgotten (`keys.KEPT_REDRIVEN`).
        """

    def forget(self, claim: Claim) -> None:
        """Remove head, blobs and published offsets of the shard: the start of a fresh lineage. Fenced."""

    def close(self) -> None:
        """Leave. Idempotent."""


class Policy(Protocol):
    """A pure function from a standing to decisions: no state, no clock, total over every standing."""

    name: str
    challengers: int
    """How many challengers the mixture trains beside the champion; 0 for none."""
    period: int
    """Asked every so many labelled events even when nothing fired; 0 for never."""
    recalls: int
    """How many retired models the fold keeps to be recalled; 0 for none."""
    ready: int
    """Labelled events that a rival learns before it is compared; 0: this policy puts none on trial."""

    def __call__(self, standing: Standing) -> Sequence[Decision]:
        """What to do now, in order; empty for nothing."""
