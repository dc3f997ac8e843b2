"""A member of a consumer group: the group says which partitions, the caller says where to read them.

The client would read on from Kafka's committed offsets as soon as a callback returns without an
assignment of its own. So on_assign assigns nothing and takes note, and `take` assigns at the offsets of
the checkpoints. An exception inside a callback would have the same effect: none leaves one.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import cast

from confluent_kafka import Consumer, KafkaException, TopicPartition

from fluvial.adapters.kafka.client import ASK_SECONDS, bounded_close, log
from fluvial.adapters.kafka.instance import instance_id
from fluvial.adapters.kafka.source import KafkaSource
from fluvial.config import KafkaSettings
from fluvial.errors import OffsetLost
from fluvial.types import Changes

_METADATA = b"CGMDv2:"  # how the client's group metadata begins; a native 32-bit generation follows


class KafkaMember(KafkaSource):
    """`ports.Source` with `join`, `changes` and `take`: scope partition."""

    def __init__(self, settings: KafkaSettings, service: str) -> None:
        self._instance = instance_id(settings.instance_id, service)
        super().__init__(settings, service, membership(settings, self._instance.name))
        # With the new protocol, too, partitions come and go one by one.
        self._one_by_one = settings.protocol == "consumer" or settings.assignor == "cooperative-sticky"
        self._given: list[int] = []
        self._taken_away: list[int] = []
        self._hear_revoke: Callable[[Sequence[int]], None] = lambda _: None

    def join(self, on_revoke: Callable[[Sequence[int]], None]) -> None:
        """Become a member; see the port."""
        self._hear_revoke = on_revoke
        self._subscribe()

    def join_anew(self, seconds: float) -> None:
        """Close the refused consumer, which may hang, and join with another one; see the port."""
        refused = self._consumer
        self._connect()  # from here on its callbacks are those of a stranger
        self._given, self._taken_away = [], []
        bounded_close(refused.close, seconds, "refused consumer")
        self._subscribe()

    def rejoin(self) -> None:
        """Leave, which the client does for static members too, and join again; see the port."""
        self._consumer.unsubscribe()
        self._subscribe()

    def _subscribe(self) -> None:
        self._consumer.subscribe(
            [self.topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )

    def changes(self) -> Changes:
        """What the group did since the last call; see the port."""
        changes = Changes(tuple(self._given), tuple(self._taken_away))
        self._given, self._taken_away = [], []
        return changes

    def take(self, offsets: Mapping[int, int]) -> None:
        """Read these partitions of ours from these offsets; see the port."""
        bounds = self._bounds(offsets, ASK_SECONDS)
        for number, offset in offsets.items():
            lag = bounds[number]
            if not lag.low <= offset <= lag.high:
                raise OffsetLost(number, offset, lag.low, lag.high)
        self.resume()
        wanted = [TopicPartition(self.topic, p, offset) for p, offset in offsets.items()]
        others = [t for t in self._assigned if t.partition not in offsets]
        if self._one_by_one:
            again = [t for t in self._assigned if t.partition in offsets]
            if again:
                self._consumer.incremental_unassign(again)
            self._consumer.incremental_assign(wanted)
        else:
            others = self._where(others)
            self._consumer.assign([*others, *wanted])
        self._consumer.resume(wanted)  # an assignment does not take back a pause
        self._assigned = [*others, *wanted]

    def set_aside(self, partitions: Collection[int]) -> None:
        """Read nothing of these until they are taken again; see the port."""
        gone = [t for t in self._assigned if t.partition in partitions]
        if not gone:
            return
        self._assigned = [t for t in self._assigned if t.partition not in partitions]
        if self._one_by_one:
            self._consumer.incremental_unassign(gone)
        else:
            self._assigned = self._where(self._assigned)
            self._consumer.assign(self._assigned)

    def _where(self, partitions: Sequence[TopicPartition]) -> list[TopicPartition]:
        """The same, where they are read at now: an assignment replaces the one before."""
        if not partitions:
            return []
        positions = {p.partition: p.offset for p in self._consumer.position(list(partitions))}
        return [
            TopicPartition(
                self.topic, t.partition, offset if (offset := positions[t.partition]) >= 0 else t.offset
            )
            for t in partitions
        ]

    def _read_again(self, number: int, offset: int) -> None:
        paused = self._paused
        self.take({number: offset})
        if paused:
            self.pause()

    def generation(self) -> int:
        """Of our membership; -1 while the group does not know us."""
        told = cast("bytes | None", self._consumer.consumer_group_metadata())
        if told is None or not told.startswith(_METADATA):
            return -1
        return int(struct.unpack_from("=i", told, len(_METADATA))[0])

    def close(self, seconds: float) -> None:
        """Leave; a static member's partitions wait for its return until the session's end."""
        super().close(seconds)
        self._instance.release()

    # ---- called by the client from inside poll and close ---------------------------------------

    def _on_assign(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        if self._one_by_one:
            consumer.incremental_assign([])
        else:
            consumer.assign([])
        if consumer is not self._consumer:
            return
        if not self._one_by_one:
            self._assigned = []
        self._given += [p.partition for p in partitions]

    def _on_revoke(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        if consumer is not self._consumer:
            return  # one that was left behind: the client itself assigns nothing then
        numbers = [p.partition for p in partitions]
        try:
            self._hear_revoke(numbers)
        except BaseException:  # noqa: BLE001 - it must not leave a callback; the hook has no business raising
            log.exception("letting go of partitions %s", numbers)
        self._let_go(numbers)

    def _on_lost(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        if consumer is not self._consumer:
            return
        numbers = [p.partition for p in partitions]
        self._taken_away += numbers
        self._let_go(numbers)

    def _let_go(self, numbers: Sequence[int]) -> None:
        self._given = [p for p in self._given if p not in numbers]
        gone = [t for t in self._assigned if t.partition in numbers]
        self._assigned = [t for t in self._assigned if t.partition not in numbers]
        try:
            if self._one_by_one:
                self._consumer.incremental_unassign(gone)
            else:
                self._consumer.unassign()
        except KafkaException as error:
            self._client.log.once("unassign", 30, f"letting go of {list(numbers)}: {error.args[0].str()}")


def membership(settings: KafkaSettings, instance: str) -> dict[str, object]:
    """The consumer's properties that make it a member."""
    static = {"group.instance.id": instance} if instance else {}
    if settings.protocol == "consumer":
        return {"group.protocol": "consumer", **static}
    return {
        "partition.assignment.strategy": settings.assignor,
        "session.timeout.ms": settings.session_timeout_ms,
        "heartbeat.interval.ms": min(3_000, settings.session_timeout_ms // 3),
        **static,
    }
