"""Which views of the canvas a completion is scored in: one function per estimator.

A view masks some tokens of the completion and scores some of those it masks. View 0 masks the whole completion; it is
the same input for all completions of a prompt. The estimate of a token's log-probability is the weighted sum of its
log-probabilities in the views, divided by a constant (`model.likelihood` computes it).

Every draw is a hash of (row seed, purpose, view, position), so a row's views depend on nothing but the row.

Shapes: B completions, V views besides view 0, C canvas positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from couplet.configs.schema import EstimatorConfig
from couplet.model.masking import coupled_masks, decoupled_masks, mask_ratios
from couplet.model.randomness import seed_tensor, uniforms


@dataclass(frozen=True)
class Canvases:
    """The completions to be scored.

    Attributes:
        canvas: C.
        seeds_B: of the masks.
        ratio_seeds_B: of the diffusion times; shared within a prompt group if `estimator.t_scope` is ``group``.
        reveal_step_BC: int64, the sampler's step that revealed each token, -1 if none did; None = not recorded.
    """

    canvas: int
    seeds_B: Sequence[int]
    ratio_seeds_B: Sequence[int]
    reveal_step_BC: Tensor | None = None

    @property
    def everything_BC(self) -> Tensor:
        """bool: all canvas positions."""
        return torch.ones(len(self.seeds_B), self.canvas, dtype=torch.bool)


@dataclass(frozen=True)
class Views:
    """Attributes:
    first_BC: float32 weights of the tokens in view 0.
    masks_BVC: bool, what every other view masks.
    weights_BVC: float32 weights of the tokens in these; 0 if a view does not score a token, always if it is visible.
    divisor: of the weighted sum.
    """

    first_BC: Tensor
    masks_BVC: Tensor
    weights_BVC: Tensor
    divisor: float = 1.0


def coupled(rows: Canvases, cfg: EstimatorConfig) -> Views:
    """Pairs of complementary masks: each pair predicts every token exactly once (arXiv 2506.20639, equation 8)."""
    return _paired(coupled_masks, rows, cfg)


def decoupled(rows: Canvases, cfg: EstimatorConfig) -> Views:
    """Pairs of independent masks at rates t and 1 - t; never renormalised if a token is in both or in neither."""
    return _paired(decoupled_masks, rows, cfg)


def full_mask(rows: Canvases, cfg: EstimatorConfig) -> Views:
    """View 0 alone (d1 without its prompt masking)."""
    return _views(rows, [], [])


def trace(rows: Canvases, cfg: EstimatorConfig) -> Views:
    """The states the sampler passed through, at the start of each of `cfg.slices` slices of its schedule.

    A token is scored once, with weight 1, in the state at the start of the slice that revealed it. With a slice per
    step the sum over tokens is the log-probability of the trajectory's draws, given its order. A token that no step
    revealed is masked in every view and never scored.

    Raises:
        ValueError: the trajectories carry no reveal steps.
    """
    if rows.reveal_step_BC is None:
        raise ValueError("estimator.name: trace needs the reveal step of each token, which these trajectories lack")
    step_BC = rows.reveal_step_BC
    steps_B = step_BC.amax(dim=1) + 1
    most = max(2, int(steps_B.max()))  # one view at least, so that every rank makes both calls of the policy
    edges_BK = slice_edges(steps_B, min(cfg.slices, most), rows.seeds_B)
    masks = [(step_BC >= edge_B[:, None]) | (step_BC < 0) for edge_B in edges_BK.unbind(dim=1)]
    starts = [step_BC >= 0, *((step_BC >= edge_B[:, None]) for edge_B in edges_BK.unbind(dim=1))]
    ends = [*starts[1:], torch.zeros_like(starts[0])]
    first_BC, *weights = [(start_BC & ~end_BC).float() for start_BC, end_BC in zip(starts, ends)]
    return _views(rows, masks, weights, first_BC)


def elbo(rows: Canvases, cfg: EstimatorConfig) -> Views:
    """Pairs of views that mask l, and C + 1 - l, of the C tokens, with weights C/l and C/(C + 1 - l), averaged.

    l ~ U{1, ..., C}. The expectation is the evidence lower bound of the completion, per token: the mean over all orders
    of the log-probability of drawing it one token at a time. A random order of the positions is cut at l: the first view
    masks what is before, the second what is after and the token at the cut, so a pair masks every token at least once.
    `cfg.times` ``stratified`` spreads the l of the pairs evenly. View 0 is not used. Source: Nie et al.,
    arXiv 2502.09992, equation 14 (a fixed number of masks); Ou et al., ESPO, arXiv 2512.03759 (as a policy's likelihood).
    """
    seeds = seed_tensor(tuple(rows.seeds_B))
    masks: list[Tensor] = []
    weights: list[Tensor] = []
    for pair in range(cfg.pairs):
        u_B = mask_ratios(rows.ratio_seeds_B, 0.0, 1.0, pair)
        if cfg.times == "stratified":
            u_B = (pair + u_B) / (2 * cfg.pairs)  # the second view of a pair is in the mirrored stratum
        masked_B1 = 1 + (u_B * rows.canvas).long().clamp(max=rows.canvas - 1)[:, None]
        rank_BC = uniforms(seeds, "mask", pair, torch.arange(rows.canvas)).argsort(dim=1, stable=True).argsort(dim=1)
        for mask_BC in (rank_BC < masked_B1, rank_BC >= masked_B1 - 1):
            masks.append(mask_BC)
            weights.append(mask_BC * (rows.canvas / mask_BC.sum(dim=1, keepdim=True) / (2 * cfg.pairs)))
    return _views(rows, masks, weights, first_BC=torch.zeros_like(weights[0]))


def left_to_right(rows: Canvases, cfg: EstimatorConfig) -> Views:
    """The autoregressive log-probability: token k given the tokens before it, everything from k on masked.

    Exact for a sampler that decodes left to right (`sampler.block_length: 1`). One view per token; those without a loss
    token are not computed. Source: JustGRPO, arXiv 2601.15165.
    """
    position_CC = torch.arange(rows.canvas).expand(rows.canvas, -1)
    scored_BCC = torch.eye(rows.canvas).expand(len(rows.seeds_B), -1, -1)
    masked_BCC = (position_CC >= position_CC.T).expand(len(rows.seeds_B), -1, -1)
    return Views(scored_BCC[:, 0], masked_BCC[:, 1:], scored_BCC[:, 1:])


def slice_edges(steps_B: Tensor, slices: int, seeds_B: Sequence[int]) -> Tensor:
    """The inner edges that cut steps 0 .. S-1 into K slices: int64 [B, K-1], never decreasing, in 1 .. S-1.

        e_k = floor( (k - 1/2 + u_k)·S/K + 1/2 ),   u_k ~ U[0, 1) per completion and edge

    K = S gives e_k = k, every step its own slice. If K is above S, the further edges are S and their slices empty.
    """
    seeds = seed_tensor(tuple(seeds_B))
    index_k = torch.arange(slices - 1)
    u_Bk = uniforms(seeds, "slice", 0, index_k).double()
    width_B1 = (steps_B.double() / slices).clamp(min=1.0)[:, None]
    edges_Bk = torch.floor((index_k + 0.5 + u_Bk) * width_B1 + 0.5).long()
    return torch.minimum(edges_Bk, steps_B[:, None])


ESTIMATORS: dict[str, Callable[[Canvases, EstimatorConfig], Views]] = {
    "coupled": coupled,
    "full_mask": full_mask,
    "decoupled": decoupled,
    "trace": trace,
    "elbo": elbo,
    "spg": elbo,  # with the upper bound for completions of negative advantage (`model.likelihood.upper_bound`)
    "left_to_right": left_to_right,
}


def view_weights(ratio_B: Tensor, weighting: str) -> tuple[Tensor, Tensor]:
    """Weights of the two views of a pair at diffusion time t: 1/t and 1/(1-t), half of these, or 1 and 1."""
    if weighting == "none":
        return torch.ones_like(ratio_B), torch.ones_like(ratio_B)
    scale = {"inverse_t": 1.0, "half_inverse_t": 0.5}[weighting]
    return scale / ratio_B, scale / (1.0 - ratio_B)


def _paired(
    masks_of: Callable[[Tensor, Tensor, Sequence[int], int], tuple[Tensor, Tensor]],
    rows: Canvases,
    cfg: EstimatorConfig,
) -> Views:
    masks: list[Tensor] = []
    weights: list[Tensor] = []
    for pair in range(cfg.pairs):
        ratio_B = mask_ratios(rows.ratio_seeds_B, cfg.t_min, cfg.t_max, pair)
        found = masks_of(rows.everything_BC, ratio_B, rows.seeds_B, pair)
        masks += found
        weights += [mask * weight_B[:, None] for mask, weight_B in zip(found, view_weights(ratio_B, cfg.weighting))]
    return _views(rows, masks, weights, divisor=cfg.pairs + 1)


def _views(
    rows: Canvases,
    masks: Sequence[Tensor],
    weights: Sequence[Tensor],
    first_BC: Tensor | None = None,
    divisor: float = 1.0,
) -> Views:
    """By default view 0 scores every token with weight 1."""
    everything_BC = rows.everything_BC
    none_BVC = everything_BC[:, None][:, :0]
    return Views(
        everything_BC.float() if first_BC is None else first_BC,
        torch.stack(list(masks), dim=1) if masks else none_BVC,
        torch.stack(list(weights), dim=1) if weights else none_BVC.float(),
        divisor,
    )
