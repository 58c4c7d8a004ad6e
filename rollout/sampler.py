"""The diffusion decoder: from a canvas of masks to completions, a few tokens per step.

The rule is that of Dream's `diffusion_generate`; the savings change no distribution: steps that reveal nothing run no
forward pass, the head runs on masked rows only, orders that rank by entropy or margin draw only where they reveal,
order "origin" runs the head only where it reveals, prompts are batched by length so that nothing is padded, and
completions of one prompt share the first forward pass, whose input is the same. A token depends on the row's seed,
the step and the position (`model.randomness`), so a row decodes the same alone and in any batch.

Shapes: B rows, U unique prompts, L prompt + canvas, C canvas, n masked positions per row, R tokens revealed at a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from couplet.configs.errors import UserError
from couplet.configs.schema import SamplerConfig
from couplet.model.policy import DiffusionPolicy
from couplet.rollout.canvas import Canvas
from couplet.rollout.denoise import denoise

Trace = Callable[[int, Sequence[int], np.ndarray], None]
"""Called after each step that revealed something: (step, indices of the prompts, tokens [rows, C] with MASK left)."""


@dataclass(frozen=True)
class Completion:
    """One decoded canvas.

    Attributes:
        tokens: int32 [C], never cut.
        reveal_step: int16 [C], 0-based index of the schedule's step that revealed the token, empty steps counted; -1
            if none did (the filler after an early stop).
        entropy: float32 [C], nats, of the filtered distribution each token was drawn from, at temperature 0 of that at
            temperature 1; NaN if no token was revealed (early stop).
        approximations: names of the declared approximations that were on.
    """

    tokens: np.ndarray
    reveal_step: np.ndarray
    entropy: np.ndarray
    approximations: tuple[str, ...] = ()


@torch.inference_mode()
def sample(
    policy: DiffusionPolicy,
    prompts: Sequence[Sequence[int]],
    config: SamplerConfig,
    seeds: Sequence[int],
    *,
    microbatch_rows: int | None = None,
    trace: Trace | None = None,
) -> list[Completion]:
    """Decode one completion per prompt.

    Args:
        policy: the model.
        prompts: token ids, of any lengths; repeat a prompt for several completions.
        config: the decoder's options.
        seeds: one per prompt; a row's result depends on its prompt and seed only.
        microbatch_rows: most completions per forward pass; None is all of a length.
        trace: for a live view; forces a synchronisation at each step.

    Returns:
        Completions in the order of `prompts`.

    Raises:
        ValueError: seeds and prompts differ in number, a token id is outside the vocabulary, or a prompt contains the
            mask token.
    """
    _check_prompts(policy, prompts, seeds)
    by_length: dict[int, list[int]] = {}
    for index, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt), []).append(index)
    completions: dict[int, Completion] = {}
    for indices in by_length.values():
        rows = microbatch_rows or len(indices)
        for start in range(0, len(indices), rows):
            part = indices[start : start + rows]
            canvas = Canvas.masked(
                policy, [prompts[i] for i in part], config.completion_length, [seeds[i] for i in part]
            )
            denoise(policy, canvas, config, _for_rows(trace, part))
            completions.update(zip(part, _completions(canvas, approximations(config)), strict=True))
    return [completions[index] for index in range(len(prompts))]


def approximations(config: SamplerConfig) -> tuple[str, ...]:
    """The declared approximations that `config` turns on, as recorded on each trajectory."""
    named = {
        "early_stop": config.early_stop,
        f"block_length={config.block_length}": config.block_length is not None,
        f"cache={config.cache}/{config.cache_refresh or 'block'}": config.cache != "none",
        f"confidence_threshold={config.confidence_threshold}": config.confidence_threshold is not None,
        f"tokens_per_step={config.completion_length / config.steps:g}": config.steps < config.completion_length,
    }
    return tuple(name for name, on in named.items() if on)


def _check_prompts(policy: DiffusionPolicy, prompts: Sequence[Sequence[int]], seeds: Sequence[int]) -> None:
    if len(seeds) != len(prompts):
        raise ValueError(f"{len(seeds)} seeds for {len(prompts)} prompts: give one per prompt")
    vocab = policy.config.vocab_size
    for index, prompt in enumerate(prompts):
        if policy.token_ids.mask in prompt:
            raise UserError(f"prompt {index} contains the mask token ({policy.token_ids.mask}): it would be decoded")
        if prompt and not (min(prompt) >= 0 and max(prompt) < vocab):
            raise UserError(f"prompt {index} contains a token id outside the vocabulary of {vocab}")


def _for_rows(trace: Trace | None, part: Sequence[int]) -> Callable[[int, np.ndarray], None] | None:
    if trace is None:
        return None
    return lambda step, tokens_BC: trace(step, part, tokens_BC)


def _completions(canvas: Canvas, names: tuple[str, ...]) -> list[Completion]:
    tokens_BC = canvas.completion_BC.to(torch.int32).cpu().numpy()
    reveal_step_BC = canvas.reveal_step_BC.to(torch.int16).cpu().numpy()
    entropy_BC = canvas.entropy_BC.cpu().numpy()
    return [Completion(*row, names) for row in zip(tokens_BC, reveal_step_BC, entropy_BC, strict=True)]
