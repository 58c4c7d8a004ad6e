"""What a supervised stage leaves in the log, and which policy an early stop keeps."""

from __future__ import annotations

import json

import pytest
import torch

from couplet.commands.adapt import run_adaptation
from couplet.commands.display import Display
from couplet.configs.load import from_dict
from couplet.configs.schema import AdaptConfig, LearnerConfig, OptimizerConfig, StageConfig
from couplet.learner.adapt import SupervisedLearner, joined, run_rows, run_stage
from couplet.learner.engine import Setup
from couplet.learner.engines import build_engine
from couplet.model.policy import DiffusionPolicy
from tests.learner.toys import instruct_batches, toy_policy, weights_of

FAST = OptimizerConfig(lr=1e-2, warmup_ratio=0.0, grad_norm=1.0, weight_decay=0.0)
VALIDATION = 10_000  # seed of the batch that stages are validated on


def make(config, policy=None):
    policy = policy or toy_policy()
    engine = build_engine(Setup(policy, config.optimizer, LearnerConfig(engine="torch"), config.steps))
    return SupervisedLearner(engine, policy, config, seed=1)


def stage(**fields):
    return StageConfig(**{"name": "stage", "canvas": 5, "length": 12, "batch": 8, "optimizer": FAST} | fields)


def test_every_validation_has_a_row_and_the_loss_is_the_mean_of_the_interval():
    config = stage(steps=7, validate_every=2)
    validation = [next(instruct_batches(VALIDATION))]
    each: list[dict[str, float]] = []
    run_stage(make(config), config, instruct_batches(), validation, lambda _, metrics: each.append(metrics))
    learner, source = make(config), instruct_batches()
    rows = [*run_rows(learner, config, source, validation, 5), *run_rows(learner, config, source, validation)]
    assert [done for done, _ in rows] == [2, 4, 5, 6, 7]
    assert [done for done, metrics in rows if "validation_loss" in metrics] == [2, 4, 6]
    losses = [metrics["loss"] for metrics in each]
    means = [sum(losses[:2]) / 2, sum(losses[2:4]) / 2, *losses[4:]]
    assert [metrics["loss"] for _, metrics in rows] == pytest.approx(means)
    assert [m["validation_loss"] for _, m in rows if "validation_loss" in m] == [
        metrics["validation_loss"] for metrics in each if "validation_loss" in metrics
    ]
    assert run_rows(learner, config, source, validation) == []


def test_joined_rates_are_over_the_whole_time():
    fields = {"grad_norm": 1.0, "tokens": 100.0, "model_flops_per_second": 1.0}
    slow = {"loss": 2.0, "lr": 1.0, "step_seconds": 9.0, "tokens_per_second": 100 / 9, **fields}
    quick = {"loss": 4.0, "lr": 3.0, "step_seconds": 1.0, "tokens_per_second": 100.0, **fields}
    row = joined([slow, quick])
    assert row["tokens_per_second"] == pytest.approx(200 / 10)
    assert (row["loss"], row["lr"], row["step_seconds"], row["tokens"]) == (3.0, 3.0, 5.0, 100.0)


def test_an_adaptation_logs_every_validation(tmp_path):
    one = {"name": "a", "objective": "instruct", "corpus": "katas:tune", "steps": 25, "batch": 2, "length": 64}
    shape = {"hidden": 8, "layers": 1, "heads": 1, "kv_heads": 1, "ffn": 8}
    tree = {"runs_dir": str(tmp_path), "learner": {"engine": "torch"}, "shape": shape, "checkpoint": {"every": 9}}
    stages = [{**one, "validate_every": 3, "validation_examples": 2}]
    run_adaptation(from_dict(AdaptConfig, {**tree, "stages": stages}), Display())
    rows = [json.loads(line) for line in (tmp_path / "adapt" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "validation_loss" in row] == [3, 6, 9, 12, 15, 18, 21, 24]
    steps = [row["step"] for row in rows]
    assert steps[0] == 1 and steps[-1] == 25 and steps == sorted(set(steps))
    assert ["validation_loss_start" in row for row in rows] == [True] + [False] * (len(rows) - 1)


class Scripted(SupervisedLearner):
    """A learner with given validation losses."""

    def validate(self, batches):
        return self.losses.pop(0)


def scripted(config, losses):
    learner = make(config)
    learner.__class__, learner.losses = Scripted, list(losses)
    return learner


def kept_weights(folder):
    return weights_of(DiffusionPolicy.from_pretrained(folder / "policy"))


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("cut", [None, 2, 3])
def test_an_early_stop_keeps_the_policy_of_the_best_validation(tmp_path, cut):
    config = stage(steps=9, validate_every=1, patience=2)
    losses = [3.0, 1.0, 2.0, 4.0, 0.5]
    learner, source = scripted(config, losses), instruct_batches()
    run_rows(learner, config, source, [], 2)
    best = weights_of(learner._policy)
    if cut is not None:  # a checkpoint in between, and a resume from it by a learner of other weights
        run_rows(learner, config, source, [], cut)
        learner.save(tmp_path / "cut")
        assert_equal(kept_weights(tmp_path / "cut"), weights_of(learner._policy))
        learner = scripted(config, losses[cut:])
        learner.restore(tmp_path / "cut")
        source = instruct_batches(start=cut)
    run_rows(learner, config, source, [])
    assert learner.updates == 4 and learner.early_stop.stopped
    learner.save(tmp_path / "end")
    assert_equal(kept_weights(tmp_path / "end"), best)
    assert any(not torch.equal(weight, best[name]) for name, weight in weights_of(learner._policy).items())


def test_a_stage_that_runs_to_its_end_keeps_its_last_policy(tmp_path):
    config = stage(steps=4, validate_every=1, patience=3)
    learner = scripted(config, [1.0, 2.0, 3.0, 0.9])
    run_rows(learner, config, instruct_batches(), [])
    learner.save(tmp_path)
    assert_equal(kept_weights(tmp_path), weights_of(learner._policy))
