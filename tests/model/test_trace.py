"""The estimator `trace`: the states the sampler saw, each token once, exact with a slice per step."""

from itertools import permutations, product

import numpy as np
import pytest
import torch

from couplet.configs.schema import EstimatorConfig, SamplerConfig, ShapeConfig
from couplet.model.estimators import ESTIMATORS, Canvases, slice_edges
from couplet.model.policy import DiffusionPolicy
from couplet.model.tokens import TokenIds
from couplet.rollout.sampler import sample
from tests.one_group import group_logprobs

IDS = TokenIds(mask=0, pad=1, bos=1, eos=1, filler=2, end=(3,))
SHAPE = ShapeConfig(hidden=16, layers=2, heads=2, kv_heads=1, ffn=24, embedding_std=0.7)
PROMPT = [5, 4, 5]
CANVAS = 4


@pytest.fixture(scope="module")
def policy():
    return DiffusionPolicy.from_shape(SHAPE, 6, IDS, seed=3).eval()


def trace_logprobs(policy, tokens_GC, steps_GC, slices, loss_GC=None):
    loss_GC = np.ones_like(tokens_GC, dtype=bool) if loss_GC is None else loss_GC
    config = EstimatorConfig(name="trace", slices=slices)
    with torch.no_grad():
        return group_logprobs(
            policy, PROMPT, tokens_GC, loss_GC, range(len(tokens_GC)), config, 0, reveal_step_GC=steps_GC
        ).numpy()


def along(policy, tokens_C, steps_C):
    """Log-probability of each token in the state before its own step: one forward pass per step, nothing shared."""
    tokens, steps = torch.tensor(tokens_C), torch.tensor(steps_C)
    found = torch.zeros(len(tokens))
    for step in range(int(steps.max()) + 1):
        canvas = torch.where((steps >= step) | (steps < 0), IDS.mask, tokens)
        with torch.no_grad():
            logits_CV = policy.logits(torch.cat([torch.tensor(PROMPT), canvas])[None])[0, len(PROMPT) :]
        logp = torch.log_softmax(logits_CV, dim=-1).gather(1, tokens[:, None])[:, 0]
        found = torch.where(steps == step, logp, found)
    return found.numpy()


def test_a_slice_per_step_is_the_probability_of_the_trajectory_for_every_order(policy):
    orders = np.array(list(permutations(range(CANVAS))))
    tokens = np.random.default_rng(0).integers(1, 6, (len(orders), CANVAS))
    found = trace_logprobs(policy, tokens, orders, CANVAS)
    for row, (tokens_C, steps_C) in enumerate(zip(tokens.tolist(), orders.tolist())):
        np.testing.assert_allclose(found[row], along(policy, tokens_C, steps_C), atol=1e-5)
    np.testing.assert_allclose(trace_logprobs(policy, tokens, orders, 9), found, atol=1e-6)  # more slices than steps


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (2, 0, 3, 1), (1, 0, 0, 1)])
def test_probabilities_of_all_completions_of_an_order_sum_to_one(policy, order):
    """It is the probability of a trajectory, not a bound: over all 6^4 completions of any order it sums to 1."""
    tokens = np.array(list(product(range(6), repeat=CANVAS)))
    logp = trace_logprobs(policy, tokens, np.broadcast_to(order, tokens.shape), CANVAS)
    assert np.exp(logp.astype(np.float64).sum(axis=1)).sum() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("steps", [2, 4, 8])
def test_it_is_the_probability_of_what_the_sampler_draws(policy, steps):
    """The sampler's own trajectories, several tokens per step and empty steps included."""
    config = SamplerConfig(steps=steps, completion_length=CANVAS, order="entropy")
    drawn = sample(policy, [PROMPT] * 8, config, range(8))
    tokens, order = np.stack([one.tokens for one in drawn]), np.stack([one.reveal_step for one in drawn])
    found = trace_logprobs(policy, tokens, order, steps)
    for row in range(8):
        np.testing.assert_allclose(found[row], along(policy, tokens[row].tolist(), order[row].tolist()), atol=1e-5)


def test_one_slice_is_the_full_mask(policy):
    tokens = np.array([[4, 5, 3, 2], [2, 2, 4, 5]])
    order = np.array([[0, 1, 2, 3], [3, 1, 0, 2]])
    with torch.no_grad():
        full = group_logprobs(
            policy, PROMPT, tokens, np.ones((2, 4), bool), [1, 2], EstimatorConfig(name="full_mask"), 0
        )
    np.testing.assert_allclose(trace_logprobs(policy, tokens, order, 1), full.numpy(), atol=1e-6)


def test_two_slices_by_hand(policy):
    """S = 2, K = 2: the edge is 1; the first two tokens are scored fully masked, the others given these two."""
    views = ESTIMATORS["trace"](
        Canvases(CANVAS, [7], [7], torch.tensor([[1, 0, 0, 1]])), EstimatorConfig(name="trace", slices=2)
    )
    assert views.first_BC.tolist() == [[0.0, 1.0, 1.0, 0.0]]
    assert views.masks_BVC.tolist() == [[[True, False, False, True]]]
    assert views.weights_BVC.tolist() == [[[1.0, 0.0, 0.0, 1.0]]] and views.divisor == 1.0


@pytest.mark.parametrize("slices", [1, 2, 3, 5, 16, 20])
def test_every_token_is_scored_once_while_masked_and_what_follows_it_is_hidden(slices):
    generator = np.random.default_rng(slices)
    step_BC = torch.from_numpy(generator.integers(-1, 16, (200, 24)))
    views = ESTIMATORS["trace"](Canvases(24, range(200), range(200), step_BC), EstimatorConfig(slices=slices))
    assert views.masks_BVC.shape[1] == min(slices, 16) - 1  # no more slices than steps
    assert EstimatorConfig(name="trace", slices=slices).views(24) == slices - 1
    total_BC = views.first_BC + views.weights_BVC.sum(dim=1)
    assert torch.equal(total_BC, (step_BC >= 0).float())  # a token that no step revealed is never scored
    assert not (views.weights_BVC.bool() & ~views.masks_BVC).any()
    assert views.masks_BVC[(step_BC < 0)[:, None].expand_as(views.masks_BVC)].all()
    step_BVC = step_BC[:, None].expand_as(views.masks_BVC)
    scored_BVC = views.weights_BVC.bool()
    last_visible_BV = step_BVC.masked_fill(views.masks_BVC, -1).amax(dim=2)
    first_scored_BV = step_BVC.masked_fill(~scored_BVC, 99).amin(dim=2)
    first_hidden_BV = step_BVC.masked_fill(~views.masks_BVC | (step_BVC < 0), 99).amin(dim=2)
    assert (last_visible_BV < first_hidden_BV).all()
    assert (first_scored_BV >= first_hidden_BV).all()


def test_edges_are_drawn_around_even_cuts_and_never_leave_the_schedule():
    edges = slice_edges(torch.full((4000,), 16), 3, range(4000))
    assert edges.double().mean(dim=0).tolist() == pytest.approx([16 / 3, 32 / 3], abs=0.15)
    assert set(edges[:, 0].tolist()) == set(range(3, 9)) and set(edges[:, 1].tolist()) == set(range(8, 14))
    assert (edges.diff(dim=1) >= 0).all()
    steps = torch.tensor([1, 2, 4, 5])
    assert slice_edges(steps, 4, range(4)).tolist()[:3] == [[1, 1, 1], [1, 2, 2], [1, 2, 3]]
    assert (slice_edges(steps, 4, range(4)) <= steps[:, None]).all()


def test_a_group_without_reveal_steps_is_refused(policy):
    with pytest.raises(ValueError, match="reveal step"):
        group_logprobs(
            policy, PROMPT, np.ones((1, 4), int), np.ones((1, 4), bool), [1], EstimatorConfig(name="trace"), 0
        )


def test_completions_of_a_single_step_need_a_second_view_too(policy):
    """Ranks must make equally many calls of the policy, whatever their trajectories are."""
    steps = np.zeros((2, CANVAS), dtype=np.int64)
    views = ESTIMATORS["trace"](
        Canvases(CANVAS, [1, 2], [1, 2], torch.from_numpy(steps)), EstimatorConfig(name="trace", slices=4)
    )
    assert views.masks_BVC.shape[1] == 1 and not views.weights_BVC.any()
    tokens = np.random.default_rng(0).integers(1, 6, (2, CANVAS))
    for row, tokens_C in enumerate(tokens.tolist()):
        expected = along(policy, tokens_C, steps[row].tolist())
        np.testing.assert_allclose(trace_logprobs(policy, tokens, steps, 4)[row], expected, atol=1e-5)
