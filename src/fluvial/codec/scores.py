"""Answers to scores, and scores to the JSON that applications read from Redis."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from fluvial.schema import LabelSpec
from fluvial.types import Answer, Event, Score, Task

ScoreOf = Callable[[Event, Answer, int, int, str, float], Score]

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Score)


def encode_score(score: Score) -> bytes:
    """The score as compact JSON under the names of `types.Score`."""
    return _encoder.encode(score)


def decode_score(data: bytes | str) -> Score:
    """The way back. Raises msgspec.DecodeError (a ValueError) for anything else."""
    return _decoder.decode(data)


def class_name(name: str | int | bool) -> str:
    """How a class is called as a key of `probabilities`: `false`, `true`, `3`, or the string itself."""
    return str(name).lower() if isinstance(name, bool) else str(name)


def compile_score(label: LabelSpec) -> ScoreOf:
    """`score_of(event, answer, choice, version, shard, made_at)`: River's indices become declared names."""
    if label.task == Task.REGRESSION:
        return _number_score
    classes = label.classes
    names = tuple(class_name(name) for name in classes)
    if len(names) == 2:
        return _two_class_score(classes, names)

    def score_of(
        event: Event, answer: Answer, choice: int, version: int, shard: str, made_at: float
    ) -> Score:
        by_name = dict(zip(names, answer, strict=True))
        prediction, partition, offset, time = classes[choice], event.partition, event.offset, event.time
        return Score(prediction, version, shard, partition, offset, time, made_at, by_name)

    return score_of


def _two_class_score(classes: tuple[str | int | bool, ...], names: tuple[str, ...]) -> ScoreOf:
    """The commonest case, without the zip."""
    first, second = names

    def score_of(
        event: Event, answer: Answer, choice: int, version: int, shard: str, made_at: float
    ) -> Score:
        a, b = answer
        by_name = {first: a, second: b}
        prediction, partition, offset, time = classes[choice], event.partition, event.offset, event.time
        return Score(prediction, version, shard, partition, offset, time, made_at, by_name)

    return score_of


def _number_score(
    event: Event, answer: Answer, _choice: int, version: int, shard: str, made_at: float
) -> Score:
    return Score(answer[0], version, shard, event.partition, event.offset, event.time, made_at)
