"""`fluvial init` writes a file that loads, shows the code's defaults, and destroys nothing."""

import argparse
import gzip
import json
import re
import tomllib

import msgspec
import pytest

from fluvial.adapters.files import RowFile
from fluvial.cli import init
from fluvial.cli.mapping import Mapping, compile_mapping
from fluvial.codec import Codec
from fluvial.config import load, parse
from fluvial.config.loading import known_paths
from fluvial.schema import FeatureSpec, LabelSpec
from fluvial.types import Task
from support.parts import arrow

MEANT_AS_EXAMPLE = "an example, not a default"
NOT_SHOWN = {
    "redis.url_file", "redis.username", "redis.password", "redis.password_file", "redis.ca_file",
    "checkpoint.key", "checkpoint.key_file", "schema.weight",
}  # fmt: skip


def command(*arguments):
    parser = argparse.ArgumentParser()
    init.add_arguments(parser)
    return init.run(parser.parse_args([str(argument) for argument in arguments]))


def with_defaults_uncommented(text):
    lines = []
    for line in text.splitlines():
        shown = re.match(r"#[\w.\"]+ = ", line) and MEANT_AS_EXAMPLE not in line
        lines.append(line[1:] if shown else line)
    return "\n".join(lines)


def test_the_written_file_loads(tmp_path, capsys):
    path = tmp_path / "churn.toml"
    arguments = ("--service", "churn", "--topic", "clicks", "--bootstrap-servers", "k:1", "--preset", "tree")
    assert command(path, *arguments) == 0
    settings = load(path, {})
    assert settings.service == "churn"
    assert settings.kafka.topic == "clicks"
    assert settings.kafka.bootstrap_servers == "k:1"
    assert settings.model.preset == "tree"
    said = capsys.readouterr().out
    assert f"fluvial check {path}" in said
    assert f"fluvial run {path}" in said


def test_defaults_shown_equal_the_codes():
    text = init.start_text("churn", "clicks", "k:1", "auto")
    bare = parse(tomllib.loads(text))
    shown = parse(tomllib.loads(with_defaults_uncommented(text)))
    assert shown.group == bare.group
    assert shown.dead_letter_topic == bare.dead_letter_topic
    kafka = msgspec.structs.replace(shown.kafka, group="", dead_letters="")
    assert msgspec.structs.replace(shown, kafka=kafka) == bare


def test_a_wrong_default_would_be_noticed():
    text = init.start_text("churn", "clicks", "k:1", "auto").replace("#window = 1000", "#window = 999")
    assert parse(tomllib.loads(with_defaults_uncommented(text))) != parse(tomllib.loads(text))


def test_every_setting_is_in_the_file():
    text = init.start_text("churn", "clicks", "k:1", "auto")
    for path in set(known_paths()) - NOT_SHOWN:
        name = path.rpartition(".")[2]
        assert re.search(rf"^(#?{name} = |#?\[([\w.]+\.)?{name}\])", text, re.MULTILINE), path


def test_the_examples_in_it_load_too():
    text = init.start_text("churn", "clicks", "k:1", "auto")
    lines = [
        line[1:] if MEANT_AS_EXAMPLE in line and "factory" not in line and "/run/" not in line else line
        for line in text.replace("#[schema.features]", "[schema.features]")
        .replace("#[kafka.client]", "[kafka.client]").replace("infer = true", "infer = false").splitlines()
    ]  # fmt: skip
    settings = parse(tomllib.loads("\n".join(lines)))
    assert settings.schema.names == ("amount", "country")
    assert settings.schema.key == ("user",)


def test_an_existing_file_is_kept(tmp_path, capsys):
    path = tmp_path / "fluvial.toml"
    path.write_text("mine")
    assert command(path) == 1
    assert path.read_text() == "mine"
    assert "--force" in capsys.readouterr().err
    assert command(path, "--force") == 0
    assert load(path, {}).service == "example"


def test_hostile_names_stay_strings(tmp_path):
    path = tmp_path / "fluvial.toml"
    assert command(path, "--topic", 'a"\n[log]\nlevel = "debug\\', "--service", "a b") == 1
    assert not path.exists()
    assert command(path, "--topic", 'a"\n[log]\nlevel = "debug\\') == 0
    assert load(path, {}).kafka.topic == 'a"\n[log]\nlevel = "debug\\'


def test_an_unwritable_place_is_said(tmp_path, capsys):
    assert command(tmp_path / "no" / "fluvial.toml") == 1
    assert "cannot be written" in capsys.readouterr().err


CSV = "amount,country,vip,note,down\n" + "".join(
    f"{number}.5,{'de' if number % 3 else 'fr'},{'true' if number % 2 else 'false'},"
    f"{'' if number % 4 else 7},{number % 2}\n"
    for number in range(30)
)


@pytest.mark.parametrize("packed", [False, True])
def test_a_schema_guessed_from_csv(tmp_path, packed):
    data = tmp_path / ("data.csv.gz" if packed else "data.csv")
    data.write_bytes(gzip.compress(CSV.encode()) if packed else CSV.encode())
    assert command(tmp_path / "f.toml", "--from", data, "--label", "down") == 0
    schema = load(tmp_path / "f.toml", {}).schema
    assert schema.infer is None
    assert schema.label == LabelSpec(Task.BINARY, classes=(0, 1))
    assert schema.features == (
        FeatureSpec("amount", "number", ("features", "amount")),
        FeatureSpec("country", "category", ("features", "country"), values=("de", "fr")),
        FeatureSpec("vip", "boolean", ("features", "vip")),
        FeatureSpec("note", "number", ("features", "note"), required=False),
    )


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path):
    data = tmp_path / "data.csv"
    data.write_text(CSV, encoding="utf-8-sig")
    assert command(tmp_path / "f.toml", "--from", data, "--label", "down") == 0
    schema = load(tmp_path / "f.toml", {}).schema
    assert schema.names[0] == "amount"
    with RowFile(data) as file:
        encode = compile_mapping(Mapping(schema=schema, label="down"), file)
        value, _ = encode(next(file.cells()))
    assert Codec(schema).decode(value, None, 0, 0, 0).x["amount"] == 0.5
    lines = tmp_path / "data.jsonl"
    lines.write_text('{"a": 1, "label": 0}\n{"a": 2, "label": 1}\n', encoding="utf-8-sig")
    assert command(tmp_path / "g.toml", "--from", lines) == 0


@pytest.mark.parametrize("whole", [True, False])
def test_few_whole_labels_are_classes_however_they_are_written(tmp_path, whole):
    data = tmp_path / "data.csv"
    data.write_text("a,y\n1,0.0\n2,1.0\n" + ("" if whole else "3,0.5\n"))
    assert command(tmp_path / "f.toml", "--from", data, "--label", "y") == 0
    schema = load(tmp_path / "f.toml", {}).schema
    assert schema.label == (LabelSpec(Task.BINARY, classes=(0, 1)) if whole else LabelSpec(Task.REGRESSION))
    with RowFile(data) as file:
        encode = compile_mapping(Mapping(schema=schema, label="y"), file)
        answers = [Codec(schema).decode(encode(row)[0], None, 0, 0, 0).y for row in file.cells()]
    assert answers[:2] == [0, 1]


def test_whole_labels_with_a_point_are_no_classes_of_json_lines_which_is_said(tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_text('{"a": 1, "label": 0.0}\n{"a": 2, "label": 1.0}\n')
    assert command(tmp_path / "f.toml", "--from", data) == 0
    schema = load(tmp_path / "f.toml", {}).schema
    assert schema.label.task == Task.REGRESSION
    assert "# its numbers are few and whole" in (tmp_path / "f.toml").read_text()
    assert Codec(schema).decode(data.read_bytes().splitlines()[1], None, 0, 0, 0).y == 1.0


@pytest.mark.parametrize(
    ("name", "said"),
    [("x.parquet", "arquet"), ("x.csv", "not UTF-8"), ("x.jsonl", "object 1 cannot"), ("x", "--format csv")],
)
def test_what_is_no_text_is_said(tmp_path, capsys, name, said):
    (tmp_path / name).write_bytes(b"PAR1\x15\x04\xff\xfe")
    assert command(tmp_path / "f.toml", "--from", tmp_path / name) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "f.toml").exists()


@pytest.mark.parametrize(
    ("name", "between", "words"),
    [("d.tsv", "\t", ()), ("d.csv", ";", ("--delimiter", ";")), ("d.dat", ",", ("--format", "csv"))],
)
def test_cells_are_parted_as_produce_and_backtest_part_them(tmp_path, name, between, words):
    data = tmp_path / name
    data.write_text(CSV.replace(",", between))
    assert command(tmp_path / "f.toml", "--from", data, "--label", "down", *words) == 0
    assert load(tmp_path / "f.toml", {}).schema.names == ("amount", "country", "vip", "note")


def test_a_schema_guessed_from_parquet_is_that_of_the_same_csv(tmp_path):
    pa = arrow()
    (tmp_path / "d.csv").write_text(CSV)
    table = pa.csv.read_csv(tmp_path / "d.csv")
    tags = pa.array([[1, 2]] * len(table))
    pa.parquet.write_table(table.append_column("tags", tags), tmp_path / "d.parquet")
    for name in ("d.csv", "d.parquet"):
        assert command(tmp_path / f"{name}.toml", "--from", tmp_path / name, "--label", "down") == 0
    guessed = [load(tmp_path / f"{name}.toml", {}).schema for name in ("d.csv", "d.parquet")]
    assert guessed[0] == guessed[1], "of a column of lists no feature can be made"


def test_a_schema_guessed_from_json_lines_takes_those_lines(tmp_path):
    rows = [
        {"id": f"user-{n}", "geo": {"lat": n / 7, "tags": [1]}, "é.x": n, "kind": {"name": "abc"[n % 3]}}
        for n in range(40)
    ]
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    assert command(tmp_path / "f.toml", "--from", data, "--label", "kind.name") == 0
    assert '#"id"' in (tmp_path / "f.toml").read_text(encoding="utf-8")
    schema = load(tmp_path / "f.toml", {}).schema
    assert schema.label.classes == ("a", "b", "c")
    decode = Codec(schema).decode
    for row in rows:
        event = decode(json.dumps(row).encode(), None, 0, 0, 0)
        assert event.x["geo.lat"] == row["geo"]["lat"]
        assert event.y == "abc".index(row["kind"]["name"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "no column 'label'"),
        ("a,label\n1,x\n2,x\n", "1 classes"),
        ("a,label\n1,x\n2,3\n", "2 types"),
        ("", "no header line"),
        ("a,label\n1,x\n2\n", "row 3 has 1 cells"),
        ("a,down\n1,x\n", "its columns: a, down"),
    ],
)
def test_a_file_that_shows_no_schema(tmp_path, capsys, text, said):
    (tmp_path / "data.csv").write_text(text)
    assert command(tmp_path / "f.toml", "--from", tmp_path / "data.csv") == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "f.toml").exists()
