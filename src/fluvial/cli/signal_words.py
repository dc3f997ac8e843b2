"""What a journalled signal says moved, in words that `status` and `explain` share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from fluvial.types import Moved

_NUMBERS = ("before", "after", "distance")

Detail = Mapping[str, Any]


def moved_in(detail: Detail) -> list[Moved]:
    """What moved, the surest first; empty on the error plane, which watches one mean.

    The journal is JSON, which writes NaN (a mean of nothing) as null: here it is NaN again.
    """
    return [
        msgspec.convert({**told, **{n: math.nan for n in _NUMBERS if told[n] is None}}, Moved)
        for told in detail.get("moved") or ()
    ]


def change(before: float | None, after: float | None) -> str:
    """`0.354 -> 0.305`; `-` for what nobody had."""
    return " -> ".join("-" if x is None or math.isnan(x) else f"{x:.3g}" for x in (before, after))


def moved_words(moved: Moved) -> str:
    """`probability of True (spread) 0.354 -> 0.305`."""
    return f"{moved.shown} {change(moved.before, moved.after)}"
