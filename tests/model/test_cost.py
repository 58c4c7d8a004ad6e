"""Counts of parameters and operations: those of the 7B model, and those of a policy that exists."""

from __future__ import annotations

import pytest

from couplet.model.cost import ModelSize
from tests.learner.toys import toy_policy

SEVEN_B = ModelSize(3584, 28, 28, 4, 128, 18944, 152064, tied=False)


def test_the_7b_model():
    """6.525e9 weights in the layers, so 13.05 GFLOP per token of a forward pass besides attention and head."""
    assert SEVEN_B.matrices == pytest.approx(6.525e9, rel=1e-3) and SEVEN_B.total == 7_615_616_512
    assert SEVEN_B.forward_flops(1, 1, 0) == pytest.approx(2 * 6.525e9, rel=1e-3)
    assert SEVEN_B.forward_flops(0, 456, 10) == 10 * 2 * 3584 * 152064
    step = SEVEN_B.forward_flops(1, 456, 128.5)
    assert step == pytest.approx(6.2e12, rel=0.01)  # one denoising step of a canvas of 256 behind 200 tokens
    assert SEVEN_B.training_flops(2, 5, 3) == 3 * SEVEN_B.forward_flops(2, 5, 3)


def test_a_policy_has_as_many_parameters_as_its_size_says():
    policy = toy_policy()
    size = ModelSize.of(policy.config)
    matrices = [p for n, p in policy.named_parameters() if "layers" in n and n.endswith("proj.weight")]
    assert size.matrices == sum(p.numel() for p in matrices)
    assert size.total == sum(p.numel() for p in policy.parameters())
