"""The whole learner on a device: steps, the reference's swap, save, restore, and weights into another policy.

The same tests run on the CPU by default and on a GPU with `make test-gpu`.
"""

from __future__ import annotations

import importlib.util
import math

import numpy as np
import pytest
import torch

from couplet.model.weights import unpack_into
from tests.learner.toys import toy_groups, toy_learner, toy_policy, weights_of

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
ENGINES = [
    {"engine": "torch"},
    pytest.param({"engine": "deepspeed", "zero_stage": 1}, marks=pytest.mark.gpu),
    pytest.param({"engine": "deepspeed", "zero_stage": 2, "offload": "optimizer"}, marks=pytest.mark.gpu),
    pytest.param({"engine": "deepspeed", "zero_stage": 3}, marks=pytest.mark.gpu),
]


@pytest.fixture(params=DEVICES)
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return request.param


def built(device, settings, seed=0):
    if settings["engine"] == "deepspeed":
        if importlib.util.find_spec("deepspeed") is None:
            pytest.skip("deepspeed is not installed")
        if device == "cpu":
            pytest.skip("tests/learner/test_ranks.py runs DeepSpeed on the CPU")
    policy = toy_policy(seed).to(device)
    engine, others = settings["engine"], {k: v for k, v in settings.items() if k != "engine"}
    objective = {"inner_updates": 2, "kl_weight": 0.1, "reference_every": 2, "reference_alpha": 0.6}
    return policy, toy_learner(policy, engine=engine, learner=others | {"dtype": "bfloat16"}, objective=objective)


@pytest.mark.parametrize("settings", ENGINES)
def test_steps_checkpoint_and_weights_of_a_bfloat16_learner(device, settings, tmp_path):
    policy, learner = built(device, settings)
    before = weights_of(policy)
    for step in range(2):
        metrics = learner.learn(toy_groups(step))
        assert math.isfinite(metrics["loss"]) and metrics["grad_norm"] > 0
    assert any(not torch.equal(value, before[name]) for name, value in weights_of(policy).items())
    learner.save(tmp_path)
    again = learner.learn(toy_groups(2))

    _, other = built(device, settings, seed=5)
    other.restore(tmp_path)
    repeated = other.learn(toy_groups(2))
    for name in ("loss", "kl_mean", "grad_norm"):
        assert repeated[name] == pytest.approx(again[name], rel=0.05, abs=1e-3), name

    packed = learner.weights()
    assert packed is not None
    receiver = toy_policy(seed=9).to(device, torch.bfloat16)
    unpack_into(receiver, *packed)
    for name, value in weights_of(policy).items():
        assert np.array_equal(value.float().cpu().numpy(), weights_of(receiver)[name].float().cpu().numpy()), name
