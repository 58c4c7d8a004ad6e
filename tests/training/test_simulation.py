"""The simulated queue: steps that can be computed by hand, bounds that hold, staleness that is kept."""

from __future__ import annotations

import pytest

from couplet.configs.schema import ReplayConfig
from couplet.training.simulation import Durations, Layout, Run


def run(rollout=1, reward=1, per_call=1, every=1, P=4, staleness=0, steps=20, spread=0.0, **seconds):
    durations = {"generate": 1.0, "judge": 0.25, "learn": 2.0} | seconds
    one = durations.pop("generate")
    return Run(
        ReplayConfig(groups_per_step=P, completions=4, max_staleness=staleness),
        Layout(rollout, reward, per_call, every),
        Durations(lambda groups: one * groups, **durations, spread=spread),
        steps,
    ).run()


def test_without_staleness_the_phases_follow_each_other():
    """Four groups one after the other, the last one judged, the learner step, the broadcast, the swap."""
    timeline = run(publish=0.5, swap=0.125)
    assert timeline.step_seconds() == pytest.approx(4 * 1.0 + 0.25 + 2.0 + 0.5 + 0.125)
    assert set(timeline.staleness) == {0}


def test_one_step_of_staleness_hides_the_learner():
    assert run(staleness=1).step_seconds() == pytest.approx(4.0, rel=0.02)  # the one rollout actor never waits
    assert run(staleness=1).idle("rollout") == pytest.approx(0.0, abs=0.05)


def test_the_slowest_role_bounds_the_step():
    assert run(staleness=4, learn=9.0, steps=60).step_seconds() == pytest.approx(9.0)
    assert run(staleness=4, judge=5.0, steps=60).step_seconds() == pytest.approx(4 * 5.0)
    assert run(staleness=4, judge=5.0, reward=2, steps=60).step_seconds() == pytest.approx(2 * 5.0)


def test_a_group_is_not_divided():
    """Five actors for four groups are as quick as four; three need two rounds."""
    assert run(rollout=5).step_seconds() == run(rollout=4).step_seconds() == pytest.approx(1.0 + 0.25 * 4 + 2.0)
    assert run(rollout=3, judge=0.0).step_seconds() == pytest.approx(2.0 + 2.0)


def test_credits_hold_generation_back():
    """56 actors and credits for 64 groups of 32 per step: the second round of calls is mostly not admitted.

    A ratio of work to workers would say 32 x 15.8 / 56 = 9.03 per step.
    """
    layout, replay = Layout(56, 32), ReplayConfig(groups_per_step=32, completions=10, max_staleness=1)
    timeline = Run(replay, layout, Durations(lambda groups: 15.8 * groups, 0.3, 5.25), 60).run()
    assert timeline.step_seconds() == pytest.approx(12.4, abs=0.1)
    assert timeline.idle("learner") == pytest.approx(0.58, abs=0.01)


@pytest.mark.parametrize(
    ("staleness", "every"), [(s, every) for s in (0, 1, 2, 5) for every in (1, 2, 3) if s >= every - 1]
)
def test_staleness_stays_within_its_bound(staleness, every):
    timeline = run(rollout=3, staleness=staleness, every=every, spread=0.5, steps=50)
    assert len(timeline.staleness) == 50 * 4 and max(timeline.staleness) <= staleness


def test_stragglers_cost_time_and_the_seed_decides_them():
    many = {"rollout": 4, "reward": 4, "steps": 60}
    steady, uneven = run(**many), run(**many, spread=0.6)
    assert uneven.step_seconds() > 1.1 * steady.step_seconds()
    assert uneven.step_ends == run(**many, spread=0.6).step_ends
