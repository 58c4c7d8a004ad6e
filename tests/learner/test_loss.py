import math

import pytest
import torch

from couplet.learner.loss import clipped_objective, grpo_loss, kl_penalty, proximal_weight, token_weights, was_clipped


def logs(*values):
    return torch.tensor([math.log(value) for value in values])


def test_the_clipped_surrogate_by_hand():
    """Ratios 1, 2, 2, 0.25, 0.25, 1.2 with advantages 1, 1, -1, 1, -1, 2 and clips 0.5."""
    logp = logs(1, 2, 2, 0.25, 0.25, 1.2)
    advantages = torch.tensor([1.0, 1.0, -1.0, 1.0, -1.0, 2.0])
    term, ratio = clipped_objective(logp, torch.zeros(6), advantages, 0.5, 0.5)
    assert ratio.tolist() == pytest.approx([1, 2, 2, 0.25, 0.25, 1.2])
    assert term.tolist() == pytest.approx([-1.0, -1.5, 2.0, -0.25, 0.5, -2.4])
    assert was_clipped(ratio, advantages, 0.5, 0.5).tolist() == [False, True, False, False, True, False]


def test_the_two_clips_are_separate():
    logp = logs(1.3, 0.6)
    term, _ = clipped_objective(logp, torch.zeros(2), torch.tensor([1.0, -1.0]), 0.2, 0.5)
    assert term.tolist() == pytest.approx([-1.3, 0.8])


def test_a_clipped_token_passes_no_gradient_and_others_pass_ratio_times_advantage():
    logp = logs(1, 2, 2, 0.25, 0.25).requires_grad_()
    advantages = torch.tensor([1.0, 1.0, -1.0, 1.0, -1.0])
    clipped_objective(logp, torch.zeros(5), advantages, 0.5, 0.5)[0].sum().backward()
    assert logp.grad.tolist() == pytest.approx([-1.0, 0.0, 2.0, -0.25, 0.0])


def test_kl_by_hand_and_never_negative():
    d = torch.tensor([0.0, 1.0, -1.0, 0.1])
    kl = kl_penalty(-d, torch.zeros(4), None)
    assert kl.tolist() == pytest.approx([0.0, math.e - 2, 1 / math.e, math.exp(0.1) - 1.1], abs=1e-7)
    far = kl_penalty(torch.linspace(-8, 8, 99), torch.zeros(99), 5.0)
    assert (far >= 0).all()


def test_the_clamp_of_the_kl_limits_value_and_gradient():
    logp = torch.tensor([-8.0, 8.0, -1.0], requires_grad=True)
    kl = kl_penalty(logp, torch.zeros(3), 5.0)
    kl.sum().backward()
    assert kl.tolist() == pytest.approx([math.exp(5) - 6, math.exp(-5) + 4, math.e - 2])
    assert logp.grad.tolist() == pytest.approx([0.0, 0.0, 1 - math.e])
    published = kl_penalty(torch.tensor([-8.0]), torch.zeros(1), None)
    assert published.item() == pytest.approx(math.exp(8) - 9, rel=1e-6)


def test_the_proximal_weight_is_capped_and_has_no_gradient():
    old = logs(1, 1.5, 4).requires_grad_()
    weight = proximal_weight(old, torch.zeros(3), 2.0)
    assert weight.tolist() == pytest.approx([1.0, 1.5, 2.0]) and not weight.requires_grad


def test_the_proximal_weight_multiplies_the_surrogate_only():
    logp, weights = torch.zeros(1), torch.ones(1)
    result = grpo_loss(
        logp,
        logp,
        torch.ones(1),
        weights,
        clip_low=0.5,
        clip_high=0.5,
        reference_logp_X=torch.ones(1),
        kl_weight=0.1,
        proximal_X=torch.tensor([1.5]),
    )
    assert result.loss.item() == pytest.approx(-1.5 + 0.1 * (math.e - 2))
    assert result.kl.item() == pytest.approx(math.e - 2)


def test_the_whole_loss_by_hand():
    """Two completions of 3 and 1 tokens, 4 tokens in the update, KL weight 0.5."""
    mask = torch.tensor([[True, True, True], [True, False, False]])
    logp = torch.stack([logs(1, 2, 0.5), logs(0.25, 1, 1)])
    reference = torch.stack([logs(1, 2, 1), logs(0.25, 9, 9)])
    advantages = torch.tensor([[1.0], [-2.0]]).expand(2, 3)
    weights = token_weights(mask, False, tokens=4, sequences=2)
    result = grpo_loss(
        logp,
        torch.zeros(2, 3),
        advantages,
        weights,
        clip_low=0.5,
        clip_high=0.5,
        reference_logp_X=reference,
        kl_weight=0.5,
        kl_clamp=None,
    )
    surrogate = -1.0 - 1.5 - 0.5 + 1.0
    penalty = 0.5 * (2 - math.log(2) - 1)
    assert result.loss.item() == pytest.approx((surrogate + penalty) / 4)


def test_token_weights_sum_to_one_over_the_update():
    mask = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])
    by_token = token_weights(mask, False, tokens=4, sequences=2)
    assert by_token.tolist() == [[0.25, 0.25, 0.25], [0.25, 0.0, 0.0], [0.0, 0.0, 0.0]]
    by_sequence = token_weights(mask, True, tokens=4, sequences=2)
    torch.testing.assert_close(by_sequence, torch.tensor([[1 / 6, 1 / 6, 1 / 6], [0.5, 0, 0], [0, 0, 0]]))


def test_extreme_log_ratios_give_finite_losses_and_gradients():
    logp = torch.tensor([500.0, -500.0, 500.0, -500.0], requires_grad=True)
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0])
    reference = torch.tensor([-500.0, 500.0, 0.0, 0.0])
    result = grpo_loss(
        logp,
        torch.zeros(4),
        advantages,
        torch.ones(4),
        clip_low=0.5,
        clip_high=0.5,
        reference_logp_X=reference,
        kl_weight=0.01,
        kl_clamp=None,
    )
    result.loss.backward()
    assert torch.isfinite(result.loss) and torch.isfinite(logp.grad).all()
