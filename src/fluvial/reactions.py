"""What the fold does when its policy asks for it: models are replaced, and a version says why.

The other half of the learner: `learner.py` has the step. Pure as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from fluvial.crew import Crew, Spec
from fluvial.drift.error import ErrorMonitor
from fluvial.errors import ModelError
from fluvial.lineage import Lineage, told
from fluvial.memory import Memory
from fluvial.mixture import Member, Mixture
from fluvial.policies import STORM_WINDOW
from fluvial.types import (
    Action,
    Decision,
    Entry,
    Event,
    Rare,
    Retired,
    Signal,
    Standing,
    Version,
)


class Note:
    """What one step has to say beside its answer, while it is being gathered."""

    def __init__(self, signals: Sequence[Signal] = ()) -> None:
        self.signals = signals
        self.versions: list[Version] = []
        self.entries: list[Entry] = []
        self.retired: list[Retired] = []

    def rare(self) -> Rare | None:
        """Freeze it; None when there is nothing to say."""
        if not (self.signals or self.versions or self.entries or self.retired):
            return None
        return Rare(
            signals=tuple(self.signals),
            versions=tuple(self.versions),
            entries=tuple(self.entries),
            retired=tuple(self.retired),
        )


class Reactions:
    """The part of a learner that carries out what its policy decides."""

    spec: Spec
    mixture: Mixture
    monitor: ErrorMonitor
    memory: Memory
    lineage: Lineage
    events: int
    counts: Counter[str]
    _crew: Crew
    _fresh_at: int
    _snapshot: Mapping[str, bytes]
    _version: int

    def metrics(self) -> dict[str, dict[str, float]]:
        """The learner's prequential metrics."""
        raise NotImplementedError

    @property
    def _before_this_event(self) -> int:
        """Labelled events without the present one, which will be a new member's first."""
        return max(0, self.events - 1)

    def _react(self, event: Event, signals: Sequence[Signal]) -> Note:
        """Ask the policy and carry out what it decides."""
        note = Note(signals)
        for signal in signals:
            self.counts[f"{signal.kind}:{signal.plane}"] += 1
            note.entries.append(self._entry(signal.kind, event, told(signal)))
        for decision in self.spec.policy(self.standing(signals)):
            turn = decision.action is Action.RESTART and decision.signal is None
            self.counts["turns" if turn else f"reaction:{decision.action}"] += 1
            if decision.action is Action.HOLD:
                note.entries.append(self._entry("hold", event, {"because": decision.because}))
            elif decision.action is Action.RESET:
                self._reset(event, decision, note)
            elif decision.action is Action.RESTART:
                self._restart(event, decision, note)
            else:
                self._promote(event, decision, note)
        return note

    def standing(self, signals: Sequence[Signal] = ()) -> Standing:
        """Everything a policy may look at."""
        return Standing(
            events=self.events,
            since_reaction=self.lineage.since_reaction(self.events),
            recent_reactions=self.lineage.recent(self.events, STORM_WINDOW),
            signals=tuple(signals),
            members=self.mixture.standings(self.events),
        )

    def _reset(self, event: Event, decision: Decision, note: Note) -> None:
        """Replace every member by a fresh one, taught what came since the change."""
        self._retire(note)
        since = decision.signal.since if decision.signal is not None else self.events
        # The current event is in memory already and is learned right after this.
        warm = self.memory.newest(self.events - since)[:-1] if self.spec.warm else []
        for index, old in enumerate(self.mixture.members):
            fresh = self._crew.fresh(old, self._before_this_event)
            self._teach(fresh, warm, event)
            self.mixture.members[index] = fresh
        self.mixture.weights = [1.0 / len(self.mixture.weights)] * len(self.mixture.weights)
        self.monitor.restart()
        self._fresh_at = self.events
        self._snapshot = {}  # of the model that was given up
        self._make_version(
            "reset", event, decision, note, {"warmed_on": len(warm), "kept": list(self.spec.keep)}
        )

    def _restart(self, event: Event, decision: Decision, note: Note) -> None:
        """Start a challenger afresh, in the lane that leads now."""
        weights = zip(self.mixture.weights, self.mixture.members, strict=True)
        lane = max(((w, m.lane) for w, m in weights if m.champion), key=lambda pair: pair[0])[1]
        self.mixture.members[decision.member] = self._crew.blank(lane, self._before_this_event)
        self.mixture.demote(decision.member)
        if decision.signal is not None:
            self._make_version("restart", event, decision, note, {"member": decision.member, "lane": lane})

    def _promote(self, event: Event, decision: Decision, note: Note) -> None:
        """Make a challenger the champion of its lane; a fresh challenger takes its place."""
        members, weights = self.mixture.members, self.mixture.weights
        lane, k = members[decision.member].lane, decision.member
        champion = next(i for i, m in enumerate(members) if m.champion and m.lane == lane)
        self._retire(note)
        members[k].champion = True
        members[champion] = members[k]
        weights[champion] = weights[k]
        members[k] = self._crew.blank(lane, self._before_this_event)
        self.mixture.demote(k)
        age = self.events - members[champion].born
        self._make_version("promotion", event, decision, note, {"lane": lane, "age": age})

    def _make_version(
        self, cause: str, event: Event, decision: Decision | None, note: Note, detail: Mapping[str, Any]
    ) -> None:
        because = {"because": decision.because} if decision is not None else {}
        signal = {"signal": told(decision.signal)} if decision is not None and decision.signal else {}
        metrics = self.metrics()["fading"]
        version = self.lineage.advance(cause, event, self.events, {**detail, **because, **signal}, metrics)
        self._version = version.number
        self.lineage.reacted(self.events)
        note.versions.append(version)
        note.entries.append(self._entry("version", event, msgspec.to_builtins(version)))

    def _retire(self, note: Note) -> None:
        """Keep what answers now, so that it can be brought back."""
        blob = self.spec.dump({m.lane: m.model for m in self.mixture.members if m.champion})
        note.retired.append(Retired(version=self.lineage.current, blob=blob))

    # ---- members -----------------------------------------------------------------------------

    def _teach(self, member: Member, rows: Sequence[Any], event: Event) -> None:
        try:
            for x, y, weight in rows:
                if self.spec.weighted:
                    member.teach(x, y, w=weight)
                else:
                    member.teach(x, y)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # as above
            raise ModelError(event.partition, event.offset, "warm", error) from error
        member.born -= len(rows)

    def _entry(self, kind: str, event: Event, detail: Mapping[str, Any]) -> Entry:
        return Entry(
            kind=kind, partition=event.partition, offset=event.offset, time=event.time, detail=detail
        )
