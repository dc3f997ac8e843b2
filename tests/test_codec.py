"""Bytes to events: what is accepted and as what, what is refused and in which words; and scores."""

import json
import math
import random

import msgspec
import pytest

from fluvial.codec import Codec, decode_score, encode_score
from fluvial.errors import BadEvent, Reason, SettingsError
from fluvial.schema import LIMIT, MAX_KEY_BYTES, FeatureSpec, Inference, LabelSpec, Schema
from fluvial.types import Event, Score, Task

BINARY = LabelSpec(Task.BINARY, classes=(False, True))


def feature(name, kind="number", path=None, **more):
    return FeatureSpec(name, kind, path or ("features", name), **more)


SCHEMA = Schema(
    features=(
        feature("amount"),
        feature("count", "integer", low=0, high=1_000),
        feature("vip", "boolean"),
        feature("country", "category", values=("de", "fr")),
        feature("city", "category", path=("geo", "city"), required=False),
        feature("age", required=False, default=40.0, low=0, high=150),
    ),
    label=BINARY,
    id=("id",),
    key=("user",),
    time=("ts",),
    time_unit="ms",
    weight=("weight",),
)
GOOD = {
    "id": "e1",
    "user": "u1",
    "ts": 1_700_000_000_500,
    "features": {"amount": 3, "count": 7, "vip": True, "country": "fr", "age": 20},
    "geo": {"city": "Ulm"},
    "label": True,
    "weight": 2,
}


def decode(value, schema=SCHEMA, key=b"k", timestamp=1_000):
    data = value if isinstance(value, bytes | None) else json.dumps(value).encode()
    return Codec(schema).decode(data, key, 3, 9, timestamp)


def refused(value, schema=SCHEMA, **more):
    with pytest.raises(BadEvent) as caught:
        decode(value, schema, **more)
    assert len(caught.value.message) < 700
    caught.value.message.encode()  # fit for a header
    return caught.value.reason, caught.value.message


def changed(**changes):
    """GOOD with some fields set; `None` in `features` too."""
    return GOOD | changes


def with_feature(name, value):
    return GOOD | {"features": GOOD["features"] | {name: value}}


def raw_amount(text):
    return json.dumps(GOOD).replace('"amount": 3', f'"amount": {text}').encode()


# What is accepted


def test_a_whole_event():
    event = decode(GOOD)
    assert event == Event(
        partition=3,
        offset=9,
        time=1_700_000_000.5,
        key="u1",
        x={"amount": 3.0, "count": 7.0, "vip": 1.0, "country": "fr", "city": "Ulm", "age": 20.0},
        y=True,
        weight=2.0,
        id="e1",
    )
    assert list(event.x) == ["amount", "count", "vip", "country", "city", "age"]
    assert [type(value) for value in event.x.values()] == [float, float, float, str, str, float]
    assert event.y is True


def test_key_order_and_white_space_do_not_matter():
    rng = random.Random(5)
    expected = decode(GOOD)
    for _ in range(50):
        shuffled = {k: _shuffled(GOOD[k], rng) for k in rng.sample(list(GOOD), len(GOOD))}
        event = decode(json.dumps(shuffled, indent=rng.choice([None, 1, "\t"])).encode() + b" \n")
        assert event == expected
        assert list(event.x) == list(expected.x)


def _shuffled(value, rng):
    return {k: value[k] for k in rng.sample(list(value), len(value))} if isinstance(value, dict) else value


@pytest.mark.parametrize("how", ["absent", "null"])
def test_optional_features_are_absent_or_their_default_in_schema_order(how):
    event = GOOD | {"features": GOOD["features"] | {"age": None}, "geo": {"city": None}}
    if how == "absent":
        del event["geo"], event["features"]["age"]
    assert decode(event).x == {"amount": 3.0, "count": 7.0, "vip": 1.0, "country": "fr", "age": 40.0}
    assert list(decode(event).x)[-1] == "age"


def test_a_null_object_is_an_absent_one_when_nothing_in_it_is_required():
    assert "city" not in decode(changed(geo=None)).x
    assert refused(changed(features=None))[0] == Reason.SCHEMA


def test_each_event_has_a_dict_of_its_own():
    codec = Codec(SCHEMA)
    data = json.dumps(GOOD).encode()
    first, second = (codec.decode(data, None, 0, n, 0) for n in (0, 1))
    first.x["amount"] = 0.0
    assert second.x["amount"] == 3.0


@pytest.mark.parametrize("label", [None, "absent"])
def test_without_a_label_an_event_is_scored_only(label):
    event = changed(label=None)
    if label == "absent":
        del event["label"]
    assert decode(event).y is None


@pytest.mark.parametrize(
    ("value", "seen"), [("3.0", 3.0), ("1e2", 100.0), ("-0", 0.0), ("0", 0.0), ("1000", 1000.0)]
)
def test_an_integer_may_be_written_with_a_point(value, seen):
    data = json.dumps(GOOD).replace('"count": 7', f'"count": {value}').encode()
    assert decode(data).x["count"] == seen


def test_the_last_of_duplicate_keys_wins():
    assert decode(raw_amount('1, "amount": 5')).x["amount"] == 5.0
    assert refused(raw_amount('"no", "amount": 5'))[0] == Reason.SCHEMA


def test_a_range_may_go_beyond_the_limit():
    schema = msgspec.structs.replace(
        SCHEMA, features=(feature("amount", low=0, high=1e308),), unknown="ignore"
    )
    assert decode(raw_amount("1e307"), schema).x["amount"] == 1e307
    assert refused(raw_amount("1.1e308"), schema)[0] == Reason.SCHEMA


def test_odd_names_are_only_names():
    names = ["", "a b", "ключ", "class", "f0", "x'); import os #", "{0}", "a`b", " - at `$.label`", "\\", '"']
    for name in names:
        schema = Schema(features=(feature(name, path=("odd", name)),), label=BINARY)
        if name in {"", "\\", '"'}:
            with pytest.raises(SettingsError, match="a name has"):
                Codec(schema)
            continue
        assert decode({"odd": {name: 1}, "label": False}, schema).x == {name: 1.0}
        assert refused({"odd": {name: "1"}, "label": False}, schema)[0] == Reason.SCHEMA


def test_a_key_from_kafka_or_from_a_field():
    by_kafka = msgspec.structs.replace(SCHEMA, key=None, unknown="ignore")
    assert decode(GOOD, by_kafka, key="ä".encode()).key == "ä"
    assert decode(GOOD, by_kafka, key=None).key is None
    assert decode(GOOD, by_kafka, key=b"").key is None
    assert decode(changed(user=-12)).key == "-12"
    assert decode(changed(id=10**30)).id == str(10**30)
    longest = "ä" * (MAX_KEY_BYTES // 2)
    assert decode(changed(user=longest)).key == longest
    assert decode(GOOD, by_kafka, key=longest.encode()).key == longest


@pytest.mark.parametrize(
    ("unit", "value", "seconds"),
    [
        ("s", 1_700_000_000.25, 1_700_000_000.25),
        ("s", -631_152_000, -631_152_000.0),
        ("ms", 1_700_000_000_250, 1_700_000_000.25),
        ("us", 1_700_000_000_250_000, 1_700_000_000.25),
        ("iso", "2023-11-14T22:13:20.25Z", 1_700_000_000.25),
        ("iso", "2023-11-14T23:13:20.25+01:00", 1_700_000_000.25),
        ("iso", "2023-11-14T22:13:20.25", 1_700_000_000.25),
    ],
)
def test_time_in_its_unit(unit, value, seconds, monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")  # a time without a zone is UTC wherever it is read
    assert decode(changed(ts=value), msgspec.structs.replace(SCHEMA, time_unit=unit)).time == seconds


def test_time_from_kafka():
    schema = msgspec.structs.replace(SCHEMA, time=None, unknown="ignore")
    assert decode(GOOD, schema, timestamp=1_500).time == 1.5
    for absurd in (-1, 2**62):
        assert refused(GOOD, schema, timestamp=absurd) == (
            Reason.SCHEMA,
            "message timestamp: missing or absurd; name the field of the time in schema.time",
        )


@pytest.mark.parametrize(
    ("task", "classes", "seen"),
    [
        (Task.BINARY, (False, True), {False: False, True: True}),
        (Task.BINARY, (True, False), {True: False, False: True}),
        (Task.BINARY, ("good", "bad"), {"good": False, "bad": True}),
        (Task.BINARY, (1, 0), {1: False, 0: True}),
        (Task.MULTICLASS, ("c", "a", "b"), {"c": 0, "a": 1, "b": 2}),
        (Task.MULTICLASS, (-5, 0, 7, 2**62), {-5: 0, 0: 1, 7: 2, 2**62: 3}),
        (Task.MULTICLASS, (True, False), {True: 0, False: 1}),
    ],
)
def test_classes_become_bools_or_indices_and_their_names_come_back(task, classes, seen):
    codec = Codec(msgspec.structs.replace(SCHEMA, label=LabelSpec(task, classes=classes)))
    for name, index in seen.items():
        event = codec.decode(json.dumps(changed(label=name)).encode(), None, 0, 0, 0)
        assert event.y == index
        assert type(event.y) is type(index)
        answer = tuple(0.5 if i == index else 0.25 for i in range(len(classes)))
        score = codec.score_of(event, answer, int(index), 4, "all", 1.5)
        assert score.prediction == name
        assert type(score.prediction) is type(name)
        text = encode_score(score)
        assert decode_score(text) == score
        assert type(decode_score(text).prediction) is type(name)
        assert score.probabilities[json.dumps(name).strip('"')] == 0.5
        assert list(score.probabilities) == [json.dumps(c).strip('"') for c in classes]


# What is refused


@pytest.mark.parametrize(
    "text", ["NaN", "Infinity", "-Infinity", "nan", "+1", "01", "1.", ".5", "0x10", "'1'", ""]
)
def test_what_is_not_json_is_malformed(text):
    reason, message = refused(raw_amount(text))
    assert reason == Reason.MALFORMED
    assert "byte" in message


@pytest.mark.parametrize(
    "text", ["1e999", "-1e999", "1e308", "-1e101", "1" + "0" * 400, "1" + "0" * 5_000, "-1" + "0" * 200]
)
def test_numbers_that_would_poison_a_model(text):
    reason, message = refused(raw_amount(text))
    assert reason == Reason.SCHEMA
    assert message.startswith("$.features.amount: ")
    assert len(message) < 250


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, Reason.EMPTY),
        (b"", Reason.EMPTY),
        (b"  ", Reason.MALFORMED),
        (b"\xef\xbb\xbf" + json.dumps(GOOD).encode(), Reason.MALFORMED),
        (json.dumps(GOOD).encode()[:-1], Reason.MALFORMED),
        (json.dumps(GOOD).encode() + b"}", Reason.MALFORMED),
        (json.dumps(GOOD).encode() * 2, Reason.MALFORMED),
        (json.dumps(GOOD).encode("utf-16"), Reason.MALFORMED),
        (b'{"user": "\xff"}', Reason.MALFORMED),
        (b'{"user": "\xed\xa0\x80"}', Reason.MALFORMED),
        (b'{"user": "\\ud800"}', Reason.MALFORMED),
        (b'{"user": "\\udc00\\ud800"}', Reason.MALFORMED),
        (b'{"user": "a\nb"}', Reason.MALFORMED),
        (b"[" * 100_000, Reason.SCHEMA),
        (b'{"features":' * 80_000, Reason.SCHEMA),
        (b"[]", Reason.SCHEMA),
        (b"null", Reason.SCHEMA),
        (b"1", Reason.SCHEMA),
        (b"{}", Reason.SCHEMA),
        (b"\x00\x00\x00\x00\x05binary", Reason.MALFORMED),
        (b" " * 1_000_001, Reason.TOO_LARGE),
        (b"x" * 10_000_000, Reason.TOO_LARGE),
    ],
)
def test_bytes_that_are_no_event(value, reason):
    assert refused(value)[0] == reason


def test_size_is_compared_with_the_settings():
    data = json.dumps(GOOD).encode()
    decode(data, msgspec.structs.replace(SCHEMA, max_bytes=len(data)))
    small = msgspec.structs.replace(SCHEMA, max_bytes=len(data) - 1)
    assert refused(data, small) == (
        Reason.TOO_LARGE,
        f"{len(data)} bytes, schema.max_bytes is {len(data) - 1}",
    )


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (with_feature("amount", "3"), "$.features.amount: expected number, got string"),
        (with_feature("amount", True), "$.features.amount: expected number, got boolean"),
        (with_feature("amount", None), "$.features.amount: expected number, got null"),
        (with_feature("amount", [1]), "$.features.amount: expected number, got array"),
        (with_feature("count", 1.5), "$.features.count: expected integer"),
        (with_feature("count", 1_001), "$.features.count: expected number <= 1000.0"),
        (with_feature("count", -1), "$.features.count: expected number >= 0.0"),
        (with_feature("vip", 1), "$.features.vip: expected boolean, got integer"),
        (with_feature("vip", "true"), "$.features.vip: expected boolean, got string"),
        (with_feature("country", "uk"), "$.features.country: not in the declared set: 'uk'"),
        (with_feature("country", 1), "$.features.country: expected string, got integer"),
        (with_feature("age", 151), "$.features.age: expected number <= 150.0"),
        (with_feature("new", 1), "$.features: unknown field 'new'"),
        (changed(extra=1), "$: unknown field 'extra'"),
        (changed(geo={"city": "x" * 257}), "$.geo.city: expected string of length <= 256"),
        (changed(geo=7), "$.geo: expected object | null, got integer"),
        (changed(user=None), "$.user: expected integer | string, got null"),
        (changed(user=1.5), "$.user: expected integer | string, got number"),
        (changed(user=""), "$.user: expected string of length >= 1"),
        (changed(user="x" * 513), "$.user: longer than 512 bytes"),
        (changed(user="ä" * 257), "$.user: longer than 512 bytes"),
        (changed(id=True), "$.id: expected integer | string, got boolean"),
        (changed(ts="now"), "$.ts: expected number, got string"),
        (changed(ts=1e18), "$.ts: expected number <= 253402300799000.0"),
        (changed(ts=-1e18), "$.ts: expected number >= -2208988800000.0"),
        (changed(weight=0), "$.weight: expected number >= 1e-06"),
        (changed(weight=-1), "$.weight: expected number >= 1e-06"),
        (changed(weight=5e-324), "$.weight: expected number >= 1e-06"),
        (changed(weight=1e7), "$.weight: expected number <= 1000000.0"),
        (changed(weight="1"), "$.weight: expected number | null, got string"),
        ({k: v for k, v in GOOD.items() if k != "ts"}, "$.ts: missing"),
        ({k: v for k, v in GOOD.items() if k != "user"}, "$.user: missing"),
        ({k: v for k, v in GOOD.items() if k != "features"}, "$.features: missing"),
        (changed(features={"amount": 1}), "$.features.count: missing"),
    ],
)
def test_what_breaks_the_schema_is_said_with_its_place(event, message):
    assert refused(event) == (Reason.SCHEMA, message)


@pytest.mark.parametrize(
    ("label", "wrong"),
    [
        (BINARY, [0, 1, 1.0, "true", [True], {}, 2]),
        (LabelSpec(Task.BINARY, classes=(0, 1)), [True, False, 2, 1.0, "1", 10**30, 1e999]),
        (LabelSpec(Task.MULTICLASS, classes=("a", "b", "c")), ["A", "", "d" * 9_999, 0, True, ["a"]]),
        (LabelSpec(Task.REGRESSION), [True, "1", 1e101, [1]]),
        (LabelSpec(Task.REGRESSION, low=0, high=10), [-0.1, 10.1]),
    ],
)
def test_a_label_outside_the_set(label, wrong):
    schema = msgspec.structs.replace(SCHEMA, label=label)
    for value in wrong:
        text = json.dumps(changed(label=value)).replace("Infinity", "1e999")
        reason, message = refused(text.encode(), schema)
        assert reason == Reason.LABEL
        assert message.startswith("$.label: ")
        assert len(message) < 250


def test_an_unknown_field_that_looks_like_a_label_fault_is_none():
    assert refused(changed(**{"x` - at `$.label": 1}))[0] == Reason.SCHEMA


def test_bad_kafka_keys():
    schema = msgspec.structs.replace(SCHEMA, key=None, unknown="ignore")
    for key in (b"\xff", b"x" * (MAX_KEY_BYTES + 1)):
        assert refused(GOOD, schema, key=key)[0] == Reason.SCHEMA
    assert decode(GOOD, key=b"\xff").key == "u1"  # not asked for


@pytest.mark.parametrize(
    "value", ["0001-01-01T00:00:00+23:00", "1899-12-31T00:00:00Z", "2024-01-01", "soon", 5]
)
def test_absurd_iso_times(value):
    assert refused(changed(ts=value), msgspec.structs.replace(SCHEMA, time_unit="iso"))[0] == Reason.SCHEMA


def test_the_end_of_time_in_any_zone_is_no_crash():
    schema = msgspec.structs.replace(SCHEMA, time_unit="iso")
    assert refused(changed(ts="9999-12-31T23:59:59-23:00"), schema)[0] == Reason.SCHEMA


def test_ignored_fields_may_hold_anything_that_is_json():
    schema = msgspec.structs.replace(SCHEMA, unknown="ignore")
    assert decode(changed(more={"deep": [[{"x": [None, 1e300, "é"]}]]}), schema) == decode(GOOD)
    assert refused(raw_amount('3, "z": NaN'), schema)[0] == Reason.MALFORMED


def test_depth_is_limited_to_the_same_depth_from_any_stack():
    schema = msgspec.structs.replace(SCHEMA, unknown="ignore")

    def nested(depth, opening=b"[", closing=b"]"):
        body = opening * depth + b"1" + closing * depth
        return json.dumps(GOOD).encode()[:-1] + b', "more": ' + body + b', "text": "' + b"[{" * 500 + b'"}'

    def from_depth(stack, value):
        return decode(value, schema) if stack == 0 else from_depth(stack - 1, value)

    for stack in (0, 400):
        assert from_depth(stack, nested(255)) == decode(GOOD)
        for value in (nested(256), nested(100_000), nested(1_000, b'{"a":', b"}"), b'{"q":' + b"[" * 99_999):
            with pytest.raises(BadEvent) as caught:
                from_depth(stack, value)
            assert caught.value.reason == Reason.MALFORMED


# Inference

INFER = Schema(features=(), label=BINARY, infer=Inference(events=3, max_features=4), unknown="ignore")


def flow(codec, *features, label=True):
    return [
        codec.decode(json.dumps({"features": f, "label": label}).encode(), None, 0, 0, 0) for f in features
    ]


def test_features_are_inferred_in_first_seen_order_and_then_fixed():
    codec = Codec(INFER)
    events = flow(
        codec,
        {"b": 1, "a": True, "nested": {"x": 1}, "none": None},
        {"z": "s", "b": 2.5},
        {"list": [1], "c": 3, "d": 4},
        {"d": 5, "late": 6, "z": "t", "a": None, "b": 1},
        {"z": "u"},
    )
    assert [f.name for f in codec.features] == ["a", "b", "z", "c"]
    assert [f.type for f in codec.features] == ["boolean", "number", "category", "number"]
    assert [event.x for event in events] == [
        {"a": 1.0, "b": 1.0},
        {"b": 2.5, "z": "s"},
        {"c": 3.0},
        {"b": 1.0, "z": "t"},
        {"z": "u"},
    ]
    assert list(events[1].x) == ["b", "z"]
    assert codec.state() == {
        "features": [["a", "boolean"], ["b", "number"], ["z", "category"], ["c", "number"]],
        "events": 3,
        "ignored": 3,
    }


@pytest.mark.parametrize("stop", range(6))
def test_a_resumed_inference_goes_on_as_an_undisturbed_one(stop):
    rows = [{"b": 1}, {"a": "x", "b": 2}, {"c": True}, {"d": 1, "b": 3}, {"a": "y", "c": False}, {"e": 1}]
    whole = Codec(INFER)
    expected = flow(whole, *rows)
    first = Codec(INFER)
    before = flow(first, *rows[:stop])
    second = Codec(INFER, json.loads(json.dumps(first.state())))
    assert before + flow(second, *rows[stop:]) == expected
    assert second.state() == whole.state()
    assert second.features == whole.features


@pytest.mark.parametrize("fixed", [False, True])
def test_bad_events_change_nothing_in_the_inference(fixed):
    codec = Codec(INFER)
    flow(codec, *[{"a": 1.5, "b": True, "c": "x"}] * (3 if fixed else 1))
    before = codec.state()
    bad = [
        {"features": {"a": "1", "new": 1}, "label": True},
        {"features": {"a": True, "new": 1}, "label": True},
        {"features": {"b": 1, "new": 1}, "label": True},
        {"features": {"c": 2, "new": 1}, "label": True},
        {"features": {"a": [1], "new": 1}, "label": True},
        {"features": {"a": 1e308, "new": 1}, "label": True},
        {"features": {"a": 10**400, "new": 1}, "label": True},
        {"features": {"c": "x" * 257, "new": 1}, "label": True},
        {"features": {"new": 1}, "label": "true"},
        {"features": [1], "label": True},
        {"features": None, "label": True},
        {"label": True},
    ]
    for event in bad:
        with pytest.raises(BadEvent):
            codec.decode(json.dumps(event).encode(), None, 0, 0, 0)
    for text in (b'{"features":{"new":1e999},"label":true}', b'{"features":{"new":NaN},"label":true}'):
        if not fixed:
            with pytest.raises(BadEvent):
                codec.decode(text, None, 0, 0, 0)
    assert codec.state() == before


def test_a_flood_of_names_stays_bounded():
    codec = Codec(INFER)
    flow(codec, {f"n{number}": number for number in range(100_000 // 4)})
    flow(codec, *[{f"m{number}": 1} for number in range(200)])
    assert len(codec.state()["features"]) == 4
    assert codec.state()["ignored"] == 201


def test_unusable_names_are_ignored_and_counted():
    codec = Codec(INFER)
    events = flow(
        codec,
        {'a"b': 1, "ok": 1, "x" * 200: 1, "": 1, "\\": 1, "t\tb": 1},
        {"ok": 2},
        {"ok": 3},
        {'a"b': 1, "ok": 4},
    )
    assert [event.x for event in events] == [{"ok": float(n)} for n in range(1, 5)]
    assert codec.state()["ignored"] == 2


@pytest.mark.parametrize("unknown", ["refuse", "ignore"])
def test_a_flat_event_is_inferred_less_its_declared_fields(unknown):
    schema = Schema(
        features=(), label=LabelSpec(Task.BINARY, ("meta", "label"), (0, 1)), key=("user",),
        infer=Inference(events=2, path=()), unknown=unknown,
    )  # fmt: skip
    codec = Codec(schema)
    rows = [{"user": "u", "amount": n, "meta": {"label": 1}, "kind": "k"} for n in range(3)]
    rows.append(rows[0] | {"more": 1})
    events = [codec.decode(json.dumps(row).encode(), None, 0, 0, 0) for row in rows]
    assert [event.x["amount"] for event in events] == [0.0, 1.0, 2.0, 0.0]
    assert [f.name for f in codec.features] == ["amount", "kind"]
    assert codec.state()["ignored"] == 1


def test_unknown_fields_beside_the_features_follow_the_settings():
    data = b'{"features":{"a":1},"label":true,"other":1}'
    for events in (1, 5):
        codec = Codec(msgspec.structs.replace(INFER, infer=Inference(events=events)))
        codec.decode(data, None, 0, 0, 0)
        codec.decode(data, None, 0, 0, 0)
        assert codec.state()["ignored"] == 0
        strict = Codec(msgspec.structs.replace(INFER, infer=Inference(events=events), unknown="refuse"))
        flow(strict, {"a": 1})
        with pytest.raises(BadEvent):
            strict.decode(data, None, 0, 0, 0)


def test_a_kept_reference_to_decode_follows_the_fixing():
    codec = Codec(INFER)
    kept = codec.decode
    flow(codec, {"a": 1}, {"a": 1}, {"a": 1})
    assert kept(b'{"features":{"a":2,"b":3},"label":null}', None, 0, 0, 0).x == {"a": 2.0}


def test_without_inference_there_is_no_state():
    assert Codec(SCHEMA).state() is None
    assert Codec(SCHEMA).features == SCHEMA.features


# Contracts that cannot be kept


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"features": ()}, "schema.features: empty"),
        ({"infer": Inference()}, "schema.infer: cannot stand beside"),
        ({"features": (feature("a"), feature("a", path=("b",)))}, "schema.features.a: declared twice"),
        ({"features": (feature("a"), feature("b", path=("features", "a")))}, "is, contains or lies inside"),
        (
            {"features": (feature("a"), feature("b", path=("features", "a", "c")))},
            "is, contains or lies inside",
        ),
        (
            {"features": (feature("b", path=("a", "b")), feature("a", path=("a",)))},
            "is, contains or lies inside",
        ),
        (
            {"features": (feature("b", path=("a", "b")), feature("a", path=("a.b",)))},
            "is, contains or lies inside",
        ),
        ({"features": (feature("a", path=("label",)),)}, "that of schema.features.a"),
        ({"features": (feature("a", low=1, high=0),)}, "schema.features.a.range"),
        ({"features": (feature("a", high=math.inf),)}, "schema.features.a.range"),
        ({"features": (feature("a", high=math.nan),)}, "schema.features.a.range"),
        ({"features": (feature("a", "boolean", low=0),)}, "schema.features.a.range: only numbers"),
        ({"features": (feature("a", values=("x",)),)}, "schema.features.a.values: only a category"),
        ({"features": (feature("a", "category", values=("x", "x")),)}, "listed twice"),
        ({"features": (feature("a", default=1.0),)}, "a required feature has none"),
        ({"features": (feature("a", default="x", required=False),)}, "default: is not a number"),
        (
            {"features": (feature("a", "category", default=1.0, required=False),)},
            "default: is not a category",
        ),
        (
            {"features": (feature("a", "category", values=("x",), default="y", required=False),)},
            "'y' is not among schema.features.a.values",
        ),
        ({"features": (feature("a", default=2.0, high=1, required=False),)}, "outside the range"),
        ({"features": (feature("a", default=math.nan, required=False),)}, "outside the range"),
        ({"features": (feature("a", "integer", default=1.5, required=False),)}, "not an integer"),
        ({"features": (feature("a", "boolean", default=2.0, required=False),)}, "is not a boolean"),
        ({"features": tuple(feature(f"f{n}") for n in range(10_001))}, "at most 10000"),
        ({"label": LabelSpec(Task.BINARY)}, "schema.label.classes: binary needs two"),
        ({"label": LabelSpec(Task.BINARY, classes=("a", "b", "c"))}, "binary needs two"),
        ({"label": LabelSpec(Task.MULTICLASS, classes=("a",))}, "multiclass needs 2"),
        ({"label": LabelSpec(Task.MULTICLASS, classes=tuple(range(1_001)))}, "multiclass needs 2 to 1000"),
        ({"label": LabelSpec(Task.MULTICLASS, classes=("a", "b", "a"))}, "listed twice"),
        ({"label": LabelSpec(Task.MULTICLASS, classes=(True, 1))}, "all must be strings"),
        ({"label": LabelSpec(Task.MULTICLASS, classes=("1", 1))}, "all must be strings"),
        ({"label": LabelSpec(Task.MULTICLASS, classes=(2**63, 1))}, "64 bits"),
        ({"label": LabelSpec(Task.MULTICLASS, classes=("", "a"))}, "1 to 256"),
        ({"label": LabelSpec(Task.REGRESSION, classes=(1, 2))}, "regression has none"),
        ({"label": LabelSpec(Task.BINARY, classes=(0, 1), low=0)}, "schema.label.range"),
        ({"label": LabelSpec(Task.BINARY, (), (0, 1))}, "schema.label.path: the path is empty"),
        ({"weight": ("user",)}, "schema.weight: its path"),
        ({"max_bytes": 0}, "schema.max_bytes"),
    ],
)
def test_a_contract_that_cannot_be_kept(change, said):
    with pytest.raises(SettingsError) as caught:
        Codec(msgspec.structs.replace(SCHEMA, **change))
    assert said in str(caught.value)
    assert str(caught.value).startswith("schema.")


def test_inference_inside_a_declared_field():
    with pytest.raises(SettingsError, match="lies inside the path of schema"):
        Codec(msgspec.structs.replace(INFER, key=("features",)))


def test_ten_thousand_features_and_a_thousand_classes():
    names = [f"f{n}" for n in range(10_000)]
    classes = tuple(f"c{n}" for n in range(1_000))
    schema = Schema(tuple(map(feature, names)), LabelSpec(Task.MULTICLASS, classes=classes))
    event = decode({"features": dict.fromkeys(reversed(names), 1), "label": "c999"}, schema)
    assert list(event.x) == names
    assert event.y == 999


def test_the_limit_leaves_room_for_squares():
    assert math.isfinite(LIMIT**2)


# Scores


def test_a_regression_score():
    codec = Codec(msgspec.structs.replace(SCHEMA, label=LabelSpec(Task.REGRESSION)))
    event = codec.decode(json.dumps(changed(label=7)).encode(), None, 1, 5, 0)
    assert event.y == 7.0
    score = codec.score_of(event, (6.0,), 0, 2, "all", 3.25)
    assert score == Score(6.0, 2, "all", 1, 5, event.time, 3.25)
    assert json.loads(encode_score(score)) == {
        "prediction": 6.0, "version": 2, "shard": "all", "partition": 1, "offset": 5,
        "event_time": event.time, "made_at": 3.25,
    }  # fmt: skip
    assert type(decode_score(encode_score(score)).prediction) is float


def test_an_answer_of_another_length_is_no_score():
    codec = Codec(msgspec.structs.replace(SCHEMA, label=LabelSpec(Task.MULTICLASS, classes=("a", "b", "c"))))
    with pytest.raises(ValueError, match="zip"):
        codec.score_of(decode(changed(label=None)), (0.5, 0.5), 0, 0, "all", 0.0)


@pytest.mark.parametrize("text", [b"", b"{}", b"[1]", b'{"prediction": null}'])
def test_what_is_no_score(text):
    with pytest.raises(msgspec.DecodeError):
        decode_score(text)
