"""What `fluvial versions` and its `compare` make of a shard, a span and two models, without a server."""

import argparse
import json
import os
from types import SimpleNamespace

import pytest

from fluvial.cli import comparing, main, versions
from fluvial.cli.comparing import contestant, serving
from fluvial.cli.version_reading import Book, partition_within, shard_within
from fluvial.cli.versions import _span
from fluvial.codec import Codec
from fluvial.crew import Crew
from fluvial.errors import CheckpointRefused, SettingsError
from fluvial.evaluation import Prequential
from fluvial.models import unpickle
from fluvial.shard import spec_of
from fluvial.types import Kept, Retired
from support import factories, fold


def test_a_shard_is_one_that_the_scope_can_have():
    assert shard_within("topic", None) == shard_within("topic", "all") == ("all", None)
    assert shard_within("partition", "partition-12") == ("partition-12", 12)
    impossible = {
        "topic": ("partition-0", "", "nonsense"),
        "partition": ("all", None, "partition-01", "partition-x"),
    }
    for scope, said in [(scope, said) for scope, several in impossible.items() for said in several]:
        with pytest.raises(SettingsError, match="--shard"):
            shard_within(scope, said)


def test_the_partition_is_the_shards_own_and_no_other():
    assert partition_within(None, None, "--partition") == 0
    assert partition_within(None, 3, "--partition") == 3
    assert partition_within(1, None, "--partition") == partition_within(1, 1, "--partition") == 1
    with pytest.raises(SettingsError, match="--partition: partition 0 is not this shard's, which is 1"):
        partition_within(1, 0, "--partition")


def test_a_partition_that_no_topic_can_have_is_refused():
    for said in (-1, 2**31):
        with pytest.raises(SettingsError, match=r"--partition: .* is no partition"):
            partition_within(None, said, "--partition")


def test_a_span_without_a_partition_is_one_of_the_shards_own():
    assert _span("500..600", 1) == _span("1:500..600", 1) == (1, 500, 600)
    with pytest.raises(SettingsError, match="--skip: partition 0 is not this shard's"):
        _span("0:500..600", 1)


class Stored:
    """What a store has of one shard: a kept model that is pinned and cannot be opened."""

    def load(self, shard):
        return []

    def pin(self, shard, number, by):
        return number == 7

    def kept(self, shard):
        return {7: Kept(at=1e9, size=4, pinned="ann", note="before the campaign")}

    def version_blob(self, shard, number):
        return b"junk" if number == 7 else None


@pytest.fixture
def book():
    made = object.__new__(Book)
    made.settings = fold.settings(fold.drifting(1), "linear")
    made.shard, made.own, made.metric, made.store = "all", None, "accuracy", Stored()
    return made


def test_a_kept_model_that_cannot_be_opened_is_listed_with_its_pin_and_note(book, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    (told,) = book.versions()
    assert (told["number"], told["cause"], told["size"], told["pinned"]) == (7, "cannot be opened", 4, "ann")
    assert told["refused"]
    with pytest.raises(CheckpointRefused, match="version 7: "):
        book.version(7)
    for as_json in (False, True):
        assert versions._list(book, argparse.Namespace(json=as_json)) == 0
        out, err = capsys.readouterr()
        assert "cannot be opened" in out
        assert "before the campaign" in " ".join(out.split())
    assert "versions show N" in err or as_json


def test_what_is_no_span_is_refused_with_a_sentence():
    for text in ("_.._", "1__0..200", "_1..2", "1_..2", "0..\u0665", f"0..{2**63}", f"{2**63}:0..5"):
        with pytest.raises(SettingsError, match="--skip"):
            _span(text)
    assert _span("1_000..20_000") == (0, 1_000, 20_000)


def test_a_number_that_no_version_can_have_is_wrong_usage():
    parser = argparse.ArgumentParser()
    versions.add_arguments(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["rollback", str(2**63)])


@pytest.mark.parametrize("error", [KeyError("getpwuid(): uid not found: 1234"), OSError("No username set")])
def test_a_user_without_a_name_is_told_by_number(monkeypatch, error):
    def nobody():
        raise error

    monkeypatch.setattr(versions.getpass, "getuser", nobody)
    assert versions._me().startswith(f"uid-{os.getuid()}@")


NOT_UTF_8 = "caf\udce9"
"""As Python passes on what was said in Latin-1."""


@pytest.mark.parametrize(
    "words",
    [
        ["rollback", "1", "--because", NOT_UTF_8],
        ["pin", "1", "--by", NOT_UTF_8],
        ["annotate", "1", NOT_UTF_8],
    ],
)
def test_words_that_are_not_utf_8_are_refused_with_a_sentence(words, capsys):
    assert main(["versions", *words]) == 1
    assert "not UTF-8 at character 4" in capsys.readouterr().err


def test_a_version_that_answered_no_event_has_no_metrics_at_its_end():
    version = {"events": 400, "events_at_end": 400, "metrics_at_end": {"accuracy": 0.5}}
    assert versions._at_end(version) == {}
    assert versions._end(version) == "it answered no event"
    one = version | {"events_at_end": 401}
    assert versions._at_end(one) == {"accuracy": 0.5}
    assert versions._end(one) == "accuracy 0.5000"
    assert versions._end(version | {"events_at_end": None, "metrics_at_end": None}) == "it has not ended"


# ---- two models, without a server -----------------------------------------------------------------


PRESETS = {"auto": fold.drifting, "rates": fold.drifting, "auto for numbers": fold.numbers}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("at", [300, 901])
def test_what_learns_as_it_goes_answers_as_the_fold_does(preset, at):
    """Weights, scale and who rests are part of learning."""
    log = PRESETS[preset](2_400)
    settings = fold.settings(log, {"preset": preset.split()[0]}, "observe")
    learner, events = fold.genesis(settings), fold.decoded(settings, log.values)
    for event in events[:at]:
        learner.step(event)
    book = SimpleNamespace(settings=settings)
    ours = serving(book, learner, learn=True)
    kept = contestant(book, learner.retired(), learner.crew, learner.mixture.scale)
    returned = learner.crew.returned(learner.retired(), at, learner.mixture.scale)
    judged, judged_returned = (
        Prequential(learner.spec.task, learner.spec.size, settings.evaluation) for _ in range(2)
    )
    for event in events[at:]:
        judged.extend([(event.y, learner.step(event).answer)])
        answers = returned.ask(event.x)
        judged_returned.extend([(event.y, answer := returned.combine(answers))])
        returned.reweigh(event.y, answers, answer)
        returned.teach(event.x, event.y)
        for one in (ours, kept):
            one.meet(event, event.y)
            one.learn(event, event.y)
    metrics = judged.metrics()["total"]
    assert len(ours.mixture.weights) > 1
    assert ours.evaluation.metrics()["total"] == pytest.approx(metrics, rel=1e-9)
    assert ours.mixture.weights == pytest.approx(learner.mixture.weights, rel=1e-9)
    assert kept.evaluation.metrics() == judged_returned.metrics(), "as after a roll-back"
    assert kept.mixture.weights == returned.weights


@pytest.fixture
def compare(monkeypatch, tmp_path, capsys):
    """Compare models of `support.factories` on events, as versions 1 and 2: exit status and what is told."""

    def run(models, events, *words):
        log = fold.Log("odd", "binary", {"fail": "number"}, [])
        settings = fold.settings(log, "counting")
        book = SimpleNamespace(settings=settings, own=None)
        file = tmp_path / ("events" if "--format" in words else "events.jsonl")
        file.write_bytes(b"\n".join(fold.wire(i, 1e9 + i, {"fail": f}, y) for i, (f, y) in enumerate(events)))

        def opened(book, number, newest, *, learn):
            blob = unpickle.dumps({"model": models[number - 1]})
            crew = Crew(spec_of(settings), {"model": unpickle.dumps(models[number - 1])})
            return contestant(book, Retired(number, blob), crew)

        monkeypatch.setattr(comparing, "_open", opened)
        parser = argparse.ArgumentParser()
        versions.add_arguments(parser)
        args = parser.parse_args(["compare", "1", "2", "--file", str(file), *words])
        capsys.readouterr()
        status = comparing.run(book, args)
        out, err = capsys.readouterr()
        return status, json.loads(out) if "--json" in words else " ".join((out + err).split())

    return run


def taught(model, *labels):
    for y in labels:
        model.learn_one({}, y)
    return model


def test_an_event_without_an_answer_is_no_vote(compare):
    """Odd answers nothing to 2 and NaN to 1; a uniform answer would have been right by its first class."""
    models = taught(factories.Odd(), *[True] * 9), taught(factories.Odd(), *[False] * 9)
    events = [(0.0, True)] * 5 + [(2.0, False), (1.0, False)]
    status, told = compare(models, events, "--json")
    assert (status, told["events"], told["unpredicted"]) == (0, 7, [2, 2])
    assert [metrics["accuracy"] for metrics in told["metrics"]] == [1.0, 0.0]
    assert (told["test"]["events"], told["test"]["only_first"], told["test"]["only_second"]) == (5, 5, 0)
    assert told["difference"]["is"] == -1.0
    _, text = compare(models, events)
    assert "version 1 had no answer to 2 events, which its metrics leave out; the first, event 6: " in text
    assert "version 2 had no answer to 2 events" in text
    assert "of the 5 events that both answered, 1 on 5, 2 on 0" in text


def test_what_one_version_alone_answered_is_not_tested(compare):
    models = taught(factories.Counting(), False), taught(factories.Odd(), False)
    status, told = compare(models, [(2.0, False)] * 3, "--json")
    assert told["unpredicted"] == [3, 3], "the other raises on it"
    assert (status, told["metrics"], told["difference"]["is"]) == (0, [{}, {}], None)


def test_a_model_that_raises_when_it_is_asked_has_no_answer_and_says_why(compare):
    models = taught(factories.Counting(), True, True), taught(factories.Odd(), True, True)
    events = [(0.0, True), (2.0, True), (0.0, True)]
    for words in ([], ["--learn"]):
        status, told = compare(models, events, "--json", *words)
        assert (status, told["events"], told["unpredicted"]) == (0, 3, [1, 1])
        assert "event 2: the model raised ZeroDivisionError: no twos" in told["first_unpredicted"][0]
    assert "ZeroDivisionError" in compare(models, events)[1]


def test_a_model_that_raises_as_it_learns_is_refused_with_the_event(compare):
    models = taught(factories.Odd(), True), taught(factories.Counting(), True)
    events = [(0.0, True), (1.0, True)]
    assert compare(models, events)[0] == 0
    with pytest.raises(SettingsError, match=r"--learn: version 2 raised ArithmeticError .* event 2: no ones"):
        compare(models, events, "--learn")


def test_without_a_labelled_event_there_is_no_table(compare):
    status, text = compare((factories.Odd(), factories.Odd()), [(0.0, None)] * 2)
    assert (status, "p =" in text) == (1, False)
    assert "2 more have no label" in text


IMPOSSIBLE = ("400..0", "90..90", "300..401", "-5..300", "0..300", "1__0..200", "5", 0, -5)


@pytest.mark.parametrize("asked", IMPOSSIBLE)
def test_a_stretch_that_cannot_be_right_is_refused(asked):
    topic, last = (asked, None) if isinstance(asked, str) else (None, asked)
    args = argparse.Namespace(topic=topic, last=last, partition=2)
    with pytest.raises(SettingsError) as refused:
        comparing._stretch(args, 80, 400)
    assert "partition 2 has the offsets 80..400" in str(refused.value) or "at least 1" in str(refused.value)
    with pytest.raises(SettingsError, match="partition 2 of the topic has no event"):
        comparing._stretch(args, 0, 0)


def test_a_stretch_within_the_log_is_what_was_asked_for():
    def stretch(topic=None, last=None):
        return comparing._stretch(argparse.Namespace(topic=topic, last=last, partition=0), 80, 1_400)

    assert stretch("100..1_200") == (100, 1_200)
    assert stretch("..200") == (80, 200)
    assert stretch("1_000..") == (1_000, 1_400)
    assert stretch(last=50) == (1_350, 1_400)
    assert stretch(last=5_000) == (80, 1_400)


def test_unpin_says_that_nobody_pinned_it(book, capsys):
    for number, done in ((7, True), (999, False)):
        args = argparse.Namespace(action="unpin", number=number, by="ann", json=False)
        assert versions._mark(book, args) == (0 if done else 1)
        out, err = capsys.readouterr()
        assert ("no longer pinned" in out, "999 is not pinned" in err) == (done, not done)


def test_list_has_one_status_as_text_and_as_json(book):
    book.store.kept = lambda shard: {}
    assert [versions._list(book, argparse.Namespace(json=as_json)) for as_json in (False, True)] == [1, 1]


def test_a_named_label_maps_lines_of_json_as_produce_does(compare, tmp_path):
    models = taught(factories.Counting(), True, True), taught(factories.Counting(), False, False)
    lines = [{"key": f"k{i}", "time": 1e9 + i, "fail": 0.0, "gone": True, "label": False} for i in range(4)]
    file = tmp_path / "lines.txt"
    file.write_text("\n".join(map(json.dumps, lines)))
    words = ("--file", str(file), "--format", "json", "--json")
    status, told = compare(models, [], *words, "--label", "gone")
    assert (status, told["events"], told["metrics"][0]["accuracy"]) == (0, 4, 1.0)
    file.write_text("key;time;fail;label\n" + "k;1;0.5;true\n" * 3)
    status, told = compare(models, [], "--file", str(file), "--format", "csv", "--delimiter", ";", "--json")
    assert (status, told["events"], told["metrics"][0]["accuracy"]) == (0, 3, 1.0)


def test_what_says_what_a_file_is_is_refused_for_a_topic(book):
    for words in (["--label", "x"], ["--format", "csv"], ["--delimiter", ";"]):
        parser = argparse.ArgumentParser()
        versions.add_arguments(parser)
        args = parser.parse_args(["compare", "1", "2", "--last", "5", *words])
        with pytest.raises(SettingsError, match=words[0]):
            comparing._records(book, args, Codec(book.settings.schema))


def test_compare_reads_the_partition_that_is_the_shards_own(monkeypatch):
    """`--shard partition-1` compared on partition 0, in silence."""
    read = []
    kafka = SimpleNamespace(bounds=lambda *_: SimpleNamespace(low=0, high=10), close=lambda _: None)
    monkeypatch.setattr(comparing, "KafkaSource", lambda *_: kafka)
    monkeypatch.setattr(comparing, "read_partition", lambda *asked: read.append(asked[2:]) or iter(()))
    settings = fold.settings(fold.drifting(1), "linear", kafka={"scope": "partition"})
    book = SimpleNamespace(settings=settings, own=1)
    judged = Prequential(settings.schema.label.task, 2, settings.evaluation)
    monkeypatch.setattr(
        comparing, "_open", lambda *_, **__: SimpleNamespace(number=1, why=None, evaluation=judged)
    )
    parser = argparse.ArgumentParser()
    versions.add_arguments(parser)
    assert comparing.run(book, parser.parse_args(["compare", "1", "2", "--last", "5"])) == 1
    assert read == [(1, (5, 10))]
    with pytest.raises(SettingsError, match="--partition: partition 0 is not this shard's"):
        comparing.run(book, parser.parse_args(["compare", "1", "2", "--last", "5", "--partition", "0"]))


def test_columns_have_the_types_that_an_inferring_schema_has_settled_on(tmp_path):
    log = fold.drifting(1)
    log.schema = {"key": "key", "time": "time", "label": {"type": "binary"}, "infer": True}
    state = {"features": [["zip", "category"], ["a", "number"], ["gone", "number"]], "events": 10**6}
    codec = Codec(fold.settings(log, "linear").schema, state)
    file = tmp_path / "events.csv"
    file.write_text("key,time,a,zip,label\nk,1,0.5,01,true\n")
    args = argparse.Namespace(file=str(file), format=None, delimiter="", label=None)
    (record,) = comparing._of_file(args, codec)
    assert codec.decode(record.value, None, 0, 0, 0).x == {"a": 0.5, "zip": "01"}
