"""A consumer group in the process: sticky and cooperative, as callers see Kafka's."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from fluvial.adapters.memory_log import MemoryMessage, MemorySource, MemoryTopic
from fluvial.errors import MemberFenced, OffsetLost
from fluvial.types import Changes


class Waiting(Protocol):
    """A member, as the group sees it."""

    name: str
    instance: str
    """A static member's name; empty: none."""


class MemoryGroup:
    """Who owns which partition. A partition goes to its next owner only when the last one let it go."""

    def __init__(self, topic: MemoryTopic, name: str = "fluvial-memory") -> None:
        self.topic = topic
        self.name = name
        self.generation = 0
        self.members: list[Waiting] = []
        self.owners: dict[int, Waiting] = {}
        self.refused: list[Waiting] = []
        """Members that were thrown out for their name; they are told by their next poll."""
        self._wanted: dict[int, Waiting] = {}

    def join(self, member: Waiting) -> None:
        """Let a member in and share the partitions out anew; an older one of its name is thrown out."""
        with self.topic.changed:
            for other in [m for m in self.members if member.instance and m.instance == member.instance]:
                self.throw_out(other)
            self.members.append(member)
            self._share_out()

    def throw_out(self, member: Waiting) -> None:
        """Refuse a member's name, as a broker does that takes it for its own rival."""
        with self.topic.changed:
            self.leave(member)
            self.refused.append(member)

    def leave(self, member: Waiting) -> None:
        """Let a member go; also one that went silent, which does not know it (its next poll tells it)."""
        with self.topic.changed:
            if member in self.members:
                self.members.remove(member)
                self.owners = {p: owner for p, owner in self.owners.items() if owner is not member}
                self._share_out()

    def _share_out(self) -> None:
        """Keep what fits where it is (sticky), move the rest."""
        self.generation += 1
        partitions = range(self.topic.partitions)
        most = -(-len(partitions) // len(self.members)) if self.members else 0
        wanted: dict[int, Waiting] = {}
        for p in partitions:
            owner = self.owners.get(p)
            if owner is not None and list(wanted.values()).count(owner) < most:
                wanted[p] = owner
        for p in partitions:
            if p not in wanted and self.members:
                wanted[p] = min(self.members, key=list(wanted.values()).count)
        self._wanted = wanted
        self.topic.changed.notify_all()

    def orphan(self, partition: int) -> None:
        """Let a partition be nobody's until the next rebalance, as a killed static member can leave it."""
        with self.topic.changed:
            del self._wanted[partition]
            self.owners.pop(partition, None)

    def to_revoke(self, member: Waiting) -> list[int]:
        """Partitions of the member that go to somebody else."""
        return [
            p for p, owner in self.owners.items() if owner is member and self._wanted.get(p) is not member
        ]

    def let_go(self, partitions: Sequence[int]) -> None:
        """They have no owner any more."""
        for p in partitions:
            del self.owners[p]
        self.topic.changed.notify_all()

    def give(self, member: Waiting) -> list[int]:
        """Free partitions that are to be the member's are its own from now on."""
        given = [p for p, wanted in self._wanted.items() if wanted is member and p not in self.owners]
        self.owners.update(dict.fromkeys(given, member))
        return given


class MemoryMember(MemorySource):
    """A `MemorySource` whose partitions a `MemoryGroup` says."""

    def __init__(self, group: MemoryGroup, name: str = "member", instance: str = "") -> None:
        super().__init__(group.topic, group.name)
        self.name = name
        self.instance = instance
        self._members = group
        self._known: set[int] = set()
        """Partitions that the group gave us, as far as we were told."""
        self._given: list[int] = []
        self._taken_away: list[int] = []
        self._joined = -1
        self._hear_revoke: Callable[[Sequence[int]], None] = lambda _: None

    def join(self, on_revoke: Callable[[Sequence[int]], None]) -> None:
        """Become a member; see the port."""
        self._hear_revoke = on_revoke
        self._members.join(self)

    def join_anew(self, seconds: float) -> None:  # noqa: ARG002 -- nothing here takes time
        """Hold nothing, and join as at first; see the port."""
        self._members.refused.remove(self)
        self._drop(sorted(self._known))
        self._given, self._taken_away = [], []
        self._lost.clear()
        self._paused = False
        self._members.join(self)

    def rejoin(self) -> None:
        """Leave and join again; see the port."""
        held = sorted(self._known)
        self._hear_revoke(held)
        self._drop(held)
        self._members.leave(self)
        self._members.join(self)

    def set_aside(self, partitions: Collection[int]) -> None:
        """Read nothing of these until they are taken again; see the port."""
        for partition in partitions:
            self._next.pop(partition, None)
            self._seen.pop(partition, None)

    def poll(self, limit: int, seconds: float) -> Sequence[MemoryMessage]:
        """Serve the group, then the next records."""
        if self in self._members.refused:
            msg = f"reading: the group refuses the member's name {self.instance!r}"
            raise MemberFenced(msg)
        self._serve()
        return super().poll(limit, seconds)

    def _serve(self) -> None:
        group = self._members
        with self._log.changed:
            lost = sorted(p for p in self._known if group.owners.get(p) is not self)
            revoked = group.to_revoke(self)
        if lost:
            self._taken_away += lost
            self._drop(lost)
            if self not in group.members:
                group.join(self)
        if revoked:
            self._hear_revoke(revoked)
            self._drop(revoked)
        with self._log.changed:
            group.let_go([p for p in revoked if group.owners.get(p) is self])
            given = group.give(self)
            self._joined = group.generation
        self._known.update(given)
        self._given += given

    def _drop(self, partitions: Sequence[int]) -> None:
        self._known.difference_update(partitions)
        self._given = [p for p in self._given if p not in partitions]
        for partition in partitions:
            self._next.pop(partition, None)
            self._seen.pop(partition, None)

    def changes(self) -> Changes:
        """What the group did since the last call; see the port."""
        changes = Changes(tuple(self._given), tuple(self._taken_away))
        self._given, self._taken_away = [], []
        return changes

    def take(self, offsets: Mapping[int, int]) -> None:
        """Read these partitions of ours from these offsets; see the port."""
        for partition, offset in offsets.items():
            lag = self.bounds(partition, 0)
            if not lag.low <= offset <= lag.high:
                raise OffsetLost(partition, offset, lag.low, lag.high)
        self._next.update(offsets)
        self._silent.difference_update(offsets)
        self._paused = False

    def generation(self) -> int:
        """Of our membership, as of the last poll."""
        return self._joined

    def close(self, seconds: float) -> None:
        """Leave the group."""
        super().close(seconds)
        self._members.leave(self)
