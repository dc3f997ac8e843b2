"""Files as rows: header, quotes, compression, and what is said about a broken one."""

import gzip
from datetime import timedelta

import pytest

from fluvial.adapters.files import RowFile, guess_format, nearest
from fluvial.adapters.parquet import rows_of
from fluvial.errors import SettingsError
from support.parts import arrow

NAIVE = "2023-11-14T22:13:20.123456"


def put(path, data):
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.CSV", "a.txt"])
def test_csv(tmp_path, name):
    path = put(tmp_path / name, b'\xef\xbb\xbfa,b c,"d"\r\n1,"x,\n""y""",\r\n\r\n2,\xc3\xa9,z\n')
    with RowFile(path) as file:
        assert file.columns == ("a", "b c", "d")
        assert list(file.cells()) == [["1", 'x,\n"y"', ""], ["2", "é", "z"]]
        assert file.position == file.size == path.stat().st_size


def test_delimiters(tmp_path):
    with RowFile(put(tmp_path / "a.tsv.gz", b"a\tb\n1\t2,3\n")) as file:
        assert list(file.cells()) == [["1", "2,3"]]
    with RowFile(put(tmp_path / "a.csv", b"a;b\n1;2\n"), delimiter=";") as file:
        assert file.columns == ("a", "b")


@pytest.mark.parametrize("wrong", [";;", "\n", '"'])
def test_a_delimiter_that_is_none_is_said(tmp_path, wrong):
    with pytest.raises(SettingsError, match=r"--delimiter: .* is not one character"):
        RowFile(put(tmp_path / "a.csv", b"a;b\n1;2\n"), delimiter=wrong)


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson.gz", "a.json"])
def test_json_lines_come_as_they_are(tmp_path, name):
    path = put(tmp_path / name, b'\xef\xbb\xbf{"a": 1}\r\n\n  {"b":\t2} \n{broken\n[1]')
    with RowFile(path) as file:
        assert file.format == "json"
        assert list(file.lines()) == [b'{"a": 1}', b'{"b":\t2}', b"{broken", b"[1]"]


def test_a_compressed_file_is_known_by_its_content(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(gzip.compress(b"a\n1\n"))
    with RowFile(path) as file:
        assert list(file.cells()) == [["1"]]


def test_position_grows_with_the_bytes_on_the_disk(tmp_path):
    path = put(tmp_path / "a.csv.gz", b"a,b\n" + b"".join(b"%d,%d\n" % (i, i * i) for i in range(200_000)))
    seen = []
    with RowFile(path) as file:
        for number, _ in enumerate(file.cells()):
            if number % 20_000 == 0:
                seen.append(file.position)
        assert file.position == file.size
    assert seen == sorted(seen)
    assert 0 < seen[4] < path.stat().st_size
    assert len(set(seen)) > 5


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "there is no header line"),
        (b"a,b,a\n", "the column 'a' comes twice"),
        (b"a,b\n1,2\n1,2,3\n", "row 3 has 3 cells, the header has 2"),
        (b"a,b\n1,2\n1\n", "row 3 has 1 cells"),
        (b'a,b\n1,2\n"1,2\n', "after row 2: unexpected end of data"),
        (b"a,b\n1,\xff\n", "it is not UTF-8"),
    ],
)
def test_a_broken_csv_says_where(tmp_path, data, said):
    with pytest.raises(SettingsError, match=said) as error, RowFile(put(tmp_path / "a.csv", data)) as file:
        list(file.cells())
    assert str(tmp_path / "a.csv") in str(error.value)


@pytest.mark.parametrize("name", ["a.csv.gz", "a.jsonl.gz"])
@pytest.mark.parametrize("harm", ["cut", "flip"])
def test_broken_compression_is_said(tmp_path, name, harm):
    path = put(
        tmp_path / name, b"a,b\n" + b"".join(b"%d,%d\n" % (i, i * 7919 % 1_000) for i in range(50_000))
    )
    data = bytearray(path.read_bytes())
    if harm == "cut":
        del data[len(data) // 2 :]
    else:
        data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    path.write_bytes(data)
    with pytest.raises(SettingsError, match=r"(row|line) \d+"), RowFile(path) as file:
        list(file.cells() if file.format == "csv" else file.lines())


def test_a_missing_file_names_the_nearest(tmp_path):
    put(tmp_path / "events.csv", b"a\n")
    with pytest.raises(SettingsError, match=r"no such file .* did you mean 'events\.csv'"):
        RowFile(tmp_path / "event.csv").__enter__()
    with pytest.raises(SettingsError, match="cannot be read"):
        RowFile(tmp_path, "csv").__enter__()


def test_an_unclear_name_asks_for_the_format(tmp_path):
    with pytest.raises(SettingsError, match="--format csv"):
        guess_format(tmp_path / "events.dat")
    put(tmp_path / "events.dat", b"a\n1\n")
    with RowFile(tmp_path / "events.dat", "csv") as file:
        assert file.columns == ("a",)


def test_nearest():
    assert nearest("lable", ("label", "id")) == "; did you mean 'label'?"
    assert nearest("zzz", ("label", "id")) == "; there are label, id"
    assert nearest("zzz", ()) == ""


def test_the_times_of_pandas_come_in_microseconds(tmp_path):
    """It writes nanoseconds, which Python has not."""
    pa = arrow()
    at = 1_700_000_000_123_456_789
    kinds = (pa.timestamp("ns"), pa.timestamp("ns", "UTC"), pa.duration("ns"), pa.timestamp("us"))
    columns = [pa.array([at, None], kind) for kind in kinds[:3]] + [pa.array([at // 1_000], kinds[3])]
    for column, said in zip(
        columns, (NAIVE, f"{NAIVE}+00:00", timedelta(microseconds=at // 1_000), NAIVE), strict=True
    ):
        pa.parquet.write_table(pa.table({"t": column}), tmp_path / "t.parquet")
        with rows_of(tmp_path / "t.parquet") as file:
            assert [*file.cells()] == [[said], [None]][: len(column)]


def test_a_value_that_python_cannot_have_is_said_with_its_file(tmp_path):
    pa = arrow()
    pa.parquet.write_table(
        pa.table({"t": pa.array([[1]], pa.list_(pa.timestamp("ns")))}), tmp_path / "t.parquet"
    )
    with (
        rows_of(tmp_path / "t.parquet") as file,
        pytest.raises(SettingsError, match=r"t.parquet: after row 0: Nano"),
    ):
        [*file.cells()]
