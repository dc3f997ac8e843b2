"""A fresh model learns in the shadow from the change on, and serves when a paired test says it is better.

It costs nothing while nothing changes: the rival exists from a warning or a drift until it is promoted or
dismissed. The test is `fluvial.trial`'s: peeking at it after every event is fair.
"""

from __future__ import annotations

from collections.abc import Sequence

from fluvial.policies.guard import drift_in, hold, signal_in
from fluvial.types import Action, Decision, RivalStanding, Signal, SignalKind, Standing

ASKED = 32
"""Labelled events between two looks at a trial."""
SLACK = 50
"""Labelled events from before a change that a rival may have learned and still stand for what came after."""


def judge(standing: Standing, evidence: float, trial: int) -> Sequence[Decision]:
    """End a trial whose end has come: promote, dismiss, or wait."""
    rival = standing.rival
    if rival is None:
        return ()
    if rival.evidence >= evidence:
        because = f"better than the champion on {rival.tested} events, e-value {rival.evidence:.3g}"
        return (Decision(action=Action.PROMOTE, rival=True, because=because),)
    if rival.against >= evidence:
        because = f"worse than the champion on {rival.tested} events, e-value {rival.against:.3g}"
        return (Decision(action=Action.DISMISS, because=because),)
    if rival.tested >= trial:
        because = f"not better after {rival.tested} events, e-value {rival.evidence:.3g}"
        return (Decision(action=Action.DISMISS, because=because),)
    return ()


def stale(standing: Standing, rival: RivalStanding, drift: Signal) -> bool:
    """Whether the rival learned much that came before this drift's change."""
    return drift.since - (standing.events - rival.age) > SLACK


class Challenger:
    """Answers a warning or a drift by a trial."""

    name = "challenger"
    challengers = 0
    period = ASKED
    recalls = 0

    def __init__(
        self,
        ready: int = 100,
        evidence: float = 100.0,
        trial: int = 2_000,
        cooldown: int = 200,
        max_reactions: int = 10,
    ) -> None:
        self.ready = ready
        self.evidence = evidence
        self.trial = trial
        self.cooldown = cooldown
        self.max_reactions = max_reactions

    def __call__(self, standing: Standing) -> Sequence[Decision]:
        """Judge the trial, or begin one."""
        judged = judge(standing, self.evidence, self.trial)
        if judged:
            return judged
        drift = drift_in(standing)
        alarm = drift or signal_in(standing, SignalKind.WARNING)
        if alarm is None:
            return ()
        if standing.rival is not None and (drift is None or not stale(standing, standing.rival, drift)):
            return ()
        held = hold(standing, alarm, self.cooldown, self.max_reactions)
        if held is not None:
            return (held,)
        return (Decision(action=Action.CHALLENGE, because=f"a {alarm.kind} of the error", signal=alarm),)
