"""What a run must reach, for a pipeline: `accuracy=.8`, `reset:log_loss=.5`, `not-worse-than=FILE`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from fluvial.adapters.files import nearest
from fluvial.backtest.results import FORMAT, LOWER_IS_BETTER, Result
from fluvial.errors import SettingsError
from fluvial.types import Task

METRICS = {
    Task.REGRESSION: ("mae", "rmse", "r2"),
    Task.BINARY: ("accuracy", "log_loss", "kappa", "kappa_temporal", "roc_auc"),
    Task.MULTICLASS: ("accuracy", "log_loss", "kappa", "kappa_temporal", "roc_auc"),
}
OTHERS = ("regret", "false_alarms", "missed", "recovery", "events_per_second", "dead", "unpredicted")
"""What a run says beside its metrics."""
OF_TRUE_DRIFTS = {"false_alarms", "missed"}
AT_MOST = LOWER_IS_BETTER | {"recovery", "dead", "unpredicted"}
BASELINE = "not-worse-than"


class Gate(msgspec.Struct, frozen=True):
    """One condition."""

    text: str
    """As it was written."""
    run: str | None
    """Only this run; None: every one."""
    metric: str
    limit: float = 0.0
    baseline: Mapping[str, Mapping[str, float]] | None = None
    """Of `not-worse-than`: run to metrics."""


def parse_gate(text: str, task: Task, runs: Sequence[str], drift_at: Sequence[int] = ()) -> Gate:
    """Read one condition on these runs, with these true drifts. Raises SettingsError."""
    run, condition = _addressed(text.strip(), runs)
    metric, equals, right = (part.strip() for part in condition.partition("="))
    if not equals or not right:
        raise SettingsError(f"--gate {text}: write METRIC=LIMIT or {BASELINE}=FILE")
    if metric == BASELINE:
        return Gate(text, run, metric, baseline=_baseline(Path(right)))
    known = (*METRICS[task], *OTHERS)
    wrong, colon, _ = condition.rpartition(":")
    if metric not in known and colon:
        raise SettingsError(f"--gate {text}: there is no run {wrong!r}{nearest(wrong, runs)}")
    if metric not in known:
        raise SettingsError(f"--gate {text}: unknown {metric!r}{nearest(metric, known)}")
    if metric == "regret" and len(runs) == 1:
        raise SettingsError(
            f"--gate {text}: of a single run it is always 0; compare several (--policy, --model)"
        )
    if metric in OF_TRUE_DRIFTS and not drift_at:
        raise SettingsError(f"--gate {text}: give --drift-at, the true drifts that it is about")
    try:
        limit = float(right)
    except ValueError:
        raise SettingsError(f"--gate {text}: {right!r} is not a number") from None
    return Gate(text, run, metric, limit)


def _addressed(text: str, runs: Sequence[str]) -> tuple[str | None, str]:
    """The run that a condition is for and the rest; None for all. A run's own name may hold `:` and `=`."""
    run = max((name for name in runs if text.startswith(f"{name}:")), key=len, default=None)
    return run, text if run is None else text.removeprefix(f"{run}:")


def _baseline(path: Path) -> dict[str, dict[str, float]]:
    """Metrics of an earlier run's `--json`, by run."""
    try:
        read = msgspec.json.decode(path.read_bytes())
        if read["format"] != FORMAT:
            raise SettingsError(f"{path}: format {read['format']}, this version reads {FORMAT}")
        found = {run["name"]: {k: float(v) for k, v in run["metrics"].items()} for run in read["runs"]}
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    except (msgspec.DecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise SettingsError(f"{path}: is not what `fluvial backtest --json` wrote ({error})") from None
    if not found:
        raise SettingsError(f"{path}: holds no run")
    return found


def failures(gates: Sequence[Gate], results: Sequence[Result], primary: str, tolerance: float) -> list[str]:
    """A line for each condition that a run does not meet. `tolerance`: how much worse is not worse."""
    lines = []
    for gate in gates:
        for result in results:
            if gate.run in (None, result.name):
                why = _compared(gate, result, primary, tolerance, alone=len(results) == 1)
                if why is not None:
                    lines.append(f"gate {gate.text}: run {result.name!r} {why}")
    return lines


def _compared(gate: Gate, result: Result, primary: str, tolerance: float, *, alone: bool) -> str | None:
    """Why the run fails; None when it does not."""
    if gate.baseline is None:
        value = _value(result, gate.metric)
        if value is None:
            return f"has no {gate.metric}"
        lower = gate.metric in AT_MOST
        failed = not (value <= gate.limit if lower else value >= gate.limit)
        side = "at most" if lower else "at least"
        return f"has {gate.metric} {value:.6g}, wanted {side} {gate.limit:g}" if failed else None
    before = gate.baseline.get(result.name)
    if before is None and alone and len(gate.baseline) == 1:
        (before,) = gate.baseline.values()
    now = result.metrics.get(primary)
    if before is None or primary not in before or now is None:
        return f"has no {primary} to compare: the baseline's runs are {', '.join(gate.baseline)}"
    was = before[primary]
    worst = was * (1.0 + tolerance) if primary in AT_MOST else was - tolerance
    failed = not (now <= worst if primary in AT_MOST else now >= worst)
    return f"has {primary} {now:.6g}, the baseline {was:.6g}, tolerance {tolerance:g}" if failed else None


def _value(result: Result, metric: str) -> float | None:
    if metric == "dead":
        return float(sum(result.dead.values()))
    value: Any = result.metrics.get(metric) if metric not in OTHERS else getattr(result, metric)
    return None if value is None else float(value)
