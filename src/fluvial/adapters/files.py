"""Files of events as rows: CSV and JSON lines, gzipped or not, read once from start to end."""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self, cast

import msgspec

from fluvial.errors import SettingsError

Format = Literal["csv", "json"]

_JSON = (".json", ".jsonl", ".ndjson")
_TEXT = (".csv", ".tsv", ".txt")
_MAX_CELL = 16_000_000


class RowFile:
    """One file, open for reading. Rows of a CSV are lists of cells in `columns`' order; lines are bytes.

    `size` and `position` count bytes of the file as it lies on the disk, compressed or not, so their
    ratio says how far it has been read. Raises SettingsError with the file and the line.
    """

    def __init__(self, path: str | Path, file_format: Format | None = None, delimiter: str = "") -> None:
        self.path = Path(path)
        self.format: Format = file_format or guess_format(self.path)
        self.delimiter = delimiter or ("\t" if ".tsv" in self.path.suffixes else ",")
        if wrong := fault_of_delimiter(self.delimiter):
            raise SettingsError(f"--delimiter: {wrong}")
        self.columns: tuple[str, ...] = ()
        """Of a CSV, from its first line."""
        self.size = 0
        self._raw: BinaryIO | None = None
        self._bytes: BinaryIO
        self._text: io.TextIOWrapper | None = None
        self._cells: Iterator[list[str]] = iter(())

    def __enter__(self) -> Self:
        try:
            self._raw = self.path.open("rb")
            self.size = self.path.stat().st_size
        except OSError as error:
            raise SettingsError(f"{self.path}: {_unreadable(self.path, error)}") from None
        self._bytes = self._raw
        try:
            if self._raw.peek(2)[:2] == b"\x1f\x8b":  # what it is, not what it is called
                self._bytes = cast("BinaryIO", gzip.GzipFile(fileobj=self._raw))
            if self.format == "csv":
                self._read_header()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        self._cells = iter(())
        for layer in (self._text, self._bytes, self._raw):
            if layer is not None:
                layer.close()

    @property
    def position(self) -> int:
        """Bytes of the file read so far, as on the disk."""
        return self._raw.tell() if self._raw is not None and not self._raw.closed else self.size

    def _read_header(self) -> None:
        csv.field_size_limit(_MAX_CELL)
        self._text = io.TextIOWrapper(self._bytes, encoding="utf-8-sig", newline="")
        reader = csv.reader(self._text, delimiter=self.delimiter, strict=True)
        self._cells = self._checked(reader)
        self.columns = tuple(next(self._cells, []))
        repeated = {name for name in self.columns if self.columns.count(name) > 1}
        if not self.columns or repeated:
            why = f"the column {min(repeated)!r} comes twice" if repeated else "there is no header line"
            raise SettingsError(f"{self.path}: {why}")

    def _checked(self, reader: Iterator[list[str]]) -> Iterator[list[str]]:
        """Cells of each line, as many as the header has."""
        number, width = 0, 0
        try:
            for number, cells in enumerate(reader, 1):
                width = width or len(cells)
                if cells and len(cells) != width:  # an empty line has none
                    msg = f"{self.path}: row {number} has {len(cells)} cells, the header has {width}"
                    raise SettingsError(msg)
                if cells:
                    yield cells
        except (csv.Error, ValueError, EOFError, OSError, zlib.error) as error:
            raise SettingsError(f"{self.path}: after row {number}: {_broken(error)}") from None

    def cells(self) -> Iterator[list[str]]:
        """Rows of a CSV."""
        return self._cells

    def lines(self) -> Iterator[bytes]:
        """Lines of a JSON-lines file without their ends; empty ones and a byte order mark left out."""
        number = 0
        try:
            for number, line in enumerate(self._bytes, 1):
                text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                text = text.strip(b" \t\r\n")
                if text:
                    yield text
        except (EOFError, OSError, zlib.error) as error:
            raise SettingsError(f"{self.path}: after line {number}: {_broken(error)}") from None

    def objects(self) -> Iterator[dict[str, Any]]:
        """Each line of a JSON-lines file as an object. Raises SettingsError with the number of another."""
        decode = msgspec.json.Decoder(dict[str, Any]).decode
        for number, line in enumerate(self.lines(), 1):
            try:
                yield decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                msg = f"{self.path}: object {number} cannot be mapped: {error}"
                raise SettingsError(msg) from None

    def field_names(self) -> tuple[str, ...]:
        """Names of the first object's members: the columns of a JSON-lines file."""
        with RowFile(self.path, "json") as again:
            return tuple(next(again.objects(), {}))


def guess_format(path: Path) -> Format:
    """What the name says. Raises SettingsError when it says nothing."""
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix in _JSON:
        return "json"
    if suffix in _TEXT:
        return "csv"
    raise SettingsError(f"{path}: is it CSV or JSON lines? Say --format csv or --format json")


def fault_of_delimiter(text: str) -> str:
    """Why cells cannot be parted by it; empty when they can."""
    if len(text) == 1 and text not in '"\r\n':
        return ""
    return f"{text!r} is not one character, or is a quote or a line's end"


def nearest(name: str, known: Sequence[str]) -> str:
    """`; did you mean 'x'?`, or what there is."""
    close = difflib.get_close_matches(name, known, 1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; there are {', '.join(known[:20])}" if known else ""


def _unreadable(path: Path, error: OSError) -> str:
    folder = path.parent
    if isinstance(error, FileNotFoundError) and folder.is_dir():
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
        return f"there is no such file in {folder}{nearest(path.name, names)}"
    return f"cannot be read: {error.strerror}"


def _broken(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    if isinstance(error, EOFError):
        return "the compressed file ends too early"
    return str(error)
