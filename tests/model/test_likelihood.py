import typing

import numpy as np
import pytest
import torch

from couplet.configs.schema import EstimatorConfig, ShapeConfig
from couplet.model.estimators import ESTIMATORS, Canvases, view_weights
from couplet.model.likelihood import GroupTokens, batch_logprobs
from couplet.model.masking import coupled_masks, decoupled_masks, mask_ratios
from couplet.model.policy import DiffusionPolicy
from couplet.model.tokens import TokenIds
from tests.one_group import group_logprobs, inner_logprobs

TOKENS = TokenIds(mask=0, pad=1, bos=1, eos=1, filler=2, end=(3,))
PROMPT = [5, 9, 4]
COMPLETIONS = np.array([[7, 8, 3, 2, 2], [4, 4, 10, 11, 3], [3, 2, 2, 2, 2]])
LOSS = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]], dtype=bool)
SEEDS = [101, 102, 103]


@pytest.fixture(scope="module")
def policy():
    shape = ShapeConfig(hidden=16, layers=2, heads=2, kv_heads=1, ffn=24, embedding_std=0.5)
    return DiffusionPolicy.from_shape(shape, 17, TOKENS, seed=3).eval()


def by_definition(policy, prompt, tokens_C, loss_C, seed, config, ratio_seed=None, temperature=1.0, suffix=()):
    """The estimator's formula for one completion, view by view from full logits, without anything shared."""

    def view(mask_C):
        canvas = torch.where(mask_C, TOKENS.mask, tokens_C)
        row = torch.cat([torch.tensor(prompt), canvas, torch.tensor(suffix, dtype=torch.int64)])
        logits = policy.logits(row[None])[0, len(prompt) : len(prompt) + len(canvas)]
        logp = torch.log_softmax(logits / temperature, dim=-1)
        return logp.gather(1, tokens_C[:, None])[:, 0]

    tokens_C = torch.as_tensor(tokens_C)
    everything = torch.ones(1, len(tokens_C), dtype=torch.bool)
    total = view(everything[0])
    pairs = 0 if config.name == "full_mask" else config.pairs
    for pair in range(pairs):
        ratio = mask_ratios([seed if ratio_seed is None else ratio_seed], config.t_min, config.t_max, pair)
        masks = {"coupled": coupled_masks, "decoupled": decoupled_masks}[config.name]
        for mask, weight in zip(masks(everything, ratio, [seed], pair), view_weights(ratio, config.weighting)):
            total = total + torch.where(mask[0], weight * view(mask[0]), 0.0)
    return total / (pairs + 1) * torch.as_tensor(loss_C)


@pytest.mark.parametrize("name", ["coupled", "decoupled", "full_mask"])
@pytest.mark.parametrize("pairs", [1, 3])
@pytest.mark.parametrize("weighting", ["inverse_t", "half_inverse_t", "none"])
def test_equals_the_formula_view_by_view(policy, name, pairs, weighting):
    """View 0 shared by the group and needed rows only change nothing."""
    config = EstimatorConfig(name=name, pairs=pairs, weighting=weighting)
    found = group_logprobs(policy, PROMPT, COMPLETIONS, LOSS, SEEDS, config, group_seed=7)
    for row in range(3):
        expected = by_definition(policy, PROMPT, COMPLETIONS[row], LOSS[row], SEEDS[row], config)
        torch.testing.assert_close(found[row], expected, rtol=1e-6, atol=5e-6)


def test_t_scope_group_gives_a_group_one_diffusion_time(policy):
    config = EstimatorConfig(t_scope="group")
    found = group_logprobs(policy, PROMPT, COMPLETIONS, LOSS, SEEDS, config, group_seed=7)
    for row in range(3):
        expected = by_definition(policy, PROMPT, COMPLETIONS[row], LOSS[row], SEEDS[row], config, ratio_seed=7)
        torch.testing.assert_close(found[row], expected, rtol=1e-6, atol=5e-6)


def test_temperature_is_used_only_where_it_is_asked_for(policy):
    plain = group_logprobs(policy, PROMPT, COMPLETIONS, LOSS, SEEDS, EstimatorConfig(), 7, temperature=1.5)
    assert torch.equal(plain, group_logprobs(policy, PROMPT, COMPLETIONS, LOSS, SEEDS, EstimatorConfig(), 7))
    config = EstimatorConfig(match_temperature=True)
    found = group_logprobs(policy, PROMPT, COMPLETIONS, LOSS, SEEDS, config, 7, temperature=1.5)
    expected = by_definition(policy, PROMPT, COMPLETIONS[1], LOSS[1], SEEDS[1], config, temperature=1.5)
    torch.testing.assert_close(found[1], expected, rtol=1e-6, atol=5e-6)
    with pytest.raises(ValueError, match="match_temperature"):
        group_logprobs(policy, PROMPT, COMPLETIONS, LOSS, SEEDS, config, 7, temperature=0.0)


def test_a_group_of_one_equals_its_row_of_a_group(policy):
    together = group_logprobs(policy, PROMPT, COMPLETIONS, LOSS, SEEDS, EstimatorConfig(pairs=2), 7)
    for row in range(3):
        part = slice(row, row + 1)
        alone = group_logprobs(
            policy, PROMPT, COMPLETIONS[part], LOSS[part], SEEDS[part], EstimatorConfig(pairs=2), group_seed=7
        )
        torch.testing.assert_close(alone[0], together[row], rtol=1e-6, atol=5e-6)


def test_inner_updates_have_fresh_masks_and_share_view_0(policy):
    seeds_JG = [SEEDS, [201, 202, 203]]
    calls = []
    with torch.no_grad():
        found = inner_logprobs(counted(policy, calls), PROMPT, COMPLETIONS, LOSS, seeds_JG, [7, 8], EstimatorConfig())
        assert calls == [1, 10]  # 2 · 2 · 3 view rows, less the two that mask nothing of the third, 1-token answer
        for update, seeds in enumerate(seeds_JG):
            alone = group_logprobs(policy, PROMPT, COMPLETIONS, LOSS, seeds, EstimatorConfig(), 7)
            torch.testing.assert_close(found[update], alone, rtol=1e-6, atol=5e-6)
    assert not torch.allclose(found[0], found[1])


def counted(policy, calls):
    class Counted(torch.nn.Module):
        token_ids = policy.token_ids
        device = policy.device

        def forward(self, tokens, *args, **kwargs):
            calls.append(tokens.shape[0])
            return policy(tokens, *args, **kwargs)

        def parameters(self):
            return policy.parameters()

    return Counted()


def test_prompts_of_unequal_length_share_a_batch(policy):
    prompts = [PROMPT, [6], [12, 13, 14, 15, 16]]
    tokens = np.stack([COMPLETIONS] * 3)
    loss = np.stack([LOSS] * 3)
    batch = GroupTokens.of(prompts, tokens, loss, TOKENS.pad)
    seeds = [[[derive * 10 + seed for seed in SEEDS] for derive in range(3)]]
    found = batch_logprobs(policy, batch, seeds, [[1, 2, 3]], EstimatorConfig())
    for group in range(3):
        alone = group_logprobs(policy, prompts[group], COMPLETIONS, LOSS, seeds[0][group], EstimatorConfig(), group + 1)
        torch.testing.assert_close(found[0, group], alone, rtol=1e-6, atol=5e-6)


@pytest.mark.parametrize("name", ["coupled", "full_mask", "decoupled"])
def test_a_suffix_is_seen_in_every_view_and_padded_on_the_right(policy, name):
    """Infilling: alone and in a batch with prompts and suffixes of other lengths."""
    config, prompts, suffixes = EstimatorConfig(name=name), [PROMPT, [6], [12, 13]], [[14, 15], [], [16, 4, 5, 6]]
    batch = GroupTokens.of(
        prompts, np.stack([COMPLETIONS] * 3), np.stack([LOSS] * 3), TOKENS.pad, suffixes=[np.array(s) for s in suffixes]
    )
    found = batch_logprobs(policy, batch, [[SEEDS] * 3], [[7] * 3], config)
    for group, (prompt, suffix) in enumerate(zip(prompts, suffixes)):
        alone = group_logprobs(policy, prompt, COMPLETIONS, LOSS, SEEDS, config, 7, suffix=suffix)
        torch.testing.assert_close(found[0, group], alone, rtol=1e-6, atol=5e-6)
        for row in range(3):
            expected = by_definition(policy, prompt, COMPLETIONS[row], LOSS[row], SEEDS[row], config, suffix=suffix)
            torch.testing.assert_close(alone[row], expected, rtol=1e-6, atol=5e-6)


def test_the_head_runs_on_needed_rows_only(policy, monkeypatch):
    rows = []
    forward = type(policy.lm_head).forward

    def watched(self, hidden, *args):
        rows.append(hidden.shape[0])
        return forward(self, hidden, *args)

    monkeypatch.setattr(type(policy.lm_head), "forward", watched)
    group_logprobs(policy, PROMPT, COMPLETIONS, LOSS, SEEDS, EstimatorConfig(), 7)
    assert rows == [5, LOSS.sum()]  # view 0 once for the group; a coupled pair needs each loss token once


def test_nothing_to_learn_gives_zeros_with_a_graph(policy):
    """A padding micro-batch runs the same forward passes and a backward pass of zeros."""
    logp = group_logprobs(policy, PROMPT, COMPLETIONS, np.zeros_like(LOSS), SEEDS, EstimatorConfig(), 7)
    assert not logp.any()
    (gradient,) = torch.autograd.grad(logp.sum(), policy.lm_head.weight)
    assert not gradient.any()


def test_decoupled_terms_are_not_renormalised(policy):
    """With pairs = 1 and weighting none a token in neither mask gets logp0 / 2, one in both two terms."""
    config = EstimatorConfig(name="decoupled", weighting="none")
    full = group_logprobs(policy, PROMPT, COMPLETIONS, LOSS, SEEDS, EstimatorConfig(name="full_mask"), 7)
    found = group_logprobs(policy, PROMPT, COMPLETIONS, LOSS, SEEDS, config, 7)
    everything = torch.ones(3, 5, dtype=torch.bool)
    first, second = decoupled_masks(everything, mask_ratios(SEEDS, config.t_min, config.t_max), SEEDS)
    neither = ~first & ~second & torch.from_numpy(LOSS)
    assert neither.any()
    torch.testing.assert_close(found[neither], full[neither] / 2, rtol=1e-6, atol=5e-6)


@pytest.mark.parametrize(("weighting", "expected"), [("inverse_t", 1.5), ("half_inverse_t", 1.0), ("none", 1.0)])
def test_expected_total_weight_of_a_token(weighting, expected):
    """(1 + 2·pairs)/(pairs + 1) for inverse_t, 1 for the others (coupled, one pair)."""
    views = ESTIMATORS["coupled"](Canvases(16, range(4000), range(4000)), EstimatorConfig(weighting=weighting))
    weights = (views.first_BC + views.weights_BVC.sum(dim=1)) / views.divisor
    assert weights.mean().item() == pytest.approx(expected, abs=0.01)
    if weighting == "inverse_t":
        assert weights.min().item() >= 1.125 and weights.max().item() <= 3.0


def test_wrong_shapes_are_refused(policy):
    with pytest.raises(ValueError, match=r"\[P, G, C\]"):
        GroupTokens.of([PROMPT], COMPLETIONS[None], LOSS[None, :2], TOKENS.pad)
    with pytest.raises(ValueError, match="2 prompts and 2 suffixes for 1 groups"):
        GroupTokens.of([PROMPT, PROMPT], COMPLETIONS[None], LOSS[None], TOKENS.pad)
    with pytest.raises(ValueError, match="mask seeds"):
        group_logprobs(policy, PROMPT, COMPLETIONS, LOSS, SEEDS[:2], EstimatorConfig(), 7)


def test_every_estimator_of_the_configuration_exists():
    assert set(typing.get_args(EstimatorConfig.model_fields["name"].annotation)) == set(ESTIMATORS)
