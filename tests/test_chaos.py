"""The chaos driver and the soak: they run, and they would notice.

The short runs here have fixed seeds; `make chaos` draws its own.
"""

import json
import os
import random
import subprocess
import sys
import threading
from itertools import islice
from pathlib import Path

import msgspec
import pytest

from chaos import faults, soak, verify
from chaos.feed import Feed, schema
from chaos.launch import Notes, noting_source, noting_store, runs
from chaos.slope import slope
from fluvial.adapters.kafka.sink import letter_headers
from fluvial.adapters.memory_log import MemoryMessage, MemorySink, MemorySource, MemoryTopic
from fluvial.adapters.memory_store import MemoryBacking, MemoryStore
from fluvial.codec.scores import encode_score
from fluvial.worker import Worker
from support import fold
from support.parts import missing

TESTS = Path(__file__).parent
SHORT = {"TERM": "dumb", "COLUMNS": "200"}


# --- the plan ---------------------------------------------------------------------------------------


def test_the_same_seed_draws_the_same_faults():
    one, same, other = (list(islice(faults.drawn(seed, 3), 300)) for seed in (7, 7, 8))
    assert one == same != other
    assert {fault.kind for fault in one} == set(faults.WEIGHTS)
    assert {fault.slot for fault in one} == {0, 1, 2}
    assert {f.kind for f in islice(faults.drawn(7, 1, {"kill", "stop"}), 50)} == {"kill", "stop"}


def test_messages_are_noted_as_runs():
    made = [MemoryMessage("t", p, o, b"") for p, o in [(0, 1), (0, 2), (1, 5), (0, 3), (0, 5)]]
    assert runs(made) == [[0, 1, 3], [1, 5, 6], [0, 3, 4], [0, 5, 6]]


# --- the verifier, on runs over the twins -------------------------------------------------------------


class Bench:
    """Two lives of a worker over the twins, as `chaos` would leave them."""

    def __init__(self, directory, policy, partitions, scope="topic"):
        self.directory = directory
        self.partitions = partitions
        self.log = type("Log", (), {"schema": schema("linear")})
        self.settings = fold.settings(
            self.log, "linear", policy, kafka={"batch": 97, "scope": scope}, worker={"lease_seconds": 0.05}
        )
        self.topic, self.backing, self.sink = MemoryTopic(partitions), MemoryBacking(), MemorySink()
        self.feed = Feed("nowhere:1", "events", model="linear", seed=3, rate=1.0, partitions=partitions)
        self.records = []
        for life in range(2):
            self.append(3_000)
            self.live(life)

    def append(self, events):
        rng = random.Random(len(self.records))
        for _ in range(events):
            made, key = self.feed._make(len(self.feed.made)), f"e{len(self.feed.made)}".encode()
            self.feed.made.append(made)
            partition = rng.randrange(self.partitions)
            offset = self.topic.append(made.value, key, partition, 1)
            self.records.append(MemoryMessage("events", partition, offset, made.value, key, 1))

    def live(self, life):
        notes = Notes(self.directory / f"order-0-{life}.jsonl")
        source = noting_source(MemorySource, notes)(self.topic, "g")
        store = noting_store(MemoryStore, notes)(self.backing)
        worker = Worker(self.settings, source, self.sink, store, f"w{life}")
        thread = threading.Thread(target=worker.run)
        thread.start()
        while sum(self.heads().values()) < len(self.records):
            assert thread.is_alive()
        worker.stop()
        thread.join(20)

    def heads(self):
        shard = self.backing.shards.get("all")
        return {} if shard is None or shard.head is None else shard.head.offsets

    def left(self):
        scores = {key: encode_score(score) for key, (score, _) in self.backing.scores.items()}
        store = MemoryStore(self.backing)
        return verify.Left(
            records=list(self.records),
            letters=[
                MemoryMessage("d", 0, i, each.value, each.key, 1, letter_headers(each))
                for i, each in enumerate(self.sink.letters)
            ],
            made=self.feed.made,
            seen=dict(scores),
            scores=scores,
            journal=list(reversed(store.entries(10_000))),
            blobs={"all": self.backing.shards["all"].blobs[0]},
            notes=sorted(self.directory.glob("order-*")),
        )

    def verdict(self, left=None):
        return verify.verify(self.settings, {"all": tuple(range(self.partitions))}, left or self.left())


@pytest.fixture(scope="module", params=[1, 3], ids=["one partition", "three partitions"])
def bench(request, tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("notes"), "reset", request.param)


def wrong(verdict):
    return {name for name, found in verdict.faults.items() if found}


def test_a_run_without_faults_is_good(bench):
    verdict = bench.verdict()
    assert wrong(verdict) == set()
    assert verdict.counts["scores compared"] > 5_000
    assert verdict.counts["answers of the last state compared"] == verify.HELD_OUT
    assert verdict.counts["journal entries compared"] > 0
    if bench.partitions == 1:
        assert verdict.counts["scores computed with River alone"] > 1_000


def changed(score, **what):
    return encode_score(msgspec.structs.replace(verify.decode_score(score), **what))


def spoil_score(left):
    key = sorted(left.scores)[70]
    told = verify.decode_score(left.scores[key])
    first, second = told.probabilities
    a = told.probabilities[first]
    left.scores[key] = left.seen[key] = changed(
        left.scores[key], probabilities={first: a * (1 + 2**-50), second: told.probabilities[second]}
    )


def spoil_version(left):
    key = sorted(left.scores)[50]
    left.scores[key] = left.seen[key] = changed(left.scores[key], version=99)


def lose_score(left):
    key = sorted(left.scores)[9]
    del left.scores[key], left.seen[key]


def replace_score(left):
    key = sorted(left.scores)[9]
    left.seen[key] = changed(left.seen[key], made_at=1.0)


def lose_letter(left):
    del left.letters[3]


def spoil_letter(left):
    old = left.letters[3]
    left.letters[3] = MemoryMessage("d", 0, 3, b"other", old.key(), 1, old.headers())


def letter_for_a_good_one(left):
    good = next(r for r in left.records if left.made[int(r.key()[1:])].kind == "learned")
    old = left.letters[3]
    headers = [*old.headers(), ("fluvial.id", f"events/{good.partition()}/{good.offset()}".encode())]
    left.letters.append(MemoryMessage("d", 0, 99, good.value(), good.key(), 1, headers))


def repeat_entry(left):
    left.journal.append(next(e for e in left.journal if e.get("offset") is not None))


def lose_entry(left):
    left.journal.remove(next(e for e in left.journal if e.get("offset") is not None))


def repeat_claim(left):
    left.journal.append(next(e for e in left.journal if e["kind"] == "claimed"))


def older_checkpoint(left):
    record = left.records.pop()  # the log holds one event less than the state accounts for
    left.scores.pop(record.key().decode(), None)
    left.seen.pop(record.key().decode(), None)


SCORES = "each score is the fold's, bit for bit"
JOURNAL = "the journal has each entry of the fold once, in order"
LETTERS = "each bad event, and no other, has a dead letter"


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (spoil_score, SCORES),
        (spoil_version, SCORES),
        (lose_score, SCORES),
        (replace_score, "a published score is never replaced"),
        (lose_letter, LETTERS),
        (spoil_letter, LETTERS),
        (letter_for_a_good_one, LETTERS),
        (repeat_entry, JOURNAL),
        (lose_entry, JOURNAL),
        (repeat_claim, JOURNAL),
        (older_checkpoint, "each offset is accounted for, once"),
    ],
)
def test_the_verifier_notices(bench, damage, named):
    left = bench.left()
    damage(left)
    assert named in wrong(bench.verdict(left))


def test_the_verifier_notices_another_order(tmp_path):
    bench = Bench(tmp_path, "observe", 3)
    (tmp_path / "order-0-2.jsonl").write_text("")  # a life that came to nothing
    assert wrong(bench.verdict()) == set()
    last = tmp_path / "order-0-1.jsonl"
    lines = [json.loads(line) for line in last.read_text().splitlines()]
    where = next(i for i, (kind, *_) in enumerate(lines) if kind == "read" and len(lines[i][1]) > 1)
    lines[where][1].reverse()
    last.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert {SCORES, "the last checkpoint is the fold's state"} <= wrong(bench.verdict())


def test_what_was_read_and_did_not_count_is_another_line(tmp_path):
    """A worker that was killed read more than its last checkpoint held; a score of that may be out."""
    bench = Bench(tmp_path, "observe", 3)
    first = tmp_path / "order-0-0.jsonl"
    ends = dict.fromkeys(range(3), 0)
    for kind, *rest in map(json.loads, first.read_text().splitlines()):
        if kind == "read":
            for partition, _, following in rest[0]:
                ends[partition] = following
    with first.open("a") as file:
        file.write(json.dumps(["read", [[2, ends[2], ends[2] + 50]]]) + "\n" + '["read", [[1, 10')
    verdict = bench.verdict()
    assert wrong(verdict) == set()
    assert verdict.counts["lines folded"] == 2


# --- whether a series rises ---------------------------------------------------------------------------


@pytest.mark.parametrize("per_hour", [0.0, 6.0, -6.0])
def test_a_slope_is_told_from_noise(per_hour):
    rng = random.Random(5)
    seconds = [600 + 5 * i for i in range(600)]
    line = slope(seconds, [200 + per_hour * s / 3_600 + rng.gauss(0, 1) for s in seconds])
    assert line.flat == (per_hour == 0.0)
    assert abs(line.per_hour - per_hour) < 1.5


def test_a_series_that_does_not_move_is_flat():
    line = slope(list(range(100)), [17] * 100)
    assert (line.per_hour, line.half_width, line.flat) == (0.0, 0.0, True)


def test_a_single_new_handle_an_hour_is_noticed():
    line = slope([5.0 * i for i in range(600)], [20 + i // 60 for i in range(600)])
    assert not line.flat


@pytest.mark.parametrize("at", [30, 300, 570])
def test_a_single_page_is_no_slope_and_three_are(at):
    """The finest that can be seen, wherever it falls; a leak of a page every ten minutes is told."""
    page, seconds = 0.004096, [5.0 * i for i in range(600)]
    assert slope(seconds, [150 + page * (i >= at) for i in range(600)], grain=page).flat
    assert not slope(seconds, [150 + page * (i // 120) for i in range(600)], grain=page).flat
    assert not slope(seconds, [150 + 3 * page * (i >= 300) for i in range(600)], grain=page).flat


def test_the_warm_up_does_not_count():
    samples = [
        {"seconds": 5.0 * i, "rss": 100.0 + min(i, 100), "handles": 20, "threads": 9} for i in range(400)
    ]
    assert not soak.verdict(samples, 0.0)["rss"]["flat"]
    assert soak.verdict(samples, 505.0)["rss"]["flat"]


# --- the drivers, with real parts ---------------------------------------------------------------------


def drive(module, *arguments, seconds=170):
    """Run a driver as `make` does; its report, or skip where it cannot run."""
    report = Path(arguments[arguments.index("--json") + 1])
    paths = [str(TESTS), str(TESTS.parent / "src")]
    environ = {**os.environ, **SHORT, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        env=environ, capture_output=True, text=True, timeout=seconds, check=False,
    )  # fmt: skip
    print(done.stdout, done.stderr)
    if done.returncode == 2:
        missing(done.stderr)
    assert report.exists(), done.stderr
    return done.returncode, json.loads(report.read_text()), done.stdout


@pytest.mark.kafka
@pytest.mark.redis
@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "options",
    [
        pytest.param("--partitions 1 --workers 2 --policy reset --seed 11", id="topic, one"),
        pytest.param(
            "--scope topic --partitions 3 --workers 2 --policy reweight --seed 12", id="topic, three"
        ),
        pytest.param("--scope partition --partitions 3 --workers 2 --seed 13", id="partition"),
    ],
)
def test_chaos_changes_nothing(options, tmp_path):
    options = [*options.split(), "--seconds", "20"]
    status, report, said = drive("chaos", *options, "--json", tmp_path / "report")
    assert (status, report["good"]) == (0, True)
    assert report["kills"] > 0
    assert sum(report["faults"].values()) > 3
    assert report["counts"]["scores compared"] > 0.9 * sum(report["made"].values())
    assert said.splitlines()[-1].startswith("verdict: GOOD")


@pytest.mark.kafka
@pytest.mark.redis
@pytest.mark.slow
@pytest.mark.timeout(180)
def test_chaos_notices_a_broken_build(tmp_path):
    options = "--workers 1 --policy reset --seed 3 --seconds 12 --kinds kill --break no-detectors"
    status, report, said = drive("chaos", *options.split(), "--json", tmp_path / "report")
    assert (status, report["good"]) == (1, False)
    assert report["checks"]["the last checkpoint is the fold's state"]
    assert "verdict: BAD" in said


@pytest.mark.kafka
@pytest.mark.redis
@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_short_soak(tmp_path):
    status, report, said = drive(
        "chaos.soak", "--minutes", "0.5", "--every", "0.5", "--backlog", "2", "--json", tmp_path / "report"
    )
    assert status in {0, 1}  # half a minute is too short to tell memory's slope
    assert report["status"] == 0
    assert report["events"] > 1_000
    assert {"handles", "threads", "rss"} == set(report["verdict"])
    assert "resident memory" in said
