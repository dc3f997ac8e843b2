"""Two curves in braille dots, with marks underneath: pure, from numbers to styled characters.

A character cell holds two by four dots. Where both curves meet in a cell the worker's colour wins; the
twin is dotted besides, so that the two are told apart without colours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from operator import itemgetter

from rich.text import Text

Curve = Sequence[float | None]
"""One value for each column of dots; None where nothing is known yet."""

GUTTER = 8
"""Columns left of the plot, for the scale."""
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # by column, from the top: Unicode's braille
_EMPTY = 0x2800


def sampled(at: Callable[[int], float | None], events: int, known: int, columns: int) -> list[float | None]:
    """`at(event)` for each of `columns` columns that span `events`, as far as they are known."""
    ends = ((column + 1) * events // columns for column in range(columns))
    return [at(end) if end <= known else None for end in ends]


def column_of(event: int, events: int, width: int) -> int:
    """Which of `width` columns an event falls into."""
    return min(width - 1, max(0, event * width // max(1, events)))


def lowest(curves: Iterable[Curve], least: float = 0.5) -> float:
    """Where the scale begins: a multiple of ten per cent below everything, `least` at the most."""
    known = [value for curve in curves for value in curve if value is not None]
    return max(0.0, min(least, int(min(known, default=least) * 10.0) / 10.0))


def plot(worker: Curve, twin: Curve, rows: int, low: float, changes: Iterable[int]) -> list[Text]:
    """Draw both curves, from `low` to 1, in `rows` lines; `changes` are columns of characters."""
    width = len(worker) // 2
    ours, other = _cells(worker, rows, low), _cells(twin, rows, low, dotted=True)
    at = set(changes)
    marked = [column in at for column in range(width)]
    scale = _scale(rows, low)
    lines = []
    for row in range(rows):
        line = Text(scale[row], style="dim")
        cells = map(_cell, ours[row], other[row], marked)
        # Runs of one style: a span for every character would take most of the time of a frame.
        for style, run in groupby(cells, key=itemgetter(1)):
            line.append("".join(sign for sign, _ in run), style)
        lines.append(line)
    return lines


def _cell(ours: int, other: int, marked: bool) -> tuple[str, str]:
    """One character and its style."""
    if ours:
        return chr(_EMPTY | ours | other), "not dim bold green"
    if other:
        return chr(_EMPTY | other), "not dim red"
    return ("┊", "not dim yellow") if marked else (" ", "")


def _cells(curve: Curve, rows: int, low: float, *, dotted: bool = False) -> list[list[int]]:
    """The dots of a curve by line and column, each joined to the one before; every second if `dotted`."""
    cells = [[0] * (len(curve) // 2) for _ in range(rows)]
    last = -1
    for x, value in enumerate(curve[: len(curve) // 2 * 2]):
        if value is None:
            last = -1
            continue
        y = _height(value, rows, low)
        for height in range(min(y, last), max(y, last) + 1) if last >= 0 else (y,):
            if not dotted or (x + height) % 2 == 0:
                cells[height // 4][x // 2] |= _DOTS[x % 2][height % 4]
        last = y
    return cells


def _scale(rows: int, low: float) -> list[str]:
    """What stands left of each line: a round percentage that lies in it, if one does."""
    names = [" " * GUTTER] * rows
    # At least a line and a half apart.
    step = next((s for s in (10, 20) if rows * s >= 150 * (1.0 - low)), 50)
    for value in range(0, 101, step):
        if value >= 100 * low:
            names[_height(value / 100, rows, low) // 4] = f"{value:5d} % "
    return names


def _height(value: float, rows: int, low: float) -> int:
    """How many dots from the top a value is drawn."""
    top = 4 * rows - 1
    return top - round((min(1.0, max(low, value)) - low) / (1.0 - low) * top)


def marks(name: str, columns: Iterable[int], width: int, sign: str, style: str) -> Text:
    """One line of marks under the plot, named at its left."""
    line = Text(f"{name:>{GUTTER - 1}} ", style="dim")
    wanted = set(columns)
    for there, run in groupby(range(width), key=wanted.__contains__):
        line.append((sign if there else " ") * len(tuple(run)), f"not dim {style}" if there else "")
    return line
