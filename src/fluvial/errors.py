"""Every error that Fluvial raises by name. Each says whose fault it is and what happens next.

FluvialError
|-- SettingsError          the operator's: said with its path before anything starts
|-- BadEvent               the sender's: dead-lettered, the model never sees it
|-- ModelError             the model raised on a valid event: refold without the offender
|-- ModelRefused           the factory's model cannot be replayed: `fluvial check` says what to change
|-- OutOfOrder             an offset came twice or went back: a bug or a recreated topic; the worker ends
|-- CheckpointError
|   |-- CheckpointRefused  altered, foreign, of another key, version or shard: never parsed further
|   `-- CheckpointTooLarge over the limit: the last good one is kept
|-- StoreError
|   |-- StoreUnavailable   away, slow, loading, failing over: pause, poll on, try again
|   |-- CheckpointLost     the head names checkpoints of which none is left: as if all were refused
|   |-- StoreFull          out of memory: scores give way first, the last good checkpoint is kept
|   |-- StoreUnfit         evicting, not persistent, too old: refused at the start
|   `-- Fenced             somebody else owns the shard: drop it, write nothing, claim again
|-- LostState              the log says there was a checkpoint and the store has none
`-- SourceError
    |-- SourceUnavailable  brokers away: retried
    |-- OffsetLost         the offset is outside the log: a decision of the settings
    |-- TopologyChanged    another cluster, a recreated topic, other partitions
    `-- SourceFatal        authorisation, configuration: the worker ends
        `-- MemberFenced   the group takes us for a rival of our own name: leave and join anew, a few times
"""

from __future__ import annotations

from enum import StrEnum


class FluvialError(Exception):
    """Base of all of them."""


class SettingsError(FluvialError):
    """The settings cannot be used; the message starts with the path of the fault."""


class Reason(StrEnum):
    """Why an event was dead-lettered: a fixed set, safe as a metric label."""

    EMPTY = "empty"
    """A tombstone or no bytes."""
    TOO_LARGE = "too_large"
    MALFORMED = "malformed"
    """Not JSON."""
    SCHEMA = "schema"
    """A field is missing, unknown, of the wrong type, or out of its range."""
    LABEL = "label"
    """The label is outside the declared set or of the wrong type."""
    MODEL = "model"
    """Valid, but the model raised on it."""


class BadEvent(FluvialError):
    """An event that must not reach the model."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


class ModelError(FluvialError):
    """The model raised on a valid event; its state can no longer be trusted."""

    def __init__(self, partition: int, offset: int, where: str, cause: BaseException) -> None:
        super().__init__(f"{where} raised {type(cause).__name__} at partition {partition}, offset {offset}")
        self.partition = partition
        self.offset = offset
        self.detail = f"{where}: {type(cause).__name__}: {cause}"[:500]
        self.late = False
        """Whether it was the event's label that came late: the event itself was answered before."""


class ModelRefused(FluvialError):
    """The model cannot be replayed exactly; the message names the part and the mend."""


class OutOfOrder(FluvialError):
    """An event came whose offset was already accounted for."""


class CheckpointError(FluvialError):
    """A checkpoint could not be used or made."""


class CheckpointRefused(CheckpointError):
    """The blob is not one that this worker may load."""


class CheckpointTooLarge(CheckpointError):
    """The state is over the configured limit."""


class StoreError(FluvialError):
    """The store could not do it."""


class StoreUnavailable(StoreError):
    """The store cannot be reached or cannot answer now."""


class CheckpointLost(StoreError):
    """The head names checkpoints of which none is left."""


class StoreFull(StoreError):
    """The store is out of memory."""


class StoreUnfit(StoreError):
    """The store would lose what it acknowledged."""


class Fenced(StoreError):
    """A newer owner has claimed the shard; nothing was written."""


class LostState(FluvialError):
    """Kafka's commit is ahead of the store: an empty or wrong Redis."""


class SourceError(FluvialError):
    """The log could not be read."""


class SourceUnavailable(SourceError):
    """Brokers cannot be reached now."""


class OffsetLost(SourceError):
    """The offset to resume at is outside the log."""

    def __init__(self, partition: int, offset: int, low: int, high: int) -> None:
        side = "below its start" if offset < low else "above its end"
        super().__init__(f"partition {partition}: offset {offset} is {side} (the log holds {low} to {high})")
        self.partition = partition
        self.offset = offset
        self.low = low
        self.high = high


class TopologyChanged(SourceError):
    """This is not the log that the checkpoint was made from."""


class SourceFatal(SourceError):
    """The client cannot go on (authorisation, configuration, fatal protocol error)."""


class MemberFenced(SourceFatal):
    """The group refuses a static member's name: this membership is over, another one may be had."""

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait
        """Seconds until it makes sense to try again."""
