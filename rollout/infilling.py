"""Fills the gaps of a text: the text between them is given on the canvas, the rest is prompt and suffix.

Shapes: C canvas, N states of the canvas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from couplet.configs.schema import SamplerConfig
from couplet.data.trajectory import answer_length, answer_tokens
from couplet.model.policy import DiffusionPolicy
from couplet.rollout.ar_ness import global_ar_ness, reveal_order
from couplet.rollout.sampler import Completion, sample


@dataclass(frozen=True)
class Filled:
    """One way of filling all gaps.

    Attributes:
        length: tokens of each gap.
        texts: what fills each gap, cut at its first end token.
        logprob: mean log-probability (nats, temperature 1) of the tokens of `texts` and their end tokens, each in the
            state in which it was revealed, given the order.
        ar_ness: global AR-ness@1 of the open positions.
    """

    length: int
    texts: tuple[str, ...]
    logprob: float
    ar_ness: float


def fill(
    policy: DiffusionPolicy,
    decode: Callable[[Sequence[int]], str],
    pieces: Sequence[Sequence[int]],
    length: int,
    config: SamplerConfig,
    seed: int,
) -> Filled:
    """Fill the gaps between `pieces` with `length` tokens each.

    Args:
        policy: the model.
        decode: token ids to text without special tokens.
        pieces: token ids around the gaps, one more than there are gaps.
        length: tokens of each gap; a gap may end earlier with an end token.
        config: its steps are those of `completion_length` open positions and change in proportion. All gaps are one
            block.
        seed: of the sample.

    Raises:
        ValueError: fewer than two pieces, or tokens that the sampler rejects.
    """
    if len(pieces) < 2:
        raise ValueError("no gap: give the tokens before and after each")
    canvas: list[int | None] = [None] * length
    starts = [0]
    for between in pieces[1:-1]:
        canvas += between
        starts.append(len(canvas))
        canvas += [None] * length
    given_C = np.array([token is not None for token in canvas])
    opened = int((~given_C).sum())
    steps = min(opened, max(1, config.steps * opened // config.completion_length))
    blockless = {"block_length": None, "cache": "none", "cache_refresh": None}
    chosen = config.replace(completion_length=len(canvas), steps=steps, **blockless)
    prompt, suffix = list(pieces[0]), list(pieces[-1])
    (found,) = sample(policy, [prompt], chosen, [seed], suffixes=[suffix], canvases=[canvas])
    end = policy.token_ids.end
    texts, counted_C = [], np.zeros(len(canvas), dtype=bool)
    for start in starts:
        tokens = found.tokens[start : start + length]
        counted_C[start : start + answer_length(tokens, end)] = True
        texts.append(decode(answer_tokens(tokens, end)))
    order = reveal_order(found.tokens, found.reveal_step, end, "canvas", given_C)
    logprob = path_logprob(policy, prompt, suffix, found, counted_C)
    return Filled(length, tuple(texts), logprob, global_ar_ness(order, 1))


@torch.inference_mode()
def path_logprob(
    policy: DiffusionPolicy,
    prompt: Sequence[int],
    suffix: Sequence[int],
    completion: Completion,
    counted_C: np.ndarray,
) -> float:
    """Mean log-probability (nats) of the counted tokens, each in the state of the canvas in which it was revealed."""
    tokens_C, steps_C = completion.tokens.astype(np.int64), completion.reveal_step
    states = np.unique(steps_C[counted_C & (steps_C >= 0)])
    before, after = (np.tile(np.array(part, dtype=np.int64), (len(states), 1)) for part in (prompt, suffix))
    canvas_NC = np.where(steps_C >= states[:, None], policy.token_ids.mask, tokens_C)
    select_NC = (steps_C == states[:, None]) & counted_C
    around = (len(prompt), len(suffix))
    inputs = (
        np.concatenate([before, canvas_NC, after], axis=1),
        np.pad(select_NC, ((0, 0), around)),
        np.pad(np.tile(tokens_C, (len(states), 1)), ((0, 0), around)),
    )
    tokens_NL, select_NL, targets_NL = (torch.from_numpy(array).to(policy.device) for array in inputs)
    logp = policy(tokens_NL, select_BL=select_NL, targets_BL=targets_NL)
    return float(logp.mean())
