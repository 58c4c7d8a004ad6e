"""The training loop on a cluster that only writes down what it is asked for."""

from types import SimpleNamespace

import pytest

from couplet.training.cluster import Batch
from couplet.training.loop import due, train
from tests.actors.runs import run_config


class FakeCluster:
    """Answers every verb at once and keeps their order."""

    def __init__(self, step=0):
        self.step = step
        self.calls = []

    def take(self, count):
        self.calls.append(f"take {count}")
        return Batch((), (), metrics={"reward_mean": float(self.step)})

    def learn(self, batch):
        self.step += 1
        self.calls.append(f"learn {self.step}")
        return {"loss": 0.5}

    def publish(self):
        self.calls.append(f"publish {self.step}")

    def save(self):
        self.calls.append(f"save {self.step}")


def run(tmp_path, cluster, **changes):
    folder = SimpleNamespace(
        log_metrics=lambda step, metrics: cluster.calls.append(f"log {step}"),
        log_trajectories=lambda step, groups: cluster.calls.append(f"trajectories {step}"),
    )
    observe = lambda step, batch, metrics: cluster.calls.append(f"show {step}")  # noqa: E731
    evaluate = lambda step: cluster.calls.append(f"evaluate {step}")  # noqa: E731
    train(run_config(tmp_path, "loop", **changes), cluster, folder, observe, evaluate)
    return cluster.calls


def only(calls, verb):
    return [int(call.split()[1]) for call in calls if call.startswith(verb + " ")]


def test_one_step_is_take_learn_publish_log_show_save(tmp_path):
    assert run(tmp_path, FakeCluster(), steps=1) == [
        "take 2", "learn 1", "publish 1", "log 1", "trajectories 1", "show 1", "save 1"
    ]  # fmt: skip


def test_the_last_step_is_published_and_saved_whatever_the_cadence(tmp_path):
    calls = run(
        tmp_path,
        FakeCluster(),
        steps=7,
        checkpoint={"every": 3},
        weights={"broadcast_every": 2},
        evaluation={"every": 2},
    )
    assert only(calls, "publish") == [2, 4, 6, 7]
    assert only(calls, "save") == [3, 6, 7]
    assert only(calls, "evaluate") == [2, 4, 6]


def test_no_evaluation_during_the_run_at_its_last_step(tmp_path):
    assert only(run(tmp_path, FakeCluster(), steps=4, evaluation={"every": 2}), "evaluate") == [2]


def test_a_restored_cluster_continues_from_its_step(tmp_path):
    assert only(run(tmp_path, FakeCluster(step=3), steps=5), "learn") == [4, 5]
    assert run(tmp_path, FakeCluster(step=5), steps=5) == []


@pytest.mark.parametrize("step, every, expected", [(4, 2, True), (5, 2, False), (4, 0, False), (1, 1, True)])
def test_due(step, every, expected):
    assert due(step, every) is expected
