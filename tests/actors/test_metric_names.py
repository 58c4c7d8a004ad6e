"""Every metric that a run logs or exports is in the table of metrics."""

import re
import time

import pytest

from couplet.actors.replay_actor import Memory, ReplayActor
from couplet.configs.schema import RewardConfig, SandboxConfig
from couplet.data.metric_table import find
from couplet.reward.worker import RewardWorker
from couplet.training.local_cluster import LocalCluster
from tests.actors.runs import History, run_config


def assert_known(names):
    assert [name for name in names if find(name) is None or not re.fullmatch("[a-z0-9_]+", name)] == []


def test_what_a_run_in_one_process_logs_is_known(start, tmp_path):
    cluster, history = LocalCluster(run_config(start, "names"), str(start), tmp_path / "checkpoints"), History()
    try:
        cluster.publish()
        (metrics,) = history.steps(cluster, 1)
    finally:
        cluster.close()
    assert {"loss", "reward_code", "draw_entropy", "ledger_trained", "speedup_bound"} <= set(metrics)
    assert_known(metrics)


@pytest.mark.ray
def test_what_a_run_on_ray_logs_is_known(shared_run):
    (metrics,) = shared_run.history.steps(shared_run.cluster, 1)
    assert {"rollout_workers", "replay_restarts", "learner_restarts"} <= set(metrics)
    assert_known(metrics)
    assert_known(f"learner_{name}" for name in metrics)


def test_what_the_queue_and_the_reward_actors_export_is_known(tmp_path):
    queue = ReplayActor(run_config(tmp_path, "names"), None, Memory())
    assert_known(queue._depths() | queue.hub.telemetry.rates(time.monotonic()))
    with RewardWorker(RewardConfig(), SandboxConfig()) as worker:
        assert_known(f"sandbox_{name}" for name in worker.stats())
