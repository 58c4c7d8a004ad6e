"""The log-probability that a diffusion policy gives to each token of a completion, estimated.

The likelihood of a masked-diffusion model has no closed form, so the log-probability of each token is computed while
the token is masked, in a few views of the canvas (`model.estimators` draws them), and summed with weights:

    logp_k = ( w0_k logp0_k + sum_v w_vk logp_vk ) / divisor

View 0 masks the whole completion. It is the same input for all completions of a prompt, so one forward pass serves the
group. Logits are computed on the needed rows only: the loss positions that a view scores.

Shapes: P prompts, G completions per prompt, C canvas positions, L prompt + canvas + suffix, J inner updates, S view
rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from couplet.configs.schema import EstimatorConfig
from couplet.model.estimators import ESTIMATORS, Canvases, Views

Policy = Any
"""A `DiffusionPolicy`, or anything that wraps one and forwards its attributes (a DeepSpeed engine)."""


@dataclass(frozen=True)
class GroupTokens:
    """P prompt groups of G completions each, as tensors on one device.

    Prompts of unequal length are padded on the left, suffixes on the right; `prompt_mask_PQ` and `suffix_mask_PR` are
    False there (Q = longest prompt, R = longest suffix).
    """

    prompt_PQ: Tensor
    prompt_mask_PQ: Tensor
    tokens_PGC: Tensor
    loss_mask_PGC: Tensor
    suffix_PR: Tensor
    suffix_mask_PR: Tensor
    reveal_step_PGC: Tensor | None = None
    upper_PG: Tensor | None = None  # bool: completions of negative advantage, for `spg`

    @classmethod
    def of(
        cls,
        prompts: Sequence[Any],
        tokens_PGC: Any,
        loss_mask_PGC: Any,
        pad_id: int,
        device: torch.device | str = "cpu",
        reveal_step_PGC: Any = None,
        suffixes: Sequence[Any] | None = None,
    ) -> GroupTokens:
        """From arrays or tensors: `prompts` and `suffixes` one sequence of ids per group, the rest [P, G, C].

        `reveal_step_PGC` is what only `trace` needs: the sampler's step that revealed each token.
        """
        if np.shape(tokens_PGC) != np.shape(loss_mask_PGC) or len(np.shape(tokens_PGC)) != 3:
            raise ValueError(f"tokens {np.shape(tokens_PGC)} and loss mask {np.shape(loss_mask_PGC)} must be [P, G, C]")
        suffixes = [()] * len(prompts) if suffixes is None else suffixes
        if not len(prompts) == len(suffixes) == np.shape(tokens_PGC)[0]:
            groups = np.shape(tokens_PGC)[0]
            raise ValueError(f"{len(prompts)} prompts and {len(suffixes)} suffixes for {groups} groups of completions")
        prompt_PQ, prompt_mask_PQ = _padded(prompts, pad_id, left=True)
        suffix_PR, suffix_mask_PR = _padded(suffixes, pad_id, left=False)
        return cls(
            prompt_PQ.to(device),
            prompt_mask_PQ.to(device),
            torch.from_numpy(np.array(tokens_PGC, dtype=np.int64)).to(device),
            torch.from_numpy(np.array(loss_mask_PGC, dtype=bool)).to(device),
            suffix_PR.to(device),
            suffix_mask_PR.to(device),
            None if reveal_step_PGC is None else torch.from_numpy(np.array(reveal_step_PGC, dtype=np.int64)),
        )

    @property
    def attention_PL(self) -> Tensor | None:
        """bool [P, L], or None if nothing is padded."""
        if bool(self.prompt_mask_PQ.all()) and bool(self.suffix_mask_PR.all()):
            return None
        canvas_PC = self.prompt_mask_PQ.new_ones(self.tokens_PGC.shape[::2])
        return torch.cat([self.prompt_mask_PQ, canvas_PC, self.suffix_mask_PR], dim=1)

    @property
    def around(self) -> tuple[int, int]:
        """Positions before and after the canvas."""
        return self.prompt_PQ.shape[1], self.suffix_PR.shape[1]


def _padded(rows: Sequence[Any], pad_id: int, left: bool) -> tuple[Tensor, Tensor]:
    """Rows of unequal length, padded, and where they are not."""
    longest = max(len(row) for row in rows)
    tokens = np.full((len(rows), longest), pad_id, dtype=np.int64)
    real = np.zeros((len(rows), longest), dtype=bool)
    for number, row in enumerate(rows):
        where = slice(longest - len(row), longest) if left else slice(0, len(row))
        tokens[number, where], real[number, where] = row, True
    return torch.from_numpy(tokens), torch.from_numpy(real)


def batch_logprobs(
    policy: Policy,
    batch: GroupTokens,
    seeds_JPG: Sequence[Sequence[Sequence[int]]],
    group_seeds_JP: Sequence[Sequence[int]],
    estimator: EstimatorConfig,
    temperature: float = 1.0,
) -> Tensor:
    """Estimated log-probabilities of P groups for J inner updates under the same weights.

    At most two calls of the policy for any J, P and G, so all ranks make the same number of calls.

    Args:
        policy: a `DiffusionPolicy` or a wrapper of one; called once for view 0 and once for all other views.
        batch: the groups.
        seeds_JPG: mask seeds of each inner update, one per completion.
        group_seeds_JP: seeds of the diffusion time if `estimator.t_scope` is ``group``.
        estimator: which views, and their weights.
        temperature: the sampling temperature; used if `estimator.match_temperature` is set.

    Returns:
        float32 [J, P, G, C], zero outside the loss mask; differentiable.
    """
    bounds_KJPGC = batch_bounds(policy, batch, seeds_JPG, group_seeds_JP, estimator, temperature)
    if len(bounds_KJPGC) == 1 or batch.upper_PG is None:
        return bounds_KJPGC[0]
    return torch.where(batch.upper_PG[..., None], bounds_KJPGC[1], bounds_KJPGC[0])


def batch_bounds(
    policy: Policy,
    batch: GroupTokens,
    seeds_JPG: Sequence[Sequence[Sequence[int]]],
    group_seeds_JP: Sequence[Sequence[int]],
    estimator: EstimatorConfig,
    temperature: float = 1.0,
) -> Tensor:
    """All estimates of `estimator`, `estimator.bounds` of them: [K, J, P, G, C]; the rest as `batch_logprobs`."""
    scale = temperature if estimator.match_temperature else 1.0
    if scale <= 0:
        raise ValueError(f"temperature = {temperature}: estimator.match_temperature needs a temperature above 0")
    views = _all_views(batch, seeds_JPG, group_seeds_JP, estimator)
    total_JPGC: Tensor | float = 0.0
    if estimator.shares_view:
        needed_PC = (batch.loss_mask_PGC & (views.first_BC != 0)).any(dim=0).any(dim=1)
        total_JPGC = views.first_BC * _full_mask_logprobs(policy, batch, needed_PC, scale, estimator.chunk_rows)
        if not views.masks_BVC.shape[1]:
            return (total_JPGC / views.divisor)[None]
    logp = _view_logprobs(policy, batch, views, scale, estimator.chunk_rows)
    lower_JPGC = (total_JPGC + (views.weights_BVC * logp).sum(dim=1)) / views.divisor
    if estimator.bounds == 1:
        return lower_JPGC[None]
    upper_JPGC = upper_bound(logp, views.weights_BVC, batch.loss_mask_PGC, estimator.upper_beta)
    return torch.stack([lower_JPGC, lower_JPGC + estimator.upper_mix * (upper_JPGC - lower_JPGC)])


def upper_bound(logp: Tensor, weights: Tensor, loss_mask_PGC: Tensor, beta: float) -> Tensor:
    """log( sum over views of weight · p^beta ) / beta, per token: [J, V, P, G, C] to [J, P, G, C], 0 outside the loss.

    Source: SPG, arXiv 2510.09541, corollary 1, without its constant.
    """
    powers = (weights.log() + beta * logp).masked_fill(weights == 0, -torch.inf)
    powers = powers.masked_fill(~loss_mask_PGC, 0.0)  # nothing is scored there; an empty sum has no gradient
    return (torch.logsumexp(powers, dim=1) / beta) * loss_mask_PGC


def _all_views(
    batch: GroupTokens,
    seeds_JPG: Sequence[Sequence[Sequence[int]]],
    group_seeds_JP: Sequence[Sequence[int]],
    estimator: EstimatorConfig,
) -> Views:
    """The views of every inner update: first [J, P, G, C], masks and weights [J, V, P, G, C]."""
    prompts, completions, canvas = batch.tokens_PGC.shape
    count = len(seeds_JPG)
    seeds = [seed for seeds_PG in seeds_JPG for seeds_G in seeds_PG for seed in seeds_G]
    if len(seeds) != count * prompts * completions or [len(seeds_P) for seeds_P in group_seeds_JP] != [prompts] * count:
        raise ValueError(f"mask seeds must be [{count}, {prompts}, {completions}] and group seeds [{count}, {prompts}]")
    if estimator.t_scope == "group":
        ratio_seeds = [seed for seeds_P in group_seeds_JP for seed in seeds_P for _ in range(completions)]
    else:
        ratio_seeds = seeds
    steps = batch.reveal_step_PGC
    steps_BC = None if steps is None else steps.cpu().reshape(-1, canvas).repeat(count, 1)
    found = ESTIMATORS[estimator.name](Canvases(canvas, seeds, ratio_seeds, steps_BC), estimator)
    shape, device = (count, prompts, completions), batch.tokens_PGC.device

    def by_update(values_BVC: Tensor) -> Tensor:
        return values_BVC.unflatten(0, shape).permute(0, 3, 1, 2, 4).to(device)

    return Views(
        found.first_BC.unflatten(0, shape).to(device),
        by_update(found.masks_BVC),
        by_update(found.weights_BVC),
        found.divisor,
    )


def _full_mask_logprobs(
    policy: Policy, batch: GroupTokens, needed_PC: Tensor, temperature: float, chunk_rows: int | None
) -> Tensor:
    """View 0, one row per prompt: each needed row of logits serves the G tokens at its position. [P, G, C]."""
    prompts, _, canvas = batch.tokens_PGC.shape
    masked_PC = torch.full((prompts, canvas), policy.token_ids.mask, device=batch.tokens_PGC.device)
    select_PC = _at_least_one(needed_PC)
    tokens_PCG = batch.tokens_PGC.transpose(1, 2)
    logp_NG = policy(
        torch.cat([batch.prompt_PQ, masked_PC, batch.suffix_PR], dim=1),
        batch.attention_PL,
        select_BL=torch.nn.functional.pad(select_PC, batch.around),
        targets_BL=torch.nn.functional.pad(tokens_PCG, (0, 0, *batch.around)),
        temperature=temperature,
        chunk_rows=chunk_rows,
    )
    logp_PCG = logp_NG.new_zeros(tokens_PCG.shape)
    logp_PCG[select_PC] = logp_NG
    return logp_PCG.transpose(1, 2) * batch.loss_mask_PGC


def _view_logprobs(
    policy: Policy, batch: GroupTokens, views: Views, temperature: float, chunk_rows: int | None
) -> Tensor:
    """All views of all groups in one call, [J, V, P, G, C]; rows without needed positions are left out."""
    masks = views.masks_BVC
    select = (views.weights_BVC != 0) & batch.loss_mask_PGC
    tokens_SC = batch.tokens_PGC.expand(masks.shape).reshape(-1, masks.shape[-1])
    needed_SC = _at_least_one(select.reshape(tokens_SC.shape))
    keep_S = needed_SC.any(dim=1)
    group = torch.arange(batch.tokens_PGC.shape[0], device=masks.device)[:, None].expand(masks.shape[:-1])
    group_s, tokens_sC = group.reshape(-1)[keep_S], tokens_SC[keep_S]
    canvas_sC = tokens_sC.masked_fill(masks.reshape(tokens_SC.shape)[keep_S], policy.token_ids.mask)
    attention_PL = batch.attention_PL
    logp_N = policy(
        torch.cat([batch.prompt_PQ[group_s], canvas_sC, batch.suffix_PR[group_s]], dim=1),
        None if attention_PL is None else attention_PL[group_s],
        select_BL=torch.nn.functional.pad(needed_SC[keep_S], batch.around),
        targets_BL=torch.nn.functional.pad(tokens_sC, batch.around),
        temperature=temperature,
        chunk_rows=chunk_rows,
    )
    logp_SC = logp_N.new_zeros(tokens_SC.shape)
    logp_SC[needed_SC] = logp_N
    return logp_SC.reshape(masks.shape) * select


def _at_least_one(select: Tensor) -> Tensor:
    """`select`, or its first entry alone if it selects nothing: a padding batch still runs every layer."""
    if bool(select.any()):
        return select
    one = torch.zeros_like(select)
    one.view(-1)[0] = True
    return one
