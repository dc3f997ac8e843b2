"""The report's part on features and predictions that moved: which, how far, which way, when."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import msgspec

from fluvial.backtest.drawing import Mark, Strip, rails
from fluvial.backtest.results import Result
from fluvial.types import Moved

ROWS, LINES = 12, 60
"""Of the chart and of the table at most."""


class Movement(msgspec.Struct, frozen=True):
    """One thing that moved in one drift of the data."""

    at: int
    since: int
    plane: str
    moved: Moved

    @property
    def size(self) -> float:
        """How far, in standard deviations: of the ranks' normal scores, or of the share's indicator."""
        if self.moved.what in {"mean", "spread"}:
            return abs(self.moved.distance)
        share = min(max(self.moved.before, 0.001), 0.999)
        return abs(self.moved.distance) / math.sqrt(share * (1.0 - share))

    @property
    def name(self) -> str:
        """For people."""
        return self.moved.shown if self.plane == "features" else f"{self.moved.shown}, answered"

    @property
    def way(self) -> str:
        """As numbers."""
        unit = " deviations" if self.moved.what in {"mean", "spread"} else ""
        return f"{self.moved.before:.4g} to {self.moved.after:.4g} ({self.moved.distance:+.2f}{unit})"


def section(results: Sequence[Result]) -> str:
    """The features are the same whatever the model; of the first run that was told of any."""
    result = next((r for r in results if any(d["moved"] for d in r.drifts)), None)
    if result is None:
        return ""
    found = movements(result.drifts)
    whose = f" Those of {escape(result.name)}." if len(results) > 1 else ""
    end = max([found[-1].at, *(at for at, _ in result.curve[-1:])])
    chart = rails(strips(found), float(end), "what moved")
    return (
        f"<section><h2>Features and predictions that moved</h2><figure style='margin:0'>{chart}</figure>"
        f'<p class="note">The farthest first, at most {ROWS}. A triangle with its head up says that it rose, '
        f"and stands where it was noticed.{whose}</p>{_table(found)}</section>"
    )


def movements(drifts: Sequence[Mapping[str, Any]]) -> list[Movement]:
    """What moved in each drift, in the order of events."""
    return [
        Movement(drift["at"], drift["since"], drift["plane"], msgspec.convert(moved, Moved))
        for drift in drifts
        for moved in drift["moved"]
    ]


def strips(found: Sequence[Movement]) -> list[Strip]:
    """A row for each thing that moved, the farthest first."""
    rows: dict[str, list[Movement]] = {}
    for each in found:
        rows.setdefault(each.name, []).append(each)
    ranked = sorted(rows.items(), key=lambda row: (-max(each.size for each in row[1]), row[0]))
    return [Strip(name, [_mark(each) for each in row], 0) for name, row in ranked[:ROWS]]


def _mark(each: Movement) -> Mark:
    says = f"{each.way}, noticed at {each.at:,}, since {each.since:,}"
    return Mark(each.at, "rose" if each.moved.distance >= 0.0 else "fell", says)


def _table(found: Sequence[Movement]) -> str:
    titles = "<th>labelled events</th><th>since</th>" + "".join(
        f'<th class="text">{title}</th>' for title in ("what", "how far")
    )
    rows = "".join(
        f'<tr><td>{each.at:,}</td><td>{each.since:,}</td><td class="text">{escape(each.name)}</td>'
        f'<td class="text">{each.way}</td></tr>'
        for each in found[:LINES]
    )
    more = f'<p class="note">The first {LINES} of {len(found):,}.</p>' if len(found) > LINES else ""
    table = f'<div class="scroll"><table><tr>{titles}</tr>{rows}</table></div>{more}'
    return f"<details><summary>each of them, as numbers</summary>{table}</details>"
