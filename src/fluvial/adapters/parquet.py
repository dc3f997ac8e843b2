"""Parquet files as rows, like those of a CSV. Needs pyarrow, which is an extra."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from fluvial.adapters.files import Format, RowFile
from fluvial.errors import SettingsError

BATCH = 4_096
PARQUET = (".parquet", ".pq")


def rows_of(
    path: str | Path, file_format: Format | Literal["parquet"] | None = None, delimiter: str = ""
) -> RowFile | ParquetRows:
    """The file to be opened, by its format or else by its name."""
    by_name = file_format is None and Path(path).suffix.lower() in PARQUET
    if by_name or file_format == "parquet":
        return ParquetRows(path)
    return RowFile(path, file_format, delimiter)


class ParquetRows:
    """One file, open for reading; the same face as `RowFile` shows of a CSV.

    Raises SettingsError: no pyarrow, no such file, not Parquet.
    """

    format = "parquet"

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.columns: tuple[str, ...] = ()
        self.size = 0
        """Rows: Parquet says so beforehand."""
        self.position = 0
        self._file: Any = None

    def __enter__(self) -> Self:
        try:
            from pyarrow import ArrowException, parquet  # noqa: PLC0415 - an extra, and 50 MB
        except ModuleNotFoundError:
            msg = f"{self.path}: reading Parquet needs pyarrow: pip install 'fluvial[parquet]'"
            raise SettingsError(msg) from None
        self._broken = ArrowException
        try:
            self._file = parquet.ParquetFile(self.path)
        except (OSError, ArrowException) as error:
            raise SettingsError(f"{self.path}: cannot be read as Parquet: {error}") from None
        self.columns = tuple(self._file.schema_arrow.names)
        self.size = self._file.metadata.num_rows
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def cells(self) -> Iterator[list[Any]]:
        """Rows, as the cells of a CSV would say them; numbers stay numbers."""
        try:
            for batch in self._file.iter_batches(BATCH):
                columns = [map(_cell, _in_microseconds(column).to_pylist()) for column in batch.columns]
                for row in zip(*columns, strict=True):
                    self.position += 1
                    yield list(row)
        except (OSError, ValueError, self._broken) as error:
            raise SettingsError(f"{self.path}: after row {self.position}: {error}") from None


def _in_microseconds(column: Any) -> Any:
    """Times as Python has them: pandas writes nanoseconds, which it has not."""
    import pyarrow as pa  # noqa: PLC0415 - as above

    kind = column.type
    if getattr(kind, "unit", None) != "ns":
        return column
    if pa.types.is_timestamp(kind):
        return column.cast(pa.timestamp("us", kind.tz), safe=False)
    return column.cast(pa.duration("us") if pa.types.is_duration(kind) else pa.time64("us"), safe=False)


def _cell(value: Any) -> Any:
    """A text where a CSV would have one: labels are told by their text. A NaN is how pandas says `none`."""
    kind = value.__class__
    if kind is float:
        return value if value == value else None  # noqa: PLR0124 - only a NaN is not itself
    return _TEXTS[kind](value) if kind in _TEXTS else value


_TEXTS: dict[type, Callable[[Any], str]] = {
    int: str,
    bool: lambda value: "true" if value else "false",
    datetime: lambda value: value.isoformat(),
    date: lambda value: value.isoformat(),
    Decimal: str,
    bytes: lambda value: value.decode("utf-8", "replace"),
}
