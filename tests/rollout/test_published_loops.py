"""At temperature 0 the sampler equals the published decoders, written here from their description.

LLaDA: `generate` of ML-GSAI/LLaDA (arXiv 2502.09992), low-confidence remasking. Dream: `diffusion_generate` of
Dream-org/Dream. One difference is by intent: the mask token itself is never drawn here.
"""

from __future__ import annotations

import random
from functools import cache

import pytest
import torch

from couplet.configs.schema import SamplerConfig, ShapeConfig
from couplet.model.policy import DiffusionPolicy
from couplet.model.tokens import TokenIds
from couplet.rollout.sampler import sample

MASK = 5
IDS = TokenIds(mask=MASK, pad=0, bos=0, eos=0, filler=7, end=(6,))
VOCAB = 40


@cache
def policy(seed: int, shift: bool) -> DiffusionPolicy:
    shape = ShapeConfig(hidden=32, layers=2, heads=2, kv_heads=1, ffn=48, embedding_std=0.6)
    built = DiffusionPolicy.from_shape(shape, VOCAB, IDS, seed)
    built.config.shift = shift
    return built


def logits_of(model: DiffusionPolicy, x: torch.Tensor) -> torch.Tensor:
    logits = model.logits(x).double()
    logits[..., MASK] = -torch.inf
    return logits


@torch.no_grad()
def llada_generate(model: DiffusionPolicy, prompt: list[int], steps: int, length: int, block_length: int) -> list[int]:
    """Block by block; each step commits its quota of the positions whose likeliest token is most probable."""
    x = torch.full((1, len(prompt) + length), MASK)
    x[0, : len(prompt)] = torch.tensor(prompt)
    blocks = length // block_length
    per_block = steps // blocks
    for block in range(blocks):
        start, end = len(prompt) + block * block_length, len(prompt) + (block + 1) * block_length
        quota, remainder = divmod(int((x[0, start:end] == MASK).sum()), per_block)
        for step in range(per_block):
            p = torch.softmax(logits_of(model, x), dim=-1)
            best_p, best = p[0].max(dim=-1)
            best_p[end:] = -torch.inf
            best_p[x[0] != MASK] = -torch.inf
            chosen = best_p.topk(quota + (step < remainder)).indices
            x[0, chosen] = best[chosen]
    return x[0, len(prompt) :].tolist()


@torch.no_grad()
def dream_generate(model: DiffusionPolicy, prompt: list[int], steps: int, length: int, algorithm: str) -> list[int]:
    """Times fall linearly from 1 to eps; each step commits int(n (1 - s/t)) positions, the last one all."""
    x = torch.full((1, len(prompt) + length), MASK)
    x[0, : len(prompt)] = torch.tensor(prompt)
    times = torch.linspace(1, 1e-3, steps + 1)
    for step in range(steps):
        masked = x == MASK
        p = torch.softmax(logits_of(model, x)[masked].float(), dim=-1)
        best_p, best = p.max(dim=-1)
        if algorithm == "topk_margin":
            two = p.sort(dim=-1, descending=True).values
            best_p = two[:, 0] - two[:, 1]
        elif algorithm == "entropy":
            best_p = (p * torch.log(p + 1e-10)).sum(dim=-1)
        count = len(best) if step == steps - 1 else int(masked.sum() * (1 - times[step + 1] / times[step]))
        if count:
            chosen = best_p.topk(count).indices
            x[0, masked[0].nonzero().flatten()[chosen]] = best[chosen]
    return x[0, len(prompt) :].tolist()


def settings(number: int) -> tuple[random.Random, list[int], int]:
    draw = random.Random(number)
    prompt = [draw.choice(range(8, VOCAB)) for _ in range(draw.randint(1, 6))]
    return draw, prompt, draw.choice([4, 8, 12, 16])


@pytest.mark.parametrize("number", range(60))
def test_llada(number: int) -> None:
    draw, prompt, length = settings(number)
    block = draw.choice([width for width in (2, 4, 8, length) if length % width == 0])
    steps = length // block * draw.randint(1, block)
    model = policy(number % 6, shift=False)
    config = SamplerConfig(
        order="maskgit_plus",
        schedule="even",
        temperature=0.0,
        steps=steps,
        completion_length=length,
        block_length=None if block == length else block,
    )
    expected = llada_generate(model, prompt, steps, length, block)
    assert sample(model, [prompt], config, [number])[0].tokens.tolist() == expected


@pytest.mark.parametrize("number", range(60))
def test_dream(number: int) -> None:
    draw, prompt, length = settings(number)
    order = draw.choice(["maskgit_plus", "topk_margin", "entropy"])
    steps = draw.randint(1, length + 3)
    model = policy(number % 6, shift=True)
    config = SamplerConfig(order=order, temperature=0.0, steps=steps, completion_length=length)
    expected = dream_generate(model, prompt, steps, length, order)
    assert sample(model, [prompt], config, [number])[0].tokens.tolist() == expected


def test_the_even_schedule_needs_a_ranking_order() -> None:
    with pytest.raises(ValueError, match="needs an order that ranks positions"):
        SamplerConfig(order="origin", schedule="even")
