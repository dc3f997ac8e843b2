"""The mixture of a few members over two classes as straight-line code: `mixture.py`'s numbers to the bit.

Combining and reweighing three members took as long as asking one. The code made here does the same
operations in the same order, without lists, loops and calls. It knows only answers that are there, and who
rests: a member that could not predict raises TypeError, and the general way takes that event.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

MAX_MEMBERS = 16

Pair = tuple[float, float]
Combine = Callable[[Sequence[float], Sequence[Any]], Pair]
"""(weights, answers) -> the mixture's answer; the weights' sum is above 0."""
Reweigh = Callable[[Sequence[float], Any, Sequence[Any], Sequence[float]], list[float]]
"""(weights, whether the label is the second class, answers, what was served) -> the new weights."""


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
    members: int,
    champions: int,
    resting: frozenset[int],
    eta: float,
    kept_part: float,
    shares: Shares,
    floor: float,
) -> tuple[Combine, Reweigh] | None:
    """Compile both for so many members, champions first, some at rest; None for more than are worth it."""
    if not 1 < members <= MAX_MEMBERS or len(resting) == members:
        return None
    scope: dict[str, Any] = {
        "eta": eta,
        "kept_part": kept_part,
        "share": shares.all,
        "home": shares.home,
        "champion": shares.champions,
        "floor": floor,
    }
    text = _text(members, champions, resting, home=shares.home > 0.0)
    exec(compile(text, "<mix>", "exec"), scope)  # noqa: S102 - numbers of ours alone
    return scope["combine"], scope["reweigh"]


def _text(members: int, champions: int, resting: frozenset[int], *, home: bool) -> str:
    each = range(members)
    awake = [k for k in each if k not in resting]
    weights = ", ".join(f"w{k}" for k in each)
    total = " + ".join(f"w{k}" for k in awake)
    no, yes = (" + ".join(f"w{k} * {letter}{k}" for k in awake) for letter in "ny")
    raised = (f"r{k} = w{k} * (p{k} if p{k} > floor else floor) ** eta" for k in each)
    more = [" + home" * (home and k == 0) + " + champion" * (k < champions) for k in each]
    new = ", ".join(f"kept * r{k} + share{more[k]}" for k in each)
    stands_in = " = ".join(f"p{k}" for k in sorted(resting))
    return "\n".join(
        [
            "def combine(weights, answers):",
            f"    {weights} = weights",
            f"    {_taken(members, resting, '(n{0}, y{0})')} = answers",
            f"    total = {total}",
            f"    return (({no}) / total, ({yes}) / total)",
            "def reweigh(weights, label, answers, served):",
            f"    {weights} = weights",
            "    if label:",
            f"        {_taken(members, resting, '(_, p{0})')} = answers",
            "    else:",
            f"        {_taken(members, resting, '(p{0}, _)')} = answers",
            *([f"    {stands_in} = served[1] if label else served[0]"] if resting else []),
            *(f"    {line}" for line in raised),
            f"    kept = kept_part / sum([{', '.join(f'r{k}' for k in each)}])",
            f"    return [{new}]",
        ]
    )


def _taken(members: int, resting: frozenset[int], pair: str) -> str:
    """Take the answers apart; of one that rests there has to be nothing, or it raises."""
    return ", ".join("()" if k in resting else pair.format(k) for k in range(members))
