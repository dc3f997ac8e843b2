"""The table of a backtest on a terminal: turned where it is too wide, and never with a cell cut."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fluvial.backtest import Question, Result
from fluvial.backtest.remarks import remarks
from fluvial.backtest.table import columns
from fluvial.types import Task

Grid = Sequence[Sequence[str]]
"""Rows of cells, titles first."""


def show(results: Sequence[Result], question: Question, task: Task) -> None:
    """The table and what its figures leave out, on standard output."""
    head, rows = columns(results, question, task)
    # Only a terminal has a width: a file or a pipe takes lines of any, coloured (FORCE_COLOR) or not.
    terminal = sys.stdout.isatty()
    out = Console()
    fitting = fitted([head, *rows], out.width if terminal else None)
    heading = f"{question.source}: {results[0].events:,} events"
    out.print(heading, style="italic", highlight=False, markup=False, soft_wrap=True)
    for number, grid in enumerate(fitting):
        if number:
            out.print()
        # Without a height rich takes a dumb terminal for one of 80 columns, whatever it was told.
        Console(width=width_of(grid), height=out.height).print(_table(grid), highlight=False)
    for remark in remarks(results, question):
        out.print(remark, highlight=False, markup=False, soft_wrap=not terminal)


def fitted(grid: Grid, width: int | None) -> list[Grid]:
    """A run a row; else a run a column; else a table for each run, which the terminal may have to wrap."""
    turned: Grid = list(zip(*grid, strict=True))
    if width is None or width_of(grid) <= width:
        return [grid]
    if width_of(turned) <= width:
        return [turned]
    head, *runs = grid
    return [list(zip(head, run, strict=True)) for run in runs]


def width_of(grid: Grid) -> int:
    """Each column with a space before it and one behind."""
    return sum(max(map(cell_len, column)) + 2 for column in zip(*grid, strict=True))


def _table(grid: Grid) -> Table:
    head, *rows = grid
    table = Table(box=None)
    for number, title in enumerate(head):
        # As text: a name may hold what rich takes for a style.
        table.add_column(Text(title), justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    return table
