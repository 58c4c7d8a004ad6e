"""How many tokens each step of the denoising schedule reveals.

Schedule "linear_time": times decrease linearly from 1 to `eps`; step i goes from t = times[i] to s = times[i + 1] and
reveals the share 1 - s/t of the masked positions, all of them at the last step (Dream's `diffusion_generate`; arithmetic
in float32, as there).

Schedule "even": the same number at each step, one more at the first ones if the steps do not divide it (LLaDA's
`generate`, arXiv 2502.09992).
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
def reveal_counts(length: int, steps: int, eps: float = 1e-3, schedule: str = "linear_time") -> tuple[int, ...]:
    """Tokens revealed at each step by the ranked orders.

    "linear_time": int(n · (1 - s/t)) of the n still masked. With steps = length this is 0 at the first step, 1 at each
    later one and 2 at the last. "even": length // steps, one more at each of the first length % steps steps.
    """
    if schedule == "even":
        every, more = divmod(length, steps)
        return tuple(every + (step < more) for step in range(steps))
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
