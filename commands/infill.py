"""Gaps of a file filled by a policy: the driver of `sample --infill`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from couplet.commands.session import Sampling
from couplet.configs.errors import UserError
from couplet.data.infilling import around_canvas
from couplet.rollout.infilling import Filled, fill

MARKER, LENGTHS = "<fill>", (4, 8, 16, 32)


def run_infill(
    sampling: Sampling,
    parts: Sequence[str],
    *,
    lengths: Sequence[int] = LENGTHS,
    question: str | None = None,
    out: TextIO | None = None,
    notes: TextIO | None = None,
) -> Filled:
    """Write a text with its gaps filled to `out`, and what was tried to `notes`.

    Args:
        parts: the text around the gaps, as `read_parts` gives it.
        lengths: tokens of each gap, tried one after the other; the likeliest per token is taken.
        question: asked first, the text then being the code block of the answer; None = it is the whole text.
        out, notes: default to standard output and standard error.

    Raises:
        UserError: the sampler rejects the text.
    """
    out, notes = out or sys.stdout, notes or sys.stderr
    policy, tokenizer = sampling.policy, sampling.tokenizer
    pieces = [tokenizer.encode(part) for part in parts]
    if question is not None:
        before, pieces[-1] = around_canvas(parts[0], parts[-1], tokenizer.encode, policy.token_ids.end[0])
        pieces[0] = tokenizer.chat_prompt(question) + before
    if not pieces[0]:
        pieces[0] = [policy.token_ids.bos]  # a model that predicts the next token reads its first one from something
    tried = [fill(policy, tokenizer.decode, pieces, length, sampling.config, sampling.seed) for length in lengths]
    best = max(tried, key=lambda filled: filled.logprob)
    for filled in tried:
        chosen = "  <- taken" if filled is best and len(tried) > 1 else ""
        print(
            f"{filled.length} tokens per gap: {filled.logprob:.3f} nats per token, "
            f"AR-ness {filled.ar_ness:.2f}{chosen}",
            file=notes,
        )
    out.write("".join(text for pair in zip(parts, (*best.texts, "")) for text in pair))
    out.flush()
    return best


def read_parts(file: Path, marker: str = MARKER) -> list[str]:
    """The text of `file` around its gaps, each of which is a `marker`.

    Raises:
        UserError: the file has no gap or is not UTF-8 text.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    if not marker or marker not in text:
        raise UserError(f"{file}: no gap in it; write {marker or MARKER!r} at each, or name another --marker")
    return text.split(marker)
