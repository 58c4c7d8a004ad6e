"""The diffusion decoder: from a canvas of masks to completions, a few tokens per step.

The rule is that of Dream's `diffusion_generate`; the savings change no distribution: steps that reveal nothing run no
forward pass, the head runs on masked rows only, orders that rank by entropy or margin draw only where they reveal,
order "origin" runs the head only where it reveals, prompts are batched by length so that nothing is padded, and
completions of one prompt share the first forward pass, whose input is the same. A token depends on the row's seed,
the step and the position (`model.randomness`), so a row decodes the same alone and in any batch.

Infilling: a row may have a suffix after its canvas and given tokens on it. The schedule counts the open positions.

Shapes: B rows, C canvas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from couplet.configs.errors import UserError
from couplet.configs.schema import SamplerConfig
from couplet.model.policy import DiffusionPolicy
from couplet.rollout.canvas import Canvas, Template
from couplet.rollout.denoise import denoise

Trace = Callable[[int, Sequence[int], np.ndarray], None]
"""Called after each step that revealed something: (step, indices of the prompts, tokens [rows, C] with MASK left)."""


@dataclass(frozen=True)
class Completion:
    """One decoded canvas.

    Attributes:
        tokens: int32 [C], never cut.
        reveal_step: int16 [C], 0-based index of the schedule's step that revealed the token, empty steps counted; -1
            if none did (a given token, the filler after an early stop).
        entropy: float32 [C], nats, of the filtered distribution each token was drawn from, at temperature 0 of that at
            temperature 1; NaN if no token was revealed.
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
    suffixes: Sequence[Sequence[int]] | None = None,
    canvases: Sequence[Sequence[int | None]] | None = None,
    microbatch_rows: int | None = None,
    trace: Trace | None = None,
) -> list[Completion]:
    """Decode one completion per prompt.

    Args:
        policy: the model.
        prompts: token ids, of any lengths; repeat a prompt for several completions.
        config: the decoder's options.
        seeds: one per prompt; a row's result depends on its prompt, suffix, canvas and seed only.
        suffixes: token ids after each canvas, of any lengths; None = no suffixes.
        canvases: each canvas [C] with its given tokens, None at open positions; None = all are open.
        microbatch_rows: most completions per forward pass; None is all of a length.
        trace: for a live view; forces a synchronisation at each step.

    Returns:
        Completions in the order of `prompts`.

    Raises:
        ValueError: prompts, seeds, suffixes and canvases differ in number, a canvas has not C entries, a token id is
            outside the vocabulary, or a given token is the mask token.
    """
    templates = _templates(policy, prompts, suffixes, canvases, config.completion_length)
    if len(seeds) != len(templates):
        raise ValueError(f"{len(seeds)} seeds for {len(templates)} prompts: give one per prompt")
    width = config.block_length or config.completion_length
    batches: dict[Any, list[int]] = {}
    for index, row in enumerate(templates):
        key = len(row.prompt), len(row.suffix), row.open_counts(policy.token_ids.mask, width)
        batches.setdefault(key, []).append(index)
    completions: dict[int, Completion] = {}
    for indices in batches.values():
        rows = microbatch_rows or len(indices)
        for start in range(0, len(indices), rows):
            part = indices[start : start + rows]
            canvas = Canvas.of(policy, [templates[i] for i in part], [seeds[i] for i in part])
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


def _templates(
    policy: DiffusionPolicy,
    prompts: Sequence[Sequence[int]],
    suffixes: Sequence[Sequence[int]] | None,
    canvases: Sequence[Sequence[int | None]] | None,
    length: int,
) -> list[Template]:
    mask = policy.token_ids.mask
    suffixes = [()] * len(prompts) if suffixes is None else suffixes
    canvases = [[None] * length] * len(prompts) if canvases is None else canvases
    for name, given in (("suffixes", suffixes), ("canvases", canvases)):
        if len(given) != len(prompts):
            raise ValueError(f"{len(given)} {name} for {len(prompts)} prompts: give one per prompt")
    templates = []
    for index, (prompt, suffix, canvas) in enumerate(zip(prompts, suffixes, canvases, strict=True)):
        if len(canvas) != length:
            raise ValueError(f"canvas {index} has {len(canvas)} positions, completion_length is {length}")
        kept = [token for token in canvas if token is not None]
        for name, tokens in (("prompt", prompt), ("suffix", suffix), ("canvas", kept)):
            _check_tokens(policy, f"{name} {index}", tokens)
        opened = tuple(mask if token is None else int(token) for token in canvas)
        templates.append(Template(tuple(map(int, prompt)), opened, tuple(map(int, suffix))))
    return templates


def _check_tokens(policy: DiffusionPolicy, where: str, tokens: Sequence[int]) -> None:
    mask, vocab = policy.token_ids.mask, policy.config.vocab_size
    if mask in tokens:
        raise UserError(f"{where} contains the mask token ({mask}): it would be decoded")
    if len(tokens) and not (min(tokens) >= 0 and max(tokens) < vocab):
        raise ValueError(f"{where} contains a token id outside the vocabulary of {vocab}")


def _for_rows(trace: Trace | None, part: Sequence[int]) -> Callable[[int, np.ndarray], None] | None:
    if trace is None:
        return None
    return lambda step, tokens_BC: trace(step, part, tokens_BC)


def _completions(canvas: Canvas, names: tuple[str, ...]) -> list[Completion]:
    tokens_BC = canvas.completion_BC.to(torch.int32).cpu().numpy()
    reveal_step_BC = canvas.reveal_step_BC.to(torch.int16).cpu().numpy()
    entropy_BC = canvas.entropy_BC.cpu().numpy()
    return [Completion(*row, names) for row in zip(tokens_BC, reveal_step_BC, entropy_BC, strict=True)]
