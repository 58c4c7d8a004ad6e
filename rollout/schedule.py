"""How many tokens each step of the denoising schedule reveals.

Times decrease linearly from 1 to `eps`; step i goes from t = times[i] to s = times[i + 1] and reveals the share 1 - s/t
of the masked positions, all of them at the last step (Dream's `diffusion_generate`; arithmetic in float32, as there).
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from couplet.model.randomness import uniforms


@lru_cache(maxsize=256)
def reveal_shares(steps: int, eps: float = 1e-3) -> tuple[float, ...]:
    """The share 1 - s/t of each step, exactly representable in float32; the last one is 1."""
    times = torch.linspace(1.0, eps, steps + 1, dtype=torch.float32)
    shares: list[float] = (1.0 - times[1:] / times[:-1]).tolist()
    return (*shares[:-1], 1.0)


@lru_cache(maxsize=256)
def reveal_counts(length: int, steps: int, eps: float = 1e-3) -> tuple[int, ...]:
    """Tokens revealed at each step by the ranked orders: int(n · (1 - s/t)) of the n still masked.

    With steps = length the rule gives 0 at the first step, 1 at each later one and 2 at the last.
    """
    counts = []
    left = length
    for share in reveal_shares(steps, eps):
        count = int(torch.tensor(float(left), dtype=torch.float32) * share)
        counts.append(count)
        left -= count
    return tuple(counts)


def random_reveal_steps(seeds_B: Tensor, length: int, steps: int, eps: float = 1e-3) -> Tensor:
    """Order "origin": the step at which each position is revealed, independently with probability 1 - s/t per step.

    The uniforms do not depend on the model, so the whole order is known before the first forward pass.

    Args:
        seeds_B: int64 [B] on the CPU.
        length: C.

    Returns:
        int64 [B, C].
    """
    positions_C = torch.arange(length)
    step_BC = torch.full((len(seeds_B), length), steps - 1)
    for step in reversed(range(steps - 1)):
        revealed_BC = uniforms(seeds_B, "reveal", step, positions_C) < reveal_shares(steps, eps)[step]
        step_BC = torch.where(revealed_BC, step, step_BC)
    return step_BC
