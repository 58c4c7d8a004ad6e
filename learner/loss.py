"""The clipped objective with a KL penalty, term by term, and its alternatives (coupled-GRPO: arXiv 2506.20639, eq. 9).

Pure functions: tensors in, tensors out. Shapes are free (`X` stands for any); all arguments of a call share theirs.
Alternatives are siblings in a table: `SURROGATES` (how a ratio is clipped), `KL_ESTIMATES`, `STALE_WEIGHTS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from couplet.configs.schema import ObjectiveConfig

LOG_RATIO_LIMIT = 30.0
"""Log-ratios are held within ± this, so that exp never overflows float32 into a NaN gradient."""


def policy_ratio(logp_X: Tensor, old_logp_X: Tensor) -> Tensor:
    """exp(logp - old_logp), differentiable."""
    return torch.exp(torch.clamp(logp_X - old_logp_X, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))


def sequence_mean(values_XC: Tensor, mask_XC: Tensor) -> Tensor:
    """Every completion's mean over its loss tokens, at each of its positions: of the shape of `values_XC`.

    As log-probabilities they give the length-normalised ratio of whole completions: GSPO, arXiv 2507.18071, equation
    7; ESPO does the same with the evidence lower bound.
    """
    counts_X1 = mask_XC.sum(dim=-1, keepdim=True).clamp(min=1)
    return ((values_XC * mask_XC).sum(dim=-1, keepdim=True) / counts_X1).expand_as(values_XC)


LEVELS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "token": lambda values_XC, mask_XC: values_XC,
    "sequence": sequence_mean,
}


def conditional(ratio_X: Tensor, advantages_X: Tensor, low: float, high: float) -> Tensor:
    """PPO: -min(ratio·A, clip(ratio)·A). A ratio that already moved against its advantage is not clipped."""
    return -torch.minimum(ratio_X * advantages_X, _clip(ratio_X, low, high) * advantages_X)


def unconditional(ratio_X: Tensor, advantages_X: Tensor, low: float, high: float) -> Tensor:
    """-clip(ratio)·A: a ratio outside the bounds passes no gradient, whatever the sign of its advantage.

    Source: StableDRL, arXiv 2603.06743, together with `self_normalised` weights.
    """
    return -_clip(ratio_X, low, high) * advantages_X


def cispo(ratio_X: Tensor, advantages_X: Tensor, low: float, high: float) -> Tensor:
    """-stopgrad(clip(ratio))·A·logp up to a constant: the weight is clipped, and every token keeps its gradient.

    Written as a multiple of ratio / stopgrad(ratio), whose gradient is that of logp and whose value is 1.
    Source: MiniMax-M1, arXiv 2506.13585, equation 4.
    """
    return -(_clip(ratio_X, low, high) * advantages_X).detach() * (ratio_X / ratio_X.detach())


SURROGATES: dict[str, Callable[[Tensor, Tensor, float, float], Tensor]] = {
    "conditional": conditional,
    "unconditional": unconditional,
    "cispo": cispo,
}


def was_clipped(ratio_X: Tensor, advantages_X: Tensor, low: float, high: float, clip: str = "conditional") -> Tensor:
    """bool: tokens whose ratio was replaced by a bound."""
    above_X, below_X = ratio_X > 1.0 + high, ratio_X < 1.0 - low
    if clip == "conditional":
        return (above_X & (advantages_X > 0)) | (below_X & (advantages_X < 0))
    return above_X | below_X


def k3(d_X: Tensor) -> Tensor:
    """exp(d) - d - 1, never negative. Source: Schulman, "Approximating KL divergence" (2020)."""
    return torch.exp(d_X) - d_X - 1.0


def k2(d_X: Tensor) -> Tensor:
    """d²/2: its gradient grows with d instead of exp(d). Source: as `k3`."""
    return 0.5 * d_X.square()


KL_ESTIMATES: dict[str, Callable[[Tensor], Tensor]] = {"k3": k3, "k2": k2}


def kl_penalty(logp_X: Tensor, reference_logp_X: Tensor, clamp: float | None, estimate: str = "k3") -> Tensor:
    """An estimate of KL(policy, reference) from d = reference_logp - logp.

    `clamp` limits d to ±clamp and cuts the gradient outside; None is the published form, in which single tokens
    reach 10^3.
    """
    limit = LOG_RATIO_LIMIT if clamp is None else clamp
    return KL_ESTIMATES[estimate](torch.clamp(reference_logp_X - logp_X, -limit, limit))


def truncated(weight_X: Tensor, floor: float, cap: float) -> Tensor:
    """min(weight, cap): truncated importance sampling (TIS)."""
    return weight_X.clamp(max=cap)


def masked(weight_X: Tensor, floor: float, cap: float) -> Tensor:
    """The weight within [floor, cap], and 0 outside: IcePop, which leaves such tokens out."""
    return torch.where((weight_X >= floor) & (weight_X <= cap), weight_X, 0.0)


STALE_WEIGHTS: dict[str, Callable[[Tensor, float, float], Tensor]] = {"truncate": truncated, "mask": masked}


def stale_weight(old_logp_X: Tensor, behaviour_logp_X: Tensor, kind: str, floor: float, cap: float) -> Tensor:
    """Importance weight of the policy before the update over the one that sampled, bounded and without gradient."""
    return STALE_WEIGHTS[kind](torch.exp(old_logp_X - behaviour_logp_X), floor, cap).detach()


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


def self_normalised(weights_PGC: Tensor, ratio_PGC: Tensor, low: float, high: float) -> Tensor:
    """Token weights divided by their group's mean clipped ratio, so that weight · clip(ratio) sums to what weight did.

    A group's update is then a weighted mean of its tokens' updates, however large the ratios. Source: StableDRL, arXiv
    2603.06743 (there with one weight per completion).
    """
    total_P11 = weights_PGC.sum(dim=(1, 2), keepdim=True)
    weighted_P11 = (weights_PGC * _clip(ratio_PGC.detach(), low, high)).sum(dim=(1, 2), keepdim=True)
    return weights_PGC * torch.where(weighted_P11 > 0, total_P11 / weighted_P11.clamp(min=1e-12), 1.0)


class TokenLoss(NamedTuple):
    """The loss of one micro-batch, and statistics of its tokens (detached, of the shape of `logp`)."""

    loss: Tensor
    ratio: Tensor
    clipped: Tensor
    kl: Tensor


def grpo_loss(
    logp_PGC: Tensor,
    old_logp_PGC: Tensor,
    advantages_PG: Tensor,
    weights_PGC: Tensor,
    objective: ObjectiveConfig,
    reference_logp_PGC: Tensor | None = None,
    stale_PGC: Tensor | None = None,
) -> TokenLoss:
    """Sum over tokens of weight · (stale weight · surrogate + kl_weight · KL).

    Args:
        logp_PGC: log-probabilities under the policy that is trained.
        old_logp_PGC: and under the one that the ratio is relative to.
        advantages_PG: of the completions.
        weights_PGC: of the tokens; 0 = not in the loss.
        objective: ratio level, clip and KL.
        reference_logp_PGC: under the reference; without one the KL is 0.
        stale_PGC: importance weights of stale tokens; they multiply the surrogate, not the KL.
    """
    low, high = objective.clip_low, objective.clip_high
    advantages_PGC = advantages_PG[..., None].expand_as(logp_PGC)
    at_level = LEVELS[objective.ratio_level]
    mask_PGC = weights_PGC > 0
    logp_PGC = at_level(logp_PGC, mask_PGC)
    ratio_PGC = policy_ratio(logp_PGC, at_level(old_logp_PGC, mask_PGC))
    surrogate_PGC = SURROGATES[objective.clip](ratio_PGC, advantages_PGC, low, high)
    if stale_PGC is not None:
        surrogate_PGC = surrogate_PGC * stale_PGC
    normalised_PGC = self_normalised(weights_PGC, ratio_PGC, low, high) if objective.self_normalise else weights_PGC
    term_PGC = normalised_PGC * surrogate_PGC
    kl_PGC = torch.zeros_like(ratio_PGC)
    if reference_logp_PGC is not None:
        reference_logp_PGC = at_level(reference_logp_PGC, mask_PGC)
        kl_PGC = kl_penalty(logp_PGC, reference_logp_PGC, objective.kl_clamp, objective.kl_estimate)
        term_PGC = term_PGC + weights_PGC * objective.kl_weight * kl_PGC
    clipped_PGC = was_clipped(ratio_PGC.detach(), advantages_PGC, low, high, objective.clip)
    return TokenLoss(term_PGC.sum(), ratio_PGC.detach(), clipped_PGC, kl_PGC.detach())


def largest_shares(contribution_NC: Tensor) -> tuple[float, float]:
    """The largest share that one token, and one completion, has in the sum of absolute contributions.

    A contribution is the derivative of the loss by a token's log-probability; every token's own gradient enters the
    update multiplied by it. Without any contribution both are 0.
    """
    size_NC = contribution_NC.abs()
    total = float(size_NC.sum())
    if total == 0.0:
        return 0.0, 0.0
    return float(size_NC.max()) / total, float(size_NC.sum(dim=1).max()) / total


def _clip(ratio_X: Tensor, low: float, high: float) -> Tensor:
    return torch.clamp(ratio_X, 1.0 - low, 1.0 + high)
