"""Charts as inline SVG, laid out here: no script, no font, no file beside the page."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 56, 150, 12, 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A named curve through (x, y) points in order of x."""

    name: str
    colour: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A mark; its label shows on hover."""

    x: float
    y: float
    colour: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Axis:
    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        value = math.log10(value) if self.log else value
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        if self.log:
            return [10.0**power for power in range(math.ceil(self.low), math.floor(self.high) + 1)]
        return [self.low + step * (self.high - self.low) / 4 for step in range(5)]


def line_chart(series: Sequence[Series], *, x_label: str, y_label: str) -> str:
    """Step-free lines with a legend. Scores run from 0 to 1."""
    x = _x_axis([point[0] for each in series for point in each.points], log=False)
    y = _score_axis()
    marks = []
    for index, each in enumerate(series):
        path = " ".join(f"{x.at(a):.1f},{y.at(b):.1f}" for a, b in each.points)
        marks.append(f'<polyline points="{path}" fill="none" stroke="{each.colour}" stroke-width="2"/>')
        height = TOP + 14 + 16 * index
        marks.append(
            f'<rect x="{WIDTH - RIGHT + 12}" y="{height - 8}" width="10" height="10" fill="{each.colour}"/>'
            f'<text x="{WIDTH - RIGHT + 28}" y="{height + 1}">{escape(each.name)}</text>'
        )
    return _frame(x, y, x_label, y_label, marks)


def scatter_chart(points: Sequence[Point], *, x_label: str, y_label: str) -> str:
    """Marks over a logarithmic x axis. Scores run from 0 to 1."""
    x, y = _x_axis([point.x for point in points], log=True), _score_axis()
    marks = [
        f'<circle cx="{x.at(point.x):.1f}" cy="{y.at(point.y):.1f}" r="4.5" fill="{point.colour}" fill-opacity="0.75">'
        f"<title>{escape(point.label)}: {point.y:.3f}</title></circle>"
        for point in points
    ]
    return _frame(x, y, x_label, y_label, marks)


def _x_axis(values: Sequence[float], *, log: bool) -> _Axis:
    low, high = min(values), max(values)
    if log:
        low, high = math.floor(math.log10(low)), math.ceil(math.log10(high) + 1e-9)
    return _Axis(low=low, high=high, start=LEFT, end=WIDTH - RIGHT, log=log)


def _score_axis() -> _Axis:
    return _Axis(low=0.0, high=1.0, start=HEIGHT - BOTTOM, end=TOP)


def _frame(x: _Axis, y: _Axis, x_label: str, y_label: str, marks: Sequence[str]) -> str:
    lines = []
    for tick in y.ticks():
        at = y.at(tick)
        lines.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="#8884"/>')
        lines.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{tick:.2g}</text>')
    for tick in x.ticks():
        at = x.at(tick)
        lines.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{tick:,.0f}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    lines.append(f'<text x="{middle:.0f}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>')
    lines.append(
        f'<text x="14" y="{(HEIGHT - BOTTOM) / 2:.0f}" text-anchor="middle" '
        f'transform="rotate(-90 14 {(HEIGHT - BOTTOM) / 2:.0f})">{escape(y_label)}</text>'
    )
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img">{"".join([*lines, *marks])}</svg>'
