"""Whatever the schema and whatever the bytes: an Event that keeps the contract, or BadEvent."""

import json
import math
from typing import Annotated

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fluvial.codec import Codec, compiled
from fluvial.errors import BadEvent, Reason
from fluvial.schema import LIMIT, MAX_CATEGORY, MAX_KEY_BYTES, FeatureSpec, Inference, LabelSpec, Schema
from fluvial.types import Event, Task

usual = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],  # a schema is compiled per example: shrinking takes minutes
)

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
names = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters='"\\.'), min_size=1, max_size=8
)
numbers = st.floats(-LIMIT, LIMIT) | st.integers(-(10**20), 10**20)
NASTY = [
    None, True, False, 0, 1, -1, 1.5, 2**63, 10**400, 1e100, 1.01e100, 1e308, -1e308,
    math.nan, math.inf, -math.inf, [], [1], {}, {"a": {}}, [[[[]]]], [None] * 50,
    "", "1", "true", "NaN", "x" * 257, "\x00", "\ud800", "ä" * 300, "\u2028",
]  # fmt: skip


@st.composite
def schemas(draw):
    places = draw(st.lists(names, min_size=12, max_size=12, unique=True))
    outer, *places = places
    features = []
    for name in places[: draw(st.integers(1, 7))]:
        kind = draw(st.sampled_from(["number", "integer", "boolean", "category"]))
        low, high = sorted(draw(st.tuples(st.integers(-100, 0), st.integers(1, 100))))
        bounded = kind in {"number", "integer"} and draw(st.booleans())
        values = ("p", "q", "ü") if kind == "category" and draw(st.booleans()) else ()
        required = draw(st.booleans())
        default = None if required or draw(st.booleans()) else ("q" if kind == "category" else 1.0)
        path = (
            (outer, name)
            if draw(st.booleans())
            else ("deep", outer, name)
            if draw(st.booleans())
            else (name,)
        )
        limits = {"low": float(low), "high": float(high)} if bounded else {}
        features.append(FeatureSpec(name, kind, path, required, default, values=values, **limits))
    label = draw(
        st.sampled_from(
            [
                LabelSpec(Task.BINARY, ("answer",), (False, True)),
                LabelSpec(Task.BINARY, ("answer",), ("no", "yes")),
                LabelSpec(Task.MULTICLASS, ("deep", "answer"), (3, 1, 2)),
                LabelSpec(Task.MULTICLASS, ("answer",), ("a", "b", "c", "d", "e")),
                LabelSpec(Task.REGRESSION, ("answer",), (), -5.0, 5.0),
            ]
        )
    )
    return Schema(
        tuple(features),
        label,
        id=("the id",) if draw(st.booleans()) else None,
        key=("deep", "key") if draw(st.booleans()) else None,
        time=("time",) if draw(st.booleans()) else None,
        weight=("weight",) if draw(st.booleans()) else None,
        unknown=draw(st.sampled_from(["refuse", "ignore"])),
    )


def value_for(spec):
    if spec.type == "boolean":
        return st.booleans()
    if spec.type == "category":
        return st.sampled_from(spec.values) if spec.values else text
    if spec.low > -LIMIT:
        whole = st.integers(int(spec.low), int(spec.high))
        return whole if spec.type == "integer" else whole | st.floats(spec.low, spec.high)
    return st.integers(-(10**20), 10**20) if spec.type == "integer" else numbers


@st.composite
def events(draw, schema):
    """A valid event, and the x and label that it must become."""
    event, x = {}, {}
    for spec in schema.features:
        how = "given" if spec.required else draw(st.sampled_from(["given", "null", "absent"]))
        if how == "given":
            value = draw(value_for(spec))
            put(event, spec.path, value)
            x[spec.name] = value if isinstance(value, str) else float(value)
        else:
            if how == "null":
                put(event, spec.path, None)
            if spec.default is not None:
                x[spec.name] = spec.default
    classes = schema.label.classes
    label = draw(st.none() | (st.sampled_from(classes) if classes else st.floats(-5, 5)))
    put(event, schema.label.path, label)
    index = None if label is None or not classes else classes.index(label)
    y = label if not classes else bool(index) if len(classes) == 2 and index is not None else index
    for path, values in (
        (schema.id, st.integers() | text.filter(bool)),
        (schema.key, st.integers() | text.filter(bool)),
        (schema.time, st.floats(-2e9, 2e11)),
        (schema.weight, st.floats(1e-6, 1e6)),
    ):
        if path is not None:
            put(event, path, draw(values))
    if schema.unknown == "ignore":
        event["undeclared"] = draw(
            st.recursive(st.none() | numbers | text, lambda inner: st.lists(inner, max_size=3))
        )
    return event, x, y


def put(event, path, value):
    for part in path[:-1]:
        event = event.setdefault(part, {})
    event[path[-1]] = value


@st.composite
def valid(draw):
    schema = draw(schemas())
    return (schema, *draw(events(schema)))


def shuffled(draw, value):
    if not isinstance(value, dict):
        return value
    return {name: shuffled(draw, value[name]) for name in draw(st.permutations(list(value)))}


def decode(schema, data, key=b"k"):
    return Codec(schema).decode(data, key, 1, 2, 3_000)


def keeps_the_contract(event: Event, schema: Schema):
    assert (event.partition, event.offset) == (1, 2)
    assert type(event.time) is float
    assert -2_208_988_800 <= event.time <= 253_402_300_799
    for name in (event.key, event.id):
        assert name is None or (type(name) is str and 0 < len(name.encode()) <= MAX_KEY_BYTES)
    assert list(event.x) == [spec.name for spec in schema.features if spec.name in event.x]
    for spec in schema.features:
        if spec.name not in event.x:
            assert not spec.required
            assert spec.default is None
            continue
        value = event.x[spec.name]
        if spec.type == "category":
            assert type(value) is str
            assert value in spec.values if spec.values else len(value) <= MAX_CATEGORY
            value.encode()
            continue
        assert type(value) is float
        assert spec.low <= value <= spec.high
        assert spec.type != "integer" or value.is_integer()
        assert spec.type != "boolean" or value in {0.0, 1.0}
    label = schema.label
    if event.y is not None:
        match label.task:
            case Task.BINARY:
                assert type(event.y) is bool
            case Task.MULTICLASS:
                assert type(event.y) is int
                assert 0 <= event.y < len(label.classes)
            case Task.REGRESSION:
                assert type(event.y) is float
                assert label.low <= event.y <= label.high
    assert type(event.weight) is float
    assert 0 < event.weight <= 1e6


def event_or_refusal(schema, data):
    try:
        event = decode(schema, data)
    except BadEvent as refusal:
        is_fit_to_print(refusal)
    else:
        keeps_the_contract(event, schema)


def is_fit_to_print(bad):
    assert bad.reason in set(Reason) - {Reason.MODEL}
    assert len(bad.message) <= 420
    assert bad.message.isprintable()
    bad.message.encode()


@usual
@given(valid(), st.data())
def test_a_valid_event_becomes_what_it_says_in_any_key_order(made, data):
    schema, event, x, y = made
    first = decode(schema, json.dumps(event).encode())
    keeps_the_contract(first, schema)
    assert first.x == x
    assert first.y == y
    mixed = json.dumps(
        shuffled(data.draw, event), ensure_ascii=False, indent=data.draw(st.sampled_from([None, 2]))
    )
    second = decode(schema, mixed.encode())
    assert second == first
    assert list(second.x) == list(first.x)


def places(value, path=()):
    yield path
    if isinstance(value, dict):
        for name in value:
            yield from places(value[name], (*path, name))


@st.composite
def tampered(draw):
    """A valid event with one value replaced by something nasty, or one member added, removed or doubled."""
    schema, event, _, _ = draw(valid())
    path = draw(st.sampled_from(list(places(event))))
    nasty = draw(st.sampled_from(NASTY))
    if not path:
        event = draw(st.sampled_from([nasty, {**event, "surplus": nasty}]))
    else:
        inner = event
        for part in path[:-1]:
            inner = inner[part]
        if draw(st.integers(0, 4)) == 0:
            del inner[path[-1]]
        else:
            inner[path[-1]] = nasty
    written = json.dumps(event)
    return schema, draw(st.sampled_from([written, written.replace("Infinity", "1e999")])).encode()


@st.composite
def damaged(draw):
    """A valid event's bytes with a few of them cut, changed, doubled or moved."""
    schema, event, _, _ = draw(valid())
    data = bytearray(json.dumps(event, ensure_ascii=draw(st.booleans())).encode())
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        what = draw(st.sampled_from(["cut", "change", "insert", "truncate", "double"]))
        if what == "cut":
            del data[at : at + draw(st.integers(1, 4))]
        elif what == "change":
            data[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
        elif what == "insert":
            data[at:at] = draw(
                st.binary(max_size=4) | st.sampled_from([b"NaN", b"[" * 400, b"\\ud800", b"-", b"e9", b'"'])
            )
        elif what == "truncate":
            del data[at:]
        else:
            data[at:at] = data[at : at + draw(st.integers(1, 40))]
    return schema, bytes(data)


@usual
@given(tampered())
def test_a_tampered_event_keeps_the_contract_or_is_refused(made):
    event_or_refusal(*made)


@usual
@given(damaged())
def test_damaged_bytes_keep_the_contract_or_are_refused(made):
    event_or_refusal(*made)


@usual
@given(schemas(), st.binary(max_size=60), st.binary(max_size=8) | st.none())
def test_any_bytes_at_all(schema, data, key):
    with pytest.raises(BadEvent):
        decode(schema, data, key)


scalars = st.none() | st.booleans() | numbers | text | st.just([1]) | st.sampled_from([1e308, 10**400])
rows = st.lists(st.dictionaries(st.sampled_from("abcdef") | names, scalars, max_size=5), max_size=14)


@usual
@given(rows, st.integers(1, 6), st.integers(1, 5), st.integers(0, 14), st.data())
def test_inference_resumes_anywhere_in_any_key_order(found, events_needed, most, stop, data):
    schema = Schema((), LabelSpec(Task.REGRESSION), infer=Inference(events_needed, most))

    def run(codec, part, *, mix):
        out = []
        for features in part:
            event = {"features": shuffled(data.draw, features) if mix else features, "label": 1}
            try:
                out.append(codec.decode(json.dumps(event).encode(), None, 1, 2, 3_000))
            except BadEvent as bad:
                out.append(bad.reason)
            else:
                keeps_the_contract(out[-1], msgspec.structs.replace(schema, features=codec.features))
        return out

    whole = Codec(schema)
    expected = run(whole, found, mix=False)
    first = Codec(schema)
    before = run(first, found[:stop], mix=True)
    second = Codec(schema, json.loads(json.dumps(first.state())))
    after = run(second, found[stop:], mix=True)
    assert before + after == expected
    assert [list(e.x) for e in before + after if isinstance(e, Event)] == [
        list(e.x) for e in expected if isinstance(e, Event)
    ]
    assert second.state() == whole.state()
    assert len(whole.features) <= most


# The properties bite: each codec, broken on purpose, fails one of them.


def without_ranges(feature):
    return float if feature.type in {"number", "integer"} else sound_feature(feature)


def without_sets(feature):
    return str if feature.type == "category" else sound_feature(feature)


sound_feature, sound_label, sound_source = (
    compiled._feature_type,
    compiled._label_type,
    compiled._Source._features,
)


@pytest.mark.parametrize(
    ("where", "name", "broken"),
    [
        (compiled, "_feature_type", without_ranges),
        (compiled, "_feature_type", without_sets),
        (compiled, "_feature_type", lambda feature: Annotated[str | float | bool, msgspec.Meta()]),
        (compiled, "_label_type", lambda label: str | float | bool),
        (compiled, "_time_type", lambda unit: float),
        (compiled, "MAX_WEIGHT", 1e300),
        (compiled, "MAX_KEY_BYTES", 10**6),
        (compiled._Source, "_features", lambda self: [*sound_source(self), "x = dict(reversed(x.items()))"]),
        (compiled._Source, "_weight", lambda self: [f"weight = {self.where[self.schema.weight]}"]
            if self.schema.weight else ["weight = 1.0"]),
        (compiled._Source, "_label", lambda self: [f"y = {self.where[self.schema.label.path]}"]),
    ],
)  # fmt: skip
def test_a_broken_codec_fails_a_property(monkeypatch, where, name, broken):
    """Every nasty value in every place: what Hypothesis draws depends on the literals of loaded modules."""
    monkeypatch.setattr(where, name, broken)
    few = settings(usual, max_examples=60, report_multiple_bugs=False, print_blob=False)
    with pytest.raises(Exception) as caught:  # noqa: PT011 -- an assertion, or what should have been BadEvent
        few(given(valid())(_holds_everywhere))()
    assert not isinstance(caught.value, BadEvent) or "$" in caught.value.message


def _holds_everywhere(made):
    schema, event, x, _ = made
    codec = Codec(schema)
    sound = codec.decode(json.dumps(event).encode(), b"k", 1, 2, 3_000)
    assert sound.x == x
    keeps_the_contract(sound, schema)
    for data in every_tampering(event):
        try:
            decoded = codec.decode(data, b"k", 1, 2, 3_000)
        except BadEvent as refusal:
            is_fit_to_print(refusal)
        else:
            keeps_the_contract(decoded, schema)


def every_tampering(event):
    for path in places(event):
        for nasty in NASTY if path else ():
            copy = json.loads(json.dumps(event))
            put(copy, path, nasty)
            yield json.dumps(copy).encode()


@settings(usual, max_examples=30)
@given(valid())
def test_every_nasty_value_in_every_place(made):
    _holds_everywhere(made)
