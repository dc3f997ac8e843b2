"""What each reaction to drift is worth: the fold itself, in memory, on streams with known change points.

For each stream, model and seed the same events go through a fold for each policy by name, with its
defaults, and through two more: `observe` (the model learns and nothing reacts) and `oracle` (a fresh model
at each true drift, which nobody can have). A row's *gap* is how many errors the oracle saves over
`observe` in the 5,000 events after each drift; the *share regained* is how much of the summed gap a policy
wins back, pooled over rows. Rows with a gap of under 50 errors a drift are left out of the share, and
counted: a share of next to nothing says nothing.

    python benchmarks/learning.py                        everything (hours)
    python benchmarks/learning.py --seeds 101 --models tree --streams sine,agrawal
    python benchmarks/learning.py --policies reset,reweight --resume     what the file's rows do not have yet
    python benchmarks/learning.py --every 5450 --json elsewhere.json     changes off the grid of the restarts

`reweight` starts challengers afresh at every 1,000th event, and the streams change at every 5,000th: a
challenger begins with the change, by chance of round numbers. `--every` says what is left without it.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import math
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from fluvial.backtest.recovery import Losses, events_to_recover, settled_level
from fluvial.config import PolicySettings
from fluvial.crew import Spec
from fluvial.errors import FluvialError
from fluvial.learner import Learner
from fluvial.models.presets import PRESETS
from fluvial.models.unpickle import dumps, loads
from fluvial.policies import make_policy
from fluvial.schema import FeatureSpec, LabelSpec, Schema
from fluvial.streams import DRIFTING, EVERY, REGRESSION, STEADY, STREAMS, named
from fluvial.types import Event, Feature, Label, Task

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "learning.json"
SEEDS = (101, 102, 103, 104, 105)
"""Fixed, and not those that anything was tuned on."""
MODELS = ("linear", "bayes", "tree")
APART = ("adaptive-tree",)
"""Answers drift by itself: reported, and not in the pooled share."""
MODEL_SEED = 1
SETTINGS: dict[str, PolicySettings] = {
    "reset": PolicySettings(name="reset"),
    "refit": PolicySettings(name="refit"),
    "challenger": PolicySettings(name="challenger"),
    "recall": PolicySettings(name="recall"),
    "scheduled": PolicySettings(name="scheduled", interval_events=2_000),
    "ladder": PolicySettings(name="ladder"),
    "reweight": PolicySettings(name="reweight"),
}
"""Every policy that does something, with its defaults."""
REACTIONS = tuple(SETTINGS)
POLICIES = ("observe", "oracle", *REACTIONS)
SMOOTH, SETTLED, NEAR = 250, 1_500, 0.01
"""Recovered, pooled: the loss of the last so many events, over all of a row's drifts, is within so much of
its settled level, which is the mean of the last so many events of the window."""
NEAR_SHARE = 0.05
"""The same in regression, as a share of the settled level."""
CONCEPTS = 4
"""Of a made stream: the first comes back as the last."""
WINDOW = 5_000
"""Events after a drift in which points are regained or not."""
LEAST_GAP = 50
"""Errors a drift that the oracle must save for a row to count."""


@dataclass(frozen=True)
class Real:
    """A real stream: which file, which column is the label, and what must not be among the features."""

    file: str
    label: str
    task: Task = Task.BINARY
    out: tuple[str, ...] = ()


REAL = {
    "elec2": Real("elec2", "down"),
    "weather": Real("weather", "rain"),
    # `down` says whether the price is above its mean of the last day.
    "elec2-price": Real("elec2", "nswprice", Task.REGRESSION, ("down",)),
}


def regression(stream: str) -> bool:
    """Whether a stream's label is a number."""
    return (REAL[stream].task if stream in REAL else named(stream).task) is Task.REGRESSION


@dataclass(frozen=True)
class Job:
    """One stream, one model, one seed: a row of the table."""

    stream: str
    model: str
    seed: int


@dataclass
class Row:
    """What came out. Losses are errors (0 or 1), or |y - prediction| in regression."""

    stream: str
    model: str
    seed: int
    kind: str
    events: int
    drifts: int
    loss: dict[str, float] = field(default_factory=dict)
    """Mean loss of each policy over the whole stream, and of the no-change baseline."""
    gap: float = 0.0
    """Loss that the oracle saves in the windows, summed."""
    regained: dict[str, float] = field(default_factory=dict)
    """Loss that each reaction saves in the windows, summed."""
    recovery: dict[str, list[int | None]] = field(default_factory=dict)
    """Events after each drift until a policy is near its settled level, as `fluvial backtest` counts them: to
    where the loss of the next 500 is there. None: not before the next drift."""
    pooled_recovery: dict[str, int] = field(default_factory=dict)
    """The same over all drifts together, to the end of the 250 events that are there; `WINDOW`: never."""
    seconds: dict[str, float] = field(default_factory=dict)
    reactions: dict[str, int] = field(default_factory=dict)

    @property
    def counts(self) -> bool:
        """Whether the gap is large enough for a share to mean something."""
        return self.drifts > 0 and self.gap >= LEAST_GAP * self.drifts


# --- events ----------------------------------------------------------------------------------------


def events_of(job: Job, data: Path, every: int = EVERY) -> tuple[Schema, list[Event], tuple[int, ...], str]:
    """Schema, events, true drifts and kind of a job's stream, which changes each `every` events."""
    if job.stream in REAL:
        schema, pairs = _real(data, REAL[job.stream])
        return schema, _events(pairs), (), "real"
    stream = named(job.stream)
    index = {c: i for i, c in enumerate(stream.classes)}
    length = CONCEPTS * every
    pairs = [(x, _label(stream.task, y, index)) for x, y in stream.make(job.seed, length, every)]
    return stream.schema(), _events(pairs), stream.drifts_in(length, every), stream.kind


def _label(task: Task, y: object, index: dict[object, int]) -> Label:
    """The label as it reaches River."""
    if task is Task.REGRESSION:
        return float(y)  # type: ignore[arg-type]  # a number in regression
    return bool(index[y]) if task is Task.BINARY else index[y]


def _events(pairs: Iterable[tuple[dict[str, Feature], Label]]) -> list[Event]:
    return [Event(partition=0, offset=i, time=float(i), key=None, x=x, y=y) for i, (x, y) in enumerate(pairs)]


def _real(data: Path, real: Real) -> tuple[Schema, list[tuple[dict[str, Feature], Label]]]:
    with gzip.open(data / f"{real.file}.csv.gz", "rt", newline="") as lines:
        rows = list(csv.DictReader(lines))
    names = [name for name in rows[0] if name not in {"time", real.label, *real.out}]
    number = real.task is Task.REGRESSION
    schema = Schema(
        features=tuple(FeatureSpec(name, "number", ("features", name)) for name in names),
        label=LabelSpec(task=real.task, classes=() if number else (False, True)),
    )
    label: Callable[[str], Label] = float if number else "1".__eq__
    return schema, [({name: float(row[name]) for name in names}, label(row[real.label])) for row in rows]


# --- one row ---------------------------------------------------------------------------------------


def run_policy(
    schema: Schema, events: Sequence[Event], model: str, policy: str, drifts: Sequence[int] = ()
) -> tuple[list[float], int]:
    """Loss of every event under a policy, prequentially, and how many reactions there were."""
    lanes = PRESETS[model](schema, MODEL_SEED)
    blanks = {name: dumps(lane) for name, lane in lanes.items()}
    chosen = make_policy(SETTINGS.get(policy, PolicySettings(name="observe")))
    spec = Spec(task=schema.label.task, size=schema.label.size, policy=chosen, dump=dumps, load=loads)
    cuts = [0, *(drifts if policy == "oracle" else ()), len(events)]
    number = schema.label.task is Task.REGRESSION
    losses: list[float] = []
    for start, end in pairwise(cuts):
        learner = Learner.genesis(spec, blanks, {0: start})
        stretch = events[start:end]
        for event, outcome in zip(stretch, learner.steps(stretch), strict=True):
            y = float(event.y)  # type: ignore[arg-type]  # every event here has a label
            losses.append(abs(outcome.answer[0] - y) if number else float(outcome.choice != y))
    reactions = sum(n for what, n in learner.counts.items() if what.startswith("reaction:"))
    return losses, reactions


def recoveries(losses: Sequence[float], drifts: Sequence[int], *, number: bool) -> list[int | None]:
    """Events after each drift until the loss is near the level where it settles before the next one."""
    # Each event is a bucket of its own here, and has an answer.
    summed = Losses(np.append(0.0, np.cumsum(losses)), np.arange(len(losses) + 1.0), 1)
    stretches = list(pairwise([*drifts, len(losses)]))
    levels = [settled_level(summed, stretch) for stretch in stretches]
    return [
        events_to_recover(summed, stretch, level, regression=number)
        for stretch, level in zip(stretches, levels, strict=True)
    ]


def pooled_recovery(losses: Sequence[float], drifts: Sequence[int], *, number: bool) -> int:
    """The same over all drifts together, which is less at the mercy of chance, and `SMOOTH` later."""
    sums = [0.0, *accumulate(map(sum, zip(*(losses[at : at + WINDOW] for at in drifts), strict=False)))]
    length = len(sums) - 1
    settled = (sums[length] - sums[length - SETTLED]) / SETTLED
    near = settled * (1.0 + NEAR_SHARE) if number else settled + NEAR * len(drifts)
    ends = (end for end in range(SMOOTH, length + 1) if (sums[end] - sums[end - SMOOTH]) / SMOOTH <= near)
    return next(ends, WINDOW)


def no_change(events: Sequence[Event], task: Task) -> float:
    """Mean loss of saying the last label again."""
    labels = [float(event.y) for event in events]  # type: ignore[arg-type]  # as above
    pairs = list(zip([0.0, *labels], labels, strict=False))
    if task is Task.REGRESSION:
        return sum(abs(a - b) for a, b in pairs) / len(pairs)
    return sum(a != b for a, b in pairs) / len(pairs)


def run(job: Job, data: Path, policies: Sequence[str], every: int) -> Row:
    """These policies over the same events."""
    schema, events, drifts, kind = events_of(job, data, every)
    row = Row(job.stream, job.model, job.seed, kind, len(events), len(drifts))
    row.loss["no-change"] = no_change(events, schema.label.task)
    in_windows: dict[str, float] = {}
    for policy in policies if drifts else [name for name in policies if name != "oracle"]:
        start = time.perf_counter()
        losses, row.reactions[policy] = run_policy(schema, events, job.model, policy, drifts)
        row.seconds[policy] = round(time.perf_counter() - start, 3)
        row.loss[policy] = sum(losses) / len(losses)
        in_windows[policy] = sum(sum(losses[at : at + WINDOW]) for at in drifts)
        if drifts:
            number = regression(job.stream)
            row.recovery[policy] = recoveries(losses, drifts, number=number)
            row.pooled_recovery[policy] = pooled_recovery(losses, drifts, number=number)
    if drifts:
        row.gap = in_windows["observe"] - in_windows["oracle"]
        row.regained = {policy: in_windows["observe"] - saved for policy, saved in in_windows.items()}
    return row


def _run(task: tuple[Job, Path, Sequence[str], int]) -> Row | str:
    """The row, or why there is none: one that fails must not cost the others."""
    try:
        return run(*task)
    except FluvialError as error:
        return f"{task[0]}: {error}"


def joined(one: Row, other: Row) -> Row:
    """One row with the policies of both runs of it; `observe` and `oracle` are in each."""
    parts = ("loss", "regained", "recovery", "pooled_recovery", "seconds", "reactions")
    return replace(one, **{part: {**getattr(one, part), **getattr(other, part)} for part in parts})


# --- what it comes to ------------------------------------------------------------------------------


def share(rows: Iterable[Row], policy: str) -> float | None:
    """Part of the summed gap that a policy won back; None without a row that counts."""
    counted = [row for row in rows if row.counts and policy in row.regained]
    gap = sum(row.gap for row in counted)
    return sum(row.regained[policy] for row in counted) / gap if gap else None


def pools(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by what is pooled: classification models that do not react by themselves, and each alone."""
    drifting = [row for row in rows if row.drifts and not regression(row.stream)]
    pooled = {"all": [row for row in drifting if row.model not in APART]}
    for kind in ("abrupt", "gradual"):
        pooled[kind] = [row for row in pooled["all"] if row.kind == kind]
    for model in dict.fromkeys(row.model for row in drifting):
        pooled[model] = [row for row in drifting if row.model == model]
    pooled["regression: Friedman, in its own unit"] = [r for r in rows if r.drifts and regression(r.stream)]
    return {name: chosen for name, chosen in pooled.items() if chosen}


def summary(rows: Sequence[Row]) -> dict[str, object]:
    """The figures that the claims are about."""
    shares = {
        name: {
            "rows": len(chosen),
            "left out (gap under 50 errors a drift)": sum(not row.counts for row in chosen),
            **{policy: share(chosen, policy) for policy in REACTIONS},
        }
        for name, chosen in pools(rows).items()
    }
    still = [row for row in rows if row.kind in {"none", "slow"}]
    lost = {
        kind: {
            p: max(
                (100 * (r.loss[p] - r.loss["observe"]) for r in still if r.kind == kind and p in r.loss),
                default=None,
            )
            for p in REACTIONS
        }
        for kind in dict.fromkeys(row.kind for row in still)
    }
    return {
        "policies": {policy: figures(rows, policy) for policy in POLICIES},
        "policies, regression": {policy: figures(rows, policy, number=True) for policy in POLICIES},
        "share regained": shares,
        "points lost without drift, worst row": lost,
    }


def gains(rows: Iterable[Row], policy: str) -> list[float]:
    """Points of accuracy over `observe`, row by row; in regression per cent of its mean absolute error."""
    return [
        100
        * (row.loss["observe"] - row.loss[policy])
        / (row.loss["observe"] if regression(row.stream) else 1)
        for row in rows
        if policy in row.loss
    ]


def figures(rows: Sequence[Row], policy: str, *, number: bool = False) -> dict[str, float | None]:
    """What a policy is worth in ten numbers, over models that do not react by themselves.

    Of classification, or (`number`) of regression, whose gains are per cent of the error.
    """
    rows = [row for row in rows if row.model not in APART and regression(row.stream) == number]
    drifting = [row for row in rows if row.drifts]
    gained = gains(drifting, policy)
    counted = [row for row in drifting if row.counts]
    pooled = [row.pooled_recovery[policy] for row in counted if policy in row.pooled_recovery]
    times = [row.seconds[policy] / row.seconds["observe"] for row in rows if policy in row.seconds]
    return {
        "regained share": share(drifting, policy),
        "mean gain": statistics.fmean(gained) if gained else None,
        "worst without drift": _worst(rows, "none", policy),
        "worst where it changes slowly": _worst(rows, "slow", policy),
        "worst on real streams": _worst(rows, "real", policy),
        "events to recover, median": recovery(counted, policy),
        "after an abrupt change": recovery(counted, policy, "abrupt"),
        "after a gradual change": recovery(counted, policy, "gradual"),
        "events to recover, pooled, median": statistics.median(pooled) if pooled else None,
        "time against observe, median": statistics.median(times) if times else None,
    }


def recovery(rows: Iterable[Row], policy: str, kind: str | None = None) -> float | None:
    """Median over the drifts (of a kind); None without any, or when half of them never ended."""
    found = [
        math.inf if events is None else float(events)
        for row in rows
        if kind in {None, row.kind}
        for events in row.recovery.get(policy, ())
    ]
    median = statistics.median(found) if found else math.inf
    return median if math.isfinite(median) else None


def _worst(rows: Iterable[Row], kind: str, policy: str) -> float | None:
    """The largest loss against `observe` on rows of a kind; 0 when there is none, None without rows."""
    found = gains([row for row in rows if row.kind == kind], policy)
    return max([0.0, *(-gain for gain in found)]) if found else None


def shown_policies(rows: Sequence[Row], *, number: bool = False) -> Table:
    """The one table: a line per policy."""
    what = "regression, per cent of the mean absolute error" if number else "points of accuracy"
    table = Table(title=f"what each policy is worth: {what}", title_justify="left")
    names = ("regained", "mean gain", "worst still", "slow", "real")
    recovers = ("recovers", "abrupt", "gradual", "pooled")
    for name in ("policy", *names, *recovers, "time"):
        table.add_column(name, justify="left" if name == "policy" else "right")
    formats = ("{:.1%}", "{:+.2f}", *["{:.2f}"] * 3, *["{:.0f}"] * len(recovers), "{:.2f}")
    for policy in POLICIES:
        values = figures(rows, policy, number=number).values()
        cells = ["" if v is None else form.format(v) for form, v in zip(formats, values, strict=True)]
        if any(cells):
            table.add_row(policy, *cells)
    return table


def shown_shares(rows: Sequence[Row]) -> Table:
    table = Table(title="share of the oracle's gain regained, pooled", title_justify="left")
    for name in ("rows", "counted", "left out", *REACTIONS):
        table.add_column(name, justify="left" if name == "rows" else "right")
    for name, chosen in pools(rows).items():
        values = [share(chosen, policy) for policy in REACTIONS]
        counted = sum(row.counts for row in chosen)
        percent = ["" if v is None else f"{100 * v:.1f} %" for v in values]
        table.add_row(name, str(counted), str(len(chosen) - counted), *percent)
    return table


def shown_rows(rows: Sequence[Row]) -> Table:
    """Means over the seeds, stream by stream."""
    table = Table(
        title="prequential accuracy, % (regression: mean absolute error), means over seeds",
        title_justify="left",
    )
    for name in ("stream", "model", "no-change", *POLICIES, "gap a drift"):
        table.add_column(name, justify="left" if name in {"stream", "model"} else "right")
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.stream, row.model), []).append(row)
    for (stream, model), chosen in groups.items():
        cells = []
        for policy in ("no-change", *POLICIES):
            losses = [row.loss[policy] for row in chosen if policy in row.loss]
            mean = sum(losses) / len(losses) if losses else None
            number = None if mean is None else (mean if regression(stream) else 100 * (1 - mean))
            cells.append("" if number is None else f"{number:.4g}")
        drifts = sum(row.drifts for row in chosen)
        gap = f"{sum(row.gap for row in chosen) / drifts:.0f}" if drifts else ""
        table.add_row(stream, model, *cells, gap)
    return table


# --- the command -----------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    default = os.environ.get("FLUVIAL_DATA", str(ROOT.parent / "shared" / "data"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=_numbers, default=SEEDS, help="default: 101 to 105")
    parser.add_argument("--models", type=_names, default=(*MODELS, *APART), help="default: %(default)s")
    streams = (*(s.name for s in (*DRIFTING, *STEADY, *REGRESSION)), *REAL)
    parser.add_argument("--policies", type=_names, default=REACTIONS, help="default: %(default)s")
    parser.add_argument("--streams", type=_names, default=streams, help="default: all")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(default),
        help="folder of elec2.csv.gz and weather.csv.gz (FLUVIAL_DATA)",
    )
    parser.add_argument(
        "--every", type=int, default=EVERY, help="events between changes, default: %(default)s"
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the figures go, row by row")
    parser.add_argument("--resume", action="store_true", help="keep the rows of that file")
    return parser.parse_args()


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split(","))


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def jobs(options: argparse.Namespace, console: Console) -> list[Job]:
    """The rows to make; says what is missing."""
    unknown = [name for name in options.streams if name not in STREAMS and name not in REAL]
    if unknown:
        sys.exit(f"no stream is called {unknown[0]!r}; there are {', '.join((*STREAMS, *REAL))}")
    made: list[Job] = []
    for stream in options.streams:
        if stream in REAL and not (options.data / f"{REAL[stream].file}.csv.gz").exists():
            console.print(
                f"{stream}: skipped, {options.data / REAL[stream].file}.csv.gz is not there (--data)"
            )
            continue
        models = [model for model in options.models if not (regression(stream) and model == "bayes")]
        seeds = options.seeds[:1] if stream in REAL else options.seeds
        made += [Job(stream, model, seed) for model in models for seed in seeds]
    # Seed by seed: a run that is cut short has whole seeds.
    return sorted(made, key=lambda job: options.seeds.index(job.seed))


def kept(options: argparse.Namespace) -> list[Row]:
    """Rows of an earlier run, to go on from."""
    if not options.resume or not options.json.exists():
        return []
    return [Row(**row) for row in json.loads(options.json.read_text())["rows"]]


def write(path: Path, rows: Sequence[Row], failed: Sequence[str]) -> None:
    body = {"summary": summary(rows), "failed": failed, "rows": [asdict(row) for row in rows]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(body, indent=1) + "\n")


def main() -> None:
    options = arguments()
    console = Console(width=None if sys.stdout.isatty() else 170)  # a log takes the whole table
    rows, failed = kept(options), list[str]()
    done = {Job(row.stream, row.model, row.seed): row for row in rows}
    wanted = [name for name in POLICIES if name in {"observe", "oracle", *options.policies}]
    todo = [
        (job, options.data, wanted, options.every)
        for job in jobs(options, console)
        if job not in done or not {*wanted} - {"oracle"} <= {*done[job].loss}
    ]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    context = multiprocessing.get_context("spawn")
    with context.Pool(options.processes) as pool, Progress(*columns, console=console) as progress:
        bar = progress.add_task("folding", total=len(todo))
        for result in pool.imap_unordered(_run, todo):
            if isinstance(result, str):
                failed.append(result)
            else:
                job = Job(result.stream, result.model, result.seed)
                done[job] = joined(done[job], result) if job in done else result
                rows = list(done.values())
                write(options.json, rows, failed)
            progress.advance(bar)
    order = {name: i for i, name in enumerate((*STREAMS, *REAL))}
    rows.sort(key=lambda row: (order[row.stream], row.model, row.seed))
    write(options.json, rows, failed)
    console.print(shown_rows(rows))
    console.print(shown_shares(rows))
    console.print(shown_policies(rows))
    console.print(shown_policies(rows, number=True))
    lost = summary(rows)["points lost without drift, worst row"]
    console.print(f"points lost without drift, worst row (below 0: gained): {lost}")
    console.print(f"written to {options.json}")
    if failed:
        sys.exit("rows that failed:\n" + "\n".join(failed))


if __name__ == "__main__":
    main()
