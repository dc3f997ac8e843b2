"""`fluvial produce`: what a row becomes, where it goes, and what is said."""

import argparse
import gzip
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import msgspec
import pytest

from fluvial.adapters.files import RowFile
from fluvial.cli import produce
from fluvial.cli.mapping import Mapping, compile_mapping, label_converter, number, scalar, time_converter
from fluvial.codec import Codec
from fluvial.config import parse
from fluvial.errors import BadEvent, SettingsError
from fluvial.schema import LabelSpec
from fluvial.types import Task
from support.kafka_broker import create_topic, read_topic, unique_topic
from support.parts import arrow

CSV = b"when,user,a,b,c,y\n2024-01-01T00:00:00Z,u1,1,2.5,x,true\n2024-01-01T00:00:01Z,u2,,1e3,,false\n"


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(CSV)
    return path


def arguments(*words):
    parser = argparse.ArgumentParser(exit_on_error=False)
    produce.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


@pytest.fixture
def send(mock_kafka):
    mock_kafka.create_topic("t", 2)

    def send(*words, topic="t"):
        where = ("--bootstrap-servers", mock_kafka.bootstrap_servers, "--topic", topic)
        return produce.run(arguments(*words, *where))

    send.bootstrap = mock_kafka.bootstrap_servers
    return send


def events(send):
    return [json.loads(m.value()) for m in read_topic(send.bootstrap, "t")]


SETTINGS = {
    "service": "svc",
    "kafka": {"bootstrap_servers": "unused:1", "topic": "t"},
    "model": {"preset": "linear"},
    "schema": {
        "id": "meta.id",
        "key": "meta.user",
        "time": "meta.at",
        "time_unit": "ms",
        "label": {"type": "binary", "path": "out.y", "classes": ["no", "yes"]},
        "features": {
            "a": {"type": "number", "path": "in.a", "required": False},
            "b": {"type": "number", "path": "in.b"},
            "c": {"type": "category", "path": "in.c", "required": False},
        },
    },
}


class Columns(NamedTuple):
    path: str
    columns: tuple


def encoded(path, **said):
    with RowFile(path) as file:
        encode = compile_mapping(Mapping(**said), file)
        return [(json.loads(value), key) for value, key in map(encode, file.cells())]


# ---- what a row becomes


def test_all_other_columns_are_features_and_empty_cells_are_absent(rows):
    assert encoded(rows, key="user", time="when", label="y") == [
        (
            {
                "key": "u1",
                "time": 1_704_067_200.0,
                "label": True,
                "features": {"a": 1, "b": 2.5, "c": "x"},
            },
            "u1",
        ),
        ({"key": "u2", "time": 1_704_067_201.0, "label": False, "features": {"b": 1_000.0}}, "u2"),
    ]


def test_rows_of_parquet_are_sent_as_those_of_the_same_csv(tmp_path, rows, send):
    pa = arrow()
    pa.parquet.write_table(pa.csv.read_csv(rows), tmp_path / "rows.parquet")
    for path in (rows, tmp_path / "rows.parquet"):
        assert send(path, "--key", "user", "--time", "when", "--label", "y", "--partition-by", "0") == 0
    sent = events(send)
    assert sent[:2] == sent[2:]
    assert sent[0]["time"] == 1_704_067_200.0


def test_named_features_and_types(rows):
    assert encoded(rows, features=("a", "c"), types={"a": "category"}, id="user") == [
        ({"id": "u1", "features": {"a": "1", "c": "x"}}, None),
        ({"id": "u2"}, None),
    ]


def test_the_settings_say_where_fields_go_and_the_codec_takes_them(tmp_path):
    schema = parse(SETTINGS).schema
    path = tmp_path / "rows.csv"
    path.write_text("id,user,at,a,b,c,y,other\n7,u1,2024-01-01T00:00:00.5Z,1,2,3,yes,zzz\n8,u2,5,,2,,no,\n")
    found = encoded(path, schema=schema)
    assert found == [
        (
            {
                "meta": {"id": "7", "user": "u1", "at": 1_704_067_200_500},
                "in": {"a": 1, "b": 2, "c": "3"},
                "out": {"y": "yes"},
            },
            "u1",
        ),
        ({"meta": {"id": "8", "user": "u2", "at": 5_000}, "in": {"b": 2}, "out": {"y": "no"}}, "u2"),
    ]
    with RowFile(path) as file:
        encode = compile_mapping(Mapping(schema=schema), file)
        value, key = encode(next(file.cells()))
    codec = Codec(schema)
    event = codec.decode(value, key.encode(), 0, 0, 0)
    assert (event.x, event.y, event.time, event.key) == (
        {"a": 1.0, "b": 2.0, "c": "3"},
        True,
        1_704_067_200.5,
        "u1",
    )


@pytest.mark.parametrize("field", ["id", "time"])
def test_a_column_that_the_schema_has_no_place_for_is_refused(rows, field):
    schema = msgspec.structs.replace(parse(SETTINGS).schema, **{field: None})
    with pytest.raises(SettingsError, match=rf"--{field} when: .* declare schema\.{field}"):
        encoded(rows, schema=schema, label="y", **{field: "when"})
    assert len(encoded(rows, schema=schema, label="y")) == 2


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("1", 1),
        ("-7", -7),
        ("1.50", 1.5),
        ("1e3", 1_000.0),
        ("12345678901234567890", 12345678901234567890.0),
        ("nan", "nan"),
        ("-inf", "-inf"),
        ("1e999", "1e999"),
        ("1_000", "1_000"),
        ("x", "x"),
        (" 2 ", 2),
        (3, 3),
        (None, None),
    ],
)
def test_a_cell_is_a_finite_number_or_stays_what_it_is(cell, value):
    found = number(cell)
    assert (found, type(found)) == (value, type(value))


def test_booleans():
    assert [scalar(c) for c in ("true", "False", "1", "yes", True)] == [True, False, 1, "yes", True]
    assert type(scalar("1")) is int


def test_labels_become_declared_classes():
    convert = label_converter(LabelSpec(Task.MULTICLASS, classes=("1", 2, "b")))
    assert [convert(c) for c in ("1", "2", "b", "z", 2)] == ["1", 2, "b", "z", 2]
    assert [convert(c) for c in ("2.0", 2.0, "2.5", [2.0])] == [2, 2, 2.5, [2.0]]
    assert type(convert("2.0")) is type(convert(2.0)) is int
    convert = label_converter(LabelSpec(Task.BINARY, classes=(False, True)))
    assert [convert(c) for c in ("1", "0", "true", "False")] == [True, False, True, False]
    assert label_converter(LabelSpec(Task.REGRESSION))("1.5") == 1.5


@pytest.mark.parametrize(
    ("read", "written", "cell", "value"),
    [
        (None, "s", "5", 5.0),
        ("ms", "s", "1500", 1.5),
        ("s", "ms", "1.5", 1_500),
        ("us", "us", "12", 12),
        ("ms", "iso", "1500", "1970-01-01T00:00:01.500000+00:00"),
        ("iso", "s", "1970-01-01T01:00:00+01:00", 0.0),
        ("iso", "s", "1970-01-01", 0.0),
        (None, "s", "yesterday", "yesterday"),
        (None, "iso", "1e20", "1e20"),
        (None, "iso", "9999-12-31T23:59:59-23:00", "9999-12-31T23:59:59-23:00"),
        ("s", "ms", "1e308", "1e308"),
        (None, "s", [1], [1]),
        (None, "ms", {"at": 1}, {"at": 1}),
    ],
)
def test_times(read, written, cell, value):
    assert time_converter(read, written)(cell) == value


@pytest.mark.parametrize(
    ("unit", "cell"), [("iso", "1e20"), ("iso", "9999-12-31T23:59:59-23:00"), ("ms", "1e308"), ("s", [1])]
)
def test_a_time_out_of_range_is_the_services_to_refuse(unit, cell):
    schema = msgspec.structs.replace(parse(SETTINGS).schema, time_unit=unit)
    encode = compile_mapping(
        Mapping(schema=schema, time_unit="s"), Columns("rows", ("id", "user", "at", "b", "y"))
    )
    value, _ = encode(["7", "u1", cell, "2", "yes"])
    with pytest.raises(BadEvent, match=r"meta\.at"):
        Codec(schema).decode(value, b"u1", 0, 0, 0)


# ---- where it goes


def test_a_file_arrives_whole(send, rows, capsys):
    assert send(rows, "--key", "user", "--label", "y") == 0
    found = read_topic(send.bootstrap, "t")
    assert sorted(m.key() for m in found) == [b"u1", b"u2"]
    assert "2 events in topic 't' after" in capsys.readouterr().out


def test_gzip_limit_and_round_robin(send, tmp_path):
    path = tmp_path / "n.csv.gz"
    path.write_bytes(gzip.compress(b"n\n" + b"".join(b"%d\n" % i for i in range(1_000))))
    assert send(path, "--limit", 101, "--partition-by", "round-robin") == 0
    found = read_topic(send.bootstrap, "t")
    for partition, count in ((0, 51), (1, 50)):
        numbers = [json.loads(m.value())["features"]["n"] for m in found if m.partition() == partition]
        assert numbers == list(range(partition, 101, 2))
        assert len(numbers) == count


def test_one_partition(send, rows):
    assert send(rows, "--partition-by", 1) == 0
    assert {m.partition() for m in read_topic(send.bootstrap, "t")} == {1}


def test_json_lines_go_as_they_are(send, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"u": {"id": 7},  "x": 1}\n{broken\n{"u": [1]}\n')
    assert send(path, "--key", "u.id", "--partition-by", 0) == 0
    found = read_topic(send.bootstrap, "t")
    assert [m.value() for m in found] == [b'{"u": {"id": 7},  "x": 1}', b"{broken", b'{"u": [1]}']
    assert [m.key() for m in found] == [b"7", None, None]


def test_json_lines_are_mapped_when_asked(send, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": "1", "b": [1], "y": 1}\n{"y": 0, "a": null}\n')
    assert send(path, "--label", "y", "--partition-by", 0) == 0
    assert events(send) == [{"label": 1, "features": {"a": 1, "b": [1]}}, {"label": 0}]


def test_the_settings_name_servers_topic_and_shape(send, tmp_path):
    config = tmp_path / "svc.toml"
    config.write_text(
        f'service = "svc"\n[kafka]\nbootstrap_servers = "{send.bootstrap}"\ntopic = "t"\n'
        '[model]\npreset = "linear"\n[schema]\nkey = "user"\n'
        '[schema.label]\ntype = "binary"\npath = "y"\n[schema.features]\na = "number"\n'
    )
    rows = tmp_path / "rows.csv"
    rows.write_text("user,a,y,noise\nu,1,1,5\n")
    assert produce.run(arguments(rows, "--config", config)) == 0
    assert events(send) == [{"user": "u", "y": True, "features": {"a": 1}}]


def test_a_rate_is_kept_on_average(send, tmp_path, capsys):
    path = tmp_path / "n.csv"
    path.write_bytes(b"n\n" + b"1\n" * 50)
    began = time.monotonic()
    assert send(path, "--rate", 100) == 0
    assert time.monotonic() - began > 0.45


@pytest.mark.kafka
def test_the_topic_is_created_when_it_is_missing(kafka_broker, rows, capsys):
    topic = unique_topic()
    where = ("--bootstrap-servers", kafka_broker, "--topic", topic)
    assert produce.run(arguments(rows, *where)) == 1
    assert f"topic '{topic}' does not exist" in capsys.readouterr().err
    assert produce.run(arguments(rows, *where, "--create-topic", 3, "--partition-by", 2)) == 0
    assert produce.run(arguments(rows, *where, "--create-topic", 5, "--partition-by", 2)) == 0
    assert "is there already" in capsys.readouterr().err
    assert [m.offset() for m in read_topic(kafka_broker, topic)] == [0, 1, 2, 3]


@pytest.mark.kafka
def test_the_broker_refusing_a_message_is_said(kafka_broker, tmp_path, capsys):
    topic = create_topic(kafka_broker, unique_topic(), max_message_bytes=1_000)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": "' + os.urandom(2_000).hex().encode() + b'"}\n')
    assert produce.run(arguments(path, "--bootstrap-servers", kafka_broker, "--topic", topic)) == 1
    said = capsys.readouterr()
    assert "1 events were not acknowledged: Broker: Message size too large" in said.err
    assert "1 not acknowledged" in said.out


# ---- what is said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--label", "yy"), r"--label: .*rows\.csv has no column 'yy'; did you mean 'y'\?"),
        (("--features", "a,bb"), r"--features: .* no column 'bb'; did you mean 'b'\?"),
        (("--types", "a=float"), "--types: 'a=float' is not COLUMN=number"),
        (("--types", "q=number"), "--types: .* has no column 'q'"),
        (("--partition-by", "2"), "--partition-by: '2' is not key, round-robin or 0 to 1"),
        (("--config", "/nowhere.toml"), r"/nowhere\.toml"),
    ],
)
def test_mistakes_are_said_and_nothing_is_sent(send, rows, capsys, words, said):
    assert send(rows, *words) == 1
    error = capsys.readouterr().err
    assert error.startswith("produce: ")
    assert re.search(said, error), error
    assert read_topic(send.bootstrap, "t") == []


def test_missing_options_and_files(rows, capsys, send, tmp_path):
    assert produce.run(arguments(rows)) == 1
    assert "--bootstrap-servers: missing" in capsys.readouterr().err
    assert send(tmp_path / "row.csv") == 1
    assert "did you mean 'rows.csv'?" in capsys.readouterr().err
    for wrong in (("--rate", "0"), ("--limit", "-1"), ("--create-topic", "x")):
        with pytest.raises((argparse.ArgumentError, SystemExit)):
            arguments(rows, *wrong)


def test_a_broken_row_is_said_and_what_came_before_is_sent(send, tmp_path, capsys):
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n1,2\n3\n")
    assert send(path) == 1
    said = capsys.readouterr()
    assert "1 events in topic" in said.out
    assert "row 3 has 1 cells" in said.err
    assert len(events(send)) == 1


def test_a_required_column_that_is_missing_is_said(rows):
    schema = parse(SETTINGS).schema
    with pytest.raises(SettingsError, match=r"--label: .*no column 'out'"):
        encoded(rows, schema=schema, label="out")
    other = rows.with_name("other.csv")
    other.write_text("a,y\n1,yes\n")
    with pytest.raises(SettingsError, match=r"schema\.features\.b: .*no column 'b'"):
        encoded(other, schema=schema)


SLOW = """
import sys
from fluvial.cli import produce
import argparse
parser = argparse.ArgumentParser(); produce.add_arguments(parser)
sys.exit(produce.run(parser.parse_args(sys.argv[1:])))
"""


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_sends_what_it_began_and_says_so(send, tmp_path, ending):
    path = tmp_path / "n.csv"
    path.write_bytes(b"n\n" + b"1\n" * 100_000)
    words = ("--bootstrap-servers", send.bootstrap, "--topic", "t", "--rate", "200")
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, path, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 20
    while not read_topic(send.bootstrap, "t"):
        assert time.monotonic() < deadline
    process.send_signal(ending)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    assert out.startswith("interrupted: ")
    assert f"{len(events(send)):,} events in topic" in out
    assert "Traceback" not in err


def test_a_bar_on_a_terminal(send, tmp_path):
    path = tmp_path / "n.csv"
    path.write_bytes(b"n\n" + b"1\n" * 300)
    words = ("--bootstrap-servers", send.bootstrap, "--topic", "t", "--rate", "500")
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, path, *words],
        stdout=subprocess.PIPE,
        stderr=follower,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(follower)
    shown = b""
    while True:
        try:
            part = os.read(leader, 65_536)
        except OSError:
            break
        if not part:
            break
        shown += part
    os.close(leader)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert b"300 events in topic" in out
    assert "100 %" in shown.decode()
    assert "300 events," in shown.decode()
    assert "n.csv" in shown.decode()
