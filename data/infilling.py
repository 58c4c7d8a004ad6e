"""Infilling: which part of a program is missing, and what is given around the canvas.

A row is the chat prompt, an open code block with what precedes the gap, the canvas, then what follows the gap, the
closing fence and the end token. An answer shorter than the canvas ends with the end token, as anywhere else.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

FENCE, CLOSE = "```python\n", "```"

_PIECE = re.compile(r"\n[ \t]*|[ \t]?\w+|[ \t]?[^\w\s]|\s")
_BLOCK = re.compile(r"(.*?```[^\n`]*\n)(.*?)(\n?```.*)", re.DOTALL)


def around_canvas(
    prefix: str, suffix: str, encode: Callable[[str], list[int]], end: int
) -> tuple[list[int], list[int]]:
    """Token ids between the chat prompt and the canvas, and after the canvas."""
    close = CLOSE if suffix.endswith("\n") else f"\n{CLOSE}"
    return encode(FENCE + prefix), [*encode(suffix + close), end]


def missing_part(code: str, generator: random.Random, least: int = 1) -> tuple[str, str, str] | None:
    """(before, middle, after) of a random gap, none of them empty; None if `code` is too short.

    Both cuts are uniform over the beginnings of words, signs and lines (Bavarian et al. 2022 cut between characters).

    Args:
        code: what is cut.
        generator: draws the cuts.
        least: fewest words and signs that are missing.
    """
    cuts = [piece.start() for piece in _PIECE.finditer(code)][1:]
    pairs = [(first, last) for i, first in enumerate(cuts) for last in cuts[i + least :]]
    if not pairs:
        return None
    first, last = generator.choice(pairs)
    return code[:first], code[first:last], code[last:]


def missing_from_answer(answer: str, generator: random.Random) -> tuple[str, str, str] | None:
    """`missing_part` of the code in the first fenced block of an answer; what is outside the block is given."""
    block = _BLOCK.fullmatch(answer)
    parts = missing_part(block[2], generator) if block else None
    if block is None or parts is None:
        return None
    before, middle, after = parts
    return block[1] + before, middle, after + block[3]
