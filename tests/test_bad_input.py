"""Nothing bad reaches the model: dead-lettered with reason and position, and not one bit of it moved."""

import json
import random

import pytest

from fluvial.errors import Reason
from support import fold
from support.kafka_broker import read_topic
from support.service import Service
from test_worker import Bench

FEATURES = {
    "a": "number",
    "b": {"type": "number", "range": [-10.0, 10.0]},
    "n": {"type": "integer"},
    "c": "boolean",
}
GOOD = {"a": 0.5, "b": 1.0, "n": 3, "c": True}


def event(features=None, **more):
    return {"key": "bad", "time": 1e9, "features": {**GOOD, **(features or {})}, "label": True, **more}


def without(name):
    return event() | {"features": {k: v for k, v in GOOD.items() if k != name}}


def raw(text):
    """An event whose feature `a` is written as `text`."""
    return json.dumps(event({"a": 12345.5})).replace("12345.5", text).encode()


BAD = {
    "NaN": (raw("NaN"), Reason.MALFORMED),
    "Infinity": (raw("Infinity"), Reason.MALFORMED),
    "-Infinity": (raw("-Infinity"), Reason.MALFORMED),
    "1e999": (raw("1e999"), None),
    "1e308": (raw("1e308"), Reason.SCHEMA),
    "10**400": (raw("1" + "0" * 400), None),
    "a string for a number": (event({"a": "0.5"}), Reason.SCHEMA),
    "a boolean for a number": (event({"a": True}), Reason.SCHEMA),
    "null": (event({"a": None}), Reason.SCHEMA),
    "a list": (event({"a": [1.0]}), Reason.SCHEMA),
    "out of range": (event({"b": 10.5}), Reason.SCHEMA),
    "a fraction for an integer": (event({"n": 3.5}), Reason.SCHEMA),
    "a number for a boolean": (event({"c": 1}), Reason.SCHEMA),
    "a missing feature": (without("a"), Reason.SCHEMA),
    "an unknown feature": (event({"z": 1.0}), Reason.SCHEMA),
    "an unknown field": (event(z=1.0), Reason.SCHEMA),
    "100,000 names": (event({f"x{i}": 1.0 for i in range(100_000)}), None),
    "a label outside the set": (event(label="maybe"), Reason.LABEL),
    "a number for a label": (event(label=2), Reason.LABEL),
    "one for true": (event(label=1), Reason.LABEL),
    "no time": ({k: v for k, v in event().items() if k != "time"}, Reason.SCHEMA),
    "an absurd time": (event(time=1e300), Reason.SCHEMA),
    "a key that is an object": (event(key={}), Reason.SCHEMA),
    "features that are a list": (event() | {"features": [1, 2]}, Reason.SCHEMA),
    "not JSON": (b"{nonsense", Reason.MALFORMED),
    "truncated": (json.dumps(event()).encode()[:-9], Reason.MALFORMED),
    "two documents": (json.dumps(event()).encode() * 2, Reason.MALFORMED),
    "a byte order mark": (b"\xef\xbb\xbf" + json.dumps(event()).encode(), Reason.MALFORMED),
    "bad UTF-8": (json.dumps(event()).encode().replace(b"bad", b"\xff\xfe"), Reason.MALFORMED),
    "a lone surrogate": (json.dumps(event(key="k")).encode().replace(b'"k"', b'"\\ud800"'), Reason.MALFORMED),
    "deep nesting": (b'{"features":' + b"[" * 100_000 + b"]" * 100_000 + b"}", None),
    "a number": (b"42", Reason.SCHEMA),
    "null alone": (b"null", Reason.SCHEMA),
    "no bytes": (b"", Reason.EMPTY),
    "a tombstone": (None, Reason.EMPTY),
}
MANY = 10_000_000


def value_of(bad):
    return json.dumps(bad).encode() if isinstance(bad, dict) else bad


def log_of(n=400):
    rng = random.Random(11)
    events = []
    for i in range(n):
        x = {
            "a": rng.uniform(-1, 1),
            "b": rng.uniform(-1, 1),
            "n": float(rng.randrange(9)),
            "c": float(i % 2),
        }
        events.append((1e9 + i, x, x["a"] > 0))
    return fold.Log("bad", "binary", FEATURES, events)


def good_values(log):
    for number, (time, x, y) in enumerate(log.events):
        yield fold.wire(number, time, {**x, "n": int(x["n"]), "c": bool(x["c"])}, y)


def mixed():
    """Good events with every bad one among them, twice; the values, and where the bad ones are."""
    log = log_of()
    values, bad = [], {}
    names = [*BAD, *BAD]
    for number, value in enumerate(good_values(log)):
        values.append(value)
        if number % 5 == 4 and names:
            name = names.pop()
            bad[len(values)] = name
            values.append(value_of(BAD[name][0]))
    assert not names
    return log, values, bad


def assert_only_the_good(learner, settings, log, bad):
    """The model's state is that of a fold over the good events alone, as if nothing else had come."""
    clean = fold.fold(settings, list(good_values(log))).learner
    assert learner.events == clean.events == len(log.events)
    assert learner.metrics() == clean.metrics()
    skip = {"ledger", "lineage"}  # offsets differ, by the bad events in between
    here, there = fold.portrait(learner), fold.portrait(clean)
    assert {k: repr(v) for k, v in here.items() if k not in skip} == {
        k: repr(v) for k, v in there.items() if k not in skip
    }
    for _, x, _ in log.events[:50]:
        for one, other in zip(learner.mixture.members, clean.mixture.members, strict=True):
            assert one.ask(x) == other.ask(x)
    ledger = learner.ledger.partitions[0]
    assert (ledger.dead, ledger.learned, ledger.balanced()) == (len(bad), len(log.events), True)


@pytest.mark.parametrize("name", BAD)
def test_each_is_refused_with_its_reason(name):
    settings = fold.settings(log_of(1), "linear")
    value, reason = BAD[name]
    folded = fold.fold(settings, [value_of(value)])
    assert list(folded.dead) == [0]
    assert folded.dead[0] == reason or reason is None
    assert folded.learner.ledger.partitions[0].dead == 1


@pytest.mark.parametrize("factory", ["linear", "hoeffding", "adaptive"])
@pytest.mark.parametrize("policy", ["observe", "reweight"])
def test_the_model_is_unchanged_to_the_bit(factory, policy):
    log, values, bad = mixed()
    b = Bench(fold.Log("bad", "binary", FEATURES, []), factory, policy)
    b.append(values)
    running = b.run_to_the_end()
    assert_only_the_good(b.learner(), b.settings, log, bad)
    letters = {letter.offset: letter for letter in b.sink.letters}
    assert sorted(letters) == sorted(bad)
    for offset, name in bad.items():
        letter = letters[offset]
        assert (letter.topic, letter.partition, letter.value) == ("events", 0, values[offset])
        assert BAD[name][1] in {letter.reason, None}
        assert letter.message
        assert len(letter.message) < 1_000
    assert sum(running.worker.tally.dead_letters.values()) == len(bad)
    assert b.backing.score("bad") is None


def test_a_topic_of_nothing_but_bad_events_leaves_the_loop_alive():
    b = Bench(fold.Log("bad", "binary", FEATURES, []), "linear")
    b.append([value_of(value) for value, _ in BAD.values()] * 5)
    b.run_to_the_end()
    assert len(b.sink.letters) == 5 * len(BAD)
    assert b.learner().events == 0
    assert b.scores() == {}


def test_a_new_name_in_every_event_leaves_no_trace():
    """Ignored where the settings say so: neither learning nor scoring lets the state grow."""
    log = fold.Log("bad", "binary", FEATURES, [])
    log.schema["unknown"] = "ignore"
    settings = fold.settings(log, "linear")
    values = []
    for i in range(2_000):
        made = event({f"name{i}": 1.0})
        if i % 2:
            del made["label"]
        values.append(json.dumps(made).encode())
    learner = fold.fold(settings, values).learner
    model = learner.mixture.members[0].model
    assert set(model["StandardScaler"].counts) == set(FEATURES)
    assert set(model["LogisticRegression"].weights) <= set(FEATURES)


@pytest.mark.kafka
@pytest.mark.redis
@pytest.mark.timeout(180)
def test_through_a_real_kafka_ten_megabytes_included(tmp_path, kafka_broker, redis_server):
    log, values, bad = mixed()
    bad[len(values)] = "10 MB"
    noise = random.Random(1).randbytes(MANY // 2).hex()  # the broker's limit is on what is left of it, packed
    values.append(b'{"key":"' + noise.encode() + b'"}')
    bad[len(values)] = "10 MB that pack well"
    values.append(json.dumps(event({"a": [0.25] * 1_500_000})).encode())
    empty = fold.Log("bad", "binary", FEATURES, log.events)
    small = {"max_message_bytes": 1_000_000}
    with Service(tmp_path, kafka_broker, redis_server, empty, "linear", "reweight", letters=small) as service:
        service.produce(values)
        assert service.run_to_the_end(hash_seed=3) == 0
        assert_only_the_good(service.learner(), service.settings, log, bad)
        letters = {}
        for message in read_topic(kafka_broker, service.settings.dead_letter_topic):
            headers = dict(message.headers() or ())
            places = [v for n, v in headers.items() if n.endswith("offset")]
            letters[int(places[0])] = (message, headers)
        assert sorted(letters) == sorted(bad)
        for offset, (message, headers) in letters.items():
            told = b" ".join(v for v in headers.values() if v)
            assert service.topic.encode() in told
            if bad[offset] in BAD:
                assert message.value() == values[offset]
                reason = BAD[bad[offset]][1]
                assert reason is None or reason.encode() in told
            else:
                assert b"too_large" in told
                whole = bad[offset] != "10 MB"
                assert (
                    len(message.value()) == len(values[offset]) if whole else len(message.value()) < 1_000_000
                )
        keys = service.scores([f"e{i}" for i in range(len(log.events))])
        assert len(keys) == len(log.events)
        assert service.scores(["bad"]) == {}
