"""The system learns: a flawed tiny policy earns more after a few learner steps. One seed by default, three when slow."""

import pytest

from couplet.commands.adapt import run_adaptation
from couplet.commands.display import Display
from couplet.configs.load import from_dict, load
from couplet.configs.schema import AdaptConfig, RunConfig
from couplet.training.local_cluster import LocalCluster

SHAPE = {"hidden": 64, "layers": 2, "heads": 4, "kv_heads": 4, "ffn": 160}
TUNING = {"lr": 5e-3, "betas": [0.9, 0.98], "weight_decay": 0.0, "grad_norm": 1.0, "warmup_ratio": 0.05}
STAGE = {"objective": "instruct", "batch": 32, "length": 64, "canvas": 32, "stratified_t": True}


def start(folder, seed):
    stages = [
        {**STAGE, "name": "clean", "corpus": "katas:tune-lists", "steps": 400, "optimizer": TUNING},
        {
            **STAGE,
            "name": "messy",
            "corpus": "katas:tune-lists-messy",
            "steps": 40,
            "optimizer": {**TUNING, "lr": 1e-3},
        },
    ]
    recipe = {"name": "start", "seed": seed, "runs_dir": str(folder), "shape": SHAPE, "stages": stages}
    recipe["learner"] = {"engine": "torch"}
    recipe["checkpoint"] = {"every": 0}
    return run_adaptation(from_dict(AdaptConfig, recipe), Display())


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_reward_rises_over_twenty_steps(tmp_path, seed, monkeypatch):
    monkeypatch.setattr(
        "couplet.training.supervised_stage.fastest_threads", lambda *_: 1
    )  # the same sums, whatever else runs here
    policy = start(tmp_path, seed)
    changes = [f"seed={seed}", "problems.train=katas:rl-lists", "steps=20", "sandbox.wall_factor=30"]
    config = load(RunConfig, "tiny_planted.yaml", changes)
    config = config.replace(replay=config.replay.replace(groups_per_step=12))
    cluster = LocalCluster(config, str(policy), tmp_path / "checkpoints")
    rewards = []
    try:
        cluster.publish()
        while cluster.step < config.steps:
            batch = cluster.take(config.replay.groups_per_step)
            cluster.learn(batch)
            cluster.publish()
            rewards.append(batch.metrics["reward_mean"])
    finally:
        cluster.close()
    assert sum(rewards[-5:]) / 5 - sum(rewards[:5]) / 5 > 0.3, rewards
