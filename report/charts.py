"""Line charts as inline SVG that take their colours from the page, with a tooltip per step and no script."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from couplet.evaluation.figures import trailing_mean

WIDTH, HEIGHT = 520, 216
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 26
MOST_POINTS = 400
WINDOW = 5  # steps of the trailing mean


@dataclass(frozen=True)
class Series:
    """A line: its name and a value per step (NaN where there is none). `smooth` draws dots and their trailing mean."""

    name: str
    values: np.ndarray
    smooth: bool = False


@dataclass(frozen=True)
class Chart:
    """A titled chart; `share` fixes the range to 0..1 and prints percent."""

    title: str
    series: tuple[Series, ...]
    share: bool = False
    zero: bool = True  # the axis includes zero


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


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round values that cover [low, high]."""
    span = max(high - low, 1e-12)
    raw = span / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def line_chart(chart: Chart, steps: np.ndarray) -> str:
    """The chart as HTML: heading, SVG, legend. Values that are missing leave gaps."""
    shown = [s for s in chart.series if np.isfinite(s.values).any()]
    values = np.concatenate([s.values[np.isfinite(s.values)] for s in shown])
    low, high = (0.0, 1.0) if chart.share else (float(values.min()), float(values.max()))
    if chart.zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low < 1e-12:
        low, high = low - 0.5 * (low < 0), high + 0.5 if high == 0 else high + abs(high) * 0.1
    marks = ticks(low, high)
    low, high = marks[0], marks[-1]
    first, last = float(steps.min()), float(steps.max())

    def x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * ((step - first) / (last - first) if last > first else 0.5)

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - low) / (high - low))

    show = (lambda v: f"{100 * v:.0f}%") if chart.share else number
    body = [*_axes(marks, steps, x, y, show)]
    for index, series in enumerate(shown):
        body += _series(series, index, steps, x, y)
    body += _tooltips(shown, steps, x, percent if chart.share else number)
    legend = "".join(f'<span><i class="b{i}"></i>{escape(s.name)}</span>' for i, s in enumerate(shown))
    return (
        f'<div class="card"><h3>{escape(chart.title)}</h3>'
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(chart.title)}">{"".join(body)}</svg>'
        f'<div class="legend">{legend}</div></div>'
    )


def _axes(
    marks: Sequence[float],
    steps: np.ndarray,
    x: Callable[[float], float],
    y: Callable[[float], float],
    show: Callable[[float], str],
) -> list[str]:
    body = []
    for mark in marks:
        body.append(f'<line class="grid-line" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(mark):.1f}" y2="{y(mark):.1f}"/>')
        body.append(f'<text x="{LEFT - 7}" y="{y(mark) + 4:.1f}" text-anchor="end">{escape(show(mark))}</text>')
    base = HEIGHT - BOTTOM
    body.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>')
    first, last = int(steps.min()), int(steps.max())
    whole = [mark for mark in ticks(first, last, 6) if first <= mark <= last and mark == int(mark)]
    for mark in whole:
        body.append(f'<text x="{x(mark):.1f}" y="{base + 17}" text-anchor="middle">{int(mark)}</text>')
    return body


def _series(
    series: Series, index: int, steps: np.ndarray, x: Callable[[float], float], y: Callable[[float], float]
) -> list[str]:
    values = trailing_mean(series.values, WINDOW) if series.smooth else series.values
    keep = _thin(len(steps))
    body = []
    if series.smooth:
        dots = [(x(steps[i]), y(series.values[i])) for i in keep if np.isfinite(series.values[i])]
        body += [f'<circle class="dot f{index}" cx="{px:.1f}" cy="{py:.1f}" r="2.2"/>' for px, py in dots]
    path, pen = [], "M"
    for i in keep:
        if not np.isfinite(values[i]):
            pen = "M"
            continue
        path.append(f"{pen}{x(steps[i]):.1f} {y(values[i]):.1f}")
        pen = "L"
    if len(path) == 1:
        i = next(i for i in keep if np.isfinite(values[i]))
        return [*body, f'<circle class="f{index}" cx="{x(steps[i]):.1f}" cy="{y(values[i]):.1f}" r="3"/>']
    return [*body, f'<path class="line s{index}" d="{"".join(path)}"/>']


def _tooltips(
    shown: Sequence[Series], steps: np.ndarray, x: Callable[[float], float], show: Callable[[float], str]
) -> list[str]:
    """An invisible column per step whose native tooltip lists the values."""
    keep = _thin(len(steps))
    width = (WIDTH - LEFT - RIGHT) / max(len(keep), 1)
    body = []
    for i in keep:
        lines = [f"step {int(steps[i])}", *(f"{s.name}: {show(float(s.values[i]))}" for s in shown)]
        left = min(max(x(steps[i]) - width / 2, LEFT), WIDTH - RIGHT - width)
        body.append(
            f'<rect class="hit" x="{left:.1f}" y="{TOP}" width="{width:.1f}" height="{HEIGHT - TOP - BOTTOM}">'
            f"<title>{escape(chr(10).join(lines))}</title></rect>"
        )
    return body


def _thin(count: int) -> list[int]:
    """Indices to draw: all, or `MOST_POINTS` of them, evenly, the last one included."""
    if count <= MOST_POINTS:
        return list(range(count))
    return sorted({int(i) for i in np.linspace(0, count - 1, MOST_POINTS)})
