"""Members of a mixture, made: from blanks, from pickles, from those that went before them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

import msgspec

from fluvial.config import DriftSettings, EvaluationSettings
from fluvial.errors import SettingsError
from fluvial.late import Lateness
from fluvial.memory import Learned
from fluvial.mixture import ALPHA, Member, Mixture, NonFiniteAnswer, only_hard_labels, reader, uniform
from fluvial.models import takes_weight
from fluvial.models.leaves import forget_leaves
from fluvial.ports import Policy
from fluvial.types import Answer, Retired, Task

Dump = Callable[[Any], bytes]
Load = Callable[[bytes], Any]
"""`models.unpickle`: pickling in the form that the restricted loading accepts."""


def nested(fold: Mapping[str, Any]) -> list[bytes]:
    """Every pickle within a fold's state: whoever opens one verifies these, too, before a fold loads them."""
    reactions = fold.get("reactions", {})
    trial, stock = reactions.get("trial"), reactions.get("stock", ())
    return [
        fold["members"],
        *fold["blanks"].values(),
        *fold["snapshot"].values(),
        *(blob for _, blob in stock),
        *(trial[:1] if trial is not None else ()),
    ]


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
    part: str = "all"
    """What a reset replaces: `all`, the `last-step` of a pipeline, or a tree's `leaves`."""
    warm: bool = True
    """A fresh model after a reset learns the events since the change."""
    lateness: Lateness = Lateness()
    """When a label counts as known."""
    features: tuple[str, ...] = ()
    """The declared ones, in schema order; none: those of the first events are watched."""
    classes: tuple[str, ...] = ()
    """In declared order, for people; none: their numbers."""


def fault_of_keep(keep: Sequence[str], lanes: Mapping[str, Any]) -> str:
    """What is wrong with `policy.keep` for models by lane: a name that no pipeline has; empty if nothing."""
    pipelines = (getattr(model, "steps", None) for model in lanes.values())
    steps = list(dict.fromkeys(name for named in pipelines if isinstance(named, Mapping) for name in named))
    wrong = next((name for name in keep if name not in steps), None)
    if wrong is None:
        return ""
    if not steps:
        return f"policy.keep: {wrong!r}, and the model is no pipeline: it has no steps to keep; remove it"
    nearest = sorted(steps, key=lambda step: -SequenceMatcher(None, wrong.lower(), step.lower()).ratio())
    return f"policy.keep: the model has no step {wrong!r}; its steps are {', '.join(map(repr, nearest))}"


class Crew:
    """Makes the members of one lineage; a blank per lane is what a member that learned nothing is."""

    def __init__(self, spec: Spec, blanks: Mapping[str, bytes]) -> None:
        """Raises SettingsError for steps to keep that no lane has."""
        self._spec = spec
        self.blanks = blanks
        models = {lane: spec.load(blank) for lane, blank in blanks.items()}
        if wrong := fault_of_keep(spec.keep, models):
            raise SettingsError(wrong)
        self._hard = {lane: only_hard_labels(model) for lane, model in models.items()}
        self.takes_weight = {lane: takes_weight(model) for lane, model in models.items()}

    def member(self, lane: str, champion: bool, born: int, model: Any) -> Member:
        """Make a member of `model`; `born` is the fold's count of events when `model` had learned none."""
        ask = reader(model, self._spec.task, self._spec.size, hard=self._hard[lane])
        return Member(lane, model, ask, champion=champion, born=born)

    def blank(self, lane: str, born: int, *, champion: bool = False) -> Member:
        """Make a member that learned nothing."""
        return self.member(lane, champion, born, self._spec.load(self.blanks[lane]))

    def challenger(self, champion: Member, born: int) -> Member:
        """Make a blank member of a champion's lane.

        A scaler of the recent events alone is taken over: the new one would soon be the same but for the
        last bits, and what is equal to the bit is computed once (`fused/ladder.py`).
        """
        from fluvial.models.encoding import StandardiseRecent  # noqa: PLC0415 - River loads scipy

        model = self._spec.load(self.blanks[champion.lane])
        for name, step in getattr(champion.model, "steps", {}).items():
            if isinstance(step, StandardiseRecent):
                model.steps[name] = self._spec.load(self._spec.dump(step))
                model._plan = None  # noqa: SLF001 - River caches the route through the steps
        return self.member(champion.lane, False, born, model)

    def fresh(self, old: Member, born: int) -> Member:
        """Make a blank member in the place of `old`, with what the settings keep of it."""
        if self._spec.part == "leaves":
            model = self._spec.load(self._spec.dump(old.model))
            if forget_leaves(model):
                return self.member(old.lane, old.champion, born, model)
        model = self._spec.load(self.blanks[old.lane])
        steps, old_steps = getattr(model, "steps", None), getattr(old.model, "steps", {})
        for name in list(old_steps)[:-1] if self._spec.part == "last-step" else self._spec.keep:
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

    def champions(self, kept: Retired, events: int) -> list[Member]:
        """Make the members of a kept model, as old as they were, in a fold of `events` labelled events."""
        models = self._spec.load(kept.blob)
        return [self.member(k, True, events - kept.ages.get(k, 0), models[k]) for k in self.blanks]

    def answers(self, members: Sequence[Member], rows: Sequence[Learned]) -> list[Answer]:
        """Ask each member about each row. Give copies: asking changes some models."""
        out: list[Answer] = []
        for x, _, _ in rows:
            for member in members:
                try:
                    answer = member.ask(x)
                except NonFiniteAnswer:
                    answer = None
                out.append(answer if answer is not None else uniform(self._spec.size))
        return out

    def returned(self, kept: Retired, events: int, scale: float) -> Mixture:
        """Make the mixture of a kept model: its champions, as old as they were, and fresh challengers."""
        champions = self.champions(kept, events)
        weights = [kept.weights.get(lane, 1.0) for lane in self.blanks]
        weights = [weight / sum(weights) for weight in weights]
        mixture = Mixture(self._spec.task, self._spec.size, champions, weights, scale)
        self.recruit(mixture, events)
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
