"""Learning with an adapter: the base is frozen and shared with the reference, and resuming changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from couplet.configs.schema import LearnerConfig, OptimizerConfig, StageConfig
from couplet.learner.adapt import SupervisedLearner
from couplet.learner.engine import Setup
from couplet.learner.engines import build_engine
from couplet.model.adapters import is_adapter, trained_parameters
from couplet.model.policy import DiffusionPolicy
from couplet.model.weights import unpack_into
from tests.learner.toys import supervised_batches, toy_groups, toy_learner, toy_policy

ADAPTER = {"adapter": {"rank": 2, "alpha": 8.0}}
CALM = {"optimizer": {"lr": 1e-2, "eps": 1e-3}}


def weights(policy: DiffusionPolicy) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in policy.named_parameters()}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_base_stays_and_the_adapter_moves(dtype: str) -> None:
    learner = toy_learner(toy_policy(), learner=ADAPTER | {"dtype": dtype})
    before = weights(learner._policy)
    metrics = [learner.learn(toy_groups(step)) for step in range(2)]
    after = weights(learner._policy)
    assert all(torch.equal(before[name], after[name]) for name in before if not is_adapter(name))
    assert all(not torch.equal(before[name], after[name]) for name in before if "lora_B" in name)
    assert metrics[0]["grad_norm"] > 0


def test_optimiser_state_and_reference_are_the_adapters_alone() -> None:
    learner = toy_learner(toy_policy(), learner=ADAPTER)
    learner.learn(toy_groups())
    trained = trained_parameters(learner._policy)
    assert len(learner._engine._optimizer.state) == len(trained) == 28
    assert learner._reference is not None
    assert [t.shape for t in learner._reference._tensors] == [p.shape for p in trained.values()]


@torch.no_grad()
def test_the_reference_is_the_policy_without_its_adapter() -> None:
    tokens = torch.arange(4, 16).reshape(1, 12)
    plain = toy_policy().eval().logits(tokens)
    learner = toy_learner(toy_policy(), learner=ADAPTER)
    with torch.enable_grad():
        learner.learn(toy_groups())
    assert not torch.allclose(learner._policy.logits(tokens), plain, atol=1e-3)
    with learner._reference.in_place():
        assert torch.equal(learner._policy.logits(tokens), plain)


def test_only_the_adapter_is_published() -> None:
    learner = toy_learner(toy_policy(), learner=ADAPTER)
    learner.learn(toy_groups())
    manifest, buckets = learner.weights()
    assert all(is_adapter(name) for name in manifest.names)
    worker = toy_policy()
    worker.add_adapter(learner._policy.adapter, seed=5)
    unpack_into(worker, manifest, buckets)
    assert_equal(weights(worker), weights(learner._policy))


def test_n_steps_a_restart_and_m_steps_are_n_plus_m(tmp_path) -> None:
    options = {"learner": ADAPTER, "objective": {"reference_every": 3}}
    straight = toy_learner(toy_policy(), **options)
    expected = [straight.learn(toy_groups(step))["loss"] for step in range(4)]
    first = toy_learner(toy_policy(), **options)
    losses = [first.learn(toy_groups(step))["loss"] for step in range(2)]
    first.save(tmp_path)
    second = toy_learner(toy_policy(), **options)
    second.restore(tmp_path)
    losses += [second.learn(toy_groups(step))["loss"] for step in range(2, 4)]
    assert losses == expected
    assert_equal(weights(second._policy), weights(straight._policy))


@torch.no_grad()
def test_a_checkpoint_holds_the_merged_policy_and_the_adapter(tmp_path) -> None:
    learner = toy_learner(toy_policy(), learner=ADAPTER)
    with torch.enable_grad():
        learner.learn(toy_groups())
    learner.save(tmp_path)
    tokens = torch.arange(4, 16).reshape(1, 12)
    merged = DiffusionPolicy.from_pretrained(tmp_path / "policy")
    torch.testing.assert_close(merged.logits(tokens), learner._policy.logits(tokens), atol=2e-6, rtol=1e-5)
    assert {path.name for path in (tmp_path / "adapter").iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
    }


@pytest.mark.parametrize("objective", ["pretrain", "instruct", "autoregressive"])
def test_every_stage_learns_with_an_adapter(tmp_path, objective: str) -> None:
    optimizer = OptimizerConfig(lr=1e-2, warmup_ratio=0.0, grad_norm=1.0)
    stage = StageConfig(name="x", objective=objective, steps=12, canvas=5, optimizer=optimizer)
    config = LearnerConfig(engine="torch", **ADAPTER)

    def build() -> SupervisedLearner:
        policy = toy_policy()
        policy.add_adapter(config.adapter, seed=0)
        return SupervisedLearner(build_engine(Setup(policy, optimizer, config, stage.steps)), policy, stage, seed=1)

    batches = [next(supervised_batches(objective, rows=7)) for _ in range(1)] * 12
    straight = build()
    before = straight.validate(batches[:1])
    losses = [straight.learn(batch)["loss"] for batch in batches]
    assert straight.validate(batches[:1]) < before
    first = build()
    again = [first.learn(batch)["loss"] for batch in batches[:5]]
    first.save(tmp_path)
    second = build()
    second.restore(tmp_path)
    again += [second.learn(batch)["loss"] for batch in batches[5:]]
    assert again == losses
    assert (tmp_path / "policy" / "config.json").is_file() and (tmp_path / "adapter").is_dir()


@pytest.fixture(scope="module")
def expected(alone):
    return alone("train", steps=3, engine="torch", learner=ADAPTER, **CALM)


def same(left, right, tolerance: float) -> None:
    for one, other in zip(left["metrics"], right["metrics"], strict=True):
        for name in ("loss_inner_1", "loss_inner_2", "grad_norm", "kl_max"):
            assert one[name] == pytest.approx(other[name], rel=tolerance, abs=tolerance), name
    close = [np.frombuffer(result["weights"][0], dtype=np.float32) for result in (left, right)]
    np.testing.assert_allclose(*close, rtol=0, atol=tolerance)


def test_one_deepspeed_rank_trains_as_torch(alone, expected) -> None:
    same(alone("train", steps=3, engine="deepspeed", learner=ADAPTER, **CALM), expected, 1e-4)


@pytest.mark.parametrize("stage", [2, 3])
def test_two_deepspeed_ranks_train_and_resume_as_one_torch_rank(pair, expected, tmp_path, stage: int) -> None:
    options = {"engine": "deepspeed", "learner": ADAPTER | {"zero_stage": stage}, **CALM}
    same(pair.run("train", steps=3, **options)[0], expected, 1e-4)
    pair.run("train", steps=2, save=str(tmp_path), **options)
    resumed = pair.run("train", steps=1, first=2, restore=str(tmp_path), **options)[0]
    close = [np.frombuffer(result["weights"][0], dtype=np.float32) for result in (resumed, expected)]
    np.testing.assert_allclose(*close, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_other_zero_stages(pair, expected, stage: int, dtype: str) -> None:
    options = {"engine": "deepspeed", "learner": ADAPTER | {"zero_stage": stage, "dtype": dtype}, **CALM}
    found = pair.run("train", steps=3, **options)[0]
    if dtype == "float32":
        same(found, expected, 1e-4)
    else:
        assert all(np.isfinite(metrics["loss"]) for metrics in found["metrics"])


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 3])
def test_a_run_resumes_with_another_number_of_ranks(pair, alone, tmp_path, stage: int) -> None:
    options = {"engine": "deepspeed", "learner": ADAPTER | {"zero_stage": stage}, **CALM}
    pair.run("train", steps=2, save=str(tmp_path), **options)
    resumed = alone("train", steps=1, first=2, restore=str(tmp_path), **options)
    both = pair.run("train", steps=1, first=2, restore=str(tmp_path), **options)[0]
    close = [np.frombuffer(result["weights"][0], dtype=np.float32) for result in (resumed, both)]
    np.testing.assert_allclose(*close, rtol=0, atol=1e-4)
