"""The estimators `elbo`, `spg` and `left_to_right` against all masks and orders of a 4-token canvas."""

from dataclasses import replace
from itertools import combinations, permutations, product

import numpy as np
import pytest
import torch

from couplet.configs.schema import EstimatorConfig, SamplerConfig, ShapeConfig
from couplet.model.estimators import ESTIMATORS, Canvases
from couplet.model.likelihood import GroupTokens, batch_bounds, batch_logprobs, upper_bound
from couplet.model.policy import DiffusionPolicy
from couplet.model.tokens import TokenIds
from couplet.rollout.sampler import sample
from tests.one_group import group_logprobs

IDS = TokenIds(mask=0, pad=1, bos=1, eos=1, filler=2, end=(3,))
SHAPE = ShapeConfig(hidden=16, layers=2, heads=2, kv_heads=1, ffn=24, embedding_std=0.7)
PROMPT, TOKENS, CANVAS = [5, 4, 5], [4, 2, 5, 3], 4
DRAWS = 3000


@pytest.fixture(scope="module")
def policy():
    return DiffusionPolicy.from_shape(SHAPE, 6, IDS, seed=3).eval()


@pytest.fixture(scope="module")
def table(policy):
    """Log-probability of token k under each of the 16 masks: {mask as a tuple of bools: array [4]}."""
    found = {}
    for mask in product([False, True], repeat=CANVAS):
        canvas = torch.where(torch.tensor(mask), IDS.mask, torch.tensor(TOKENS))
        with torch.no_grad():
            logits = policy.logits(torch.cat([torch.tensor(PROMPT), canvas])[None])[0, len(PROMPT) :]
        found[mask] = torch.log_softmax(logits, dim=-1).gather(1, torch.tensor(TOKENS)[:, None])[:, 0].double().numpy()
    return found


def masks_of(size, k):
    """All masks of `size` tokens that contain k."""
    for chosen in combinations(range(CANVAS), size):
        if k in chosen:
            yield tuple(position in chosen for position in range(CANVAS))


def over_masks(table, k, function):
    """Mean over the number of masked tokens 1..4, and over all such masks that contain token k."""
    means = [np.mean([function(table[mask][k]) for mask in masks_of(size, k)]) for size in range(1, CANVAS + 1)]
    return float(np.mean(means))


def estimates(policy, draws, **options):
    """[draws, C], lower and upper bound [K, draws, C] of the same completion under different masks."""
    config = EstimatorConfig(**options)
    tokens = np.tile(TOKENS, (draws, 1))[None]
    batch = GroupTokens.of([PROMPT], tokens, np.ones_like(tokens, dtype=bool), IDS.pad)
    with torch.no_grad():
        return batch_bounds(policy, batch, [[range(draws)]], [[0]], config)[:, 0, 0].double().numpy()


@pytest.mark.parametrize("times", ["uniform", "stratified"])
def test_elbo_is_the_mean_over_all_orders(policy, table, times):
    orders = []
    for order in permutations(range(CANVAS)):
        logp = [table[tuple(order.index(p) >= order.index(k) for p in range(CANVAS))][k] for k in range(CANVAS)]
        orders.append(logp)
    exact = np.mean(orders, axis=0)
    assert [over_masks(table, k, float) for k in range(CANVAS)] == pytest.approx(exact.tolist())  # the two forms agree
    (found,) = estimates(policy, DRAWS, name="elbo", pairs=2, times=times)
    error = found.std(axis=0) / DRAWS**0.5
    assert (np.abs(found.mean(axis=0) - exact) < 4.5 * error).all()
    bound, marginal = exact.sum(), np.log(np.mean(np.exp(np.sum(orders, axis=1))))
    assert bound <= marginal  # a lower bound of the log-probability under a random order


@pytest.mark.parametrize("times", ["uniform", "stratified"])
def test_the_power_in_the_upper_bound_of_spg_is_unbiased_and_many_views_reach_the_bound(policy, table, times):
    beta = 1.5
    exact = np.array([over_masks(table, k, lambda logp: np.exp(beta * logp)) for k in range(CANVAS)])
    options = {"upper_beta": beta, "upper_mix": 1.0, "name": "spg", "times": times}
    powers = np.exp(beta * estimates(policy, DRAWS, pairs=2, **options)[1])
    assert (np.abs(powers.mean(axis=0) - exact) < 4.5 * powers.std(axis=0) / DRAWS**0.5).all()
    lower, upper = estimates(policy, 1, pairs=2000, **options)[:, 0]
    assert upper.tolist() == pytest.approx((np.log(exact) / beta).tolist(), abs=0.1)
    assert (upper > lower).all()


def test_holders_inequality_makes_beta_of_the_canvas_an_upper_bound_of_the_log_probability(table):
    """Proven for beta >= C; checked at SPG's 1.5 on this toy."""
    orders = [
        sum(table[tuple(order.index(p) >= order.index(k) for p in range(CANVAS))][k] for k in range(CANVAS))
        for order in permutations(range(CANVAS))
    ]
    marginal = np.log(np.mean(np.exp(orders)))
    for beta in (1.5, CANVAS):
        bound = sum(np.log(over_masks(table, k, lambda logp, b=beta: np.exp(b * logp))) / beta for k in range(CANVAS))
        assert bound >= marginal


def test_the_upper_bound_by_hand():
    """Two views of p = 1/2, 1/4 with weights 1, 2 and beta 2: log(1·1/4 + 2·1/16)/2; a view of weight 0 is left out."""
    logp = torch.log(torch.tensor([0.5, 0.25, 0.9])).reshape(1, 3, 1, 1, 1)
    weights = torch.tensor([1.0, 2.0, 0.0]).reshape(1, 3, 1, 1, 1)
    on, off = torch.ones(1, 1, 1, dtype=torch.bool), torch.zeros(1, 1, 1, dtype=torch.bool)
    assert upper_bound(logp, weights, on, 2.0).item() == pytest.approx(np.log(0.375) / 2)
    assert upper_bound(logp, weights, off, 2.0).item() == 0.0


def test_spg_takes_the_mixed_upper_bound_where_the_advantage_is_negative(policy):
    config = EstimatorConfig(name="spg", pairs=2, upper_mix=0.25)
    tokens = np.tile(TOKENS, (2, 1))[None]
    loss = np.array([[[True, True, True, False]] * 2])
    batch = replace(GroupTokens.of([PROMPT], tokens, loss, IDS.pad), upper_PG=torch.tensor([[False, True]]))
    lower, mixed = batch_bounds(policy, batch, [[[1, 2]]], [[0]], config)[:, 0, 0]
    pure = batch_bounds(policy, batch, [[[1, 2]]], [[0]], config.replace(upper_mix=1.0))[1, 0, 0]
    torch.testing.assert_close(mixed, 0.25 * pure + 0.75 * lower)
    found = batch_logprobs(policy, batch, [[[1, 2]]], [[0]], config)[0, 0]
    assert torch.equal(found[0], lower[0]) and torch.equal(found[1], mixed[1]) and not found[:, 3].any()
    (gradient,) = torch.autograd.grad(found.sum(), policy.lm_head.weight)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("pairs", [1, 3])
@pytest.mark.parametrize("times", ["uniform", "stratified"])
def test_a_pair_masks_every_token_and_the_expected_weight_is_one(pairs, times):
    config = EstimatorConfig(name="elbo", pairs=pairs, times=times)
    views = ESTIMATORS["elbo"](Canvases(8, range(4000), range(4000)), config)
    assert views.masks_BVC.shape[1] == 2 * pairs == config.views(8)
    assert views.masks_BVC.unflatten(1, (pairs, 2)).any(dim=2).all()
    assert not (views.weights_BVC.bool() ^ views.masks_BVC).any()
    assert views.weights_BVC.sum(dim=1).mean().item() == pytest.approx(1.0, abs=1e-6)
    sizes = views.masks_BVC.sum(dim=2)
    assert (sizes[:, 0::2] + sizes[:, 1::2] == 9).all() and set(sizes.flatten().tolist()) == set(range(1, 9))
    if times == "stratified":
        assert (sizes[:, 0] <= 8 / (2 * pairs) + 1).all()


def test_left_to_right_is_the_autoregressive_log_probability(policy, table):
    config = EstimatorConfig(name="left_to_right")
    with torch.no_grad():
        (found,) = group_logprobs(policy, PROMPT, [TOKENS], [[True] * 4], [1], config, 0)
    exact = [table[tuple(position >= k for position in range(CANVAS))][k] for k in range(CANVAS)]
    assert found.tolist() == pytest.approx(exact, abs=1e-5)


def test_left_to_right_is_the_trace_of_a_sampler_that_decodes_left_to_right(policy):
    sampler = SamplerConfig(steps=CANVAS, completion_length=CANVAS, block_length=1)
    drawn = sample(policy, [PROMPT] * 4, sampler, range(4))
    tokens, steps = np.stack([one.tokens for one in drawn]), np.stack([one.reveal_step for one in drawn])
    assert (steps == np.arange(CANVAS)).all()
    arrays = policy, PROMPT, tokens, np.ones((4, CANVAS), dtype=bool), range(4)
    with torch.no_grad():
        left = group_logprobs(*arrays, EstimatorConfig(name="left_to_right"), 0)
        trace = group_logprobs(*arrays, EstimatorConfig(name="trace", slices=CANVAS), 0, reveal_step_GC=steps)
    torch.testing.assert_close(left, trace, rtol=0, atol=1e-5)
