import math

import pytest
import torch

from couplet.learner.advantages import ADVANTAGES, group_mean, group_std, leave_one_out, scale_by_std

REWARDS = torch.tensor([[0.0, 1.0, 2.0, 5.0], [1.0, 1.0, 1.0, 1.0], [2.5, 0.5, math.nan, 0.0]])
VALID = torch.tensor([[True] * 4, [True] * 4, [True, True, False, True]])


def test_group_mean_by_hand():
    expected = [[-2.0, -1.0, 0.0, 3.0], [0.0] * 4, [1.5, -0.5, 0.0, -1.0]]
    assert torch.allclose(group_mean(REWARDS, VALID), torch.tensor(expected))


def test_leave_one_out_is_the_reward_minus_the_mean_of_the_others():
    expected = [[-8 / 3, -4 / 3, 0.0, 4.0], [0.0] * 4, [2.25, -0.75, 0.0, -1.5]]
    assert torch.allclose(leave_one_out(REWARDS, VALID), torch.tensor(expected))


@pytest.mark.parametrize("name", ADVANTAGES)
def test_advantages_of_a_group_sum_to_zero(name):
    rewards = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    valid = torch.rand(50, 7, generator=torch.Generator().manual_seed(1)) < 0.7
    sums = ADVANTAGES[name](rewards, valid).sum(dim=1)
    assert torch.allclose(sums, torch.zeros(50), atol=1e-5)


@pytest.mark.parametrize("name", ADVANTAGES)
def test_a_group_with_one_valid_completion_has_no_advantage(name):
    valid = torch.tensor([[True, False, False], [False, False, False]])
    assert not ADVANTAGES[name](torch.ones(2, 3), valid).any()


@pytest.mark.parametrize("name", ADVANTAGES)
def test_an_invalid_completion_changes_nothing_for_the_others(name):
    rewards = torch.tensor([[1.0, 3.0, 100.0, 5.0]])
    valid = torch.tensor([[True, True, False, True]])
    alone = ADVANTAGES[name](torch.tensor([[1.0, 3.0, 5.0]]), None)
    assert torch.equal(ADVANTAGES[name](rewards, valid)[0, [0, 1, 3]], alone[0])


def test_std_has_one_degree_of_freedom_less():
    std = group_std(REWARDS, VALID)
    assert std.tolist() == pytest.approx([math.sqrt(14 / 3), 0.0, math.sqrt(3.5 / 2)])
    scaled = scale_by_std(group_mean(REWARDS, VALID), std)
    assert scaled[0, 3].item() == pytest.approx(3 / (math.sqrt(14 / 3) + 1e-4))
    assert not scaled[1].any()


def test_a_missing_reward_must_be_marked_invalid():
    with pytest.raises(ValueError, match="NaN"):
        group_mean(REWARDS)
    with pytest.raises(ValueError, match=r"\[P, G\]"):
        group_mean(REWARDS, VALID[:2])
