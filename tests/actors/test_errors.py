"""What cannot work ends at once with one clear error that names the remedy; a defect is never mistaken for a loss."""

import subprocess
import sys
import traceback
from pathlib import Path

import pytest
import ray

from couplet.configs.schema import ConfigError
from couplet.evaluation.request import EvalRequest
from couplet.training.factory import load_prompts
from tests.actors.runs import TIME_LIMIT, History, status, wait_for

ROOT = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.ray


def run_python(code, timeout=400):
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=timeout)


def test_an_address_where_no_ray_answers_is_named_without_a_hang():
    code = """
import time
from couplet.actors.ray_init import attach
from couplet.configs.schema import RayConfig
began = time.monotonic()
try:
    attach(RayConfig(address="127.0.0.1:9", connect_timeout=5.0))
finally:
    print(time.monotonic() - began)
"""
    done = run_python(code)
    assert "NoCluster: ray.address = '127.0.0.1:9': no Ray cluster there" in done.stderr
    assert "ray start --head" in done.stderr
    assert float(done.stdout) < 60


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"rollout": {"cpus": 64.0}}, r"rollout.cpus = 64.0: the largest node has 16 CPU"),
        ({"reward": {"actors": 99}}, r"asks for 101 CPU \(1 learner x 1 \+ 1 rollout x 1 \+ 99 reward x 1\).* has 16"),
        ({"learner": {"gpus": 1.0}}, r"learner.gpus = 1.0: the largest node has 0 GPU"),
    ],
)
def test_resources_the_cluster_never_has_are_refused_at_once(scripted, changes, message):
    with pytest.raises(ConfigError, match=message):
        scripted("greedy", **changes)


def test_resources_that_are_busy_are_waited_for_and_then_named(scripted, monkeypatch):
    @ray.remote(num_cpus=8)
    class Holder:
        def ready(self):
            return True

    monkeypatch.setattr(
        "couplet.actors.learner_group.LearnerGroup.start", lambda self: None
    )  # it might be late as well
    holder = Holder.remote()
    ray.get(holder.ready.remote(), timeout=TIME_LIMIT)
    try:
        with pytest.raises(
            ConfigError,
            match=r"rollout actor 0 did not start within ray.call_timeout = 3 s; .*asks for 12 CPU.*add nodes",
        ):
            scripted("waiting", rollout={"cpus": 12.0}, ray={"call_timeout": 3.0})
    finally:
        ray.kill(holder)


def test_a_sandbox_tier_that_does_not_hold_stops_the_start_with_its_reason(scripted):
    with pytest.raises(
        ConfigError,
        match=r"(?s)reward actor 0 could not start: .*user namespaces are off \(EPERM\).*remedy: allow them$",
    ):
        scripted("refused", "RefusedReward")


def test_a_worker_in_a_weaker_sandbox_tier_than_the_runs_judges_nothing(scripted):
    cluster, history = scripted("fallen", "FallenReward"), History()
    tier = cluster.sandbox_tier()
    cluster.queue.call("set_targets", {"reward": 2})
    wait_for(lambda: history.steps(cluster, 1) and len(status(cluster)["workers"]["reward"]) == 2)
    before = [worker["calls"] for worker in status(cluster)["workers"]["reward"]]
    history.steps(cluster, 2)
    calls = [worker["calls"] for worker in status(cluster)["workers"]["reward"]]
    assert calls[0] > before[0] and calls[1] == 0
    assert cluster.sandbox_tier() == tier
    assert {v.outcome.is_verdict for batch in history.batches for s in batch.groups for v in s.verdicts} == {True}


def test_two_runs_of_one_name_do_not_mix(scripted, monkeypatch):
    monkeypatch.setattr("couplet.actors.remote.NAME_SECONDS", 0.5)
    scripted("twins")
    with pytest.raises(ConfigError, match="name = 'twins': a run of that name is active on this cluster"):
        scripted("twins")


def test_a_defect_in_a_worker_stops_the_run_with_the_error_it_raised(scripted):
    cluster = scripted("broken", "BrokenRollout")
    with pytest.raises(KeyError, match="no room for katas") as caught:
        cluster.take(2)
    assert "fakes.py" in "".join(traceback.format_exception(caught.value))  # where it was raised, far away
    assert cluster.restarts()["rollout"] == 0


def test_a_defect_whose_exception_cannot_travel_still_tells_its_message(scripted):
    with pytest.raises(Exception, match="the original message"):
        scripted("mute", "UnpicklableRollout").take(2)


def test_a_defect_in_the_learner_is_not_a_lost_rank(scripted):
    cluster = scripted("banana", "BrokenLearner")
    with pytest.raises(RuntimeError, match="the loss is a banana"):
        cluster.learn(cluster.take(2))
    assert cluster.learner.restarts == 0


def test_a_learner_without_enough_memory_names_what_to_lower(scripted):
    cluster = scripted("greedy", "GreedyLearner")
    with pytest.raises(
        ConfigError, match=r"GPU memory \(CUDA out of memory. Tried to allocate 9 GiB.\); lower learner.m"
    ):
        cluster.learn(cluster.take(2))
    assert cluster.learner.restarts == 0


@pytest.mark.slow
def test_a_step_that_needs_longer_than_its_limit_is_not_repeated_for_ever(scripted):
    cluster = scripted("slow", "SlowLearner", ray={"connect_timeout": 1.5})
    batch, config = cluster.take(2), cluster.config
    cluster.learner.ranks.config = config.learner.replace(timeout=4.0)
    with pytest.raises(TimeoutError, match=r"learn \(learner.timeout\): no answer within 4 s, twice in a row"):
        cluster.learn(batch)
    assert cluster.learner.restarts == 1


def test_weights_that_stay_lost_end_an_evaluation(scripted, start):
    cluster = scripted("forgetful", "ForgetfulRollout")
    prompts = load_prompts(str(start), "katas:heldout-lists", cluster.config.problems, cluster.config.model, 4)
    with pytest.raises(TimeoutError, match=r"5 times in a row; the last: .*OwnerDiedError.*weights.timeout"):
        cluster.evaluate(EvalRequest(prompts, cluster.config.sampler, 2, 0))


def test_too_many_sandbox_faults_stop_the_run(scripted):
    cluster = scripted("faulty", "FaultyReward")
    with pytest.raises(
        ConfigError, match=r"samples were lost to .* \(zygote \d+\), more than reward.max_fault_share = 0.05"
    ):
        for _ in range(20):
            cluster.learn(cluster.take(2))
            cluster.publish()


def test_a_sandbox_fault_is_judged_again_and_never_a_reward(scripted):
    cluster = scripted("shaky", "ShakyReward")
    batch = cluster.take(2)
    assert [v.reward for scored in batch.groups for v in scored.verdicts] == [0.0, 1.0, 2.0, 3.0] * 2
    assert batch.metrics["excluded_share"] == 0.0
    assert batch.metrics["sandbox_faults_spawn"] >= 8


def test_a_group_that_keeps_killing_its_reward_worker_is_quarantined_and_the_run_continues(scripted):
    changes = {"problems": {"limit": 6}, "reward": {"actors": 2, "retries": 1, "max_fault_share": 1.0}}
    cluster, history = scripted("poison", "PoisonRollout", **changes), History()
    wait_for(lambda: history.steps(cluster, 1) and cluster.totals()["quarantined"] >= 2)
    problems = {scored.group.group_id.problem for batch in history.batches for scored in batch.groups}
    assert problems <= {1, 2, 4, 5}  # the groups of problems 0 and 3 are nobody's reward
    assert len(history.numbers) == len(set(history.numbers))
    decided = {number for batch in history.batches for number in batch.decided}
    assert all(cluster.schedule.problem(number).problem_id for number in decided)
    wait_for(lambda: cluster.restarts()["reward"] >= 2 * 2)


def test_a_run_whose_rollout_workers_always_die_stops_and_says_so(scripted):
    cluster = scripted("dying", "DyingRollout", replay={"max_attempts": 1, "completions": 64})
    with pytest.raises(ConfigError, match=r"lost to infrastructure faults .its rollout workers died"):
        cluster.take(2)


def test_a_run_in_which_nothing_moves_ends_with_what_it_waited_for(scripted):
    cluster = scripted("unresponsive", "UnresponsiveRollout", rollout={"timeout": 1.0}, reward={"timeout": 1.0})
    with pytest.raises(
        TimeoutError, match=r"no group was generated or judged for \d+ s .*'issued': [1-4].*'rollout': 1"
    ):
        cluster.take(2)
    wait_for(lambda: cluster.restarts()["rollout"] >= 1)


def test_a_reward_worker_that_never_answers_is_replaced(scripted):
    cluster = scripted(
        "mute-judge", "UnresponsiveReward", reward={"timeout": 1.0, "retries": 0}, replay={"completions": 32}
    )
    with pytest.raises(ConfigError, match=r"lost to infrastructure faults .its reward workers died"):
        cluster.take(2)
    wait_for(lambda: cluster.restarts()["reward"] >= 2)
