"""The learner's ranks: the resources they keep, what counts as their loss, and how far a rebuilt one has to go back.

And what a start that fails gives back.
"""

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from ray.exceptions import OutOfMemoryError

from couplet.actors import ray_init as connect
from couplet.actors.learner_group import LearnerGroup
from couplet.commands import job as control
from couplet.commands.backends import open_evaluator
from couplet.configs.schema import ConfigError
from couplet.learner.checkpoint import latest_checkpoint
from tests.actors.fakes import RefusedReward, ScriptedLearner, ScriptedReward, ScriptedRollout
from tests.actors.runs import History, kill_process, run_config, wait_for

pytestmark = pytest.mark.ray


class BlockedLearner(ScriptedLearner):
    """Rank 0 has a defect; the others wait for it in a collective."""

    def __init__(self, config, start, rank):
        super().__init__(config, start, rank)
        self.rank = rank

    def learn(self, groups):
        if self.rank > 0:
            time.sleep(1000)
        raise RuntimeError("the loss is a banana")


class CountingLearner(ScriptedLearner):
    """Writes its version into checkpoints, and tells how many steps this process has done."""

    done = 0

    def learn(self, groups):
        self.done += 1
        return super().learn(groups) | {"done": self.done, "version": self.version}

    def save(self, folder):
        Path(folder, "version").write_text(str(self.version))

    def restore(self, folder):
        self.version = int(Path(folder, "version").read_text())
        return self.version


@pytest.fixture
def with_learner(open_cluster, monkeypatch):
    """`with_learner(name, Fake, **changes)`: a cluster of scripted workers and this learner."""

    def open_one(name, fake, **changes):
        monkeypatch.setattr("couplet.actors.worker_pool.RolloutActor", ScriptedRollout)
        monkeypatch.setattr("couplet.actors.worker_pool.RewardActor", ScriptedReward)
        monkeypatch.setattr("couplet.actors.learner_group.LearnerActor", fake)
        return open_cluster(name, **changes)

    return open_one


@pytest.fixture
def crowd(ray_cluster):
    """`crowd()`: take all CPU that is free now, until the test ends."""
    holders = []

    @ray.remote
    class Holder:
        def ready(self):
            return True

    def hold():
        holders.append(Holder.options(num_cpus=int(ray.available_resources()["CPU"])).remote())
        ray.get(holders[-1].ready.remote(), timeout=240)

    yield hold
    for holder in holders:
        ray.kill(holder)


def test_ranks_get_their_resources_back_though_more_actors_are_wanted_than_fit(with_learner, crowd):
    cluster = with_learner("crowded", ScriptedLearner, learner={"ranks": 2})
    crowd()
    cluster.queue.call("set_targets", {"reward": 4})
    homeless = lambda: sum(member.info is None for member in cluster.pool.members["reward"].values())  # noqa: E731
    wait_for(lambda: cluster._reconcile() or homeless() == 3)
    kill_process(cluster.learner.ranks.places[1].pid)
    cluster.learn(cluster.take(2))
    assert cluster.learner.restarts == 1
    assert homeless() == 3


@pytest.mark.parametrize(
    "learner, bundles",
    [
        ({"cpus": 0.5}, [{"CPU": 0.5}] * 2),
        ({"cpus": 2.0, "gpus": 0.5}, [{"CPU": 2.0, "GPU": 0.5}] * 2),
        ({"cpus": 0.0}, None),
    ],
)
def test_each_rank_reserves_what_it_asks_for(tmp_path, monkeypatch, learner, bundles):
    asked = []

    class Placement:
        def __init__(self, bundles, strategy, bundle_label_selector):
            asked.append((bundles, strategy, bundle_label_selector))

        def wait(self, seconds):
            return True

    monkeypatch.setattr("couplet.actors.rank_group.placement_group", Placement)
    labels = {"market": "on-demand"}
    LearnerGroup(run_config(tmp_path, "placed", learner={"ranks": 2, "labels": labels, **learner}), "").ranks.reserve()
    assert asked == ([(bundles, "PACK", [labels] * 2)] if bundles else [])


def test_ranks_without_resources_are_named_and_stop_waiting(ray_cluster, tmp_path):
    group = LearnerGroup(run_config(tmp_path, "large", learner={"cpus": 640.0}, ray={"call_timeout": 1.0}), "")
    try:
        with pytest.raises(ConfigError, match=r"learner.ranks = 1: they did not start within .* = 1 s; .* for 640 CPU"):
            group.ranks.reserve()
        placement = group.ranks.placement
    finally:
        group.stop()
    states = lambda: ray.util.placement_group_table(placement)["state"]  # noqa: E731
    wait_for(lambda: states() == "REMOVED")


@pytest.mark.slow
def test_a_scale_without_resources_leaves_the_numbers_as_they_were(ray_cluster, monkeypatch):
    class Queue:
        def __init__(self):
            self.targets, self.history = {"rollout": 2, "reward": 1}, []

        def roster(self):
            return SimpleNamespace(targets=dict(self.targets), serving={"rollout": [0, 1], "reward": [0]})

        def status(self):
            return {"autoscale": {"rollout": None, "reward": None}}

        def set_targets(self, wanted):
            self.targets |= wanted
            self.history.append(wanted)

    queue = Queue()
    monkeypatch.setattr(control, "SCALE_SECONDS", 0.0)
    monkeypatch.setattr(control, "_find", lambda run, address: queue)
    monkeypatch.setattr(control, "_call", lambda queue, method, *arguments: getattr(queue, method)(*arguments))
    with pytest.raises(
        ConfigError,
        match=r"scale reward=9: not reached within 0 s \(2 rollout, 1 reward in service, .*; the numbers are as before",
    ):
        control.scale_workers(["reward=9"], None, None)
    assert queue.history == [{"reward": 9}, {"reward": 1}]
    control.scale_workers(["reward=1", "rollout=2"], None, None)
    assert queue.targets == {"rollout": 2, "reward": 1}


@pytest.mark.slow
def test_a_defect_of_one_rank_that_blocks_the_others_is_raised_when_it_comes_again(with_learner):
    changes = {"learner": {"ranks": 2}, "ray": {"connect_timeout": 1.5}}
    cluster = with_learner("blocked", BlockedLearner, **changes)
    with pytest.raises(RuntimeError, match=r"^the loss is a banana"):
        cluster.learn(cluster.take(2))
    assert cluster.learner.restarts == 1


def test_a_rank_that_the_memory_monitor_ended_is_a_loss(tmp_path, monkeypatch):
    group, rebuilt = LearnerGroup(run_config(tmp_path, "monitor"), ""), []
    monkeypatch.setattr(group, "_rebuild", rebuilt.append)

    def work():
        if len(rebuilt) == 1:
            raise OutOfMemoryError("1 worker(s) were killed due to the node running low on memory")
        return "done"

    assert group._surviving(work, 7) == "done"
    assert rebuilt == [7, 7]


@pytest.mark.parametrize("error", [TimeoutError("replay queue: roster: no answer"), OutOfMemoryError("the queue died")])
def test_what_fails_outside_the_ranks_is_not_a_lost_rank(tmp_path, monkeypatch, error):
    def meanwhile():
        raise error

    group, stopped = LearnerGroup(run_config(tmp_path, "beside"), "", meanwhile), []
    group.ranks.actors = [SimpleNamespace(save=SimpleNamespace(remote=lambda folder: None))]
    monkeypatch.setattr("couplet.actors.rank_group.fetch_all", lambda refs, what, seconds, meanwhile: meanwhile())
    monkeypatch.setattr(group.ranks, "stop_ranks", lambda: stopped.append(True))
    with pytest.raises(type(error), match=str(error)):
        group.save(tmp_path)
    assert not stopped


@pytest.mark.slow
def test_without_checkpoints_a_rebuilt_rank_repeats_the_kept_steps_only(with_learner, monkeypatch):
    monkeypatch.setattr("couplet.actors.ray_cluster.KEPT_STEPS", 3)
    cluster, history = with_learner("recovery", CountingLearner, checkpoint={"every": 0}), History()
    history.steps(cluster, 6)
    assert sorted(cluster.learner.payloads) == [4, 5]
    assert latest_checkpoint(cluster.checkpoints) is None  # nothing to resume from before the end
    kill_process(cluster.learner.ranks.places[0].pid)
    (metrics,) = history.steps(cluster, 1)
    assert (metrics["done"], metrics["version"]) == (3, 7)
    cluster.save()
    assert latest_checkpoint(cluster.checkpoints)[1]["step"] == 7
    cluster.close()
    assert [path.name for path in cluster.checkpoints.iterdir()] == ["step-00000007"]


def test_a_bench_that_cannot_start_gives_back_its_actors_and_its_ray(ray_cluster, tmp_path, monkeypatch):
    left = []
    monkeypatch.setattr("couplet.actors.worker_pool.RewardActor", RefusedReward)
    monkeypatch.setattr("couplet.actors.ray_evaluator.connect", lambda config: connect.Connection(None, owned=True))
    monkeypatch.setattr("ray.shutdown", lambda: left.append("ray"))
    monkeypatch.setattr("couplet.actors.worker_pool.WorkerPool.stop", lambda pool: left.append("actors"))
    config = run_config(tmp_path, "refused")
    with pytest.raises(ConfigError, match="reward actor 0 could not start"), open_evaluator(config, local=False):
        pass
    assert left == ["actors", "ray"]
