"""Kills during an evaluation cost time only: every result comes, and nothing innocent is given up."""

import time
from types import SimpleNamespace

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, OutOfMemoryError

from actors.judging import Job, Judging
from actors.parts import load_prompts
from actors.replay_hub import Worker
from actors.waiting import DIED, is_gone
from data.verdict import Outcome
from tests.actors.fakes import PoisonRollout, ScriptedLearner, ScriptedReward, ScriptedRollout
from tests.actors.runs import alive, kill_process, status, wait_for

pytestmark = pytest.mark.ray
START = 3.0  # seconds an actor needs to start: longer than several refused calls
WORK = 0.2


class SlowRollout(ScriptedRollout):
    """Takes its time to start and to answer, so that a kill meets it at work and its restart is felt."""

    def prepare(self, config):
        time.sleep(START)

    def group(self, request):
        time.sleep(WORK)
        return super().group(request)


class SlowReward(ScriptedReward):
    """The same for judging."""

    def __init__(self, *arguments):
        time.sleep(START)
        super().__init__(*arguments)

    def verdict(self, text, place):
        time.sleep(WORK / 2)
        return super().verdict(text, place)


@pytest.fixture
def evaluating(open_cluster, start, monkeypatch):
    """`evaluating(name, (rollout fake, reward fake), problems, **changes)`: a cluster whose queue rests, and its prompts."""

    def open_one(name, fakes, problems, **changes):
        monkeypatch.setattr("actors.workers.RolloutActor", fakes[0])
        monkeypatch.setattr("actors.workers.RewardActor", fakes[1])
        monkeypatch.setattr("actors.learner_group.LearnerActor", ScriptedLearner)
        cluster = open_cluster(name, **changes)
        return cluster, load_prompts(cluster.config, str(start), "katas:heldout-lists", problems)

    return open_one


def outcomes(results):
    return [{verdict.outcome for verdict in scored.verdicts} for scored in results]


@pytest.mark.parametrize("max_restarts", [-1, pytest.param(0, marks=pytest.mark.slow)])
def test_killed_actors_come_back_and_every_result_comes(evaluating, max_restarts):
    changes = {"replay": {"max_attempts": 2}, "rollout": {"max_restarts": max_restarts}}
    cluster, prompts = evaluating(f"kills{max_restarts}", (SlowRollout, SlowReward), 12, **changes)
    wait_for(lambda: status(cluster)["ledger"]["ready"] == 4)  # all that the credits allow
    pids = [member.info["pid"] for members in cluster.pool.members.values() for member in members.values()]

    def kill(index, scored):
        for pid in filter(alive, pids):
            kill_process(pid)

    results = cluster.evaluate(prompts, cluster.config.sampler, 2, 0, progress=kill)
    assert len(pids) == 2 and not any(map(alive, pids))
    assert [scored.group.group_id.problem for scored in results] == list(range(12))
    assert outcomes(results) == [{Outcome.PASSED}] * 12


def test_an_answer_that_kills_its_judges_is_quarantined_and_its_neighbours_are_not(evaluating):
    changes = {"replay": {"max_attempts": 2}, "reward": {"max_fault_share": 1.0}}
    cluster, prompts = evaluating("poisoned", (PoisonRollout, ScriptedReward), 3, publish=False, **changes)
    cluster.holder = (0, [None])  # scripted actors need no weights, and the queue issues nothing
    results = cluster.evaluate(prompts, cluster.config.sampler, 2, 0)
    assert outcomes(results) == [{Outcome.QUARANTINED if i % 3 == 0 else Outcome.PASSED} for i in range(3)]


@pytest.mark.parametrize(
    "error, died, gone",
    [
        (ActorDiedError(), True, True),
        (OutOfMemoryError("1 worker(s) were killed due to the node running low on memory"), True, True),
        (ActorUnavailableError("the actor is restarting", None), True, False),
        (TimeoutError("late"), False, False),
    ],
)
def test_an_actor_that_is_gone_is_told_from_one_that_restarts(error, died, gone):
    assert (isinstance(error, DIED), is_gone(error)) == (died, gone)


@pytest.mark.parametrize("recovering", [True, False])
def test_a_job_is_kept_for_another_judge_only_while_that_one_answers(recovering):
    first, second = (Worker("reward", index, None, {}) for index in range(2))
    second.recovering = recovering
    ledger = SimpleNamespace(holds=lambda number, attempt: True)
    judging = Judging(SimpleNamespace(active=lambda role: [first, second], ledger=ledger))
    job = Job(0, 0, None, 0.0, avoid=first.index)
    judging.jobs.append(job)
    assert judging._next_job(first) is (job if recovering else None)
