import pytest
import torch

from couplet.model.masking import coupled_masks, decoupled_masks, mask_ratios

COMPLETION = torch.arange(64).expand(6, 64) < torch.tensor([64, 1, 0, 63, 32, 7])[:, None]
SEEDS = [11, 12, 13, 2**62 + 5, 0, 99]


def test_the_masks_of_a_pair_are_disjoint_and_cover_the_completion():
    for pair in range(4):
        first, second = coupled_masks(COMPLETION, torch.full((6,), 0.3), SEEDS, pair)
        assert not (first & second).any()
        assert torch.equal(first | second, COMPLETION)


def test_a_mask_depends_only_on_its_own_seed():
    ratio = torch.tensor([0.2, 0.5, 0.5, 0.7, 0.4, 0.6])
    together, _ = coupled_masks(COMPLETION, ratio, SEEDS)
    for row in range(6):
        alone, _ = coupled_masks(COMPLETION[row : row + 1], ratio[row : row + 1], SEEDS[row : row + 1])
        assert torch.equal(alone[0], together[row])


def test_the_ratio_is_the_share_that_is_masked():
    everything = torch.ones(400, 256, dtype=torch.bool)
    first, second = coupled_masks(everything, torch.full((400,), 0.3), range(400))
    assert first.float().mean().item() == pytest.approx(0.3, abs=0.005)
    assert second.float().mean().item() == pytest.approx(0.7, abs=0.005)


def test_ratios_0_and_1_mask_nothing_and_everything():
    nothing, everything = coupled_masks(COMPLETION, torch.zeros(6), SEEDS)
    assert not nothing.any() and torch.equal(everything, COMPLETION)
    everything, nothing = coupled_masks(COMPLETION, torch.ones(6), SEEDS)
    assert not nothing.any() and torch.equal(everything, COMPLETION)


def test_pairs_of_one_seed_are_independent():
    everything = torch.ones(200, 128, dtype=torch.bool)
    half = torch.full((200,), 0.5)
    first = coupled_masks(everything, half, range(200), pair=0)[0]
    second = coupled_masks(everything, half, range(200), pair=1)[0]
    assert (first & second).float().mean().item() == pytest.approx(0.25, abs=0.01)


def test_decoupled_masks_are_independent_draws_at_complementary_rates():
    everything = torch.ones(400, 256, dtype=torch.bool)
    first, second = decoupled_masks(everything, torch.full((400,), 0.3), range(400))
    assert second.float().mean().item() == pytest.approx(0.7, abs=0.005)
    assert (first & second).float().mean().item() == pytest.approx(0.21, abs=0.005)
    assert (~first & ~second).float().mean().item() == pytest.approx(0.21, abs=0.005)
    assert torch.equal(first, coupled_masks(everything, torch.full((400,), 0.3), range(400))[0])


def test_mask_ratios_fill_their_range_and_differ_by_pair():
    ratios = mask_ratios(range(5000), 0.2, 0.8)
    assert 0.2 <= ratios.min().item() < 0.201 and 0.799 < ratios.max().item() < 0.8
    assert ratios.mean().item() == pytest.approx(0.5, abs=0.01)
    assert not torch.equal(ratios, mask_ratios(range(5000), 0.2, 0.8, pair=1))


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="5 seeds"):
        coupled_masks(COMPLETION, torch.zeros(6), SEEDS[:5])
    with pytest.raises(ValueError, match="bool"):
        coupled_masks(COMPLETION.float(), torch.zeros(6), SEEDS)
