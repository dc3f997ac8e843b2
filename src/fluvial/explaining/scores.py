"""Why a score is what it is: what each member says and why, and what would be said without each feature."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from fluvial.explaining.models import Linear, Path, weighed, why
from fluvial.learner import Learner
from fluvial.mixture import NonFiniteAnswer
from fluvial.types import Answer, Feature, Task


class Voice(msgspec.Struct, frozen=True):
    """One member of the mixture."""

    lane: str
    champion: bool
    weight: float
    age: int
    """Labelled events that it learned."""
    rests: bool
    """It is worth so little that it is not asked about the next event."""
    answer: Answer | None
    """None: it could not predict."""
    why: Linear | Path | None
    """None: a model of another form; see the ablation."""


class Ablation(msgspec.Struct, frozen=True):
    """What would be answered if one feature were another."""

    feature: str
    value: Feature
    instead: Feature | None
    """Its mean or most frequent value among the recent events; None: left out."""
    answer: Answer | None
    change: float
    """What the feature's value adds: the answer for the explained class (in regression the answer) as it is,
    less the one here."""


class Explanation(msgspec.Struct, frozen=True):
    """Why this event gets this answer from this state."""

    events: int
    """Labelled events that the fold had learned."""
    version: int
    answer: Answer | None
    """What would be served; None where nobody can predict."""
    choice: int
    """The class that is explained: the one that would be served. 0 in regression."""
    voices: tuple[Voice, ...]
    linear: Linear | None
    """Of all linear members together, weighted; None where there is none."""
    linear_weight: float
    """Their part of the mixture's weight."""
    ablation: tuple[Ablation, ...]
    """Strongest first."""


def explain(learner: Learner, x: Mapping[str, Feature]) -> Explanation:
    """Explain the answer to `x`. `learner`: a copy made to be asked, since asking changes some models."""
    spec, mixture = learner.spec, learner.mixture
    answer = _served(learner, x)
    choice = 0 if answer is None or spec.task is Task.REGRESSION else answer.index(max(answer))
    standings = mixture.standings(learner.events)
    voices = []
    for member, stands in zip(mixture.members, standings, strict=True):
        reason = why(member.model, x, spec.task, spec.size, choice)
        said = _asked(member.ask, x)
        voices.append(
            Voice(member.lane, member.champion, stands.weight, stands.age, member.rests, said, reason)
        )
    linear = [(voice.weight, voice.why) for voice in voices if isinstance(voice.why, Linear)]
    return Explanation(
        events=learner.events,
        version=learner.lineage.current,
        answer=answer,
        choice=choice,
        voices=tuple(voices),
        linear=weighed(linear),
        linear_weight=sum(weight for weight, _ in linear),
        ablation=_ablation(learner, x, answer, choice),
    )


def _served(learner: Learner, x: Mapping[str, Feature]) -> Answer | None:
    """The mixture's answer."""
    members = learner.mixture.members
    answers = [None if member.rests else _asked(member.ask, x) for member in members]
    return learner.mixture.combine(answers)


def _asked(ask: Any, x: Mapping[str, Feature]) -> Answer | None:
    try:
        said: Answer | None = ask(dict(x))
    except NonFiniteAnswer:
        return None
    return said


def _ablation(
    learner: Learner, x: Mapping[str, Feature], answer: Answer | None, choice: int
) -> tuple[Ablation, ...]:
    if answer is None:
        return ()
    recent = [row[0] for row in learner.memory.newest(len(learner.memory))]
    told = []
    for name, value in x.items():
        instead = _usual([row[name] for row in recent if name in row])
        changed = {f: v if f != name else instead for f, v in x.items() if f != name or instead is not None}
        other = _served(learner, changed)  # type: ignore[arg-type]  # None was left out
        change = 0.0 if other is None else answer[choice] - other[choice]
        told.append(Ablation(name, value, instead, other, change))
    return tuple(sorted(told, key=lambda one: -abs(one.change)))


def _usual(values: Sequence[Feature]) -> Feature | None:
    """The mean of numbers, the most frequent of texts; None where there is none."""
    numbers = [value for value in values if not isinstance(value, str)]
    if numbers:
        return sum(numbers) / len(numbers)
    return Counter(values).most_common(1)[0][0] if values else None
