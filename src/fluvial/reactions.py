"""What the fold does when its policy asks for it: models are replaced, and a version says why.

The other half of the learner: `learner.py` has the step. Pure as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import msgspec

from fluvial.codec.compiled import MIN_WEIGHT
from fluvial.crew import Crew, Spec
from fluvial.drift.error import ErrorMonitor
from fluvial.drift.planes import Planes
from fluvial.errors import ModelError
from fluvial.ledger import Ledger
from fluvial.lineage import Lineage, told
from fluvial.memory import RING, Learned, Memory, Row
from fluvial.mixture import Member, Mixture, NonFiniteAnswer
from fluvial.policies import STORM_WINDOW
from fluvial.trial import Trial, best_retired
from fluvial.types import (
    Action,
    Answer,
    Decision,
    Entry,
    Event,
    Feature,
    Label,
    Rare,
    Retired,
    Signal,
    Standing,
    Task,
    Version,
)

SAME_ANSWERS = ("promotion", "restart")
"""Causes of versions that answer as the one before did: the mixture is the same."""
LOOK_BACK = 500
"""Events on which retired models are compared when a policy recalls without a dated change."""
ASKS = 9
"""Times at which the policy was asked that stand for the hour: no single event can move their middle far."""
RECALL_EVIDENCE = 20.0
"""E-value, for each candidate, that a retired model needs against the present and the fresh one."""


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


class Derived(Mapping[str, float]):
    """Metrics that are derived when somebody looks: most policies do not, and are asked often."""

    def __init__(self, derive: Callable[[], Mapping[str, float]]) -> None:
        self._derive = derive

    @cached_property
    def _metrics(self) -> Mapping[str, float]:
        return self._derive()

    def __getitem__(self, name: str) -> float:
        return self._metrics[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._metrics)

    def __len__(self) -> int:
        return len(self._metrics)


def faded(rows: Sequence[Learned], half_life: float) -> list[Learned]:
    """Rows whose weight halves with every `half_life` events of age; the newest keeps its own.

    Those that weigh less than an event may are left out: River's trees divide by weights.
    """
    last = len(rows) - 1
    weighed = [(x, y, w * 0.5 ** ((last - i) / half_life)) for i, (x, y, w) in enumerate(rows)]
    return [row for row in weighed if row[2] >= MIN_WEIGHT]


def _middle(times: Sequence[float]) -> float | None:
    """The lower median; None of none."""
    return sorted(times)[(len(times) - 1) // 2] if times else None


def _before(ledger: Ledger, event: Event) -> Mapping[str, Any]:
    return ledger.before(event.partition, event.offset, labelled=event.y is not None)


def _instead(decision: Decision) -> Decision:
    return msgspec.structs.replace(decision, action=Action.RESET)


def ask_one(member: Member, x: dict[str, Feature], about: Event, doing: str = "predict") -> Answer | None:
    """Ask one member. Raises NonFiniteAnswer, and ModelError at `about` for whatever the model raises."""
    try:
        return member.ask(x)
    except (KeyboardInterrupt, SystemExit, NonFiniteAnswer):
        raise
    except BaseException as error:  # native objects raise PanicException, which is no Exception
        raise ModelError(about.partition, about.offset, doing, error) from error


def _mean(losses: Sequence[float]) -> float:
    return round(sum(losses) / max(1, len(losses)), 4)


class Reactions:
    """The part of a learner that carries out what its policy decides."""

    spec: Spec
    mixture: Mixture
    monitor: ErrorMonitor
    planes: Planes
    memory: Memory
    ledger: Ledger
    lineage: Lineage
    events: int
    counts: Counter[str]
    _crew: Crew
    _fresh_at: int
    _snapshot: Mapping[str, bytes]
    _version: int
    _rows: list[Row]
    _asked: list[float]
    """Event times at which the policy was asked last, `ASKS` at most, the newest last."""
    _stock: list[tuple[int, bytes]]
    """Retired models that can be recalled, by the version that each served as, the oldest first."""
    _trial: Trial | None

    def fading_metrics(self) -> dict[str, float]:
        """The learner's fading prequential metrics, to the newest event."""
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
        for decided in self.spec.policy(self.standing(signals, event.time)):
            decision = self._possible(decided)
            turn = decision.action is Action.RESTART and decision.signal is None
            self.counts["turns" if turn else f"reaction:{decision.action}"] += 1
            self._carry_out(event, decision, note)
        self._asked = [*self._asked, event.time][-ASKS:]
        return note

    def _possible(self, decision: Decision) -> Decision:
        """The same, or a hold where it is about a trial and there is none."""
        about_rival = decision.action is Action.DISMISS or (
            decision.action is Action.PROMOTE and decision.rival
        )
        if self._trial is not None or not about_rival:
            return decision
        because = (
            f"no {decision.action} of a rival: none is on trial; a decision before this one may have ended it"
        )
        return Decision(action=Action.HOLD, because=because, signal=decision.signal)

    def _carry_out(self, event: Event, decision: Decision, note: Note) -> None:
        """Do one thing that the policy decided."""
        match decision.action:
            case Action.HOLD:
                note.entries.append(self._entry("hold", event, {"because": decision.because}))
            case Action.RESET | Action.REFIT:
                self._renew(event, decision, note)
            case Action.RESTART:
                self._restart(event, decision, note)
            case Action.PROMOTE if decision.rival:
                self._adopt(event, decision, note)
            case Action.PROMOTE:
                self._promote(event, decision, note)
            case Action.RECALL:
                self._recall(event, decision, note)
            case Action.CHALLENGE:
                self._challenge(event, decision, note)
            case Action.DISMISS:
                self._dismiss(event, decision, note)

    def standing(self, signals: Sequence[Signal] = (), time: float = 0.0) -> Standing:
        """Everything a policy may look at, at this event time."""
        return Standing(
            events=self.events,
            since_reaction=self.lineage.since_reaction(self.events),
            recent_reactions=self.lineage.recent(self.events, STORM_WINDOW),
            signals=tuple(signals),
            members=self.mixture.standings(self.events),
            time=time,
            asked=_middle(self._asked),
            versions=tuple(self.lineage.versions),
            retired=tuple(number for number, _ in self._stock),
            rival=self._trial.standing(self.events) if self._trial is not None else None,
            loss=self.monitor.level,
            metrics=Derived(self.fading_metrics),
        )

    def _renew(self, event: Event, decision: Decision, note: Note) -> None:
        """Reset or refit: replace every member by a fresh one, taught the newest events."""
        refit = decision.action is Action.REFIT
        warm = self._since(decision) if refit or self.spec.warm else []
        if refit and decision.events:
            warm = self._newest(decision.events)
        fading = refit and decision.half_life > 0.0
        recent = faded(warm, decision.half_life) if fading else warm
        taught = 0
        self._retire(note, event)
        for index, old in enumerate(self.mixture.members):
            fresh = self._crew.fresh(old, self._before_this_event)
            weighted = fading and self._crew.takes_weight[old.lane]
            rows = recent if weighted else warm
            self._teach(fresh, rows, event, weighted=weighted)
            taught = max(taught, len(rows))
            self.mixture.members[index] = fresh
        self._level_weights()
        detail: dict[str, Any] = {"warmed_on": taught, "kept": list(self.spec.keep)}
        if self.spec.part != "all":
            detail["part"] = self.spec.part
        self._make_version(str(decision.action), event, decision, note, detail)

    def _level_weights(self) -> None:
        """Forget what was known of members that are gone: weights, losses, the snapshot."""
        self.mixture.weights = [1.0 / len(self.mixture.weights)] * len(self.mixture.weights)
        self.monitor.restart()
        self._fresh_at = self.events
        self._snapshot = {}

    def _forget_snapshots(self, *lanes: str) -> None:
        """They are of champions that are gone, or as sick as those that they should have healed."""
        self._snapshot = {lane: blob for lane, blob in self._snapshot.items() if lane not in lanes}

    def _restart(self, event: Event, decision: Decision, note: Note) -> None:
        """Start a challenger afresh, in the lane that leads now."""
        lane = self._leading_lane()
        champion = self.mixture.members[self._champion_of(lane)]
        self.mixture.members[decision.member] = self._crew.challenger(champion, self._before_this_event)
        self.mixture.demote(decision.member)
        if decision.signal is not None:
            self._make_version("restart", event, decision, note, {"member": decision.member, "lane": lane})

    def _promote(self, event: Event, decision: Decision, note: Note) -> None:
        """Make a challenger the champion of its lane; a fresh challenger takes its place."""
        members, weights = self.mixture.members, self.mixture.weights
        lane, k = members[decision.member].lane, decision.member
        champion = next(i for i, m in enumerate(members) if m.champion and m.lane == lane)
        self._retire(note, event)
        members[k].champion = True
        members[champion] = members[k]
        weights[champion] = weights[k]
        self._forget_snapshots(lane)
        members[k] = self._crew.challenger(members[champion], self._before_this_event)
        self.mixture.demote(k)
        age = self.events - members[champion].born
        self._make_version("promotion", event, decision, note, {"lane": lane, "age": age})

    def _make_version(
        self, cause: str, event: Event, decision: Decision | None, note: Note, detail: Mapping[str, Any]
    ) -> None:
        because = {"because": decision.because} if decision is not None else {}
        signal = {"signal": told(decision.signal)} if decision is not None and decision.signal else {}
        self._try(None)  # of a model that was to take the place of one that is gone
        metrics = self.fading_metrics()
        version = self.lineage.advance(cause, event, self.events, {**detail, **because, **signal}, metrics)
        self._version = version.number
        if cause not in SAME_ANSWERS:
            self.planes.restart(self.events)
        self.lineage.reacted(self.events, STORM_WINDOW)
        note.versions.append(version)
        note.entries.append(self._entry("version", event, msgspec.to_builtins(version)))

    def _retire(self, note: Note, event: Event | None = None) -> None:
        """Keep what answers now, so that it can be brought back."""
        retired = self.retired(event)
        note.retired.append(retired)
        if self.spec.policy.recalls:
            self._stock = [*self._stock, (retired.version, retired.blob)][-self.spec.policy.recalls :]

    def retired(self, event: Event | None = None) -> Retired:
        """What answers now, as it is kept once it is replaced. `event` is under way and not yet learned."""
        weighted = zip(self.mixture.members, self.mixture.weights, strict=True)
        champions = [(m, w) for m, w in weighted if m.champion]
        ledger = self.ledger
        return Retired(
            version=self.lineage.current,
            blob=self.spec.dump({m.lane: m.model for m, _ in champions}),
            served=self.lineage.versions[-1],
            weights={m.lane: w for m, w in champions},
            ages={m.lane: self.events - m.born for m, _ in champions},
            ledger=ledger.state() if event is None else _before(ledger, event),
            metrics=self.fading_metrics(),
        )

    # ---- recall ------------------------------------------------------------------------------

    def _recall(self, event: Event, decision: Decision, note: Note) -> None:
        """Bring the retired version back that fits the events since the change best, or reset."""
        if not self._stock:
            self._renew(event, _instead(decision), note)
            return
        asked = self._answered_since(decision) - len(self._rows)  # those are not in memory yet
        rows = self.memory.newest(asked)
        if not self._rows:  # at the end of a block the present event is in memory already
            rows = rows[:-1]
        present = self.memory.losses(asked)[: len(rows)]
        fresh = self._troupe({})
        losses, raised = self._auditions(rows, event)
        usual = self._audition(fresh, rows, event)
        chosen, means = best_retired(losses, present, usual, RECALL_EVIDENCE)
        told_of = {str(number): round(mean, 4) for number, mean in means.items()}
        compared = {"events": len(rows), "present": _mean(present), "fresh": _mean(usual), "retired": told_of}
        if raised:
            compared["raised"] = raised
        if chosen is None:
            note.entries.append(self._entry("not-recalled", event, compared))
            self._renew(event, _instead(decision), note)
            return
        self._return(chosen, fresh, event, decision, note, compared)

    def _return(
        self,
        chosen: int,
        fresh: Mixture,
        event: Event,
        decision: Decision,
        note: Note,
        compared: Mapping[str, Any],
    ) -> None:
        """Let a retired version serve again; the fresh model that it was better than goes on trial."""
        models = self.spec.load(next(blob for number, blob in self._stock if number == chosen))
        warm = self._newest(self._answered_since(decision) - 1) if decision.signal is not None else []
        self._retire(note, event)
        self._stock = [kept for kept in self._stock if kept[0] != chosen]
        for index, old in enumerate(self.mixture.members):
            lane = old.lane
            if old.champion and lane in models:
                member = self._crew.member(lane, True, self._before_this_event, models[lane])
            else:
                member = self._crew.blank(lane, self._before_this_event, champion=old.champion)
            self._teach(member, warm, event)
            self.mixture.members[index] = member
        self._level_weights()
        self._make_version("recall", event, decision, note, {"recalled": chosen, "compared": compared})
        rival = next(m for m in fresh.members if m.lane == self._leading_lane())
        rival.champion = False
        self._try(Trial(rival, self.events, self.spec.policy.ready))

    def _answered_since(self, decision: Decision) -> int:
        """Labelled events since the change, at most those that the present model answered.

        The ones before it were learned by a model that is retired: it would be judged on what it knows,
        and taught it twice.
        """
        since = decision.signal.since if decision.signal is not None else self.events - LOOK_BACK
        return self.events - max(since, self._fresh_at)

    def _auditions(
        self, rows: Sequence[Learned], event: Event
    ) -> tuple[dict[int, list[float]], dict[str, str]]:
        """Losses of each retired model on these rows; what others raised, which do not come back."""
        losses: dict[int, list[float]] = {}
        raised: dict[str, str] = {}
        for number, blob in self._stock:
            try:
                losses[number] = self._audition(self._troupe(self.spec.load(blob)), rows, event)
            except ModelError as error:
                raised[str(number)] = error.detail
        return losses, raised

    def _troupe(self, models: Mapping[str, Any]) -> Mixture:
        """A mixture of its own of these models by lane; of a blank where there is none."""
        born = self._before_this_event
        members = [
            self._crew.member(lane, True, born, models[lane] if lane in models else self.spec.load(blank))
            for lane, blank in self._crew.blanks.items()
        ]
        even = [1.0 / len(members)] * len(members)
        return Mixture(self.spec.task, self.spec.size, members, even, self.mixture.scale)

    def _audition(self, mixture: Mixture, rows: Sequence[Learned], event: Event) -> list[float]:
        """Losses of a mixture that predicts and learns these rows; an answer that is not one counts 1."""
        losses: list[float] = []
        for x, y, weight in rows:
            try:
                answers = [ask_one(member, x, event, "warm") for member in mixture.members]
                answer = mixture.combine(answers)
            except NonFiniteAnswer:
                answer = None
            losses.append(1.0 if answer is None else self._loss(y, answer))
            if answer is not None:
                mixture.reweigh(y, answers, answer)
            for member in mixture.members:
                self._teach(member, [(x, y, weight)], event)
        return losses

    def _loss(self, y: Label, answer: Answer) -> float:
        """Loss of an answer, 0 to 1: was it wrong; in regression how far it was off, over a slow scale."""
        if self.spec.task is not Task.REGRESSION:
            return 0.0 if answer.index(max(answer)) == y else 1.0
        scale = 4.0 * self.monitor.scale
        return min(1.0, abs(float(y) - answer[0]) / scale) if scale > 0.0 else 0.0

    # ---- the trial in the shadow -------------------------------------------------------------

    def _challenge(self, event: Event, decision: Decision, note: Note) -> None:
        """Put a fresh model on trial."""
        lane = self._leading_lane()
        rival, warm = self._crew.blank(lane, self._before_this_event), self._since(decision)
        self._teach(rival, warm, event)
        self._try(Trial(rival, self.events, self.spec.policy.ready))
        detail = {"because": decision.because, "lane": lane, "warmed_on": len(warm)}
        note.entries.append(self._entry("challenge", event, detail))

    def _try(self, trial: Trial | None) -> None:
        """Begin a trial, or end it; its lane does not rest meanwhile."""
        self._trial = trial
        self.mixture.awake = None if trial is None else trial.member.lane

    def _compare(self, event: Event, y: Label, answers: Sequence[Answer | None]) -> Rare | None:
        """Ask the rival what its champion was asked, before either sees the label."""
        trial = self._trial
        if trial is None:
            return None
        try:
            theirs = ask_one(trial.member, event.x, event)
        except NonFiniteAnswer:
            self.counts["non-finite"] += 1
            self._try(None)
            because = {"because": "its answer was not finite"}
            return Rare(entries=(self._entry("dismissal", event, because),))
        ours = answers[self._champion_of(trial.member.lane)]
        if theirs and ours:  # empty: it rests
            trial.compare(self.events, self._loss(y, ours), self._loss(y, theirs))
        return None

    def _adopt(self, event: Event, decision: Decision, note: Note) -> None:
        """Let the rival take its champion's place."""
        trial = self._trial
        if trial is None:
            return
        at = trial.standing(self.events)
        self._retire(note, event)
        trial.member.champion = True
        self.mixture.members[self._champion_of(trial.member.lane)] = trial.member
        self.monitor.restart()
        self._fresh_at = self.events
        self._snapshot = {}
        detail = {"lane": at.lane, "age": at.age, "tested": at.tested, "evidence": at.evidence}
        self._make_version("promotion", event, decision, note, detail)
        self.planes.restart(self.events)  # a rival never served, unlike a challenger of the mixture

    def _dismiss(self, event: Event, decision: Decision, note: Note) -> None:
        """End the trial."""
        self._try(None)
        note.entries.append(self._entry("dismissal", event, {"because": decision.because}))

    def _champion_of(self, lane: str) -> int:
        return next(i for i, m in enumerate(self.mixture.members) if m.champion and m.lane == lane)

    def _leading_lane(self) -> str:
        weights = zip(self.mixture.weights, self.mixture.members, strict=True)
        return max(((w, m.lane) for w, m in weights if m.champion), key=lambda pair: pair[0])[1]

    # ---- the events to learn from ------------------------------------------------------------

    def _newest(self, count: int) -> list[Learned]:
        """The last `count` events before the present one, which everybody learns right after this."""
        rows = [*self.memory.newest(RING), *(row[:3] for row in self._rows)]
        return rows[:-1][-count:] if count > 0 else []

    def _since(self, decision: Decision) -> list[Learned]:
        """Those since the change that the decision answers; none where it answers no signal."""
        return self._newest(self.events - decision.signal.since - 1) if decision.signal is not None else []

    # ---- what of this is state ---------------------------------------------------------------

    def _reactions_state(self) -> dict[str, Any]:
        """As primitives and pickles."""
        trial = self._trial
        on_trial = None if trial is None else (self._crew.dump([trial.member]), trial.state())
        return {"times": list(self._asked), "stock": list(self._stock), "trial": on_trial}

    def _resume_reactions(self, state: Mapping[str, Any]) -> None:
        """Undo `_reactions_state`; of an older state, which knows none of this, begin with nothing."""
        older = state.get("asked")  # one time alone, before stragglers were told apart
        self._asked = list(state.get("times", () if older is None else (older,)))
        kept = self.spec.policy.recalls
        self._stock = [(n, blob) for n, blob in state.get("stock", ())][-kept:] if kept else []
        on_trial = state.get("trial") if self.spec.policy.ready else None
        restored = None
        if on_trial is not None:
            restored = Trial.restore(self._crew.load(on_trial[0])[0], on_trial[1])
        self._try(restored)

    # ---- members -----------------------------------------------------------------------------

    def _teach(
        self, member: Member, rows: Sequence[Learned], event: Event, *, weighted: bool = False
    ) -> None:
        try:
            for x, y, weight in rows:
                if self.spec.weighted or weighted:
                    member.teach(x, y, w=weight)
                else:
                    member.teach(x, y)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # as in _compare
            raise ModelError(event.partition, event.offset, "warm", error) from error
        member.born -= len(rows)

    def _entry(self, kind: str, event: Event, detail: Mapping[str, Any]) -> Entry:
        return Entry(
            kind=kind, partition=event.partition, offset=event.offset, time=event.time, detail=detail
        )
