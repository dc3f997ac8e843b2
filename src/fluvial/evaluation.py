"""Prequential evaluation: what was served against the label that came, over three horizons.

The loop only keeps rows; every `BLOCK` labelled events they are folded into sufficient statistics
(a confusion matrix, ROC curves, sums), from which metrics are derived when somebody reads
them. Blocks are cut by event count, so the sums do not depend on how events came in batches.

Horizons: `total` since genesis, `window` over the newest events, `fading` with a half-life.
Sources: Gama et al., "On evaluating stream learning algorithms" (2013); kappa-temporal: Zliobaite et
al., "Evaluation methods and decision theory for classification of streaming data" (2015).
"""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluvial.config import EvaluationSettings
from fluvial.roc import RocCurve
from fluvial.types import Answer, Label, Served, Task

BLOCK = 1_024
MAX_AUC_CLASSES = 20
"""Above that many classes no one-against-rest curves are kept."""
LEAST_PROBABILITY = 1e-15

Floats = NDArray[np.float64]
Row = tuple[Label, Label, Answer]
"""Label, the label before it, what was served."""


class Rows:
    """Rows as columns: `y` and `last` of shape (n,), `answers` of shape (n, classes or 1)."""

    def __init__(self, rows: Sequence[Row], width: int) -> None:
        y, last, answers = zip(*rows, strict=True)
        self.y: Floats = np.array(y, dtype=np.float64)
        self.last: Floats = np.array(last, dtype=np.float64)
        self.answers: Floats = np.fromiter(chain.from_iterable(answers), np.float64).reshape(len(rows), width)

    @cached_property
    def cells(self) -> NDArray[np.int64]:
        """Where each row falls in the confusion matrix, counted along its rows."""
        cells: NDArray[np.int64] = self.labels * self.answers.shape[1] + self.answers.argmax(axis=1)
        return cells

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """The labels as class indices."""
        return self.y.astype(np.int64)

    @cached_property
    def losses(self) -> Floats:
        """Log-loss of each row."""
        served = self.answers[np.arange(len(self.y)), self.labels]
        return -np.log(np.clip(served, LEAST_PROBABILITY, 1.0))


class ClassTally:
    """Sufficient statistics of classification; all counts are weighted."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.confusion = np.zeros((size, size))
        """[label, choice]"""
        self.log_loss = 0.0
        self.repeated = 0.0
        """Weight of the labels that equal the one before: what the no-change baseline gets right."""
        classes = [1] if size == 2 else range(size if size <= MAX_AUC_CLASSES else 0)
        self.curves = {k: RocCurve() for k in classes}
        """Class against the rest; of two classes only the second."""

    def scale(self, factor: float) -> None:
        """Fade everything."""
        self.confusion *= factor
        self.log_loss *= factor
        self.repeated *= factor
        for curve in self.curves.values():
            curve.scale(factor)

    def add(self, rows: Rows, weights: Floats) -> None:
        """Count rows, each by its weight."""
        self.confusion += np.bincount(rows.cells, weights, self.size**2).reshape(self.confusion.shape)
        self.log_loss += float(weights @ rows.losses)
        self.repeated += float(weights @ (rows.y == rows.last))
        for k, curve in self.curves.items():
            curve.add(rows.answers[:, k], rows.labels == k, weights)

    def metrics(self) -> dict[str, float]:
        """Derive the metrics; empty without rows."""
        total = float(self.confusion.sum())
        if total <= 0.0:
            return {}
        accuracy = float(np.trace(self.confusion)) / total
        chance = float(self.confusion.sum(axis=1) @ self.confusion.sum(axis=0)) / total**2
        no_change = self.repeated / total
        out = {
            "accuracy": accuracy,
            "log_loss": self.log_loss / total,
            "kappa": _beyond(accuracy, chance),
            "kappa_temporal": _beyond(accuracy, no_change),
            "no_change_accuracy": no_change,
            "majority_accuracy": float(self.confusion.sum(axis=1).max()) / total,
        }
        auc = self.roc_auc()
        return out if auc is None else {**out, "roc_auc": auc}

    def roc_auc(self) -> float | None:
        """Area under the ROC curve, ties counted half; macro average one against rest beyond two classes."""
        areas = [curve.area() for curve in self.curves.values()]
        known = [area for area in areas if area is not None]
        return sum(known) / len(known) if known else None

    def copy(self) -> ClassTally:
        """Another one that counted the same."""
        other = ClassTally(self.size)
        other.confusion = self.confusion.copy()
        other.log_loss, other.repeated = self.log_loss, self.repeated
        other.curves = {k: curve.copy() for k, curve in self.curves.items()}
        return other

    def state(self) -> dict[str, Any]:
        """Everything that it counted, as primitives and bytes: no numpy class in a checkpoint."""
        return {
            "confusion": self.confusion.tobytes(),
            "log_loss": self.log_loss,
            "repeated": self.repeated,
            "curves": {k: curve.table.tobytes() for k, curve in self.curves.items()},
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Undo `state`."""
        self.confusion = np.frombuffer(state["confusion"]).reshape(self.confusion.shape).copy()
        self.log_loss, self.repeated = state["log_loss"], state["repeated"]
        tables = state["curves"].items()
        self.curves = {k: RocCurve(np.frombuffer(table).reshape(3, -1).copy()) for k, table in tables}


class NumberTally:
    """Sufficient statistics of regression; all sums are weighted."""

    NAMES = ("weight", "absolute", "squared", "total", "total_squared", "no_change")
    """What fades."""

    def __init__(self) -> None:
        self.weight = self.absolute = self.squared = self.total = self.total_squared = self.no_change = 0.0
        self.origin = 0.0
        """The first label: sums of squares far from zero would lose the spread that they are to tell."""

    def scale(self, factor: float) -> None:
        """Fade everything."""
        for name in self.NAMES:
            setattr(self, name, getattr(self, name) * factor)

    def add(self, rows: Rows, weights: Floats) -> None:
        """Count rows, each by its weight."""
        if self.weight == 0.0:
            self.origin = float(rows.y[0])
        error, moved = rows.y - rows.answers[:, 0], rows.y - self.origin
        self.weight += float(weights.sum())
        self.absolute += float(weights @ np.abs(error))
        self.squared += float(weights @ error**2)
        self.total += float(weights @ moved)
        self.total_squared += float(weights @ moved**2)
        self.no_change += float(weights @ np.abs(rows.y - rows.last))

    def metrics(self) -> dict[str, float]:
        """Derive the metrics; empty without rows."""
        if self.weight <= 0.0:
            return {}
        spread = self.total_squared - self.total**2 / self.weight
        return {
            "mae": self.absolute / self.weight,
            "rmse": math.sqrt(self.squared / self.weight),
            "r2": 1.0 - self.squared / spread if spread > 0.0 else 0.0,
            "last_value_mae": self.no_change / self.weight,
        }

    def copy(self) -> NumberTally:
        """Another one that summed the same."""
        other = NumberTally()
        other.load(self.state())
        return other

    def state(self) -> dict[str, Any]:
        """Everything that it summed."""
        return {name: getattr(self, name) for name in (*self.NAMES, "origin")}

    def load(self, state: Mapping[str, Any]) -> None:
        """Undo `state`."""
        for name, value in state.items():
            setattr(self, name, value)


def _beyond(accuracy: float, baseline: float) -> float:
    """Share of the baseline's errors that were avoided: 1 is perfect, 0 no better than the baseline."""
    return (accuracy - baseline) / (1.0 - baseline) if baseline < 1.0 else 0.0


class Prequential:
    """Evaluates every served answer whose label came."""

    def __init__(
        self, task: Task, size: int, settings: EvaluationSettings, state: dict[str, Any] | None = None
    ) -> None:
        self._task = task
        self._size = size
        self._fade = 0.5 ** (1.0 / settings.half_life)
        self.total = self._tally()
        self.fading = self._tally()
        self._recent: deque[Row] = deque(maxlen=settings.window)
        self._pending: list[Served] = []
        self._before: Label = math.nan
        """The label before the pending ones. The very first has none: no baseline could have known it."""
        self.unpredicted = 0
        """Labelled events that the model could not predict: left out of every metric."""
        if state is not None:
            self._load(state)

    def _tally(self) -> ClassTally | NumberTally:
        return NumberTally() if self._task is Task.REGRESSION else ClassTally(self._size)

    def extend(self, served: Iterable[Served]) -> None:
        """Take labels and what was served for them. A multiple of blocks may come, never across one's end."""
        pending = self._pending
        pending.extend(served)
        if len(pending) >= BLOCK:
            rows = self._with_last(pending)
            self._fold(rows, self.total, self.fading)
            self._recent.extend(rows)
            self._before = pending[-1][0]
            self._pending = []

    def _with_last(self, pending: Sequence[Served]) -> list[Row]:
        """Put the label before beside each: the one that is given with it, or that of the row before."""
        rows: list[Row] = []
        before = self._before
        for row in pending:
            rows.append((row[0], row[2] if len(row) == 3 else before, row[1]))
            before = row[0]
        return rows

    def _fold(
        self, rows: Sequence[Row], total: ClassTally | NumberTally, fading: ClassTally | NumberTally
    ) -> None:
        """Count rows in both tallies."""
        columns = self._columns(rows)
        total.add(columns, np.ones(len(rows)))
        self._fold_fading(columns, fading)

    def _fold_fading(self, columns: Rows, fading: ClassTally | NumberTally) -> None:
        n = len(columns.y)
        fading.scale(self._fade**n)
        fading.add(columns, self._fade ** np.arange(n - 1, -1, -1.0))

    def _columns(self, rows: Sequence[Row]) -> Rows:
        """Rows as columns; the very first label has none before it and counts as no change in regression."""
        regression = self._task is Task.REGRESSION
        columns = Rows(rows, 1 if regression else self._size)
        if regression:
            first = np.isnan(columns.last)
            columns.last[first] = columns.y[first]
        return columns

    def metrics(self, newer: Iterable[Served] = ()) -> dict[str, dict[str, float]]:
        """Horizon to metric to value, `newer` rows not yet given included; reading changes nothing."""
        window, total, fading = self._tally(), self.total.copy(), self.fading.copy()
        pending = [*self._pending, *newer]
        rows = self._with_last(pending) if pending else []
        if rows:
            self._fold(rows, total, fading)
        rows = [*self._recent, *rows][-(self._recent.maxlen or 0) :]
        if rows:
            window.add(self._columns(rows), np.ones(len(rows)))
        return {"total": total.metrics(), "window": window.metrics(), "fading": fading.metrics()}

    def fading_metrics(self, newer: Iterable[Served] = ()) -> dict[str, float]:
        """Of `metrics` the fading ones alone, which take a tenth of the time."""
        fading, pending = self.fading.copy(), [*self._pending, *newer]
        if pending:
            self._fold_fading(self._columns(self._with_last(pending)), fading)
        return fading.metrics()

    def copy(self) -> Prequential:
        """Another one that saw the same; takes microseconds, where deriving metrics takes milliseconds."""
        other = copy.copy(self)
        other.total, other.fading = self.total.copy(), self.fading.copy()
        vars(other).update(_recent=self._recent.copy(), _pending=list(self._pending))
        return other

    def state(self) -> dict[str, Any]:
        """Everything it needs to go on, as primitives and bytes."""
        return {
            "total": self.total.state(),
            "fading": self.fading.state(),
            "recent": list(self._recent),
            "pending": list(self._pending),
            "before": self._before,
            "unpredicted": self.unpredicted,
        }

    def _load(self, state: dict[str, Any]) -> None:
        self.total.load(state["total"])
        self.fading.load(state["fading"])
        self._recent.extend(state["recent"])
        self._pending = list(state["pending"])
        self._before = state["before"]
        self.unpredicted = state["unpredicted"]
