"""Autoscaling on Ray: reward actors are added while groups wait for them, and Ray's autoscaler is asked for resources."""

from __future__ import annotations

import pytest

from couplet.actors import scaling
from couplet.commands.job import _require_admitted, status_lines
from couplet.configs.schema import ConfigError
from tests.actors.runs import History, status

pytestmark = pytest.mark.ray


def test_reward_actors_are_added_while_groups_wait(scripted, monkeypatch):
    asked = []
    monkeypatch.setattr(scaling, "request_resources", lambda **request: asked.append(request))
    limits = {"max": 2, "target_wait": 0.2, "window": 0.5}
    cluster = scripted(
        "autoscaled", "SleepyReward", steps=100, replay={"groups_per_step": 4}, reward={"autoscale": limits}
    )
    history = History()
    for _ in range(12):
        row = history.steps(cluster, 1)[0]
        if row["reward_workers"] == 2:
            break
    assert row["reward_workers"] == 2 and row["reward_queue_wait"] > 0.2
    line = status_lines(status(cluster))[-1]
    assert line.startswith(
        "autoscale reward: 1 to 2 actors, waits of at most 0.2 s; 2 wanted, 2 in service; last change: 1 to 2: "
    )
    cpus = [{"CPU": 1.0}] * 4  # of a learner rank, a rollout actor, two reward actors
    assert asked == [{"bundles": cpus, "bundle_label_selectors": [{}] * 4}]
    cluster.close()
    assert asked[1:] == [{"bundles": []}]


def test_a_scale_that_autoscaling_would_undo_is_refused():
    autoscale = {"reward": {"min": 1, "max": 4}, "rollout": None}
    _require_admitted({"reward": 4, "rollout": 99}, autoscale)
    with pytest.raises(ConfigError, match=r"scale reward=5: reward\.autoscale keeps it within 1 to 4"):
        _require_admitted({"reward": 5}, autoscale)
