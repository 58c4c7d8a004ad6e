"""Decoding of an autoregressive model, left to right under a causal mask: the baseline that stage 1 starts from.

Every step runs the whole prefix again. This is slow but needs no second code path in the model. It is meant for small
models; `launch.py prepare rate` measures large ones through vLLM.

Shapes: B rows, L prompt + canvas, C canvas, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from couplet.model.policy import DiffusionPolicy
from couplet.model.randomness import seed_tensor, uniforms


@torch.inference_mode()
def sample_left_to_right(
    policy: DiffusionPolicy,
    prompts: Sequence[Sequence[int]],
    length: int,
    temperature: float,
    seeds: Sequence[int],
    rows: int = 256,
) -> list[np.ndarray]:
    """One continuation per prompt, drawn token by token from softmax(logits / temperature).

    Args:
        policy: weights of an autoregressive model (objective `autoregressive` of `launch.py adapt`).
        prompts: token ids, at least one each, of any length.
        length: tokens drawn, C; ignore what follows the first end token.
        temperature: 0 takes the most probable token.
        seeds: one per prompt; a continuation depends on its prompt and seed only.
        rows: most continuations per forward pass.

    Returns:
        int32 [C] each, in the order of `prompts`.

    Raises:
        ValueError: the numbers of seeds and prompts differ, an empty prompt, or a negative temperature.
    """
    if len(seeds) != len(prompts) or not all(len(prompt) for prompt in prompts):
        raise ValueError(f"{len(prompts)} prompts, {len(seeds)} seeds: need one seed per prompt, no prompt empty")
    if temperature < 0:
        raise ValueError(f"temperature = {temperature}: must not be negative")
    by_length: dict[int, list[int]] = {}
    for index, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt), []).append(index)
    found: dict[int, np.ndarray] = {}
    for indices in by_length.values():
        for part in (indices[i : i + rows] for i in range(0, len(indices), rows)):
            prompt_BP = torch.tensor([list(prompts[i]) for i in part], device=policy.device)
            seeds_B = seed_tensor([seeds[i] for i in part], policy.device)
            drawn_BC = _continue(policy, prompt_BP, length, temperature, seeds_B)
            found.update(zip(part, drawn_BC.to(torch.int32).cpu().numpy(), strict=True))
    return [found[index] for index in range(len(prompts))]


def _continue(
    policy: DiffusionPolicy, tokens_BL: torch.Tensor, length: int, temperature: float, seeds_B: torch.Tensor
) -> torch.Tensor:
    """int64 [B, C]."""
    first = tokens_BL.shape[1]
    for position in range(first, first + length):
        tokens_BL = torch.nn.functional.pad(tokens_BL, (0, 1), value=policy.token_ids.pad)  # not seen by its own row
        B, L = tokens_BL.shape
        causal_BLL = torch.ones(L, L, dtype=torch.bool, device=policy.device).tril().expand(B, L, L)
        rows_B = torch.arange(B, device=policy.device) * L + position
        logits_BV = policy.head(policy.hidden_at(rows_B, tokens_BL, None, causal_BLL)).float()
        logits_BV[:, policy.token_ids.mask] = -torch.inf
        tokens_BL[:, position] = _draw(logits_BV, temperature, seeds_B, position - first)
    return tokens_BL[:, first:]


def _draw(logits_BV: torch.Tensor, temperature: float, seeds_B: torch.Tensor, step: int) -> torch.Tensor:
    """Draw by the Gumbel-max trick: argmax of logits / temperature + noise."""
    if temperature == 0:
        return logits_BV.argmax(dim=1)
    entries_V = torch.arange(logits_BV.shape[1], device=logits_BV.device)
    uniform_BV = uniforms(seeds_B, "token", step, entries_V).double()
    noise_BV = -torch.log(-torch.log(uniform_BV.clamp_min(2.0**-25)))
    return (logits_BV.double() / temperature + noise_BV).argmax(dim=1)
