"""A denoising trace: tokens, the colour of the step that revealed each, and their places on a grid of characters."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from couplet.data.tokenizer import Tokenizer
from couplet.data.trajectory import answer_length

MASKED = "░"
END = "■"  # shown for an end token
FIRST_HUE, LAST_HUE = 0.60, 1.08  # blue, orange
MOST_BYTES = 4  # of a character in UTF-8
MOST_FRAMES = 96
COLUMNS = 88


def hue(step: int, steps: int) -> int:
    """The hue, in degrees, of a token revealed at `step` of `steps`: blue first, over purple and red, orange last."""
    share = step / max(steps - 1, 1)
    return round(360 * (FIRST_HUE + (LAST_HUE - FIRST_HUE) * share)) % 360


def step_colour(step: int, steps: int) -> str:
    """The colour of that hue as #rrggbb, readable on light and dark ground."""
    red, green, blue = colorsys.hls_to_rgb(hue(step, steps) / 360, 0.5, 0.78)
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"


def token_pieces(ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> list[str]:
    """The text of each token, so that together they are the text of all.

    A character that is spread over several tokens belongs to the last of them; the others have no text.
    """
    pieces, first = [], 0
    for i in range(len(ids)):
        text = decode(ids[first : i + 1])
        is_partial = text.endswith("\ufffd") and i + 1 < len(ids) and i + 1 - first < MOST_BYTES
        pieces.append("" if is_partial else text)
        first = first if is_partial else i + 1
    return pieces


def answer_pieces(tokens: Sequence[int], end: Collection[int], tokenizer: Tokenizer) -> list[str]:
    """The text of each token up to the first end token, which is shown as `END`."""
    answer = list(tokens[: answer_length(tokens, end)])
    pieces = token_pieces(answer, lambda ids: tokenizer.decode(ids, skip_special=False))
    return [END if token in end else piece for token, piece in zip(answer, pieces)]


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
