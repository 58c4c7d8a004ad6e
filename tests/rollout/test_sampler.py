"""The sampler against a plain implementation of its rule, and the laws it keeps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from couplet.configs.schema import SamplerConfig, ShapeConfig
from couplet.model.policy import DiffusionPolicy
from couplet.model.randomness import seed_tensor, uniforms
from couplet.model.tokens import TokenIds
from couplet.rollout.sampler import Completion, sample

MASK = 5
IDS = TokenIds(mask=MASK, pad=0, bos=0, eos=0, filler=7, end=(6,))
VOCAB = 40
ORDER_NAMES = ["origin", "maskgit_plus", "topk_margin", "entropy"]
PROMPTS = [[8, 9, 10], [11, 12, 13, 14, 15], [8, 9, 10], [20], [8, 9, 10], [30, 31, 32]]
SEEDS = [3, 1, 4, 1, 5, 9]


@pytest.fixture(scope="module")
def policy() -> DiffusionPolicy:
    shape = ShapeConfig(hidden=32, layers=2, heads=2, kv_heads=1, ffn=48, embedding_std=0.6)
    return DiffusionPolicy.from_shape(shape, VOCAB, IDS, seed=0)


@torch.no_grad()
def plain_sample(policy: DiffusionPolicy, prompt: list[int], config: SamplerConfig, seed: int) -> Completion:
    """One row, one step at a time, everything computed everywhere: the rule as it is written down."""
    length, steps = config.completion_length, config.steps
    x = torch.tensor([prompt + [MASK] * length])
    reveal_step = np.full(length, -1, dtype=np.int16)
    times = torch.linspace(1.0, config.eps, steps + 1)
    row = seed_tensor([seed])
    for i in range(steps):
        masked = [k for k in range(length) if x[0, len(prompt) + k] == MASK]
        if not masked:
            continue
        t, s = times[i], times[i + 1]
        z = policy.logits(x)[0, [len(prompt) + k for k in masked]].float()
        z[:, MASK] = -torch.inf
        if config.temperature > 0:
            z = z / config.temperature
        unfiltered = torch.softmax(z, -1)
        p = torch.softmax(plain_filter(z, config.top_p, config.top_k), -1)
        u = uniforms(row, "token", i, torch.tensor(masked))[0]
        x0 = [int(q.argmax()) for q in p]
        if config.temperature > 0:
            x0 = [next(v for v in range(VOCAB) if q[: v + 1].double().sum() > w) for q, w in zip(p, u.double())]
        if config.order == "origin":
            share = 1.0 if i == steps - 1 else float(1 - s / t)
            r = uniforms(row, "reveal", i, torch.tensor(masked))[0]
            chosen = [j for j in range(len(masked)) if r[j] < share]
        else:
            q = p if config.rank_on == "filtered" else unfiltered
            if config.order == "maskgit_plus":
                confidence = [float(q[j, x0[j]]) for j in range(len(masked))]
            elif config.order == "topk_margin":
                confidence = [float(a[0] - a[1]) for a in q.sort(descending=True).values]
            else:
                confidence = [float((a * torch.log(a + 1e-10)).sum()) for a in q]
            if config.alg_temp:
                noise = uniforms(row, "order", i, torch.tensor(masked))[0]
                confidence = [
                    c / config.alg_temp - float(torch.log(-torch.log(g + 2**-25))) for c, g in zip(confidence, noise)
                ]
            count = len(masked) if i == steps - 1 else int(len(masked) * (1 - s / t))
            chosen = sorted(range(len(masked)), key=lambda j: (-confidence[j], j))[:count]
        for j in chosen:
            x[0, len(prompt) + masked[j]] = x0[j]
            reveal_step[masked[j]] = i
    return Completion(x[0, len(prompt) :].numpy().astype(np.int32), reveal_step, np.zeros(length, np.float32))


def plain_filter(z: torch.Tensor, top_p: float, top_k: int | None) -> torch.Tensor:
    ordered, index = z.sort(dim=-1, descending=True, stable=True)
    drop = torch.softmax(ordered, -1).cumsum(-1) > top_p
    drop[:, 1:] = drop[:, :-1].clone()
    drop[:, 0] = False
    if top_p < 1.0:
        z = z.masked_fill(torch.zeros_like(drop).scatter(1, index, drop), -torch.inf)
    if top_k is not None:
        z = z.masked_fill(z < z.topk(top_k).values[:, -1:], -torch.inf)
    return z


def config(**options: object) -> SamplerConfig:
    return SamplerConfig(**{"order": "entropy", "steps": 8, "completion_length": 8, "temperature": 0.0} | options)


def assert_same(mine: list[Completion], plain: list[Completion]) -> None:
    for row, (a, b) in enumerate(zip(mine, plain, strict=True)):
        assert a.tokens.tolist() == b.tokens.tolist(), row
        assert a.reveal_step.tolist() == b.reveal_step.tolist(), row


@pytest.mark.parametrize("order", ORDER_NAMES)
@pytest.mark.parametrize("steps", [1, 3, 4, 8, 13])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_decoding_equals_the_plain_rule(policy: DiffusionPolicy, order: str, steps: int, temperature: float) -> None:
    c = config(order=order, steps=steps, temperature=temperature)
    assert_same(sample(policy, PROMPTS, c, SEEDS), [plain_sample(policy, p, c, s) for p, s in zip(PROMPTS, SEEDS)])


@pytest.mark.parametrize("order", ORDER_NAMES)
@pytest.mark.parametrize(
    "options",
    [
        {"top_p": 0.9},
        {"top_k": 3},
        {"top_p": 0.7, "top_k": 5, "rank_on": "unfiltered"},
        {"alg_temp": 0.5},
        {"top_p": 0.6, "temperature": 0.0},
    ],
    ids=["top_p", "top_k", "both_unfiltered", "alg_temp", "greedy_top_p"],
)
def test_filters_and_ranking_equal_the_plain_rule(policy: DiffusionPolicy, order: str, options: dict) -> None:
    c = config(order=order, steps=5, **({"temperature": 1.1} | options))
    assert_same(sample(policy, PROMPTS, c, SEEDS), [plain_sample(policy, p, c, s) for p, s in zip(PROMPTS, SEEDS)])


@pytest.mark.parametrize("order", ORDER_NAMES)
def test_a_row_decodes_the_same_alone_and_in_any_batch(policy: DiffusionPolicy, order: str) -> None:
    c = config(order=order, temperature=1.0, steps=6)
    together = sample(policy, PROMPTS, c, SEEDS)
    assert_same(together, [sample(policy, [p], c, [s])[0] for p, s in zip(PROMPTS, SEEDS)])
    assert_same(together[::-1], sample(policy, PROMPTS[::-1], c, SEEDS[::-1]))
    assert_same(together, sample(policy, PROMPTS, c, SEEDS, microbatch_rows=2))
