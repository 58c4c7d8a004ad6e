"""Coupled-GRPO's objective, per token: a clipped surrogate and a KL penalty (arXiv 2506.20639, equation 9).

Pure functions: tensors in, tensors out. Shapes are free (`X` stands for any); all arguments of a call share theirs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

LOG_RATIO_LIMIT = 30.0
"""Log-ratios are held within ± this, so that exp never overflows float32 into a NaN gradient."""


def clipped_objective(
    logp_X: Tensor, old_logp_X: Tensor, advantages_X: Tensor, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor]:
    """The clipped surrogate, to be minimised.

        ratio = exp(logp - old_logp);   term = -min(ratio·A, clip(ratio, 1 - clip_low, 1 + clip_high)·A)

    Returns:
        (term_X, ratio_X); the ratio is detached, for metrics.
    """
    ratio_X = torch.exp(torch.clamp(logp_X - old_logp_X, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))
    clipped_X = torch.clamp(ratio_X, 1.0 - clip_low, 1.0 + clip_high)
    return -torch.minimum(ratio_X * advantages_X, clipped_X * advantages_X), ratio_X.detach()


def kl_penalty(logp_X: Tensor, reference_logp_X: Tensor, clamp: float | None) -> Tensor:
    """The k3 estimate of KL(policy, reference): exp(d) - d - 1 with d = reference_logp - logp, never negative.

    `clamp` limits d to ±clamp and cuts the gradient outside; None is the published form, in which single tokens
    reach 10^3. Source: Schulman, "Approximating KL divergence" (2020).
    """
    d_X = reference_logp_X - logp_X
    limit = LOG_RATIO_LIMIT if clamp is None else clamp
    d_X = torch.clamp(d_X, -limit, limit)
    return torch.exp(d_X) - d_X - 1.0


def proximal_weight(old_logp_X: Tensor, behaviour_logp_X: Tensor, cap: float) -> Tensor:
    """Importance weight of the policy before the update over the one that sampled, capped and without gradient."""
    return torch.exp(old_logp_X - behaviour_logp_X).clamp(max=cap).detach()


def was_clipped(ratio_X: Tensor, advantages_X: Tensor, clip_low: float, clip_high: float) -> Tensor:
    """bool: tokens whose surrogate is clipped, so that it passes no gradient."""
    high_X = (ratio_X > 1.0 + clip_high) & (advantages_X > 0)
    low_X = (ratio_X < 1.0 - clip_low) & (advantages_X < 0)
    return high_X | low_X


def token_weights(mask_BC: Tensor, per_sequence: bool, tokens: int, sequences: int) -> Tensor:
    """The weight of each token's term in the loss: float32 [B, C], zero outside the mask.

    Args:
        mask_BC: bool, the loss tokens of these completions.
        per_sequence: every completion counts the same, whatever its length.
        tokens: loss tokens of the whole update, all ranks and micro-batches.
        sequences: completions of the whole update that have loss tokens.

    Returns:
        1/tokens, or 1/(own tokens · sequences); they sum to 1 over the whole update.
    """
    if not per_sequence:
        return mask_BC / max(tokens, 1)
    own_B1 = mask_BC.sum(dim=1, keepdim=True).clamp(min=1)
    return mask_BC / (own_B1 * max(sequences, 1))


class TokenLoss(NamedTuple):
    """The loss of one micro-batch, and statistics of its tokens (detached, of the shape of `logp`)."""

    loss: Tensor
    ratio: Tensor
    clipped: Tensor
    kl: Tensor


def grpo_loss(
    logp_X: Tensor,
    old_logp_X: Tensor,
    advantages_X: Tensor,
    weights_X: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    reference_logp_X: Tensor | None = None,
    kl_weight: float = 0.0,
    kl_clamp: float | None = 5.0,
    proximal_X: Tensor | None = None,
) -> TokenLoss:
    """Sum over tokens of weight · (proximal · surrogate + kl_weight · KL).

    The proximal weight multiplies the surrogate, not the KL. Without a reference the KL is 0.
    """
    term_X, ratio_X = clipped_objective(logp_X, old_logp_X, advantages_X, clip_low, clip_high)
    if proximal_X is not None:
        term_X = term_X * proximal_X
    kl_X = torch.zeros_like(ratio_X)
    if reference_logp_X is not None:
        kl_X = kl_penalty(logp_X, reference_logp_X, kl_clamp)
        term_X = term_X + kl_weight * kl_X
    clipped_X = was_clipped(ratio_X, advantages_X, clip_low, clip_high)
    return TokenLoss((weights_X * term_X).sum(), ratio_X, clipped_X, kl_X.detach())
