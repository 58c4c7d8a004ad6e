import math

import pytest
import torch

from couplet.configs.schema import ObjectiveConfig
from couplet.learner.loss import (
    KL_ESTIMATES,
    SURROGATES,
    cispo,
    conditional,
    grpo_loss,
    kl_penalty,
    largest_shares,
    policy_ratio,
    self_normalised,
    sequence_mean,
    stale_weight,
    token_weights,
    unconditional,
    was_clipped,
)


def logs(*values):
    return torch.tensor([math.log(value) for value in values])


def test_the_clipped_surrogate_by_hand():
    """Ratios 1, 2, 2, 0.25, 0.25, 1.2 with advantages 1, 1, -1, 1, -1, 2 and clips 0.5."""
    logp = logs(1, 2, 2, 0.25, 0.25, 1.2)
    advantages = torch.tensor([1.0, 1.0, -1.0, 1.0, -1.0, 2.0])
    ratio = policy_ratio(logp, torch.zeros(6))
    term = conditional(ratio, advantages, 0.5, 0.5)
    assert ratio.tolist() == pytest.approx([1, 2, 2, 0.25, 0.25, 1.2])
    assert term.tolist() == pytest.approx([-1.0, -1.5, 2.0, -0.25, 0.5, -2.4])
    assert was_clipped(ratio, advantages, 0.5, 0.5).tolist() == [False, True, False, False, True, False]


def test_the_two_clips_are_separate():
    logp = logs(1.3, 0.6)
    term = conditional(logp.exp(), torch.tensor([1.0, -1.0]), 0.2, 0.5)
    assert term.tolist() == pytest.approx([-1.3, 0.8])


def test_a_clipped_token_passes_no_gradient_and_others_pass_ratio_times_advantage():
    logp = logs(1, 2, 2, 0.25, 0.25).requires_grad_()
    advantages = torch.tensor([1.0, 1.0, -1.0, 1.0, -1.0])
    conditional(logp.exp(), advantages, 0.5, 0.5).sum().backward()
    assert logp.grad.tolist() == pytest.approx([-1.0, 0.0, 2.0, -0.25, 0.0])


def test_the_unconditional_clip_by_hand():
    """As above, but ratio 2 with a negative advantage, and 0.25 with a positive one, are clipped too."""
    logp = logs(1, 2, 2, 0.25, 0.25).requires_grad_()
    advantages = torch.tensor([1.0, 1.0, -1.0, 1.0, -1.0])
    term = unconditional(logp.exp(), advantages, 0.5, 0.5)
    term.sum().backward()
    assert term.tolist() == pytest.approx([-1.0, -1.5, 1.5, -0.5, 0.5])
    assert logp.grad.tolist() == pytest.approx([-1.0, 0.0, 0.0, 0.0, 0.0])
    clipped = was_clipped(logp.detach().exp(), advantages, 0.5, 0.5, "unconditional")
    assert clipped.tolist() == [False, True, True, True, True]


def test_cispo_clips_the_weight_and_keeps_every_gradient():
    logp = logs(1, 2, 2, 0.25, 0.25).requires_grad_()
    advantages = torch.tensor([1.0, 1.0, -1.0, 1.0, -1.0])
    term = cispo(logp.exp(), advantages, 0.5, 0.5)
    term.sum().backward()
    assert term.tolist() == pytest.approx([-1.0, -1.5, 1.5, -0.5, 0.5])
    assert logp.grad.tolist() == pytest.approx([-1.0, -1.5, 1.5, -0.5, 0.5])


@pytest.mark.parametrize("name", SURROGATES)
def test_on_policy_every_surrogate_is_minus_the_advantage_with_the_gradient_of_logp(name):
    logp, advantages = torch.tensor([-1.0, -3.0, -0.1], requires_grad=True), torch.tensor([2.0, -1.0, 0.0])
    term = SURROGATES[name](policy_ratio(logp, logp.detach()), advantages, 0.2, 0.3)
    term.sum().backward()
    assert torch.equal(term.detach(), -advantages) and torch.equal(logp.grad, -advantages)


def test_a_ratio_of_a_completion_is_the_exponential_of_its_mean_log_ratio():
    """Log-ratios 1, 3, 2 over three loss tokens, 4 over one; what is outside the mask does not count."""
    mask = torch.tensor([[True, True, True], [True, False, False]])
    logp = torch.tensor([[1.0, 3.0, 2.0], [4.0, 99.0, 99.0]], requires_grad=True)
    mean = sequence_mean(logp, mask)
    assert mean.tolist() == [[2.0] * 3, [4.0] * 3]
    mean[:, 0].sum().backward()
    torch.testing.assert_close(logp.grad, torch.tensor([[1 / 3, 1 / 3, 1 / 3], [1.0, 0.0, 0.0]]))


def test_the_loss_at_sequence_level_by_hand():
    """Mean log-ratios log 2 (clipped to 1.5) and 0: -(1.5·1·2 tokens + 1·(-1)·1 token)/3 tokens."""
    mask = torch.tensor([[[True, True], [True, False]]])
    logp = torch.stack([logs(1, 4), logs(1, 7)])[None]
    weights = token_weights(mask[0], False, tokens=3, sequences=2)[None]
    objective = ObjectiveConfig(ratio_level="sequence", kl_weight=0.0)
    result = grpo_loss(logp, torch.zeros(1, 2, 2), torch.tensor([[1.0, -1.0]]), weights, objective)
    assert result.loss.item() == pytest.approx(-(1.5 * 2 - 1.0) / 3)
    assert result.ratio[0, 0].tolist() == pytest.approx([2.0, 2.0])


def test_self_normalised_weights_make_a_group_a_weighted_mean():
    """Clipped ratios 1.5, 0.5, 1 of a group: the weights times them sum to the group's weight, group by group."""
    weights = torch.full((2, 1, 3), 1 / 6)
    ratio = torch.tensor([[[9.0, 0.1, 1.0]], [[1.5, 1.5, 1.5]]])
    found = self_normalised(weights, ratio, 0.5, 0.5)
    assert (found * ratio.clamp(0.5, 1.5)).sum(dim=(1, 2)).tolist() == pytest.approx([0.5, 0.5])
    assert found[1].flatten().tolist() == pytest.approx([1 / 9] * 3)
    assert torch.equal(self_normalised(weights, torch.ones(2, 1, 3), 0.5, 0.5), weights)
    assert not self_normalised(torch.zeros(1, 1, 3), ratio[:1], 0.5, 0.5).any()
    objective = ObjectiveConfig(clip="unconditional", self_normalise=True, kl_weight=0.0)
    result = grpo_loss(ratio.log(), torch.zeros(2, 1, 3), torch.full((2, 1), 2.0), weights, objective)
    assert result.loss.item() == pytest.approx(-2.0)  # advantages of 2: any convex combination of them is 2


def test_largest_shares_by_hand():
    assert largest_shares(torch.tensor([[1.0, -3.0], [2.0, 2.0]])) == (3 / 8, 4 / 8)
    assert largest_shares(torch.zeros(2, 2)) == (0.0, 0.0)


def test_kl_by_hand_and_never_negative():
    d = torch.tensor([0.0, 1.0, -1.0, 0.1])
    kl = kl_penalty(-d, torch.zeros(4), None)
    assert kl.tolist() == pytest.approx([0.0, math.e - 2, 1 / math.e, math.exp(0.1) - 1.1], abs=1e-7)
    far = kl_penalty(torch.linspace(-8, 8, 99), torch.zeros(99), 5.0)
    assert (far >= 0).all()


def test_k2_by_hand_has_the_gradient_of_k3_at_zero_and_grows_slower():
    d = torch.tensor([0.0, 1.0, -2.0])
    assert kl_penalty(-d, torch.zeros(3), None, "k2").tolist() == pytest.approx([0.0, 0.5, 2.0])
    near = torch.tensor(1e-2)
    assert float(KL_ESTIMATES["k2"](near)) == pytest.approx(float(KL_ESTIMATES["k3"](near)), rel=0.01)
    assert KL_ESTIMATES["k2"](torch.tensor(5.0)) < KL_ESTIMATES["k3"](torch.tensor(5.0)) / 10


def test_the_clamp_of_the_kl_limits_value_and_gradient():
    logp = torch.tensor([-8.0, 8.0, -1.0], requires_grad=True)
    kl = kl_penalty(logp, torch.zeros(3), 5.0)
    kl.sum().backward()
    assert kl.tolist() == pytest.approx([math.exp(5) - 6, math.exp(-5) + 4, math.e - 2])
    assert logp.grad.tolist() == pytest.approx([0.0, 0.0, 1 - math.e])
    published = kl_penalty(torch.tensor([-8.0]), torch.zeros(1), None)
    assert published.item() == pytest.approx(math.exp(8) - 9, rel=1e-6)


def test_stale_weights_by_hand_and_without_gradient():
    old = logs(1, 1.5, 4, 0.1).requires_grad_()
    truncated = stale_weight(old, torch.zeros(4), "truncate", 0.5, 2.0)
    assert truncated.tolist() == pytest.approx([1.0, 1.5, 2.0, 0.1]) and not truncated.requires_grad
    masked = stale_weight(old, torch.zeros(4), "mask", 0.5, 2.0)
    assert masked.tolist() == pytest.approx([1.0, 1.5, 0.0, 0.0])


def test_the_stale_weight_multiplies_the_surrogate_only():
    one = torch.ones(1, 1, 1)
    objective = ObjectiveConfig(kl_weight=0.1)
    result = grpo_loss(one * 0, one * 0, one[0], one, objective, reference_logp_PGC=one, stale_PGC=one * 1.5)
    assert result.loss.item() == pytest.approx(-1.5 + 0.1 * (math.e - 2))
    assert result.kl.item() == pytest.approx(math.e - 2)


def test_the_whole_loss_by_hand():
    """Two completions of 3 and 1 tokens, 4 tokens in the update, KL weight 0.5."""
    mask = torch.tensor([[True, True, True], [True, False, False]])
    logp = torch.stack([logs(1, 2, 0.5), logs(0.25, 1, 1)])[None]
    reference = torch.stack([logs(1, 2, 1), logs(0.25, 9, 9)])[None]
    weights = token_weights(mask, False, tokens=4, sequences=2)[None]
    objective = ObjectiveConfig(kl_weight=0.5, kl_clamp=None)
    result = grpo_loss(logp, torch.zeros(1, 2, 3), torch.tensor([[1.0, -2.0]]), weights, objective, reference)
    surrogate = -1.0 - 1.5 - 0.5 + 1.0
    penalty = 0.5 * (2 - math.log(2) - 1)
    assert result.loss.item() == pytest.approx((surrogate + penalty) / 4)


def test_token_weights_sum_to_one_over_the_update():
    mask = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])
    by_token = token_weights(mask, False, tokens=4, sequences=2)
    assert by_token.tolist() == [[0.25, 0.25, 0.25], [0.25, 0.0, 0.0], [0.0, 0.0, 0.0]]
    by_sequence = token_weights(mask, True, tokens=4, sequences=2)
    torch.testing.assert_close(by_sequence, torch.tensor([[1 / 6, 1 / 6, 1 / 6], [0.5, 0, 0], [0, 0, 0]]))


@pytest.mark.parametrize("clip", SURROGATES)
def test_extreme_log_ratios_give_finite_losses_and_gradients(clip):
    logp = torch.tensor([500.0, -500.0, 500.0, -500.0], requires_grad=True)
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0])
    reference = torch.tensor([-500.0, 500.0, 0.0, 0.0])
    result = grpo_loss(
        logp[None, :, None],
        torch.zeros(1, 4, 1),
        advantages[None],
        torch.ones(1, 4, 1),
        ObjectiveConfig(kl_clamp=None, clip=clip),
        reference[None, :, None],
    )
    result.loss.backward()
    assert torch.isfinite(result.loss) and torch.isfinite(logp.grad).all()
