"""How old trained samples may be, and that a trajectory's version is the version of the weights that made it."""

import numpy as np
import pytest
import ray

from couplet.training.factory import RolloutSlice, build_rollout_worker
from tests.actors.runs import TIME_LIMIT, History, P, assert_trained_once, living, status, wait_for

pytestmark = pytest.mark.ray


def ages(history):
    return [step - scored.group.version for step, batch in enumerate(history.batches) for scored in batch.groups]


def test_no_trained_sample_is_older_than_max_staleness(shared_run):
    history = shared_run.history
    wait_for(lambda: history.steps(shared_run.cluster, 1) and set(ages(history)) >= {0, 1})
    history.steps(shared_run.cluster, 3)
    assert set(ages(history)) == {0, 1}


def test_a_completion_is_made_by_the_weights_of_its_version_and_no_other(shared_run):
    cluster, history = shared_run.cluster, shared_run.history
    weights, groups = {}, []

    def two_versions():
        """One more step: whether groups of two versions whose weights are known have been trained."""
        weights[cluster.step] = ray.get(cluster.memory.weights.packed, timeout=TIME_LIMIT)
        history.steps(cluster, 1)
        last = history.batches[-1]
        groups.extend((n, s.group) for n, s in zip(last.numbers, last.groups) if s.group.version in weights)
        return len({group.version for _, group in groups}) >= 2

    wait_for(two_versions)
    worker = build_rollout_worker(RolloutSlice.of(cluster.config), str(shared_run.start))
    for number, group in groups:
        worker.load_weights(*weights[group.version])
        (again,) = worker.generate([cluster.schedule.request(number, group.attempt)])
        assert np.array_equal(again.tokens_GC, group.tokens_GC)
        assert np.allclose(again.behaviour_GJC, group.behaviour_GJC, atol=1e-5)


def test_every_rollout_actor_acknowledges_the_published_version(shared_run):
    cluster = shared_run.cluster
    cluster.publish()
    living(cluster, "rollout")
    calls = [
        member.handle.load_weights.remote(cluster.memory.weights) for member in cluster.pool.members["rollout"].values()
    ]
    assert [reply.version for reply in ray.get(calls, timeout=TIME_LIMIT)] == [cluster.step] * 2


def test_a_group_that_grew_too_old_is_dropped_and_issued_again(open_cluster):
    cluster, history = open_cluster("late", replay={"max_staleness": 2}, weights={"broadcast_every": 2}), History()
    history.steps(cluster, 4)
    credits = (2 + 4 + 1) * P - 4 * P  # (max_staleness + published version + 1) * P, less the trained ones
    wait_for(lambda: status(cluster)["ledger"]["ready"] == credits)
    before = cluster.totals()
    assert before["stale_dropped"] == 0
    cluster.step += 3  # as if three more steps had gone by while these groups waited
    cluster.queue.call("finish", {}, cluster.step)
    taken = cluster.queue.call("take", 2, 0.1)
    assert not taken.numbers
    after = cluster.totals()
    assert after["issued"] == before["issued"]
    assert after["reissued"] >= before["reissued"] + credits
    assert after["stale_dropped"] >= credits
    assert set(ages(history)) <= {0, 1, 2}
    assert_trained_once(history, after)
