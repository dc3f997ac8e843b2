"""Bytes to events and scores to bytes: the only place that knows the wire format.

The schema is compiled once into typed decoders and one generated function (`compiled`), because this
runs for every event. Whatever breaks the schema leaves here as BadEvent and never reaches a model.
Another format would be another codec with the same three methods.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fluvial.codec.compiled import Decode, compile_decode
from fluvial.codec.inferring import InferringDecode
from fluvial.codec.scores import ScoreOf, compile_score, decode_score, encode_score
from fluvial.schema import FeatureSpec, Schema, check

__all__ = ["Codec", "decode_score", "encode_score"]


class Codec:
    """One schema, compiled. `decode` and `score_of` may be kept in local variables by the hot loop.

    `inferred` is the `state()` of an earlier codec under the same schema, or None at the start of a
    lineage; it belongs into the checkpoint, because the events decoded so far decided it.
    Raises SettingsError when the schema cannot be kept.
    """

    decode: Decode
    """`decode(value, key, partition, offset, timestamp_ms) -> Event`; raises BadEvent and nothing else."""
    score_of: ScoreOf
    """`score_of(event, answer, choice, version, shard, made_at) -> Score`, with the declared class names."""

    def __init__(self, schema: Schema, inferred: Mapping[str, Any] | None = None) -> None:
        check(schema)
        self.schema = schema
        self._inferring = InferringDecode(schema, inferred) if schema.infer is not None else None
        self.decode = compile_decode(schema) if self._inferring is None else self._inferring.decode
        self.score_of = compile_score(schema.label)

    @property
    def features(self) -> tuple[FeatureSpec, ...]:
        """The features that a model sees now: as declared, or as inferred so far."""
        return self.schema.features if self._inferring is None else self._inferring.features

    def state(self) -> dict[str, Any] | None:
        """What the events decoded so far decided: primitives, or None when nothing is inferred."""
        return None if self._inferring is None else self._inferring.state()
