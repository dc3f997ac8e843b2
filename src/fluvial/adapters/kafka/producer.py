"""Feeding a topic."""

from __future__ import annotations

import time
from collections.abc import Sequence

from confluent_kafka import (
    KafkaError,
    KafkaException,
    Producer,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from fluvial.adapters.kafka.client import (
    MAX_LETTER_BYTES,
    Client,
)
from fluvial.config import KafkaSettings
from fluvial.errors import (
    SourceError,
    SourceFatal,
)


class KafkaProducer:
    """Feeds a topic as fast as the broker takes it: what `fluvial produce` and the demo use."""

    def __init__(self, settings: KafkaSettings) -> None:
        self.topic = settings.topic
        self.acknowledged = 0
        self.failed = 0
        self.error = ""
        """What the first refused message was refused for."""
        self._client = Client(settings, "produce")
        own = {"enable.idempotence": True, "acks": "all"}
        defaults = {
            "compression.type": "lz4",
            "linger.ms": 20,
            "partitioner": "murmur2_random",  # the same partition for a key as from Java
            "queue.buffering.max.messages": 200_000,
            "message.max.bytes": MAX_LETTER_BYTES,
        }
        self._producer: Producer = self._client.make(Producer, own, defaults)

    def partitions(self, seconds: float) -> int:
        """How many the topic has. Raises SourceUnavailable, SourceFatal (no such topic)."""
        _, found = self._client.topic(self._producer, self.topic, seconds)
        return len(found)

    def create_topic(self, partitions: int, seconds: float) -> bool:
        """Make the topic; False when it is there already. Raises SourceUnavailable, SourceFatal."""
        admin: AdminClient = self._client.make(AdminClient, {}, {})
        new = NewTopic(self.topic, num_partitions=partitions)
        try:
            admin.create_topics([new], request_timeout=seconds)[self.topic].result(seconds + 1)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                return False
            raise self._client.explain(error.args[0], f"creating topic {self.topic!r}") from None
        end = time.monotonic() + seconds
        while True:  # the controller has made it; the brokers hear of it a moment later
            try:
                self.partitions(1.0)
            except SourceError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)
            else:
                return True

    def send(
        self,
        value: bytes | None,
        key: bytes | str | None = None,
        partition: int = -1,
        headers: Sequence[tuple[str, bytes | None]] = (),
        timestamp_ms: int = 0,
    ) -> None:
        """Hand over one message, waiting while the client's queue is full; a time of 0 is now.

        Raises SourceFatal.
        """
        while True:
            try:
                self._producer.produce(
                    self.topic,
                    value,
                    key,
                    partition,
                    on_delivery=self._delivered,
                    timestamp=timestamp_ms,
                    headers=list(headers) or None,
                )
            except BufferError:
                self.poll(0.1)
            except KafkaException as error:
                raise SourceFatal(self._client.log.hide(error.args[0].str())) from None
            else:
                break
        if self._client.fatal is not None:
            raise self._client.explain(self._client.fatal, f"writing to {self.topic!r}")

    def poll(self, seconds: float = 0.0) -> None:
        """Take the broker's acknowledgements. Raises SourceFatal."""
        self._client.take_reports(self._producer, seconds, f"writing to {self.topic!r}")

    def flush(self, seconds: float) -> int:
        """Wait for the acknowledgements; how many are still outstanding. Raises SourceFatal."""
        try:
            return int(self._producer.flush(seconds))
        except KafkaException as error:
            raise self._client.explain(error.args[0], f"writing to {self.topic!r}") from None

    def _delivered(self, error: KafkaError | None, _message: object) -> None:
        if error is None:
            self.acknowledged += 1
        else:
            self.failed += 1
            self.error = self.error or self._client.log.hide(error.str())
