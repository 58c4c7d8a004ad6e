"""Advantages of completions relative to the other completions of their prompt.

Shapes: P prompts, G completions per prompt.
"""

from __future__ import annotations

import math
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


def best_of(rewards_PG: Tensor, valid_PG: Tensor | None, k: int) -> Tensor:
    """The mean, over all subsets of k valid completions of the group that contain a completion, of their best reward.

    Its `group_mean` is the advantage of a completion for the best of k: the mean best of the subsets with it minus that
    of all subsets (Chen et al., arXiv 2508.10751, for rewards of 0 and 1; here any). k = 1 gives the rewards. A group
    with fewer than k valid completions uses all it has.

    Returns:
        float32 [P, G]; invalid places keep their value.
    """
    rewards_PG, valid_PG = _checked(rewards_PG, valid_PG)
    found_PG = rewards_PG.clone()
    for group, valid_G in enumerate(valid_PG):
        values, order = rewards_PG[group, valid_G].sort(stable=True)
        count = len(values)
        size = min(k, count)
        if size <= 1:
            continue
        # Of the subsets with the completion of rank i, C(i, k-1) have it as their best, and C(j-1, k-2) that of rank j.
        subsets = math.comb(count - 1, size - 1)
        own = torch.tensor([math.comb(i, size - 1) / subsets for i in range(count)]) * values
        each = torch.tensor([0.0, *(math.comb(j - 1, size - 2) / subsets for j in range(1, count))]) * values
        best = torch.empty_like(values)
        best[order] = own + each.flip(0).cumsum(0).flip(0) - each
        found_PG[group, valid_G] = best
    return found_PG


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
