import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import msgspec
import psutil
import pytest
from rich.console import Console

from fluvial.cli import demo_curve, demo_parts
from fluvial.cli.demo_parts import Now, within
from fluvial.cli.demo_plan import Plan
from fluvial.cli.demo_record import Record, Tally, changes_within, summarise
from fluvial.cli.demo_view import closing, frame, picture, plain_line
from fluvial.types import Entry, Moved, PartitionLedger, Rare, Signal, SignalKind, Version
from fluvial.view import CheckpointView, Histogram

COMMAND = [sys.executable, "-c", "import sys; from fluvial.cli import main; sys.exit(main())", "demo"]
SECONDS = 90.0
"""How long a part of a run may take on a busy machine before the test gives up; nothing is timed."""


# ---- what is recorded -----------------------------------------------------------------------------


def signal_at(events, kind=SignalKind.DRIFT, since=None):
    since = events - 20 if since is None else since
    return Signal(
        kind=kind, plane="error", detector="adwin", events=events, before=0.1, after=0.4, since=since
    )


def version_at(events, cause, number=2):
    return Version(number=number, cause=cause, parent=1, partition=0, offset=events, events=events, time=0.0)


def filled(events=6_000, every=2_000, twin_right=lambda n: n < 2_000):
    """A record in which the worker is always right and the twin as told."""
    record = Record(events, every)
    for n in range(events):
        label = n % 3 == 0
        record.sent(label)
        record.served(n, label)
        record.twin_said(twin_right(n))
    return record


def test_changes_are_abrupt_and_gradual_in_turn_and_begin_where_they_show():
    first, second = changes_within(24_000, 8_000)
    assert (first.position, first.begin, first.settled, first.gradual) == (8_000, 8_000, 8_000, False)
    assert (second.position, second.begin, second.settled, second.gradual) == (16_000, 15_400, 16_600, True)


def test_changes_are_where_the_stream_has_them():
    from fluvial.streams import named

    assert [c.position for c in changes_within(42_000, 7_000)] == list(
        named("market").drifts_in(42_000, 7_000)
    )


def test_what_moved_beside_the_error_is_told_as_such_and_notices_nothing():
    record = filled()
    moved = Moved("probability of True", "mean", 0.4, 0.29, -0.5, None)
    for at in (1_000, 2_050):
        beside = msgspec.structs.replace(signal_at(at), plane="predictions", moved=(moved,))
        record.heard(Rare(signals=(beside,)))
    assert record.happenings[-1].text == (
        "predictions: probability of True (mean) 0.1 -> 0.4, from about 2,030"
    )
    first, second, *_ = summarise(record).stretches
    assert (first.other_signals, second.noticed_after, second.other_signals) == (0, None, 0)


def test_the_rate_is_told_however_seldom_one_looks(monkeypatch):
    clock = iter([7.0, 12.0, 17.0, 17.1])
    monkeypatch.setattr(demo_parts.time, "monotonic", lambda: next(clock))
    parts = SimpleNamespace(_rates=[], record=SimpleNamespace(until=0), _feeder=SimpleNamespace(began=2.0))
    told = []
    for parts.record.until in (3_500, 7_000, 10_500, 10_570):
        told.append(demo_parts.Parts._rate(parts))
    assert told == [700.0, 700.0, 700.0, pytest.approx(700.0)]


def test_a_tally_counts_any_stretch():
    tally = Tally()
    for right in (True, False, True, True):
        tally.add(right)
    assert tally.accuracy(0, 4) == 0.75
    assert tally.accuracy(2, 99) == 1.0
    assert tally.accuracy(-5, 2) == 0.5
    assert tally.accuracy(4, 9) is None


def test_a_score_that_was_not_published_counts_as_wrong_and_a_repeated_one_once():
    record = Record(10, 5)
    for _ in range(4):
        record.sent(True)
    record.served(0, True)
    record.served(3, True)
    record.served(1, True)
    assert record.worker.until == 4
    assert record.worker.accuracy(0, 4) == 0.5


def test_the_no_change_baseline_repeats_the_last_label():
    record = Record(10, 5)
    for label in (True, True, False, False, False):
        record.sent(label)
    assert record.no_change.accuracy(0, 5) == 3 / 5


def test_the_summary_compares_with_the_twin_from_change_to_change():
    summary = summarise(filled())
    assert [(s.start, s.end) for s in summary.stretches] == [(0, 2_000), (2_000, 3_500), (3_500, 6_000)]
    assert [s.worth for s in summary.stretches] == [0.0, 100.0, 100.0]
    assert summary.worker == 1.0
    assert summary.twin == pytest.approx(1 / 3)
    assert summary.worth == pytest.approx(100 * 2 / 3)


def test_a_drift_is_matched_to_the_change_that_it_dates_and_lateness_counts_from_its_beginning():
    record = filled()
    record.heard(Rare(signals=(signal_at(700), signal_at(2_040, SignalKind.WARNING), signal_at(2_064))))
    record.heard(Rare(signals=(signal_at(3_900, since=3_700),)))
    before, first, second = summarise(record).stretches
    assert before.other_signals == 1
    assert (before.noticed_after, first.warned_after, first.noticed_after) == (None, 40, 64)
    assert second.noticed_after == 400
    assert summarise(record).false_alarms == 1


def test_a_signal_about_something_later_does_not_notice_the_change():
    record = filled()
    record.heard(Rare(signals=(signal_at(3_400, since=3_300),)))
    stretch = summarise(record).stretches[1]
    assert stretch.noticed_after is None
    assert stretch.other_signals == 1


def test_what_was_done_is_said_once_for_each_cause():
    record = filled()
    causes = ((2_064, "restart"), (3_000, "promotion"), (3_400, "promotion"), (4_000, "reset"))
    record.heard(Rare(versions=tuple(version_at(*what) for what in causes)))
    assert [s.done for s in summarise(record).stretches] == [
        "", "challenger restarted, promoted 2 times", "model reset",
    ]  # fmt: skip


def test_a_run_that_was_cut_short_is_summed_up_so_far():
    record = Record(6_000, 2_000)
    for n in range(2_500):
        record.sent(True)
        record.served(n, True)
        if n < 2_400:
            record.twin_said(True)
    summary = summarise(record)
    assert (summary.events, summary.planned, len(summary.stretches)) == (2_400, 6_000, 2)
    assert summarise(Record(6_000, 2_000)).events == 0


def test_what_happens_is_told_in_order():
    record = filled()
    record.heard(Rare(signals=(signal_at(2_064),), versions=(version_at(2_064, "restart"),)))
    record.heard(Rare(entries=(Entry(kind="hold", offset=2_100, detail={"because": "cooldown"}),)))
    record.logged("waiting: Redis is away")
    assert [(h.event, h.kind) for h in record.happenings] == [
        (2_000, "change"), (3_500, "change"), (2_064, "drift"), (2_064, "answer"), (2_101, "held"),
        (6_000, "log"),
    ]  # fmt: skip


# ---- what is drawn --------------------------------------------------------------------------------


def test_a_curve_rises_and_falls_with_its_values():
    rows = [line.plain for line in demo_curve.plot([1.0] * 8, [0.0] * 8, 4, 0.0, ())]
    assert rows[0].startswith("  100 % ⠉⠉⠉⠉")
    assert rows[3].startswith("    0 % ")
    assert rows[3][8:].strip("\u2800 ")  # the twin, dotted
    assert not rows[1][8:].strip()


def dots(lines):
    return sum((ord(sign) - 0x2800).bit_count() for line in lines for sign in line.plain if sign >= "\u2800")


def test_the_worker_wins_a_shared_cell_and_the_twin_is_dotted():
    same = demo_curve.plot([0.5] * 8, [0.5] * 8, 3, 0.0, ())
    assert {str(span.style) for line in same for span in line.spans} <= {"not dim bold green", ""}
    worker = dots(demo_curve.plot([0.5] * 8, [None] * 8, 3, 0.0, ()))
    twin = dots(demo_curve.plot([None] * 8, [0.5] * 8, 3, 0.0, ()))
    assert (worker, twin) == (8, 4)


def test_only_what_is_known_is_sampled():
    assert demo_curve.sampled(float, 100, 50, 4) == [25.0, 50.0, None, None]
    assert demo_curve.column_of(99, 100, 10) == 9
    assert demo_curve.column_of(100, 100, 10) == 9
    assert demo_curve.lowest([[0.78, None], [0.34]]) == 0.3
    assert demo_curve.lowest([[None], []]) == 0.5


def test_marks_stand_in_their_columns():
    assert demo_curve.marks("noticed", [0, 3], 5, "x", "red").plain == "noticed x  x "


def test_the_share_of_a_histogram():
    histogram = Histogram(bounds=(0.1, 0.2), counts=[0, 0, 0])
    assert within(histogram) != within(histogram)  # nan: nothing observed
    histogram.counts = [99, 1, 0]
    assert within(histogram) == 0.1
    histogram.counts = [1, 1, 98]
    assert within(histogram) == float("inf")


@pytest.fixture
def parts():
    record = filled()
    record.heard(Rare(signals=(signal_at(2_064),), versions=(version_at(2_064, "restart"),)))
    return SimpleNamespace(
        plan=Plan(events=6_000, every=2_000, rate=700.0),
        record=record,
        metrics_at="http://127.0.0.1:1/metrics",
    )


@pytest.fixture
def now():
    return Now(
        seconds=9.0, rate=700.0, lag=float("nan"), version=2, checkpoint=CheckpointView(), members=(),
        ledger=PartitionLedger(start=0, next=6_000, learned=6_000), late=float("nan"), score=None, waiting="",
    )  # fmt: skip


@pytest.mark.parametrize("size", [(80, 24), (110, 34), (200, 60), (40, 10)])
def test_the_frame_fits_every_terminal(parts, now, size):
    width, height = size
    console = Console(width=width, height=height, force_terminal=True, record=True, file=io.StringIO())
    console.print(frame(parts, now, width, height), height=height)
    lines = console.export_text().splitlines()
    assert len(lines) == height
    assert max(map(len, lines)) <= width
    if width >= 80:
        assert "fluvial demo" in lines[0]
        assert "6,000 of 6,000 events" in lines[1]


def test_the_summary_fits_eighty_columns_of_ascii_terminals(parts, now, tmp_path):
    with (tmp_path / "out").open("w", encoding="ascii") as out:
        Console(file=out, width=80).print(closing(parts, summarise(parts.record), now))
        print(plain_line(parts, now), file=out)
    told = (tmp_path / "out").read_text(encoding="ascii")
    assert max(map(len, told.splitlines()[:-1])) <= 80
    assert re.search(r"2,000[ |]+64[ |]+reweighting;", told)
    assert "+66.7" in told


def test_the_picture_loads_nothing(parts, now):
    svg = picture(parts, now, 104, 34)
    assert "@font-face" not in svg
    assert set(re.findall(r"https?://[\w.]+", svg)) == {"http://www.w3.org", "http://127.0.0.1"}


# ---- real runs ------------------------------------------------------------------------------------


@pytest.fixture
def bare(tmp_path):
    """An environment as of a machine without a Redis of its own."""
    pytest.importorskip(
        "fakeredis", reason="the demo's own Redis is not installed: pip install 'fluvial[demo]'"
    )
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "sh").symlink_to("/bin/sh")
    for tool in ("rm", "cat"):
        (tools / tool).symlink_to(f"/bin/{tool}")
    return {"PATH": str(tools), "HOME": str(tmp_path), "LANG": "C.UTF-8"}


def start(environment, *options, **streams):
    return subprocess.Popen([*COMMAND, *options], env=environment, **streams)


def below(process):
    """Every process that it started, directly or not, and the sessions that these made."""
    return psutil.Process(process.pid).children(recursive=True)


def assert_gone(processes):
    _, alive = psutil.wait_procs(processes, timeout=SECONDS)
    assert not alive


def test_a_short_run_without_a_terminal_ends_with_what_it_was_worth(bare, tmp_path):
    with start(
        bare, "--events", "3000", "--json", "--picture", str(tmp_path / "demo.svg"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        out, told = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, told
    summary = json.loads(out)
    assert summary["redis"] != "system"
    assert summary["events"] == summary["ledger"]["learned"] == 3_000
    assert summary["checkpoints"] >= 1
    assert [s["end"] - s["start"] for s in summary["stretches"]] == [1_500, 1_500]
    assert summary["worth"] > 0
    assert "the rule changes at once" in told
    assert "What answering drift was worth" in told
    assert "/metrics" in told
    assert (tmp_path / "demo.svg").read_text().startswith("<svg")


def test_the_worker_and_the_twin_are_what_a_plain_fold_says(bare):
    from fluvial.cli.demo_plan import settings_of
    from fluvial.codec import Codec
    from fluvial.learner import Learner
    from fluvial.shard import blanks_of, spec_of
    from fluvial.streams import named, wire

    with start(bare, "--events", "2000", "--json", "--seed", "3", stdout=subprocess.PIPE) as process:
        summary = json.loads(process.communicate(timeout=SECONDS)[0])
    for policy, told in (("reweight", summary["worker"]), ("observe", summary["twin"])):
        settings = settings_of(
            Plan(events=2_000, every=1_500, rate=1.0, policy=policy), "none", "redis://none/0"
        )
        learner = Learner.genesis(spec_of(settings), blanks_of(settings), {0: 0})
        decode, right = Codec(settings.schema).decode, 0
        for offset, (key, value) in enumerate(wire(named("market"), 3, 2_000, 1_500)):
            event = decode(value, key.encode(), 0, offset, 0)
            outcome = learner.step(event)
            right += outcome.known and bool(outcome.choice) == event.y
        assert told == right / 2_000


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_cleanly_with_the_summary_so_far(bare, number, status):
    with start(bare, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if " events " in line:
                break
        started = below(process)
        assert started  # the twin at least
        process.send_signal(number)
        told, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == status
    assert "What answering drift was worth" in told
    assert not errors
    assert_gone(started)


def test_nothing_is_left_when_it_is_killed(bare):
    with start(bare, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if " events " in line:
                break
        started = below(process)
        process.kill()
    assert_gone(started)


def test_a_terminal_shows_the_picture(bare):
    ours, theirs = pty.openpty()
    process = start({**bare, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}, "--events", "2500",
                    stdin=theirs, stdout=theirs, stderr=theirs)  # fmt: skip
    os.close(theirs)
    shown = b""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        if select.select([ours], [], [], 1.0)[0]:
            try:
                shown += os.read(ours, 65_536)
            except OSError:  # Linux says so when the other side is closed
                break
    os.close(ours)
    assert process.wait(SECONDS) == 0
    text = shown.decode()
    assert "\x1b[?1049h" in text  # a screen of its own
    assert "\x1b[?1049l" in text
    assert "a twin that never reacts" in text
    assert any(0x2801 <= ord(c) <= 0x28FF for c in text)
    assert "Traceback" not in text
    assert "What answering drift was worth" in text


def test_help_needs_neither_river_nor_numpy():
    code = (
        "import sys, argparse; from fluvial.cli import demo; demo.add_arguments(argparse.ArgumentParser()); "
        "print([m for m in ('river', 'numpy', 'confluent_kafka', 'redis') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"
