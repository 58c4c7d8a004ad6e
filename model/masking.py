"""The masks of the likelihood estimators.

A pair of views masks the canvas twice. In a coupled pair the second mask is the exact complement of the first inside
the completion, so that every token is predicted exactly once by the pair (DiffuCoder, arXiv 2506.20639, section 4).
Every uniform is a hash of (row seed, purpose, pair, completion position): a row's mask depends on nothing else.

Shapes: B completions, C canvas positions. `t` is diffusion time, the expected share of masked tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from couplet.model.randomness import seed_tensor, uniforms


def mask_ratios(seeds: Sequence[int], t_min: float, t_max: float, pair: int = 0) -> Tensor:
    """One diffusion time per seed, uniform in [t_min, t_max): float32 [B]."""
    u_B1 = uniforms(seed_tensor(tuple(seeds)), "mask_ratio", pair, torch.zeros(1, dtype=torch.int64))
    return t_min + (t_max - t_min) * u_B1[:, 0]


def coupled_masks(
    completion_mask_BC: Tensor, mask_ratio_B: Tensor, seeds: Sequence[int], pair: int = 0
) -> tuple[Tensor, Tensor]:
    """A random mask at rate `mask_ratio_B` and its complement inside the completion.

    Args:
        completion_mask_BC: bool, positions that belong to the completion.
        mask_ratio_B: float32, the share of tokens the first mask takes in expectation.
        seeds: one integer per row.
        pair: index of the mask pair; pairs of one seed are independent.

    Returns:
        (mask_BC, complement_BC), both bool; disjoint, and together exactly `completion_mask_BC`.
    """
    mask_BC = _masked(completion_mask_BC, mask_ratio_B, seeds, "mask", pair)
    return mask_BC, completion_mask_BC & ~mask_BC


def decoupled_masks(
    completion_mask_BC: Tensor, mask_ratio_B: Tensor, seeds: Sequence[int], pair: int = 0
) -> tuple[Tensor, Tensor]:
    """Two independent masks at rates `mask_ratio_B` and 1 - `mask_ratio_B`; arguments as in `coupled_masks`.

    A token may be in both masks or in neither.
    """
    mask_BC = _masked(completion_mask_BC, mask_ratio_B, seeds, "mask", pair)
    return mask_BC, _masked(completion_mask_BC, 1.0 - mask_ratio_B, seeds, "second_mask", pair)


def _masked(completion_mask_BC: Tensor, rate_B: Tensor, seeds: Sequence[int], purpose: str, pair: int) -> Tensor:
    rows, positions = completion_mask_BC.shape
    if completion_mask_BC.dtype != torch.bool or rate_B.shape != (rows,) or len(seeds) != rows:
        raise ValueError(
            f"masks need a bool [B, C] completion mask, B rates and B seeds; got {completion_mask_BC.dtype} "
            f"{tuple(completion_mask_BC.shape)}, {tuple(rate_B.shape)} rates and {len(seeds)} seeds"
        )
    u_BC = uniforms(seed_tensor(tuple(seeds)), purpose, pair, torch.arange(positions)).to(completion_mask_BC.device)
    return completion_mask_BC & (u_BC < rate_B.to(u_BC)[:, None])
