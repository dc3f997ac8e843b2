"""Charts as SVG text: lines over events, a strip of marks below them, stacked shares.

Each is drawn twice, for a wide page and for a phone, because text in a scaled drawing scales with it.
Colours are classes, so that the page's style decides them in light, in dark and on paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import NamedTuple

WIDE, NARROW = 760, 360
SERIES = 8
"""Colours there are; with more series they repeat, with another dash."""
DASHES = ("", "7 4", "2 3", "9 3 2 3")


class Line(NamedTuple):
    """One series of (x, y)."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: int


class Mark(NamedTuple):
    """Something that happened at x."""

    at: float
    kind: str
    """`drift` or `version`; `rose` or `fell`."""
    says: str


class Strip(NamedTuple):
    """Marks of one series, in a row of their own."""

    name: str
    marks: Sequence[Mark]
    colour: int


class Frame:
    """Where the plot lies and how values become places."""

    def __init__(self, width: int, height: int, xs: tuple[float, float], ys: tuple[float, float]) -> None:
        self.width, self.height = width, height
        self.left, self.right, self.top, self.bottom = 50.0, width - 12.0, 10.0, float(height)
        self.xs, self.ys = xs, ys

    def x(self, value: float) -> float:
        """From events to the drawing."""
        low, high = self.xs
        return self.left + (value - low) / ((high - low) or 1.0) * (self.right - self.left)

    def y(self, value: float) -> float:
        """From the metric to the drawing."""
        low, high = self.ys
        return self.bottom - (value - low) / ((high - low) or 1.0) * (self.bottom - self.top)


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round values between two, about so many."""
    span = (high - low) or abs(high) or 1.0
    raw = span / max(1, about)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1.0, 2.0, 2.5, 5.0, 10.0) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def count(value: float) -> str:
    """Events on an axis."""
    if value >= 1e6:
        return f"{value / 1e6:g} M"
    return f"{value / 1e3:g} k" if value >= 1e3 else f"{value:g}"


def lines(
    series: Sequence[Line], strips: Sequence[Strip], drifts: Sequence[int], label: str, *, percent: bool
) -> str:
    """Curves of a metric over events, marks below; a dashed upright at each true drift."""
    return _both(lambda width: _lines(width, series, strips, drifts, label, percent=percent))


def shares(names: Sequence[str], samples: Sequence[tuple[float, Sequence[float]]], label: str) -> str:
    """Parts of one whole over events, stacked."""
    return _both(lambda width: _shares(width, names, samples, label))


def rails(strips: Sequence[Strip], end: float, label: str) -> str:
    """A named row for each strip, its marks over events up to `end`."""
    return _both(lambda width: _rails(width, strips, end, label))


def _both(draw: Callable[[int], str]) -> str:
    return f'<div class="wide">{draw(WIDE)}</div><div class="narrow" aria-hidden="true">{draw(NARROW)}</div>'


def _range(values: Sequence[float]) -> tuple[float, float]:
    """A little more than the values span."""
    low, high = min(values), max(values)
    pad = (high - low) * 0.06 or abs(high) * 0.05 or 1.0
    return low - pad, high + pad


def _lines(
    width: int,
    series: Sequence[Line],
    strips: Sequence[Strip],
    drifts: Sequence[int],
    label: str,
    *,
    percent: bool,
) -> str:
    points = [p for line in series for p in line.points] or [(0.0, 0.0)]
    low, high = _range([y for _, y in points])
    # What happened after a curve's end, where a model fell silent, has its place too.
    end = max([x for x, _ in points] + [mark.at for strip in strips for mark in strip.marks] + [*drifts])
    frame = Frame(width, 250, (0.0, end), (max(low, 0.0), min(high, 1.0) if percent else high))
    out = [*_grid(frame, percent=percent, below=18.0 * len(strips))]
    for at in drifts:
        x = frame.x(at)
        out.append(
            f'<line class="truth" x1="{x:.1f}" x2="{x:.1f}" y1="{frame.top}" y2="{frame.bottom}">'
            f"<title>true drift at {at:,}</title></line>"
        )
    for line in series:
        path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in line.points)
        dash = DASHES[line.colour // SERIES % len(DASHES)]
        out.append(
            f'<polyline class="line s{line.colour % SERIES}" stroke-dasharray="{dash}" points="{path}">'
            f"<title>{escape(line.name)}</title></polyline>"
        )
    for row, strip in enumerate(strips):
        out += _strip(frame, strip, frame.bottom + 12.0 + 18.0 * row)
    return _svg(frame, out, label, below=18.0 * len(strips))


def _rails(width: int, strips: Sequence[Strip], end: float, label: str) -> str:
    frame = Frame(width, 8 + 36 * len(strips), (0.0, end), (0.0, 1.0))
    out = [*_events_axis(frame, below=0.0)]
    for row, strip in enumerate(strips):
        y = 18.0 + 36.0 * row
        out.append(f'<text class="tick" x="{frame.left}" y="{y:.1f}">{escape(strip.name)}</text>')
        out += _marks(frame, strip, y + 13.0)
    return _svg(frame, out, label, below=0.0)


def _strip(frame: Frame, strip: Strip, y: float) -> Iterator[str]:
    """A row of marks, with its series' colour before it."""
    colour = f"s{strip.colour % SERIES}"
    yield f'<line class="line {colour}" x1="{frame.left - 22}" x2="{frame.left - 8}" y1="{y}" y2="{y}"/>'
    yield from _marks(frame, strip, y)


def _marks(frame: Frame, strip: Strip, y: float) -> Iterator[str]:
    """A rail and its marks: a bar for a version, a triangle for the others, head down for what fell."""
    yield f'<line class="rail" x1="{frame.left}" x2="{frame.right}" y1="{y:.1f}" y2="{y:.1f}"/>'
    colour = f"s{strip.colour % SERIES}"
    for mark in strip.marks:
        x, says = frame.x(mark.at), f"<title>{escape(mark.says)}</title>"
        if mark.kind == "version":
            place = f'x1="{x:.1f}" x2="{x:.1f}" y1="{y - 6:.1f}" y2="{y + 6:.1f}"'
            yield f'<line class="version {colour}" {place}>{says}</line>'
        else:
            shape = (
                f"M{x:.1f} {y + 5:.1f}l4 -8h-8z" if mark.kind == "fell" else f"M{x:.1f} {y - 5:.1f}l4 8h-8z"
            )
            yield f'<path class="mark {colour}" d="{shape}">{says}</path>'


def _shares(
    width: int, names: Sequence[str], samples: Sequence[tuple[float, Sequence[float]]], label: str
) -> str:
    frame = Frame(width, 150, (0.0, max(x for x, _ in samples)), (0.0, 1.0))
    floor = [0.0] * len(samples)
    out = []
    for index, name in enumerate(names):
        roof = [base + parts[index] for base, (_, parts) in zip(floor, samples, strict=True)]
        places = [frame.x(x) for x, _ in samples]
        upper = [f"{x:.1f},{frame.y(y):.1f}" for x, y in zip(places, roof, strict=True)]
        lower = [f"{x:.1f},{frame.y(y):.1f}" for x, y in zip(places, floor, strict=True)]
        out.append(
            f'<polygon class="area s{index % SERIES}" points="{" ".join([*upper, *reversed(lower)])}">'
            f"<title>{escape(name)}</title></polygon>"
        )
        floor = roof
    return _svg(frame, [*out, *_grid(frame, percent=True, below=0.0, inside=False)], label, below=0.0)


def _grid(frame: Frame, *, percent: bool, below: float, inside: bool = True) -> Iterator[str]:
    """Axes, their ticks and what they count."""
    for y in ticks(*frame.ys, 4):
        place = frame.y(y)
        text = f"{100 * y:g} %" if percent else f"{y:g}"
        end = frame.right if inside else frame.left + 4.0
        yield f'<line class="grid" x1="{frame.left}" x2="{end}" y1="{place:.1f}" y2="{place:.1f}"/>'
        yield f'<text class="tick" x="{frame.left - 6}" y="{place + 4:.1f}" text-anchor="end">{text}</text>'
    yield from _events_axis(frame, below)


def _events_axis(frame: Frame, below: float) -> Iterator[str]:
    base = frame.bottom + below
    yield f'<line class="axis" x1="{frame.left}" x2="{frame.right}" y1="{frame.bottom}" y2="{frame.bottom}"/>'
    for x in ticks(*frame.xs, 6 if frame.width == WIDE else 3):
        place = frame.x(x)
        # The last one would be cut off in the middle of its text.
        anchor = "middle" if place <= frame.right - 14.0 else "end"
        yield _tick(min(place, frame.right), base + 20.0, count(x), anchor)
    yield _tick((frame.left + frame.right) / 2.0, base + 38.0, "labelled events")


def _tick(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text class="tick" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def _svg(frame: Frame, parts: Sequence[str], label: str, *, below: float) -> str:
    height = frame.height + below + 46.0
    return (
        f'<svg viewBox="0 0 {frame.width} {height:g}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>"
    )


def swatch(index: int, *, area: bool = False) -> str:
    """A legend's sample of a series."""
    if area:
        box = f'<rect class="area s{index % SERIES}" width="14" height="10"/>'
        return f'<svg class="swatch" viewBox="0 0 14 10" aria-hidden="true">{box}</svg>'
    dash = DASHES[index // SERIES % len(DASHES)]
    return (
        f'<svg class="swatch" viewBox="0 0 24 10" aria-hidden="true"><line class="line s{index % SERIES}" '
        f'stroke-dasharray="{dash}" x1="0" x2="24" y1="5" y2="5"/></svg>'
    )
