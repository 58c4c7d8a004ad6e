"""At staleness 0 a Ray run computes what one process computes, and a resumed run what an uninterrupted one computes."""

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ray
import yaml

from couplet.actors.ray_cluster import RayCluster
from couplet.training.local_cluster import LocalCluster
from tests.actors.runs import TIME_LIMIT, History, assert_trained_once, run_config, settings

ROOT = Path(__file__).parent.parent.parent
SYNCHRONOUS = {"replay": {"max_staleness": 0, "groups_per_step": 4}, "steps": 8}
N, M = 3, 3


def packed(cluster):
    """All weights of the learner as bytes."""
    _, buckets = ray.get(cluster.learner.weights(), timeout=TIME_LIMIT)
    return np.concatenate([bucket.copy() for bucket in buckets])


@pytest.fixture(scope="module")
def alone(start, tmp_path_factory):
    """Losses and trained groups of N + M steps in one process."""
    config = run_config(start, "alone", **SYNCHRONOUS)
    cluster, history = LocalCluster(config, str(start), tmp_path_factory.mktemp("alone")), History()
    try:
        cluster.publish()
        history.steps(cluster, N + M)
    finally:
        cluster.close()
    return history


@pytest.fixture(scope="module")
def uninterrupted(ray_cluster, start, tmp_path_factory):
    """A Ray run of N + M steps with a checkpoint after N: history, weights at its end, folder of its checkpoints."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    cluster, history = RayCluster(run_config(start, "synchronous", **SYNCHRONOUS), str(start), folder), History()
    try:
        cluster.publish()
        history.steps(cluster, N)
        cluster.save()
        history.steps(cluster, M)
        yield history, packed(cluster), folder
    finally:
        cluster.close()


def assert_same_run(history, alone):
    """The same groups, rewards and losses in each of the first 3 steps."""
    assert any(loss != 0.0 for loss in alone.losses[:3])
    assert history.losses[:3] == pytest.approx(alone.losses[:3], abs=1e-4)
    for one, other in zip(history.batches[:3], alone.batches[:3], strict=True):
        assert one.numbers == other.numbers
        for mine, theirs in zip(one.groups, other.groups, strict=True):
            assert mine.group.seeds_G == theirs.group.seeds_G
            assert np.array_equal(mine.group.tokens_GC, theirs.group.tokens_GC)
            assert np.array_equal(mine.rewards_G, theirs.rewards_G)


@pytest.mark.ray
def test_the_torch_engine_on_ray_gives_the_losses_of_one_process(uninterrupted, alone):
    assert_same_run(uninterrupted[0], alone)


@pytest.mark.ray
def test_deepspeed_on_ray_gives_the_losses_of_one_process(open_cluster, alone):
    cluster, history = open_cluster("deepspeed", **SYNCHRONOUS, learner={"engine": "deepspeed"}), History()
    history.steps(cluster, 3)
    assert_same_run(history, alone)


@pytest.mark.ray
def test_n_steps_a_kill_and_m_steps_are_n_plus_m_steps(uninterrupted, open_cluster, caplog):
    reference, weights, folder = uninterrupted
    cluster, history = open_cluster("resumed", publish=False, **SYNCHRONOUS), History()
    cluster.checkpoints = folder
    torn = folder / f"step-{N + M:08d}"
    shutil.copytree(folder / f"step-{N:08d}", torn)
    (torn / "COMPLETE").unlink()
    with caplog.at_level(logging.WARNING, logger="couplet.learner.checkpoint"):
        assert cluster.restore() == N
    assert f"{torn} is skipped: it was not marked complete" in caplog.text
    cluster.publish()
    history.steps(cluster, M)
    assert history.losses == reference.losses[N:]
    assert history.numbers == reference.numbers[N * 4 :]
    assert np.array_equal(packed(cluster), weights)
    reference.batches[N:] = history.batches
    assert_trained_once(reference, cluster.totals())


def test_local_training_never_imports_ray_and_keeps_everything(start, tmp_path):
    config = settings(start, "alone", runs_dir=str(tmp_path), **SYNCHRONOUS | {"steps": 2})
    config["evaluation"] |= {"limit": 2, "ar_ness_problems": 1}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    code = (
        f"import sys, launch; again = ['train', {str(tmp_path / 'run.yaml')!r}, '--local']; code = launch.main(again); "
    )
    code += "short = launch.main([*again, '--resume', 'steps=1']); "
    code += "print(short, 'ray' in sys.modules, 'deepspeed' in sys.modules); sys.exit(code)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "2 False False"
    assert "error: steps = 1: the run is at learner step 2 already" in done.stderr
    assert json.loads((tmp_path / "alone" / "summary.json").read_text())["problems"]["train"]["dropped"] == 0
    run = tmp_path / "alone"
    kept = (
        "summary.json",
        "metrics.jsonl",
        "config.yaml",
        "reward.png",
        "policy/config.json",
        "policy/generation_config.json",
        "evaluations/after.json",
    )
    assert all((run / name).is_file() for name in kept)
    assert [path.name for path in sorted((run / "trajectories").iterdir())] == [
        "step-000001.parquet",
        "step-000002.parquet",
    ]
    assert (tmp_path / "latest").resolve() == run
