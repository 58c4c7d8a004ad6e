"""Suites that depend on their surroundings: on what the sandbox lacks, on one another, on the packages' own metadata."""

import pytest

from couplet.configs.schema import RewardConfig, SandboxConfig
from couplet.data.problem import Problem, Suite
from couplet.data.verdict import Outcome
from couplet.reward.planner.plan import ProblemDefect, plan
from couplet.reward.worker import RewardWorker

CALL = """
import unittest
class Tests(unittest.TestCase):
    def test_one(self):
        self.assertEqual(f(), "1\\n")
"""
LACKING = {
    "another process": "import subprocess\ndef f():\n    return subprocess.check_output(['echo', '1'], text=True)",
    "the network": "import socket\ndef f():\n    return socket.create_connection(('127.0.0.1', 9)).recv(2).decode()",
    "/proc or /sys": "def f():\n    return open('/proc/self/status').read()[:0] + '1\\n'",
}


def problem(source, solution, name="p"):
    return Problem(name, "q", entry_point="f", canonical_solution=solution, suite=Suite("unittest", source))


POOL = (
    "import multiprocessing\ndef f():\n    with multiprocessing.Pool(2) as pool: return pool.map(str, [1])[0] + '\\n'"
)


def test_a_pool_of_processes_is_another_process(worker, caplog):
    (verdict,) = worker.judge([problem(CALL, POOL, "pool")], [POOL])
    assert verdict.reason == "problem_defect" and "(another process)" in caplog.text


@pytest.mark.parametrize("what", LACKING)
def test_a_suite_whose_own_solution_needs_what_the_sandbox_lacks_is_a_defect(worker, what, caplog):
    lacking = problem(CALL, LACKING[what], what)
    verdicts = worker.judge([lacking] * 2, [LACKING[what], "def f(): return None"])
    assert [verdict.reason for verdict in verdicts] == ["problem_defect"] * 2
    assert f"needs what the sandbox does not have ({what})" in caplog.text


@pytest.mark.parametrize("program", LACKING.values(), ids=LACKING)
def test_a_program_that_needs_what_the_sandbox_lacks_fails_if_the_solution_does_not(worker, program):
    (verdict,) = worker.judge([problem(CALL, "def f(): return '1\\n'")], [program])
    assert verdict.outcome is Outcome.FAILED


def test_a_solution_that_fails_for_another_reason_makes_no_defect(worker):
    tries = "import subprocess\ndef f():\n    return 'wrong'"
    (verdict,) = worker.judge([problem(CALL, tries)], [tries])
    assert verdict.outcome is Outcome.FAILED


SHARING = """
import unittest
from unittest.mock import patch
import time
LEFT = [1.0, 2.0, 3.0]
def clock():
    return LEFT.pop(0)
class Tests(unittest.TestCase):
    @patch("time.time", side_effect=clock)
    def test_a(self, mock):
        self.assertEqual(f(), 1.0)
    @patch("time.time", side_effect=clock)
    def test_b(self, mock):
        self.assertEqual(f(), 2.0)
"""


def test_tests_of_a_weak_suite_share_its_namespace(worker):
    solution = "import time\ndef f(): return time.time()"
    good, bad = worker.judge([problem(SHARING, solution)] * 2, [solution, "def f(): return 1.0"])
    assert (good.outcome, bad.outcome) == (Outcome.PASSED, Outcome.FAILED)
    assert {result.strength for result in good.tests} == {"weak"}


RANDOM = """
import random
import unittest
class Tests(unittest.TestCase):
    def test_a(self):
        random.seed(7)
        self.assertEqual(f(), 5)
    def test_b(self):
        self.assertEqual(f(), 2)
"""


def test_random_states_reach_the_program_if_its_tests_set_them(worker):
    solution = "import random\ndef f(): return random.randrange(8)"
    good, bad = worker.judge([problem(RANDOM, solution)] * 2, [solution, "def f(): return 5"])
    assert (good.outcome, bad.outcome) == (Outcome.PASSED, Outcome.FAILED)


def test_a_test_that_checks_nothing_counts_beside_others_only_if_it_calls_the_program():
    source = CALL + "    def test_two(self):\n        {}\n"
    assert len(plan(problem(source.format("x = f()"), ""))) == 2
    assert len(plan(problem(source.format("self.assertEqual"), ""))) == 1
    with pytest.raises(ProblemDefect, match="asserts nothing"):
        plan(problem(source.format("x = f()").replace('self.assertEqual(f(), "1\\n")', "y = f()"), ""))


def test_files_can_be_copied_with_their_metadata(worker):
    if worker.tier != "namespace":
        pytest.skip("only the tier `namespace` has a scratch folder")
    program = """
import os, shutil, tempfile
def f():
    source, target = tempfile.mkdtemp(), tempfile.mkdtemp()
    open(source + "/a", "w").write("1\\n")
    shutil.copytree(source, target + "/b")
    return open(shutil.copy2(target + "/b/a", target)).read()
"""
    (verdict,) = worker.judge([problem(CALL, program)], [program])
    assert verdict.outcome is Outcome.PASSED


NUMPY = """
import importlib.metadata
import unittest
import numpy
class Tests(unittest.TestCase):
    def test_version(self):
        self.assertEqual(f(), [importlib.metadata.version("numpy"), 44])
"""


@pytest.mark.parametrize("tier", ["namespace", "landlock"])
def test_packages_find_their_own_version_and_numpy_has_one_random_state(tier):
    pytest.importorskip("numpy")
    solution = """
import importlib.metadata, numpy
def f():
    return [importlib.metadata.version("numpy"), int(numpy.random.randint(100))]
"""
    config = SandboxConfig(tier=tier, packages=("numpy",), memory_mb=2048)
    with RewardWorker(RewardConfig(), config) as worker:
        (verdict,) = worker.judge([problem(NUMPY, solution)], [solution])
    assert verdict.outcome is Outcome.PASSED
