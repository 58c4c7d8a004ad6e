"""Verdicts of every kind of test, on honest programs, wrong ones and cheats."""

from couplet.configs.schema import RewardConfig, SandboxConfig
from couplet.data.problem import Problem
from couplet.data.verdict import Outcome
from couplet.reward.worker import RewardWorker


def passes(worker, program, *tests, **fields):
    (verdict,) = worker.judge([Problem("p", "q", tests, **fields)], [program])
    return [result.passed for result in verdict.tests]


def reasons(worker, program, *tests, **fields):
    (verdict,) = worker.judge([Problem("p", "q", tests, **fields)], [program])
    return [result.reason for result in verdict.tests]


IDENTITY = "def f(x):\n    return x"


def test_trusted_right_sides(worker):
    tests = ("assert f([0, 0, 0]) == [0] * 3", "assert f(3.141592653589793) == math.pi", "assert f({1}) == set([1, 2])")
    assert passes(worker, IDENTITY, *tests) == [True, True, False]


def test_judged_tests(worker):
    tests = (
        "assert abs(f(0.3) - 0.1 - 0.2) < 1e-9",
        "assert math.isclose(f(1.0), 1.1)",
        "assert isinstance(f(1), int) and not isinstance(f('a'), int)",
        "for x in range(20):\n    assert f([x, (x,)]) == [x, (x,)]",
        "assert list(map(f, [1, 2])) == [1, 2]",
        "assert f(f(1)) == f(1)",
        "assert f(x=2) != 3",
    )
    assert passes(worker, IDENTITY, *tests) == [True, False, True, True, True, True, True]


def test_exceptions_travel_to_the_judge(worker):
    program = """
class Mine(KeyError): pass
def f(x):
    if x == 1: raise ValueError("no")
    if x == 2: raise Mine
    return x
"""
    caught = "try:\n    f({})\n    assert False\nexcept {}:\n    pass"
    tests = [caught.format(1, "ValueError"), caught.format(2, "KeyError"), caught.format(3, "ValueError")]
    assert passes(worker, program, *tests) == [True, True, False]
    assert reasons(worker, program, "assert abs(f(1)) < 3") == ["exception"]


def test_changed_arguments_travel_to_the_judge(worker):
    program = "def f(x):\n    x.sort()\ndef g(d):\n    d['a'] = 1"
    tests = (
        "x = [3, 1]\nf(x)\nassert x == [1, 3]",
        "d = {}\ng(d)\nassert d == {'a': 1}",
        "x = [2]\nf(x)\nassert x == [1]",
    )
    assert passes(worker, program, *tests) == [True, True, False]


def test_what_the_candidate_does_in_a_judged_test_has_its_reason(worker):
    program = """
import os
def f(x):
    if x == 1: os._exit(0)
    if x == 2: raise SystemExit
    if x == 3: return object()
    if x == 4: return 'x' * (1 << 21)
    return x
"""
    tests = [f"assert abs(f({x})) < 9" for x in range(6)]
    assert reasons(worker, program, *tests) == ["", "exit", "exit", "not_plain", "oversize", ""]


def test_helpers_of_the_prompt_are_trusted_in_a_judge(worker):
    prefix = 'def poly(xs, x):\n    return xs[0] + xs[1] * x\n\ndef find_zero(xs):\n    """Doc."""\n'
    check = (
        "def check(candidate):\n    for k in range(1, 5):\n        assert abs(poly([k, 2], candidate([k, 2]))) < 1e-9\n"
    )
    fields = {"entry_point": "find_zero", "code_prefix": prefix}
    right = prefix + "    return -xs[0] / xs[1]\n"
    cheat = prefix + "    return 0\n\ndef poly(xs, x):\n    return 0\n"
    assert passes(worker, right, check, **fields) == [True]
    assert passes(worker, cheat, check, **fields) == [False]


CLASSES = """
class Point:
    def __init__(self, x): self.x = x
    def __eq__(self, other): return self.x == other.x
"""


def test_weak_tests_run_in_the_candidates_process_and_say_so(worker):
    tests = ("assert Point(1) == Point(1)", "assert Point(1) == Point(2)", "p = Point(3)\nassert p.x == 3")
    (verdict,) = worker.judge([Problem("p", "q", tests)], [CLASSES])
    assert [(result.passed, result.strength) for result in verdict.tests] == [
        (True, "weak"),
        (False, "weak"),
        (True, "weak"),
    ]


def test_strict_refuses_weak_tests():
    with RewardWorker(RewardConfig(), SandboxConfig(strict=True)) as strict:
        assert reasons(strict, CLASSES + IDENTITY, "assert Point(1) == Point(1)", "assert f(1) == 1") == [
            "weak_refused",
            "",
        ]


def test_a_truth_test_asks_whether_the_value_is_true(worker):
    program = "import re\ndef f(x):\n    return re.match('a', x)"
    tests = ("assert f('a')", "assert not f('b')", "assert f('b')")
    (verdict,) = worker.judge([Problem("p", "q", tests)], [program])
    assert [(test.passed, test.strength) for test in verdict.tests] == [
        (True, "strong"),
        (True, "strong"),
        (False, "strong"),
    ]


def test_expected_values_may_use_what_solutions_tend_to_import(worker):
    program = "from collections import *\ndef f(x):\n    return x\ndef g(x):\n    return deque(x)\ndef h(d):\n    return d.keys()"
    tests = (
        "assert f({'a': 2}) == Counter('aa')",
        "assert f({'a': 1}) == OrderedDict(a=1)",
        "assert f(0.5) == Fraction(1, 2)",
        "assert g([1]) == deque([1])",
        "assert g([1]) == deque([2])",
        "assert h({'a': 1}) == {'a'}",
    )
    (verdict,) = worker.judge([Problem("p", "q", tests)], [program])
    assert [(test.passed, test.strength) for test in verdict.tests] == [
        (True, "strong"),
        (True, "strong"),
        (True, "strong"),
        (True, "strong"),
        (False, "strong"),
        (True, "strong"),
    ]


def test_setup_runs_after_the_program_in_its_process(worker):
    program = "class Node:\n    def __init__(self, v): self.v = v\ndef value(n): return n.v"
    assert passes(worker, program, "assert value(root) == 5", test_setup="root = Node(5)") == [True]
    assert reasons(worker, "def value(n): return 5", "assert value(root) == 5", test_setup="root = Node(5)") == [
        "exception"
    ]


def test_a_fresh_process_per_test_shares_no_state():
    program = "n = 0\ndef f():\n    global n\n    n += 1\n    return n"
    tests = ("assert f() == 1", "assert f() == 1")
    with RewardWorker(RewardConfig(), SandboxConfig(fresh_process_per_test=True)) as fresh:
        assert passes(fresh, program, *tests) == [True, True]
    with RewardWorker(RewardConfig(), SandboxConfig()) as shared:
        assert passes(shared, program, *tests) == [True, False]


def test_outputs_are_compared_with_the_canonical_solutions(worker):
    fields = {
        "entry_point": "f",
        "canonical_solution": "def f(x):\n    return x / 3",
        "inputs": ([1], [2.5], [float("inf")]),
    }
    assert passes(worker, "def f(x):\n    return x * (1 / 3)", atol=1e-6, **fields) == [True, True, True]
    assert passes(worker, "def f(x):\n    return x / 3 + 1e-4", atol=1e-6, **fields) == [False, False, True]
    exact = {**fields, "inputs": ([3], [4])}
    assert passes(worker, "def f(x):\n    return x / 3 + (x == 4) * 1e-5", **exact) == [True, False]
    broken = {**fields, "canonical_solution": "def f(x):\n    return object()"}
    (verdict,) = worker.judge([Problem("p", "q", **broken)], ["def f(x):\n    return 1"])
    assert (verdict.outcome, verdict.reason) == (Outcome.QUARANTINED, "problem_defect")


def test_the_judge_is_not_kept_busy_for_ever():
    tests = ("while f(1) == 1:\n    pass\nassert f(1) == 2", "assert f(1) == 1")
    with RewardWorker(RewardConfig(), SandboxConfig(cpu_seconds=0.1, wall_factor=50.0)) as short:
        assert reasons(short, IDENTITY, *tests) == ["timeout", ""]


def test_the_same_program_has_the_same_luck():
    program = (
        "import random\ndef f():\n    return random.random()\ndef g():\n    return list({'a', 'b', 'c', 'd', 'e'})"
    )
    tests = ("assert f() == 0.8444218515250481", "assert g() == []")
    with RewardWorker(RewardConfig(cache_entries=0), SandboxConfig()) as fresh:
        assert [passes(fresh, program, tests[0]) for _ in range(3)] == [[True]] * 3
