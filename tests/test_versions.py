"""`fluvial versions` against a real Kafka and a real Redis, and roll-backs of processes that are killed."""

import contextlib
import io
import json
import math
import random
import time

import pytest

from fluvial.cli import main
from fluvial.cli.comparing import paired
from fluvial.cli.versions import _span
from fluvial.errors import SettingsError
from fluvial.evaluation import Prequential
from fluvial.types import Rollback
from fluvial.worker import SHARD
from support import fold
from support.live import Live

pytestmark = [pytest.mark.kafka, pytest.mark.redis]


@pytest.fixture
def live(tmp_path, kafka_broker, fresh_redis):
    with Live(tmp_path, kafka_broker, fresh_redis, fold.drifting(1_200)) as service:
        service.produce(service.values)
        yield service


@pytest.fixture
def fluvial(live, capsys):
    def run(*words, status=0):
        capsys.readouterr()
        got = main(["versions", *words, "--config", str(live.config)])
        out, err = capsys.readouterr()
        assert got == status, (got, out, err)
        return json.loads(out) if "--json" in words else out + err

    return run


def csv(live, path, count=400):
    rows = [f"k{t},{t},{x['a']},{x['b']},{str(y).lower()}" for t, x, y in live.log.events[:count]]
    path.write_text("key,time,a,b,label\n" + "\n".join(rows) + "\n")
    return str(path)


def test_list_show_compare_mark_and_roll_back(live, fluvial, tmp_path):
    assert "no version yet" in fluvial("list", status=1)
    node = live.run_to_the_end()
    told = fluvial("list", "--json")["versions"]
    assert [(v["number"], v["cause"], v["parent"]) for v in told] == [
        (1, "genesis", None),
        (2, "reset", 1),
        (3, "reset", 2),
    ]
    assert [v["serving"] for v in told] == [False, False, True]
    assert [v["kept_since"] is not None for v in told] == [True, True, False]
    assert told[0]["metrics_at_end"] == told[1]["metrics"]
    assert told[2]["metrics_at_end"] is None
    assert "reset" in fluvial("list")

    shown = fluvial("show", "2", "--json")
    assert shown["detail"]["signal"]["kind"] == "drift"
    assert shown["offsets"] == {"0": told[2]["offset"] - 1}
    assert (shown["same_settings"], shown["refused"]) == (True, None)
    assert "accuracy" in fluvial("show", "2")
    assert "not known" in fluvial("show", "9", status=1)

    assert "pinned" in fluvial("pin", "1", "--by", "ann")
    fluvial("annotate", "1", "before the campaign", "--by", "ann")
    assert "pinned" in fluvial("list")
    assert fluvial("show", "1", "--json")["note"] == "before the campaign"
    assert fluvial("pin", "3", "--json", status=1) == {"version": 3, "done": False}
    fluvial("unpin", "1", "--by", "ann")
    fluvial("annotate", "1", "", "--by", "ann")
    one = fluvial("show", "1", "--json")
    assert (one["pinned"], one["note"]) == (None, None)

    _compare(live, fluvial, tmp_path)
    _roll_back(live, fluvial)
    node.stop()


def _compare(live, fluvial, tmp_path):
    file, learner = csv(live, tmp_path / "events.csv"), live.learner()
    told = fluvial("compare", "1", "3", "--file", file, "--json")
    assert (told["versions"], told["events"], told["learning"]) == ([1, 3], 400, False)
    store = live.store()
    blob = store.version_blob(SHARD, 1)
    store.close()
    _, kept = fold.kept_model(live.settings, blob, 1)
    models = [kept["model"], fold.copied(learner).mixture.members[0].model]
    for model, metrics in zip(models, told["metrics"], strict=True):
        judged = Prequential(learner.spec.task, 2, live.settings.evaluation)
        for x, y in live.log.pairs[:400]:
            answer = model.predict_proba_one(dict(x))
            judged.extend([(y, (answer[False], answer[True]))])
        assert metrics == judged.metrics()["total"]
    by, (first, second) = told["difference"], (metrics["accuracy"] for metrics in told["metrics"])
    assert (by["of"], by["is"]) == ("accuracy", pytest.approx(second - first))
    assert by["low"] < by["is"] < by["high"]
    text = fluvial("compare", "1", "3", "--file", file)
    assert "McNemar" in text
    assert "with 95 % confidence" in text
    learning = fluvial("compare", "3", "1", "--file", file, "--learn", "--json")
    assert learning["metrics"] != told["metrics"][::-1]
    topic = fluvial("compare", "1", "3", "--topic", "0..400", "--json")
    assert topic["metrics"] == told["metrics"], "the same events"
    assert fluvial("compare", "1", "3", "--last", "50", "--json")["events"] == 50
    assert "has the offsets 0..1200" in _error(live, "compare", "1", "3", "--topic", "0..1201")
    assert "no kept model" in _error(live, "compare", "1", "9", "--file", file)
    strange = tmp_path / "strange.csv"
    strange.write_text("key,time,a,label\nk,1,2,true\n")
    assert "features.b" in fluvial("compare", "1", "3", "--file", str(strange), status=1)


def _roll_back(live, fluvial):
    waiting = fluvial("rollback", "1", "--wait", "0", "--json")
    assert (waiting["answered"], waiting["version"]) == (False, None)
    assert "another request stands" in _error(live, "rollback", "2")
    assert "roll back to version 1" in _status(live)
    assert "taken back" in fluvial("rollback", "1", "--withdraw")
    assert "roll back" not in _status(live)
    assert "nobody asks" in fluvial("rollback", "1", "--withdraw", status=1)
    assert "no worker runs" in fluvial("rollback", "1", "--wait", "0.3", status=1)
    node = live.start()
    node.until(lambda: live.kinds().count("version") == 3, "the roll-back that was asked for before")
    told = fluvial("rollback", "1", "--because", "bad labels", "--by", "ann", "--relearn",
                   "--skip", "800..900", "--json", "--wait", "20")  # fmt: skip
    assert (told["answered"], told["version"]) == (True, 5)
    refused = fluvial("rollback", "77", "--wait", "20", "--json", status=1)
    assert "no kept model" in refused["refused"]
    node.until(lambda: "relearned" in live.kinds() and live.checkpointed() == {0: 1_200}, "the log again")
    node.stop()
    ledger = live.learner().ledger.partitions[0]
    assert (ledger.skipped, ledger.balanced()) == (100, True)
    last = fluvial("list", "--json")["versions"][-1]
    assert last["cause"] == "rollback"
    came_and_went = fluvial("show", "4", "--json")
    assert came_and_went["events_at_end"] == came_and_went["events"]
    assert "it answered no event" in fluvial("show", "4")
    assert "is not pinned" in fluvial("unpin", "999", status=1)
    assert "--shard" in _error(live, "rollback", "1", "--shard", "partition-0", "--wait", "0")
    assert (last["detail"]["by"], last["detail"]["because"]) == ("ann", "bad labels")


def _status(live):
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert main(["status", str(live.config), "--no-kafka", "--journal", "0"]) == 0
    return said.getvalue()


def _error(live, *words):
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        assert main(["versions", *words, "--config", str(live.config)]) == 1
    return said.getvalue()


@pytest.mark.parametrize("relearn", [False, True])
def test_workers_killed_around_a_roll_back_carry_it_out_once(live, relearn):
    """SIGKILL at random moments after it was asked for: one version, and the fold as if never killed."""
    live.run_to_the_end()
    store, rng = live.store(), random.Random(f"{relearn}")
    request = Rollback("r1", 1, "ann", "why not", 1e9, relearn=relearn)
    assert store.ask(SHARD, request)
    for _ in range(4):
        before = live.head("epoch")
        process = live.launch(rng.randrange(1, 2**32))
        live.until(lambda before=before: live.head("epoch") != before, "a claim")
        time.sleep(rng.uniform(0.0, 1.5))
        process.kill()
        process.wait()
        live.redis.cli.delete(live.keys.lease(SHARD))
    node = live.start()
    node.until(lambda: store.answered(SHARD) is not None, "an answer")
    node.until(lambda: live.checkpointed() == live.ends(), "the end")
    node.stop()
    reply = store.answered(SHARD)
    store.close()
    learner = live.learner()
    made = [v for v in learner.lineage.versions if v.cause == "rollback"]
    assert [v.number for v in made] == [reply.version]
    told = [e for k, e in live.journal() if k == "version" and e["detail"]["cause"] == "rollback"]
    assert len(told) == 1
    oracle = fold.fold(live.settings, live.values)
    kept = next(r for o in oracle.outcomes if o.rare for r in o.rare.retired if r.version == 1)
    oracle.learner.roll_back(kept, request)
    for event in fold.decoded(live.settings, live.values)[oracle.learner.ledger.partitions[0].next :]:
        oracle.learner.step(event)
    fold.assert_same_fold(learner, oracle.learner)


def test_the_paired_test_is_the_binomials():
    assert paired(0, 0) == 1.0
    assert paired(5, 5) == 1.0
    assert paired(10, 0) == pytest.approx(2 / 2**10)
    assert paired(9, 1) == paired(1, 9) == pytest.approx(2 * 11 / 2**10)
    exact = 2 * sum(math.comb(1_000, k) for k in range(461)) / float(2**1_000)
    assert paired(460, 540) == pytest.approx(exact)
    assert paired(461, 540) == pytest.approx(exact, rel=0.1), "the normal one goes on from there"


def test_a_span_names_its_partition_or_not():
    assert _span("10..20") == (0, 10, 20)
    assert _span("3:1_000..2_000") == (3, 1_000, 2_000)
    for text in ("10-20", "20..10", "5..5", "..5", "x:1..2"):
        with pytest.raises(SettingsError, match="--skip"):
            _span(text)
