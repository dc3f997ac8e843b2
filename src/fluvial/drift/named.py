"""Detectors by name on the error plane: River's, or a class of the user's.

River's detectors agree on `update(x)` and `drift_detected` and on little else: some fire on a falling
error too, FHDDM reads 1 as right although its documentation says wrong, KSWIN draws at random without a
seed. Here all are one-sided (the change is dated, and the mean behind it must be higher), fed by the same
polarity, and seeded.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from fluvial.config import DETECTORS, DriftSettings
from fluvial.drift.dating import events_since_change
from fluvial.drift.error import CALM, ErrorMonitor, Losses
from fluvial.errors import SettingsError
from fluvial.types import Signal, SignalKind, Task

SEED = 1
RIGHT_IS_ONE = ("FHDDM",)
"""Detectors that fire when what they are told falls."""
ONE_SIDED = {"PageHinkley": {"mode": "up"}}
"""Options that make a two-sided detector look for a rise only, where it can."""
HALF = 0.5


def error_monitor(
    task: Task, settings: DriftSettings, state: Mapping[str, Any] | None = None
) -> ErrorMonitor:
    """Make the monitor that the settings name. A state that another detector left begins anew."""
    kind = ErrorMonitor if settings.detector == "ADWIN" else NamedMonitor
    if state is not None and state.get("detector", "ADWIN") != settings.detector:
        state = None
    return kind(task, settings, None if state is None else dict(state))


def make_detector(settings: DriftSettings) -> Any:
    """A fresh detector. Raises SettingsError."""
    name, options = settings.detector, dict(settings.options)
    try:
        made = _class(name)
        if "seed" in inspect.signature(made).parameters:
            options.setdefault("seed", SEED)
        detector = made(**{**ONE_SIDED.get(name, {}), **options})
    except Exception as error:  # a class of the user's may raise anything
        msg = f"drift.detector: {name} cannot be made: {error!r}"
        raise SettingsError(msg) from error
    if not (hasattr(detector, "update") and hasattr(detector, "drift_detected")):
        msg = f"drift.detector: {name} has no update() and drift_detected"
        raise SettingsError(msg)
    return detector


def _class(name: str) -> Any:
    if ":" in name:
        module, _, attribute = name.partition(":")
        return getattr(importlib.import_module(module), attribute)
    home = "river.drift.binary" if DETECTORS[name] == "binary" else "river.drift"
    return getattr(importlib.import_module(home), name.replace("_", ""))


class NamedMonitor(ErrorMonitor):
    """Watches the same losses by one detector of another make."""

    def restart(self) -> None:
        """Forget what was watched."""
        self._detector = make_detector(self._settings)
        self.warned_at = 0
        self._watched, self._total = 0, 0.0

    @property
    def level(self) -> float:
        """Mean loss since the detector began: how wide its window is, if it has one, it does not say."""
        return self._total / self._watched if self._watched else 0.0

    def _watch(self, block: Sequence[float], events: int, losses: Losses) -> tuple[Signal, ...]:
        detector, name = self._detector, self._settings.detector
        flip, binary = name in RIGHT_IS_ONE, DETECTORS.get(name) == "binary"
        fired = warned = False
        self._watched += len(block)
        self._total += sum(block)
        for loss in block:
            value = float(loss > HALF) if binary else loss
            self._tell(1.0 - value if flip else value)
            fired = fired or bool(detector.drift_detected)
            warned = warned or bool(getattr(detector, "warning_detected", False))
        if fired and (signal := self._rise(SignalKind.DRIFT, events, losses)):
            self.warned_at = 0
            if ":" in name:  # River's begin anew by themselves
                self._detector = make_detector(self._settings)
            return (signal,)
        if warned and not self.warned_at and (signal := self._rise(SignalKind.WARNING, events, losses)):
            self.warned_at, self.warned_level = events, signal.before
            return (signal,)
        if self.warned_at and events - self.warned_at >= CALM:
            return (self._taken_back(events, losses),)
        return ()

    def _tell(self, value: float) -> None:
        """Raises SettingsError: without its detector the service would go on as if nothing could drift."""
        try:
            self._detector.update(value)
        except Exception as error:  # a class of the user's may raise anything
            name = self._settings.detector
            msg = f"drift.detector: {name} raised {error!r} at loss {value:g}: mend it, or choose another one"
            raise SettingsError(msg) from error

    def _rise(self, kind: SignalKind, events: int, losses: Losses) -> Signal | None:
        """The signal, unless the likeliest change is a fall that came after the likeliest rise."""
        ring = losses()
        since, changed = events_since_change(ring), events_since_change(ring, either=True)
        before, after = _mean(ring[:-since]), _mean(ring[-since:])
        fell = changed < since and _mean(ring[-changed:]) < _mean(ring[:-changed])
        if fell or after <= before:
            return None
        return self._said(kind, events, before, after, events - since)

    def _taken_back(self, events: int, losses: Losses) -> Signal:
        since, self.warned_at = self.warned_at, 0
        return self._said(SignalKind.RECOVERED, events, self.warned_level, _mean(losses()[-CALM:]), since)

    def _said(self, kind: SignalKind, events: int, before: float, after: float, since: int) -> Signal:
        return Signal(
            kind=kind,
            plane=self.plane,
            detector=self._settings.detector,
            events=events,
            before=before,
            after=after,
            since=since,
        )

    def state(self) -> dict[str, Any]:
        """Everything it needs to go on: primitives and the detector."""
        watched = {"watched": self._watched, "total": self._total}
        return {**self._kept(), **watched, "detector": self._settings.detector, "object": self._detector}

    def _made_by(self) -> Any:
        return dict(self._settings.options)

    def _load_detectors(self, state: dict[str, Any]) -> None:
        self._detector = state["object"]
        self._watched, self._total = state.get("watched", 0), state.get("total", 0.0)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
