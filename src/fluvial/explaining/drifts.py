"""Which features moved at a drift: what came after the change beside what came before it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from fluvial.types import Feature

LEAST = 30
"""Events on each side without which a difference says nothing."""

Rows = Sequence[Mapping[str, Feature]]


class Moved(msgspec.Struct, frozen=True):
    """How far one feature moved."""

    feature: str
    before: float | None
    """Mean of a number; share of `value` for a category; None: never there."""
    after: float | None
    moved: float
    """Numbers: difference of the means over the deviation of both sides. Categories: half the summed
    difference of the shares (total variation, 0 to 1)."""
    value: str | None = None
    """The value of a category whose share moved most."""
    missing: float = 0.0
    """How much larger the share of events that lack it became."""


def moved(before: Rows, after: Rows) -> tuple[Moved, ...]:
    """Compare each feature, the one that moved most first; empty where a side has too few events."""
    if min(len(before), len(after)) < LEAST:
        return ()
    names = dict.fromkeys(name for rows in (before, after) for row in rows for name in row)
    found = [_one(name, before, after) for name in names]
    return tuple(sorted(found, key=lambda one: -max(abs(one.moved), abs(one.missing))))


def _one(name: str, before: Rows, after: Rows) -> Moved:
    old, new = ([row[name] for row in rows if name in row] for rows in (before, after))
    missing = len(old) / len(before) - len(new) / len(after)
    if any(isinstance(value, str) for value in (*old, *new)):
        return _category(name, old, new, missing)
    (a, spread), (b, other) = _moments(old), _moments(new)
    if a is None or b is None:
        return Moved(name, a, b, 0.0, missing=missing)
    deviation = ((spread + other) / 2) ** 0.5
    if deviation > 0.0:
        size = (b - a) / deviation
    else:
        size = 0.0 if a == b else float("inf") if b > a else float("-inf")
    return Moved(name, a, b, size, missing=missing)


def _moments(values: Sequence[Feature]) -> tuple[float | None, float]:
    numbers = [float(value) for value in values]
    if not numbers:
        return None, 0.0
    mean = sum(numbers) / len(numbers)
    return mean, sum((value - mean) ** 2 for value in numbers) / len(numbers)


def _category(name: str, old: Sequence[Feature], new: Sequence[Feature], missing: float) -> Moved:
    one, other = Counter(map(str, old)), Counter(map(str, new))
    shares = {v: (one[v] / max(1, len(old)), other[v] / max(1, len(new))) for v in sorted({*one, *other})}
    value = max(shares, key=lambda v: abs(shares[v][1] - shares[v][0]))
    distance = sum(abs(b - a) for a, b in shares.values()) / 2
    return Moved(name, *shares[value], distance, value, missing)
