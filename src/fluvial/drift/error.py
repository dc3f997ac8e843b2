"""The error plane: two one-sided ADWINs on the loss, one to warn and one to call it drift.

ADWIN (Bifet and Gavalda, 2007) fires on a falling error too; only a rise is a drift of ours. It throws
its window away at the update after a detection, so its estimate is read at the detection itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fluvial.config import DriftSettings
from fluvial.drift.dating import events_since_change
from fluvial.types import Label, Signal, SignalKind, Task

Losses = Callable[[], Sequence[float]]
"""The ring of recent losses, the newest last, asked for only when a change is to be dated."""

SCALE_RATE = 0.0005
"""Regression: rate of the slow mean of |y - prediction| that the loss is measured in."""
WARMING = 30
"""Regression: labelled events before the scale means anything."""
CALM = 2_000
"""Labelled events without a drift after which a warning is taken back."""


class ErrorMonitor:
    """Watches one loss per labelled event (0 to 1) and says when it rose."""

    plane = "error"

    def __init__(self, task: Task, settings: DriftSettings, state: dict[str, Any] | None = None) -> None:
        self._settings = settings
        self._regression = task is Task.REGRESSION
        self.scale = 0.0
        self.scaled = 0
        self.warned_at = 0
        """Labelled events at the standing warning; 0 for none."""
        self.warned_level = 0.0
        self.restart()
        if state is not None:
            self._load(state)

    def restart(self) -> None:
        """Forget what was watched: the model it was watched on is gone."""
        from river.drift import ADWIN  # noqa: PLC0415 - loads scipy: seconds when cold

        self._warning = ADWIN(delta=self._settings.warning_delta)
        self._drift = ADWIN(delta=self._settings.drift_delta)
        self.warned_at = 0

    def loss(self, y: Label, choice: int, value: float) -> float:
        """0 or 1 for a class; for a number |y - value| over four times its slow mean, at most 1."""
        if not self._regression:
            return 0.0 if choice == y else 1.0
        error = abs(float(y) - value)
        self.scaled += 1
        rate = max(SCALE_RATE, 1.0 / self.scaled)
        self.scale += rate * (error - self.scale)
        if self.scaled < WARMING or self.scale <= 0.0:
            return 0.0
        return min(1.0, error / (4.0 * self.scale))

    def update(self, loss: float, events: int, losses: Losses) -> tuple[Signal, ...]:
        """Watch the loss of the labelled event that is number `events`."""
        warning, drift = self._warning, self._drift
        before_warning, before_drift = warning.estimation, drift.estimation
        warning.update(loss)
        drift.update(loss)
        if drift.drift_detected and drift.estimation > before_drift:
            self.warned_at = 0
            return (self._signal(SignalKind.DRIFT, drift, before_drift, events, losses),)
        if warning.drift_detected:
            return self._warned(before_warning, events, losses)
        if self.warned_at and events - self.warned_at >= CALM:
            return (self._recover(warning.estimation, events),)
        return ()

    def _warned(self, before: float, events: int, losses: Losses) -> tuple[Signal, ...]:
        """Take what the warning detector says: a rise warns, a fall takes a standing warning back."""
        if self._warning.estimation > before:
            first = not self.warned_at
            self.warned_at = events
            self.warned_level = before if first else self.warned_level
            return (self._signal(SignalKind.WARNING, self._warning, before, events, losses),) if first else ()
        return (self._recover(self._warning.estimation, events),) if self.warned_at else ()

    def _recover(self, after: float, events: int) -> Signal:
        since, self.warned_at = self.warned_at, 0
        return Signal(
            kind=SignalKind.RECOVERED,
            plane=self.plane,
            detector="adwin",
            events=events,
            before=self.warned_level,
            after=after,
            since=since,
        )

    def _signal(self, kind: SignalKind, detector: Any, before: float, events: int, losses: Losses) -> Signal:
        return Signal(
            kind=kind,
            plane=self.plane,
            detector="adwin",
            events=events,
            before=before,
            after=detector.estimation,
            since=events - events_since_change(losses()),
        )

    def state(self) -> dict[str, Any]:
        """Everything it needs to go on: primitives and two River detectors."""
        names = ("scale", "scaled", "warned_at", "warned_level")
        return {**{n: getattr(self, n) for n in names}, "warning": self._warning, "drift": self._drift}

    def _load(self, state: dict[str, Any]) -> None:
        self._warning, self._drift = state["warning"], state["drift"]
        self.scale, self.scaled = state["scale"], state["scaled"]
        self.warned_at, self.warned_level = state["warned_at"], state["warned_level"]
