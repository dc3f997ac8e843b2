"""Members and their mixture: several models answer as one, weighted by how well they did lately.

Fixed share (Herbster and Warmuth, "Tracking the best expert", 1998): after each label
`w <- w * exp(-eta * loss)`, normalised, then `(1 - alpha) * w + alpha * prior`. The floor that this leaves
lets a newcomer take over within tens of events. The prior is on the side of the champions: where nobody is
better, the one that learned the longest answers (docs/decisions/share-for-the-champion.md). Nothing here is
random.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from fluvial.fused import RESTING, Ask, Combine, Panel, Reweigh, Shares, Teach, fuse, pair_mix
from fluvial.types import Answer, Feature, Label, MemberStanding, Task

ETA = 0.7
ALPHA = 0.0025
CHAMPIONS = 0.85
"""The champions' part of the prior, beside their equal part of the rest."""
HOME = 0.4
"""The first lane's part of that, beside its equal part of the rest: of several lanes it is the plain one."""
SCALE_RATE = 0.002
"""Of the fading mean of squared error that makes a regression loss free of the target's unit."""
LOSS_CAP = 4.6
MOST_SQUARED = 1e300
"""Of a squared error: labels as large as a double can be must not make the scale infinite."""
PATIENCE = 48
"""Late labels: so many events of waiting halve the rate at which weights move (`patient`)."""
LIGHT = 0.02
"""Weight under which a lane that is not fused rests on three of four labelled events."""
REST = 4
HARD = 0.99
"""The probability that a hard label counts as, from a model without `predict_proba_one`."""

Rest = tuple[int, Sequence[int]]
"""Labelled events, and the members that rest."""


class NonFiniteAnswer(ValueError):
    """A model answered NaN or an infinity."""


def uniform(size: int) -> Answer:
    """What an answer counts as when there is none: uniform over the classes, 0 in regression."""
    return (1.0 / size,) * size if size > 1 else (0.0,)


def reader(model: Any, task: Task, size: int, *, hard: bool = False) -> Ask:
    """Return how to ask `model`: an Answer, None when it could not predict; NonFiniteAnswer for the rest.

    `{}` and None are no prediction, a missing class is 0, a hard label (of a model for which
    `only_hard_labels` holds) counts as .99.
    """
    if task is Task.REGRESSION:
        return _number_reader(model)
    if hard:
        return _hard_reader(model, size)
    ask = model.predict_proba_one
    return _pair_reader(ask) if task is Task.BINARY else _classes_reader(ask, size)


def only_hard_labels(throwaway: Any) -> bool:
    """Whether `predict_proba_one` is missing or raises (voting, OvO, OutputCode); asks a copy."""
    try:
        throwaway.predict_proba_one({})
    except (AttributeError, NotImplementedError):
        return True
    except Exception:  # noqa: BLE001 - it has one; what it thinks of an empty event does not matter here
        return False
    return False


def _number_reader(model: Any) -> Ask:
    predict = model.predict_one

    def ask(x: dict[str, Feature]) -> Answer | None:
        value = predict(x)
        if value is None:
            return None
        if not math.isfinite(value):
            raise NonFiniteAnswer(str(value))
        return (float(value),)

    return ask


def _pair_reader(predict: Callable[[dict[str, Feature]], dict[Any, float] | None]) -> Ask:
    def ask(x: dict[str, Feature]) -> Answer | None:
        answer = predict(x)
        if not answer:
            return None
        no, yes = answer.get(False, 0.0), answer.get(True, 0.0)
        if not math.isfinite(no + yes):
            raise NonFiniteAnswer(str(answer))
        return (no, yes)

    return ask


def _classes_reader(predict: Callable[[dict[str, Feature]], dict[Any, float] | None], size: int) -> Ask:
    classes = range(size)

    def ask(x: dict[str, Feature]) -> Answer | None:
        answer = predict(x)
        if not answer:
            return None
        values = tuple([answer.get(k, 0.0) for k in classes])
        if not math.isfinite(sum(values)):
            raise NonFiniteAnswer(str(answer))
        return values

    return ask


def _hard_reader(model: Any, size: int) -> Ask:
    predict = model.predict_one
    rest = (1.0 - HARD) / (size - 1)
    answers = {k: tuple(HARD if i == k else rest for i in range(size)) for k in range(size)}

    def ask(x: dict[str, Feature]) -> Answer | None:
        return answers.get(predict(x))

    return ask


def patient(waited: int) -> float:
    """The rate at which a label moves the weights that was known only `waited` labelled events later.

    What a label says of the members is of the past by then, and where labels are alike for a while it says
    who adapts quickest, which helps nobody who has to answer far ahead. The best rate falls with the delay
    (Joulani, Gyorgy and Szepesvari, "Online learning under delayed feedback", 2013).
    """
    return ETA / (1.0 + waited / PATIENCE)


class Member:
    """One model of the mixture."""

    __slots__ = ("_model", "ask", "born", "champion", "fused", "lane", "rests", "teach")

    def __init__(self, lane: str, model: Any, ask: Ask, *, champion: bool, born: int = 0) -> None:
        self.lane = lane
        self._model = model
        self.ask = ask
        self.teach: Teach = model.learn_one
        self.fused = fuse(self, model, NonFiniteAnswer)
        self.champion = champion
        self.rests = False
        """Neither asked nor taught: the others stand in for it (`Mixture.teach`)."""
        self.born = born
        """Labelled events that the fold had learned when this member had learned none."""

    @property
    def model(self) -> Any:
        """The River object with everything that it learned; look again after the next event."""
        if self.fused is not None:
            self.fused.settle()
        return self._model


class Mixture:
    """Members and weights; the champions first, one a lane."""

    def __init__(
        self,
        task: Task,
        size: int,
        members: list[Member],
        weights: list[float],
        scale: float = 0.0,
        rest: Rest = (0, ()),
    ) -> None:
        self.task = task
        self.size = size
        self.members = members
        self.weights = weights
        self.scale = scale
        """Regression: fading mean of the mixture's squared error; 0 before the first label."""
        self._floor = min(0.01, 1.0 / (2 * size))
        self._lanes = sum(member.champion for member in members)
        self._fast: tuple[Combine, Reweigh] | None = None
        self._fast_for = -1
        """How many members the generated code is for; it may be none for so many."""
        self._variants: dict[tuple[int, frozenset[int]], tuple[Combine, Reweigh] | None] = {}
        self._resting: frozenset[int] = frozenset()
        """Who rests, as the generated code has it."""
        self.awake: str | None = None
        """A lane that never rests: it is compared with a rival, who meets every event."""
        self._home = ALPHA * CHAMPIONS * HOME if self._lanes > 1 else 0.0
        self._each = (ALPHA * CHAMPIONS - self._home) / max(1, self._lanes)
        self._panel = Panel()
        self._clock, resting = rest
        for k in resting:
            members[k].rests = True
        self._resting = frozenset(resting)

    def ask(self, x: dict[str, Feature]) -> Sequence[Answer | None]:
        """Each member's answer; what members have in common is computed once."""
        return self._panel.ask(self.members, x)

    def teach(self, x: dict[str, Feature], y: Label, **weight: float) -> None:
        """Teach each member, then see who rests.

        A tree beside a ladder of linear models costs more than all of them. Where it is worth next to
        nothing it meets every fourth event only; in between its weight is neither raised nor lowered
        (sleeping experts; Freund, Schapire, Singer and Warmuth, 1997).
        """
        self._panel.teach(self.members, x, y, **weight)
        if self._lanes == 1:
            return
        self._clock += 1
        turn = self._clock % REST
        if turn == 1:
            self._lie_down()
        elif turn == 0 and self._resting:
            self._get_up()

    def _lie_down(self) -> None:
        """Let those champions rest that are worth next to nothing and have no fused way."""
        light = [k for k in range(self._lanes) if self.weights[k] < LIGHT]
        members = self.members
        resting = frozenset(k for k in light if members[k].fused is None and members[k].lane != self.awake)
        for k in resting:
            members[k].rests = True
        self._resting, self._fast_for = resting, -1

    def _get_up(self) -> None:
        for k in self._resting:
            self.members[k].rests = False
        self._resting, self._fast_for = frozenset(), -1

    @property
    def rest(self) -> Rest:
        """Who rests, for the state."""
        return self._clock, tuple(k for k, member in enumerate(self.members) if member.rests)

    def combine(self, answers: Sequence[Answer | None]) -> Answer | None:
        """Mix the members' answers by weight; those that could not predict are left out."""
        if len(answers) == 1:
            return answers[0]
        if self.size == 2:
            fast = self._fast if len(answers) == self._fast_for else self._go_fast(len(answers))
            if fast is not None:
                try:
                    return fast[0](self.weights, answers)
                except (TypeError, ValueError, ZeroDivisionError):
                    pass  # a member without an answer, one that rests, or no weight on any
            return self._combine_pairs(answers)
        total = 0.0
        sums = [0.0] * self.size
        for weight, answer in zip(self.weights, answers, strict=True):
            if not answer:
                continue
            total += weight
            for k, value in enumerate(answer):
                sums[k] += weight * value
        return tuple([value / total for value in sums]) if total > 0.0 else None

    def _go_fast(self, members: int) -> tuple[Combine, Reweigh] | None:
        """Take the generated code for so many members and those who rest; None where there is none."""
        key = (members, self._resting)
        if key not in self._variants:
            shares = Shares(ALPHA * (1.0 - CHAMPIONS) / members, self._each, self._home)
            self._variants[key] = pair_mix(
                members, self._lanes, self._resting, ETA, 1.0 - ALPHA, shares, self._floor
            )
        self._fast, self._fast_for = self._variants[key], members
        return self._fast

    def _combine_pairs(self, answers: Sequence[Answer | None]) -> Answer | None:
        """The same for two classes, without the inner loop."""
        total = no = yes = 0.0
        for weight, answer in zip(self.weights, answers, strict=True):
            if answer:
                total += weight
                no += weight * answer[0]
                yes += weight * answer[1]
        return (no / total, yes / total) if total > 0.0 else None

    def reweigh(self, y: Label, answers: Sequence[Answer | None], served: Answer, eta: float = ETA) -> None:
        """Move the weights towards those who were right.

        A member without an answer counts as uniform, one that rests as what was served.
        """
        if len(answers) == 1:
            return
        if self._fast is not None and eta == ETA and len(answers) == self._fast_for:
            try:
                self.weights = self._fast[1](self.weights, y, answers, served)
            except (TypeError, ValueError):
                pass  # as above
            else:
                return
        if self.task is Task.REGRESSION:
            raised = self._raised_by_error(float(y), answers, served, eta)
        else:
            # exp(-eta * -log(p)) is p ** eta.
            floor, k, unknown = self._floor, int(y), 1.0 / self.size
            raised = []
            for weight, answer in zip(self.weights, answers, strict=True):
                p = answer[k] if answer else unknown if answer is None else served[k]
                raised.append(weight * (p if p > floor else floor) ** eta)  # noqa: FURB136 - max() costs twice
        kept = (1.0 - ALPHA) / sum(raised)
        share = ALPHA * (1.0 - CHAMPIONS) / len(raised)
        self.weights = weights = [kept * weight + share for weight in raised]
        weights[0] += self._home
        for k in range(self._lanes):
            weights[k] += self._each

    def _raised_by_error(
        self, y: float, answers: Sequence[Answer | None], served: Answer, eta: float
    ) -> list[float]:
        """Loss min(4.6, error^2 / 2 s^2), with s^2 the fading mean of the mixture's squared error."""
        off = y - served[0]
        squared = min(off * off, MOST_SQUARED)
        self.scale = squared if self.scale == 0.0 else self.scale + SCALE_RATE * (squared - self.scale)
        if self.scale <= 0.0:
            return list(self.weights)
        twice = 2.0 * self.scale
        # Not ** 2: the C library's pow() need not round the same way in another unit.
        known = [served if a == RESTING else a for a in answers]
        losses = [LOSS_CAP if a is None else min(LOSS_CAP, (d := y - a[0]) * d / twice) for a in known]
        return [w * math.exp(-eta * loss) for w, loss in zip(self.weights, losses, strict=True)]

    def demote(self, index: int) -> None:
        """Give a newcomer the least weight that fixed share leaves anybody."""
        self.weights[index] = ALPHA * (1.0 - CHAMPIONS) / len(self.weights)
        total = sum(self.weights)
        self.weights = [w / total for w in self.weights]

    def standings(self, events: int) -> tuple[MemberStanding, ...]:
        """How each member stands after `events` labelled events."""
        return tuple(
            MemberStanding(name=m.lane, champion=m.champion, weight=w, age=events - m.born)
            for m, w in zip(self.members, self.weights, strict=True)
        )
