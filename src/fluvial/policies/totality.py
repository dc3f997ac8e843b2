"""Is a policy pure and total? Asked by `fluvial check` about a few hundred made standings."""

from __future__ import annotations

import copyreg
import io
import pickle
import random
import types
from collections.abc import Callable, Sequence
from typing import Any

from fluvial.policies.own import fault
from fluvial.types import (
    Decision,
    MemberStanding,
    RivalStanding,
    Signal,
    SignalKind,
    Standing,
    Version,
)

STANDINGS = 400
MOST = 5
"""Faults told; one is often told of many standings."""


def faults(policy: Callable[[Standing], Sequence[Decision]], challengers: int = 0) -> list[str]:
    """What it does that no policy may do: raise, return something else, change, or differ at once again."""
    found: dict[str, None] = {}
    rng = random.Random(1)
    for number in range(STANDINGS):
        standing = made(rng, challengers)
        wrong = _tried(policy, standing)
        if wrong:
            found.setdefault(f"{wrong} (made standing {number}: {told(standing)})")
        if len(found) == MOST:
            break
    return list(found)


def _tried(policy: Callable[[Standing], Sequence[Decision]], standing: Standing) -> str:
    before = _remembered(policy)
    try:
        first = policy(standing)
        again = policy(standing)
    except Exception as error:  # noqa: BLE001 - the user's code may raise anything
        return f"raised {type(error).__name__}: {error}"
    wrong = fault(first, standing) or fault(again, standing)
    if wrong:  # such a thing may not even compare
        return wrong
    if list(first) != list(again):
        return f"said {first!r} and then {again!r} to the same standing"
    if _remembered(policy) != before:
        return "changed its own attributes: what it should remember has to come from the standing"
    return ""


class _Remembering(pickle.Pickler):
    """Pickles what it can of anything: a part that cannot be pickled (a lock, a lambda) is left out."""

    def reducer_override(self, part: Any) -> Any:
        """Leave a part out whose pickling fails, and nothing around it."""
        try:
            if isinstance(part, type | types.FunctionType):
                pickle.dumps(part)  # by name, if it has one
                return NotImplemented
            reduce: Callable[[Any], Any] = copyreg.dispatch_table.get(type(part), _reduced)
            return reduce(part)
        except Exception:  # noqa: BLE001 - the user's code may raise anything
            return str, ("left out",)


def _reduced(part: object) -> str | tuple[Any, ...]:
    return part.__reduce_ex__(pickle.HIGHEST_PROTOCOL)


def _remembered(policy: object) -> bytes:
    """What a policy knows, its parts and theirs too, as bytes to compare; none where they cannot be had."""
    out = io.BytesIO()
    try:
        # Beside what it says of itself in `__reduce__` or `__getstate__`, all its attributes.
        _Remembering(out, pickle.HIGHEST_PROTOCOL).dump((policy, getattr(policy, "__dict__", None)))
    except Exception:  # noqa: BLE001 - as above
        return b""
    return out.getvalue()


def told(standing: Standing) -> str:
    """A standing in a few words."""
    signals = ", ".join(f"{s.kind} of {s.plane}" for s in standing.signals) or "no signal"
    rival = "a rival" if standing.rival is not None else "no rival"
    return f"{standing.events} events, {signals}, {len(standing.members)} members, {rival}"


def made(rng: random.Random, challengers: int = 0) -> Standing:
    """One standing: now and then just begun, in a storm, in several lanes."""
    events = rng.choice([0, 1, 31, 32, 1_000, rng.randrange(10**6), 10**9])
    lanes = ["a", "b", "c"][: rng.choice([1, 1, 1, 3])]
    weights = [rng.random() for _ in range(len(lanes) + challengers)]
    members = [
        MemberStanding(
            name=lane, champion=k < len(lanes), weight=weight / sum(weights), age=_upto(rng, events)
        )
        for k, (lane, weight) in enumerate(
            zip([*lanes, *(rng.choice(lanes) for _ in range(challengers))], weights, strict=True)
        )
    ]
    time = rng.choice([0.0, 1.8e9 * rng.random()])
    versions = [
        _version(k + 1, _upto(rng, events), time * rng.random()) for k in range(rng.choice([1, 1, 5, 100]))
    ]
    return Standing(
        events=events,
        since_reaction=_upto(rng, events),
        recent_reactions=rng.choice([0, 0, 1, 9, 10, 1_000]),
        signals=tuple(_signal(rng, events) for _ in range(rng.choice([0, 1, 1, 2, 5]))),
        members=tuple(members),
        time=time,
        asked=rng.choice([None, time, time - 100.0]),
        versions=tuple(versions),
        retired=tuple(range(1, rng.choice([1, 2, 6]))),
        rival=_rival(rng, events) if rng.random() < 0.3 else None,
        loss=rng.random(),
        metrics=rng.choice([{}, {"accuracy": rng.random(), "log_loss": 3 * rng.random()}]),
    )


def _upto(rng: random.Random, events: int) -> int:
    return rng.choice([0, events, rng.randrange(events + 1)])


def _version(number: int, events: int, time: float) -> Version:
    parent = number - 1 or None
    cause = "reset" if parent else "genesis"
    return Version(number=number, cause=cause, parent=parent, partition=0, offset=0, events=events, time=time)


def _signal(rng: random.Random, events: int) -> Signal:
    return Signal(
        kind=rng.choice(list(SignalKind)),
        plane=rng.choice(["error", "features", "predictions"]),
        detector="adwin",
        events=events,
        before=rng.random(),
        after=rng.random(),
        since=_upto(rng, events),
    )


def _rival(rng: random.Random, events: int) -> RivalStanding:
    return RivalStanding(
        lane="a",
        age=_upto(rng, events),
        tested=rng.choice([0, 1, 500, 10**6]),
        evidence=rng.choice([0.0, 1.0, 1e12]),
        against=rng.choice([0.0, 1.0, 1e12]),
    )
