"""Streams repeat, change where they say, and carry what their schema declares."""

import itertools
import json
import os
import subprocess
import sys

import pytest

from fluvial import streams
from fluvial.streams import STREAMS, five_classes, market, named, wire
from fluvial.types import Task

RIVER_FREE = ("friedman", "five-classes", "market")


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_repeats_and_keeps_its_schema(name):
    stream = named(name)
    first = list(stream.make(11, 300))
    assert first == list(stream.make(11, 300))
    assert first != list(stream.make(12, 300))
    names = stream.schema().names
    categories = {spec.name: spec.values for spec in stream.features if spec.type == "category"}
    for x, y in first:
        assert tuple(x) == names
        for feature, value in x.items():
            assert value in categories[feature] if feature in categories else type(value) is float
        if stream.task is Task.REGRESSION:
            assert type(y) is float
        else:
            assert y in stream.classes
            assert type(y) is type(stream.classes[0])


@pytest.mark.parametrize("name", [s.name for s in STREAMS.values() if s.kind == "abrupt"])
def test_an_abrupt_stream_is_made_of_its_stretches(name):
    stream = named(name)
    events = list(stream.make(5, 260, every=100))
    assert stream.drifts_in(260, every=100) == (100, 200)
    assert events[:100] == list(stream.make(5, 100, every=1_000)), (
        "the first stretch depends on nothing after"
    )
    assert events[100:] != list(stream.make(5, 260, every=1_000))[100:]


def share_of_new(stream, seed, low, high):
    """How many events of [low, high) come from the stretch after the drift at 5,000."""
    concept = {"sine-gradual": streams._sine}[stream.name]
    fresh = {tuple(x.values()) for x, _ in itertools.islice(concept(seed, 1), 5_000)}
    window = itertools.islice(stream.make(seed, 20_000), low, high)
    return sum(tuple(x.values()) in fresh for x, _ in window) / (high - low)


def test_a_gradual_stream_crosses_over_at_its_drift():
    stream = named("sine-gradual")
    assert share_of_new(stream, 3, 2_000, 2_500) < 0.05
    assert 0.4 < share_of_new(stream, 3, 4_750, 5_250) < 0.6
    assert share_of_new(stream, 3, 7_000, 7_400) > 0.9


def test_a_concept_that_returns_brings_other_events():
    events = list(named("rbf").make(5, 400, every=100))
    assert events[:100] != events[300:]


def accuracy_of_the_first_rule(events):
    rule = streams._RULES[0]
    return sum(rule(*x.values()) == y for x, y in events) / len(events)


def test_the_market_turns_where_it_says():
    every = streams.MARKET_EVERY
    events = list(itertools.islice(market(4), 5 * every))
    assert named("market").drifts_in(5 * every) == (every, 2 * every, 3 * every, 4 * every)
    assert 0.94 < accuracy_of_the_first_rule(events[:every]) < 0.96, "five per cent of the labels are wrong"
    after = [accuracy_of_the_first_rule(events[k * every : (k + 1) * every]) for k in (1, 2, 3)]
    assert max(after) < 0.75
    assert accuracy_of_the_first_rule(events[4 * every + 2_000 :]) > 0.93, "the first rule comes back"
    before_change = accuracy_of_the_first_rule(events[every - 500 : every])
    at_change = accuracy_of_the_first_rule(events[every : every + 500])
    assert before_change - at_change > 0.5, "abrupt"


def test_five_classes_are_all_there_and_learnable():
    events = list(five_classes(2, 4_000))
    assert {y for _, y in events} == set(streams.FIVE)
    assert len({x["city"] for x, _ in events}) == 7


def test_streams_without_river_do_not_import_it_and_ignore_the_hash_seed():
    code = (
        "import sys, hashlib; from fluvial.streams import named, wire\n"
        f"digest = hashlib.sha256(b''.join(v for n in {RIVER_FREE!r} for _, v in wire(named(n), 9, 500)))\n"
        "assert 'river' not in sys.modules; print(digest.hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_the_wire_carries_the_event():
    stream = named("five-classes")
    sent = list(wire(stream, 7, 50))
    assert sent == list(wire(stream, 7, 50))
    for (key, value), (x, y) in zip(sent, stream.make(7, 50), strict=True):
        event = json.loads(value)
        assert event.keys() == {"id", "key", "time", "features", "label"}
        assert event["key"] == key
        assert event["features"] == x
        assert event["label"] == y
    assert json.loads(sent[1][1])["time"] - json.loads(sent[0][1])["time"] == 1.0
    assert json.loads(next(wire(stream, 7, 1, clock=lambda: 42.5))[1])["time"] == 42.5


def test_an_unknown_name_says_which_there_are():
    with pytest.raises(KeyError, match="market"):
        named("agrawl")
