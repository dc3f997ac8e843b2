"""The fold: `state', outcome = step(state, event)`. Pure: no clock, no I/O, no global, no chance.

Predict, evaluate, monitor, react, learn, in this order, once per event. The same log gives the same
answers, signals and versions, in another process, with another hash seed, from any checkpoint on.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import msgspec

from fluvial.crew import Crew, Spec
from fluvial.drift.error import CLOCK
from fluvial.drift.named import error_monitor
from fluvial.drift.planes import Planes
from fluvial.errors import ModelError
from fluvial.evaluation import Prequential
from fluvial.fused import RESTING
from fluvial.late import Held, LateLabels
from fluvial.ledger import Ledger
from fluvial.lineage import Lineage
from fluvial.memory import RING, Learned, Memory, Row
from fluvial.mixture import Member, Mixture, NonFiniteAnswer, patient, uniform
from fluvial.reactions import Note as _Note
from fluvial.reactions import Reactions, ask_one
from fluvial.relearning import Relearning
from fluvial.types import (
    Answer,
    Decision,
    Entry,
    Event,
    Label,
    Outcome,
    PartitionLedger,
    Rare,
    Retired,
    Rollback,
    Signal,
    SignalKind,
    Task,
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


class Learner(Reactions):
    """The state of one shard and its step."""

    def __init__(self, spec: Spec, state: Mapping[str, Any]) -> None:
        if state["format"] != FORMAT:
            msg = f"state format {state['format']}, this version reads {FORMAT}"
            raise ValueError(msg)
        self.spec = spec
        self._crew = Crew(spec, state["blanks"])
        members = self._crew.load(state["members"])
        rest = state.get("rest", (0, ()))
        self.mixture = Mixture(spec.task, spec.size, members, list(state["weights"]), state["scale"], rest)
        self.monitor = error_monitor(spec.task, spec.drift, state["monitor"])
        classes = spec.classes or tuple(map(str, range(spec.size)))
        self.planes = Planes(spec.task, spec.drift, spec.features, classes, state.get("planes"))
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
        self._resume_reactions(state.get("reactions", {}))
        self._sick: tuple[int, ...] = ()
        """Champions whose answer to the present event was not finite."""
        self._snapshot: Mapping[str, bytes] = state["snapshot"]
        self._uniform = uniform(spec.size)
        self._size = spec.size
        self._period = spec.policy.period
        self._version = self.lineage.current
        self._resume_rows(state)
        self.late = LateLabels(spec.lateness, state.get("late"))
        self.turns = 0
        """Moves before and after each turn, so that another thread can tell whether it read across one."""
        self._crew.recruit(self.mixture, self._before_this_event)
        self._resume_relearning(state.get("relearning"))

    def _resume_rows(self, state: Mapping[str, Any]) -> None:
        self._rows: list[Row] = [(dict(x), *rest) for x, *rest in state["rows"]]
        """Labelled and answered events since the last turn."""
        self._gaps: dict[int, int] = dict(state.get("gaps", ()))
        """Labelled events without a row, by the index of the row that came or will come behind them."""

    def _resume_relearning(self, state: Mapping[str, Any] | None) -> None:
        self.relearning = Relearning.restore(state)
        self.unsaid: list[Entry] = []
        """What no step could say: for the journal, with the next checkpoint."""
        if self.relearning is not None:  # an older release's state may have forgotten to end it
            self._end_relearning(self._behind(self.ledger.newest))

    @classmethod
    def genesis(
        cls, spec: Spec, blanks: Mapping[str, bytes], offsets: Mapping[int, int], number: int = 1
    ) -> Learner:
        """Begin a lineage: a blank member per lane, nothing accounted for before `offsets`.

        `number`: of its first version.
        """
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
            "lineage": Lineage.genesis(number).state(),
            "events": 0,
            "counts": {},
            "fresh_at": 0,
            "streak": 0,
            "snapshot": {},
            "relearning": None,
        }
        return cls(spec, state)

    # ---- the step ----------------------------------------------------------------------------

    def step(self, event: Event) -> Outcome:
        """Fold one event. Raises ModelError (the state is then no longer to be used) and OutOfOrder."""
        ledger = self.ledger.advance(event.partition, event.offset)
        if self.relearning is not None:
            return self._step_again(event, ledger, self.relearning)
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
        if self._streak or self.spec.weighted or self.late.busy or self._trial or self.relearning:
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
                answers = (first.ask(x),) if single else mixture.ask(x)
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
                (first if single else mixture).teach(x, y)
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
        if self.late.busy:
            return self._step_late(event, ledger, answer, version, note)
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
        if self._trial is not None:
            note = _both(note, self._compare(event, y, answers))
        if len(rows) >= CLOCK:
            note = _both(note, self._turn(event))
        else:
            note = _both(note, self._react_in_time(event))
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
            self._leave_a_gap()
            note = _both(note, self._react_in_time(event))
            self._learn(event, event.y)
        return Outcome(self._uniform, 0, version, False, note)

    def _react_in_time(self, event: Event) -> Rare | None:
        """Ask the policy between two turns, if its period is up.

        A short block would put ADWIN's clock and ours out of step for good.
        """
        due = self._period and self.events % self._period == 0
        return self._react(event, ()).rare() if due else None

    def _step_again(self, event: Event, ledger: PartitionLedger, relearning: Relearning) -> Outcome:
        """Teach an event that was answered before a roll-back; others go their way as ever."""
        concerned = relearning.concerns(event.partition, event.offset)
        ended = self._relearned(event)
        rare = None if ended is None else Rare(entries=(ended,))
        if not concerned:
            outcome = self._finish(event, ledger, self._predict(event))
            return msgspec.structs.replace(outcome, rare=_both(rare, outcome.rare))
        if relearning.leaves_out(event.partition, event.offset):
            ledger.skipped += 1
        elif event.y is None:
            ledger.scored += 1
        else:
            ledger.learned += 1
            self.events += 1
            self._fresh_at = self.events  # the ring has no rows of these
            self._leave_a_gap()
            self._learn(event, event.y)
        return Outcome(self._uniform, 0, self._version, False, rare)

    def _relearned(self, event: Event) -> Entry | None:
        """What is to be said once every partition is back where it was: that learning again is over."""
        if self.relearning is None or not self.relearning.over(self.ledger.offsets()):
            return None
        self.relearning = None
        return self._entry("relearned", event, {"version": self._version})

    def _end_relearning(self, event: Event) -> None:
        """End it where no outcome could say so; the log's last offset may well be a refused one."""
        ended = self._relearned(event)
        self.unsaid += () if ended is None else (ended,)

    def _behind(self, partition: int) -> Event:
        """What stands for the event of something that none made: a partition's last, at no known time."""
        offset = self.ledger.partitions[partition].next - 1
        return Event(partition=partition, offset=offset, time=0.0, key=None, x={}, y=None)

    def left_out(self, partition: int, offset: int) -> bool:
        """Whether a roll-back leaves this offset out of what is learned again."""
        return self.relearning is not None and self.relearning.leaves_out(partition, offset)

    def _step_late(
        self, event: Event, ledger: PartitionLedger, answer: Answer | None, version: int, note: Rare | None
    ) -> Outcome:
        """Let the label wait, then learn those that are known by now."""
        if event.y is None:
            ledger.scored += 1
        elif (why := self.late.keep(event, event.y, answer)) is not None:
            ledger.scored += 1
            note = _both(note, Rare(entries=(self._entry("label-given-up", event, {"why": why}),)))
            event = msgspec.structs.replace(event, y=None)
        else:
            ledger.pending += 1
        for held, waited in self.late.known(event.time):
            try:
                note = _both(note, self._learn_late(event, held, waited))
            except ModelError as error:
                error.late = (error.partition, error.offset) == (held.partition, held.offset)
                raise
        if answer is None:
            return Outcome(self._uniform, 0, version, False, note)
        return Outcome(answer, answer.index(max(answer)), version, True, note)

    def _learn_late(self, event: Event, held: Held, waited: int) -> Rare | None:
        """Learn a label that is known at `event`; what `step` does at once when labels are not late."""
        self.events += 1
        about = Event(held.partition, held.offset, event.time, None, held.x, held.y, held.weight)
        note = None
        if held.answer is None:
            self.evaluation.unpredicted += 1
            self._leave_a_gap()
            note = self._react_in_time(event)
        else:
            answers = self._ask_again(about)
            again = self.mixture.combine(answers) or self._uniform
            self.mixture.reweigh(held.y, answers, again, patient(waited))
            if self._trial is not None:
                note = self._compare(about, held.y, answers)
            self.late.judge(len(self._rows), again, held.before)
            choice = 0 if self.spec.task is Task.REGRESSION else held.answer.index(max(held.answer))
            self._rows.append((held.x, held.y, held.weight, held.answer, choice))
            if len(self._rows) >= CLOCK:
                note = _both(note, self._turn(event))
            else:
                note = _both(note, self._react_in_time(event))
        ledger = self.ledger.partitions[held.partition]
        ledger.pending -= 1
        ledger.learned += 1
        self._learn(about, held.y)
        return note

    def _ask_again(self, about: Event) -> Sequence[Answer | None]:
        """Ask the members when the label came; one whose answer is not finite has none."""
        try:
            return self.mixture.ask(about.x)
        except NonFiniteAnswer:
            return [_finite(member, about) for member in self.mixture.members]
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # as in `_predict`
            raise ModelError(about.partition, about.offset, "predict", error) from error

    def give_up_label(self, partition: int, offset: int, why: str) -> bool:
        """Leave a late label out, on which the model raised: its event stays scored only.

        False: it is not pending; when its event comes again, the fold says it. Both come to the same state.
        """
        if not self.late.give_up(partition, offset, why):
            return False
        ledger = self.ledger.partitions[partition]
        ledger.pending -= 1
        ledger.scored += 1
        return True

    def refuse(self, partition: int, offset: int) -> None:
        """Account for an event that was dead-lettered, or that is left out."""
        if self.left_out(partition, offset):
            self.ledger.advance(partition, offset).skipped += 1
        else:
            self.ledger.advance(partition, offset).dead += 1
        self._end_relearning(self._behind(partition))

    def skip(self, partition: int, until: int) -> None:
        """Account for the offsets up to `until` that a journalled decision gave up."""
        ledger = self.ledger.partitions[partition]
        ledger.skipped += max(0, until - ledger.next)
        ledger.next = max(ledger.next, until)
        self._end_relearning(self._behind(partition))

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
        self._give_way(self._crew.beginners(self.events), note)
        self._make_version("events-lost", self._behind(partition), None, note, {"events": lost})
        return note.rare()

    def roll_back(self, kept: Retired, request: Rollback) -> Rare | None:
        """Let a kept model answer again, between two events; `fluvial.rollback` has looked at both.

        Challengers begin afresh, monitors restart; evaluation and lineage go on, and so does the ledger
        unless the log is read again from where that model had learned its last event.
        """
        note, last = _Note(), self._behind(self.ledger.newest)
        self._give_way(self._crew.returned(kept, self.events, self.mixture.scale), note)
        detail: dict[str, Any] = {"to": kept.version, "by": request.by, "because": request.because}
        detail |= {"request": request.id, "asked_at": request.at}
        if request.relearn:
            self.relearning = Relearning(self.learned_until(), request.skip)
            self.ledger = Ledger.restore(kept.ledger)
            detail |= {"learns_again_from": self.ledger.offsets(), "skip": list(request.skip)}
        self._make_version("rollback", last, None, note, detail)
        if (ended := self._relearned(last)) is not None:  # that model had learned all there is
            note.entries.append(ended)
        elif request.relearn:
            self.memory = Memory()  # it holds what is skipped, and will hold the rest again
        return note.rare()

    def retired(self, event: Event | None = None) -> Retired:
        """What answers now, with the last events of its time: by the next save others are remembered."""
        newest = [*self.memory.newest(PROBES), *(row[:3] for row in self._rows)][-PROBES:]
        return msgspec.structs.replace(super().retired(event), probes=newest)

    def learned_until(self) -> dict[int, int]:
        """The next offset of each partition, or where it will be once the log was learned again."""
        again = self.relearning.until if self.relearning is not None else {}
        return {p: max(offset, again.get(p, 0)) for p, offset in self.ledger.offsets().items()}

    def _predict(self, event: Event) -> Sequence[Answer | None]:
        """Ask every member before the label is seen."""
        members, x = self.mixture.members, event.x
        try:
            answers = (members[0].ask(x),) if len(members) == 1 else self.mixture.ask(x)
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
        rows = self._rows
        signals = tuple(map(self._dated, self.monitor.update(self._settle(), self.events, self._losses)))
        signals += self.planes.update(rows, self.events, self.memory.newest)
        if signals or (self._period and self.events % self._period == 0):
            return self._react(event, signals).rare()
        return None

    def _settle(self) -> Sequence[float]:
        """Evaluate and remember the rows since the last turn; returns their losses."""
        self.turns += 1
        rows, self._rows = self._rows, []
        served = self.late.served(rows)
        judged = self.late.judged(rows, self.spec.task)
        if self.spec.task is Task.REGRESSION:
            losses = [self.monitor.loss(y, answer[0]) for _, y, _, answer, _ in judged]
        else:
            losses = [0.0 if choice == y else 1.0 for _, y, _, _, choice in judged]
        self.evaluation.extend(served)
        behind = self._gaps.pop(len(rows), 0)
        self.memory.extend(rows, losses, self._gaps)
        self._gaps = {0: behind} if behind else {}
        self.turns += 1
        return losses

    def _learn(self, event: Event, y: Label) -> None:
        """Teach every member."""
        x = event.x
        try:
            if self.spec.weighted:
                self.mixture.teach(x, y, w=event.weight)
            else:
                self.mixture.teach(x, y)
            if self._trial is not None:
                self._trial.member.teach(x, y, **({"w": event.weight} if self.spec.weighted else {}))
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
            turns, newer, seen = self.turns, self.late.served(list(self._rows)), self.evaluation.copy()
            if turns == self.turns and turns % 2 == 0:
                break
            give_way()
        return seen.metrics(newer)

    def fading_metrics(self) -> dict[str, float]:
        """Of them the fading ones; the loop's own thread alone may ask."""
        return self.evaluation.fading_metrics(self.late.served(self._rows))

    @property
    def crew(self) -> Crew:
        """What makes its members."""
        return self._crew

    def _give_way(self, mixture: Mixture, note: _Note) -> None:
        """Let others answer from here on, between two events, judged by nothing that came before them."""
        self._settle()
        self._retire(note)
        self.mixture = mixture
        self.monitor = error_monitor(self.spec.task, self.spec.drift)
        self._snapshot, self._streak, self._fresh_at = {}, 0, self.events
        self._resume_reactions({})

    # ---- non-finite answers ------------------------------------------------------------------

    def _predict_carefully(self, event: Event) -> Sequence[Answer | None]:
        """Ask again, one by one: a challenger that answers NaN starts afresh, a champion is counted out."""
        answers: list[Answer | None] = []
        sick: list[int] = []
        for index, member in enumerate(self.mixture.members):
            try:
                answers.append(ask_one(member, event.x, event))
            except NonFiniteAnswer:
                self.counts["non-finite"] += 1
                answers.append(None)
                if member.champion:
                    sick.append(index)
                else:
                    self.mixture.members[index] = self._crew.blank(member.lane, self.events)
                    self.mixture.demote(index)
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
        self._retire(note, event)
        for index in self._sick:
            lane = self.mixture.members[index].lane
            model = self.spec.load(self._snapshot.get(lane) or self._crew.blanks[lane])
            self.mixture.members[index] = self._crew.member(lane, True, self.events, model)
        self._streak = 0
        lanes = [self.mixture.members[k].lane for k in self._sick]
        detail = {"lanes": lanes, "snapshot": any(lane in self._snapshot for lane in lanes)}
        self._forget_snapshots(*lanes)
        self._make_version("non-finite", event, None, note, detail)
        return note

    # ---- rows and events: some events have no row --------------------------------------------

    def _leave_a_gap(self) -> None:
        """Remember that the newest labelled event has no row."""
        behind = len(self._rows)
        self._gaps[behind] = self._gaps.get(behind, 0) + 1

    def _ages(self) -> list[int]:
        """How many labelled events each row is old, the newest row first; 1: it is the newest event's."""
        gaps = [*self.memory.gaps(), *(self._gaps.get(i, 0) for i in range(len(self._rows) + 1))]
        return list(accumulate(1 + gap for gap in reversed(gaps[1:])))

    def _rows_of(self, events: int) -> int:
        """How many rows the newest labelled events have, so many of them."""
        return bisect_right(self._ages(), events)

    def _dated(self, signal: Signal) -> Signal:
        """Say since which event: a monitor counts rows back. That a warning is over it dates by the event."""
        ages, rows = self._ages(), signal.events - signal.since
        if signal.kind is SignalKind.RECOVERED or not 0 < rows <= len(ages):
            return signal
        return msgspec.structs.replace(signal, since=self.events - ages[rows - 1])

    def _newest(self, count: int) -> list[Learned]:
        """The last `count` rows before the present event; the newest row is one where that has none."""
        if len(self._rows) not in self._gaps:
            return super()._newest(count)
        rows = [*self.memory.newest(RING), *(row[:3] for row in self._rows)]
        return rows[-count:] if count > 0 else []

    def _since(self, decision: Decision) -> list[Learned]:
        """Those since the change that the decision answers, the present one left out."""
        if decision.signal is None:
            return []
        rows = self._rows_of(self.events - decision.signal.since)
        return self._newest(rows - (len(self._rows) not in self._gaps))

    def _answered_since(self, decision: Decision) -> int:
        """In rows: an event without an answer was not answered."""
        return self._rows_of(super()._answered_since(decision))

    # ---- the state ---------------------------------------------------------------------------

    def _losses(self) -> Sequence[float]:
        """Losses since the model was fresh: earlier ones belong to another model."""
        return self.memory.losses(self._rows_of(self.events - self._fresh_at) - len(self._rows))

    def probe(self, dumped: bytes) -> list[Answer]:
        """Ask copies of the members about the newest events. `dumped`: the members, as in the state.

        Never the live ones: asking changes some models.
        """
        members = self._crew.load(dumped)
        return self._crew.answers(members, self.memory.newest(PROBES))

    def state(self) -> dict[str, Any]:
        """Everything the fold needs, as primitives and River objects. `nested` knows the pickles in it."""
        return {
            "format": FORMAT,
            "blanks": dict(self._crew.blanks),
            # A pickle of its own, so that the copy that is asked for probe answers loads nothing else.
            "members": self._crew.dump(self.mixture.members),
            "weights": list(self.mixture.weights),
            "scale": self.mixture.scale,
            "rest": self.mixture.rest,
            "monitor": self.monitor.state(),
            "planes": self.planes.state(),
            "evaluation": self.evaluation.state(),
            "rows": [(tuple(x.items()), *rest) for x, *rest in self._rows],
            "gaps": list(self._gaps.items()),
            "memory": self.memory.state(),
            "ledger": self.ledger.state(),
            "lineage": self.lineage.state(),
            "events": self.events,
            "counts": dict(self.counts),
            "fresh_at": self._fresh_at,
            "streak": self._streak,
            "snapshot": dict(self._snapshot),
            "reactions": self._reactions_state(),
            "relearning": None if self.relearning is None else self.relearning.state(),
            "late": self.late.state(),
        }


def _finite(member: Member, about: Event) -> Answer | None:
    """What a member answers; None when that is not finite, RESTING when it rests."""
    try:
        return RESTING if member.rests else ask_one(member, about.x, about)
    except NonFiniteAnswer:
        return None
