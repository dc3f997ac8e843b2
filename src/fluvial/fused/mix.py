"""The mixture of a few members over two classes as straight-line code: `mixture.py`'s numbers to the bit.

Combining and reweighing three members took as long as asking one. The code made here does the same
operations in the same order, without lists, loops and calls. It knows only answers that are there: a member
that could not predict raises TypeError, and the general way takes that event.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

MAX_MEMBERS = 16

Pair = tuple[float, float]
Combine = Callable[[Sequence[float], Sequence[Any]], Pair]
"""(weights, answers) -> the mixture's answer; the weights' sum is above 0."""
Reweigh = Callable[[Sequence[float], Any, Sequence[Any]], list[float]]
"""(weights, whether the label is the second class, answers) -> the new weights."""


class Shares(NamedTuple):
    """What the fixed share hands out at each label."""

    all: float
    """To each member."""
    champions: float
    """To each champion besides."""
    home: float
    """To the first one besides; 0 of a single lane."""


@cache
def pair_mix(
    members: int, champions: int, eta: float, kept_part: float, shares: Shares, floor: float
) -> tuple[Combine, Reweigh] | None:
    """Compile both for so many members, champions first; None for more than are worth it."""
    if not 1 < members <= MAX_MEMBERS:
        return None
    scope: dict[str, Any] = {
        "eta": eta,
        "kept_part": kept_part,
        "share": shares.all,
        "home": shares.home,
        "champion": shares.champions,
        "floor": floor,
    }
    exec(compile(_text(members, champions, home=shares.home > 0.0), "<mix>", "exec"), scope)  # noqa: S102 - numbers of ours alone
    return scope["combine"], scope["reweigh"]


def _text(members: int, champions: int, *, home: bool) -> str:
    each = range(members)
    weights, pairs = ", ".join(f"w{k}" for k in each), ", ".join(f"(n{k}, y{k})" for k in each)
    total = " + ".join(f"w{k}" for k in each)
    no, yes = (" + ".join(f"w{k} * {letter}{k}" for k in each) for letter in "ny")
    raised = (f"r{k} = w{k} * (p{k} if p{k} > floor else floor) ** eta" for k in each)
    more = [" + home" * (home and k == 0) + " + champion" * (k < champions) for k in each]
    new = ", ".join(f"kept * r{k} + share{more[k]}" for k in each)
    return "\n".join(
        [
            "def combine(weights, answers):",
            f"    {weights} = weights",
            f"    {pairs} = answers",
            f"    total = {total}",
            f"    return (({no}) / total, ({yes}) / total)",
            "def reweigh(weights, label, answers):",
            f"    {weights} = weights",
            "    if label:",
            f"        {', '.join(f'(_, p{k})' for k in each)} = answers",
            "    else:",
            f"        {', '.join(f'(p{k}, _)' for k in each)} = answers",
            *(f"    {line}" for line in raised),
            f"    kept = kept_part / sum([{', '.join(f'r{k}' for k in each)}])",
            f"    return [{new}]",
        ]
    )
