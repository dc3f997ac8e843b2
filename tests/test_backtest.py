"""`fluvial backtest`: what is compared, what is said, what is refused. That it is the live fold is proved
in test_backtest_live."""

import gzip
import html
import json
import os
import random
import re
import sys
from html.parser import HTMLParser

import msgspec
import numpy as np
import pytest
from river import base

from fluvial.backtest import Record, Records, Run, parse_gate, replay
from fluvial.backtest.drawing import ticks
from fluvial.backtest.recovery import (
    AHEAD,
    Recovery,
    cumulated,
    events_to_recover,
    middle,
    recoveries,
    settled_level,
)
from fluvial.backtest.remarks import remarks
from fluvial.backtest.replay import Refusal
from fluvial.backtest.results import Question, told, windowed
from fluvial.backtest.trace import MAX_BUCKETS, Curve, Trace
from fluvial.cli import backtest, main
from fluvial.cli.backtest_feed import delay_in, feed_of
from fluvial.cli.backtest_view import fitted, width_of
from fluvial.errors import SettingsError
from fluvial.types import Task
from support import fold
from support.parts import arrow
from support.service import toml
from test_backtest_live import arguments, backtested


def events_csv(path, log, more=()):
    """The log as a CSV, with more columns: (name, values)."""
    lines = [",".join(["key", "time", "a", "b", "label", *(name for name, _ in more)])]
    for i, (time, x, y) in enumerate(log.events):
        label = y if isinstance(y, float) else str(y).lower()
        cells = [f"e{i}", time, x["a"], x["b"], label, *(values[i] for _, values in more)]
        lines.append(",".join(map(str, cells)))
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def drifting():
    return fold.drifting(3_000)


@pytest.fixture
def config(tmp_path, drifting):
    return written(tmp_path, drifting)


def written(tmp_path, log, **sections):
    table = {
        "service": "s",
        "kafka": {"bootstrap_servers": "nowhere:1", "topic": "t"},
        "schema": log.schema,
        "model": {"preset": "linear"},
        **sections,
    }
    path = tmp_path / "service.toml"
    path.write_text(toml(table))
    return path


@pytest.fixture
def csv_file(tmp_path, drifting):
    return events_csv(tmp_path / "rows.csv", drifting)


def said(capsys, *words):
    status = main(["backtest", *map(str, words)])
    return status, *capsys.readouterr()


def as_json(capsys, *words):
    status, out, _ = said(capsys, *words, "--json")
    assert status == 0
    return json.loads(out)


# --- what is folded --------------------------------------------------------------------------------


def test_every_kind_of_file_is_the_same_log(tmp_path, config, csv_file, drifting):
    lines = tmp_path / "rows.jsonl.gz"
    with gzip.open(lines, "wb") as file:
        file.write(b"\n".join(drifting.values))
    zipped = tmp_path / "rows.csv.gz"
    zipped.write_bytes(gzip.compress(csv_file.read_bytes()))
    oracle = fold.fold(backtested(config, csv_file).run.settings, drifting.values).learner
    for path in (csv_file, lines, zipped):
        fold.assert_same_fold(backtested(config, path).learner, oracle)


def test_parquet_is_the_same_log(tmp_path, config, csv_file):
    pa = arrow()
    path = tmp_path / "rows.parquet"
    pa.parquet.write_table(pa.csv.read_csv(csv_file), path)
    fold.assert_same_fold(backtested(config, path).learner, backtested(config, csv_file).learner)
    assert feed_of(arguments(config, path), backtested(config, csv_file).run.settings)


def test_without_pyarrow_parquet_is_refused_with_the_way_out(capsys, config, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    status, _, err = said(capsys, config, "rows.parquet")
    assert status == 2
    assert "pip install 'fluvial[parquet]'" in err


def test_several_files_are_one_log(tmp_path, config, drifting):
    parts = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    parts[0].write_bytes(b"\n".join(drifting.values[:1_000]))
    parts[1].write_bytes(b"\n".join(drifting.values[1_000:]))
    oracle = fold.fold(backtested(config, *parts).run.settings, drifting.values).learner
    fold.assert_same_fold(backtested(config, *parts).learner, oracle)


def test_what_breaks_the_schema_is_counted_by_reason_and_left_out(capsys, tmp_path, config, drifting):
    path = tmp_path / "rows.jsonl"
    values = list(drifting.values)
    values[5], values[700], values[701] = b"{", b'{"label": 3}', b"[]"
    path.write_bytes(b"\n".join(values))
    folded = fold.fold(backtested(config, path).run.settings, values)
    (run,) = as_json(capsys, config, path)["runs"]
    assert run["dead"] == {r: list(folded.dead.values()).count(r) for r in folded.dead.values()}
    assert (run["events"], run["learned"]) == (3_000, 2_997)
    _, out, _ = said(capsys, config, path)
    assert re.search(r"\nrefused: .*1 malformed, the first at offset 5: .+", out)
    (remark,) = as_json(capsys, config, path)["remarks"]
    assert f"\n{remark}\n" in out, "scripts are told what people are"


def test_why_an_event_was_refused_is_told(capsys, tmp_path, config, drifting):
    path, page = tmp_path / "rows.jsonl", tmp_path / "out.html"
    path.write_bytes(b"\n".join([*drifting.values[:300], b'{"label": true, "time": 1}'] * 2))
    (run,) = as_json(capsys, config, path)["runs"]
    message = run["dead_first"]["schema"].pop("message")
    assert run["dead_first"] == {"schema": {"partition": 0, "offset": 300}}
    assert "features" in message, "which the event has not"
    _, out, _ = said(capsys, config, path, "--report", page)
    remark = f"refused: 2 schema, the first at offset 300: {message}"
    assert f"\n{remark}\n" in out
    assert f"<p>{html.escape(remark)}</p>" in page.read_text()


def test_of_several_partitions_the_refused_event_is_told_with_its_own(tmp_path, config, csv_file):
    run = backtested(config, csv_file).run
    log = [Record(b"{", None, p, o, 0) for p, o in [(1, 5), (0, 7)]]
    question = Question(command="c", source="s", partitions=2)
    results = told([replay(run, Records(lambda: iter(log), {0: 7, 1: 5}, "log"))], question)
    assert remarks(results, question)[0].startswith("refused: 2 malformed, the first at offset 1:5: ")
    evil = {"malformed": Refusal(1, 5, "a\n\x1b[2Jb")}
    results = [msgspec.structs.replace(results[0], dead_first=evil)]
    assert remarks(results, question)[0].endswith(": a  [2Jb"), "a sender gives a terminal no orders"


def test_a_run_that_learned_and_scored_nothing_fails(capsys, tmp_path, config, csv_file):
    path = tmp_path / "rows.jsonl"
    path.write_text("{}\n[]\n")
    status, out, err = said(capsys, config, path)
    assert (status, "refused: 2 schema" in out) == (1, True)
    assert err == "backtest: run 'reweight': no event was learned or scored: all 2 were refused\n"
    assert said(capsys, config, csv_file, "--label-delay", "5000")[0] == 0, "scored, and no label known"


def test_a_flood_of_refusals_says_that_the_live_service_would_pause(capsys, tmp_path, config, drifting):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join([*drifting.values[:1_000], *[b"{"] * 600, *drifting.values[1_000:]]))
    assert "would have paused once" in said(capsys, config, path)[1]


def test_an_event_on_which_the_model_raises_is_left_out_as_by_a_worker():
    features = {"a": "number", "fail": "number"}
    events = [(1e9 + i, {"a": 1.0, "fail": float(i in {150, 420})}, i % 3 > 0) for i in range(1_000)]
    log = fold.Log("c", "binary", features, events)
    settings = fold.settings(log, "counting")
    records = Records(
        lambda: (Record(value, None, 0, i, 0) for i, value in enumerate(log.values)), {0: 0}, "log"
    )
    folded = replay(Run("observe", settings), records)
    assert folded.dead == {"model": 2}
    first = folded.dead_first["model"]
    assert (first.partition, first.offset, "Error: " in first.message) == (0, 150, True)
    fold.assert_same_fold(folded.learner, fold.fold(settings, log.values, {150, 420}).learner)


def test_labels_with_delays_of_their_own(tmp_path, drifting):
    delays = [(7 * i) % 90 for i in range(3_000)]
    path = events_csv(tmp_path / "rows.csv", drifting, [("wait", delays)])
    config = written(tmp_path, drifting)
    folded = backtested(config, path, "--label-delay-column", "wait")
    assert len(folded.learner.late) == sum(i + delays[i] > 2_999 for i in range(3_000)) > 0
    constant = events_csv(tmp_path / "same.csv", drifting, [("wait", [90] * 3_000)])
    fold.assert_same_fold(
        backtested(config, constant, "--label-delay-column", "wait").learner,
        fold.copied(backtested(config, path, "--label-delay", "90").learner),
    )
    seconds = backtested(config, constant, "--label-delay-column", "wait", "--label-delay-unit", "seconds")
    assert len(seconds.learner.late) == 90  # an event a second


def test_a_row_without_a_delay_is_refused(tmp_path, drifting):
    path = events_csv(tmp_path / "rows.csv", drifting, [("wait", ["", "-3", "soon"] + [0] * 2_997)])
    folded = backtested(written(tmp_path, drifting), path, "--label-delay-column", "wait")
    assert folded.dead == {"label": 3}


def test_a_delay_in_a_line_of_json():
    assert delay_in(b'{"meta": {"wait": 3}}', "meta.wait") == 3.0
    assert [delay_in(v, "meta.wait") for v in (None, b"{", b"[]", b'{"meta": 1}')] == [None] * 4


# --- what is compared ------------------------------------------------------------------------------


def test_each_combination_is_a_run_with_a_name(config):
    words = "--policy observe --policy reset --model linear --model tree --set policy.cooldown=1 "
    words += "--set drift.drift_delta=.1 --set drift.drift_delta=.2"
    names = [run.name for run in backtest.runs_of(arguments(config, "x.csv", *words.split()))]
    assert len(names) == len(set(names)) == 8
    assert names[0] == "linear observe drift_delta=0.1"


def test_settings_take_effect(config):
    (run,) = backtest.runs_of(
        arguments(config, "x.csv", "--set", "policy.restart_every=123", "--model", "tree", "--label-delay", 7)
    )
    assert run.settings.policy.restart_every == 123
    assert run.settings.policy.label_delay == 7
    assert (run.settings.model.preset, run.name) == ("tree", "reweight")


def test_options_given_with_set_are_those_of_every_model(capsys, tmp_path, drifting, monkeypatch):
    config = written(tmp_path, drifting, model={"preset": "tree", "options": {"grace_period": 50}})
    depths = ["--set", "model.options.max_depth=2", "--set", "model.options.max_depth=8"]
    monkeypatch.setenv("FLUVIAL__MODEL__OPTIONS__DELTA", "0.01")

    def options(*words):
        runs = backtest.runs_of(arguments(config, "x.csv", *words))
        return {run.name: run.settings.model.options for run in runs}

    given = options("--model", "adaptive-tree", *depths)
    assert given == {"reweight max_depth=2": {"max_depth": 2}, "reweight max_depth=8": {"max_depth": 8}}
    own = options("--model", "tree", *depths)
    assert own["reweight max_depth=2"] == {"grace_period": 50, "delta": 0.01, "max_depth": 2}
    assert options("--model", "linear") == {"reweight": {}}
    status, _, err = said(capsys, config, "x.csv", "--model", "linear", *depths)
    assert (status, "max_depth" in err) == (2, True), "one that does not take them says so"


class Patient:
    """A policy of a user's own."""

    def __init__(self, points=10):
        self.points = points

    def __call__(self, standing):
        return []


class Hasty(Patient):
    """Another one."""


class Failing(Patient):
    """One with a fault, which only a drift shows."""

    def __call__(self, standing):
        if standing.signals:
            raise ValueError("no such\nfeature")
        return []


def test_a_policy_that_fails_is_told(capsys, tmp_path, config, csv_file):
    page = tmp_path / "out.html"
    words = ["--policy", "test_backtest:Failing", "--policy", "test_backtest:Patient", "--policy", "observe"]
    failing, *others = as_json(capsys, config, csv_file, *words, "--report", page)["runs"]
    assert failing["faults"] == failing["holds"] > 1
    at = failing["drifts"][0]["at"]
    assert failing["first_fault"]["at"] <= at
    assert [(run["faults"], run["first_fault"]) for run in others] == [(0, None)] * 2
    _, out, _ = said(capsys, config, csv_file, *words)
    why = "policy test_backtest:Failing raised ValueError: no such feature"
    first = f"the first at {failing['first_fault']['at']:,} labelled events"
    told = f"nothing was done, {failing['faults']} times, {first}: {why}"
    assert out.count("the policy failed") == 1
    assert f"\ntest_backtest:Failing: the policy failed, so that {told}\n" in out
    assert why in page.read_text()


OWN = {"factory": "test_backtest:Patient", "options": {"points": 5}, "cooldown": 77}


def test_a_policy_that_is_named_is_meant_whatever_factory_the_settings_have(
    capsys, tmp_path, drifting, csv_file
):
    config = written(tmp_path, drifting, policy=OWN)
    runs = backtest.runs_of(arguments(config, "x.csv", "--policy", "observe", "--policy", "reset"))
    assert [(r.settings.policy.factory, r.settings.policy.options) for r in runs] == [(None, {})] * 2
    assert [r.settings.policy.cooldown for r in runs] == [77, 77]
    told = as_json(capsys, config, csv_file, "--policy", "observe", "--policy", "reset")["runs"]
    assert [(run["name"], bool(run["reactions"])) for run in told] == [("observe", False), ("reset", True)]


def test_a_run_of_the_users_own_policy_bears_its_name(tmp_path, drifting):
    config = written(tmp_path, drifting, policy=OWN)
    (run,) = backtest.runs_of(arguments(config, "x.csv"))
    assert (run.name, run.settings.policy.options) == ("test_backtest:Patient", {"points": 5})


def test_policies_of_the_users_own_are_compared_with_others(tmp_path, drifting):
    def options(*words):
        runs = backtest.runs_of(arguments(written(tmp_path, drifting, policy=OWN), "x.csv", *words))
        return {run.name: run.settings.policy.options for run in runs}

    words = [f"--policy={name}" for name in ("reset", "test_backtest:Patient", "test_backtest:Hasty")]
    assert options(*words) == {
        "reset": {},
        "test_backtest:Patient": {"points": 5},
        "test_backtest:Hasty": {},
    }
    given = options(*words, "--set", "policy.options={points=7}")
    assert list(given.values()) == [{}, {"points": 7}, {"points": 7}]
    assert options("--policy=test_backtest:Hasty", "--set", "policy.options.points=7") == {
        "test_backtest:Hasty": {"points": 7}
    }
    assert set(options("--set", "policy.factory=test_backtest:Hasty", "--set", "policy.factory=a:B")) == {
        "test_backtest:Hasty",
        "a:B",
    }


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--set", "policy.cooldwn=1"], "policy.cooldown"),
        (["--set", "cooldown"], "SECTION.NAME=VALUE"),
        (["--policy", "rest"], "policy.name"),
        (["--model", "leniar"], "linear"),
        (["--policy", "reset", "--policy", "reset"], "twice"),
        (["--policy", "test_backtest:Absent"], "cannot be imported"),
        (["--policy", "reset", "--set", "policy.factory=a:B"], "--policy module:Policy"),
        (["--gate", "acuracy=.8"], "accuracy"),
        (["--gate", "accuracy"], "METRIC=LIMIT"),
        (["--gate", "accuracy=high"], "not a number"),
        (["--gate", "regret=0"], "compare several"),
        (["--gate", "reset:accuracy=.8"], "no run 'reset'"),
        (["--gate", "not-worse-than=nowhere.json"], "cannot be read"),
        (["--label-delay-column", "wiat"], "wiat"),
        (["--topic"], "files, or --topic"),
        (["--from", "earliest", "--partition", "0"], "--from, --partition: of a topic"),
        (["--to", "100"], "--to: of a topic"),
        (
            ["--label-delay", "5", "--set", "policy.label_delay=9"],
            "--label-delay and --set policy.label_delay",
        ),
        (["--label-delay", "5", "--label-delay-column", "a"], "--label-delay and --label-delay-column"),
        (["--label-delay-column", "a", "--set", "Policy.label_delay=9"], "and --set policy.label_delay"),
        (["--label-delay", "5", "--label-delay-unit", "seconds"], "of --label-delay-column"),
        (["--report", "/nowhere/at/all.html"], "there is no folder /nowhere/at"),
        (["--report", "/tmp"], "is a folder"),
        (["--gate", "missed=0"], "give --drift-at"),
        (["--gate", "reweight:false_alarms=0"], "give --drift-at"),
    ],
)
def test_wrong_use_is_status_2_with_the_reason(capsys, config, csv_file, words, says):
    status, out, err = said(capsys, config, csv_file, *words)
    assert (status, out) == (2, "")
    assert says in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--label", "down", "--types", "a=number"], "--label, --types: of files"),
        (["--format", "csv"], "--format: of files"),
        (["--delimiter", ";"], "--delimiter: of files"),
        (["--time", "t", "--time-unit", "ms"], "--time, --time-unit: of files"),
        (["--key", "k", "--id", "i", "--features", ""], "--key, --id: of files"),
        (["--features", "a,b"], "--features: of files"),
    ],
)
def test_what_is_said_of_columns_is_refused_beside_a_topic(capsys, config, words, says):
    status, out, err = said(capsys, config, "--topic", *words)
    assert (status, out) == (2, "")
    assert says in err


def test_a_report_that_may_not_be_written_is_refused_before_the_fold(capsys, monkeypatch, config, csv_file):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    status, out, err = said(capsys, config, csv_file, "--report", "out.html")
    assert (status, out, err) == (2, "", "backtest: --report out.html: may not be written\n")


SECONDLY = {"name": "scheduled", "interval_seconds": 600.0}


@pytest.mark.parametrize(
    ("policy", "words", "names"),
    [
        (SECONDLY, [], "policy.interval_seconds"),
        ({}, ["--label-delay-column", "a", "--label-delay-unit", "seconds"], "--label-delay-unit seconds"),
    ],
)
def test_seconds_of_a_file_need_a_time_in_the_schema(capsys, tmp_path, policy, words, names):
    """Else the time of every event is 0, and nothing ever is due."""
    log = fold.drifting(300)
    rows = events_csv(tmp_path / "rows.csv", log)
    assert said(capsys, written(tmp_path, log, policy=policy), rows, *words)[0] == 0
    schema = {name: value for name, value in log.schema.items() if name != "time"}
    config = written(tmp_path, log, policy=policy, schema=schema)
    status, out, err = said(capsys, config, rows, *words)
    assert (status, out) == (2, "")
    assert f"backtest: {names}: events of a file have no time" in err
    assert "declare schema.time" in err
    assert said(capsys, config, rows, "--policy", "reset")[0] == 0, "which does not count them"


def test_a_missing_file_is_named(capsys, config, tmp_path):
    status, _, err = said(capsys, config, tmp_path / "row.csv")
    assert status == 2
    assert "row.csv" in err


def test_a_pipe_is_refused_since_it_can_be_read_only_once(capsys, config, tmp_path, csv_file):
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    status, out, err = said(capsys, config, csv_file, pipe)
    assert (status, out) == (2, "")
    assert f"{pipe}: is no regular file, and is read several times: write it to a file" in err


def test_regret_is_behind_the_best(capsys, config, csv_file):
    told = as_json(capsys, config, csv_file, "--policy", "observe", "--policy", "reset")
    by_name = {run["name"]: run for run in told["runs"]}
    gap = by_name["reset"]["metrics"]["accuracy"] - by_name["observe"]["metrics"]["accuracy"]
    assert gap > 0.03, "the stream drifts"
    assert by_name["reset"]["regret"] == 0.0
    assert by_name["observe"]["regret"] == pytest.approx(gap)
    assert by_name["observe"]["peak_bytes"] is None or by_name["observe"]["peak_bytes"] > 1e7


LATE = ["--set", "policy.label_delay=0", "--set", "policy.label_delay=5000", "--policy", "observe"]


def test_a_run_without_a_metric_has_no_regret(capsys, config, csv_file):
    known, unknown = as_json(capsys, config, csv_file, *LATE)["runs"]
    assert (known["regret"], unknown["regret"], unknown["metrics"]) == (0.0, None, {})
    (run,) = as_json(capsys, config, csv_file, "--label-delay", "5000")["runs"]
    assert run["regret"] is None
    status, out, err = said(capsys, config, csv_file, *LATE, "--gate", "regret=.1")
    assert (status, err) == (1, "gate regret=.1: run 'observe label_delay=5000' has no regret\n")
    assert re.search(r"label_delay=5000 +- +- +- +- +- ", out), "none shown either"


def test_a_remark_is_of_the_run_that_it_is_true_of(capsys, tmp_path, config, csv_file):
    page, pending = tmp_path / "out.html", "3,000 labels were not known at the end: in no metric"
    out = said(capsys, config, csv_file, *LATE, "--report", page)[1]
    assert f"\nobserve label_delay=5000: {pending}\n" in out
    assert "label_delay=0:" not in out
    assert f"<p>observe label_delay=5000: {pending}</p>" in page.read_text()
    both = ["--label-delay", "5000", "--policy", "observe", "--policy", "reset"]
    out = said(capsys, config, csv_file, *both)[1]
    assert out.count(pending) == out.count(f"\n{pending}\n") == 1


def test_true_drifts_tell_false_alarms_and_misses(capsys, config, csv_file):
    drifts = ["--policy", "reset", "--drift-at", "1000,2000"]
    (run,) = as_json(capsys, config, csv_file, *drifts)["runs"]
    assert (run["false_alarms"], run["missed"]) == (0, 0)
    assert [r["drift"] for r in run["recoveries"]] == [1_000, 2_000]
    assert all(0 < r["found_after"] < 400 for r in run["recoveries"])
    (run,) = as_json(
        capsys, config, csv_file, "--policy", "reset", "--drift-at", "500", "--drift-within", "9"
    )["runs"]
    assert (run["false_alarms"], run["missed"]) == (2, 1)


def test_true_drifts_that_never_came_are_left_out_and_told(capsys, tmp_path, config, csv_file):
    page, words = tmp_path / "out.html", [config, csv_file, "--policy", "reset", "--gate", "missed=0"]
    drifts = ["--drift-at", "2000,1000,1000,3000,90000"]
    status, out, _ = said(capsys, *words, *drifts, "--report", page)
    remark = "true drifts at or beyond the end of the labelled events, left out: 3,000, 90,000"
    assert (status, f"\n{remark}\n" in out, " 0 of 2 " in out) == (0, True, True)
    assert f"<p>{remark}</p>" in page.read_text()
    assert page.read_text().count('class="truth"') == 2 * 2
    (run,) = as_json(capsys, *words, *drifts)["runs"]
    assert (run["missed"], [r["drift"] for r in run["recoveries"]]) == (0, [1_000, 2_000])
    (run,) = as_json(capsys, *words, "--drift-at", "90000")["runs"]
    assert (run["missed"], run["false_alarms"], run["recoveries"], run["recovery"]) == (0, 2, [], None)


class Coy(base.Classifier):
    """Says nothing until it has learned 1,500 events, then the share of true by the sign of `a`."""

    def __init__(self):
        self.seen, self.by_sign = 0, {}

    def learn_one(self, x, y):
        self.seen += 1
        counts = self.by_sign.setdefault(x["a"] > 0, [1.0, 2.0])
        counts[0] += y
        counts[1] += 1.0

    def predict_proba_one(self, x):
        if self.seen < 1_500:
            return {}
        true, all_ = self.by_sign[x["a"] > 0]
        return {False: 1.0 - true / all_, True: true / all_}


@pytest.fixture
def coy(tmp_path):
    """Settings and a file: the rule turns round at 3,000, the model begins to answer at 1,500."""
    rng, events = random.Random(1), []
    for k in range(5_000):
        x = {"a": rng.uniform(-1, 1), "b": 0.0}
        events.append((1e9 + k, x, ((x["a"] > 0) != (k >= 3_000)) != (rng.random() < 0.02)))
    log = fold.Log("coy", "binary", {"a": "number", "b": "number"}, events)
    model = {"factory": "test_backtest:Coy", "allow": ["test_backtest:Coy"]}
    here = tmp_path / "coy"
    here.mkdir()
    return written(here, log, model=model), events_csv(here / "rows.csv", log)


def test_true_drifts_count_events_without_an_answer_as_signals_do(capsys, coy):
    (run,) = as_json(capsys, *coy, "--policy", "reset", "--drift-at", "3000")["runs"]
    assert run["unpredicted"] >= 1_500
    assert (run["false_alarms"], run["missed"]) == (0, 0)
    (only,) = run["recoveries"]
    assert (only["drift"], 0 < only["found_after"] < 400) == (3_000, True)
    assert (run["curve"][0][0] > 1_500, run["curve"][-1][0]) == (True, 5_000)


def test_events_without_an_answer_are_told(capsys, tmp_path, coy, config, csv_file):
    page = tmp_path / "out.html"
    words = [*coy, "--policy", "observe", "--gate", "unpredicted=1500", "--report", page]
    status, out, _ = said(capsys, *words)
    remark = "1,500 of 5,000 labels that were learned are in no metric: the model had no answer"
    assert (status, f"\n{remark}\n" in out) == (0, True)
    assert re.search(r" unpredicted .*\n.* 1,500 ", out)
    assert f"<p>{remark}</p>" in page.read_text()
    status, _, err = said(capsys, *words[:4], "--gate", "unpredicted=1499")
    assert status == 1
    assert "has unpredicted 1500, wanted at most 1499" in err
    assert "unpredicted" not in said(capsys, config, csv_file)[1]


POLICIES = ["observe", "reset", "reweight", "recall"]


@pytest.mark.parametrize("runs", [1, 2, 4])
@pytest.mark.parametrize("terminal", [True, False])
def test_no_cell_is_cut_at_80_columns(capsys, monkeypatch, tmp_path, runs, terminal):
    """A terminal gets a table that fits, and a file or pipe a run a row, coloured or not."""
    log = fold.drifting(1_200)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    monkeypatch.setenv("TERM", "xterm" if terminal else "dumb")
    if not terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    page, names = tmp_path / "out.html", POLICIES[:runs]
    words = [f"--policy={name}" for name in names] + ["--drift-at", "1000", "--report", page]
    status, out, _ = said(capsys, written(tmp_path, log), events_csv(tmp_path / "rows.csv", log), *words)
    lines = [line.rstrip() for line in plain(out).splitlines()]
    assert (status, "…" in out, lines[0]) == (0, False, "rows.csv: 1,200 events")
    expected = [re.findall(r"<t[hd]>(?:<svg.*?</svg>)?(.*?)</t[hd]>", row) for row in page_rows(page)]
    assert len(expected) == runs + 1
    if terminal:
        assert max(map(len, lines)) <= 80
        expected = list(zip(*expected, strict=True))
    else:
        assert max(map(len, lines)) > 80
    shown = [re.split(r"  +", line.strip()) for line in lines[1:]]
    assert [list(map(html.unescape, row)) for row in expected] == shown[: len(expected)]


def plain(out):
    """Without colours."""
    return re.sub(r"\x1b\[[\d;]*m", "", out)


def page_rows(page):
    """Those of the first table."""
    return re.findall(r"<tr>(.*?)</tr>", page.read_text().partition("</table>")[0])


def test_more_runs_than_fit_have_a_table_each(capsys, monkeypatch, tmp_path):
    names = [f"name={'long' * k}" for k in range(5, 11)]
    rows = [["run", "accuracy", "κ-temporal"], *([name, "88.14", "-"] for name in names)]
    tables = fitted(rows, 40)
    assert tables == [[("run", name), ("accuracy", "88.14"), ("κ-temporal", "-")] for name in names]
    assert fitted(rows, width_of(rows)) == fitted(rows, None) == [rows]
    log = fold.drifting(300)
    monkeypatch.setenv("COLUMNS", "10")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    out = said(capsys, written(tmp_path, log), events_csv(tmp_path / "rows.csv", log), "--policy=observe")[1]
    assert re.search(r"^ run +observe *$", plain(out), re.MULTILINE), "the terminal wraps, nothing is cut"


def test_a_file_is_called_what_it_is_called(capsys, tmp_path):
    """Brackets are no style."""
    log = fold.drifting(300)
    path = events_csv(tmp_path / "rows[bold].csv", log)
    status, out, _ = said(capsys, written(tmp_path, log), path)
    assert (status, "rows[bold].csv: 300 events" in out) == (0, True)


def test_regression_has_its_own_metrics(capsys, tmp_path):
    log = fold.numbers(2_000)
    path = events_csv(tmp_path / "rows.csv", log)
    status, out, _ = said(capsys, written(tmp_path, log), path, "--policy", "observe", "--policy", "reset")
    assert status == 0
    for title in ("MAE", "RMSE", "R²", "last value", "regret"):
        assert title in out


# --- recovery, curves ------------------------------------------------------------------------------


def losses_with_bump(length=4_000, drift=1_000, bad=600):
    losses = np.full(length, 0.1)
    losses[drift : drift + bad] = 0.6
    return losses.tolist()


def curve_of(losses):
    made = Curve()
    made.extend(losses)
    return made


def test_recovery_is_from_where_the_loss_is_back():
    def back(losses, *stretch):
        summed = cumulated(curve_of(losses))
        return events_to_recover(summed, stretch, settled_level(summed, stretch))

    bump = losses_with_bump()
    assert back(bump, 1_000, 4_000) == 600 - round(0.01 * AHEAD / 0.5)
    assert back(losses_with_bump(bad=0), 1_000, 4_000) == 0
    assert back(bump, 3_500, 4_000) is None
    silent = [loss if k % 2 == 0 else None for k, loss in enumerate(bump)]
    assert back(silent, 1_000, 4_000) == back(bump, 1_000, 4_000), "its place counts every labelled event"
    fresh = [*bump[:1_000], *[None] * 900, *[0.1] * 2_100]
    assert back(fresh, 1_000, 4_000) == 900, "who says nothing is not back"
    assert back([None] * 4_000, 1_000, 4_000) is None


def trace_of(losses):
    made = Trace(Task.BINARY)
    made.curve.extend(losses)
    return made


def test_a_curve_leaves_out_what_had_no_answer_and_keeps_its_place():
    curve = curve_of([None] * 300 + [1.0, None, 0.0, None] * 100)
    points = dict(windowed(curve, 200, regression=False))
    assert points.pop(700) == 0.5
    assert 300 < min(points) <= 302
    assert points[min(points)] == 0.0


def test_who_stays_bad_after_a_true_drift_never_recovers():
    good, bad = trace_of(losses_with_bump()), trace_of(losses_with_bump(bad=3_000))
    (mine,), (others,) = recoveries([good, bad], [1_000], regression=False)
    assert (mine.events, mine.never) == (590, False)
    assert (others.events, others.never) == (None, True)
    assert middle([others]) is middle([]) is None
    assert middle([mine, mine, others]) == 590
    assert middle([mine, others]) is None, "half of them never ended"
    assert middle([mine, Recovery(1, None, None)]) == 590, "a stretch that is too short says nothing"


@pytest.mark.parametrize("batch", [1, 999, 5_000])
def test_a_curve_is_bounded_and_loses_no_loss(batch):
    curve, n = Curve(), MAX_BUCKETS + 5_001
    given = (np.arange(n) % 3 == 0).astype(float)
    for start in range(0, n, batch if batch > 1 else n):
        curve.extend(given[start : start + (batch if batch > 1 else n)].tolist())
    assert curve.size == 2
    assert curve.events == n
    assert sum(curve.sums) + sum(curve._rest) == given.sum()
    assert curve.sums[1_000] == given[2_000:2_002].sum()


def test_a_coarser_curve_knows_how_many_had_an_answer():
    n = 2 * MAX_BUCKETS + 7
    curve = curve_of([0.5 if k % 3 == 0 else None for k in range(n)])
    assert (curve.size, curve.events) == (4, n)
    known = sum(loss is not None for loss in curve._rest)
    assert sum(curve.answered) + known == len(range(0, n, 3))
    losses = cumulated(curve)
    assert losses.mean(0, len(losses.total) - 1) == 0.5


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.81, 0.93), (0, 45_312), (3.0, 3.0), (1e-4, 3e-4)])
def test_ticks_are_round_and_inside(low, high):
    for tick in ticks(low, high, 4):
        assert low - 1e-9 <= tick <= high + 1e-9 or low == high
    assert len(ticks(low, high, 4)) <= 9


# --- gates -----------------------------------------------------------------------------------------


def test_gates_that_are_met_say_nothing(capsys, config, csv_file):
    gates = ["--gate", "accuracy=.5", "--gate", "reweight:log_loss=2", "--gate", "dead=0"]
    status, _, err = said(capsys, config, csv_file, *gates)
    assert (status, err) == (0, "")


def test_each_missed_gate_is_a_line_and_status_1(capsys, config, csv_file):
    gates = ["--gate", "accuracy=.99", "--gate", "log_loss=.01", "--gate", "kappa=-1", "--policy", "observe"]
    status, _, err = said(capsys, config, csv_file, *gates)
    assert status == 1
    lines = err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["gate accuracy=.99", "gate log_loss=.01"]
    assert "at least 0.99" in lines[0]
    assert "at most 0.01" in lines[1]


def test_a_gate_may_be_for_a_run_whose_name_holds_its_signs():
    runs = ["reset", "reset delay=0", "own:P", "own:P delay=0"]
    for run in runs:
        gate = parse_gate(f"{run}:accuracy=.8", Task.BINARY, runs)
        assert (gate.run, gate.metric, gate.limit) == (run, "accuracy", 0.8)
    for text in ("reset delay=1:accuracy=.8", "own:accuracy=.8"):
        with pytest.raises(SettingsError, match=f"no run '{text.rpartition(':')[0]}'"):
            parse_gate(text, Task.BINARY, runs)


def test_not_worse_than_an_earlier_run(capsys, tmp_path, config, csv_file):
    baseline = tmp_path / "baseline.json"
    told = as_json(capsys, config, csv_file, "--policy", "reset")
    baseline.write_text(json.dumps(told))
    gate = ["--gate", f"not-worse-than={baseline}"]
    assert said(capsys, config, csv_file, "--policy", "reset", *gate)[0] == 0
    status, _, err = said(capsys, config, csv_file, "--policy", "observe", *gate)
    assert status == 1
    assert "the baseline" in err
    assert said(capsys, config, csv_file, "--policy", "observe", *gate, "--tolerance", ".9")[0] == 0
    baseline.write_text("{}")
    assert said(capsys, config, csv_file, *gate)[0] == 2


# --- the page --------------------------------------------------------------------------------------


class Tags(HTMLParser):
    """Every tag opened is closed, and what the attributes name."""

    def __init__(self):
        super().__init__()
        self.open, self.found, self.links = [], [], []

    def handle_starttag(self, tag, attrs):
        self.found.append(tag)
        self.links += [value for name, value in attrs if name in {"href", "src", "xlink:href"}]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_stands_alone_and_says_what_was_found(capsys, tmp_path, config, csv_file):
    page = tmp_path / "out.html"
    words = ["--policy", "observe", "--policy", "reweight", "--drift-at", "1000,2000", "--report", page]
    assert said(capsys, config, csv_file, *words)[0] == 0
    text = page.read_text()
    tags = Tags()
    tags.feed(text)
    assert not tags.open
    assert not tags.links
    assert not {"script", "link", "img", "iframe"} & set(tags.found)
    assert "http" not in text
    assert "url(" not in text
    assert text.count("<polyline") == 2 * 2  # a run a line, wide and narrow
    assert text.count('class="truth"') == 2 * 2
    assert text.count("<polygon") == 2 * 3  # champion and two challengers
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    assert "fingerprint" not in text
    assert "drift_delta" in text
    assert "restart_every" in text


def test_the_page_shows_what_moved(capsys, tmp_path, moving):
    """Feature `a` rises by two deviations, `b` stays."""
    config, path, page = (
        written(tmp_path, moving),
        events_csv(tmp_path / "m.csv", moving),
        tmp_path / "m.html",
    )
    assert said(capsys, config, path, "--report", page, "--policy", "observe")[0] == 0
    text = page.read_text()
    tags = Tags()
    tags.feed(text)
    assert not tags.open
    part = text.partition("Features and predictions that moved")[2].partition("<h2>")[0]
    assert "a (mean)" in part
    assert part.count("l4 8h-8z") >= 2, "wide and narrow, head up"
    assert re.search(r"\(\+[12]\.\d\d deviations\)", part)
    assert "b (mean)" not in part


@pytest.fixture
def moving():
    rng, events = random.Random(6), []
    for k in range(5_120):
        x = {"a": rng.gauss(2.0 if k >= 4_000 else 0.0, 1.0), "b": rng.uniform(-1, 1)}
        events.append((1e9 + k, x, x["b"] > 0))
    return fold.Log("moving", "binary", {"a": "number", "b": "number"}, events)


def test_nothing_on_the_page_is_markup_of_the_user(tmp_path, capsys, config, drifting):
    path = events_csv(tmp_path / "a<b>&.csv", drifting)
    page = tmp_path / "out.html"
    assert said(capsys, config, path, "--report", page)[0] == 0
    assert "<b>" not in page.read_text()
    assert "a&lt;b&gt;&amp;.csv" in page.read_text()


def test_an_empty_log_is_told_and_drawn(capsys, tmp_path, config):
    path = tmp_path / "rows.jsonl"
    path.write_text("")
    status, out, err = said(capsys, config, path, "--report", tmp_path / "out.html")
    assert (status, "no event was learned or scored: there was none" in err) == (1, True)
    assert "0 events" in out
    assert "0 events" in (tmp_path / "out.html").read_text()


def test_no_secret_leaves_in_settings(capsys, tmp_path, drifting, csv_file):
    config = written(
        tmp_path, drifting, redis={"url": "redis://:hunter2@nowhere:1"}, checkpoint={"key": "hunter2" * 8}
    )
    page = tmp_path / "out.html"
    status, out, err = said(capsys, config, csv_file, "--json", "--report", page)
    assert status == 0
    assert "hunter2" not in out + err + page.read_text()


def test_all_that_is_asked_is_in_the_results(config, csv_file):
    folded = backtested(config, csv_file)
    (result,) = told([folded], Question(command="c", source="s"))
    text = msgspec.json.encode(result)
    for name in ("metrics", "regret", "recovery", "events_per_second", "peak_bytes", "weights", "curve"):
        assert f'"{name}"'.encode() in text


def test_runs_of_another_task_are_refused(tmp_path, drifting):
    config = written(tmp_path, drifting)
    with pytest.raises(SettingsError):
        backtest.runs_of(
            arguments(
                config, "x", "--set", "schema.label.type=regression", "--set", "schema.label.type=binary"
            )
        )
