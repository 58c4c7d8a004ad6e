"""Problems whose tests check nothing are found by running programs that compute nothing."""

import pytest

from couplet.configs.schema import RewardConfig, SandboxConfig
from couplet.data.problem import CallCase, Comparison, Problem, StdioCase, Suite
from couplet.evaluation.soundness import STUBS, unsound_problems
from couplet.reward.worker import RewardWorker

SOUND = [
    Problem("assert", "q", ("assert f(1) == 2",), "f"),
    Problem("check", "q", ("def check(candidate):\n    assert candidate(1) == 2\n",), "f", "def f(x):\n    '''d'''\n"),
    Problem("raises", "q", ("try:\n    f(1)\n    raise RuntimeError\nexcept ValueError:\n    pass",), "f"),
]
HOLLOW = [
    Problem("none", "q", ("assert f(1) is None",), "f"),
    Problem("or", "q", ("assert f(1) or True",), "f"),
]


@pytest.fixture(scope="module")
def judge():
    with RewardWorker(RewardConfig(), SandboxConfig(cpu_seconds=2.0)) as worker:
        yield worker.judge


def test_problems_that_programs_without_content_pass_are_named_with_the_reason(judge):
    done = []
    found = unsound_problems([*SOUND, *HOLLOW], judge, done.append)
    assert set(found) == {"none", "or"} and done[-1] == 5
    assert found["none"] == "a program whose functions all return None passes all its tests"
    assert not any(why.startswith("problem ") for why in found.values())


def test_stubs_define_what_the_tests_need():
    problem = Problem("c", "q", entry_point="f", calls=(CallCase((1,), 2),), comparison=Comparison("json"))
    assert "def f(" in STUBS["whose functions all return None"](problem)
    suite = Problem("s", "q", suite=Suite("pytest", "def test_a():\n    assert g(1) == Solution().h(2)\n"))
    stub = STUBS["whose functions all return None"](suite)
    assert "def g(" in stub and "class Solution" in stub
    assert STUBS["that defines nothing"](Problem("i", "q", stdio=(StdioCase("", ""),))) == ""
