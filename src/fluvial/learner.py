"""The fold: `state', outcome = step(state, event)`. Pure: no clock, no I/O, no global, no chance.

Predict, evaluate, monitor, react, learn, in this order, once per event. The same log gives the same
answers, signals and versions, in another process, with another hash seed, from any checkpoint on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from fluvial.crew import Crew, Spec
from fluvial.drift.error import CLOCK, ErrorMonitor
from fluvial.errors import ModelError
from fluvial.evaluation import Prequential
from fluvial.ledger import Ledger
from fluvial.lineage import Lineage, told
from fluvial.memory import Memory, Row
from fluvial.mixture import Member, Mixture, NonFiniteAnswer, uniform
from fluvial.policies import STORM_WINDOW
from fluvial.types import (
    Action,
    Answer,
    Decision,
    Entry,
    Event,
    Label,
    Outcome,
    PartitionLedger,
    Rare,
    Retired,
    Signal,
    Standing,
    Task,
    Version,
)

FORMAT = 1
"""Of the state's dictionary."""
SNAPSHOT_EVERY = 50_000
"""Labelled events between two snapshots of the champions, to go back to from non-finite answers."""
NON_FINITE_LIMIT = 5
"""Non-finite answers in a row after which a champion goes back to its snapshot."""
BEGINNINGS = ("genesis", "events-lost")
"""Causes of versions that have learned nothing when they begin."""
PROBES = 16
"""Newest events that a checkpoint is asked again after loading."""
TRIES = 20
"""To look between two turns, which last microseconds; after so many a number one block off is fine."""


class _Note:
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


def _both(one: Rare | None, other: Rare | None) -> Rare | None:
    """What both have to say."""
    if one is None or other is None:
        return one or other
    return Rare(
        signals=one.signals + other.signals,
        versions=one.versions + other.versions,
        entries=one.entries + other.entries,
        retired=one.retired + other.retired,
    )


class Learner:
    """The state of one shard and its step."""

    def __init__(self, spec: Spec, state: Mapping[str, Any]) -> None:
        if state["format"] != FORMAT:
            msg = f"state format {state['format']}, this version reads {FORMAT}"
            raise ValueError(msg)
        self.spec = spec
        self._crew = Crew(spec, state["blanks"])
        members = self._crew.load(state["members"])
        self.mixture = Mixture(spec.task, spec.size, members, list(state["weights"]), state["scale"])
        self.monitor = ErrorMonitor(spec.task, spec.drift, state["monitor"])
        self.evaluation = Prequential(spec.task, spec.size, spec.evaluation, state["evaluation"])
        self.memory = Memory.restore(state["memory"])
        self.ledger = Ledger.restore(state["ledger"])
        self.lineage = Lineage.restore(state["lineage"])
        self.events: int = state["events"]
        """Labelled events learned."""
        self.counts: Counter[str] = Counter(state["counts"])
        """Rare happenings since genesis: `drift:error`, `reaction:reset`, `non-finite` and so on."""
        self._fresh_at: int = state["fresh_at"]
        self._streak: int = state["streak"]
        self._sick: tuple[int, ...] = ()
        """Champions whose answer to the present event was not finite."""
        self._snapshot: Mapping[str, bytes] = state["snapshot"]
        self._uniform = uniform(spec.size)
        self._size = spec.size
        self._period = spec.policy.period
        self._version = self.lineage.current
        self._rows: list[Row] = [(dict(x), *rest) for x, *rest in state["rows"]]
        """Labelled and answered events since the last turn."""
        self.turns = 0
        """Moves before and after each turn, so that another thread can tell whether it read across one."""
        self._crew.recruit(self.mixture, self._before_this_event)

    @classmethod
    def genesis(cls, spec: Spec, blanks: Mapping[str, bytes], offsets: Mapping[int, int]) -> Learner:
        """Begin a lineage: a blank member per lane, nothing accounted for before `offsets`."""
        members = [(lane, True, 0, spec.load(blank)) for lane, blank in blanks.items()]
        dumped = spec.dump(members)
        state = {
            "format": FORMAT,
            "blanks": dict(blanks),
            "members": dumped,
            "weights": [1.0 / len(members)] * len(members),
            "scale": 0.0,
            "monitor": None,
            "evaluation": None,
            "rows": [],
            "memory": Memory().state(),
            "ledger": Ledger.starting_at(offsets).state(),
            "lineage": Lineage.genesis().state(),
            "events": 0,
            "counts": {},
            "fresh_at": 0,
            "streak": 0,
            "snapshot": {},
        }
        return cls(spec, state)

    # ---- the step ----------------------------------------------------------------------------

    def step(self, event: Event) -> Outcome:
        """Fold one event. Raises ModelError (the state is then no longer to be used) and OutOfOrder."""
        ledger = self.ledger.advance(event.partition, event.offset)
        return self._finish(event, ledger, self._predict(event))

    def steps(self, events: Sequence[Event]) -> list[Outcome]:
        """`step` for each event, in order: the same outcomes, sooner.

        Beside a tree of megabytes nothing of ours stays in the processor's caches, so what an event touches
        counts more than what it computes. Between two turns little can happen: that part is a loop of its
        own with everything at hand.
        """
        outcomes: list[Outcome] = []
        while len(outcomes) < len(events):
            done = len(outcomes)
            calm = events[done : done + self._calm()]
            if calm:
                self._steps_between_turns(calm, outcomes)
            if len(outcomes) < len(events) and len(outcomes) == done + len(calm):
                outcomes.append(self.step(events[len(outcomes)]))
        return outcomes

    def _calm(self) -> int:
        """How many events may come before the one that ends a block, a period or a snapshot's interval."""
        if self._streak or self.spec.weighted:
            return 0
        until = min(CLOCK - len(self._rows), SNAPSHOT_EVERY - self.events % SNAPSHOT_EVERY)
        if self._period:
            until = min(until, self._period - self.events % self._period)
        return until - 1

    def _steps_between_turns(self, events: Sequence[Event], outcomes: list[Outcome]) -> None:
        """Fold events while nothing but predict and learn happens; the first other one goes its own way."""
        members, mixture, rows, version = self.mixture.members, self.mixture, self._rows, self._version
        first, single, pair, doing = members[0], len(members) == 1, self._size == 2, "predict"
        event, partition = events[0], events[0].partition
        ledger = self.ledger.running(partition)
        answers: Sequence[Answer | None] | None = None
        try:
            for event in events:
                x, y = event.x, event.y
                if y is None or ledger is None or event.offset != ledger.next or event.partition != partition:
                    answers = None
                    break
                answers = (first.ask(x),) if single else [member.ask(x) for member in members]
                answer = answers[0] if single else mixture.combine(answers)
                if answer is None:
                    break
                choice = (1 if answer[1] > answer[0] else 0) if pair else answer.index(max(answer))
                ledger.next += 1
                ledger.learned += 1
                self.events += 1
                rows.append((x, y, event.weight, answer, choice))
                if not single:
                    mixture.reweigh(y, answers, answer)
                doing = "learn"
                for member in members:
                    member.teach(x, y)
                doing = "predict"
                outcomes.append(Outcome(answer, choice, version, True, None))
            else:
                return
        except NonFiniteAnswer:
            answers = self._predict_carefully(event)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # native objects raise PanicException, which is no Exception
            raise ModelError(event.partition, event.offset, doing, error) from error
        if answers is None:
            outcomes.append(self.step(event))
        else:
            ledger = self.ledger.advance(event.partition, event.offset)
            outcomes.append(self._finish(event, ledger, answers))

    def _finish(self, event: Event, ledger: PartitionLedger, answers: Sequence[Answer | None]) -> Outcome:
        """Everything after the members were asked."""
        mixture = self.mixture
        answer = answers[0] if len(answers) == 1 else mixture.combine(answers)
        version = self._version
        note = self._heal(event) if self._streak else None
        if answer is None:
            return self._step_unpredicted(event, ledger, note)
        choice = (1 if answer[1] > answer[0] else 0) if self._size == 2 else answer.index(max(answer))
        y = event.y
        if y is None:
            ledger.scored += 1
            return Outcome(answer, choice, version, True, note)
        ledger.learned += 1
        self.events += 1
        rows = self._rows
        rows.append((event.x, y, event.weight, answer, choice))
        if len(answers) > 1:
            mixture.reweigh(y, answers, answer)
        if len(rows) >= CLOCK:
            note = _both(note, self._turn(event))
        elif self._period and self.events % self._period == 0:
            # Asked between two turns: a short block would put ADWIN's clock and ours out of step for good.
            note = _both(note, self._react(event, ()).rare())
        self._learn(event, y)
        return Outcome(answer, choice, version, True, note)

    def _step_unpredicted(self, event: Event, ledger: PartitionLedger, note: Rare | None) -> Outcome:
        """Go on without an answer: counted, left out of metrics and monitors, learned all the same."""
        version = self._version
        if event.y is None:
            ledger.scored += 1
        else:
            ledger.learned += 1
            self.events += 1
            self.evaluation.unpredicted += 1
            self._learn(event, event.y)
        return Outcome(self._uniform, 0, version, False, note)

    def refuse(self, partition: int, offset: int) -> None:
        """Account for an event that was dead-lettered."""
        self.ledger.advance(partition, offset).dead += 1

    def skip(self, partition: int, until: int) -> None:
        """Account for the offsets up to `until` that a journalled decision gave up."""
        ledger = self.ledger.partitions[partition]
        ledger.skipped += max(0, until - ledger.next)
        ledger.next = max(ledger.next, until)

    def begin_afresh(self, partition: int, until: int) -> Rare | None:
        """Give up the offsets up to `until`, and with them the model that did not see them.

        What belongs to the model is as at genesis; evaluation, ledger and lineage go on. None when the
        model has learned nothing since its own beginning: it is fresh.
        """
        lost = until - self.ledger.partitions[partition].next
        self.skip(partition, until)
        newest = self.lineage.versions[-1]
        if newest.cause in BEGINNINGS and newest.events == self.events:
            return None
        note = _Note()
        self._settle()
        self._retire(note)
        self.mixture = self._crew.beginners(self.events)
        self.monitor = ErrorMonitor(self.spec.task, self.spec.drift)
        self._snapshot, self._streak, self._fresh_at = {}, 0, self.events
        # No event made it: the last one that was lost stands for it, and when that was is not known.
        last = Event(partition=partition, offset=until - 1, time=0.0, key=None, x={}, y=None)
        self._make_version("events-lost", last, None, note, {"events": lost})
        return note.rare()

    def _predict(self, event: Event) -> Sequence[Answer | None]:
        """Ask every member before the label is seen."""
        members, x = self.mixture.members, event.x
        try:
            answers = (members[0].ask(x),) if len(members) == 1 else [member.ask(x) for member in members]
        except NonFiniteAnswer:
            return self._predict_carefully(event)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # native objects raise PanicException, which is no Exception
            raise ModelError(event.partition, event.offset, "predict", error) from error
        if self._streak:
            self._streak = 0
        return answers

    def _turn(self, event: Event) -> Rare | None:
        """Evaluate, monitor and remember the rows since the last turn, then ask the policy if it wants to."""
        signals = self.monitor.update(self._settle(), self.events, self._losses)
        if signals or (self._period and self.events % self._period == 0):
            return self._react(event, signals).rare()
        return None

    def _settle(self) -> Sequence[float]:
        """Evaluate and remember the rows since the last turn; returns their losses."""
        self.turns += 1
        rows, self._rows = self._rows, []
        if self.spec.task is Task.REGRESSION:
            losses = [self.monitor.loss(y, answer[0]) for _, y, _, answer, _ in rows]
        else:
            losses = [0.0 if choice == y else 1.0 for _, y, _, _, choice in rows]
        self.evaluation.extend([(y, answer) for _, y, _, answer, _ in rows])
        self.memory.extend(rows, losses)
        self.turns += 1
        return losses

    def _learn(self, event: Event, y: Label) -> None:
        """Teach every member."""
        x = event.x
        try:
            if self.spec.weighted:
                for member in self.mixture.members:
                    member.teach(x, y, w=event.weight)
            else:
                for member in self.mixture.members:
                    member.teach(x, y)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # as above
            raise ModelError(event.partition, event.offset, "learn", error) from error
        if self.events % SNAPSHOT_EVERY == 0 and not self._streak:
            self._snapshot = {m.lane: self.spec.dump(m.model) for m in self.mixture.members if m.champion}

    def metrics(self, give_way: Callable[[], object] = lambda: None) -> dict[str, dict[str, float]]:
        """The prequential metrics, to the newest event; from any thread.

        Copied between two turns and derived from the copy: deriving takes longer than a turn lasts.
        `give_way`: how a thread lets the loop go on while a turn is under way.
        """
        for _ in range(TRIES):
            turns, rows, seen = self.turns, list(self._rows), self.evaluation.copy()
            if turns == self.turns and turns % 2 == 0:
                break
            give_way()
        return seen.metrics((y, answer) for _, y, _, answer, _ in rows)

    @property
    def _before_this_event(self) -> int:
        """Labelled events without the present one, which will be a new member's first."""
        return max(0, self.events - 1)

    # ---- reactions ---------------------------------------------------------------------------

    def _react(self, event: Event, signals: Sequence[Signal]) -> _Note:
        """Ask the policy and carry out what it decides."""
        note = _Note(signals)
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

    def _reset(self, event: Event, decision: Decision, note: _Note) -> None:
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

    def _restart(self, event: Event, decision: Decision, note: _Note) -> None:
        """Start a challenger afresh, in the lane that leads now."""
        weights = zip(self.mixture.weights, self.mixture.members, strict=True)
        lane = max(((w, m.lane) for w, m in weights if m.champion), key=lambda pair: pair[0])[1]
        self.mixture.members[decision.member] = self._crew.blank(lane, self._before_this_event)
        self.mixture.demote(decision.member)
        if decision.signal is not None:
            self._make_version("restart", event, decision, note, {"member": decision.member, "lane": lane})

    def _promote(self, event: Event, decision: Decision, note: _Note) -> None:
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
        self, cause: str, event: Event, decision: Decision | None, note: _Note, detail: Mapping[str, Any]
    ) -> None:
        because = {"because": decision.because} if decision is not None else {}
        signal = {"signal": told(decision.signal)} if decision is not None and decision.signal else {}
        metrics = self.metrics()["fading"]
        version = self.lineage.advance(cause, event, self.events, {**detail, **because, **signal}, metrics)
        self._version = version.number
        self.lineage.reacted(self.events, STORM_WINDOW)
        note.versions.append(version)
        note.entries.append(self._entry("version", event, msgspec.to_builtins(version)))

    def _retire(self, note: _Note) -> None:
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

    # ---- non-finite answers ------------------------------------------------------------------

    def _predict_carefully(self, event: Event) -> Sequence[Answer | None]:
        """Ask again, one by one: a challenger that answers NaN starts afresh, a champion is counted out."""
        answers: list[Answer | None] = []
        sick: list[int] = []
        for index, member in enumerate(self.mixture.members):
            try:
                answers.append(member.ask(event.x))
            except NonFiniteAnswer:
                self.counts["non-finite"] += 1
                answers.append(None)
                if member.champion:
                    sick.append(index)
                else:
                    self.mixture.members[index] = self._crew.blank(member.lane, self._before_this_event)
        self._sick = tuple(sick)
        self._streak = self._streak + 1 if sick else 0
        return answers

    def _heal(self, event: Event) -> Rare | None:
        """Count non-finite answers in a row; at the limit go back."""
        return self._go_back(event).rare() if self._streak >= NON_FINITE_LIMIT else None

    def _go_back(self, event: Event) -> _Note:
        """Take sick champions back to the last healthy snapshot, or to the blank, and go on from here.

        Going back in the log instead would meet the same events again, for ever.
        """
        note = _Note()
        self._retire(note)
        for index in self._sick:
            lane = self.mixture.members[index].lane
            model = self.spec.load(self._snapshot.get(lane) or self._crew.blanks[lane])
            self.mixture.members[index] = self._crew.member(lane, True, self.events, model)
        self._streak = 0
        detail = {
            "lanes": [self.mixture.members[k].lane for k in self._sick],
            "snapshot": bool(self._snapshot),
        }
        self._make_version("non-finite", event, None, note, detail)
        return note

    # ---- the state ---------------------------------------------------------------------------

    def _losses(self) -> Sequence[float]:
        """Losses since the model was fresh: earlier ones belong to another model."""
        return self.memory.losses(self.events - self._fresh_at)

    def _entry(self, kind: str, event: Event, detail: Mapping[str, Any]) -> Entry:
        return Entry(
            kind=kind, partition=event.partition, offset=event.offset, time=event.time, detail=detail
        )

    def probe(self, dumped: bytes) -> list[Answer]:
        """Ask copies of the members about the newest events. `dumped`: the members, as in the state.

        Never the live ones: asking changes some models.
        """
        members = self._crew.load(dumped)
        out: list[Answer] = []
        for x, _, _ in self.memory.newest(PROBES):
            for member in members:
                try:
                    answer = member.ask(x)
                except NonFiniteAnswer:
                    answer = None
                out.append(answer if answer is not None else self._uniform)
        return out

    def state(self) -> dict[str, Any]:
        """Everything the fold needs, as primitives and River objects."""
        return {
            "format": FORMAT,
            "blanks": dict(self._crew.blanks),
            # A pickle of its own, so that the copy that is asked for probe answers loads nothing else.
            "members": self._crew.dump(self.mixture.members),
            "weights": list(self.mixture.weights),
            "scale": self.mixture.scale,
            "monitor": self.monitor.state(),
            "evaluation": self.evaluation.state(),
            "rows": [(tuple(x.items()), *rest) for x, *rest in self._rows],
            "memory": self.memory.state(),
            "ledger": self.ledger.state(),
            "lineage": self.lineage.state(),
            "events": self.events,
            "counts": dict(self.counts),
            "fresh_at": self._fresh_at,
            "streak": self._streak,
            "snapshot": dict(self._snapshot),
        }
