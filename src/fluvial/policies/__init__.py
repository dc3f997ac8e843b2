"""Drift policies: pure functions from a standing to decisions. They decide, the learner acts."""

from __future__ import annotations

from fluvial.config import PolicySettings
from fluvial.policies.observe import Observe
from fluvial.policies.reset import Reset
from fluvial.policies.reweight import Reweight
from fluvial.ports import Policy

__all__ = ["STORM_WINDOW", "Observe", "Reset", "Reweight", "make_policy"]

STORM_WINDOW = 10_000
"""Labelled events over which reactions are counted for the storm breaker."""


def make_policy(settings: PolicySettings) -> Policy:
    """Make the policy that the settings name."""
    if settings.name == "observe":
        return Observe()
    if settings.name == "reset":
        return Reset(cooldown=settings.cooldown, max_reactions=settings.max_reactions)
    return Reweight(
        challengers=settings.challengers,
        restart_every=settings.restart_every,
        cooldown=settings.cooldown,
        max_reactions=settings.max_reactions,
    )
