"""A LoRA adapter through a whole run: published alone, the same on Ray and in one process, kept across kills and resume."""

import numpy as np
import pytest
import ray

from couplet.model.adapters import is_adapter
from couplet.training.local_cluster import LocalCluster
from tests.actors.runs import TIME_LIMIT, History, assert_trained_once, kill_process, run_config

pytestmark = [pytest.mark.ray, pytest.mark.slow]
ADAPTER = {"rank": 2, "alpha": 8.0}
RUN = {
    "steps": 8,
    "replay": {"max_staleness": 0, "groups_per_step": 4},
    "optimizer": {"lr": 3e-3, "betas": [0.9, 0.99]},
}
N, M = 2, 2


def published(cluster):
    """Manifest and bytes of the learner's weights."""
    manifest, buckets = ray.get(cluster.learner.weights(), timeout=TIME_LIMIT)
    return manifest, np.concatenate([bucket.copy() for bucket in buckets])


@pytest.fixture(scope="module")
def alone(start, tmp_path_factory):
    """The run in one process, where sampler and learner share the frozen weights."""
    config = run_config(start, "alone", learner={"adapter": ADAPTER}, **RUN)
    cluster, history = LocalCluster(config, str(start), tmp_path_factory.mktemp("alone")), History()
    try:
        cluster.publish()
        history.steps(cluster, N + M)
        mine, theirs = (dict(p.named_parameters()) for p in (cluster.learner.policy, cluster.rollout._policy))
        for name, parameter in mine.items():
            assert (parameter.data_ptr() == theirs[name].data_ptr()) != is_adapter(name), name
    finally:
        cluster.close()
    return history


@pytest.mark.parametrize("learner", [{"engine": "torch"}, {"engine": "deepspeed", "zero_stage": 2}])
def test_an_adapter_survives_a_killed_rank_and_a_resumed_run(open_cluster, alone, learner):
    options = {**RUN, "learner": {"ranks": 2, "adapter": ADAPTER, "timeout": 900.0, **learner}}
    cluster, history = open_cluster("adapter", **options), History()
    history.steps(cluster, N)
    cluster.save()
    manifest, before = published(cluster)
    assert manifest.names and all(is_adapter(name) for name in manifest.names)
    kill_process(cluster.learner.ranks.places[1].pid)
    assert np.array_equal(published(cluster)[1], before)
    history.steps(cluster, M)
    assert cluster.restarts()["learner"] == 1
    assert history.losses[:3] == pytest.approx(alone.losses[:3], abs=1e-4)
    assert any(loss != 0.0 for loss in history.losses[:3])
    assert_trained_once(history, cluster.totals())
    _, end = published(cluster)
    cluster.close()

    resumed, again = open_cluster("resumed", publish=False, **options), History()
    resumed.checkpoints = cluster.checkpoints
    assert resumed.restore() == N
    resumed.publish()
    again.steps(resumed, M)
    assert again.losses == pytest.approx(history.losses[N:], abs=1e-6)
    assert again.numbers == history.numbers[N * 4 :]
    np.testing.assert_allclose(published(resumed)[1].view(np.float32), end.view(np.float32), atol=1e-5)
