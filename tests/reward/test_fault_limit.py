"""A run stops when it loses more than its share of samples to faults."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest

from couplet.configs.schema import ConfigError
from couplet.data.verdict import Outcome, Verdict
from couplet.reward.fault_limit import FaultShareLimit

PASSED, LOST = Verdict(Outcome.PASSED, 1.0), Verdict(Outcome.INFRA_ERROR, math.nan, reason="zygote")


def scored(verdict):
    return SimpleNamespace(verdicts=(verdict,) * 4)


def test_the_fault_limit_stops_a_run_past_its_share():
    limit = FaultShareLimit(limit=0.05, minimum=64)
    for _ in range(19):
        limit.count([PASSED] * 4)
    limit.count([LOST] * 4)  # 4 of 80: exactly the limit
    with pytest.raises(ConfigError, match=r"5 of 84 samples were lost to infrastructure faults \(zygote 5\).* = 0.05"):
        limit.count([PASSED, PASSED, PASSED, LOST])


def test_the_fault_limit_waits_for_enough_samples():
    limit = FaultShareLimit(limit=0.05, minimum=64)
    for _ in range(15):
        limit.count([LOST] * 4)
    with pytest.raises(ConfigError, match="64 of 64"):
        limit.count([LOST] * 4)


def test_a_program_that_kills_its_sandbox_is_not_a_fault_but_dead_workers_are():
    limit = FaultShareLimit(limit=0.0, minimum=1)
    limit.count([replace(LOST, outcome=Outcome.QUARANTINED, reason="quarantined")])
    with pytest.raises(ConfigError, match="its reward workers died 1"):
        limit.count([replace(LOST, outcome=Outcome.QUARANTINED, reason="its reward workers died")])


def test_progress_is_called_after_the_group_is_counted():
    limit, seen = FaultShareLimit(limit=0.05, minimum=4), []
    progress = limit.before(lambda index, scored: seen.append(index))
    progress(0, scored(PASSED))
    limit.before(None)(1, scored(PASSED))
    with pytest.raises(ConfigError, match="4 of 12 samples were lost"):
        progress(2, scored(LOST))
    assert seen == [0]
