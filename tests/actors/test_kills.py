"""Killing any one process costs time, not data: the run continues, no group is trained twice, none is skipped."""

from dataclasses import replace

import numpy as np
import pytest
import ray

from couplet.actors.messages import PublishedWeights
from tests.actors.runs import TIME_LIMIT, P, assert_trained_once, kill_process, living, status, wait_for

pytestmark = pytest.mark.ray


@pytest.fixture
def orphans(ray_cluster):
    """`orphans(n)`: references whose objects died with the process that owned them, as on a node that is gone."""

    @ray.remote(num_cpus=0)
    class Owner:
        def put(self, count):
            return [ray.put(np.zeros(2**20, dtype=np.uint8)) for _ in range(count)]

    def make(count):
        owner = Owner.remote()
        *references, probe = ray.get(owner.put.remote(count + 1), timeout=TIME_LIMIT)
        ray.kill(owner)
        wait_for(lambda: is_lost(probe))
        return references

    return make


def is_lost(reference):
    try:
        ray.get(reference, timeout=10)
    except ray.exceptions.ObjectLostError:
        return True
    except ray.exceptions.GetTimeoutError:
        pass
    return False


def continue_run(run, steps=3):
    """More steps; the identity holds after each, and everything trained so far was trained once."""
    done = run.cluster.step
    run.history.steps(run.cluster, steps)
    assert run.cluster.step == done + steps
    assert_trained_once(run.history, run.cluster.totals())


def lease(cluster):
    """The groups of one step, leased from the queue."""
    while not (taken := cluster.queue.call("take", P, 10.0)).numbers:
        cluster._reconcile()
    return taken


def train_all(run, numbers):
    """Steps until the groups of these numbers have been trained; each of them once."""
    wait_for(lambda: run.history.steps(run.cluster, 1) and set(numbers) <= set(run.history.numbers))
    assert_trained_once(run.history, run.cluster.totals())


def serving(cluster, role):
    """Numbers of the workers of a role that are given work."""
    return cluster.queue.call("roster").serving[role]


def packed(cluster):
    manifest, buckets = ray.get(cluster.learner.weights(), timeout=TIME_LIMIT)
    return manifest.version, np.concatenate([bucket.copy() for bucket in buckets])


@pytest.mark.parametrize("role", ["rollout", "reward"])
def test_a_killed_worker_is_replaced_and_its_death_counted(shared_run, role):
    cluster = shared_run.cluster
    before = cluster.restarts()[role]
    kill_process(living(cluster, role)[0])
    continue_run(shared_run)
    wait_for(lambda: shared_run.history.steps(cluster, 1) and cluster.restarts()[role] >= before + 1)
    wait_for(lambda: shared_run.history.steps(cluster, 1) and len(serving(cluster, role)) == 2)


def test_a_killed_replay_queue_is_rebuilt_from_what_the_driver_remembers(shared_run):
    cluster = shared_run.cluster
    before, totals = cluster.restarts()["replay"], cluster.totals()
    kill_process(status(cluster)["pid"])
    after = cluster.totals()
    assert after["trained"] + after["filtered"] == totals["trained"] + totals["filtered"]
    assert after["issued"] >= totals["issued"] - 2 * cluster.config.replay.groups_per_step
    continue_run(shared_run)
    assert cluster.restarts()["replay"] >= before + 1


def test_leased_groups_whose_payload_is_lost_are_given_out_again(shared_run, orphans):
    cluster = shared_run.cluster
    taken = lease(cluster)
    assert cluster._payload(replace(taken, groups=orphans(2))) is None
    train_all(shared_run, taken.numbers)


def test_a_killed_learner_rank_comes_back_with_the_weights_it_had(shared_run):
    cluster = shared_run.cluster
    shared_run.history.steps(cluster, 1)
    cluster.save()
    shared_run.history.steps(cluster, 2)
    version, before = packed(cluster)
    restarts = cluster.learner.restarts
    kill_process(cluster.learner.ranks.places[0].pid)
    again, after = packed(cluster)
    assert (version, again) == (cluster.step, cluster.step)
    assert np.array_equal(before, after)
    assert cluster.learner.restarts == restarts + 1
    continue_run(shared_run)
    assert cluster.restarts()["learner"] == restarts + 1


def test_weights_that_died_with_their_node_are_published_again(shared_run, orphans, monkeypatch):
    cluster, published = shared_run.cluster, []
    publish = cluster.publish
    monkeypatch.setattr(cluster, "publish", lambda: published.append(cluster.step) or publish())
    cluster.queue.call("publish", PublishedWeights(cluster.step, orphans(1)[0]))
    taken = lease(cluster)
    for pid in living(cluster, "rollout"):
        kill_process(pid)  # a new process holds version 0, and must fetch
    cluster.queue.call("give_back", taken.numbers)
    wait_for(lambda: cluster._reconcile() or published)
    train_all(shared_run, taken.numbers)
