"""Small SVG charts, drawn here and not in the browser, so that they are there without scripts and in print.

A chart has a line or several over steps, perhaps a band around the first, perhaps points with intervals. Colours are
CSS variables of the page (`--c1` …), so light and dark need no second drawing. What the tooltip shows travels in the
`data-chart` attribute.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise

WIDTH, HEIGHT = 520, 236
LEFT, RIGHT, TOP, BOTTOM = 54, 12, 14, 34
MAX_POINTS = 400
"""Most points of a line; with more steps, neighbours are averaged, and the caption says so."""

Values = list[float | None]


@dataclass(frozen=True)
class Line:
    """One line: a label, a value a step (None where there is none), and the number of its colour."""

    label: str
    values: Values
    colour: int = 1
    faint: bool = False
    """A side line, drawn thin and dashed (a maximum, a bound)."""


@dataclass(frozen=True)
class Point:
    """A measurement with its interval, e.g. a held-out evaluation."""

    step: float
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Chart:
    """What to draw. `kind` is how values are written: `share` as per cent, `number` with three digits."""

    title: str
    steps: list[float]
    lines: list[Line]
    kind: str = "number"
    unit: str = ""
    band: tuple[Values, Values] | None = None
    band_label: str = ""
    points: list[Point] = field(default_factory=list)
    points_label: str = ""
    smooth: bool = False
    """Draw the values faintly and their running mean on top (from 30 steps on)."""
    from_zero: bool = False
    stacked: bool = False
    """Bars on top of each other instead of lines."""


def has_values(chart: Chart) -> bool:
    """Whether there is anything to draw."""
    return bool(chart.points) or any(value is not None for line in chart.lines for value in line.values)


def legend(chart: Chart) -> list[tuple[str, str, int]]:
    """(shape, label, colour) of everything drawn."""
    shape = "bar" if chart.stacked else "line"
    entries = [("dash" if line.faint else shape, line.label, line.colour) for line in chart.lines]
    if chart.band:
        entries.append(("band", chart.band_label, chart.lines[0].colour))
    if chart.points:
        entries.append(("point", chart.points_label, _POINT_COLOUR))
    return entries


_POINT_COLOUR = 2


def bucket(steps: list[float], columns: Sequence[Values], most: int = MAX_POINTS) -> tuple[list[float], list[Values]]:
    """Average neighbours until at most `most` steps remain; None does not count in a mean."""
    if len(steps) <= most:
        return steps, [list(column) for column in columns]
    size = math.ceil(len(steps) / most)
    starts = range(0, len(steps), size)
    return (
        [_mean(steps[start : start + size]) or 0.0 for start in starts],
        [[_mean(column[start : start + size]) for start in starts] for column in columns],
    )


def running_mean(values: Values, window: int) -> Values:
    """Centred running mean over `window` values; shorter at the ends; None where there was none."""
    half = window // 2
    return [
        None if value is None else _mean(values[max(0, index - half) : index + half + 1])
        for index, value in enumerate(values)
    ]


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from at most `low` to at least `high`, about so many."""
    span = high - low
    if span <= 0 or not math.isfinite(span):
        return [low]
    rough = span / max(1, about - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    digits = min(320, max(0, 3 - math.floor(math.log10(step))))  # three below the step's first, however small it is
    return [round(index * step, digits) for index in range(first, last + 1)]


def number_text(value: float, kind: str) -> str:
    """A value as the axis shows it."""
    if kind == "share":
        return f"{100 * value:.3g} %"
    size = abs(value)
    if value == 0:
        return "0"
    if size >= 1e6 or size < 1e-3:
        return f"{value:.3g}"
    return f"{value:,.0f}" if size >= 1000 else f"{value:.4g}"


class _Scale:
    """From steps and values to the drawing's coordinates."""

    def __init__(self, steps: Sequence[float], low: float, high: float, stacked: bool) -> None:
        self.first, self.last = (min(steps), max(steps)) if steps else (0.0, 1.0)
        if self.first == self.last:
            self.first, self.last = self.first - 1, self.last + 1
        if stacked:
            half = (self.last - self.first) / (2 * max(1, len(steps) - 1))
            self.first, self.last = self.first - half, self.last + half
        self.low, self.high = low, high

    def x(self, step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (step - self.first) / (self.last - self.first)

    def y(self, value: float) -> float:
        clipped = min(max(value, self.low), self.high)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (clipped - self.low) / (self.high - self.low)


def draw(chart: Chart) -> str:
    """The chart as an `<svg>` element; all text in it is escaped."""
    columns = [line.values for line in chart.lines] + (list(chart.band) if chart.band else [])
    steps, columns = bucket(chart.steps, columns)
    values, band = columns[: len(chart.lines)], columns[len(chart.lines) :]
    y_ticks = _value_ticks(chart, values, band)
    scale = _Scale([*steps, *(p.step for p in chart.points)], y_ticks[0], y_ticks[-1], chart.stacked)
    parts = [_axes(chart, scale, y_ticks)]
    if band:
        parts.append(_band(scale, steps, band[0], band[1], chart.lines[0].colour))
    if chart.stacked:
        parts += _bars(scale, steps, values, chart.lines)
    else:
        for line, column in zip(chart.lines, values, strict=True):
            parts += _line(scale, steps, column, line, chart.smooth)
    parts += [_point(scale, point) for point in chart.points]
    parts.append(f'<line class="cursor" y1="{TOP}" y2="{HEIGHT - BOTTOM}" x1="0" x2="0"/>')
    data = _tooltip_data(chart, scale, steps, values)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(chart.title)} over steps" '
        f'data-chart="{escape(json.dumps(data, separators=(",", ":")))}">{"".join(parts)}</svg>'
    )


def _value_ticks(chart: Chart, values: list[Values], band: list[Values]) -> list[float]:
    columns = [*values, *band]
    if chart.stacked:
        columns = [[sum(v or 0.0 for v in at_step) for at_step in zip(*values, strict=True)]]
    numbers = [value for column in columns for value in column if value is not None]
    for point in chart.points:
        numbers += [v for v in (point.value, point.low, point.high) if v is not None]
    low, high = (min(numbers), max(numbers)) if numbers else (0.0, 1.0)
    if chart.from_zero or chart.stacked:
        low, high = min(0.0, low), max(0.0, high)
    if high - low <= 1e-9 * max(abs(high), abs(low), 1e-12):
        pad = abs(high) * 0.1 or 1.0
        low, high = (low - pad if low != 0 else 0.0), high + pad
    if chart.kind == "share" and low >= 0 and 0.6 < high <= 1:
        return [0.0, 0.25, 0.5, 0.75, 1.0]
    found = ticks(low, high)
    return found if found[-1] > found[0] else [low, high]  # a span beyond floating point


def _axes(chart: Chart, scale: _Scale, y_ticks: list[float]) -> str:
    parts = []
    for tick in y_ticks:
        y = scale.y(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        text = number_text(tick, chart.kind)
        parts.append(f'<text class="tick" x="{LEFT - 7}" y="{y + 3.5:.1f}" text-anchor="end">{text}</text>')
    inside = [tick for tick in ticks(scale.first, scale.last, 6) if scale.first <= tick <= scale.last]
    for tick in (tick for tick in inside if tick == int(tick)):
        x = scale.x(tick)
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{tick:,.0f}</text>'
        )
    parts.append(f'<text class="axis" x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">step</text>')
    if chart.unit:
        parts.append(f'<text class="axis" x="{LEFT}" y="{HEIGHT - 4}">{escape(chart.unit)}</text>')
    return "".join(parts)


def _path(scale: _Scale, steps: list[float], values: Values) -> str:
    """An SVG path that is broken where values are missing; a value between two gaps is a dot."""
    parts, length = [], 0
    for step, value in zip([*steps, 0.0], [*values, None], strict=True):
        if value is None:
            parts += ["h0"] if length == 1 else []  # with round ends, a line of no length is a dot
            length = 0
            continue
        parts.append(f"{'L' if length else 'M'}{scale.x(step):.1f} {scale.y(value):.1f}")
        length += 1
    return "".join(parts)


def _line(scale: _Scale, steps: list[float], values: Values, line: Line, smooth: bool) -> list[str]:
    colour = f"var(--c{line.colour})"
    path = _path(scale, steps, values)
    if line.faint:
        return [f'<path class="faint" stroke="{colour}" d="{path}"/>']
    count = sum(value is not None for value in values)
    if count == 1:
        step, value = next((s, v) for s, v in zip(steps, values, strict=True) if v is not None)
        return [f'<circle fill="{colour}" r="3" cx="{scale.x(step):.1f}" cy="{scale.y(value):.1f}"/>']
    if not smooth or count < 30:
        return [f'<path class="line" stroke="{colour}" d="{path}"/>']
    mean = _path(scale, steps, running_mean(values, window(count)))
    return [
        f'<path class="raw" stroke="{colour}" d="{path}"/>',
        f'<path class="line" stroke="{colour}" d="{mean}"/>',
    ]


def window(count: int) -> int:
    """Values in a running mean of a line of `count` points (odd, so that it is centred)."""
    return max(3, count // 15) | 1


def _band(scale: _Scale, steps: list[float], low: Values, high: Values, colour: int) -> str:
    there = [(s, a, b) for s, a, b in zip(steps, low, high, strict=True) if a is not None and b is not None]
    if len(there) < 2:
        return ""
    upper = "L".join(f"{scale.x(s):.1f} {scale.y(b):.1f}" for s, _, b in there)
    lower = "L".join(f"{scale.x(s):.1f} {scale.y(a):.1f}" for s, a, _ in reversed(there))
    return f'<path class="band" fill="var(--c{colour})" d="M{upper}L{lower}Z"/>'


def _bars(scale: _Scale, steps: list[float], values: list[Values], lines: list[Line]) -> list[str]:
    # Steps may be uneven (a sample of batches, or evaluations in between): the closest two set the width.
    spaces = [scale.x(after) - scale.x(before) for before, after in pairwise(steps)]
    space = min([(WIDTH - LEFT - RIGHT) / max(1, len(steps)), *spaces])
    width = max(0.6, space - min(2.0, space / 4))
    below = [0.0] * len(steps)
    parts = []
    for line, column in zip(lines, values, strict=True):
        path = []
        for index, (step, value) in enumerate(zip(steps, column, strict=True)):
            if value:
                x, base, top = scale.x(step) - width / 2, scale.y(below[index]), scale.y(below[index] + value)
                path.append(f"M{x:.1f} {base:.1f}V{top:.1f}h{width:.1f}V{base:.1f}Z")
                below[index] += value
        parts.append(f'<path fill="var(--c{line.colour})" d="{"".join(path)}"/>')
    return parts


def _point(scale: _Scale, point: Point) -> str:
    x, y, colour = scale.x(point.step), scale.y(point.value), f"var(--c{_POINT_COLOUR})"
    bar = ""
    if point.low is not None and point.high is not None:
        low, high = scale.y(point.low), scale.y(point.high)
        ends = f"M{x - 4:.1f} {low:.1f}h8M{x - 4:.1f} {high:.1f}h8M{x:.1f} {low:.1f}V{high:.1f}"
        bar = f'<path class="interval" stroke="{colour}" d="{ends}"/>'
    return f'{bar}<circle class="point" fill="{colour}" r="4" cx="{x:.1f}" cy="{y:.1f}"/>'


def _tooltip_data(chart: Chart, scale: _Scale, steps: list[float], values: list[Values]) -> dict[str, object]:
    """Coordinates and texts for the pointer: one entry a step, points joined to the nearest."""
    entry: dict[float, list[list[object]]] = {}
    for index, step in enumerate(steps):
        shown = [
            [line.label, number_text(value, chart.kind), line.colour]
            for line, column in zip(chart.lines, values, strict=True)
            if (value := column[index]) is not None
        ]
        if shown:
            entry.setdefault(step, []).extend(shown)
    for point in chart.points:
        text = number_text(point.value, chart.kind)
        if point.low is not None and point.high is not None:
            text += f" ({number_text(point.low, chart.kind)} to {number_text(point.high, chart.kind)})"
        entry.setdefault(point.step, []).append([chart.points_label, text, _POINT_COLOUR])
    write: Callable[[float], str] = lambda step: f"{step:,.0f}"  # noqa: E731
    return {"w": WIDTH, "at": [[round(scale.x(step), 1), write(step), rows] for step, rows in sorted(entry.items())]}
