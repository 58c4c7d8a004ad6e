"""The driver of a Ray run with a queue in its own process: what it counts, and what it remembers. Without Ray."""

import asyncio
import time
from types import SimpleNamespace

import pytest

from couplet.actors.ray_cluster import RayCluster
from couplet.actors.replay_actor import Memory, ReplayActor
from couplet.replay.record import State
from couplet.training.step_metrics import PhaseTimes
from tests.actors.runs import P, run_config


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """What `RayCluster.take` needs of a driver; its queue answers at once."""
    monkeypatch.setattr("couplet.actors.ray_cluster.batch_metrics", lambda *_: {})
    monkeypatch.setattr("couplet.actors.ray_cluster.ScoredGroup", lambda *_: SimpleNamespace(zero_signal=False))
    memory = Memory()
    driver = SimpleNamespace(
        config=run_config(tmp_path, "driver"),
        step=0,
        memory=memory,
        times=PhaseTimes(),
        learner=SimpleNamespace(learn=lambda step, groups: {}, restarts=0, payloads=()),
        pool=SimpleNamespace(counts=lambda: {"rollout": 1, "reward": 1}),
        metrics=SimpleNamespace(export=lambda metrics: None),
        scaling=SimpleNamespace(follow=lambda metrics, workers: None),
        _reconcile=lambda: None,
        _payload=lambda lease: lease.groups,
        _batch=lambda lease, groups, waited: RayCluster._batch(driver, lease, groups, waited),
    )
    driver_queue = ReplayActor(driver.config, None, memory)
    driver.queue = SimpleNamespace(
        actor=driver_queue, call=lambda method, *arguments: asyncio.run(getattr(driver.queue.actor, method)(*arguments))
    )
    return driver


def make_ready(queue):
    """One step's groups, judged and ready; their numbers."""
    orders = queue.ledger.issue(P, 0.0)
    for number, attempt in orders:
        queue.ledger.generated(number, attempt, queue.ledger.published, 0.0)
        queue.ledger.scoring(number, attempt, 0.0)
        queue.ledger.ready(number, attempt, 0.0, valid=4, zero_signal=False)
        queue.judging.ready[number] = (None, ())
    return [number for number, _ in orders]


def test_work_done_while_the_clock_stood_still_is_in_no_step(driver):
    def reward_seconds(spent):
        make_ready(driver.queue.actor)
        driver.queue.actor.hub.telemetry.judged([], spent, time.monotonic())
        return RayCluster.take(driver, P).metrics["reward_seconds"]

    assert reward_seconds(2.0) == 0.0  # before the first step
    assert reward_seconds(3.0) == 3.0
    driver.queue.actor.ledger.publish(1)
    driver.times.pause()
    assert reward_seconds(60.0) == 0.0  # during an evaluation
    assert driver.times.total["reward"] == 3.0


def test_a_queue_that_dies_during_a_learner_step_decides_nothing_of_its_groups(driver):
    def die_meanwhile(step, groups):
        driver.queue.actor = ReplayActor(driver.config, None, driver.memory)
        assert set(make_ready(driver.queue.actor)).isdisjoint(batch.numbers)
        return {}

    driver.learner.learn = die_meanwhile
    (lost, _), _ = make_ready(driver.queue.actor), make_ready(driver.queue.actor)
    driver.queue.actor.ledger._finish(lost, State.QUARANTINED)  # decided by the queue, not yet reported
    batch = RayCluster.take(driver, P)
    RayCluster.learn(driver, batch)
    assert driver.queue.actor.ledger.record.totals == driver.memory.record.totals
    assert driver.memory.record.totals == {"trained": P, "filtered": 0, "quarantined": 1}
    assert driver.queue.actor.ledger.lease(P, 0.0) is not None
