"""Advantages of completions relative to the other completions of their prompt.

Shapes: P prompts, G completions per prompt.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def group_mean(rewards_PG: Tensor, valid_PG: Tensor | None = None) -> Tensor:
    """Reward minus the mean of the group's valid rewards (GRPO).

    Args:
        rewards_PG: float32; the value at an invalid place is ignored, NaN too.
        valid_PG: bool, completions that were judged; None = all.

    Returns:
        float32 [P, G]; 0 at invalid places and in groups with fewer than 2 valid completions.
    """
    rewards_PG, valid_PG = _checked(rewards_PG, valid_PG)
    count_P1 = valid_PG.sum(dim=1, keepdim=True)
    mean_P1 = rewards_PG.sum(dim=1, keepdim=True) / count_P1.clamp(min=1)
    return torch.where(valid_PG & (count_P1 >= 2), rewards_PG - mean_P1, 0.0)


def leave_one_out(rewards_PG: Tensor, valid_PG: Tensor | None = None) -> Tensor:
    """Reward minus the mean of the *other* valid rewards: group_mean · n/(n-1), n valid completions in the group.

    Arguments and result as in `group_mean`. Source: Ahmadian et al., arXiv 2402.14740; DiffuCoder's released trainer.
    """
    rewards_PG, valid_PG = _checked(rewards_PG, valid_PG)
    count_P1 = valid_PG.sum(dim=1, keepdim=True)
    return group_mean(rewards_PG, valid_PG) * count_P1 / (count_P1 - 1).clamp(min=1)


ADVANTAGES: dict[str, Callable[[Tensor, Tensor | None], Tensor]] = {
    "group_mean": group_mean,
    "leave_one_out": leave_one_out,
}


def group_std(rewards_PG: Tensor, valid_PG: Tensor | None = None) -> Tensor:
    """Standard deviation of each group's valid rewards, ddof 1: float32 [P]; 0 with fewer than 2 of them."""
    rewards_PG, valid_PG = _checked(rewards_PG, valid_PG)
    count_P = valid_PG.sum(dim=1)
    squares_P = group_mean(rewards_PG, valid_PG).square().sum(dim=1)
    return (squares_P / (count_P - 1).clamp(min=1)).sqrt()


def scale_by_std(advantages_PG: Tensor, std_P: Tensor) -> Tensor:
    """Advantages divided by their group's standard deviation + 1e-4."""
    return advantages_PG / (std_P[:, None] + 1e-4)


def _checked(rewards_PG: Tensor, valid_PG: Tensor | None) -> tuple[Tensor, Tensor]:
    """Rewards with 0 at invalid places, and the validity."""
    if valid_PG is None:
        valid_PG = torch.ones_like(rewards_PG, dtype=torch.bool)
    if rewards_PG.ndim != 2 or rewards_PG.shape != valid_PG.shape or valid_PG.dtype != torch.bool:
        raise ValueError(
            f"rewards {tuple(rewards_PG.shape)} and valid {tuple(valid_PG.shape)} {valid_PG.dtype} "
            "must both be [P, G], valid of type bool"
        )
    if bool(torch.isnan(rewards_PG[valid_PG]).any()):
        raise ValueError("a reward is NaN although valid is True: mark completions without a verdict as invalid")
    return torch.where(valid_PG, rewards_PG, 0.0), valid_PG
