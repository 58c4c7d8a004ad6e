from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from couplet.configs.schema import AdaptConfig, LearnerConfig, OptimizerConfig, ShapeConfig, StageConfig
from tests.actors.runs import History, run_config


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """A policy of a few thousand weights, tuned for seconds: it finds the fences now and then, so rewards differ."""
    from io import StringIO

    import torch
    from rich.console import Console

    from couplet.commands.adapt import run_adaptation
    from couplet.commands.display import Display

    optimizer = OptimizerConfig(
        lr=5e-3, betas=(0.9, 0.98), weight_decay=0.0, grad_norm=1.0, warmup_ratio=0.05, schedule="linear",
        decay_start=0.6, min_lr_ratio=0.0,
    )  # fmt: skip
    config = AdaptConfig(
        name="start",
        runs_dir=str(tmp_path_factory.mktemp("start")),
        shape=ShapeConfig(hidden=48, layers=1, heads=2, kv_heads=2, ffn=96),
        stages=(StageConfig(corpus="katas:tune-lists", steps=120, length=64, canvas=32, optimizer=optimizer),),
        learner=LearnerConfig(engine="torch"),
    )
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "couplet.training.supervised_stage.fastest_threads", lambda *_: 1
        )  # the sums, and so the policy, are always the same
        policy = run_adaptation(config, Display(Console(file=StringIO())))
    torch.set_num_threads(threads)
    return policy


@pytest.fixture
def open_cluster(ray_cluster, start, tmp_path):
    """`open_cluster(name, **changes)` gives a running, published `RayCluster`; all are closed at the end."""
    from couplet.actors.ray_cluster import RayCluster

    with ExitStack() as opened:

        def open_one(name, publish=True, **changes):
            config = run_config(start, name, **changes)
            cluster = RayCluster(config, str(start), tmp_path / name / "checkpoints")
            opened.callback(cluster.close)
            if publish:
                cluster.publish()
            return cluster

        yield open_one


@pytest.fixture(scope="session")
def shared_run(ray_cluster, start, tmp_path_factory):
    """One long run that several tests drive on: two rollout and two reward actors, one learner rank, staleness 1.

    Its `cluster`, its `history`, and the `start` it began from.
    """
    from couplet.actors.ray_cluster import RayCluster

    config = run_config(start, "shared", steps=100_000, rollout={"actors": 2}, reward={"actors": 2})
    cluster = RayCluster(config, str(start), tmp_path_factory.mktemp("shared"))
    try:
        cluster.publish()
        run = SimpleNamespace(cluster=cluster, history=History(), start=start)
        run.history.steps(cluster, 2)
        yield run
    finally:
        cluster.close()


@pytest.fixture
def scripted(open_cluster, monkeypatch):
    """`scripted(name, *fakes, **changes)`: a cluster of scripted actors; `fakes` name others of tests/actors/fakes.py."""
    from couplet.actors.reward_actor import RewardActor
    from tests.actors import fakes

    places = {"Rollout": "couplet.actors.worker_pool.RolloutActor", "Reward": "couplet.actors.worker_pool.RewardActor"}
    places["Learner"] = "couplet.actors.learner_group.LearnerActor"

    def open_one(name, *chosen, **changes):
        for role, place in places.items():
            fake = next((one for one in chosen if one.endswith(role)), f"Scripted{role}")
            monkeypatch.setattr(place, RewardActor if fake == "RealReward" else getattr(fakes, fake))
        return open_cluster(name, **changes)

    return open_one
