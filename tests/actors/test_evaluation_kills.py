"""Evaluations are of the weights of their step, and kills only cost them time; from what a rebuilt queue continues."""

import time
from types import SimpleNamespace

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, OutOfMemoryError

from couplet.actors.judging import Job, Judging
from couplet.actors.messages import PublishedWeights, WorkerInfo
from couplet.actors.ray_cluster import RayCluster
from couplet.actors.remote import DIED, is_gone
from couplet.actors.replay_actor import Memory, ReplayActor
from couplet.actors.replay_state import Worker
from couplet.data.verdict import Outcome
from couplet.evaluation.request import EvalRequest
from couplet.replay.record import Attempt, Record, State
from couplet.reward.judgement import Judgement
from couplet.training.factory import load_prompts
from couplet.training.loop import train
from tests.actors.fakes import PoisonRollout, ScriptedLearner, ScriptedReward, ScriptedRollout
from tests.actors.runs import P, alive, kill_process, run_config, status, wait_for

pytestmark = pytest.mark.ray
START = 2.0  # seconds an actor needs to start: longer than several refused calls
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
        monkeypatch.setattr("couplet.actors.worker_pool.RolloutActor", fakes[0])
        monkeypatch.setattr("couplet.actors.worker_pool.RewardActor", fakes[1])
        monkeypatch.setattr("couplet.actors.learner_group.LearnerActor", ScriptedLearner)
        cluster = open_cluster(name, **changes)
        config = cluster.config
        prompts = load_prompts(str(start), "katas:heldout-lists", config.problems, config.model, problems)
        return cluster, prompts

    return open_one


def outcomes(results):
    return [{verdict.outcome for verdict in scored.verdicts} for scored in results]


@pytest.mark.parametrize("max_restarts", [-1, pytest.param(0, marks=pytest.mark.slow)])
def test_killed_actors_come_back_and_every_result_comes(evaluating, max_restarts):
    changes = {"replay": {"max_attempts": 2}, "rollout": {"max_restarts": max_restarts}}
    cluster, prompts = evaluating(f"kills{max_restarts}", (SlowRollout, SlowReward), 8, **changes)
    wait_for(lambda: status(cluster)["ledger"]["ready"] == 4)  # all that the credits allow
    pids = [member.info.pid for members in cluster.pool.members.values() for member in members.values()]

    def kill(index, scored):
        for pid in filter(alive, pids):
            kill_process(pid)

    results = cluster.evaluate(EvalRequest(prompts, cluster.config.sampler, 2, 0, kill))
    assert len(pids) == 2 and not any(map(alive, pids))
    assert [scored.group.group_id.problem for scored in results] == list(range(8))
    assert outcomes(results) == [{Outcome.PASSED}] * 8


def test_an_answer_that_kills_its_judges_is_quarantined_and_its_neighbours_are_not(evaluating):
    changes = {"replay": {"max_attempts": 2}, "reward": {"max_fault_share": 1.0}}
    cluster, prompts = evaluating("poisoned", (PoisonRollout, ScriptedReward), 3, publish=False, **changes)
    cluster.memory.weights = PublishedWeights(0, None)  # scripted actors need no weights, and the queue issues nothing
    results = cluster.evaluate(EvalRequest(prompts, cluster.config.sampler, 2, 0))
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
def test_an_actor_that_is_gone_is_distinguished_from_one_that_restarts(error, died, gone):
    assert (isinstance(error, DIED), is_gone(error)) == (died, gone)


@pytest.mark.parametrize("recovering", [True, False])
def test_a_job_is_kept_for_another_judge_only_while_that_one_answers(recovering):
    first, second = (Worker("reward", index, None, WorkerInfo(1, "node")) for index in range(2))
    second.recovering = recovering
    ledger = SimpleNamespace(holds=lambda number, attempt: True)
    judging = Judging(SimpleNamespace(active=lambda role: [first, second], ledger=ledger, tiers=(), resting=False))
    job = Job(Attempt(0, 0), None, 0.0, Judgement(Attempt(0, 0), 4, 3))
    job.judgement.avoid = first.index
    judging.jobs.append(job)
    assert judging._next_job(first) is (job if recovering else None)


def test_an_evaluation_is_of_the_weights_of_its_step(tmp_path):
    config = run_config(tmp_path, "loop", steps=8, evaluation={"every": 3}, weights={"broadcast_every": 2})
    cluster, published, evaluated = SimpleNamespace(step=0), [], []

    def learn(batch):
        cluster.step += 1
        return {}

    nothing = lambda *_: SimpleNamespace(metrics={}, groups=(), filtered=())  # noqa: E731
    cluster.take, cluster.learn, cluster.save = nothing, learn, nothing
    cluster.publish = lambda: published.append(cluster.step)
    folder = SimpleNamespace(log_metrics=nothing, log_trajectories=nothing)
    train(config, cluster, folder, nothing, lambda step: evaluated.append((step, published[-1])))
    assert evaluated == [(3, 3), (6, 6)]
    assert published == [2, 3, 4, 6, 8]
    cluster.step, evaluated[:] = 3, []  # resumed from the checkpoint of a step whose evaluation was interrupted
    cluster.publish()
    train(config, cluster, folder, nothing, lambda step: evaluated.append((step, published[-1])))
    assert evaluated == [(3, 3), (6, 6)]


def test_a_rebuilt_queue_counts_credits_from_the_weights_that_are_out(tmp_path):
    record, learner = Record(), SimpleNamespace(weights=lambda: None)
    driver = SimpleNamespace(
        step=1, memory=Memory(record), learner=learner, queue=SimpleNamespace(call=lambda *_: None)
    )
    RayCluster.publish(driver)
    record.add(dict.fromkeys(range(2 * P), State.TRAINED))
    driver.memory.version = 2  # one more step since
    config = run_config(tmp_path, "credits", replay={"max_staleness": 1}, weights={"broadcast_every": 2})
    ledger = ReplayActor(config, None, driver.memory).ledger
    assert (ledger.version, ledger.published) == (2, 1)
    assert ledger.capacity() == (1 + 1 + 1) * P - 2 * P
