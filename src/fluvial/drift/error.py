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
WARMING = 30
"""Regression: labelled events of which the mean of |y - prediction| is the first unit of the loss."""
RECENT_RATE = 1 / 200
"""Regression: rate of the mean of the recent |y - prediction|, by which the unit is judged."""
FINER, COARSER = 0.5, 4.0
"""Regression: the unit is taken anew where the recent mean is below or above so many of it."""
WILD = 8.0
"""Regression: in units, what a single error counts at most in the recent mean."""
CALM = 2_000
"""Labelled events without a drift after which a warning is taken back."""


KEPT = ("scale", "recent", "scaled", "scaled_since", "warned_at", "warned_level")
"""What a monitor keeps beside its detectors."""


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
        self.scale = self.recent = 0.0
        self.scaled = 0
        self.scaled_since = 0
        """Labelled events when the unit was taken anew."""
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
        """Regression: |y - value| over four units, at most 1.

        The unit stands still as long as it can. One that followed the error would rise against it, and
        fire, whenever a model stopped getting better: the mean of earlier, larger errors runs out.
        """
        error = abs(float(y) - value)
        self.scaled += 1
        if self.scaled <= WARMING:
            self.recent += (error - self.recent) / self.scaled
            self.scale = self.recent
        else:
            seen = min(error, WILD * self.scale) if self.scale > 0.0 else error
            self.recent += max(RECENT_RATE, 1.0 / self.scaled) * (seen - self.recent)
        return min(1.0, error / (4.0 * self.scale)) if self.scale > 0.0 else 0.0

    def update(self, block: Sequence[float], events: int, losses: Losses) -> tuple[Signal, ...]:
        """Watch a block of losses, whose last one is that of labelled event number `events`."""
        signals = self._watch(block, events, lambda: losses()[self.scaled_since - events :])
        if self._regression and not signals and not self.warned_at:
            self._measure_anew(events)
        return signals

    def _measure_anew(self, events: int) -> None:
        """Take the unit of the errors as they are now, if it is far off; what was watched was in another."""
        if self.scaled > WARMING and not FINER * self.scale <= self.recent <= COARSER * self.scale:
            self.scale, self.scaled_since = self.recent, events
            self.restart()

    def _watch(self, block: Sequence[float], events: int, losses: Losses) -> tuple[Signal, ...]:
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
        detectors = {"warning": self._warning, "drift": self._drift}
        windows = {name: (one.window, one.fired) for name, one in detectors.items()}
        return {**self._kept(), **windows}

    def _kept(self) -> dict[str, Any]:
        return {**{name: getattr(self, name) for name in KEPT}, "made_by": self._made_by()}

    def _made_by(self) -> Any:
        """The settings that detectors are made by: under others they begin anew."""
        return (warning_delta(self._settings), drift_delta(self._settings))

    def _load(self, state: dict[str, Any]) -> None:
        self._load_kept(state)
        if state.get("made_by", self._made_by()) == self._made_by():
            self._load_detectors(state)

    def _load_detectors(self, state: dict[str, Any]) -> None:
        for detector, name in ((self._warning, "warning"), (self._drift, "drift")):
            detector.window, detector.fired = state[name]

    def _load_kept(self, state: dict[str, Any]) -> None:
        """What every monitor keeps. A unit that followed the error is the recent mean too."""
        for name in KEPT:
            setattr(self, name, state.get(name, state["scale"] if name == "recent" else 0))
