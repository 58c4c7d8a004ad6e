"""Plain implementations to compare with: what the published decoder and trainer compute, in the obvious way.

The sampler runs every step (empty ones too), runs the head on every position, sorts the whole vocabulary for top-p, and
draws at every masked position. The learner runs three views of each completion, keeps the logits of the whole canvas,
and estimates old and reference log-probabilities for each inner update.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from couplet.configs.schema import EstimatorConfig, SamplerConfig, ShapeConfig
from couplet.model.masking import coupled_masks, mask_ratios
from couplet.model.policy import DiffusionPolicy
from couplet.model.tokens import TokenIds
from couplet.rollout.orders import ORDERS

IDS = TokenIds(mask=5, pad=0, bos=0, eos=0, filler=7, end=(6,))
SHAPES = {
    "toy": ShapeConfig(hidden=32, layers=2, heads=2, kv_heads=1, ffn=64, embedding_std=0.2),
    "tiny": ShapeConfig(embedding_std=0.2),
    "mid": ShapeConfig(hidden=512, layers=6, heads=8, kv_heads=2, ffn=1408, embedding_std=0.2),
    "7b": ShapeConfig(
        hidden=3584,
        layers=28,
        heads=28,
        kv_heads=4,
        ffn=18944,
        tie_embeddings=False,
        max_positions=4096,
        rope_theta=1e6,
    ),
}


def random_policy(shape: str, vocabulary: int, device: str = "cpu", dtype: str = "float32") -> DiffusionPolicy:
    """A policy of one of `SHAPES` with random weights."""
    return DiffusionPolicy.from_shape(SHAPES[shape], vocabulary, IDS, seed=0, device=device, dtype=dtype)


@torch.inference_mode()
def plain_loop(policy: DiffusionPolicy, prompts_BP: Tensor, config: SamplerConfig, seed: int) -> Tensor:
    """Dream-style decoding of prompts of one length. Returns tokens [B, C]."""
    generator = torch.Generator(prompts_BP.device).manual_seed(seed)
    mask_id = policy.token_ids.mask
    rows, prompt_length = prompts_BP.shape
    canvas = torch.full((rows, config.completion_length), mask_id, device=prompts_BP.device)
    x_BL = torch.cat([prompts_BP, canvas], dim=1)
    times = torch.linspace(1, config.eps, config.steps + 1)
    rank = ORDERS[config.order].confidence
    assert rank is not None
    for step in range(config.steps):
        masked_BL = x_BL == mask_id
        z_NV = policy.logits(x_BL)[masked_BL].float()
        z_NV[:, mask_id] = -torch.inf
        p_NV = torch.softmax(plain_filter(z_NV / config.temperature, config.top_p, config.top_k), dim=1)
        x0_N = torch.multinomial(p_NV, 1, generator=generator).squeeze(1)
        unranked_BL = torch.full(x_BL.shape, -torch.inf, device=x_BL.device)
        confidence_BL = unranked_BL.masked_scatter(masked_BL, rank(p_NV, x0_N))
        drawn_BL = x_BL.masked_scatter(masked_BL, x0_N)
        left = int(masked_BL[0].sum())
        count = left if step == config.steps - 1 else int(left * (1 - times[step + 1] / times[step]))
        if count:
            chosen_Bk = confidence_BL.topk(count, dim=1).indices
            x_BL.scatter_(1, chosen_Bk, drawn_BL.gather(1, chosen_Bk))
    return x_BL[:, prompt_length:]


def plain_filter(z_NV: Tensor, top_p: float, top_k: int | None) -> Tensor:
    """Top-p by sorting the vocabulary, then top-k."""
    if top_p < 1.0:
        sorted_NV, index_NV = z_NV.sort(dim=1, descending=True)
        drop_NV = torch.softmax(sorted_NV, dim=1).cumsum(dim=1) > top_p
        drop_NV[:, 1:] = drop_NV[:, :-1].clone()
        drop_NV[:, 0] = False
        z_NV = z_NV.masked_fill(torch.zeros_like(drop_NV).scatter(1, index_NV, drop_NV), -torch.inf)
    if top_k is not None:
        z_NV = z_NV.masked_fill(z_NV < z_NV.topk(top_k, dim=1).values[:, -1:], -torch.inf)
    return z_NV


def plain_logprob(hidden_NH: Tensor, weight_VH: Tensor, targets_N: Tensor) -> Tensor:
    """log softmax(hidden · weightᵀ) at the targets, all logits at once: [N]."""
    logits_NV = torch.nn.functional.linear(hidden_NH, weight_VH).float()
    return torch.log_softmax(logits_NV, dim=1).gather(1, targets_N[:, None]).squeeze(1)


def plain_views(
    policy: DiffusionPolicy, prompt_P: Tensor, tokens_GC: Tensor, seeds_G: Sequence[int], estimator: EstimatorConfig
) -> Tensor:
    """The coupled estimate of one group (one pair, weights 1/t and 1/(1 - t)) by a full forward pass per completion and view, canvas logits kept: [G, C]."""
    everything_GC = torch.ones(tokens_GC.shape, dtype=torch.bool)
    ratio_G = mask_ratios(seeds_G, estimator.t_min, estimator.t_max)
    masks = coupled_masks(everything_GC, ratio_G, seeds_G)
    views = [(everything_GC, torch.ones_like(ratio_G)), (masks[0], 1 / ratio_G), (masks[1], 1 / (1 - ratio_G))]
    prompts_GP = prompt_P.expand(len(tokens_GC), -1)
    total_GC = torch.zeros(tokens_GC.shape, device=tokens_GC.device)
    for mask_GC, weight_G in views:
        mask_GC = mask_GC.to(tokens_GC.device)
        canvas_GC = tokens_GC.masked_fill(mask_GC, policy.token_ids.mask)
        hidden_GLH = policy.hidden(torch.cat([prompts_GP, canvas_GC], dim=1))
        hidden_NH = hidden_GLH[:, prompt_P.numel() :].flatten(0, 1)
        logp_N = plain_logprob(hidden_NH, policy.lm_head.weight, tokens_GC.flatten())
        total_GC = total_GC + weight_G.to(total_GC.device)[:, None] * mask_GC * logp_N.view(tokens_GC.shape)
    return total_GC / 2
