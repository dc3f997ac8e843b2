"""A champion and staggered challengers, mixed by recent loss: never much worse than the best of them.

Each challenger starts afresh every `restart_every` labelled events, in turn, half a period apart with
two of them. One that holds over half the weight while the champion of its lane holds under a fifth
becomes the champion before it would start afresh. At a drift the weaker challenger starts afresh.
"""

from __future__ import annotations

from collections.abc import Sequence

from fluvial.policies.guard import drift_in, hold
from fluvial.types import Action, Decision, MemberStanding, Signal, Standing

PROMOTE_OVER = 0.5
DEMOTE_UNDER = 0.2


class Reweight:
    """The default policy. The mixing itself is the learner's; this adds, restarts and promotes."""

    name = "reweight"
    recalls = 0
    ready = 0

    def __init__(
        self, challengers: int = 2, restart_every: int = 2_000, cooldown: int = 200, max_reactions: int = 10
    ) -> None:
        self.challengers = challengers
        self.period = max(1, restart_every // challengers)
        self.cooldown = cooldown
        self.max_reactions = max_reactions

    def __call__(self, standing: Standing) -> Sequence[Decision]:
        """Answer a drift first; otherwise restart the challenger whose turn it is."""
        challengers = [k for k, member in enumerate(standing.members) if not member.champion]
        if not challengers:
            return ()
        drift = drift_in(standing)
        if drift is not None:
            held = hold(standing, drift, self.cooldown, self.max_reactions)
            return (held,) if held is not None else (self._answer(standing, challengers, drift),)
        if self.period and standing.events % self.period == 0:
            turn = challengers[(standing.events // self.period) % len(challengers)]
            return (self._renew(standing, turn, "its turn"),)
        return ()

    def _answer(self, standing: Standing, challengers: list[int], drift: Signal) -> Decision:
        """Restart the weaker challenger, so that one begins right after the change; keep it if it answers."""
        weaker = min(challengers, key=lambda k: standing.members[k].weight)
        return self._renew(standing, weaker, "the error rose", drift)

    def _renew(self, standing: Standing, k: int, because: str, signal: Signal | None = None) -> Decision:
        """Promote a challenger if it leads, which makes a fresh one in its place; else start it afresh."""
        challenger = standing.members[k]
        champion = self._champion_of(standing, challenger)
        if challenger.weight > PROMOTE_OVER and champion.weight < DEMOTE_UNDER:
            because = f"holds {challenger.weight:.2f} of the weight, the champion {champion.weight:.2f}"
            return Decision(action=Action.PROMOTE, member=k, because=because, signal=signal)
        return Decision(action=Action.RESTART, member=k, because=because, signal=signal)

    def _champion_of(self, standing: Standing, challenger: MemberStanding) -> MemberStanding:
        return next((m for m in standing.members if m.champion and m.name == challenger.name), challenger)
