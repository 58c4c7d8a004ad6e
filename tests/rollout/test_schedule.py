"""Reveal counts of the published schedule, and the random order that is drawn beforehand."""

from collections import Counter

import pytest
import torch

from couplet.model.randomness import uniforms
from couplet.rollout.schedule import random_reveal_steps, reveal_counts, reveal_shares


@pytest.mark.parametrize(
    ("length", "steps", "first", "middle", "last"),
    [(256, 256, 0, (1, 254), 2), (256, 128, 1, (2, 126), 3), (256, 64, 3, (4, 62), 5), (32, 16, 1, (2, 14), 3)],
)
def test_published_reveal_counts(length: int, steps: int, first: int, middle: tuple[int, int], last: int) -> None:
    counts = reveal_counts(length, steps)
    assert (counts[0], counts[-1]) == (first, last)
    assert Counter(counts[1:-1]) == Counter({middle[0]: middle[1]})


@pytest.mark.parametrize(("length", "steps"), [(1, 1), (1, 9), (8, 20), (7, 3), (256, 255)])
def test_every_position_is_revealed_in_the_end(length: int, steps: int) -> None:
    counts = reveal_counts(length, steps)
    assert len(counts) == steps
    assert sum(counts) == length
    assert min(counts) >= 0


def test_counts_equal_the_rule_in_float32() -> None:
    times = torch.linspace(1, 1e-3, 101)
    left = 77
    for step, count in enumerate(reveal_counts(77, 100)):
        share = 1 - times[step + 1] / times[step]
        assert count == (int(left * share) if step < 99 else left)
        left -= count


def test_the_random_order_is_the_step_by_step_rule() -> None:
    seeds, steps, length = torch.arange(50), 6, 9
    expected = torch.full((50, length), -1)
    for step, share in enumerate(reveal_shares(steps)):
        revealed = (expected < 0) & (uniforms(seeds, "reveal", step, torch.arange(length)) < share)
        expected[revealed] = step
    assert torch.equal(random_reveal_steps(seeds, length, steps), expected)
    assert (expected >= 0).all()


def test_the_random_order_is_uniform_over_the_steps() -> None:
    counts = random_reveal_steps(torch.arange(4000), 10, 5).flatten().bincount(minlength=5).float()
    assert ((counts - 8000) ** 2 / 8000).sum() < 23.5  # 4 degrees of freedom: once in 10,000 hashes
