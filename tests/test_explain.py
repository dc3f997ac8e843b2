"""`fluvial explain`: sums that add up, paths that are the tree's, and a state that stays as it was."""

import argparse
import codecs
import io
import itertools
import json
import math
import random
import subprocess
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console
from river import linear_model, optim, preprocessing, stats

from fluvial.cli import main
from fluvial.codec import Codec
from fluvial.config import PolicySettings
from fluvial.config.settings import RungSettings
from fluvial.errors import SettingsError
from fluvial.explaining import explain, moved
from fluvial.explaining.drifts import LEAST
from fluvial.explaining.models import Linear, Path, why
from fluvial.models.unpickle import dumps, loads
from fluvial.types import Task
from support import fold
from support.service import Service

FLUVIAL = [sys.executable, "-c", "import sys; from fluvial.cli import main; sys.exit(main())"]


def learned(log, preset, policy="observe", n=None):
    """A fold over a log, and a copy of it to ask."""
    settings = fold.settings(log, {"preset": preset}, policy)
    done = fold.fold(settings, log.values[:n])
    return settings, done.learner, type(done.learner)(done.learner.spec, loads(dumps(done.learner.state())))


def logistic(total):
    return 1.0 / (1.0 + math.exp(-total))


# --- linear models ---------------------------------------------------------------------------------


@pytest.mark.parametrize("flip", [1.0, -1.0], ids=["yes", "no"])
def test_the_parts_of_a_logistic_regression_sum_to_its_log_odds(flip):
    log = fold.drifting(1_500)
    _, _, copy = learned(log, "linear")
    x = {"a": 0.7 * flip, "b": 0.4 * flip}
    told = explain(copy, x)
    (voice,) = told.voices
    assert logistic(voice.why.total) == pytest.approx(told.answer[told.choice], abs=1e-12)
    assert voice.why.total == pytest.approx(voice.why.base + sum(p.contribution for p in voice.why.parts))
    scaler, head = copy.mixture.members[0].model.steps.values()
    sign = 1.0 if told.choice else -1.0
    for part in voice.why.parts:
        z = scaler.transform_one(x)[part.feature]
        assert part.contribution == pytest.approx(sign * head.weights[part.feature] * z, abs=1e-12)
        assert part.value == x[part.feature]


def test_in_regression_the_parts_sum_to_the_answer_in_its_own_unit():
    log = fold.numbers(1_500, scale=1_000.0)
    _, _, copy = learned(log, "linear")
    told = explain(copy, {"a": 0.5, "b": -0.2})
    assert told.voices[0].why.total == pytest.approx(told.answer[0], rel=1e-12)
    assert told.linear.total == pytest.approx(told.answer[0], rel=1e-12)


def test_a_softmax_is_explained_against_the_mean_of_the_classes():
    log = fold.five(1_500)
    settings, _, copy = learned(log, "linear")
    event = fold.decoded(settings, log.values[-1:])[0]
    told = explain(copy, event.x)
    head = list(copy.mixture.members[0].model.steps.values())[-1]
    logs = [math.log(p) for p in told.answer]
    assert told.voices[0].why.total == pytest.approx(logs[told.choice] - sum(logs) / len(logs), abs=1e-9)
    assert len(head.weights) == 5
    assert {p.feature for p in told.voices[0].why.parts} <= set(event.x), (
        "one-hots are named by their feature"
    )


def test_a_pipeline_of_rivers_own_is_explained_as_well():
    model = preprocessing.StandardScaler() | linear_model.LogisticRegression(optim.SGD(0.1))
    rng = random.Random(1)
    for _ in range(300):
        x = {"a": rng.gauss(5, 2), "b": rng.gauss(-1, 1)}
        model.learn_one(x, x["a"] > 5)
    x = {"a": 7.0, "b": 0.0}
    told = why(model, x, Task.BINARY, 2, 1)
    assert isinstance(told, Linear)
    assert logistic(told.total) == pytest.approx(model.predict_proba_one(x)[True], abs=1e-12)
    assert told.parts[0].feature == "a"


def test_of_a_mixture_the_linear_part_is_the_weighted_sum_over_its_members():
    log = fold.drifting(2_000)
    _, _, copy = learned(log, "auto", "reweight")
    told = explain(copy, {"a": 0.7, "b": -0.1})
    linear = [v for v in told.voices if isinstance(v.why, Linear)]
    assert len(linear) >= 5
    total = sum(v.weight for v in linear)
    assert told.linear_weight == pytest.approx(total)
    assert told.linear.total == pytest.approx(sum(v.weight * v.why.total for v in linear) / total)
    for name in ("a", "b"):
        expected = (
            sum(v.weight * p.contribution for v in linear for p in v.why.parts if p.feature == name) / total
        )
        assert next(p for p in told.linear.parts if p.feature == name).contribution == pytest.approx(expected)


# --- trees -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["tree", "adaptive-tree"])
def test_a_tree_is_explained_by_its_path(preset):
    rng = random.Random(4)
    rows = [{"a": rng.uniform(-1, 1), "b": rng.uniform(-1, 1)} for _ in range(3_000)]
    events = [(1e9 + k, x, x["a"] > 0.1) for k, x in enumerate(rows)]
    log = fold.Log("step", "binary", {"a": "number", "b": "number"}, events)
    _, _, copy = learned(log, preset)
    x = {"a": 0.7, "b": 0.4}
    path = explain(copy, x).voices[0].why
    assert isinstance(path, Path)
    assert len(path.nodes) > 1
    choice = explain(copy, x).choice
    for node in path.nodes[1:]:
        feature, sign, threshold = node.test.split(" ")
        assert feature == node.feature
        assert (x[feature] <= float(threshold)) == (sign == "≤")
    shares = [node.shares[choice] for node in path.nodes]
    assert [n.change for n in path.nodes[1:]] == pytest.approx([b - a for a, b in itertools.pairwise(shares)])
    assert all(sum(node.shares) == pytest.approx(1.0) for node in path.nodes)


def test_a_tree_over_categories_and_an_absent_feature():
    log = fold.five(8_000)
    settings, _, copy = learned(log, "tree")
    event = fold.decoded(settings, log.values[-1:])[0]
    path = explain(copy, event.x).voices[0].why
    assert path.leaf.startswith("Leaf")
    without = explain(copy, {}).voices[0].why
    assert without.nodes[0] == path.nodes[0]


def test_a_regression_tree_tells_means():
    log = fold.numbers(6_000)
    _, _, copy = learned(log, "tree")
    told = explain(copy, {"a": 0.7, "b": 0.4})
    last = told.voices[0].why.nodes[-1]
    assert len(last.shares) == 1
    assert last.shares[0] == pytest.approx(told.answer[0])


# --- ablation, and that asking changes nothing -----------------------------------------------------


@pytest.mark.parametrize("preset", ["linear", "bayes", "forest", "auto"])
def test_without_a_feature_is_what_the_model_says_without_it(preset):
    log = fold.drifting(1_000)
    _, _, copy = learned(log, preset)
    told = explain(copy, {"a": 0.9, "b": 0.01})
    assert {one.feature for one in told.ablation} == {"a", "b"}
    mean = stats.Mean()
    for row in copy.memory.newest(2_000):
        mean.update(row[0]["a"])
    one = next(one for one in told.ablation if one.feature == "a")
    assert one.instead == pytest.approx(mean.get())
    other = copy.mixture.combine([m.ask({"a": one.instead, "b": 0.01}) for m in copy.mixture.members])
    if not any(m.rests for m in copy.mixture.members):
        assert one.answer == pytest.approx(other)
    assert one.change == pytest.approx(told.answer[told.choice] - one.answer[told.choice])
    assert [abs(o.change) for o in told.ablation] == sorted(
        (abs(o.change) for o in told.ablation), reverse=True
    )


def test_a_feature_that_no_recent_event_has_is_left_out():
    settings = fold.settings(fold.drifting(10), {"preset": "linear"}, "observe")
    told = explain(fold.genesis(settings), {"a": 1.0, "b": 2.0})
    assert [one.instead for one in told.ablation] == [None, None]


@pytest.mark.parametrize("preset", ["rates", "auto", "forest"])
def test_asking_changes_no_later_answer(preset):
    log = fold.drifting(1_200)
    settings, learner, _ = learned(log, preset, "reweight", n=1_000)
    undisturbed = type(learner)(learner.spec, loads(dumps(learner.state())))
    state = dumps(learner.state())
    explain(type(learner)(learner.spec, loads(state)), {"a": 0.1, "b": 0.2})
    for event in fold.decoded(settings, log.values)[1_000:]:
        assert learner.step(event).answer == undisturbed.step(event).answer


# --- which features moved --------------------------------------------------------------------------


def test_the_feature_that_moved_comes_first_with_its_direction():
    rng = random.Random(5)

    def rows(mean, colour, n=400):
        return [
            {"still": rng.gauss(0, 1), "moves": rng.gauss(mean, 2), "colour": rng.choice(colour)}
            for _ in range(n)
        ]

    first, second, third = moved(rows(0.0, "rgb"), rows(-4.0, "rgggb"))
    assert (first.feature, second.feature, third.feature) == ("moves", "colour", "still")
    assert first.moved == pytest.approx(-2.0, abs=0.25)
    assert second.value == "g"
    assert second.after - second.before == pytest.approx(3 / 5 - 1 / 3, abs=0.1)
    assert abs(third.moved) < 0.2


def test_a_feature_that_went_missing_or_never_varied():
    full = [{"a": 1.0, "b": 2.0}] * 50
    first, second = moved(full, [{"a": 1.0}] * 40 + [{"a": 1.0, "b": 2.0}] * 10)
    assert (first.feature, first.missing, first.moved) == ("b", pytest.approx(0.8), 0.0)
    assert (second.feature, second.moved, second.missing) == ("a", 0.0, 0.0)
    assert moved([{"a": 1.0}] * 50, [{"a": 3.0}] * 50)[0].moved == math.inf


def test_too_few_events_tell_nothing():
    assert moved([{"a": 1.0}] * (LEAST - 1), [{"a": 9.0}] * 500) == ()


def test_the_ring_is_cut_at_the_change():
    from fluvial.cli.explain_drift import features_moved
    from fluvial.cli.loaded_state import Loaded

    settings = fold.settings(fold.drifting(10), {"preset": "linear"}, "observe")
    learner = fold.genesis(settings)
    values = [fold.wire(k, 1e9 + k, {"a": float(k >= 1_500), "b": 0.0}, k % 2 == 0) for k in range(3_010)]
    for event in fold.decoded(settings, values):
        learner.step(event)
    state = Loaded(None, learner, None, len(learner.state()["rows"]))
    found, covered = features_moved(state, 1_500, 1_600)
    newest = 3_010 - state.pending
    assert covered == (1_500 - (newest - 2_000), newest - 1_500)
    assert (found[0].feature, found[0].before, found[0].after) == ("a", 0.0, 1.0), "not one event off"
    assert features_moved(state, 900, 950) == ((), (0, 2_000))


# --- the command -----------------------------------------------------------------------------------


def test_the_nth_drift_and_what_was_done_about_it():
    from fluvial.cli.explain_drift import nth_drift

    def entry(kind, offset):
        return {"kind": kind, "shard": "all", "partition": 0, "offset": offset, "detail": {}}

    entries = [
        entry("version", 9),
        entry("drift", 9),
        entry("hold", 5),
        entry("drift", 5),
        entry("version", 1),
    ]
    assert nth_drift(entries, 1) == (entries[1], [entries[0]])
    assert nth_drift(entries, 2) == (entries[3], [entries[2]])
    with pytest.raises(SettingsError, match="the journal tells of 2 drifts"):
        nth_drift(entries, 3)


MOVED = {"name": "probability of True", "what": "spread", "value": None, "distance": -0.4}


def shown_drift(plane, policy, moved=(), before=0.354, after=0.3055):
    """What `explain --drift` prints of a drift that nothing followed."""
    from fluvial.cli.explain_drift import why_nothing
    from fluvial.cli.explain_view import show_drift

    told = {
        "at": 0.0,
        "shard": "all",
        "partition": 0,
        "offset": 9,
        "event_time": None,
        "plane": plane,
        "detector": "d",
        "events": 900,
        "since": 800,
        "before": before,
        "after": after,
        "own": {"moved": list(moved)},
        "done": [],
        "not_done": why_nothing(policy, plane),
        "moved": [],
        "covered": [0, 0],
        "not_covered": "too old",
    }
    console = Console(file=io.StringIO(), width=160)
    show_drift(console, told)
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines()]


def test_what_moved_on_another_plane_is_named_and_is_no_watched_mean():
    moved = [
        MOVED | {"before": 0.354, "after": 0.3055},
        MOVED | {"name": "[b]", "what": "share", "value": "x", "before": None, "after": 0.5},
    ]
    lines = shown_drift("predictions", PolicySettings(name="reset"), moved)
    assert "moved probability of True (spread) 0.354 -> 0.305" in lines
    assert "also moved [b] (share of x) - -> 0.5" in lines
    assert not any("watched mean" in line or "{" in line for line in lines)
    assert "watched mean 0.354 -> 0.305" in shown_drift("error", PolicySettings(name="reset"))


def test_who_reacts_to_which_plane_is_said():
    def then(plane, **policy):
        (line,) = (x for x in shown_drift(plane, PolicySettings(**policy)) if x.startswith("then nothing: "))
        return line.removeprefix("then nothing: ")

    assert "only watches" in then("error", name="reset")
    alone = "does not react to the predictions: whether it matters, the error tells"
    assert then("predictions", name="reset") == f"policy reset {alone}"
    assert then("predictions", name="ladder") == f"policy ladder {alone}"
    rungs = (RungSettings(action="refit", plane="features"),)
    assert "reached no rung" in then("features", name="ladder", rungs=rungs)
    assert then("predictions", name="ladder", rungs=rungs) == f"policy ladder {alone}"
    assert "your policy" in then("features", factory="my:Policy")


def test_status_says_the_same_of_what_moved_also_where_the_journal_has_null():
    from fluvial.cli.status import _summary

    moved = [MOVED | {"before": None, "after": 0.5}, MOVED | {"name": "other", "before": 0.0, "after": 1.0}]
    detail = {"plane": "predictions", "before": None, "after": 0.5, "since": 8, "moved": moved}
    said = "predictions probability of True (spread) - -> 0.5, since event 8; also other"
    assert _summary("drift", detail) == said
    assert _summary("drift", detail | {"plane": "error", "moved": []}) == "error - -> 0.5, since event 8"


def test_a_byte_order_mark_is_no_part_of_the_first_event(tmp_path):
    from fluvial.cli.explain import _events

    log = fold.drifting(10)
    path = tmp_path / "events.jsonl"
    path.write_bytes(codecs.BOM_UTF8 + b"\n".join(log.values))
    asked = argparse.Namespace(event=None, file=str(path))
    settings = fold.settings(log, {"preset": "linear"})
    state = SimpleNamespace(codec=Codec(settings.schema))
    assert len([*_events(settings, state, asked, None)]) == 10


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_a_file_without_an_event_explains_nothing_and_says_so(tmp_path, monkeypatch, capsys, text):
    monkeypatch.setattr("fluvial.cli.explain._state", lambda *_: None)
    config, events = tmp_path / "f.toml", tmp_path / "events.jsonl"
    assert main(["init", str(config)]) == 0
    events.write_text(text)
    assert main(["explain", "--config", str(config), "--file", str(events)]) == 1
    assert f"--file: there is no event in {events}" in capsys.readouterr().err


def ask(service, *words):
    done = subprocess.run(
        [*FLUVIAL, "explain", "--config", str(service.config), *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.mark.kafka
@pytest.mark.redis
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_score_an_event_and_a_drift_of_a_real_service(tmp_path, kafka_broker, redis_server):
    log = fold.drifting(3_000)
    with Service(tmp_path, kafka_broker, redis_server, log, {"preset": "linear"}, "reset") as service:
        service.produce(log.values)
        assert service.run_to_the_end(1) == 0
        before = redis_server.cli.dump(service.keys.head("all"))
        by_key = json.loads(ask(service, "e2999", "--json").stdout)
        event = log.values[2_999].decode()
        by_event = json.loads(ask(service, "--event", event, "--json").stdout)
        assert by_key["served"]["offset"] == 2_999
        assert by_key["ablation"] == by_event["ablation"]
        assert by_key["explained"] in {"False", "True"}
        (voice,) = by_key["voices"]
        assert logistic(voice["why"]["total"]) == pytest.approx(by_key["answer"][by_key["choice"]])

        store = service.store()
        (tmp_path / "state").write_bytes(store.load("all")[0])
        store.close()
        (tmp_path / "events").write_text(f"{event}\n\n{event}\n")
        words = ("--file", str(tmp_path / "events"), "--state", str(tmp_path / "state"), "--json")
        lines = ask(service, *words).stdout.splitlines()
        assert [json.loads(line)["answer"] for line in lines] == [by_event["answer"]] * 2

        told = json.loads(ask(service, "--drift", "--json").stdout)
        drift = [fields for kind, fields in service.journal() if kind == "drift"][-1]
        assert (told["since"], told["offset"]) == (drift["detail"]["since"], drift["offset"])
        assert told["after"] > told["before"]
        assert [one["kind"] for one in told["done"]] in (["version"], ["hold"])
        assert {one["feature"] for one in told["moved"]} == {"a", "b"}, told

        assert "log-odds of" in ask(service, "e2999").stdout
        assert "began" in ask(service, "--drift", "1").stdout
        refused = ask(service, "--event", '{"features": {"a": "x"}}')
        assert (refused.returncode, "would be dead-lettered" in refused.stderr) == (1, True)
        assert "has no score" in ask(service, "nobody").stderr
        assert "no checkpoint" in ask(service, "--event", event, "--shard", "partition-7").stderr
        (tmp_path / "state").write_bytes(b"nonsense")
        assert "not a checkpoint" in ask(service, *words).stderr
        assert redis_server.cli.dump(service.keys.head("all")) == before
