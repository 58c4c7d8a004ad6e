"""The denoising of a completion as the page's player shows it: its tokens, each with the step that revealed it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from couplet.report.run_data import Run
from couplet.report.trace import answer_pieces, hue

CHAT_QUESTION = re.compile(r"<\|im_start\|>user\n(.*?)<\|im_end\|>", re.DOTALL)


@dataclass(frozen=True)
class Token:
    """A token of the answer: its text (a line break shows as ⏎ before it), its step, and the hue of that step."""

    text: str
    step: int
    hue: int


@dataclass(frozen=True)
class Denoising:
    """What the player plays: the answer's tokens, the steps of the schedule, and how long the whole canvas was."""

    tokens: tuple[Token, ...]
    steps: int
    canvas: int

    @property
    def legend(self) -> list[int]:
        """Hues from the first step to the last, for a colour bar."""
        return [hue(i, 9) for i in range(9)]


def denoising(row: Mapping[str, Any], run: Run) -> Denoising | None:
    """The trace of a trajectory row, cut after its first end token; None without a tokenizer."""
    if run.tokenizer is None or not len(row["tokens"]):
        return None
    names = run.section("model").get("end_tokens") or []
    end = [run.tokenizer.special[name] for name in names if name in run.tokenizer.special]
    steps = max(int(run.section("sampler").get("steps") or 0), max(row["reveal_step"]) + 1)
    pieces = answer_pieces(row["tokens"], end, run.tokenizer)
    tokens = tuple(
        Token(piece.replace("\n", "⏎\n"), step, hue(step, steps)) for piece, step in zip(pieces, row["reveal_step"])
    )
    return Denoising(tokens, steps, len(row["tokens"]))


def question(row: Mapping[str, Any], run: Run) -> str:
    """The question of a trajectory row; empty without a tokenizer."""
    if run.tokenizer is None:
        return ""
    text = run.tokenizer.decode(row["prompt_tokens"], skip_special=False)
    asked = CHAT_QUESTION.findall(text)
    return str(asked[-1] if asked else text).strip()
