"""A denoising trace as a file: an animated GIF or SVG."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from couplet.evaluation.figures import FAINT, INK, new_figure
from couplet.report.render import template
from couplet.report.trace import MASKED, Cell, Trace, frame_steps, layout, step_colour

CHARACTER = 0.602 * 10 / 72  # inches: the advance of DejaVu Sans Mono at 10 points
ADVANCE = 8.4  # pixels between two characters of the SVG
NO_BREAK_SPACE = "\u00a0"  # viewers collapse and trim ordinary spaces, and with them the indentation of code
NOT_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")  # characters that no XML file may hold
SECONDS = 5.0  # of one run through an exported animation, besides the pause at its end


def _grid(trace: Trace) -> tuple[list[Cell], int, int]:
    """The cells of a trace, and how many rows and columns of characters they take."""
    cells = layout(trace.pieces)
    rows = 1 + max((cell.row for cell in cells), default=0)
    return cells, rows, max([40, *(cell.column + len(cell.text) for cell in cells)])


def write_gif(trace: Trace, path: Path) -> Path:
    """An animated GIF that runs once per loop and rests on the finished answer."""
    from matplotlib.animation import PillowWriter
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    cells, rows, columns = _grid(trace)
    width, height = CHARACTER * columns + 0.4, 0.2 * rows + 0.65
    figure, (axes,) = new_figure(width=width, height=height)
    FigureCanvasAgg(figure)
    figure.set_layout_engine("none")
    axes.set_position((0.2 / width, 0.0, CHARACTER * columns / width, 1.0))
    axes.set_axis_off()
    axes.set_xlim(0, columns)
    axes.set_ylim(rows, -2.2)
    title = axes.text(0, -1.6, "", color=INK, fontsize=9, va="center", parse_math=False)
    drawn = [
        axes.text(cell.column, cell.row, "", family="monospace", fontsize=10, va="center", parse_math=False)
        for cell in cells
    ]
    steps = frame_steps(trace)
    rate = max(1, round(len(steps) / SECONDS))
    writer = PillowWriter(fps=rate)
    path.parent.mkdir(parents=True, exist_ok=True)
    with writer.saving(figure, path, dpi=110):
        for step in [*steps, *[steps[-1]] * 2 * rate]:
            revealed = sum(s <= step for s in trace.reveal_step)
            title.set_text(
                f"step {max(step, 0) + (step >= 0)} of {trace.steps}, {revealed} of {len(trace.pieces)} tokens"
            )
            for artist, cell in zip(drawn, cells):
                _draw(artist, cell, trace, step)
            writer.grab_frame()
    return path


def _draw(artist: Any, cell: Cell, trace: Trace, step: int) -> None:
    own = trace.reveal_step[cell.position]
    shown = own <= step
    artist.set_text(cell.text if shown else MASKED * len(cell.text))
    artist.set_color(step_colour(own, trace.steps) if shown else FAINT)


def write_svg(trace: Trace, path: Path) -> Path:
    """An animated SVG without scripts: every token appears at its step; a viewer without animation shows the answer."""
    cells, rows, columns = _grid(trace)
    text = template("trace.svg").render(
        prompt=NOT_XML.sub("\ufffd", trace.prompt),
        steps=trace.steps,
        width=f"{ADVANCE * columns + 24:.0f}",
        height=20 * rows + 52,
        glyphs=[_glyphs(cell, trace) for cell in cells],
        legend=[(f"{12 + 5 * i}", step_colour(i, 32)) for i in range(32)],
        faint=FAINT,
        ink=INK,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def _glyphs(cell: Cell, trace: Trace) -> dict[str, str | int]:
    """A cell in the coordinates of the SVG, and when it is revealed (seconds)."""
    own = trace.reveal_step[cell.position]
    return {
        "x": f"{12 + ADVANCE * cell.column:.1f}",
        "y": 28 + 20 * cell.row,
        "width": f"{ADVANCE * len(cell.text):.1f}",
        "text": NOT_XML.sub("\ufffd", cell.text).replace(" ", NO_BREAK_SPACE),
        "mask": MASKED * len(cell.text),
        "colour": step_colour(own, trace.steps),
        "begin": f"{SECONDS * (own + 1) / max(trace.steps, 1):.2f}",
    }
