"""The worse it gets, the more is done: rungs from mild to severe, and the highest that is reached decides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fluvial.policies.challenger import ASKED, judge
from fluvial.policies.guard import hold
from fluvial.types import Action, Decision, Signal, SignalKind, Standing


class Rung(NamedTuple):
    """What a signal leads to when its mean rose by at least so much."""

    on: SignalKind
    action: Action
    rise: float = 0.0
    plane: str = "error"


RUNGS = (
    Rung(SignalKind.WARNING, Action.CHALLENGE),
    Rung(SignalKind.DRIFT, Action.REFIT),
    Rung(SignalKind.DRIFT, Action.RECALL, rise=0.1),
)


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
        """Climb to the highest rung that a signal reaches; without one judge the trial."""
        reached = self._reached(standing)
        if reached is None:
            return judge(standing, self.evidence, self.trial)
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
                if same and signal.after - signal.before >= rung.rise:
                    return rung, signal
        return None
