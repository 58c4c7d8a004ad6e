"""Uniform numbers: golden values, independence of rows from their batch, and the shape of the distribution."""

import pytest
import torch

from couplet.model.randomness import PURPOSES, seed_tensor, uniforms

GOLDEN = [  # seeds 0, 1, 2**63 - 1 and 2**64 - 5; purpose "token", step 3, positions 0..2, in units of 2**-24
    [6055011, 13806780, 13729026],
    [16380454, 13719109, 12505933],
    [8073140, 6796353, 10410094],
    [9077719, 14705104, 11356748],
]
WORD = 2**64 - 1


def plain_mix(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & WORD
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & WORD
    return x ^ (x >> 31)


def plain_uniform(seed: int, purpose: str, step: int, position: int) -> float:
    row = plain_mix((seed & WORD) ^ plain_mix(plain_mix(PURPOSES[purpose]) + step))
    return (plain_mix((row + position * 0x9E3779B97F4A7C15) & WORD) >> 40) / 2**24


def test_golden_numbers() -> None:
    u = uniforms(seed_tensor([0, 1, 2**63 - 1, 2**64 - 5]), "token", 3, torch.arange(3))
    assert u.dtype == torch.float32
    assert (u * 2**24).long().tolist() == GOLDEN


@pytest.mark.parametrize("purpose", PURPOSES)
def test_wrapping_tensors_equal_python_integers(purpose: str) -> None:
    seeds = [0, 7, 2**63 - 1, 2**64 - 1]
    positions = torch.tensor([0, 1, 255, 100_000])
    mine = uniforms(seed_tensor(seeds), purpose, 11, positions)
    assert mine.tolist() == [[plain_uniform(s, purpose, 11, p) for p in positions.tolist()] for s in seeds]


def test_a_number_depends_on_its_own_row_and_position_only() -> None:
    seeds, positions = seed_tensor([5, 6, 7]), torch.tensor([[4, 1], [0, 9], [2, 2]])
    whole = uniforms(seeds, "mask", 0, torch.arange(10))
    assert torch.equal(uniforms(seeds, "mask", 0, positions), whole.gather(1, positions))
    assert torch.equal(uniforms(seeds[1:2], "mask", 0, torch.arange(10)), whole[1:2])


def test_the_distribution_is_uniform_and_its_neighbours_uncorrelated() -> None:
    u = uniforms(torch.arange(4000), "token", 0, torch.arange(64))
    counts = torch.histc(u, bins=64, min=0.0, max=1.0)
    chi_square = ((counts - 4000) ** 2 / 4000).sum()
    assert chi_square < 110  # 63 degrees of freedom: above 110 once in 5,000 hashes
    assert float(u.min()) >= 0.0 and float(u.max()) < 1.0
    centred = u - 0.5
    for other in (
        u.roll(1, 0),
        u.roll(1, 1),
        uniforms(torch.arange(4000), "token", 1, torch.arange(64)),
        uniforms(torch.arange(4000), "order", 0, torch.arange(64)),
    ):
        assert abs(float((centred * (other - 0.5)).mean() * 12)) < 0.01  # 5 standard errors


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    uniforms(torch.arange(3), "token", 0, torch.arange(3))
    assert torch.equal(before, torch.get_rng_state())


def test_unknown_purposes_and_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="purpose 'tokens': choose one of reveal, token"):
        uniforms(torch.arange(3), "tokens", 0, torch.arange(3))
    with pytest.raises(ValueError, match="int64"):
        uniforms(torch.arange(3), "token", 0, torch.arange(3).float())
    with pytest.raises(ValueError, match="need"):
        uniforms(torch.arange(3)[None], "token", 0, torch.arange(3))
