"""Gaps of a file filled by a policy: the driver of `sample --infill`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from couplet.commands.session import sampler_of
from couplet.configs.errors import UserError
from couplet.data.infilling import around_canvas
from couplet.data.tokenizer import load_tokenizer
from couplet.model.device import check_device
from couplet.model.policy import DiffusionPolicy
from couplet.rollout.infilling import Filled, fill

MARKER, LENGTHS = "<fill>", (4, 8, 16, 32)


def run_infill(
    folder: str | Path,
    file: Path,
    changes: Mapping[str, Any],
    *,
    marker: str = MARKER,
    lengths: Sequence[int] = LENGTHS,
    question: str | None = None,
    seed: int = 0,
    device: str = "cpu",
    out: TextIO | None = None,
    notes: TextIO | None = None,
) -> Filled:
    """Write the text of `file` with its gaps filled to `out`, and what was tried to `notes`.

    Args:
        folder: a policy's Hugging Face folder with its tokenizer.
        file: a text with `marker` at each gap.
        changes: as in `run_sample`.
        marker: stands for a gap.
        lengths: tokens of each gap, tried one after the other; the likeliest per token is taken.
        question: asked first, the file then being the code block of the answer; None = the file is the whole text.
        seed: of the samples.
        device: where the policy runs.
        out, notes: default to standard output and standard error.

    Raises:
        UserError: the file has no gap or is not UTF-8 text, the folder is not a policy, or the sampler rejects the text.
    """
    out, notes = out or sys.stdout, notes or sys.stderr
    check_device(device, "--device", device, "use --device cpu, or cuda if torch sees a GPU")
    parts = _parts(file, marker)
    policy = DiffusionPolicy.from_pretrained(folder, device=device).eval()
    tokenizer = load_tokenizer(folder)
    pieces = [tokenizer.encode(part) for part in parts]
    if question is not None:
        before, pieces[-1] = around_canvas(parts[0], parts[-1], tokenizer.encode, policy.token_ids.end[0])
        pieces[0] = tokenizer.chat_prompt(question) + before
    if not pieces[0]:
        pieces[0] = [policy.token_ids.bos]  # a model that predicts the next token reads its first one from something
    config = sampler_of(Path(folder), changes)
    tried = [fill(policy, tokenizer.decode, pieces, length, config, seed) for length in lengths]
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


def _parts(file: Path, marker: str) -> list[str]:
    """The text around the gaps."""
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    if not marker or marker not in text:
        raise UserError(f"{file}: no gap in it; write {marker or MARKER!r} at each, or name another --marker")
    return text.split(marker)
