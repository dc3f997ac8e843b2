"""Settings: what loads, what is refused with its path, and that no secret ever shows."""

import json
import logging
import tomllib
import traceback
from pathlib import Path

import msgspec
import pytest

import fluvial.config
from fluvial.codec import Codec, decode_score
from fluvial.config import (
    OWNED_PROPERTIES,
    KafkaSettings,
    Secret,
    describe,
    fingerprint,
    json_schema,
    load,
    parse,
    shown_url,
)
from fluvial.config.loading import known_paths
from fluvial.errors import SettingsError
from fluvial.schema import LIMIT, FeatureSpec, Inference, LabelSpec, Schema
from fluvial.types import Task

HIDDEN = "hunter2-tr0ub4dor"

START = """
service = "churn"
[kafka]
bootstrap_servers = "localhost:9092"
topic = "clicks"
[schema]
infer = true
label = "binary"
[model]
preset = "auto"
"""


@pytest.fixture
def write(tmp_path):
    def write(text=START, name="fluvial.toml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def table(**sections):
    """The smallest table, with sections merged over it; None removes one."""
    start = {
        "service": "churn",
        "kafka": {"bootstrap_servers": "localhost:9092", "topic": "clicks"},
        "schema": {"infer": True, "label": "binary"},
        "model": {"preset": "auto"},
    }
    for name, part in sections.items():
        if part is None:
            del start[name]
        else:
            start[name] = start.get(name, {}) | part if isinstance(part, dict) else part
    return start


def schema(**parts):
    return parse(table() | {"schema": {"label": "binary", "features": {"a": "number"}} | parts}).schema


def fault(make, *arguments):
    with pytest.raises(SettingsError) as caught:
        make(*arguments)
    return str(caught.value)


# Loading


def test_a_small_file_is_enough(write):
    settings = load(write(), {})
    assert settings == parse(table())
    assert settings.service == "churn"
    assert settings.policy.name == "reweight"
    assert settings.schema == Schema((), LabelSpec(Task.BINARY, classes=(False, True)), infer=Inference())


def test_names_derived_from_others():
    settings = parse(table())
    assert (settings.group, settings.dead_letter_topic) == ("fluvial-churn", "clicks.dead-letters")
    own = parse(table(kafka={"group": "g", "dead_letters": "d"}))
    assert (own.group, own.dead_letter_topic) == ("g", "d")


def test_the_environment_is_read_by_default(write, monkeypatch):
    monkeypatch.setenv("FLUVIAL__KAFKA__TOPIC", "from-environment")
    assert load(write()).kafka.topic == "from-environment"


@pytest.mark.parametrize(
    ("name", "text", "read", "value"),
    [
        ("SERVICE", "42", lambda s: s.service, "42"),
        ("KAFKA__BOOTSTRAP_SERVERS", "a:1,b:2", lambda s: s.kafka.bootstrap_servers, "a:1,b:2"),
        ("KAFKA__BATCH", "7", lambda s: s.kafka.batch, 7),
        ("KAFKA__START", "2026-01-31T12:00:00Z", lambda s: s.kafka.start, "2026-01-31T12:00:00Z"),
        ("KAFKA__TOPIC", "true", lambda s: s.kafka.topic, "true"),
        ("KAFKA__CLIENT__SASL_USERNAME", "007", lambda s: s.kafka.client["sasl.username"], "007"),
        ("REDIS__PASSWORD", "12345", lambda s: s.redis.password.reveal(), "12345"),
        ("REDIS__PASSWORD", '"quoted"', lambda s: s.redis.password.reveal(), '"quoted"'),
        ("REDIS__TIMEOUT_SECONDS", "0.5", lambda s: s.redis.timeout_seconds, 0.5),
        ("REDIS__TIMEOUT_SECONDS", "3", lambda s: s.redis.timeout_seconds, 3.0),
        ("REDIS__USERNAME", "1", lambda s: s.redis.username, "1"),
        ("REDIS__USERNAME", "", lambda s: s.redis.username, None),
        ("MODEL__ALLOW", '["a:B", "c:D"]', lambda s: s.model.allow, ("a:B", "c:D")),
        ("MODEL__OPTIONS__RATE", "0.1", lambda s: s.model.options, {"rate": 0.1}),
        ("MODEL__OPTIONS__KIND", "fast", lambda s: s.model.options, {"kind": "fast"}),
        ("SCORES__ENABLED", "false", lambda s: s.scores.enabled, False),
        ("POLICY__NAME", "observe", lambda s: s.policy.name, "observe"),
        ("SCHEMA__TIME_UNIT", "ms", lambda s: s.schema.time_unit, "ms"),
        ("SCHEMA__INFER__EVENTS", "9", lambda s: s.schema.infer.events, 9),
        ("SCHEMA__LABEL__TYPE", "regression", lambda s: s.schema.label.task, Task.REGRESSION),
        ("LOG__LEVEL", "debug", lambda s: s.log.level, "debug"),
    ],
)
def test_the_environment_goes_over_the_file(write, name, text, read, value):
    settings = load(write(), {f"FLUVIAL__{name}": text, "FLUVIAL_TEST_KAFKA": "x", "PATH": "y"})
    assert read(settings) == value


def test_text_from_the_environment_cannot_add_other_keys(write):
    assert "kafka.batch" in fault(load, write(), {"FLUVIAL__KAFKA__BATCH": "7\nwait_ms = 1"})


def test_client_properties_may_be_written_without_quotes(write):
    text = START + '[kafka.client]\nsasl.username = "me"\n"linger.ms" = 5\nsasl.mechanism = "PLAIN"\n'
    client = load(write(text), {}).kafka.client
    assert client == {"sasl.username": "me", "linger.ms": 5, "sasl.mechanism": "PLAIN"}


def test_secrets_come_from_files_beside_the_settings(write, tmp_path):
    for name in ("url", "password", "kafka"):
        write(f"secret of {name}\n", name)
    write("k" * 32 + "\r\n", "key")
    settings = load(
        write(
            START
            + '[redis]\nurl_file = "url"\npassword_file = "password"\n[checkpoint]\nkey_file = "key"\n'
            + f'[kafka.client_files]\n"sasl.password" = "{tmp_path / "kafka"}"\n'
        ),
        {},
    )
    assert settings.redis.url.reveal() == "secret of url"
    assert settings.redis.password == Secret("secret of password")
    assert settings.checkpoint.key == Secret("k" * 32)
    assert settings.kafka.client["sasl.password"] == "secret of kafka"


def test_the_environment_takes_the_place_of_a_secret_file_and_the_other_way_round(write):
    path = write(START + '[redis]\npassword_file = "/nowhere"\n')
    assert load(path, {"FLUVIAL__REDIS__PASSWORD": "p"}).redis.password == Secret("p")
    write("q", "file")
    path = write(START + '[redis]\npassword = "p"\n')
    assert load(path, {"FLUVIAL__REDIS__PASSWORD_FILE": "file"}).redis.password == Secret("q")


# The schema table


def test_the_whole_schema_table(write):
    text = (
        START.replace('infer = true\nlabel = "binary"', "")
        + """
    [schema]
    id = "id"
    key = ["user.id"]
    time = "meta.ts"
    time_unit = "ms"
    unknown = "ignore"
    weight = "w"
    max_bytes = 5000
    [schema.features]
    amount = "number"
    "a.b" = "integer"
    [schema.features.country]
    type = "category"
    values = ["de", "other"]
    required = false
    default = "other"
    path = "geo.country"
    [schema.features.age]
    type = "integer"
    range = [0, 150]
    default = 40
    [schema.features.vip]
    type = "boolean"
    default = false
    [schema.label]
    type = "regression"
    path = "y"
    range = [0, 1e6]
    """
    )
    text = text.replace("[schema]\n\n", "", 1)
    assert load(write(text), {}).schema == Schema(
        features=(
            FeatureSpec("amount", "number", ("features", "amount")),
            FeatureSpec("a.b", "integer", ("features", "a.b")),
            FeatureSpec("country", "category", ("geo", "country"), False, "other", values=("de", "other")),
            FeatureSpec("age", "integer", ("features", "age"), False, 40.0, 0.0, 150.0),
            FeatureSpec("vip", "boolean", ("features", "vip"), False, 0.0),
        ),
        label=LabelSpec(Task.REGRESSION, ("y",), (), 0.0, 1e6),
        id=("id",), key=("user.id",), time=("meta", "ts"), time_unit="ms", weight=("w",),
        unknown="ignore", max_bytes=5_000,
    )  # fmt: skip


def test_short_forms():
    assert schema().label == LabelSpec(Task.BINARY, classes=(False, True))
    assert schema(label={"type": "binary", "classes": ["no", "yes"]}).label.classes == ("no", "yes")
    assert schema(label="regression").label.high == LIMIT
    assert schema(weight={"path": "w.x"}).weight == ("w", "x")
    assert schema(weight={}).weight == ("weight",)
    assert schema(features={}, infer={"events": 5, "path": ""}).infer == Inference(events=5, path=())
    assert schema(infer=False).infer is None


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"features": {}}, "schema.features: empty; declare at least one feature"),
        ({"infer": True}, "schema.infer: cannot stand beside schema.features"),
        ({"features": "number"}, "schema.features: expected a table"),
        ({"features": {"a": "float"}}, "schema.features.a.type: not one of 'number', 'integer'"),
        ({"features": {"a": 5}}, "schema.features.a: expected `object`, got `int`"),
        ({"features": {"a": {}}}, "schema.features.a.type: missing"),
        (
            {"features": {"a": {"typ": "number"}}},
            "schema.features.a.typ: unknown; did you mean schema.features.a.type?",
        ),
        ({"features": {"a": {"type": "number", "range": [1]}}}, "schema.features.a.range: "),
        (
            {"features": {"a": {"type": "number", "range": [2, 1]}}},
            "schema.features.a.range: expected two finite",
        ),
        (
            {"features": {"a": {"type": "number", "range": [0, float("inf")]}}},
            "schema.features.a.range: expected",
        ),
        (
            {"features": {"a": {"type": "number", "path": "a..b"}}},
            "schema.features.a.path: 'a..b' is not a path",
        ),
        ({"features": {"a": {"type": "number", "path": []}}}, "schema.features.a.path: [] is not a path"),
        (
            {"features": {"a": {"type": "number", "default": True}}},
            "schema.features.a.default: is not a number",
        ),
        (
            {"features": {"a": {"type": "boolean", "default": 1}}},
            "schema.features.a.default: is not a boolean",
        ),
        (
            {"features": {"a": {"type": "category", "values": ["x"], "default": "y"}}},
            "schema.features.a.default: 'y' is not among",
        ),
        (
            {"features": {"a": {"type": "number", "required": True, "default": 1}}},
            "schema.features.a.default: a required feature has none",
        ),
        ({"label": "ternary"}, "schema.label: not one of 'binary', 'multiclass', 'regression'"),
        ({"label": {}}, "schema.label.type: missing"),
        ({"label": {"type": "multiclass"}}, "schema.label.classes: multiclass needs 2"),
        (
            {"label": {"type": "binary", "clases": []}},
            "schema.label.clases: unknown; did you mean schema.label.classes?",
        ),
        ({"label": {"type": "binary", "classes": [1.5, 2.5]}}, "schema.label.classes"),
        ({"time_unit": "min"}, "schema.time_unit: not one of 's', 'ms', 'us', 'iso'"),
        (
            {"key": "label"},
            "schema.key: its path $.label is, contains or lies inside that of schema.label.path",
        ),
        (
            {"features": {"a": "number", "b": {"type": "number", "path": "features.a.x"}}},
            "schema.features.b: its path",
        ),
        ({"infr": True}, "schema.infr: unknown; did you mean schema.infer?"),
        (
            {"features": {}, "infer": {"event": 1}},
            "schema.infer.event: unknown; did you mean schema.infer.events?",
        ),
        ({"features": {}, "infer": {"events": 0}}, "schema.infer: events must be"),
        ({"max_bytes": "1MB"}, "schema.max_bytes: expected `int`, got `str`"),
    ],
)
def test_faults_of_the_schema_table(parts, said):
    assert fault(lambda: schema(**parts)).startswith(said)


# Faults


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kafka": {"topicc": "x"}}, "kafka.topicc: unknown; did you mean kafka.topic?"),
        (
            {"kafka": {"every_seconds": 1}},
            "kafka.every_seconds: unknown; did you mean checkpoint.every_seconds?",
        ),
        ({"kafka": {"service": "x"}}, "kafka.service: unknown; did you mean service?"),
        ({"kafka": {"xyz": 1}}, "kafka.xyz: unknown; known here: bootstrap_servers, topic"),
        ({"kafak": {}}, "kafak: unknown; did you mean kafka?"),
        ({"topic": "x"}, "topic: unknown; did you mean kafka.topic?"),
        ({"kafka": None}, "kafka: missing; add a [kafka] table"),
        ({"kafka": "localhost"}, "kafka: expected a table, [kafka]"),
        ({"kafka": {"batch": "many"}}, "kafka.batch: expected `int`, got `str`"),
        ({"kafka": {"batch": 0}}, "kafka.batch: expected `int` >= 1"),
        ({"kafka": {"topic": ""}}, "kafka.topic: empty"),
        ({"kafka": {"dead_letters": "clicks"}}, "kafka.dead_letters: is the topic itself"),
        ({"kafka": {"start": "yesterday"}}, "kafka.start: expected earliest, latest or a time"),
        (
            {"kafka": {"client": {"group.id": "x"}}},
            "kafka.client.group.id: the service sets it itself; set kafka.group",
        ),
        (
            {"kafka": {"client": {"enable": {"auto": {"commit": True}}}}},
            "kafka.client.enable.auto.commit: the service",
        ),
        ({"kafka": {"client": {"a": []}}}, "kafka.client[...]: expected"),
        ({"kafka": {"client": "x"}}, "kafka.client: expected `object`, got `str`"),
        (
            {"kafka": {"client_files": {"sasl.password": "/no/such"}}},
            "kafka.client_files.sasl.password: /no/such cannot",
        ),
        ({"service": None}, "service: missing; it names the service"),
        ({"service": "a b"}, "service: expected letters"),
        ({"service": 5}, "service: expected `str`, got `int`"),
        ({"model": {"preset": "magic"}}, "model.preset: not one of 'linear', 'rates', 'bayes'"),
        ({"model": {"factory": "a:b"}}, "model: set one of model.preset and model.factory"),
        ({"model": {"preset": None}}, "model: set one of"),
        ({"model": {"preset": None, "factory": "a.b"}}, "model.factory: expected package.module:function"),
        ({"policy": {"name": "panic"}}, "policy.name: not one of 'observe', 'reset', 'reweight'"),
        (
            {"policy": {"rungs": [{"action": "hold"}, {"action": "panic"}]}},
            "policy.rungs[1].action: not one of 'hold', 'challenger', 'refit', 'reset', 'recall'",
        ),
        (
            {"drift": {"expect": {"erorr": 100_000}}},
            "drift.expect.erorr: not one of 'error', 'features', 'predictions'",
        ),
        ({"drift": {"planes": ["eror"]}}, "drift.planes[0]: not one of 'features', 'predictions'"),
        ({"drift": {"drift_delta": 1}}, "drift.drift_delta: expected `float` < 1.0"),
        ({"redis": {"url": 5}}, "redis.url: expected `str`"),
        ({"redis": {"password": "x", "password_file": "y"}}, "redis.password: given twice"),
        ({"redis": {"password_file": "/no/such"}}, "redis.password_file: /no/such cannot be read"),
        ({"redis": {"password_file": "/dev/null"}}, "redis.password_file: /dev/null is empty"),
        ({"checkpoint": {"key": "short"}}, "checkpoint.key: shorter than 32 bytes; `openssl rand -hex 32`"),
        ({"schema": "x"}, "schema: expected a table"),
    ],
)
def test_faults_start_with_their_path_and_say_what_to_do(change, said):
    assert fault(parse, table(**change)).startswith(said)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("FLUVIAL__KAFKA__TOPICC", "kafka.topicc: unknown; did you mean kafka.topic?"),
        ("FLUVIAL__KAFAK__TOPIC", "kafak: unknown; did you mean kafka?"),
        ("FLUVIAL__KAFKA", "FLUVIAL__KAFKA: not a setting; write FLUVIAL__SECTION__NAME"),
        ("FLUVIAL__SERVICE__X", "FLUVIAL__SERVICE__X: not a setting"),
        ("FLUVIAL__KAFKA__", "FLUVIAL__KAFKA__: not a setting"),
        ("FLUVIAL__KAFKA__TOPIC__X", "kafka.topic.x: unknown; kafka.topic is not a table"),
        ("FLUVIAL__SCHEMA__LABELL", "schema.labell: unknown; did you mean schema.label?"),
    ],
)
def test_faults_of_the_environment(name, said):
    assert fault(parse, table(), {name: "x"}).startswith(said)


def test_faults_of_the_file(write, tmp_path):
    assert "`fluvial init` writes one" in fault(load, tmp_path / "absent.toml", {})
    assert "cannot be read" in fault(load, tmp_path, {})
    assert "not TOML at line 2, column" in fault(load, write("a = 1\nb = = 2"), {})
    (tmp_path / "latin.toml").write_bytes(b'service = "\xe9"')
    assert "not UTF-8" in fault(load, tmp_path / "latin.toml", {})


def test_each_owned_property_is_refused_by_name():
    for name in OWNED_PROPERTIES:
        assert fault(parse, table(kafka={"client": {name: "x"}})).startswith(f"kafka.client.{name}: ")


# Secrets

SECRETS = {
    "redis": {"url": f"redis://me:{HIDDEN}@h:1/0", "password": HIDDEN},
    "checkpoint": {"key": HIDDEN * 3},
    "kafka": {
        "client": {
            "sasl.password": HIDDEN,
            "ssl.key.password": HIDDEN,
            "ssl.key.pem": HIDDEN,
            "sasl.oauthbearer.client.secret": HIDDEN,
            "sasl.oauthbearer.config": HIDDEN,
        }
    },
}


def test_no_secret_in_anything_printed(caplog):
    settings = parse(table(**SECRETS))
    assert settings.kafka.client["sasl.password"] == HIDDEN  # the client gets it
    with caplog.at_level(logging.DEBUG):
        logging.getLogger().debug("%s %r", settings, settings.kafka.client)
    shown = [
        repr(settings),
        str(settings),
        f"{settings.kafka.client}",
        json.dumps(describe(settings)),
        caplog.text,
    ]
    shown += [str(settings.redis.url), f"{settings.redis.password!r:>20}", repr(vars(fluvial.config))]
    shown.append(repr(KafkaSettings(bootstrap_servers="x", topic="y", client={"sasl.password": HIDDEN})))
    shown.append(repr(msgspec.structs.replace(settings.kafka, topic="other")))
    for text in shown:
        assert HIDDEN not in text
    with pytest.raises(TypeError):
        msgspec.json.encode(settings.redis)
    with pytest.raises(TypeError):
        json.dumps(settings.redis.url)


@pytest.mark.parametrize(
    "change",
    [
        {"redis": {"url": [HIDDEN]}},
        {"redis": {"password": {"x": HIDDEN}}},
        {"redis": {"password": HIDDEN, "password_file": "x"}},
        {"redis": HIDDEN},
        {"checkpoint": {"key": HIDDEN}},
        {"kafka": {"client": HIDDEN}},
        {"kafka": {"client": {"sasl.password": [HIDDEN]}}},
        {"kafka": {"client": {"group.id": HIDDEN, "sasl.password": HIDDEN}}},
        {"model": {"preset": None}},
        {"redis": {"timeout_seconds": -1}},
    ],
)
def test_no_secret_in_an_error(change):
    with pytest.raises(SettingsError) as caught:
        parse(table(**SECRETS) | table(**change))
    assert HIDDEN not in "".join(traceback.format_exception(caught.value))
    assert HIDDEN not in repr(caught.value)


def test_no_secret_in_the_error_of_a_broken_file(write):
    for line in (f'password = "{HIDDEN}', f"password = {HIDDEN}", f'"{HIDDEN}"', f'a = 1\na."{HIDDEN}" = 2'):
        with pytest.raises(SettingsError) as caught:
            load(write(f"{START}[redis]\n{line}\n"), {})
        assert HIDDEN not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        (f"rediss://me:{HIDDEN}@h:1/2", "rediss://***@h:1/2"),
        (f"redis://:{HIDDEN}@h", "redis://***@h"),
        (f"redis+sentinel://:{HIDDEN}@a:1,b:2/main/0", "redis+sentinel://***@a:1,b:2/main/0"),
        (f"redis://:a/{HIDDEN}@h/0", "redis://***@h/0"),
        (f"redis://:a?{HIDDEN}@h/0", "redis://***@h/0"),
        (f"redis://:a@{HIDDEN}@h/0", "redis://***@h/0"),
        (f"redis://h/0?password={HIDDEN}", "***"),
        (f"redis://h/0?username=a@b&password={HIDDEN}", "***"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
        (HIDDEN, "***"),
        (f"{HIDDEN}://h", "***"),
        ("", "***"),
    ],
)
def test_a_url_is_shown_without_its_password(url, shown):
    assert shown_url(Secret(url)) == shown


# Comparing and describing


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"redis": {"password": "x"}}, True),
        ({"kafka": {"batch": 7}}, True),
        ({"service": "other"}, True),
        ({"metrics": {"port": 1}}, True),
        ({"model": {"preset": "tree"}}, False),
        ({"model": {"options": {"a": 1}}}, False),
        ({"policy": {"warm": False}}, False),
        ({"drift": {"drift_delta": 0.1}}, False),
        ({"evaluation": {"window": 500}}, False),
        ({"schema": {"time_unit": "ms"}}, False),
    ],
)
def test_the_fingerprint_changes_with_what_influences_the_fold(change, same):
    assert (fingerprint(parse(table(**change))) == fingerprint(parse(table()))) is same


def test_describe_shows_every_setting_resolved():
    shown = describe(parse(table(redis={"password": "x"})))
    assert shown["kafka"]["group"] == "fluvial-churn"
    assert shown["kafka"]["dead_letters"] == "clicks.dead-letters"
    assert shown["redis"]["password"] == "***"
    assert shown["checkpoint"]["key"] is None
    assert shown["redis"]["url"] == "redis://127.0.0.1:6379/0"
    for path in known_paths():
        section, _, name = path.partition(".")
        assert section in shown
        assert not name or section == "schema" or name in shown[section]


def test_the_json_schema_knows_every_setting_and_no_other():
    made = json.loads(json.dumps(json_schema()))
    root = made["$defs"]["SettingsFile"]
    assert root["additionalProperties"] is False
    assert set(root["required"]) == {"service", "kafka", "schema", "model"}
    for path in known_paths():
        section, _, name = path.partition(".")
        assert section in root["properties"]
        if name:
            reference = root["properties"][section]["$ref"].rpartition("/")[2]
            assert name in made["$defs"][reference]["properties"]


DOCUMENTED = (Path(__file__).parent.parent / "docs" / "settings.md").read_text(encoding="utf-8")


def documented():
    """Path of each key in docs/settings.md -> the default shown, "" for none."""
    section, found = "", {}
    for line in DOCUMENTED.splitlines():
        if line.startswith("## "):
            section = line.partition("[")[2].partition("]")[0]
        elif line.startswith("| `"):
            keys, default = (cell.strip() for cell in line.split("|")[1:3])
            for key in keys.split(","):
                found[f"{section}.{key.strip(' `')}".strip(".")] = default.strip("`")
    return found


def test_exactly_the_settings_are_documented():
    sections = {path for path in known_paths() if "." not in path} - {"service"}
    assert set(documented()) == set(known_paths()) - sections


def test_the_defaults_documented_are_the_codes():
    bare = parse(table(model={"preset": None, "factory": "a:b"}))
    for path, shown in documented().items():
        section, _, name = path.partition(".")
        if path == "service" or (section == "schema" and name in {"features", "infer", "label"}):
            continue
        value = getattr(getattr(bare, section), name)
        if not shown:
            assert path in {"kafka.bootstrap_servers", "kafka.topic", "model.factory"} or not value, path
            continue
        value = (
            value.reveal()
            if isinstance(value, Secret)
            else list(value)
            if isinstance(value, tuple)
            else value
        )
        assert value == tomllib.loads(f"value = {shown}")["value"], path


def test_the_examples_documented_work():
    text = (Path(__file__).parent.parent / "docs" / "events.md").read_text(encoding="utf-8")
    example, short = text.split("```toml\n")[1:]
    event = text.split("```json\n")[1].split("```")[0]
    schema = parse(table(schema=None) | tomllib.loads(example.split("```")[0])).schema
    decoded = Codec(schema).decode(event.encode(), None, 0, 0, 0)
    assert decoded.x == {"amount": 12.5, "vip": 1.0, "country": "fr"}
    assert (decoded.key, decoded.id, decoded.weight, decoded.y) == ("4711", "e-17", 2.0, True)
    score = text.split("```json\n")[2].split("```")[0]
    assert decode_score(score).probabilities == {"false": 0.2, "true": 0.8}
    assert parse(table(schema=None) | tomllib.loads(short.split("```")[0])).schema.infer.path == ()
