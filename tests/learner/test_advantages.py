import math
from itertools import combinations

import pytest
import torch

from couplet.learner.advantages import ADVANTAGES, best_of, group_mean, group_std, leave_one_out, scale_by_std

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


@pytest.mark.parametrize("k", [1, 2, 3, 5, 9])
def test_best_of_is_the_mean_best_of_the_subsets_with_a_completion(k):
    rewards = torch.tensor([[0.0, 2.5, 0.5, 0.5, 1.0, math.nan], [3.0, 1.0, 2.0, 2.0, 0.0, 1.0]])
    valid = ~rewards.isnan()
    found = best_of(rewards, valid, k)
    for group in range(2):
        members = [i for i in range(6) if valid[group, i]]
        subsets = list(combinations(members, min(k, len(members))))
        for i in members:
            bests = [max(float(rewards[group, j]) for j in subset) for subset in subsets if i in subset]
            assert found[group, i].item() == pytest.approx(sum(bests) / len(bests))
        overall = sum(max(float(rewards[group, j]) for j in subset) for subset in subsets) / len(subsets)
        assert found[group, members].mean().item() == pytest.approx(overall)  # so group_mean subtracts pass@k itself


def test_best_of_one_success_by_hand():
    """One success of 4, k = 2: every subset with it has best 1, each failure is beside it in 1 of 3 subsets."""
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    assert best_of(rewards, None, 2).tolist()[0] == pytest.approx([1.0, 1 / 3, 1 / 3, 1 / 3])
    assert group_mean(best_of(rewards, None, 2)).tolist()[0] == pytest.approx([0.5, -1 / 6, -1 / 6, -1 / 6])
