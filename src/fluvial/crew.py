"""Members of a mixture, made: from blanks, from pickles, from those that went before them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from fluvial.config import DriftSettings, EvaluationSettings
from fluvial.mixture import ALPHA, Member, Mixture, only_hard_labels, reader
from fluvial.ports import Policy
from fluvial.types import Task

Dump = Callable[[Any], bytes]
Load = Callable[[bytes], Any]
"""`models.unpickle`: pickling in the form that the restricted loading accepts."""


class Spec(msgspec.Struct, frozen=True):
    """What the fold is configured with. Never part of the state: a changed setting takes effect."""

    task: Task
    size: int
    """Length of an answer: classes, or 1 in regression."""
    policy: Policy
    dump: Dump
    load: Load
    drift: DriftSettings = DriftSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    weighted: bool = False
    """Events carry a sample weight, and the model takes it."""
    keep: tuple[str, ...] = ()
    """Pipeline steps that survive a reset."""
    warm: bool = True
    """A fresh model after a reset learns the events since the change."""
    features: tuple[str, ...] = ()
    """The declared ones, in schema order; none: those of the first events are watched."""
    classes: tuple[str, ...] = ()
    """In declared order, for people; none: their numbers."""


class Crew:
    """Makes the members of one lineage; a blank per lane is what a member that learned nothing is."""

    def __init__(self, spec: Spec, blanks: Mapping[str, bytes]) -> None:
        self._spec = spec
        self.blanks = blanks
        self._hard = {lane: only_hard_labels(spec.load(blank)) for lane, blank in blanks.items()}

    def member(self, lane: str, champion: bool, born: int, model: Any) -> Member:
        """Make a member of `model`; `born` is the fold's count of events when `model` had learned none."""
        ask = reader(model, self._spec.task, self._spec.size, hard=self._hard[lane])
        return Member(lane, model, ask, champion=champion, born=born)

    def blank(self, lane: str, born: int, *, champion: bool = False) -> Member:
        """Make a member that learned nothing."""
        return self.member(lane, champion, born, self._spec.load(self.blanks[lane]))

    def fresh(self, old: Member, born: int) -> Member:
        """Make a blank member in the place of `old`, with the pipeline steps that the settings keep."""
        model = self._spec.load(self.blanks[old.lane])
        steps, old_steps = getattr(model, "steps", None), getattr(old.model, "steps", {})
        for name in self._spec.keep:
            if steps is not None and name in steps and name in old_steps:
                steps[name] = old_steps[name]
                model._plan = None  # noqa: SLF001 - River caches the route through the steps
        return self.member(old.lane, old.champion, born, model)

    def beginners(self, born: int) -> Mixture:
        """Make the mixture that a lineage begins with: a blank champion per lane, and challengers."""
        champions = [self.blank(lane, born, champion=True) for lane in self.blanks]
        even = [1.0 / len(champions)] * len(champions)
        mixture = Mixture(self._spec.task, self._spec.size, champions, even, 0.0)
        self.recruit(mixture, born)
        return mixture

    def dump(self, members: Sequence[Member]) -> bytes:
        """Pickle members, for `load`."""
        return self._spec.dump([(m.lane, m.champion, m.born, m.model) for m in members])

    def load(self, dumped: bytes) -> list[Member]:
        """Undo `dump`."""
        return [self.member(*row) for row in self._spec.load(dumped)]

    def recruit(self, mixture: Mixture, born: int) -> None:
        """Make the number of challengers what the policy wants: it may be another one after a restart."""
        wanted = self._spec.policy.challengers
        champions = [k for k, m in enumerate(mixture.members) if m.champion]
        challengers = [k for k, m in enumerate(mixture.members) if not m.champion]
        if len(challengers) == wanted:
            return  # not even a renormalisation: a resumed fold must be the same to the bit
        kept = champions + challengers[:wanted]
        mixture.members = [mixture.members[k] for k in kept]
        mixture.weights = [mixture.weights[k] for k in kept]
        lane = mixture.members[0].lane
        for _ in range(wanted - len(challengers)):
            mixture.members.append(self.blank(lane, born))
            mixture.weights.append(ALPHA)
        total = sum(mixture.weights)
        mixture.weights = [w / total for w in mixture.weights]
