"""The published problem sets judge their own solutions right, and broken ones wrong.

Collected if COUPLET_DATASETS names a folder with HumanEval.jsonl.gz and mbpp.jsonl.
"""

import os
from pathlib import Path

import pytest

from couplet.configs.schema import RewardConfig, SandboxConfig
from couplet.data.problem_sets import load_problems
from couplet.data.verdict import Outcome
from couplet.reward.planner.plan import plan
from couplet.reward.worker import RewardWorker

FILES = {"humaneval": "HumanEval.jsonl.gz", "mbpp": "mbpp.jsonl"}
SIZES = {"humaneval": 164, "mbpp": 974}
FOLDER = Path(os.environ.get("COUPLET_DATASETS") or "/nowhere")
HERE = [name for name, file in FILES.items() if (FOLDER / file).exists()]

RETURN_NONE = "\n\ndef {name}(*arguments, **named):\n    return None\n"
OFF_BY_ONE = """

_right = {name}

def {name}(*arguments, **named):
    value = _right(*arguments, **named)
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float, complex)):
        return value + 1
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, list):
        return [*value, 0]
    if isinstance(value, tuple):
        return (*value, 0)
    return [value]
"""

pytestmark = pytest.mark.slow

if HERE:

    @pytest.fixture(scope="module", params=HERE)
    def problems(request):
        found = load_problems(str(FOLDER / FILES[request.param]))
        assert len(found) == SIZES[request.param]
        return found

    @pytest.fixture(scope="module", params=["namespace", "landlock"])
    def judge(request):
        config = SandboxConfig(tier=request.param, cpu_seconds=10.0)
        with RewardWorker(RewardConfig(), config) as worker:
            yield worker.judge

    def test_every_canonical_solution_passes(judge, problems):
        verdicts = judge(problems, [problem.canonical_solution for problem in problems])
        missed = {p.problem_id: v.reason for p, v in zip(problems, verdicts) if v.outcome is not Outcome.PASSED}
        assert missed == {}

    def test_few_verdicts_are_weak(problems):
        cases = [case for problem in problems for case in plan(problem)]
        assert sum(case.strength == "weak" for case in cases) <= 0.06 * len(cases)

    @pytest.mark.parametrize("mutation", [RETURN_NONE, OFF_BY_ONE], ids=["return None", "off by one"])
    def test_broken_solutions_earn_next_to_nothing(judge, problems, mutation):
        named = [problem for problem in problems if problem.entry_point]
        programs = [f"{p.canonical_solution}{mutation.format(name=p.entry_point)}" for p in named]
        verdicts = judge(named, programs)
        assert sum(verdict.pass_rate for verdict in verdicts) < 0.05 * len(named)
        assert sum(verdict.outcome is Outcome.PASSED for verdict in verdicts) < 0.01 * len(named)
