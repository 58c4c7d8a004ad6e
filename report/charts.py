"""Geometry of the charts: scales, lines, bars and tooltips as numbers that `templates/chart.svg` draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from couplet.evaluation.figures import trailing_mean

WIDTH, HEIGHT = 520, 216
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 26
MOST_POINTS = 400
WINDOW = 5  # steps of the trailing mean
SPIKE = 30.0  # a largest value of so many medians is drawn on a logarithmic axis
BINS = 24  # of a histogram


@dataclass(frozen=True)
class Series:
    """A line: its name and a value per step (NaN if there is none). `smooth` draws dots and their trailing mean."""

    name: str
    values: np.ndarray
    smooth: bool = False


@dataclass(frozen=True)
class Chart:
    """A titled chart of lines.

    Attributes:
        title: heading.
        series: the lines.
        share: the values are shares: the axis is 0% to 100%.
        zero: a linear axis includes zero.
        spiky: spikes are expected; the axis is logarithmic if the largest value is at least `SPIKE` medians.
    """

    title: str
    series: tuple[Series, ...]
    share: bool = False
    zero: bool = True
    spiky: bool = False


@dataclass(frozen=True)
class Line:
    """A drawn series: the `d` of its path (empty for a single value), and the circles: (x, y, radius)."""

    name: str
    path: str
    dots: tuple[tuple[float, float, float], ...] = ()


@dataclass(frozen=True)
class Box:
    """A rectangle with its tooltip. `series` numbers its colour; None is an invisible column of a line chart."""

    x: float
    y: float
    width: float
    height: float
    tooltip: str
    series: int | None = None


@dataclass(frozen=True)
class Drawing:
    """A chart in the coordinates of its SVG, `WIDTH` by `HEIGHT`: ticks as (place, label), lines, boxes, legend."""

    title: str
    rows: tuple[tuple[float, str], ...]
    columns: tuple[tuple[float, str], ...]
    legend: tuple[str, ...]
    lines: tuple[Line, ...] = ()
    boxes: tuple[Box, ...] = ()
    log: bool = False


@dataclass(frozen=True)
class Scale:
    """Values to coordinates, linear or logarithmic; a logarithmic scale puts what is below `low` at `low`."""

    low: float
    high: float
    first: float
    last: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, low))
        share = (value - low) / (high - low) if high > low else 0.5
        return round(self.first + (self.last - self.first) * share, 1)


def number(value: float) -> str:
    """A value with about three significant digits."""
    if not math.isfinite(value):
        return "–"
    if value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f"{value:.1e}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3f}".rstrip("0").rstrip(".") if abs(value) < 10 else f"{value:.1f}".rstrip("0").rstrip(".")


def percent(value: float) -> str:
    """A share as percent."""
    return "–" if not math.isfinite(value) else f"{100 * value:.1f}%"


def _whole_percent(value: float) -> str:
    return f"{100 * value:.0f}%"


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round values that cover [low, high]."""
    span = max(high - low, 1e-12)
    raw = span / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def decades(low: float, high: float, most: int = 6) -> list[float]:
    """Powers of ten that cover [low, high], at most about `most` of them; both are positive."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    last = max(last, first + 1)
    stride = -(-(last - first) // most)
    last = first + stride * -(-(last - first) // stride)
    return [10.0**power for power in range(first, last + 1, stride)]


def line_chart(chart: Chart, steps: np.ndarray) -> Drawing:
    """The chart against learner steps. Missing values leave gaps; at least one value must be finite."""
    shown = [series for series in chart.series if np.isfinite(series.values).any()]
    values = np.concatenate([series.values[np.isfinite(series.values)] for series in shown])
    log = chart.spiky and _has_spike(shown)
    marks = decades(float(values[values > 0].min()), float(values.max())) if log else _linear_marks(chart, values)
    x = Scale(float(steps.min()), float(steps.max()), LEFT, WIDTH - RIGHT)
    y = Scale(marks[0], marks[-1], HEIGHT - BOTTOM, TOP, log)
    kept = _thinned(len(steps))
    whole = [mark for mark in ticks(x.low, x.high, 6) if x.low <= mark <= x.high and mark == int(mark)]
    return Drawing(
        chart.title,
        tuple((y(mark), _whole_percent(mark) if chart.share else number(mark)) for mark in marks),
        tuple((x(mark), str(int(mark))) for mark in whole),
        tuple(series.name for series in shown),
        tuple(_line(series, kept, steps, x, y) for series in shown),
        tuple(_tooltips(shown, kept, steps, x, percent if chart.share else number)),
        log,
    )


def histogram(title: str, samples: dict[str, np.ndarray]) -> Drawing:
    """Shares of the values in equal bins, the bars of the sets side by side; values are finite, no set is empty."""
    everything = np.concatenate(list(samples.values()))
    marks = ticks(float(everything.min()), float(everything.max()), 6)
    if len(marks) < 2:
        marks = [marks[0] - 0.5, marks[0] + 0.5]
    edges = np.linspace(marks[0], marks[-1], BINS + 1)
    shares = {name: np.histogram(values, edges)[0] / len(values) for name, values in samples.items()}
    rows = ticks(0.0, max(float(share.max()) for share in shares.values()))
    x = Scale(marks[0], marks[-1], LEFT, WIDTH - RIGHT)
    y = Scale(0.0, rows[-1], HEIGHT - BOTTOM, TOP)
    width = round((WIDTH - LEFT - RIGHT) / BINS / len(samples) - 1.0, 1)
    boxes = [
        Box(
            round(x(edges[i]) + 0.5 + index * (width + 1.0), 1),
            y(share[i]),
            width,
            round(y(0.0) - y(share[i]), 1),
            f"{name}\n{number(edges[i])} to {number(edges[i + 1])}: {percent(float(share[i]))}",
            index,
        )
        for index, (name, share) in enumerate(shares.items())
        for i in range(BINS)
        if share[i] > 0
    ]
    return Drawing(
        title,
        tuple((y(mark), _whole_percent(mark)) for mark in rows),
        tuple((x(mark), number(mark)) for mark in marks),
        tuple(f"{name}: {len(values)}" for name, values in samples.items()),
        boxes=tuple(boxes),
    )


def _has_spike(shown: Sequence[Series]) -> bool:
    """Whether some series of values that are never negative has a largest value of `SPIKE` positive medians."""
    for series in shown:
        values = series.values[np.isfinite(series.values)]
        if (values < 0).any():
            return False
    positive = [series.values[series.values > 0] for series in shown]
    return any(len(values) and values.max() >= SPIKE * np.median(values) for values in positive)


def _linear_marks(chart: Chart, values: np.ndarray) -> list[float]:
    low, high = (0.0, 1.0) if chart.share else (float(values.min()), float(values.max()))
    if chart.zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low < 1e-12:
        low, high = low - 0.5 * (low < 0), high + 0.5 if high == 0 else high + abs(high) * 0.1
    return ticks(low, high)


def _line(series: Series, kept: Sequence[int], steps: np.ndarray, x: Scale, y: Scale) -> Line:
    values = trailing_mean(series.values, WINDOW) if series.smooth else series.values
    finite = [i for i in kept if np.isfinite(values[i])]
    dots = [(x(steps[i]), y(series.values[i]), 2.2) for i in kept if series.smooth and np.isfinite(series.values[i])]
    if len(finite) == 1:
        return Line(series.name, "", (*dots, (x(steps[finite[0]]), y(values[finite[0]]), 3.0)))
    path, pen = [], "M"
    for i in kept:
        if np.isfinite(values[i]):
            path.append(f"{pen}{x(steps[i])} {y(values[i])}")
        pen = "L" if np.isfinite(values[i]) else "M"
    return Line(series.name, "".join(path), tuple(dots))


def _tooltips(
    shown: Sequence[Series], kept: Sequence[int], steps: np.ndarray, x: Scale, show: Callable[[float], str]
) -> list[Box]:
    """A column per step that lists the values."""
    width = round((WIDTH - LEFT - RIGHT) / len(kept), 1)
    boxes = []
    for i in kept:
        lines = [f"step {int(steps[i])}", *(f"{series.name}: {show(float(series.values[i]))}" for series in shown)]
        left = round(min(max(x(steps[i]) - width / 2, LEFT), WIDTH - RIGHT - width), 1)
        boxes.append(Box(left, TOP, width, HEIGHT - TOP - BOTTOM, "\n".join(lines)))
    return boxes


def _thinned(count: int) -> list[int]:
    """Indices to draw: all, or `MOST_POINTS` of them, evenly, the last one included."""
    if count <= MOST_POINTS:
        return list(range(count))
    return sorted({int(i) for i in np.linspace(0, count - 1, MOST_POINTS)})
