"""The evaluator on Ray gives what the evaluator in one process gives; a vLLM server dies with its actor."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from couplet.commands.backends import open_evaluator
from couplet.commands.subject import open_policy, prompts_of
from couplet.configs.schema import ConfigError
from couplet.data.verdict import Outcome
from couplet.evaluation.request import EvalRequest

pytestmark = pytest.mark.ray


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Notes:
    """Notes each problem's completions as they are done."""

    def __init__(self, done):
        self.done = done

    def __call__(self, index, scored):
        self.done[index] = scored.group.texts


def test_the_bench_on_ray_equals_the_local_one(ray_cluster, run_folder, problem_file, tmp_path, command):
    folder, config = open_policy(str(run_folder), None, ["reward.actors=2", "rollout.groups_per_call=2"])
    prompts = prompts_of(config, folder, str(problem_file), None)
    answers = [[f"```python\n{p.canonical_solution}\n```", "no code"] for p in prompts.problems]
    found = {}
    for local in (True, False):
        with open_evaluator(config, local=local) as evaluator:
            done: dict[int, tuple[str, ...]] = {}
            scored = evaluator.evaluate(folder, EvalRequest(prompts, config.sampler, 3, 7, Notes(done)))
            assert done == {index: group.group.texts for index, group in enumerate(scored)}
            hot = evaluator.evaluate(folder, EvalRequest(prompts, config.sampler.replace(temperature=0.1), 3, 7))
            verdicts = evaluator.judge(prompts.problems, answers)
            found[local] = [[group.group.texts for group in scored], [group.group.texts for group in hot]]
            outcomes = [[verdict.outcome for verdict in some] for some in verdicts]
            assert outcomes == [[Outcome.PASSED, Outcome.FORMAT_ERROR]] * 4
    assert found[True] == found[False]


def test_a_server_dies_with_its_actor(ray_cluster, vllm_python, tmp_path):
    from couplet.actors.vllm_actor import VllmActor, serving_on_ray

    pids = tmp_path / "pids"
    options = ["--engine-file", str(pids)]
    with serving_on_ray("toy", python=str(vllm_python), gpus=0, options=options, timeout=240) as (url, key):
        server, engine = map(int, pids.read_text().split())
        assert url.startswith("http://") and len(key) == 32 and alive(server) and alive(engine)
    assert not alive(server) and not alive(engine)

    actor = ray_cluster.remote(VllmActor).options(num_cpus=0).remote()
    ray_cluster.get(actor.start.remote("toy", str(vllm_python), options, 240.0), timeout=300)
    server, engine = map(int, pids.read_text().split())
    parent = int(Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()[1])  # the keeper
    owner = int(Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(owner, signal.SIGKILL)
    deadline = time.monotonic() + 90
    while alive(server) or alive(engine):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_server_that_does_not_come_up_says_so_on_the_driver(ray_cluster, vllm_python):
    from couplet.actors.vllm_actor import serving_on_ray

    with (
        pytest.raises(ConfigError, match=r"vllm serve ended with code 3(.|\n)*no kernel for this device"),
        serving_on_ray("broken", python=str(vllm_python), gpus=0, options=[], timeout=240),
    ):
        pass
    with (
        pytest.raises(ConfigError, match=r"--vllm-gpus 99: the cluster has"),
        serving_on_ray("toy", python=str(vllm_python), gpus=99, options=[], timeout=60),
    ):
        pass
