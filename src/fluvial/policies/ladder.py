"""The worse it gets, the more is done: rungs from mild to severe, and the highest that is reached decides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from fluvial.policies.challenger import ASKED, judge
from fluvial.policies.guard import hold
from fluvial.types import Action, Decision, Signal, SignalKind, Standing


class Rung(NamedTuple):
    """What a signal leads to when what it watches moved by at least so much (see `size`)."""

    on: SignalKind
    action: Action
    rise: float = 0.0
    plane: str = "error"


RUNGS = (
    Rung(SignalKind.WARNING, Action.CHALLENGE),
    Rung(SignalKind.DRIFT, Action.REFIT),
    Rung(SignalKind.DRIFT, Action.RECALL, rise=0.1),
)


def size(signal: Signal) -> float:
    """How much moved: by how much the error rose; of data, the furthest that anything moved, either way.

    0 where that is not a number.
    """
    rose = signal.after - signal.before
    if signal.plane == "error":
        return 0.0 if math.isnan(rose) else rose
    moved = [abs(each.distance) for each in signal.moved] or [abs(rose)]
    return max((distance for distance in moved if not math.isnan(distance)), default=0.0)


class Ladder:
    """Answers by severity."""

    name = "ladder"
    challengers = 0
    period = ASKED

    def __init__(
        self,
        rungs: Sequence[Rung] = RUNGS,
        recalls: int = 5,
        ready: int = 100,
        evidence: float = 100.0,
        trial: int = 2_000,
        cooldown: int = 200,
        max_reactions: int = 10,
    ) -> None:
        self.rungs = tuple(rungs)
        self.recalls = recalls if any(rung.action is Action.RECALL for rung in self.rungs) else 0
        self.ready = ready
        self.evidence = evidence
        self.trial = trial
        self.cooldown = cooldown
        self.max_reactions = max_reactions

    def __call__(self, standing: Standing) -> Sequence[Decision]:
        """Climb to the highest rung that is reached; without one judge the trial, and say what fell short."""
        reached = self._reached(standing)
        if reached is None:
            return (*judge(standing, self.evidence, self.trial), *self._short(standing))
        rung, signal = reached
        because = f"a {signal.kind} of {signal.plane}, {signal.before:.3f} to {signal.after:.3f}"
        if rung.action is Action.HOLD:
            return (Decision(action=Action.HOLD, because=because, signal=signal),)
        if rung.action is Action.CHALLENGE and standing.rival is not None:
            return judge(standing, self.evidence, self.trial)
        held = hold(standing, signal, self.cooldown, self.max_reactions)
        if held is not None:
            return (held,)
        return (Decision(action=rung.action, because=because, signal=signal),)

    def _reached(self, standing: Standing) -> tuple[Rung, Signal] | None:
        """The last rung that some signal reaches, and that signal."""
        for rung in reversed(self.rungs):
            for signal in standing.signals:
                same = (signal.kind, signal.plane) == (rung.on, rung.plane)
                if same and size(signal) >= rung.rise:
                    return rung, signal
        return None

    def _short(self, standing: Standing) -> list[Decision]:
        """A hold for each signal that has a rung, and reaches none."""
        held = []
        for signal in standing.signals:
            rises = [rung.rise for rung in self.rungs if (rung.on, rung.plane) == (signal.kind, signal.plane)]
            if rises:
                moved = "rose" if signal.plane == "error" else "moved"
                because = (
                    f"{signal.plane} {moved} by {size(signal):.3f}; the lowest rung is at {min(rises):g}"
                )
                held.append(Decision(action=Action.HOLD, because=because, signal=signal))
        return held
