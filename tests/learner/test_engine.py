import sys

import pytest
import torch

from couplet.configs.schema import LearnerConfig, OptimizerConfig
from couplet.learner.engine import Setup, decay_groups
from couplet.learner.engines import build_engine
from couplet.learner.process_group import join
from tests.learner.toys import toy_groups, toy_learner, toy_policy, weights_of


def engine(policy, total=10, learner=None, **optimizer):
    fields = {"lr": 1e-2, "warmup_ratio": 0.0, "grad_norm": 1.0, "weight_decay": 0.0} | optimizer
    return build_engine(
        Setup(policy, OptimizerConfig(**fields), LearnerConfig(engine="torch", **(learner or {})), total)
    )


def pull(policy):
    """A loss whose gradient is 3 everywhere in the head."""
    return 3.0 * policy.lm_head.weight.sum()


def test_gradients_are_sums_and_the_norm_is_taken_before_clipping(policy):
    built = engine(policy)
    built.backward(pull(policy), last=False)
    built.backward(pull(policy), last=True)
    expected = 6.0 * policy.lm_head.weight.numel() ** 0.5
    assert built.step() == pytest.approx(expected, rel=1e-5)
    assert built.updates == 1 and all(parameter.grad is None for parameter in policy.parameters())


def test_clipping_limits_what_adam_sees(policy):
    """With a huge epsilon the first Adam step is lr · gradient / eps: it shows the clipped gradient."""
    before = weights_of(policy)
    built = engine(policy, lr=1.0, eps=1e6, grad_norm=0.5)
    built.backward(pull(policy), last=True)
    built.step()
    moved = torch.cat([(weights_of(policy)[name] - before[name]).flatten() for name in before])
    assert moved.norm().item() * 1e6 == pytest.approx(0.5, rel=0.2)


def test_each_update_uses_its_own_learning_rate(policy):
    built = engine(policy, total=4, schedule="linear", min_lr_ratio=0.0)
    rates = []
    for _ in range(4):
        rates.append(built.learning_rate)
        built.backward(pull(policy), last=True)
        built.step()
        assert built._optimizer.param_groups[0]["lr"] == rates[-1]
    assert rates == pytest.approx([0.01, 0.0075, 0.005, 0.0025])


def test_matrices_decay_and_vectors_do_not(policy):
    matrices, vectors = decay_groups(list(policy.named_parameters()), 0.1)
    assert matrices["weight_decay"] == 0.1 and all(tensor.ndim == 2 for tensor in matrices["params"])
    assert vectors["weight_decay"] == 0.0 and all(tensor.ndim == 1 for tensor in vectors["params"])
    assert len(matrices["params"]) + len(vectors["params"]) == len(list(policy.parameters()))


def test_an_infinite_gradient_stops_before_the_weights_are_spoiled(policy):
    built, before = engine(policy), weights_of(policy)
    built.backward(policy.lm_head.weight.sum() * float("inf"), last=True)
    with pytest.raises(ArithmeticError, match="optimiser update 0"):
        built.step()
    for name, weight in weights_of(policy).items():
        assert torch.equal(weight, before[name])


def test_gradient_checkpointing_changes_nothing_but_memory():
    losses = [
        toy_learner(toy_policy(), learner={"gradient_checkpointing": flag}).learn(toy_groups())["loss"]
        for flag in (False, True)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_a_checkpoint_brings_no_hyper_parameters(policy, tmp_path):
    first = engine(policy, weight_decay=0.3)
    first.backward(pull(policy), last=True)
    first.step()
    first.save(tmp_path)
    second = engine(toy_policy(seed=9), weight_decay=0.1)
    second.restore(tmp_path)
    assert second._optimizer.param_groups[0]["weight_decay"] == 0.1 and second.updates == 1


def test_without_deepspeed_the_error_says_what_to_do(policy, monkeypatch):
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    monkeypatch.delitem(sys.modules, "couplet.learner.deepspeed_engine", raising=False)
    with pytest.raises(ValueError, match=r"needs the package deepspeed: install it, or choose engine: torch"):
        build_engine(Setup(policy, OptimizerConfig(), LearnerConfig(engine="deepspeed"), 10))


def test_several_ranks_need_an_address(monkeypatch):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)
    with pytest.raises(ValueError, match="MASTER_ADDR"):
        join(0, 2, torch.device("cpu"), 10.0)
