"""Who is given a group to judge. No Ray here."""

from types import SimpleNamespace

import pytest

from couplet.actors.judging import Judging
from couplet.actors.messages import WorkerInfo
from couplet.actors.replay_state import Worker
from couplet.actors.worker_pool import Member, WorkerPool
from couplet.configs.schema import RunConfig
from couplet.replay.record import Attempt
from tests.actors.runs import run_config


def judging(*tiers):
    """The judging half of a queue that accepts the tier `namespace`, with a worker in each of `tiers`."""
    workers = [Worker("reward", index, None, WorkerInfo(1, "node", tier)) for index, tier in enumerate(tiers)]
    hub = SimpleNamespace(
        active=lambda role: [worker for worker in workers if not worker.leaving],
        ledger=SimpleNamespace(holds=lambda number, attempt: True),
        tiers=("namespace",),
        resting=False,
        config=RunConfig(),
    )
    judging = Judging(hub)
    judging.add(Attempt(0, 0), None)
    return judging, workers


def test_a_worker_in_a_refused_tier_gets_no_job_while_another_may_judge():
    line, (good, weak) = judging("namespace", "rlimits")
    line.jobs[0].judgement.avoid = good.index  # it failed there, and there is nobody else who may
    assert line._next_job(weak) is None
    assert line._next_job(good) is not None


def test_where_no_worker_may_judge_the_refused_ones_say_so():
    line, (good, weak) = judging("namespace", "rlimits")
    good.leaving = True
    assert line._next_job(weak) is not None


@pytest.mark.parametrize("tiers, usable", [(("namespace", "rlimits"), [0]), (("rlimits", "rlimits"), [0, 1])])
def test_an_evaluation_uses_no_refused_worker_while_there_is_another(tmp_path, tiers, usable):
    pool = WorkerPool(run_config(tmp_path, "pool"), "")
    pool.tiers = ("namespace",)
    pool.members["reward"] = {
        index: Member(None, None, WorkerInfo(1, "node", tier)) for index, tier in enumerate(tiers)
    }
    assert [index for index, _ in pool.usable("reward")] == usable
