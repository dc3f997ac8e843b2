"""What the actions of `fluvial versions` share: a shard's versions, as checkpoint and store tell them."""

from __future__ import annotations

import re
from types import TracebackType
from typing import Any, Self

import msgspec

from fluvial.adapters.redis import RedisStore
from fluvial.checkpoint import Expectation, Opened, runtime, unseal
from fluvial.config import fingerprint, load
from fluvial.errors import CheckpointRefused, SettingsError
from fluvial.keys import Keys
from fluvial.types import Kept, Task, Version

TOPIC_SHARD = "all"
MOST_PARTITIONS = 2**31
"""Kafka counts them with 32 bits."""
UNOPENED = "cannot be opened"
"""In the place of a cause that stands in an envelope which is refused."""
_PARTITION_SHARD = re.compile(r"partition-(0|[1-9]\d*)", re.ASCII)


class Book:
    """The versions of one shard."""

    def __init__(self, config: str, shard: str | None) -> None:
        self.settings = load(config)
        self.shard, self.own = shard_within(self.settings.kafka.scope, shard)
        self.store = RedisStore(self.settings.redis, Keys(self.settings.service), self.settings.scores)
        self.metric = "mae" if self.settings.schema.label.task is Task.REGRESSION else "accuracy"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.store.close()

    def checkpoint(self) -> Opened | None:
        """The newest one, its signature checked. Raises CheckpointRefused."""
        blobs = self.store.load(self.shard)
        return unseal(blobs[0], self._expect(None), self._keys()) if blobs else None

    def kept(self, number: int) -> Opened | None:
        """A kept model, its signature checked; None when there is none. Raises CheckpointRefused."""
        blob = self.store.version_blob(self.shard, number)
        return None if blob is None else unseal(blob, self._expect(number), self._keys())

    def versions(self) -> list[dict[str, Any]]:
        """Each version that the checkpoint knows or whose model is kept, the oldest first.

        One whose kept model is refused, and of which nothing else is known, is among them with the reason.
        """
        checkpoint, kept = self.checkpoint(), self.store.kept(self.shard)
        lineage = {v.number: v for v in checkpoint.header.lineage} if checkpoint else {}
        serving = max(lineage, default=None)
        ends = {v.parent: (v.metrics, v.events) for v in lineage.values()}
        told = []
        for number in sorted(lineage.keys() | {n for n, k in kept.items() if k.at is not None}):
            version, marks = lineage.get(number), kept.get(number, Kept())
            end, events = ends.get(number, (None, None))
            if version is None:
                try:
                    opened = self.kept(number)
                except CheckpointRefused as error:
                    told.append(_unopened(number, str(error)) | _marks(marks))
                    continue
                if opened is None or opened.header.served is None:
                    continue
                version, end = opened.header.served.version, opened.header.served.metrics
            ended = {"metrics_at_end": dict(end) if end is not None else None, "events_at_end": events}
            told.append(_told(version, serving=number == serving) | ended | _marks(marks))
        return told

    def version(self, number: int) -> dict[str, Any] | None:
        """One version, with what its model's envelope says; None when it is not known.

        Raises CheckpointRefused where that envelope is all that there is, and cannot be opened.
        """
        found = next((v for v in self.versions() if v["number"] == number), None)
        if found is not None and found["refused"]:
            raise CheckpointRefused(f"version {number}: {found['refused']}")
        refused, opened = None, None
        try:
            opened = self.kept(number)
        except CheckpointRefused as error:
            refused = str(error)
        if found is None:
            return None
        header = opened.header if opened else None
        more: dict[str, Any] = {
            "offsets": header.offsets if header else {},
            "settings": header.settings if header else None,
            "same_settings": bool(header and header.settings == fingerprint(self.settings)),
            "model_class": header.model_class if header else None,
            "runtime": msgspec.to_builtins(header.runtime) if header else None,
            "refused": refused,
        }
        return found | more

    def _keys(self) -> Any:
        from fluvial.shard import signing_keys  # noqa: PLC0415 - it loads River

        return signing_keys(self.settings)

    def _expect(self, version: int | None) -> Expectation:
        return Expectation(
            service=self.settings.service,
            shard=self.shard,
            schema=self.settings.schema.hash,
            river=runtime().river,
            version=version,
            max_bytes=self.settings.checkpoint.max_bytes,
        )


def shard_within(scope: str, said: str | None) -> tuple[str, int | None]:
    """The shard that is meant, and the partition that is its own; None: it learns the whole topic.

    Raises SettingsError for one that this scope cannot have: nobody would ever answer there.
    """
    if scope == "topic":
        if said not in {None, TOPIC_SHARD}:
            raise SettingsError(
                f"--shard: one model learns the whole topic, so there is no {said!r}; leave it out"
            )
        return TOPIC_SHARD, None
    if said is None:
        raise SettingsError("--shard: there is a model per partition; say which, such as partition-0")
    found = _PARTITION_SHARD.fullmatch(said)
    if found is None:
        raise SettingsError(
            f"--shard: there is a model per partition; {said!r} is none, say partition-0 or so"
        )
    return said, int(found[1])


def partition_within(own: int | None, said: int | None, option: str) -> int:
    """The partition that is meant: the one that was said, else the shard's own, else 0.

    Raises SettingsError for another one than the shard's own: its model never saw that.
    """
    if said is not None and not 0 <= said < MOST_PARTITIONS:
        raise SettingsError(f"{option}: {said} is no partition; they count from 0")
    if own is None:
        return said or 0
    if said not in {None, own}:
        raise SettingsError(f"{option}: partition {said} is not this shard's, which is {own}; leave it out")
    return own


def _told(version: Version, *, serving: bool) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(version)
    return fields | {"serving": serving, "refused": None}


def _unopened(number: int, why: str) -> dict[str, Any]:
    """The same fields of a version of which no more than its number is known."""
    fields: dict[str, Any] = dict.fromkeys(Version.__struct_fields__)
    fields |= {"number": number, "cause": UNOPENED, "detail": {}, "metrics": {}}
    return fields | {"serving": False, "refused": why, "metrics_at_end": None, "events_at_end": None}


def _marks(kept: Kept) -> dict[str, Any]:
    return {"kept_since": kept.at, "size": kept.size, "pinned": kept.pinned, "note": kept.note}
