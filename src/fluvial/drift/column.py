"""One column that a plane watches: its bins, frozen from a sample, and the bets that are made on them.

A number falls between edges at the sample's quantiles, with a bin of its own below and above all that was
seen; a category has a bin for each frequent value and one for the rest. So what is watched are counts,
and no distribution is assumed.

A *bet* is another set of shares of the bins than the present ones: the mean a little higher, the spread
wider, a value more frequent, absent more often. Where the bet's share of a bin is twice the present one,
an event in that bin doubles the bet's evidence. Under the present shares the expected factor is one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from statistics import NormalDist

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Raw = float | str | None
"""A feature's value; None when it is absent."""

QUANTILES = 10
"""Bins of equal share between the sample's least and greatest value."""
EDGES = QUANTILES + 1
BINS = EDGES + 1
"""Of present values; one more, the last, is for absent ones."""
VALUES = BINS - 1
"""A category's values with a bin of their own; the last bin is for the rest."""
MEANS = (0.25, 0.5, 1.0)
"""Bets on a higher or lower mean, in standard deviations of the ranks' normal scores."""
SPREADS = (0.35, 1.0)
"""Bets on a wider or narrower spread, in standard deviations of the scores' squares."""
MIXES = (0.03, 0.15)
"""Bets that so much of all events will be of one category."""
OUTSIDE = 0.05
"""Bet that so much of all events lies beyond what the sample saw, or is absent."""
LEAST_INFORMATION = 0.002
"""Nats an event that a bet must lose when nothing changes: one that loses less waits for ever."""
REMEMBERED = 512
"""Columns whose tables are kept: a reference that begins anew lays out all of them again."""
_NORMAL = NormalDist()


class Bet(msgspec.Struct, frozen=True):
    """What is betted on; `kind` tells how the bet's shares come from the present ones."""

    what: str
    """`mean`, `spread`, `above`, `below`, `share`, `missing`."""
    up: bool
    kind: str
    """`tilt`: by a factor for each bin; `mix`: `size` of all events move into `bin`."""
    size: float
    bin: int = 0


class Column(msgspec.Struct, frozen=True):
    """The bins of one column, as they were frozen."""

    values: tuple[str, ...]
    """A category's values in the order of their bins; empty for a number."""
    edges: tuple[float, ...]
    """Ascending: bin k holds what is over k of them."""
    scores: tuple[float, ...]
    """Normal score of each bin, with mean 0 and deviation 1 over the sample."""
    squares: tuple[float, ...]
    """The same of the scores' squares."""
    mean: float
    deviation: float
    category: bool

    def coder(self) -> Callable[[Sequence[Raw]], list[float]]:
        """Make what puts values as numbers between the edges; NaN for what is absent, or not of this kind."""
        if self.unknown:
            return lambda raw: [math.nan if absent(value) else 0.0 for value in raw]
        if not self.category:
            return lambda raw: [number(value) for value in raw]
        table: dict[Raw, float] = {value: float(k) for k, value in enumerate(self.values)}
        table[None] = math.nan
        return lambda raw: [table.get(value, float(VALUES)) for value in raw]

    @property
    def unknown(self) -> bool:
        """Whether the whole sample lacked it: whatever comes, number or text, is in the one bin there is."""
        return not self.edges and not self.category

    def bets(self) -> tuple[Bet, ...]:
        """Everything that is betted on in this column, in a fixed order."""
        missing = [
            Bet("missing", True, "mix", OUTSIDE, BINS),
            Bet("missing", True, "tilt", 2.0, BINS),
            # Where all were absent there is one bin for what comes, and half of it would be nothing.
            Bet("missing", False, "tilt", 0.5, BINS)
            if self.edges
            else Bet("missing", False, "mix", OUTSIDE, 0),
        ]
        if self.category:
            bins = [*range(len(self.values)), VALUES]
            shares = [Bet("share", True, "mix", size, k) for k in bins for size in MIXES]
            return (*shares, *missing)
        means = [Bet("mean", up, "tilt", size if up else -size) for size in MEANS for up in (True, False)]
        spreads = [Bet("spread", up, "tilt", s if up else -s) for s in SPREADS for up in (True, False)]
        top = len(self.edges)
        ends = (Bet("above", True, "mix", OUTSIDE, top), Bet("below", True, "mix", OUTSIDE, 0))
        return (*means, *spreads, *ends, *missing)


def absent(value: Raw) -> bool:
    """Whether a feature is not there."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def number(value: Raw) -> float:
    """A number as it is; NaN for a text and for nothing."""
    return float(value) if isinstance(value, float | int) else math.nan


def shape(sample: Sequence[Raw]) -> Column:
    """Freeze the bins of a column from a sample of its values."""
    if any(isinstance(value, str) for value in sample):
        return _category(sample)
    numbers = np.sort(np.array([v for v in map(number, sample) if not math.isnan(v)], dtype=np.float64))
    if not len(numbers):
        return Column((), (), (0.0,), (0.0,), 0.0, 0.0, category=False)
    places = (np.arange(1, QUANTILES) * len(numbers)) // QUANTILES
    inner = numbers[np.maximum(places - 1, 0)]
    edges = np.unique([np.nextafter(numbers[0], -np.inf), *inner, numbers[-1]])
    edges = edges[np.isfinite(edges)]
    shares = np.bincount(np.searchsorted(edges, numbers), minlength=len(edges) + 1) / len(numbers)
    scores, squares = _scores(shares)
    with np.errstate(over="ignore"):  # numbers near the greatest double: only a report is made of these
        mean, deviation = float(numbers.mean()), float(numbers.std())
    return Column((), tuple(edges.tolist()), tuple(scores), tuple(squares), mean, deviation, category=False)


def _category(sample: Sequence[Raw]) -> Column:
    counted = Counter(str(value) for value in sample if value is not None)
    frequent = tuple(value for value, _ in counted.most_common(VALUES))
    edges = tuple(k + 0.5 for k in range(EDGES))
    flat = (0.0,) * BINS
    return Column(frequent, edges, flat, flat, 0.0, 0.0, category=True)


def _scores(shares: Floats) -> tuple[list[float], list[float]]:
    """Mean normal score of each bin, and mean of its square, both made to mean 0 and deviation 1."""
    ends = [_end(p) for p in (0.0, *np.cumsum(shares)[:-1].tolist(), 1.0)]
    scores, squares = [], []
    for k, share in enumerate(shares.tolist()):
        (a, density_a), (b, density_b) = ends[k], ends[k + 1]
        if share > 0.0:
            scores.append((density_a - density_b) / share)
            squares.append(1.0 + (a * density_a - b * density_b) / share)
        else:  # beyond all that was seen: the one of a thousand that is not in the sample
            scores.append(-3.0 if k == 0 else 3.0)
            squares.append(9.0)
    return _standard(scores, shares), _standard(squares, shares)


def _end(p: float) -> tuple[float, float]:
    """The normal quantile of `p` and the density there."""
    if not 1e-9 < p < 1.0 - 1e-9:
        return 0.0, 0.0
    z = _NORMAL.inv_cdf(p)
    return z, _NORMAL.pdf(z)


def _standard(values: list[float], shares: Floats) -> list[float]:
    taken = np.array(values)
    centred = taken - float(taken @ shares)
    deviation = math.sqrt(float(centred**2 @ shares))
    return [0.0] * len(values) if deviation < 1e-6 else (centred / deviation).tolist()


class Tables(msgspec.Struct, frozen=True):
    """A column's bets as arrays over the bins, absent values last; all that the counts do not change."""

    tilt: Floats
    """(bets, bins): by what the present share of a bin is multiplied."""
    kept: Floats
    """(bets, 1): how much of the present shares is kept beside what is mixed in."""
    mixed: Floats
    """(bets, bins): what is mixed in."""
    scope: Floats
    """(bets, bins): 1 where a bin takes part: a bet on values says nothing where there is none."""
    prior: Floats
    """(bins,): counts before anything was counted; 0 for bins that this column has not."""


@lru_cache(maxsize=REMEMBERED)
def tables(column: Column) -> Tables:
    """What the bets on a column come to. Nobody may write into them: they are handed out again."""
    bets = column.bets()
    scores, squares = (_padded(values) for values in (column.scores, column.squares))
    tilt, mixed = np.ones((len(bets), BINS + 1)), np.zeros((len(bets), BINS + 1))
    scope, kept = np.ones((len(bets), BINS + 1)), np.ones((len(bets), 1))
    for k, bet in enumerate(bets):
        if bet.what != "missing":
            scope[k, -1] = 0.0
        if bet.kind == "mix":
            kept[k], mixed[k, bet.bin] = 1.0 - bet.size, bet.size
        elif bet.what == "missing":
            tilt[k, -1] = bet.size
        else:
            tilt[k, :-1] = _tilt(bet.size * (scores if bet.what == "mean" else squares))
    last = VALUES if column.category else len(column.edges)
    prior = np.zeros(BINS + 1)
    prior[: last + 1] = prior[-1] = 0.5
    prior[last] = 1.0  # never seen, so the least is known of it: the cautious side
    if not column.category:
        prior[0] = 1.0
    return Tables(tilt, kept, mixed, scope, prior)


def _tilt(x: Floats) -> Floats:
    """exp(x) near 0, and far from it a square: a rare bin must not decide by a single event."""
    half = 1.0 + np.abs(x) + 0.5 * x * x
    return np.where(x >= 0.0, half, 1.0 / half)


def _padded(values: Sequence[float]) -> Floats:
    return np.array([*values, *[0.0] * (BINS - len(values))])
