"""A denoising trace as something to look at: text pieces on a grid of characters, coloured by the step of their reveal.

Shapes: C canvas positions.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from couplet.evaluation.figures import FAINT, INK, new_figure

MASKED = "░"
FIRST_HUE, LAST_HUE = 0.60, 1.08  # from blue over purple and red to orange: readable on light and dark ground
MOST_FRAMES = 96
COLUMNS = 88
CHARACTER = 0.602 * 10 / 72  # inches: the advance of DejaVu Sans Mono at 10 points
SECONDS = 5.0  # of one run through an exported animation, besides the pause at its end


def step_colour(step: int, steps: int) -> str:
    """The colour of a token revealed at `step` of `steps`, as #rrggbb: blue first, orange last."""
    share = step / max(steps - 1, 1)
    hue = FIRST_HUE + (LAST_HUE - FIRST_HUE) * share
    red, green, blue = colorsys.hls_to_rgb(hue % 1.0, 0.5, 0.78)
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"


@dataclass(frozen=True)
class Trace:
    """A finished denoising of one prompt.

    Attributes:
        prompt: the question.
        pieces: text of each token of the answer, without the tail behind the end token.
        reveal_step: schedule step of each piece.
        steps: steps of the schedule.
    """

    prompt: str
    pieces: tuple[str, ...]
    reveal_step: tuple[int, ...]
    steps: int


class Cell(NamedTuple):
    """A run of characters of one token on one line."""

    position: int
    row: int
    column: int
    text: str


def layout(pieces: Sequence[str], columns: int = COLUMNS) -> list[Cell]:
    """Pieces on a character grid, wrapped at `columns`; a line break shows as ⏎ at the end of its line."""
    cells = []
    row = column = 0
    for position, piece in enumerate(pieces):
        lines = piece.split("\n")
        for number, line in enumerate(lines):
            text = line + ("⏎" if number < len(lines) - 1 else "")
            while text:
                if column >= columns:
                    row, column = row + 1, 0
                part, text = text[: columns - column], text[columns - column :]
                cells.append(Cell(position, row, column, part))
                column += len(part)
            if number < len(lines) - 1:
                row, column = row + 1, 0
    return cells


def frame_steps(trace: Trace, most: int = MOST_FRAMES) -> list[int]:
    """The steps an animation shows: -1 (all masked), then those that reveal something, thinned to at most `most`."""
    steps = sorted(set(trace.reveal_step))
    if len(steps) + 1 > most:
        chosen = np.linspace(0, len(steps) - 1, most - 1).round().astype(int)
        steps = [steps[i] for i in dict.fromkeys(chosen.tolist())]
    return [-1, *steps]


def write_gif(trace: Trace, path: Path) -> Path:
    """An animated GIF that runs once per loop and rests on the finished answer."""
    from matplotlib.animation import PillowWriter
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    cells = layout(trace.pieces)
    rows = 1 + max((cell.row for cell in cells), default=0)
    columns = max([40, *(cell.column + len(cell.text) for cell in cells)])
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
    """An animated SVG without scripts: every token fades in at its step; a viewer without animation shows the answer."""
    cells = layout(trace.pieces)
    rows = 1 + max((cell.row for cell in cells), default=0)
    columns = max([40, *(cell.column + len(cell.text) for cell in cells)])
    width, height = 8.4 * columns + 24, 20 * rows + 52
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" height="{height}">',
        f"<title>{escape(trace.prompt)}</title>",
        f'<rect width="100%" height="100%" rx="8" fill="white" stroke="{FAINT}"/>',
        '<g font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, monospace" font-size="14" xml:space="preserve">',
    ]
    for cell in cells:
        own = trace.reveal_step[cell.position]
        begin = SECONDS * (own + 1) / max(trace.steps, 1)
        x, y = 12 + 8.4 * cell.column, 28 + 20 * cell.row
        span = f'textLength="{8.4 * len(cell.text):.1f}" lengthAdjust="spacingAndGlyphs"'
        mask = escape(MASKED * len(cell.text))
        lines.append(
            f'<text x="{x:.1f}" y="{y}" fill="{FAINT}" opacity="0" {span}>{mask}'
            f'<set attributeName="opacity" to="1" begin="0s" end="{begin:.2f}s"/></text>'
            f'<text x="{x:.1f}" y="{y}" fill="{step_colour(own, trace.steps)}" {span}>{escape(cell.text)}'
            f'<set attributeName="opacity" to="0" begin="0s" end="{begin:.2f}s"/></text>'
        )
    lines.append("</g>")
    bar = 160
    for i in range(32):
        colour = step_colour(i, 32)
        lines.append(
            f'<rect x="{12 + i * bar / 32:.1f}" y="{height - 18}" width="{bar / 32 + 0.5:.1f}" height="6" fill="{colour}"/>'
        )
    lines.append(
        f'<text x="{20 + bar}" y="{height - 11}" font-family="sans-serif" font-size="11" fill="{INK}">'
        f"first to last of {trace.steps} steps</text></svg>"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
