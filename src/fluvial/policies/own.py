"""A policy of the user's own: found by name, given what it leaves out, and held to what a policy is."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from fluvial.errors import SettingsError
from fluvial.types import Action, Decision, Standing

WORDS = 500
"""Characters of a decision's `because`."""
LIMIT = 16
"""Decisions at once."""
WRONG = ("raised", "returned")
"""What a policy does that it may not: how each fault begins."""


def find(factory: str, options: Mapping[str, Any]) -> Own:
    """Make the policy that `package.module:name` makes. Raises SettingsError."""
    module_name, _, name = factory.partition(":")
    try:
        make = getattr(importlib.import_module(module_name), name)
    except Exception as error:  # a module of the user's may raise anything
        hint = f"policy.factory: {factory!r} cannot be imported ({error}); it reads `package.module:Policy`"
        raise SettingsError(hint) from error
    try:
        policy = make(**options)
    except Exception as error:  # as above
        hint = f"policy.factory: {factory!r} raised {type(error).__name__}: {error}"
        raise SettingsError(hint) from error
    if not callable(policy):
        raise SettingsError(
            f"policy.factory: {factory!r} made a {type(policy).__name__}, which has no __call__"
        )
    return Own(policy, factory)


class Own:
    """Total over every standing whatever the user's code does: what it does wrong becomes a `hold`."""

    def __init__(self, policy: Callable[[Standing], Sequence[Decision]], factory: str) -> None:
        self.policy = policy
        self.name = str(getattr(policy, "name", factory))
        self.challengers = self._number("challengers", 8)
        self.period = self._number("period", 10**9)
        self.recalls = self._number("recalls", 20)
        self.ready = self._number("ready", 10**6, 100, least=1)

    def __call__(self, standing: Standing) -> Sequence[Decision]:
        """Ask it."""
        try:
            decisions = self.policy(standing)
            wrong = fault(decisions, standing)
        except Exception as error:  # noqa: BLE001 - the user's code may raise anything
            wrong = f"raised {type(error).__name__}: {error}"
        if wrong:
            return (Decision(action=Action.HOLD, because=f"policy {self.name} {wrong}"[:500]),)
        return tuple(decisions)

    def at_fault(self, because: str) -> bool:
        """Whether a hold with this reason was none of the policy's, but stands for what it did wrong."""
        return because.startswith(tuple(f"policy {self.name} {wrong} " for wrong in WRONG))

    def _number(self, name: str, most: int, default: int = 0, least: int = 0) -> int:
        value = getattr(self.policy, name, default)
        if type(value) is not int or not least <= value <= most:
            allowed = f"{least} to {most:,} it may be"
            raise SettingsError(f"policy.factory: {self.name}.{name} is {value!r}; {allowed}")
        return value


def fault(decisions: object, standing: Standing) -> str:
    """What is wrong with what a policy returned for this standing; empty when nothing is."""
    if not isinstance(decisions, list | tuple):
        return f"returned a {type(decisions).__name__}, expected a list or tuple of decisions"
    if len(decisions) > LIMIT:
        return f"returned {len(decisions)} decisions, at most {LIMIT} make sense"
    for decision in decisions:
        if not isinstance(decision, Decision):
            return f"returned a {type(decision).__name__} among its decisions"
        wrong = _fault_of(decision, standing)
        if wrong:
            return wrong
    return ""


def _fault_of(decision: Decision, standing: Standing) -> str:
    """What is wrong with one decision; empty when nothing is."""
    wrong = _fault_of_fields(decision)
    rival = decision.action is Action.DISMISS or (decision.action is Action.PROMOTE and decision.rival)
    if wrong:
        return f"returned a {decision.action!s} with {wrong}"
    if decision.signal is not None and decision.signal not in standing.signals:
        return f"returned a {decision.action} for a signal that is not in the standing"
    if rival:
        return f"returned a {decision.action} without a rival in the standing" if not standing.rival else ""
    if decision.action in {Action.RESTART, Action.PROMOTE}:
        return _fault_of_member(decision, standing)
    return ""


def _fault_of_fields(decision: Decision) -> str:
    """A struct does not check what it is made of."""
    try:
        msgspec.convert(msgspec.structs.asdict(decision), Decision, strict=True, from_attributes=True)
    except msgspec.ValidationError as error:
        return str(error)
    if len(decision.because) > WORDS:
        return f"{len(decision.because):,} characters of why; {WORDS} are kept with every checkpoint at most"
    return "less than no events" if decision.events < 0 or not decision.half_life >= 0.0 else ""


def _fault_of_member(decision: Decision, standing: Standing) -> str:
    count, k = len(standing.members), decision.member
    if not 0 <= k < count:
        return f"returned a {decision.action} of member {k}; there are {count}, the first is 0"
    if standing.members[k].champion:
        return f"returned a {decision.action} of member {k}, which is a champion"
    return ""
