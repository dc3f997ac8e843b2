"""Members that differ in nothing but their learning rate, asked and taught in one pass over the features.

Half of what a scaler and a regression cost is the scaler. Members whose scalers hold the same numbers (they
have seen the same events since they were blank) need it once: `Panel` finds neighbours of which that is
true, and lets one generated code hold their numbers, with each member's operations as they were. Where it is
not true, or no longer, each goes its own way, which gives the same bits; so a ladder may come and go at any
event and is no part of the state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Protocol

from fluvial.fused.linear import KINDS, Ask, Fused, Scaler, Teach, gradient
from fluvial.types import Answer, Feature

TRY_EVERY = 16
"""Labelled events after which members are looked at again; four times as many each time in vain."""
TRY_AT_LEAST = 4_096
HEADS = 16
"""Members of one ladder at most: straight-line code for more would be long."""

RESTING: Answer = ()
"""In the place of the answer of a member that rests."""

AskAll = Callable[[dict[str, Feature]], Sequence["Answer | None"]]


class Rung(Protocol):
    """A member of the mixture, as far as it matters here."""

    ask: Ask
    teach: Teach
    fused: Fused | None
    rests: bool


class Ladder:
    """Several fused members in one generated code."""

    def __init__(self, members: Sequence[Rung], parts: Sequence[Fused], forget: Callable[[], None]) -> None:
        self.members = members
        self._parts = parts
        self._forget = forget
        self._names = parts[0].names
        self._taught = dict.fromkeys(parts, 0)
        for part in parts:
            part.settle()
        one, names = parts[0], self._names
        weights = [[part.weights[name] for name in names] for part in parts]
        make = _compiled(type(one.scaler).__name__, len(names), len(parts))
        self.ask: AskAll
        self.teach: Teach
        self.ask, self.teach, self._read = make(
            names, self._misfit_ask, self._misfit_teach, one.error,
            [part.rates[0] for part in parts], [part.rates[1] for part in parts],
            one.scaler.clip, one.scaler.memory, *one.scaler.numbers(names),
            weights, [part.head.intercept for part in parts],
        )  # fmt: skip
        for part in parts:
            part.join(self)

    def settle(self, part: Fused) -> None:
        """Write the numbers into one member's River objects; the generated code goes on all the same.

        Only this one's: the scaler of another may have a new owner by now (`policy.keep`).
        """
        taught, intercepts, counts, means, spreads, weights = self._read()
        k = self._parts.index(part)
        new, self._taught[part] = taught - self._taught[part], taught
        part.write(self._names, new, intercepts[k], (counts, means, spreads, weights[k]))

    def dissolve(self, staying: Sequence[Any] | None = None) -> None:
        """Let every member go its own way again; `staying`: those whose numbers still matter (None: all)."""
        for member, part in zip(self.members, self._parts, strict=True):
            if staying is None or member in staying:
                self.settle(part)
            part.leave()
        self._forget()

    def _misfit_ask(self, x: dict[str, Feature]) -> Sequence[Answer | None]:
        """Answer an event with other features: River's way."""
        for part in self._parts:
            self.settle(part)
        return [part.rivers_ask(x) for part in self._parts]

    def _misfit_teach(self, x: dict[str, Feature], y: Any, **weight: float) -> None:
        self.dissolve()
        for member in self.members:
            member.teach(x, y, **weight)


class Panel:
    """All members of a mixture: asked and taught together, by ladders where there are any."""

    def __init__(self) -> None:
        self._seen: list[Any] = []
        self._ladders: list[Ladder] = []
        self._plan: list[tuple[Any, Ladder | None]] = []
        self._wait = self._pause = TRY_EVERY

    def ask(self, members: Sequence[Any], x: dict[str, Feature]) -> Sequence[Answer | None]:
        """Each member's answer, in their order."""
        if members != self._seen:
            self._look(members)
        if not self._ladders:
            return [RESTING if member.rests else member.ask(x) for member in members]
        answers: list[Answer | None] = []
        for member, ladder in self._plan:
            if ladder is None:
                answers.append(RESTING if member.rests else member.ask(x))
            else:
                answers += ladder.ask(x)
        return answers

    def teach(self, members: Sequence[Any], x: dict[str, Feature], y: Any, **weight: float) -> None:
        """Teach each member, in their order."""
        if members != self._seen:
            self._look(members)
        for member, ladder in self._plan:
            if ladder is None:
                if not member.rests:
                    member.teach(x, y, **weight)
            else:
                ladder.teach(x, y, **weight)
        self._wait -= 1
        if self._wait < 0:
            self._form(members)

    def _look(self, members: Sequence[Any]) -> None:
        """Take note of other members: a ladder that lacks one, or has a stranger within, is given up."""
        for ladder in list(self._ladders):
            start = next((k for k, one in enumerate(members) if one is ladder.members[0]), 0)
            if list(members[start : start + len(ladder.members)]) != list(ladder.members):
                ladder.dissolve(members)
        self._pause = self._wait = TRY_EVERY
        self._replan(members)

    def _replan(self, members: Sequence[Any]) -> None:
        first = {id(ladder.members[0]): ladder for ladder in self._ladders}
        inside = {id(one) for ladder in self._ladders for one in ladder.members[1:]}
        self._seen = list(members)
        self._plan = [(one, first.get(id(one))) for one in members if id(one) not in inside]

    def _form(self, members: Sequence[Any]) -> None:
        """Make ladders of neighbours that may be in one."""
        alone = [(one, one.fused if ladder is None else None) for one, ladder in self._plan]
        made = False
        start = 0
        while start < len(alone):
            end = start + 1
            while end < len(alone) and end - start < HEADS and _alike(alone[start][1], alone[end][1]):
                end += 1
            if end - start > 1:
                self._make(alone[start:end])
                made = True
            start = end
        self._pause = TRY_EVERY if made else min(4 * self._pause, TRY_AT_LEAST)
        self._wait = self._pause
        self._replan(members)

    def _make(self, run: Sequence[tuple[Rung, Fused | None]]) -> None:
        def forget() -> None:
            self._ladders.remove(ladder)
            self._seen = []

        ladder = Ladder([one for one, _ in run], [part for _, part in run if part is not None], forget)
        self._ladders.append(ladder)


def _alike(one: Fused | None, other: Fused | None) -> bool:
    """Whether both go generated ways, and their scalers hold the same numbers, to the bit."""
    if one is None or other is None or not one.names or one.names != other.names:
        return False
    a, b = one.scaler, other.scaler
    if type(a) is not type(b) or (a.clip, a.memory) != (b.clip, b.memory):
        return False
    # The text tells -0.0 and nan as well. What other features they know stays in each one's own scaler.
    return repr(one.read()[2:5]) == repr(other.read()[2:5])


@cache
def _compiled(kind: str, size: int, heads: int) -> Callable[..., tuple[AskAll, Teach, Any]]:
    """Compile the pass; no name or number of a user's enters its text."""
    scope: dict[str, Any] = {"exp": math.exp}
    exec(compile(_text(KINDS[kind], size, heads), "<ladder>", "exec"), scope)  # noqa: S102 - see above
    made: Callable[..., tuple[AskAll, Teach, Any]] = scope["make"]
    return made


def _text(scaler: type[Scaler], size: int, heads: int) -> str:
    def each(letter: str, number: int = size) -> str:
        return "".join(f"{letter}{k}, " for k in range(number))

    rows = [each(f"w{h}_") for h in range(heads)]
    own = "".join((*map(each, "nmvs"), *rows, each("b", heads)))
    return "\n".join(
        [
            "def make(names, other_ask, other_teach, NonFinite, rates, intercept_rates, clip, memory,",
            "         ns, ms, vs, ss, ws, bs):",
            *(f"    {each(letter)}= {letter}s" for letter in "nmvs"),
            *(f"    {row}= ws[{h}]" for h, row in enumerate(rows)),
            f"    {each('b', heads)}= bs",
            f"    {each('rate', heads)}= rates",
            f"    {each('intercept_rate', heads)}= intercept_rates",
            "    taught = 0",
            *(f"    {line}" for line in _ask_text(scaler, each("x"), size, heads)),
            *(f"    {line}" for line in _teach_text(scaler, own, each("x"), size, heads)),
            "    def read():",
            f"        return (taught, ({each('b', heads)}), ({each('n')}), ({each('m')}), ({each('v')}),",
            f"                ({', '.join(f'({row})' for row in rows)},))",
            "    return ask, teach, read",
        ]
    )


def _dot(head: int, size: int) -> str:
    return " + ".join(f"w{head}_{k} * z{k}" for k in range(size)) + f" + b{head}"


def _ask_text(scaler: type[Scaler], xs: str, size: int, heads: int) -> list[str]:
    lines = ["def ask(x):", "    if [*x] != names:", "        return other_ask(x)", f"    {xs}= x.values()"]
    lines += [f"    z{k} = {scaler.standardised(k)}" for k in range(size)]
    for h in range(heads):
        lines += [
            f"    r = {_dot(h, size)}",
            f"    p{h} = 0 if r < -30 else 1 if r > 30 else 1 / (1 + exp(-r))",
        ]
    bad = " or ".join(f"p{h} != p{h}" for h in range(heads))
    answers = "".join(f"(1.0 - p{h}, p{h}), " for h in range(heads))
    return [*lines, f"    if {bad}:", "        raise NonFinite('nan')", f"    return ({answers})"]


def _teach_text(scaler: type[Scaler], own: str, xs: str, size: int, heads: int) -> list[str]:
    lines = ["def teach(x, y, w=1.0):", f"    nonlocal taught, {own[:-2]}"]
    lines += ["    if [*x] != names:", "        return other_teach(x, y, w=w)", f"    {xs}= x.values()"]
    lines += [f"    {line}" for k in range(size) for line in scaler.learn(k)]
    for h in range(heads):
        lines += [f"    r = {_dot(h, size)}", *(f"    {line}" for line in gradient())]
        lines += [f"    b{h} -= intercept_rate{h} * g"]
        lines += [f"    w{h}_{k} -= rate{h} * (z{k} * g)" for k in range(size)]
    return [*lines, "    taught += 1"]
