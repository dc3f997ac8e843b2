"""A first guess at the schema from a file's first thousand rows. A person reads it before it is used."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from fluvial.adapters.files import RowFile
from fluvial.adapters.parquet import ParquetRows
from fluvial.errors import SettingsError
from fluvial.schema import usable_name

JsonPath = tuple[str, ...]

ROWS = 1_000
MAX_LABELS = 50
"""More distinct whole numbers than this are taken for a quantity, not for classes."""
SCALARS = (str, int, float)
"""What a column of Parquet may hold that a feature can be made of."""
MAX_VALUES = 20
"""More distinct strings than this are not listed as a category's set."""


def guess_schema(file: RowFile | ParquetRows, label: str) -> str:
    """The `[schema]` tables as TOML, from an open file. JSON paths of columns are those of `fluvial produce`.

    `label` is the column's name, dotted when nested. Raises SettingsError.
    """
    lines = file.format == "json"
    found = _flattened(file) if isinstance(file, RowFile) and lines else _cells(file, label)
    rows = list(itertools.islice(found, ROWS))
    columns: dict[JsonPath, list[Any]] = {}
    for row in rows:
        for column, value in row.items():
            columns.setdefault(column, []).append(value)
    where = next((column for column in columns if ".".join(column) == (label if lines else "label")), None)
    if where is None:
        shown = (".".join(column) if lines else column[-1] for column in columns)
        names = ", ".join(itertools.islice(shown, 20)) or "none"
        msg = f"{file.path} has no column {label!r} (--label names it); its columns: {names}"
        raise SettingsError(msg)
    said = _label(columns.pop(where), where, in_cells=not lines)
    features = "\n".join(filter(None, (_feature(c, values, len(rows)) for c, values in columns.items())))
    return (
        f"[schema]                        # guessed from {toml(file.path.name)}: read it before you use it\n"
        f'unknown = "ignore"              # other fields may come\n\n'
        f"[schema.features]\n{features}\n\n[schema.label]\n{said}\n\n"
    )


def _cells(file: RowFile | ParquetRows, label: str) -> Iterator[dict[JsonPath, Any]]:
    """Rows with numbers as numbers; an empty cell is absent."""
    paths = [("label",) if name == label else ("features", name) for name in file.columns]
    for row in file.cells():
        named = zip(paths, row, strict=True)
        there = ((path, cell) for path, cell in named if isinstance(cell, SCALARS) and cell != "")
        yield {path: _scalar(cell) for path, cell in there if path[-1]}


def _flattened(file: RowFile) -> Iterator[dict[JsonPath, Any]]:
    for row in file.objects():
        yield dict(_flat(row, ()))


def _flat(row: Mapping[str, Any], path: JsonPath) -> Iterator[tuple[JsonPath, Any]]:
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from _flat(value, (*path, name))
        elif value is not None and not isinstance(value, list):
            yield (*path, name), value


def _scalar(text: Any) -> Any:
    if not isinstance(text, str):
        return text  # Parquet has numbers
    if text.lower() in {"true", "false"}:
        return text.lower() == "true"
    try:
        number = float(text)
    except ValueError:
        return text
    if not math.isfinite(number):
        return text
    return int(text) if text.lstrip("+-").isdecimal() else number


def _feature(path: JsonPath, values: list[Any], rows: int) -> str:
    """One line of `[schema.features]`; empty for a column that no feature can be made of."""
    usual = path[0] == "features" and len(path) == 2
    name = path[1] if usual else ".".join(path)
    if not usable_name(name) or not all(map(usable_name, path)):
        return ""
    kinds = {type(value) for value in values}
    entry: dict[str, Any] = {"type": "number"}
    found = sorted({str(value) for value in values})
    if kinds == {bool}:
        entry["type"] = "boolean"
    elif not kinds <= {int, float}:
        entry["type"] = "category"
        if len(found) <= MAX_VALUES:
            entry["values"] = found
    if len(values) < rows:
        entry["required"] = False
    if not usual:
        entry["path"] = _path(path)
    line = f"{toml(name)} = {toml(entry if len(entry) > 1 else entry['type'])}"
    if entry["type"] == "category" and len(found) > rows / 2:
        return f"#{line}    # nearly all differ: an id or a time?"
    return line


def _path(path: JsonPath) -> str | list[str]:
    return list(path) if any("." in part for part in path) else ".".join(path)


def _label(values: list[Any], where: JsonPath, *, in_cells: bool) -> str:
    """The lines of `[schema.label]`.

    pandas writes a column of classes that had gaps as 0.0 and 1.0. In cells they are read as the classes
    0 and 1; in JSON that goes as it is a number with a point is no class.
    """
    path = _path(where)
    whole = float in map(type, values) and all(_is_whole(value) for value in values)
    if whole and in_cells:
        values = [int(value) for value in values]
    found = sorted(set(values), key=lambda value: (str(type(value)), value))
    kinds = {type(value) for value in found}
    entry: dict[str, Any] = {"type": "multiclass", "path": path, "classes": found}
    if (float in kinds and kinds <= {int, float}) or (kinds == {int} and len(found) > MAX_LABELS):
        entry = {"type": "regression", "path": path}
    elif len(kinds) != 1 or len(found) < 2:
        msg = f"the label has {len(found)} classes of {len(kinds)} types; name another column with --label"
        raise SettingsError(msg)
    elif len(found) == 2:
        entry["type"] = "binary"
    lines = [f"{name} = {toml(value)}" for name, value in entry.items()]
    if whole and not in_cells and len(found) <= MAX_LABELS:
        lines.append(
            "# its numbers are few and whole: if they are classes, write them in the events as 0 and 1"
        )
    return "\n".join(lines)


def _is_whole(value: Any) -> bool:
    return type(value) is int or (type(value) is float and value.is_integer())


def toml(value: Any) -> str:
    """A value as TOML: strings and arrays are JSON's (but for DEL), objects become inline tables."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{name} = {toml(inner)}" for name, inner in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
