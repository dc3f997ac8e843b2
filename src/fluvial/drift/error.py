"""The error plane: two one-sided ADWINs on the loss, one to warn and one to call it drift.

ADWIN (Bifet and Gavalda, 2007) fires on a falling error too; only a rise is a drift of ours. It looks
for a cut at every 32nd value only, so losses are handed over in blocks of that many, and a signal
comes at the very event at which it would have come one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fluvial.config import DriftSettings
from fluvial.drift.calibration import drift_delta, warning_delta
from fluvial.drift.dating import events_since_change
from fluvial.types import Label, Signal, SignalKind, Task

Losses = Callable[[], Sequence[float]]
"""The ring of recent losses, the newest last, asked for only when a change is to be dated."""

CLOCK = 32
"""ADWIN looks for a cut each time it has taken so many values."""
SCALE_RATE = 0.0005
"""Regression: rate of the slow mean of |y - prediction| that the loss is measured in."""
WARMING = 30
"""Regression: labelled events before the scale means anything."""
CALM = 2_000
"""Labelled events without a drift after which a warning is taken back."""


class OneSided:
    """One ADWIN that speaks up when the mean rose, and says what it was before and after."""

    def __init__(self, delta: float, window: Any = None) -> None:
        from river._river_rust.drift import AdaptiveWindowing  # noqa: PLC0415 - loads scipy: seconds when cold

        self._delta = delta
        self._make = AdaptiveWindowing
        self.window = window if window is not None else self._fresh()
        self.fired = self.rose = False
        self.before = 0.0

    def _fresh(self) -> Any:
        return self._make(delta=self._delta, clock=CLOCK, max_buckets=5, min_window_length=5, grace_period=10)

    @property
    def mean(self) -> float:
        """Mean of the present window."""
        width: float = self.window.get_width()
        return self.window.get_total() / width if width else 0.0

    def update(self, losses: Sequence[float]) -> None:
        """Take a block of at most `CLOCK` losses; `fired` and `rose` say what the last of them did."""
        if self.fired:
            self.window = self._fresh()  # as River's does after a detection
        self.before = self.mean
        take = self.window.update
        self.fired = False
        for loss in losses:
            self.fired = take(loss) or self.fired
        self.rose = self.fired and self.mean > self.before


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
        self._warning = OneSided(warning_delta(self._settings))
        self._drift = OneSided(drift_delta(self._settings))
        self.warned_at = 0

    @property
    def level(self) -> float:
        """Mean loss over the window in which it did not change."""
        return self._warning.mean

    def loss(self, y: Label, value: float) -> float:
        """Regression: |y - value| over four times its slow mean, at most 1."""
        error = abs(float(y) - value)
        self.scaled += 1
        rate = max(SCALE_RATE, 1.0 / self.scaled)
        self.scale += rate * (error - self.scale)
        if self.scaled < WARMING or self.scale <= 0.0:
            return 0.0
        return min(1.0, error / (4.0 * self.scale))

    def update(self, block: Sequence[float], events: int, losses: Losses) -> tuple[Signal, ...]:
        """Watch a block of losses, whose last one is that of labelled event number `events`."""
        warning, drift = self._warning, self._drift
        warning.update(block)
        drift.update(block)
        if drift.rose:
            self.warned_at = 0
            return (self._signal(SignalKind.DRIFT, drift, events, losses),)
        if warning.fired:
            return self._warned(events, losses)
        if self.warned_at and events - self.warned_at >= CALM:
            return (self._recover(events),)
        return ()

    def _warned(self, events: int, losses: Losses) -> tuple[Signal, ...]:
        """Take what the warning detector says: a rise warns, a fall takes a standing warning back."""
        if not self._warning.rose:
            return (self._recover(events),) if self.warned_at else ()
        first = not self.warned_at
        self.warned_at = events
        if not first:
            return ()
        self.warned_level = self._warning.before
        return (self._signal(SignalKind.WARNING, self._warning, events, losses),)

    def _recover(self, events: int) -> Signal:
        since, self.warned_at = self.warned_at, 0
        return Signal(
            kind=SignalKind.RECOVERED,
            plane=self.plane,
            detector="adwin",
            events=events,
            before=self.warned_level,
            after=self._warning.mean,
            since=since,
        )

    def _signal(self, kind: SignalKind, detector: OneSided, events: int, losses: Losses) -> Signal:
        return Signal(
            kind=kind,
            plane=self.plane,
            detector="adwin",
            events=events,
            before=detector.before,
            after=detector.mean,
            since=events - events_since_change(losses()),
        )

    def state(self) -> dict[str, Any]:
        """Everything it needs to go on: primitives and River's two windows."""
        names = ("scale", "scaled", "warned_at", "warned_level")
        detectors = {"warning": self._warning, "drift": self._drift}
        windows = {name: (one.window, one.fired) for name, one in detectors.items()}
        return {**{n: getattr(self, n) for n in names}, **windows}

    def _load(self, state: dict[str, Any]) -> None:
        for detector, name in ((self._warning, "warning"), (self._drift, "drift")):
            detector.window, detector.fired = state[name]
        self.scale, self.scaled = state["scale"], state["scaled"]
        self.warned_at, self.warned_level = state["warned_at"], state["warned_level"]
