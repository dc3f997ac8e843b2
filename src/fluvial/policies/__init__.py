"""Drift policies: pure functions from a standing to decisions. They decide, the learner acts."""

from __future__ import annotations

from fluvial.config import PolicySettings
from fluvial.policies.challenger import Challenger
from fluvial.policies.ladder import RUNGS, Ladder, Rung
from fluvial.policies.observe import Observe
from fluvial.policies.own import Own, find
from fluvial.policies.recall import Recall
from fluvial.policies.reset import Refit, Reset
from fluvial.policies.reweight import Reweight
from fluvial.policies.scheduled import Scheduled
from fluvial.ports import Policy
from fluvial.types import Action, SignalKind

__all__ = [
    "RUNGS",
    "STORM_WINDOW",
    "Challenger",
    "Ladder",
    "Observe",
    "Own",
    "Recall",
    "Refit",
    "Reset",
    "Reweight",
    "Rung",
    "Scheduled",
    "make_policy",
]

STORM_WINDOW = 10_000
"""Labelled events over which reactions are counted for the storm breaker."""

_ACTIONS = {
    "hold": Action.HOLD,
    "challenger": Action.CHALLENGE,
    "refit": Action.REFIT,
    "reset": Action.RESET,
    "recall": Action.RECALL,
}


def make_policy(settings: PolicySettings) -> Policy:
    """Make the policy that the settings name. Raises SettingsError for a factory that makes none."""
    if settings.factory is not None:
        return find(settings.factory, settings.options)
    guards = {"cooldown": settings.cooldown, "max_reactions": settings.max_reactions}
    made: Policy
    match settings.name:
        case "observe":
            made = Observe()
        case "reset":
            made = Reset(**guards)
        case "refit":
            made = Refit(settings.refit_events, settings.half_life, **guards)
        case "scheduled":
            made = _scheduled(settings)
        case "reweight":
            made = Reweight(settings.challengers, settings.restart_every, **guards)
        case _:
            made = _trying(settings, guards)
    return made


def _scheduled(settings: PolicySettings) -> Policy:
    return Scheduled(
        interval_events=settings.interval_events,
        interval_seconds=settings.interval_seconds,
        action=_ACTIONS[settings.action],
        events=settings.refit_events,
        half_life=settings.half_life,
    )


def _trying(settings: PolicySettings, guards: dict[str, int]) -> Policy:
    """Those that put a rival on trial."""
    ready, evidence, trial = settings.ready, settings.evidence, settings.trial
    if settings.name == "challenger":
        return Challenger(ready, evidence, trial, **guards)
    if settings.name == "recall":
        return Recall(settings.recalls, ready, evidence, trial, **guards)
    rungs = [
        Rung(SignalKind(rung.on), _ACTIONS[rung.action], rung.rise, rung.plane) for rung in settings.rungs
    ]
    return Ladder(rungs or RUNGS, settings.recalls, ready, evidence, trial, **guards)
