"""A shard's state out of a checkpoint, for a command that asks it and lets it go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from fluvial.adapters.redis import RedisStore
from fluvial.checkpoint import Expectation, Header, runtime, unseal
from fluvial.codec import Codec
from fluvial.config import Settings
from fluvial.crew import nested
from fluvial.errors import CheckpointRefused, SettingsError
from fluvial.keys import Keys
from fluvial.learner import Learner
from fluvial.models import unpickle
from fluvial.shard import extra_classes, model_fingerprint, signing_keys, spec_of


class Loaded(msgspec.Struct, frozen=True):
    """A copy of a shard's fold: whatever is done to it, the service does not learn of it."""

    header: Header
    learner: Learner
    codec: Codec
    pending: int
    """Newest labelled events that are not in the learner's memory yet."""


def newest_blob(settings: Settings, shard: str) -> bytes:
    """The shard's newest checkpoint in Redis. Raises SettingsError where there is none, StoreError."""
    store = RedisStore(settings.redis, Keys(settings.service), settings.scores)
    try:
        blobs = store.load(shard)
    finally:
        store.close()
    if not blobs:
        raise SettingsError(
            f"shard {shard!r} of {settings.service!r} has no checkpoint in Redis: has `fluvial run` been "
            'started with these settings? (with kafka.scope = "partition" say which: --shard partition-0)'
        )
    return blobs[0]


def blob_of(path: str) -> bytes:
    """A checkpoint that was saved to a file. Raises SettingsError."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SettingsError(f"--state: {path} cannot be read: {error.strerror}") from error


def open_state(settings: Settings, shard: str, blob: bytes) -> Loaded:
    """Check the envelope, and load what is in it by the restricted loader. Raises CheckpointRefused."""
    expect = Expectation(
        service=settings.service,
        shard=shard,
        schema=settings.schema.hash,
        river=runtime().river,
        max_bytes=settings.checkpoint.max_bytes,
    )
    opened = unseal(blob, expect, signing_keys(settings))
    if opened.header.model != model_fingerprint(settings):
        raise CheckpointRefused(
            "the checkpoint's model was made under other [model] settings: take those it was made under"
        )
    extra = extra_classes(settings)
    state: dict[str, Any] = unpickle.loads(opened.payload, extra, settings.checkpoint.max_bytes)
    for inner in nested(state["fold"]):
        unpickle.verify(inner, extra, settings.checkpoint.max_bytes)
    try:
        learner = Learner(spec_of(settings), state["fold"])
        codec = Codec(settings.schema, state["inference"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        why = f"{type(error).__name__}: {error}"
        raise CheckpointRefused(
            f"the checkpoint's state has another shape than this release's ({why})"
        ) from error
    return Loaded(opened.header, learner, codec, len(state["fold"]["rows"]))
