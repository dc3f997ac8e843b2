"""From expected events between false alarms to the confidence of the error plane's ADWIN.

Measured, not derived: `python benchmarks/planes.py error --events 10000000` (seed 1) counts false rises on
steady error rates of .05, .1, .2, .3 and .5. docs/drift.md has the figures.
"""

from __future__ import annotations

import math

from fluvial.config import DriftSettings

WARNING_DELTA, DRIFT_DELTA = 0.05, 0.002
"""Without an expectation: what the policies' worth was measured with."""
MEASURED = ((25_000, 0.3), (113_000, 0.1), (300_000, 0.05), (1_110_000, 0.02), (2_860_000, 0.01))
"""Events between two false rises, and ADWIN's delta."""


def warning_delta(settings: DriftSettings) -> float:
    """The confidence of the ADWIN that warns."""
    expected = settings.expect_warning.get("error")
    return settings.warning_delta or (delta_for(expected) if expected else WARNING_DELTA)


def drift_delta(settings: DriftSettings) -> float:
    """The confidence of the ADWIN that calls it drift."""
    expected = settings.expect.get("error")
    return settings.drift_delta or (delta_for(expected) if expected else DRIFT_DELTA)


def delta_for(expected: float) -> float:
    """Delta by a line through the logarithms of the two measured neighbours; beyond them by the nearest."""
    known = [(math.log(events), math.log(delta)) for events, delta in MEASURED]
    x = math.log(expected)
    right = next((k for k, (events, _) in enumerate(known) if events >= x), len(known) - 1)
    (x0, y0), (x1, y1) = known[max(0, right - 1)], known[max(1, right)]
    return min(0.9, math.exp(y0 + (x - x0) * (y1 - y0) / (x1 - x0)))
