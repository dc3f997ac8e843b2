"""A model on trial in the shadow: it learns what the champion learns, and both answer the same events.

The test is paired and McNemar-like: only events on which one of the two did better say anything. It is a
bet (Waudby-Smith and Ramdas, 2023; Ville, 1939): whoever bets a part of their capital, event by event, that
the rival does better, wins nothing in the mean if it does not, however often somebody looks. So the
chance that the capital of a rival that is no better ever reaches 100 times what it began with is at most
one in a hundred, at any stopping rule. Several bet, from timid to bold, and their mean counts.

Bets begin when the rival has learned `ready` events since the trial began: what it was warmed on came from
the very stretch that the champion was blamed for, and would speak for anybody else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fluvial.mixture import Member
from fluvial.types import RivalStanding

BETS = (0.1, 0.25, 0.5, 0.8)
"""Parts of the capital: under a bet b the chance that is bet on is (1 + b) / 2 of unequal pairs."""
CEILING = 1e12
"""Capital above this is given away, which only makes the bet worse."""


class Bets:
    """Capital of those who bet that a difference (-1 to 1) is above 0 in the mean."""

    def __init__(self, capital: Iterable[float] = (1.0,) * len(BETS)) -> None:
        self.capital = tuple(capital)

    def add(self, difference: float) -> None:
        """Pay out one event."""
        pairs = zip(self.capital, BETS, strict=True)
        self.capital = tuple([min(CEILING, c * (1.0 + bet * difference)) for c, bet in pairs])

    @property
    def value(self) -> float:
        """What one unit has become: an e-value."""
        return sum(self.capital) / len(self.capital)


class Trial:
    """The rival, and the bets on it and against it."""

    def __init__(self, member: Member, began: int, ready: int) -> None:
        self.member = member
        self.began = began
        """Labelled events that the fold had learned."""
        self.ready = ready
        self.tested = 0
        self.on = Bets()
        self.against = Bets()

    def compare(self, events: int, champion: float, rival: float) -> None:
        """Take the losses (0 to 1) of both on labelled event number `events`."""
        if events - self.began <= self.ready:
            return
        self.tested += 1
        difference = champion - rival
        if difference:
            self.on.add(difference)
            self.against.add(-difference)

    def standing(self, events: int) -> RivalStanding:
        """How it stands after `events` labelled events."""
        return RivalStanding(
            lane=self.member.lane,
            age=events - self.member.born,
            tested=self.tested,
            evidence=self.on.value,
            against=self.against.value,
        )

    def state(self) -> dict[str, Any]:
        """Everything but the member."""
        numbers = {"began": self.began, "ready": self.ready, "tested": self.tested}
        return {**numbers, "on": self.on.capital, "against": self.against.capital}

    @classmethod
    def restore(cls, member: Member, state: Mapping[str, Any]) -> Trial:
        """Undo `state`."""
        trial = cls(member, state["began"], state["ready"])
        trial.tested = state["tested"]
        trial.on, trial.against = Bets(state["on"]), Bets(state["against"])
        return trial


def best_retired(
    losses: Mapping[int, list[float]], present: list[float], fresh: list[float], least: float
) -> tuple[int | None, dict[int, float]]:
    """The retired version that fits best, if it beats both others; and each one's mean loss.

    Against the present and the fresh model the bets have to reach `least` times the number of candidates.
    """
    means = {number: sum(one) / max(1, len(one)) for number, one in losses.items()}
    if not means:
        return None, means
    best = min(means, key=lambda number: (means[number], -number))
    for other in (present, fresh):
        bets = Bets()
        for theirs, ours in zip(other, losses[best], strict=True):
            bets.add(theirs - ours)
        if bets.value < least * len(means):
            return None, means
    return best, means
