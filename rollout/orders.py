"""Confidence by which masked positions are ranked: the most confident are revealed first (Dream's `alg`).

Shapes: N masked positions, K tokens (dropped ones have probability 0).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Order:
    """How a reveal order ranks positions.

    Attributes:
        confidence: (p_NK, column_N of the drawn token) → [N], larger first; None reveals at random.
        needs_draw: the confidence depends on the drawn token, so every masked position must draw before the ranking.
    """

    confidence: Callable[[Tensor, Tensor | None], Tensor] | None
    needs_draw: bool = False


def drawn_probability(p_NK: Tensor, drawn_N: Tensor | None) -> Tensor:
    """Probability of the drawn token."""
    assert drawn_N is not None
    return p_NK.gather(1, drawn_N.unsqueeze(1)).squeeze(1)


def margin(p_NK: Tensor, drawn_N: Tensor | None) -> Tensor:
    """Largest minus second largest probability."""
    if p_NK.shape[1] == 1:
        return p_NK[:, 0]
    top_N2 = p_NK.topk(2, dim=1).values
    return top_N2[:, 0] - top_N2[:, 1]


def negative_entropy(p_NK: Tensor, drawn_N: Tensor | None) -> Tensor:
    """Σ p · log(p + 1e-10)."""
    return (p_NK * torch.log(p_NK + 1e-10)).sum(dim=1)


ORDERS = {
    "origin": Order(None),
    "maskgit_plus": Order(drawn_probability, needs_draw=True),
    "topk_margin": Order(margin),
    "entropy": Order(negative_entropy),
}


def most_confident(confidence_Bn: Tensor, count: int, noise_Bn: Tensor | None, alg_temp: float | None) -> Tensor:
    """Indices [B, count] of the positions to reveal.

    With `alg_temp` None or 0 the highest confidences, ties leftmost first; above 0 a draw without replacement from
    softmax(confidence / alg_temp), by the Gumbel-top-k trick on the uniforms `noise_Bn`.
    """
    if alg_temp:
        assert noise_Bn is not None
        noise_Bn = noise_Bn.double() + 2.0**-25  # strictly below 1, which needs float64
        confidence_Bn = confidence_Bn / alg_temp - torch.log(-torch.log(noise_Bn))
    return confidence_Bn.sort(dim=1, descending=True, stable=True).indices[:, :count]
