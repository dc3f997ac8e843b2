"""A plane of columns (features, or predictions) and the evidence that one of them has moved.

The test is that of Shiryaev and Roberts on bets (Shiryaev 1963; Shin, Ramdas and Rinaldo 2022 on
e-detectors). Each bet of each column (`column.py`) begins anew at every event with a small stake, and each
event multiplies all stakes by what the bet said of its bin, against the shares counted so far (Krichevsky
and Trofimov's estimate, so that the counts' own uncertainty is paid for). While nothing changes, the
expected sum of all stakes grows by exactly one an event, whatever the distribution, however many columns
there are and however they hang together. So the sum reaches a level L after L events on average and not
sooner: the level *is* the expected number of events between false alarms. What is left to measure is how
far the sum overshoots, see `OVERSHOOT`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from fluvial.drift.column import (
    BINS,
    EDGES,
    LEAST_INFORMATION,
    Bet,
    Column,
    Floats,
    Raw,
    number,
    shape,
    tables,
)
from fluvial.types import Moved, Signal, SignalKind

Columns = Sequence[Sequence[Raw]] | Floats
"""A span of events, column by column; as an array when all are numbers, NaN for absent ones."""
Recent = Callable[[int], Columns]
"""The newest so many events that are remembered, column by column; the last span is among them."""

SAMPLE = 512
"""Events that freeze a column's bins; as many again are counted before it is watched."""
OVERSHOOT = 4.0
"""How far the sum jumps past its level, in the mean: `benchmarks/planes.py` measures it."""
SPAN, STEP = 128, 32
"""Events worked at a time, and those of one step of evidence: all steps cost little more than one."""
FADING = 1.0 - SPAN / 1_024.0
"""Of the recent counts, per span: about a thousand events."""
MOST = 300.0
"""What a step can add to the logarithm of a bet's evidence: more is as good as sure, and would overflow."""
LIMIT = math.exp(MOST)
"""Of a bet's evidence."""
STALE = 32
"""The counts that bets are made against are at most a 32nd older than the newest."""
GRAIN = float(2**20)
"""Logarithms are rounded to its inverse, so that their sums are exact in any order."""
CALM = 2_000
"""Events after which a warning can be taken back."""
LEAST_MOVE, LEAST_FACTOR = 0.1, 2.0
"""Of the answers: a share or mean that moved by less than both is a model that learns, and no news."""
LOOK_AGAIN = 1_024
"""Events until evidence of what was no news is looked at again."""
LISTED = 10
"""Moved columns that a signal names."""
NAME = "bets"


class Plane:
    """Watches columns span by span."""

    def __init__(
        self,
        name: str,
        names: Sequence[str],
        levels: tuple[float, float],
        state: Mapping[str, Any] | None = None,
    ) -> None:
        """`levels`: expected events between two false warnings, and between two false drifts."""
        self.name = name
        self._together = name == "predictions"
        """Columns that are sides of one thing: where one has moved, all begin anew."""
        self.names = tuple(names)
        self._warn, self._alarm = (level / OVERSHOOT for level in levels)
        self._columns: list[Column | None] = [None] * len(names)
        self._samples: dict[int, list[Raw]] = {j: [] for j in range(len(names))}
        """Columns whose bins are not frozen yet."""
        self._counting: dict[int, int] = {}
        """Columns that are counted and not watched yet: how many events they have."""
        self._counts = np.zeros((len(names), BINS + 1))
        self._fading = np.zeros((len(names), BINS + 1))
        self._known = self._counts
        """The counts that the bets are made against."""
        self._spans, self._refresh_at = 0, 0
        self.warned_at = 0
        """Events at the standing warning; 0 for none."""
        self._warned = (0, 0)
        self._quiet_until = 0
        """Events before which evidence of too small a move is not looked at again."""
        self._bets: list[tuple[Bet, ...]] = [()] * len(names)
        self._width = 1
        self._stakes, self._lead, self._since = self._empty(), self._empty(), self._empty()
        """Evidence of each bet; its logarithm since it last was none, and since which event that is."""
        self._arrange()
        if state is not None:
            self._load(state)

    def _empty(self) -> Floats:
        return np.zeros((len(self.names), self._width))

    # ---- a span ------------------------------------------------------------------------------

    def update(self, span: Columns, events: int, recent: Recent) -> tuple[Signal, ...]:
        """Watch a span whose last event is number `events`."""
        size = len(span[0])
        self._spans += 1
        if self._spans >= self._refresh_at:
            self._refresh()
        steps = self._count(span)
        peak = self._bet(steps, size, events)
        counts = steps.sum(axis=2)
        self._counts = self._counts + counts
        self._fading = FADING * self._fading + counts
        if self._samples or self._counting:
            self._grow(span, size)
        if peak >= self._warn and events >= self._quiet_until and (peak >= self._alarm or not self.warned_at):
            return self._said(peak >= self._alarm, events, recent)
        if self.warned_at and events - self.warned_at >= CALM and self._evidence() < self._warn / 10.0:
            return (self._recover(events, recent),)
        return ()

    def _evidence(self) -> float:
        return float(np.add.reduce(self._stakes, axis=None))

    def _bet(self, steps: Floats, size: int, events: int) -> float:
        """Move all evidence, step by step; returns the most that there was after any of them."""
        moved = np.ascontiguousarray((self._table @ steps).transpose(2, 0, 1))
        grown = np.exp(np.minimum(moved, MOST))
        lead, stakes, since = self._lead, self._stakes, self._since
        peak, step, at = 0.0, size // len(moved), events - size
        stake = step * self._stake
        for gain, growth in zip(moved, grown, strict=True):
            np.copyto(since, at, where=lead <= 0.0)
            np.maximum(lead, 0.0, out=lead)
            lead += gain
            stakes += stake
            stakes *= growth
            evidence = self._evidence()
            if not evidence <= LIMIT:
                np.minimum(stakes, LIMIT, out=stakes)
                evidence = self._evidence()
            peak = max(peak, evidence)
            at += step
        return peak

    def _count(self, span: Columns) -> Floats:
        """How many of each step lie in each bin: columns, bins, steps."""
        values = self._matrix(span)
        width, size = values.shape
        values = values.reshape(width, size // STEP, STEP) if size % STEP == 0 else values[:, None, :]
        # Column by column how many are there, and over each edge; the differences are the bins'.
        over = np.empty((width, EDGES + 3, values.shape[1]))
        over[:, 0], over[:, -1] = values.shape[2], 0.0
        np.add.reduce(values == values, axis=2, dtype=np.uint8, out=over[:, 1])  # noqa: PLR0124 - NaN is not
        beyond = values[:, None] > self._edges
        np.add.reduce(beyond, axis=3, dtype=np.uint8, out=over[:, 2:-1])
        counts = over[:, :-1] - over[:, 1:]
        return np.concatenate((counts[:, 1:], counts[:, :1]), axis=1)

    def _matrix(self, span: Columns) -> Floats:
        """The span as numbers between the edges; NaN for what is absent."""
        if isinstance(span, np.ndarray):
            if not self._codes:
                return span
            span = span.tolist()
        if self._codes:
            span = [codes(raw) if (codes := self._codes.get(j)) else raw for j, raw in enumerate(span)]
        try:
            return np.array(span, dtype=np.float64)
        except (TypeError, ValueError):  # a text among numbers, or in a column without bins yet
            return np.array([[number(value) for value in raw] for raw in span])

    # ---- references --------------------------------------------------------------------------

    def _grow(self, span: Columns, size: int) -> None:
        """Freeze the bins of columns that have a sample; watch those that are counted well enough."""
        frozen = False
        for j, sample in list(self._samples.items()):
            sample.extend(span[j].tolist() if isinstance(span, np.ndarray) else span[j])
            if len(sample) >= SAMPLE:
                self._columns[j] = shape(sample)
                self._counts[j] = self._fading[j] = 0.0
                self._counting[j] = -size  # of the present span, which is in the sample
                del self._samples[j]
                frozen = True
        if frozen:
            self._arrange()
        for j in list(self._counting):
            self._counting[j] += size
            if self._counting[j] >= SAMPLE:
                del self._counting[j]
                self._refresh_at = 0

    def _begin(self, columns: Sequence[int]) -> None:
        """Learn the reference of some columns anew."""
        for j in columns:
            self._columns[j] = None
            self._samples[j] = []
            self._counting.pop(j, None)
        self._arrange()

    def restart(self) -> None:
        """Learn all references anew: what made these columns is gone."""
        self._begin(range(len(self.names)))
        self.warned_at = 0

    def _arrange(self) -> None:
        """Lay out the arrays for the columns as they are; unwatched ones bet nothing."""
        bets = [column.bets() if column is not None else () for column in self._columns]
        changed = [new != old or not new for new, old in zip(bets, self._bets, strict=True)]
        self._bets = bets
        width = max(1, *map(len, bets)) if bets else 1
        shape_ = (len(bets), width, BINS + 1)
        self._tilt, self._mixed, self._scope = np.ones(shape_), np.zeros(shape_), np.ones(shape_)
        self._kept = np.ones((len(bets), width, 1))
        self._prior = np.zeros((len(bets), BINS + 1))
        self._edges = np.full((len(bets), EDGES, 1, 1), np.inf)
        for j, column in enumerate(self._columns):
            if column is not None:
                own, n = tables(column), len(bets[j])
                self._tilt[j, :n], self._mixed[j, :n], self._scope[j, :n] = own.tilt, own.mixed, own.scope
                self._kept[j, :n], self._prior[j] = own.kept, own.prior
                self._edges[j, : len(column.edges), 0, 0] = column.edges
        self._codes = {
            j: c.coder() for j, c in enumerate(self._columns) if c is not None and (c.category or c.unknown)
        }
        self._width = width
        self._stakes, self._lead, self._since = (
            self._widened(old, changed) for old in (self._stakes, self._lead, self._since)
        )
        self._refresh()

    def _widened(self, old: Floats, changed: Sequence[bool]) -> Floats:
        new, width = self._empty(), min(self._width, old.shape[1])
        new[:, :width] = old[:, :width]
        new[np.array(changed, dtype=bool)] = 0.0
        return new

    def _refresh(self) -> None:
        """Bet against the present counts from now on."""
        self._known = self._counts
        self._refresh_at = self._spans + max(1, self._youngest() // (SPAN * STALE))
        self._tabulate()

    def _youngest(self) -> int:
        """Events of the watched column with the fewest."""
        totals = self._known.sum(axis=1)
        watched = [totals[j] for j in self._watched()]
        return int(min(watched, default=0.0))

    def _watched(self) -> list[int]:
        return [j for j in range(len(self.names)) if j not in self._samples and j not in self._counting]

    def _shares(self, counts: Floats) -> Floats:
        counted = counts + self._prior
        shares: Floats = np.maximum(counted / np.maximum(counted.sum(axis=1, keepdims=True), 1.0), 1e-12)
        return shares

    def _tabulate(self) -> None:
        """What an event in each bin does to each bet, as logarithms; and every bet's stake an event."""
        shares = self._shares(self._known)[:, None, :]
        taking = shares * self._scope
        total = taking.sum(axis=2, keepdims=True)
        scale = total * self._kept / np.maximum((self._tilt * taking).sum(axis=2, keepdims=True), 1e-300)
        factor = np.where(self._scope > 0.0, scale * self._tilt + total * self._mixed / shares, 1.0)
        watched = np.zeros((len(self.names), 1, 1))
        watched[self._watched()] = 1.0
        self._table = np.rint(np.log(factor) * watched * GRAIN) / GRAIN
        alive = -(shares * self._table).sum(axis=2) >= LEAST_INFORMATION
        living = np.maximum(alive.sum(axis=1, keepdims=True), 1)
        self._stake = alive / (living * max(1, len(self.names)))

    # ---- what it says ------------------------------------------------------------------------

    def _said(self, drift: bool, events: int, recent: Recent) -> tuple[Signal, ...]:
        """Name what moved, if that is news; a drift's reference is learned anew: it is not said again."""
        evidence = self._stakes.sum(axis=1)
        ranked = sorted(range(len(evidence)), key=lambda j: (-evidence[j], j))
        chosen = [j for j in ranked if drift and evidence[j] >= self._alarm / 10.0] or ranked[:1]
        kind = SignalKind.DRIFT if drift else SignalKind.WARNING
        signal = self._signal(kind, chosen[:LISTED], events, recent)
        if self._together and not any(map(_is_news, signal.moved)):
            self._quiet_until = events + LOOK_AGAIN
            return ()
        if drift:
            self._begin(range(len(self.names)) if self._together else chosen)
            self.warned_at = 0
        else:
            self.warned_at, self._warned = events, (chosen[0], self._telling(chosen[0]))
        return (signal,)

    def _recover(self, events: int, recent: Recent) -> Signal:
        """Take the warning back."""
        since, self.warned_at = self.warned_at, 0
        now = self._moved(*self._warned, events - CALM, events, recent)
        return self._made(SignalKind.RECOVERED, (now,), events, since)

    def _signal(self, kind: SignalKind, columns: Sequence[int], events: int, recent: Recent) -> Signal:
        bets = [self._telling(j) for j in columns]
        dates = [int(self._since[j, a]) for j, a in zip(columns, bets, strict=True)]
        moved = [
            self._moved(j, a, since, events, recent) for j, a, since in zip(columns, bets, dates, strict=True)
        ]
        return self._made(kind, tuple(moved), events, dates[0])

    def _telling(self, j: int) -> int:
        """The bet that tells best what happened to a column: the plainest of those that nearly lead.

        Values far below all others widen the spread too, and that the mean fell is what one wants to read.
        """
        lead, bets = self._lead[j], self._bets[j]
        what = next(bet.what for bet, own in zip(bets, lead, strict=False) if own >= lead.max() / 2.0)
        return max((a for a, bet in enumerate(bets) if bet.what == what), key=lambda a: float(lead[a]))

    def _made(self, kind: SignalKind, moved: tuple[Moved, ...], events: int, since: int) -> Signal:
        return Signal(
            kind=kind,
            plane=self.name,
            detector=NAME,
            events=events,
            before=moved[0].before,
            after=moved[0].after,
            since=since,
            moved=moved,
        )

    def _moved(self, j: int, a: int, since: int, events: int, recent: Recent) -> Moved:
        """How far a column has moved in what a bet is about: the events after `since` beside all others."""
        column, bet = self._columns[j], self._bets[j][a]
        assert column is not None  # noqa: S101 - only watched columns bet
        values = np.array(column.coder()(recent(events - since)[j]))
        there = values[~np.isnan(values)]
        bins = np.searchsorted(np.array(column.edges), there)
        value = None
        if bet.what in {"mean", "spread"}:
            scores = np.array(column.scores if bet.what == "mean" else column.squares)
            before = column.mean if bet.what == "mean" else column.deviation
            after = float((there.mean() if bet.what == "mean" else there.std()) if len(there) else math.nan)
            distance = float(scores[bins].mean()) if len(there) else 0.0
        else:
            counts = np.bincount(bins, minlength=BINS + 1).astype(np.float64)
            counts[-1] = len(values) - len(there)
            at = BINS if bet.what == "missing" else bet.bin
            before, after = _share(self._counts[j] - counts, at), _share(counts, at)
            distance = after - before
            if bet.what == "share":
                value = (*column.values, "other")[min(bet.bin, len(column.values))]
        return Moved(self.names[j], bet.what, before, after, distance, value)

    def distances(self) -> dict[str, float]:
        """How far each watched column's last thousand events or so are from all since its reference began.

        As the population stability index; under .1 is commonly taken for no change, over .25 for a large one.
        """
        watched = self._watched()
        new, old = (self._shares(counts)[watched] for counts in (self._fading, self._counts))
        indices = ((new - old) * np.log(new / old)).sum(axis=1)
        return {self.names[j]: float(index) for j, index in zip(watched, indices, strict=True)}

    # ---- the state ---------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything it needs to go on, as primitives."""
        arrays = {name: getattr(self, f"_{name}").tobytes() for name in _ARRAYS}
        return {
            "names": self.names,
            "columns": msgspec.to_builtins(self._columns),
            "samples": {j: list(sample) for j, sample in self._samples.items()},
            "counting": dict(self._counting),
            "spans": (self._spans, self._refresh_at),
            "warned": (self.warned_at, *self._warned),
            "quiet_until": self._quiet_until,
            **arrays,
        }

    def _load(self, state: Mapping[str, Any]) -> None:
        self._columns = msgspec.convert(state["columns"], list[Column | None])
        self._samples = {j: list(sample) for j, sample in state["samples"].items()}
        self._counting = dict(state["counting"])
        self._arrange()
        for name in _ARRAYS:
            like = getattr(self, f"_{name}")
            setattr(self, f"_{name}", np.frombuffer(state[name], dtype=np.float64).reshape(like.shape).copy())
        self._spans, self._refresh_at = state["spans"]
        self.warned_at, *where = state["warned"]
        self._warned = (where[0], where[1])
        self._quiet_until = state.get("quiet_until", 0)
        self._tabulate()


_ARRAYS = ("counts", "fading", "known", "stakes", "lead", "since")
"""Of doubles."""


def _is_news(moved: Moved) -> bool:
    """Whether answers moved by what somebody would look at. A number's unit is its own: any move is."""
    if moved.name == "prediction":
        return True
    low, high = sorted((moved.before, moved.after))
    rare = moved.what in {"above", "below", "missing"}
    return high - low >= LEAST_MOVE or (high >= LEAST_FACTOR * low and not rare)


def _share(counts: Floats, at: int) -> float:
    """Of one bin: of all events for absent ones, of the present ones for values."""
    total = float(counts.sum() if at == BINS else counts[:-1].sum())
    return max(0.0, float(counts[at])) / total if total > 0.0 else math.nan
