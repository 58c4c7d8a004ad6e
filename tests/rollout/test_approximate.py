"""Declared approximations: each equals the exact sampler if it approximates nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from couplet.configs.schema import ConfigError, SamplerConfig, ShapeConfig
from couplet.data.trajectory import answer_length
from couplet.model.policy import DiffusionPolicy
from couplet.model.tokens import TokenIds
from couplet.rollout.approximate import Block, BlockStates, blocks
from couplet.rollout.sampler import Completion, sample
from tests.rollout.canvases import masked

MASK, ENDS, FILLER = 5, (6, 8), 7
IDS = TokenIds(mask=MASK, pad=0, bos=0, eos=0, filler=FILLER, end=ENDS)
SHAPE = ShapeConfig(hidden=32, layers=3, heads=2, kv_heads=1, ffn=48, embedding_std=0.6)
ORDER_NAMES = ["origin", "maskgit_plus", "topk_margin", "entropy"]
PROMPTS = [[8, 9], [8, 9], [10, 11, 8], [9], []]
SEEDS = [1, 2, 3, 4, 5]


@pytest.fixture(scope="module")
def policy() -> DiffusionPolicy:
    return DiffusionPolicy.from_shape(SHAPE, 12, IDS, seed=0)


def config(**options: object) -> SamplerConfig:
    return SamplerConfig(**{"steps": 8, "completion_length": 8, "temperature": 1.0} | options)


def same(first: list[Completion], second: list[Completion]) -> bool:
    pairs = list(zip(first, second, strict=True))
    return all((a.tokens == b.tokens).all() and (a.reveal_step == b.reveal_step).all() for a, b in pairs)


@pytest.mark.parametrize("order", ORDER_NAMES)
@pytest.mark.parametrize("options", [{}, {"steps": 3}, {"alg_temp": 0.5, "top_p": 0.8, "rank_on": "unfiltered"}])
def test_one_block_is_the_exact_sampler(policy: DiffusionPolicy, order: str, options: dict) -> None:
    exact = sample(policy, PROMPTS, config(order=order, **options), SEEDS)
    assert same(exact, sample(policy, PROMPTS, config(order=order, block_length=8, **options), SEEDS))


@pytest.mark.parametrize("order", ORDER_NAMES)
@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_blocks_are_decoded_from_the_left_each_in_its_steps(policy: DiffusionPolicy, order: str, cache: str) -> None:
    c = config(order=order, steps=4, block_length=4, cache=cache)
    assert blocks(c) == [Block(0, 4, 0, 2), Block(4, 8, 2, 2)]
    for completion in sample(policy, PROMPTS, c, SEEDS):
        assert set(completion.reveal_step[:4]) <= {0, 1} and set(completion.reveal_step[4:]) <= {2, 3}
        assert MASK not in completion.tokens


@pytest.mark.parametrize("order", ORDER_NAMES)
@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_a_cache_refreshed_at_every_forward_pass_changes_nothing(
    policy: DiffusionPolicy, order: str, cache: str
) -> None:
    plain = sample(policy, PROMPTS, config(order=order, block_length=4), SEEDS)
    assert same(
        plain, sample(policy, PROMPTS, config(order=order, block_length=4, cache=cache, cache_refresh=1), SEEDS)
    )


@torch.inference_mode()
@pytest.mark.parametrize("cache", ["prefix", "dual"])
@pytest.mark.parametrize("block", [Block(0, 4, 0, 4), Block(4, 8, 4, 4)])
@pytest.mark.parametrize("prompt", [[8, 9], []])
def test_cached_states_are_exact_until_a_token_changes(
    policy: DiffusionPolicy, cache: str, block: Block, prompt: list[int]
) -> None:
    canvas = masked(policy, [prompt] * 2, 8, [1, 2])
    states = BlockStates(policy, canvas, block, config(block_length=4, cache=cache))
    row, position = torch.tensor([0, 0, 1]), torch.tensor([block.start, block.start + 2, block.start + 3])
    full = states.at(row, position)
    lengths = []
    hook = policy.model.register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    torch.testing.assert_close(states.at(row, position), full, atol=1e-5, rtol=1e-4)
    hook.remove()
    before = 0 if not prompt and block.start == 0 else 1
    assert lengths == [(4 if cache == "dual" else 8 - block.start) + before]
    canvas.tokens_BL[:, len(prompt) + block.start + 1] = 11
    assert not torch.allclose(states.at(row, position), full, atol=1e-3)


def test_early_stop_keeps_the_answer_and_fills_the_tail(policy: DiffusionPolicy) -> None:
    prompts, seeds = [[8, 9]] * 40, list(range(40))
    stopped_early = 0
    for order in ORDER_NAMES:
        exact = sample(policy, prompts, config(order=order), seeds)
        early = sample(policy, prompts, config(order=order, early_stop=True), seeds)
        for a, b in zip(exact, early):
            length = answer_length(a.tokens, ENDS)
            assert a.tokens[:length].tolist() == b.tokens[:length].tolist()
            tail = b.reveal_step < 0
            assert (b.tokens[tail] == FILLER).all() and not tail[:length].any()
            assert (b.tokens[~tail] == a.tokens[~tail]).all()
            assert np.isnan(b.entropy[tail]).all() and not np.isnan(b.entropy[~tail]).any()
            stopped_early += bool(tail.any())
    assert stopped_early > 10


def test_a_threshold_of_zero_reveals_everything_at_once(policy: DiffusionPolicy) -> None:
    for completion in sample(policy, PROMPTS, config(confidence_threshold=0.0), SEEDS):
        assert (completion.reveal_step == 0).all()


@pytest.mark.parametrize("order", ORDER_NAMES[1:])
def test_a_threshold_reveals_at_least_what_the_schedule_asks(policy: DiffusionPolicy, order: str) -> None:
    exact = sample(policy, PROMPTS, config(order=order), SEEDS)
    assert same(exact, sample(policy, PROMPTS, config(order=order, confidence_threshold=1.0), SEEDS))
    steps = [sum(c.reveal_step.max() for c in exact)]
    for threshold in (0.6, 0.4, 0.2):
        done = sample(policy, PROMPTS, config(order=order, confidence_threshold=threshold), SEEDS)
        steps.append(sum(c.reveal_step.max() for c in done))
        assert all(MASK not in c.tokens for c in done)
    assert steps[-1] < steps[0]


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"temperature": 0.2}, {"temperature": 3.0, "top_p": 0.5}])
def test_the_threshold_is_held_against_the_plain_distribution(policy: DiffusionPolicy, options: dict) -> None:
    """After the first step, what is revealed is what reaches the threshold there, and what the schedule asks (nothing)."""
    prompt = PROMPTS[0]
    canvas = [*prompt, *[MASK] * config().completion_length]
    z_CV = policy.logits(torch.tensor([canvas]))[0, len(prompt) :].detach()
    z_CV[:, MASK] = -torch.inf
    peak_C = torch.softmax(z_CV, dim=1).amax(dim=1)
    threshold = float(peak_C.median()) + 1e-4
    (done,) = sample(policy, [prompt], config(confidence_threshold=threshold, **options), SEEDS[:1])
    assert ((done.reveal_step == 0) == (peak_C >= threshold).numpy()).all()


@pytest.mark.parametrize("order", ORDER_NAMES)
@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
@pytest.mark.parametrize("refresh", [None, 2])
def test_a_row_decodes_the_same_alone_and_beside_any_other(
    policy: DiffusionPolicy, order: str, cache: str, refresh: int | None
) -> None:
    threshold = None if order == "origin" else 0.3
    options = {"early_stop": True, "block_length": 4, "confidence_threshold": threshold}
    c = config(order=order, cache=cache, cache_refresh=refresh, **options)
    prompts = [[8, 9], [8, 9], [10, 11], [9, 9], [11, 8]]  # of one length, so that they share every forward
    together = sample(policy, prompts, c, SEEDS)
    assert all(MASK not in completion.tokens for completion in together)
    assert same(together, [sample(policy, [p], c, [s])[0] for p, s in zip(prompts, SEEDS)])
    others = [*prompts[:-1], [10, 4]]
    assert same(together[:-1], sample(policy, others, c, SEEDS)[:-1])


def test_options_that_cannot_go_together_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"sampler.steps = 7: must be divisible by the number of blocks, 2"):
        config(block_length=4, steps=7)
    with pytest.raises(ConfigError, match=r"sampler.confidence_threshold = 0.5: needs an order that ranks"):
        config(order="origin", confidence_threshold=0.5)
