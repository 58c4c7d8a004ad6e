"""What the sampler decodes from fixed weights, prompts and seeds, for each order and a few options."""

from __future__ import annotations

from couplet.configs.schema import SamplerConfig, ShapeConfig
from couplet.model.policy import DiffusionPolicy
from couplet.model.tokens import TokenIds
from couplet.rollout.sampler import sample

BASE = SamplerConfig(steps=6, completion_length=8, temperature=1.0)
CASES = {
    "origin": BASE.replace(order="origin"),
    "maskgit_plus": BASE.replace(order="maskgit_plus", steps=8),
    "topk_margin_top_p": BASE.replace(order="topk_margin", top_p=0.9),
    "entropy": BASE,
    "entropy_greedy": BASE.replace(temperature=0.0),
    "entropy_recipe": BASE.replace(temperature=1.2, top_p=0.95, top_k=5, rank_on="unfiltered"),
    "entropy_alg_temp": BASE.replace(alg_temp=0.5),
    "entropy_blocks": BASE.replace(block_length=4, cache="dual", early_stop=True),
}


def golden_tokens() -> dict[str, list[list[list[int]]]]:
    """Case → [tokens, reveal steps] of each row."""
    shape = ShapeConfig(hidden=32, layers=2, heads=2, kv_heads=1, ffn=48, embedding_std=0.6)
    ids = TokenIds(mask=5, pad=0, bos=0, eos=0, filler=7, end=(6,))
    policy = DiffusionPolicy.from_shape(shape, 40, ids, seed=0)
    prompts, seeds = [[8, 9, 10], [11, 12, 13, 14, 15], [8, 9, 10]], [3, 1, 4]
    return {
        name: [[done.tokens.tolist(), done.reveal_step.tolist()] for done in sample(policy, prompts, config, seeds)]
        for name, config in CASES.items()
    }
