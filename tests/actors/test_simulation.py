"""The simulated queue against the real one, with workers whose work takes a known time."""

from __future__ import annotations

import time

import pytest

from couplet.training.simulation import Durations, Layout, Run
from tests.actors.fakes import GENERATE, JUDGE, LEARN, PUBLISH

pytestmark = pytest.mark.ray

STEPS, WARM_UP = 8, 2
SETTINGS = {  # rollout actors, reward actors, groups per call, broadcast every, groups per step, staleness
    "one of each": (1, 1, 1, 1, 2, 0),
    "one step ahead": (1, 1, 1, 1, 2, 1),
    "credits bind": (3, 1, 1, 1, 2, 1),
    "learner binds": (4, 2, 1, 1, 2, 2),
    "indivisible groups": (3, 2, 1, 1, 4, 0),
    "two groups a call": (2, 1, 2, 1, 4, 1),
    "four groups a call": (2, 2, 4, 1, 4, 1),
    "judging binds": (4, 1, 1, 1, 8, 1),
    "broadcast every second step": (2, 1, 1, 2, 2, 1),
    "far ahead": (3, 2, 1, 1, 4, 4),
}


def measured(cluster, steps):
    """Mean seconds of a learner step of the real queue."""
    ends = []
    for _ in range(steps):
        cluster.learn(cluster.take(cluster.config.replay.groups_per_step))
        ends.append(time.monotonic())
        if cluster.step % cluster.config.weights.broadcast_every == 0:
            cluster.publish()
    return (ends[-1] - ends[WARM_UP]) / (steps - 1 - WARM_UP)


@pytest.mark.parametrize(
    "name", [n if n == "credits bind" else pytest.param(n, marks=pytest.mark.slow) for n in SETTINGS]
)
def test_a_step_takes_as_long_as_simulated(name, scripted):
    rollout, reward, per_call, every, P, staleness = SETTINGS[name]
    cluster = scripted(
        f"simulated-{name.replace(' ', '-')}", "SleepyRollout", "SleepyReward", "SleepyLearner",
        steps=100, replay={"groups_per_step": P, "completions": 2, "max_staleness": staleness},
        rollout={"actors": rollout, "groups_per_call": per_call}, reward={"actors": reward},
        weights={"broadcast_every": every},
    )  # fmt: skip
    durations = Durations(lambda groups: GENERATE * groups, JUDGE, LEARN, PUBLISH)
    timeline = Run(cluster.config.replay, Layout(rollout, reward, per_call, every), durations, STEPS).run()
    assert measured(cluster, STEPS) == pytest.approx(timeline.step_seconds(WARM_UP), rel=0.05)
