"""A test that a program's answer keeps from checking anything is not passed; honest programs pass as before."""

import pytest

from couplet.data.problem import Comparison, Problem, StdioCase, Suite
from couplet.data.verdict import Outcome

COUNTING = "def f(x): return list(range(1, x + 1))"
NOTHING = ("def f(x): return []", "def f(x): return ()", "def f(x): return ''", "def f(x): return iter([])")
UNITTEST = "import unittest\nclass T(unittest.TestCase):\n    def test_a(self):\n        "


def judged(worker, program, test=None, **fields):
    fields = {"entry_point": "f", "tests": () if test is None else (test,), **fields}
    (verdict,) = worker.judge([Problem("p", "q", **fields)], [program])
    return [(test.passed, test.strength) for test in verdict.tests] or verdict.reason


LOOPS = {
    "loop": "for v in f(3):\n    assert v > 0",
    "loop in check": "def check(candidate):\n    for v in candidate(3):\n        assert v > 0",
    "unittest loop": UNITTEST + "for v in f(3):\n            self.assertGreater(v, 0)",
    "pytest loop": "def test_a():\n    for v in f(3):\n        assert v > 0",
    "loop in a helper": "def positive(values):\n    for v in values:\n        assert v > 0\npositive(f(3))",
    "nested loop": "for v in f(3):\n    for u in [v]:\n        assert u > 0",
    "while": "r = list(f(3))\nwhile r:\n    assert r.pop() > 0",
    "range": "r = f(3)\nfor i in range(len(list(r))):\n    assert r[i] == i + 1",
    "branch": "r = f(3)\nif r:\n    assert list(r) == [1, 2, 3]",
    "early return": "def check(candidate):\n    r = candidate(3)\n    def look():\n        if not list(r):\n            return\n        assert r == [1, 2, 3]\n    look()",
    "raise": "for v in f(3):\n    if v < 0:\n        raise ValueError(v)",
    "fail": UNITTEST + "for v in f(3):\n            if v < 0:\n                self.fail('negative')",
    "caught elsewhere": "try:\n    for v in f(3):\n        assert v > 0\nexcept TypeError:\n    assert False",
    "zip": "for a, b in zip(f(3), [1, 2, 3]):\n    assert a == b",
    "zip the other way": "expected = [1, 2, 3]\nfor a, b in zip(expected, f(3)):\n    assert a == b",
    "zip in a helper": "def same(a, b):\n    for x, y in zip(a, b):\n        if x != y:\n            return False\n    return True\nassert same(f(3), [1, 2, 3])",
    "zip in all": "assert all(abs(a - b) < 1e-6 for a, b in zip(f(3), [1, 2, 3]))",
    "all": "assert all(v > 0 for v in f(3))",
    "all of a map": "assert all(map(lambda v: v > 0, f(3)))",
    "all is True": "assert all(v > 0 for v in f(3)) is True",
    "not any": "assert not any(v < 0 for v in f(3))",
    "assertTrue(all)": UNITTEST + "self.assertTrue(all(v > 0 for v in f(3)))",
    "assertFalse(any)": UNITTEST + "self.assertFalse(any([v < 0 for v in f(3)]))",
    "assertEqual(all, True)": UNITTEST + "self.assertEqual(all(v > 0 for v in f(3)), True)",
    "bounded sum": "assert sum(abs(v - v) for v in f(3)) < 1e-6",
    "bounded maximum": "assert max((abs(v - v) for v in f(3)), default=0.0) < 1e-6",
    "map of pairs": "assert all(map(lambda a, b: a == b, f(3), [1, 2, 3]))",
    "nothing left": "assert not [v for v in f(3) if v < 0]",
    "number left": "assert len([v for v in f(3) if v < 0]) == 0",
    "sum left": "assert sum(1 for v in f(3) if v < 0) == 0",
    "prelude": "look(f(3))",
}  # fmt: skip
SETUP = {"prelude": "def look(values):\n    for v in values:\n        assert v > 0"}


@pytest.mark.parametrize("canonical", [None, COUNTING], ids=["no solution", "solution"])
@pytest.mark.parametrize("name", LOOPS)
def test_an_empty_answer_passes_no_loop(worker, name, canonical):
    fields = {"canonical_solution": canonical, "test_setup": SETUP.get(name, "")}
    assert judged(worker, COUNTING, LOOPS[name], **fields) == [(True, "strong")]
    for program in NOTHING[:1] if canonical else NOTHING:
        assert [passed for passed, _ in judged(worker, program, LOOPS[name], **fields)] == [False], program


@pytest.mark.parametrize("name", ["zip", "zip the other way", "zip in a helper", "zip in all", "map of pairs"])
def test_a_shorter_answer_is_not_paired_with_a_part_of_the_expected_one(worker, name):
    assert judged(worker, "def f(x): return [1, 2]", LOOPS[name]) == [(False, "strong")]
    assert judged(worker, "def f(x): return [1, 2, 3, 4]", LOOPS[name]) == [(True, "strong")]  # as the test says


PARTS = {
    "index": "r = f(3)\nfor i in range(len(r)):\n    assert r[i] == [1, 2, 3][i]",
    "enumerate": "expected = [1, 2, 3]\nfor i, v in enumerate(f(3)):\n    assert v == expected[i]",
    "all by index": "expected = [1, 2, 3]\nr = f(3)\nassert all(r[i] == expected[i] for i in range(len(r)))",
    "continue": "for i in range(1, 4):\n    r = f(i)\n    if len(r) < 2:\n        continue\n    assert len(r) == i",
    "skipped by an exception": "for i in range(4):\n    try:\n        r = f(i)\n    except ValueError:\n        continue\n    assert len(r) == i",
    "instead of an assertion": "try:\n    assert f(3) == [1, 2, 3]\nexcept ValueError:\n    pass",
}  # fmt: skip


@pytest.mark.parametrize("name", PARTS)
def test_a_part_of_the_checks_that_the_solution_has_run_is_not_enough(worker, name):
    for part in ("return [1]", "raise ValueError"):
        found = judged(worker, f"def f(x): {part}", PARTS[name], canonical_solution=COUNTING)
        assert found == [(False, "strong")], part
    assert judged(worker, COUNTING, PARTS[name], canonical_solution=COUNTING) == [(True, "strong")]


HONEST = {
    "the expected exception": ("try:\n    f(-1)\n    assert False\nexcept ValueError:\n    assert True", "def f(x): raise ValueError"),
    "in the else branch": ("try:\n    f(-1)\nexcept ValueError:\n    pass\nelse:\n    raise AssertionError", "def f(x): raise ValueError"),
    "a return": ("def test_a():\n    try:\n        f(-1)\n    except ValueError:\n        return\n    raise AssertionError", "def f(x): raise ValueError"),
    "random loops": ("import random\nfor i in range(3):\n    if random.random() < 0.5 or i == 0:\n        assert len(f(2)) == 2", COUNTING),
    "raises": ("import pytest\nwith pytest.raises(ValueError):\n    f(-1)", "def f(x): raise ValueError"),
    "raises AssertionError": ("import pytest\nwith pytest.raises(AssertionError):\n    f(-1)", "def f(x):\n    assert x > 0"),
    "assertRaises": (UNITTEST + "self.assertRaises(ValueError, f, -1)", "def f(x): raise ValueError"),
    "another branch than the solution's": ("r = f(3)\nif len(r) == 3:\n    assert r[0] == 1\nelse:\n    assert sum(r) == 6", "def f(x): return [6]"),
    "a shorter right answer": ("r = f(3)\nfor a, b in zip(r, r[1:]):\n    assert a < b\nassert r[-1] == 3", "def f(x): return [1, 3]"),
    "another choice": ("r = f(3)\nfor i in (1, 2, 3):\n    if i in r:\n        assert i % 2", "def f(x): return [3]"),
    "nothing expected": ("for a, b in zip(f(0), []):\n    assert a == b", "def f(x): return []"),
    "some expected": ("for a, b in zip(f(3), range(9)):\n    assert a == b + 1", COUNTING),
    "a condition": ("r = f(3)\nif r != [1, 2, 3]:\n    raise AssertionError", COUNTING),
    "nan asked for": ("import math\nassert not math.isnan(1) and math.isnan(f(1))", "def f(x): return float('nan')"),
}  # fmt: skip


@pytest.mark.parametrize("name", HONEST)
@pytest.mark.parametrize("known", [False, True], ids=["no solution", "solution"])
def test_honest_programs_pass(worker, name, known):
    test, program = HONEST[name]
    others = {"another choice": "def f(x): return [1, 3]", "a shorter right answer": COUNTING}
    others["another branch than the solution's"] = COUNTING
    canonical = others.get(name, program) if known else None
    assert judged(worker, program, test, canonical_solution=canonical) == [(True, "strong")]


def test_a_test_that_checks_nothing_of_its_own_solution_is_a_defect(worker):
    test = "f(3)\nfor v in []:\n    assert v"
    assert judged(worker, COUNTING, test, canonical_solution=COUNTING) == "problem_defect"
    assert judged(worker, COUNTING, test) == [(False, "strong")]


def test_a_test_that_only_asks_that_nothing_is_raised_is_weak(worker):
    assert judged(worker, COUNTING, "f(3)") == [(True, "weak")]
    assert judged(worker, "def f(x): raise ValueError", "f(3)") == [(False, "weak")]


SUITE = """
import unittest
class T(unittest.TestCase):
    def test_values(self):
        for v in make(3).contents:
            self.assertGreater(v, 0)
    def test_more(self):
        self.assertEqual(make(3).contents[0], 1)
"""


def test_weak_tests_count_their_checks_too(worker):
    box = "class Box: pass\ndef make(x):\n    box = Box()\n    box.contents = {}\n    return box"
    fields = {"suite": Suite("unittest", SUITE), "entry_point": "make"}
    for canonical in (None, box.format("[1, 2]")):
        for values, results in (("[1, 2]", [True, True]), ("[]", [False, False])):
            found = judged(worker, box.format(values), **fields, canonical_solution=canonical)
            assert found == [(passed, "weak") for passed in results]


@pytest.mark.parametrize(
    "test",
    [
        "assert not abs(f(2) - 4) > 1e-6",
        "if abs(f(2) - 4) > 1e-6:\n    raise AssertionError",
        "assert not any(abs(v - 4) > 1e-6 for v in [f(2)])",
        "assert max(0.0, f(2)) <= 4 and not f(2) < 4",
        "assert f(2) != f(3)",
        UNITTEST + "self.assertFalse(abs(f(2) - 4) > 1e-6)",
    ],
)
def test_nan_is_right_only_where_a_test_asks_for_it(worker, test):
    for value in ("float('nan')", "complex('nan')"):
        assert judged(worker, f"def f(x): return {value}", test) == [(False, "strong")]
    assert judged(worker, "def f(x): return 2 * x", test) == [(True, "strong")]


@pytest.mark.parametrize(
    "test, answer",
    [
        ("r = f(2)\nassert not abs(r[0] - r[1]) > 1e-6", "[float('inf')] * 2"),
        ("assert not abs(f(2) * 0 - 4) > 1e-6", "float('inf')"),
        ("assert not float(f(2)) > 4", "'nan'"),
        ("if float(f(2)) < 4 or float(f(2)) > 4:\n    raise ValueError", "'nan'"),
        ("assert f(2) != 5", "__import__('decimal').Decimal('NaN')"),
    ],
)
def test_a_nan_that_only_the_test_makes_passes_no_comparison_that_must_not_hold(worker, test, answer):
    assert [passed for passed, _ in judged(worker, f"def f(x): return {answer}", test)] == [False]


RUNS = "def right(answer):\n    return eval(answer) == 24"


@pytest.mark.parametrize(
    "test, setup",
    [
        (f"{RUNS}\nassert right(f(3))", ""),
        ("assert right(f(3))", RUNS),
        ("assert outer(f(3))", f"{RUNS}\ndef outer(answer):\n    return right(answer)"),
        ("assert right(f(3))", "import importlib\ndef right(name):\n    return importlib.import_module(name).VALUE == 24"),
    ],
)  # fmt: skip
def test_a_checker_that_runs_the_answer_makes_its_test_weak(worker, test, setup):
    found = judged(worker, "def f(x): return '24'", test, test_setup=setup)
    assert [strength for _, strength in found] == ["weak"]


@pytest.mark.parametrize(
    "checker, strength",
    [
        ("def check(i, e, a):\n    return int(a) == int(e)", "strong"),
        ("def check(i, e, a):\n    return eval(a) == int(e)", "weak"),
        ("PROGRAM = 'def g(a): return eval(a)'\ndef check(i, e, a):\n    exec(PROGRAM)\n    return a == e", "weak"),
        ("PROGRAM = 'print(1)'\ndef check(i, e, a):\n    exec(PROGRAM)\n    return a == e", "strong"),
    ],
)
def test_so_does_the_checker_of_a_problem(worker, checker, strength):
    fields = {"stdio": (StdioCase("1", "24"),), "comparison": Comparison("checker", checker=checker)}
    found = judged(worker, "print(24, end='')", **fields, entry_point=None)
    assert found == [(True, strength)]


@pytest.mark.parametrize(
    "test",
    [
        "c = make()\nc.add(f(5))\nassert 120 in c",
        "c = make()\nc.append(f(5))\nassert c.pop(0) == 120",
        "c = make()\nc.update({1: f(5)})\nassert 120 in c",
        "c = Box()\nc.add(f(5))\nassert len(c) == 1",
    ],
)
def test_a_container_of_the_programs_does_not_judge(worker, test):
    program = "class Box(set):\n    def __len__(self): return 1\ndef make(): return {120}\ndef f(x): return 0"
    for entry in (None, "f"):
        for passed, strength in judged(worker, program, test, entry_point=entry):
            assert not (passed and strength == "strong")


def test_two_functions_may_fill_one_list(worker):
    test = "found = []\nfound.append(f(5))\nfound.append(g(2))\nassert found == [6, 4]"
    for entry in (None, "f"):
        assert judged(worker, "def f(x): return x + 1\ndef g(x): return 2 * x", test, entry_point=entry)[0][0]


def test_the_reason_of_an_unchecked_test_is_said(worker):
    (verdict,) = worker.judge([Problem("p", "q", (LOOPS["loop"],), "f")], ["def f(x): return []"])
    assert (verdict.outcome, verdict.reason) == (Outcome.FAILED, "unchecked")
