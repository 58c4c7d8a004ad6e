"""Autoscaling: what the rule decides, and that a simulated queue under changing load settles on a number of workers."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from couplet.configs.schema import AutoscaleConfig, ConfigError, ReplayConfig, RewardConfig
from couplet.training.autoscale import Autoscaler, Load
from couplet.training.simulation import Durations, Layout, Run

P, STEPS = 16, 240
START_SECONDS = 12.0  # from the wish for a worker to its first call


def decide(loads, wanted=4, limits=None):
    scaler = Autoscaler(AutoscaleConfig(**{"min": 1, "max": 16, "target_wait": 5.0, "window": 30.0} | (limits or {})))
    for load in loads:
        wanted = scaler.observe(load, wanted)
    return wanted, scaler.reason


@pytest.mark.parametrize(
    ("load", "times", "wanted", "expected"),
    [
        (Load(4, 30.0, wait=9.0, busy=0.97), 1, 4, 6),  # saturated: half as many again
        (Load(4, 30.0, wait=9.0, busy=0.8), 1, 4, 5),  # the work is known: 3.2 workers, 65% busy
        (Load(4, 30.0, wait=9.0, busy=0.6), 9, 4, 4),  # work waits for something else
        (Load(4, 30.0, wait=1.0, busy=0.97), 9, 4, 4),  # busy, but nothing waits long
        (Load(4, 30.0, wait=1.0, busy=0.2), 2, 4, 4),  # idle, but not for long
        (Load(4, 30.0, wait=1.0, busy=0.2), 3, 4, 2),
        (Load(4, 30.0, wait=9.0, busy=0.2), 9, 4, 4),  # nothing is taken away while work waits
        (Load(4, 10.0, wait=9.0, busy=0.97), 2, 4, 4),  # shorter than a window
        (Load(2, 30.0, wait=9.0, busy=0.97), 9, 4, 4),  # two of the four have not started yet
        (Load(16, 30.0, wait=9.0, busy=0.97), 9, 16, 16),  # no more are allowed
    ],
)
def test_what_is_decided(load, times, wanted, expected):
    assert decide([load] * times, wanted)[0] == expected


def test_a_number_outside_of_the_bounds_is_brought_inside_at_once():
    wanted, reason = decide([Load(20, 1.0, wait=0.0, busy=0.6)], wanted=20)
    assert wanted == 16 and reason == "20 to 16: 20 is outside of 1 to 16"


def test_a_number_that_was_too_few_is_not_tried_again_with_the_same_work():
    """Bursts: two workers are 80% busy and work waits; three are 53% busy, and four would be below half."""
    bursts = [Load(2, 30.0, wait=9.0, busy=0.95), *[Load(3, 30.0, wait=1.0, busy=0.49)] * 30]
    assert decide(bursts, wanted=2)[0] == 3
    assert decide([*bursts, *[Load(3, 30.0, wait=1.0, busy=0.4)] * 3], wanted=2)[0] == 2


def test_bounds_that_contradict_each_other_are_refused():
    with pytest.raises(ConfigError, match=r"min = 4: must be at most autoscale\.max = 2"):
        AutoscaleConfig(min=4, max=2)
    with pytest.raises(ConfigError, match=r"must lie in reward\.autoscale\.min \.\. max"):
        RewardConfig(actors=9, autoscale=AutoscaleConfig(max=8))


def under_load(judge, generate=lambda step: 2.0, spread=0.25, rollout=None, seed=0):
    """Numbers of workers after each step of a queue whose judging and generating take as long as the load says."""
    limits = {
        "reward": AutoscaleConfig(min=1, max=16, target_wait=2.0),
        "rollout": AutoscaleConfig(min=1, max=rollout or 8, target_wait=2.0),
    }
    scalers = {role: Autoscaler(limits[role]) for role in (("reward", "rollout") if rollout else ("reward",))}
    wanted = {"rollout": 2 if rollout else 8, "reward": 1}
    starting, history, last = [], [], {"now": 0.0, "reward": 0.0, "rollout": 0.0}

    def observe(run):
        seconds, busy = run.now - last["now"], run.timeline.busy
        waits = {"reward": sum(run.waits) / max(1, len(run.waits)), "rollout": run.learner_wait}
        for role, scaler in scalers.items():
            share = min(1.0, (busy[role] - last[role]) / (seconds * run.wanted[role]))
            new = scaler.observe(Load(run.wanted[role], seconds, waits[role], share), wanted[role])
            if new != wanted[role]:
                starting.append((run.now + START_SECONDS, role, new))
            wanted[role] = new
            last[role] = busy[role]
        last["now"] = run.now
        while starting and starting[0][0] <= run.now:
            _, role, number = starting.pop(0)
            run.wanted[role] = number
        history.append(dict(wanted))
        one = generate(run.version)
        run.durations = replace(run.durations, judge=judge(run.version), generate=lambda groups: one * groups)

    durations = Durations(lambda groups: generate(0) * groups, judge(0), learn=4.0, publish=0.2, spread=spread)
    replay = ReplayConfig(groups_per_step=P, completions=4, max_staleness=2)
    timeline = Run(replay, Layout(wanted["rollout"], 1), durations, STEPS, seed=seed, observe=observe).run()
    return history, timeline


def changes(numbers):
    return sum(a != b for a, b in pairwise(numbers))


def turns(numbers):
    """How often the direction changes."""
    signs = [b > a for a, b in pairwise(numbers) if a != b]
    return sum(a != b for a, b in pairwise(signs))


@pytest.mark.parametrize("spread", [0.0, 0.25, 0.6])
def test_the_load_of_a_step_is_met_and_left_again(spread):
    """Judging takes a tenth of a second, from step 80 on two seconds, from step 160 on a tenth again."""
    history, timeline = under_load(lambda step: 2.0 if 80 <= step < 160 else 0.1, spread=spread)
    reward = [row["reward"] for row in history]
    assert set(reward[:80]) == {1}
    settled = reward[120:160]
    assert min(settled) >= 6 and max(settled) <= 13 and changes(settled) == 0  # the work is that of 16 x 2 s in 4.2 s
    assert reward[-1] == 1 and turns(reward) <= 2
    ends = timeline.step_ends
    assert (ends[159] - ends[119]) / 40 < 1.15 * (ends[79] - ends[39]) / 40  # judging bounds the step no longer


@pytest.mark.parametrize("seed", range(3))
def test_a_ramp_is_followed_without_a_turn(seed):
    history, _ = under_load(lambda step: 0.1 + 2.0 * step / STEPS, seed=seed)
    reward = [row["reward"] for row in history]
    assert turns(reward) == 0 and reward[-1] >= 5


@pytest.mark.parametrize("seed", range(3))
def test_noise_alone_ends_in_a_number_that_stays(seed):
    history, _ = under_load(lambda step: 0.6, spread=0.8, seed=seed)
    reward = [row["reward"] for row in history]
    assert changes(reward[STEPS // 2 :]) <= 1 and turns(reward) <= 2


@pytest.mark.parametrize("seed", range(3))
def test_both_roles_settle_together(seed):
    """Generation twice as slow in the middle: rollout actors are added, and the reward actors do not swing with them."""
    history, _ = under_load(
        lambda step: 0.5, lambda step: 4.0 if 80 <= step < 160 else 2.0, rollout=24, spread=0.4, seed=seed
    )
    for role in ("rollout", "reward"):
        numbers = [row[role] for row in history]
        assert changes(numbers[130:160]) <= 1 and turns(numbers) <= 3, (role, numbers)
    assert history[155]["rollout"] >= 1.5 * history[75]["rollout"]
