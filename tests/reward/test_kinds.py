"""Every kind of test: assertions, calls, whole programs, unittest and pytest suites, each on right and wrong programs."""

import pytest

from couplet.data.problem import CallCase, Comparison, Problem, StdioCase, Suite
from couplet.data.verdict import Outcome
from couplet.reward.agreement import output_agrees, returns_agree
from couplet.reward.planner.plan import ProblemDefect, plan


def judged(worker, program, **fields):
    """(passed, strength, reason) of each test."""
    (verdict,) = worker.judge([Problem("p", "q", **fields)], [program])
    assert verdict.outcome in (Outcome.PASSED, Outcome.FAILED), verdict.reason
    return [(test.passed, test.strength, test.reason) for test in verdict.tests]


RIGHT, WRONG = (True, "strong", ""), (False, "strong", "wrong_value")
ADD = {"stdio": (StdioCase("1 2\n", "3\n"), StdioCase("5 6\n", "11"))}

PROGRAMS = {
    "input": "a, b = map(int, input().split())\nprint(a + b)",
    "read": "import sys\ndata = sys.stdin.read().split()\nsys.stdout.write(str(sum(map(int, data))))",
    "buffer": "import sys\nprint(sum(map(int, sys.stdin.buffer.readline().split())))",
    "lines": "import sys\nfor line in sys.stdin:\n    print(sum(map(int, line.split())))",
    "open(0)": "print(sum(map(int, open(0).read().split())))",
    "os": "import os\nos.write(1, str(sum(map(int, os.read(0, 99).split()))).encode())",
    "main": "def main():\n    print(sum(map(int, input().split())))\nif __name__ == '__main__':\n    main()",
    "exit": "import sys\nprint(sum(map(int, input().split())))\nsys.exit(0)",
    "quit": "print(sum(map(int, input().split())))\nexit()",
    "thread": "import threading\nt = threading.Thread(target=lambda: print(sum(map(int, input().split()))))\nt.start()",
    "atexit": "import atexit, os\natexit.register(lambda: os.write(1, out))\nout = str(sum(map(int, input().split()))).encode()",
    "unflushed": "import sys, io\nout = io.TextIOWrapper(sys.stdout.buffer)\nout.write(str(sum(map(int, input().split()))))\nout.flush()",
    "size of the input": "import os\nprint(sum(map(int, os.read(0, os.fstat(0).st_size).split())))",
    "mapped input": "import mmap\nprint(sum(map(int, mmap.mmap(0, 0, access=mmap.ACCESS_READ)[:].split())))",
    "input read twice": "import sys\nassert sys.stdin.read()\nsys.stdin.seek(0)\nprint(sum(map(int, sys.stdin.read().split())))",
    "output held open": "import os\nheld = os.dup(1)\nos.write(held, str(sum(map(int, input().split()))).encode())",
    "standard streams by name": "with open('/dev/stdout', 'w') as out:\n    print(sum(map(int, open('/dev/stdin').read().split())), file=out)",
    "daemon": "import threading, time\nthreading.Thread(target=time.sleep, args=(99,), daemon=True).start()\nprint(sum(map(int, input().split())))",
    "stderr": "import sys\nprint('debug', file=sys.stderr)\nprint(sum(map(int, input().split())))",
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_a_program_reads_its_input_and_writes_its_output(worker, program):
    assert judged(worker, program, **ADD) == [RIGHT, RIGHT]


@pytest.mark.parametrize(
    "program, reason",
    [
        ("print(12345)", "wrong_value"),
        ("", "wrong_value"),
        ("print(3)\nraise ValueError", "exception"),
        ("print(3)\nimport sys\nsys.exit(1)", "exit"),
        ("print(3)\nimport sys\nsys.exit('no')", "exit"),
        ("import os\nprint(3, flush=True)\nos._exit(0)", "exit"),
        ("print(3) print(3)", "exception"),
        ("input(); input(); print(3)", "exception"),
    ],
)
def test_a_program_that_ends_badly_fails(worker, program, reason):
    assert judged(worker, program, stdio=ADD["stdio"][:1]) == [(False, "strong", reason)]


def test_runs_of_a_program_share_nothing(worker):
    program = (
        "import os\nprint(os.path.exists('seen'), input())\ntry:\n    open('seen', 'w').close()\nexcept OSError: pass"
    )
    cases = tuple(StdioCase(f"{k}\n", f"False {k}") for k in range(3))
    assert judged(worker, program, stdio=cases) == [RIGHT] * 3


def test_much_input_and_much_output_travel(worker):
    numbers = "\n".join(map(str, range(100_000)))
    assert judged(worker, "import sys\nprint(sum(map(int, sys.stdin)))", stdio=(StdioCase(numbers, "4999950000"),)) == [
        RIGHT
    ]
    assert judged(worker, "print('x ' * 10**7)", stdio=(StdioCase("", "x"),)) == [(False, "strong", "oversize")]


@pytest.mark.parametrize(
    "attack",
    [
        "import gc\nprint([o for o in gc.get_objects() if isinstance(o, str) and '918273645' in o])",
        "import sys\nf = sys._getframe()\nwhile f:\n    print(f.f_locals)\n    f = f.f_back",
        "import os\nfor n in range(3, 64):\n    try: os.write(n, b'918273645')\n    except OSError: pass",
        "class S(str):\n    def __eq__(s, o): return True\n    __hash__ = str.__hash__\nimport sys\nsys.stdout = type('O', (), {'flush': lambda s: None, 'write': lambda s, x: 0})()",
        "from couplet.reward.sandbox import stdio\nstdio.Output.text = lambda self: Exception()",
    ],
)
def test_a_program_finds_no_expected_output(worker, attack):
    (result,) = judged(worker, attack, stdio=(StdioCase("1\n", "918273645"),))
    assert result[0] is False and result[1] == "strong"


@pytest.mark.parametrize(
    "rule, tolerance, actual, expected, agrees",
    [
        ("tokens", 0, "1  2\n\n3", "1 2 3\n", True),
        ("tokens", 0, "1 2", "1 2 3", False),
        ("exact", 0, "a b  \nc\n\n", "a b\nc", True),
        ("exact", 0, "a  b", "a b", False),
        ("exact", 0, "a\r\nb", "a\nb", True),
        ("exact", 0, " a", "a", False),
        ("float", 1e-6, "0.3333333 yes", "0.33333331 yes", True),
        ("float", 1e-6, "1000000.5 x", "1000000.9 x", True),
        ("float", 1e-9, "0.3", "0.4", False),
        ("float", 1e-6, "nan", "1", False),
        ("float", 1e-6, "inf", "inf", True),
        ("float", 1e-6, "1e999", "1", False),
        ("float", 1e-6, "1_0", "10", False),
        ("unordered_lines", 0, "b 1\na 2\n", "a  2\n\nb 1", True),
        ("unordered_lines", 0, "a\na\nb", "a\nb\nb", False),
    ],
)
def test_output_is_compared_by_the_problems_rule(rule, tolerance, actual, expected, agrees):
    assert output_agrees(Comparison(rule, tolerance), actual, expected) is agrees


@pytest.mark.parametrize(
    "rule, tolerance, actual, expected, agrees",
    [
        ("equal", 0, (1, 2), [1, 2], False),
        ("equal", 0, 0.1 + 0.2, 0.3, True),
        ("equal", 0, {"a": 1}, {"a": 1.0}, True),
        ("equal", 1e-3, {"a": [1.0001]}, {"a": [1]}, True),
        ("equal", 0, 3, 3.1, False),
        ("json", 0, (1, (2,)), [1, [2]], True),
        ("json", 0, {1: 2}, {"1": 2}, True),
        ("json", 0, [3], 3, False),
        ("json_or_element", 0, 3, [3], True),
        ("json_or_element", 0, [1, 2], [[1, 2]], True),
        ("json_or_element", 0, 1, [1, 2], False),
    ],
)
def test_returned_values_are_compared_by_the_problems_rule(rule, tolerance, actual, expected, agrees):
    assert returns_agree(Comparison(rule, tolerance), actual, expected) is agrees


CHECK = "def check(input, expected, actual):\n    a, b = map(int, actual.split())\n    return a + b == int(input)\n"


def test_a_checker_accepts_any_right_answer_and_runs_in_a_judge(worker):
    fields = {"stdio": (StdioCase("10\n", "5 5"),), "comparison": Comparison("checker", checker=CHECK)}
    assert judged(worker, "n = int(input())\nprint(1, n - 1)", **fields) == [RIGHT]
    for program in ("print(1, 1)", "print('x')", "def check(*a): return True\nprint(0, 0)"):
        assert judged(worker, program, **fields) == [WRONG]
    calls = {
        "calls": (CallCase((10,), None),),
        "entry_point": "f",
        "comparison": Comparison("checker", checker="def check(i, e, a):\n    return sum(a) == i[0]"),
    }
    assert judged(worker, "def f(n): return [1] * n", **calls) == [RIGHT]
    assert judged(worker, "def f(n): return [n, 1]", **calls) == [WRONG]


def test_a_checker_that_dies_on_an_answer_is_the_programs_failure(worker):
    deadly = "import os\ndef check(input, expected, actual):\n    os.abort()\n"
    fields = {"stdio": (StdioCase("1", "1"),), "comparison": Comparison("checker", checker=deadly)}
    assert judged(worker, "print(1)", **fields) == [(False, "strong", "judge_exit")]


CALLS = {
    "calls": (CallCase((1, 2), 3), CallCase((5,), 8, {"b": 3})),
    "entry_point": "add",
    "comparison": Comparison("json"),
}


@pytest.mark.parametrize(
    "program, results",
    [
        ("def add(a, b): return a + b", [RIGHT, RIGHT]),
        ("class Solution:\n    def add(self, a, b): return a + b", [RIGHT, RIGHT]),
        ("class Solution:\n    def add(self, a, b): return 3", [RIGHT, WRONG]),
        ("class Solution:\n    n = 0\n    def add(self, a, b):\n        assert not self.n\n        self.n = 1\n        return a + b", [RIGHT, RIGHT]),
        ("def add(a, b): return 3", [RIGHT, WRONG]),
        ("x = 1", [(False, "strong", "exception")] * 2),
        ("class A(int):\n    def __eq__(s, o): return True\n    __hash__ = None\ndef add(a, b): return A(7)", [WRONG, WRONG]),
    ],
)  # fmt: skip
def test_calls_with_expected_values(worker, program, results):
    assert judged(worker, program, **CALLS) == results
    assert (
        judged(worker, program, **{**CALLS, "entry_point": "Solution().add"}) == results or "class Sol" not in program
    )


UNITTEST = """
import unittest
from solution import add
class Base(unittest.TestCase):
    def setUp(self):
        self.cases = [(1, 2, 3), (4, 5, 9)]
class TestAdd(Base):
    @classmethod
    def setUpClass(cls):
        cls.zero = 0
    def test_cases(self):
        for a, b, c in self.cases:
            with self.subTest(a=a):
                self.assertEqual(add(a, b), c)
    def test_near(self):
        self.assertAlmostEqual(add(0.1, 0.2), 0.3)
    def test_raises(self):
        with self.assertRaises(TypeError):
            add(None, 1)
    def helper(self):
        self.fail()
if __name__ == "__main__":
    unittest.main()
"""
PYTEST = """
import pytest
from solution import add

@pytest.fixture
def zero():
    yield 0

@pytest.mark.parametrize("a, b, c", [(1, 2, 3), (4, 5, 9), pytest.param(2, 2, 4, id="z")])
def test_cases(a, b, c):
    assert add(a, b) == c

def test_near(zero):
    assert add(0.1, 0.2) == pytest.approx(0.3)
    assert add([0.1], [0.2]) == pytest.approx([0.1, 0.2])

def test_raises():
    with pytest.raises(TypeError, match="unsupported"):
        add(None, 1)

class TestMore:
    def setup_method(self):
        self.one = 1
    @pytest.mark.parametrize("a", range(3))
    def test_all(self, a):
        assert add(a, self.one) == a + 1

assert add(1, 1) == 2
"""
IGNORES = "def add(a, b):\n    return 3 if a is not None else None + 1"


def test_unittest_classes_are_collected_and_run_one_by_one(worker):
    fields = {"suite": Suite("unittest", UNITTEST)}
    assert judged(worker, "def add(a, b): return a + b", **fields) == [RIGHT] * 3
    assert [result[0] for result in judged(worker, IGNORES, **fields)] == [False, False, True]
    assert [result[0] for result in judged(worker, "add = None", **fields)] == [False, False, True]


def test_pytest_functions_are_collected_and_run_one_by_one(worker):
    fields = {"suite": Suite("pytest", PYTEST)}
    assert judged(worker, "def add(a, b): return a + b", **fields) == [RIGHT] * 7
    assert [result[0] for result in judged(worker, IGNORES, **fields)] == [
        True,
        False,
        False,
        False,
        True,
        False,
        False,
    ]


def test_a_suite_may_be_given_as_a_test(worker):
    function = "from solution import add\ndef test_add():\n    assert add(1, 2) == 3\n"
    for test in (function, UNITTEST, PYTEST):
        results = judged(worker, "def add(a, b): return a + b", tests=(test,))
        assert results == [RIGHT] * len(results)
        assert False in [result[0] for result in judged(worker, "def add(a, b): return a - b", tests=(test,))]


OBJECTS = """
import unittest
class TestPoint(unittest.TestCase):
    def test_attribute(self):
        self.assertEqual(make(3).x, 3)
    def test_output(self):
        from unittest.mock import patch
        with patch("builtins.print") as shown:
            make(3)
        shown.assert_called_once()
"""


def test_a_suite_that_looks_at_objects_is_weak(worker):
    fields = {"suite": Suite("unittest", OBJECTS)}
    program = "class P:\n    def __init__(s, x): s.x = x\ndef make(x):\n    print(x)\n    return P(x)"
    assert judged(worker, program, **fields) == [(True, "weak", "")] * 2
    assert [result[:2] for result in judged(worker, "def make(x): return 3", **fields)] == [(False, "weak")] * 2


ATTACKS = {
    "patched unittest": "import unittest\nunittest.TestCase.assertEqual = lambda *a: None\ndef add(a, b): return 0",
    "patched pytest": "import sys\nclass P:\n    def __getattr__(s, n): return lambda *a, **k: s\nsys.modules['pytest'] = P()\ndef add(a, b): return 0",
    "patched runner": "from couplet.reward.sandbox import suites\nsuites.run_unittest = suites.run_pytest = lambda *a: None\ndef add(a, b): return 0",
    "always equal": "class E:\n    def __eq__(s, o): return True\n    def __sub__(s, o): return 0\n    def __abs__(s): return 0\ndef add(a, b): return E()",
    "exit": "import os\ndef add(a, b): os._exit(0)",
    "skip": "import unittest\ndef add(a, b): raise unittest.SkipTest",
    "stop": "def add(a, b): raise StopIteration",
}


@pytest.mark.parametrize("program", ATTACKS.values(), ids=ATTACKS)
@pytest.mark.parametrize("suite", [Suite("unittest", UNITTEST), Suite("pytest", PYTEST)], ids=["unittest", "pytest"])
def test_attacks_on_suites_earn_nothing(worker, program, suite):
    for passed, strength, _ in judged(worker, program, suite=suite):
        assert (passed, strength) == (False, "strong")


@pytest.mark.parametrize(
    "test, why",
    [
        ('{"inputs": ["1"], "outputs": ["2"]}', "asserts nothing"),
        ("[1, 2]", "asserts nothing"),
        ("f(1) == 2", "asserts nothing"),
        ("f(1)[0] < 3", "asserts nothing"),
        ("print(f(1) == 2)", "asserts nothing"),
        ("result = f(1) == 2", "asserts nothing"),
        ("assert (f(1) == 2, 'message')", "is always true"),
        ("x = f(1)\nassert (x == 2, 'message')", "is always true"),
        ("for x in (1, 2):\n    assert (f(x) == x, 'message')", "is always true"),
        ("assert [f(1) == 2]", "is always true"),
        ("assert {'equal': f(1) == 2}", "is always true"),
        ("assert f'{f(1) == 2}'", "is always true"),
        ("assert f(1) == 2 or True", "is always true"),
        ("try:\n    assert f(1) == 2\nexcept AssertionError as e:\n    print(e)", "caught"),
        ("errors = []\ntry:\n    assert f(1) == 2\nexcept Exception as e:\n    errors.append(e)", "caught"),
        ("import unittest\nclass T(unittest.TestCase):\n    def test_a(self):\n        self.assertTrue((f(1) == 2, 'm'))", "asserts nothing"),
        ("import unittest\nclass T(unittest.TestCase):\n    async def test_a(self):\n        self.assertEqual(f(1), 2)", "awaits"),
        ("import unittest\nclass T(unittest.TestCase):\n    @unittest.expectedFailure\n    def test_a(self):\n        self.assertEqual(f(1), 2)", "expected to fail"),
        ("def test_a():\n    yield\n    assert f(1) == 2", "generator"),
        ("def run():\n    assert f(1) == 2", "nothing calls 'run'"),
        ("class Tests:\n    def run(self):\n        assert f(1) == 2", "nothing calls 'run'"),
        ("def inner():\n    assert f(1) == 2\ndef outer():\n    inner()", "nothing calls"),
        ("run = lambda: f(1) == 2", "asserts nothing"),
        ("if False:\n    assert f(1) == 2", "asserts nothing"),
        ("try:\n    assert f(1) == 2\nexcept AssertionError:\n    pass", "caught"),
        ("try:\n    assert f(1) == 2\nexcept Exception as e:\n    x = e", "caught"),
        ("try:\n    assert f(1) == 2\nexcept:\n    pass", "caught"),
        ("import contextlib\nwith contextlib.suppress(AssertionError):\n    assert f(1) == 2", "asserts nothing"),
        ("def check(candidate):\n    assert (candidate(1) == 2, 'm')", "is always true"),
        ("def check(candidate):\n    pass", "no test of the candidate"),
        ("import unittest\nclass T(unittest.TestCase):\n    def test_a(self):\n        f(1) == 2", "asserts nothing"),
        ("import pytest\nwith pytest.raises(AssertionError):\n    assert f(1) == 2", "asserts nothing"),
        ("import unittest\nclass T(unittest.TestCase):\n    def test_a(self):\n        with self.assertRaises(Exception):\n            self.assertEqual(f(1), 2)", "asserts nothing"),
        ("r = f(1)\nwhile False:\n    assert r == 2", "asserts nothing"),
        ("r = f(1)\nif 0:\n    assert r == 2", "asserts nothing"),
        ("def test_a():\n    print(f(1))", "asserts nothing"),
    ],
)  # fmt: skip
def test_a_test_that_checks_nothing_is_refused(worker, test, why):
    problem = Problem("p/1", "q", (test,), "f")
    with pytest.raises(ProblemDefect, match=f"problem p/1: .*{why}"):
        plan(problem)
    (verdict,) = worker.judge([problem], ["def f(x): return 2"])
    assert verdict.reason == "problem_defect"


def test_runs_that_expect_no_output_check_nothing(worker):
    blank = Problem("p/1", "q", stdio=(StdioCase("1\n", ""), StdioCase("2\n", " \n")))
    with pytest.raises(ProblemDefect, match="expects any output"):
        plan(blank)
    assert judged(worker, "pass", stdio=(StdioCase("1\n", ""), StdioCase("2\n", "2")))[1][0] is False


@pytest.mark.parametrize(
    "test",
    [
        "for x in []:\n    assert f(x) == x",
        "values = []\nassert all(f(x) == x for x in values)",
        "import unittest\nclass T(unittest.TestCase):\n    def test_a(self):\n        self.skipTest('later')\n        self.assertEqual(f(1), 2)",
    ],
)
def test_a_test_that_never_calls_the_program_is_a_defect(worker, test):
    (verdict,) = worker.judge([Problem("p/1", "q", (test,), "f")], ["def f(x): return 2"])
    assert verdict.reason == "problem_defect"


@pytest.mark.parametrize(
    "fields",
    [
        {"tests": ("import no_such_package\nassert abs(f(1)) == 1",)},
        {"tests": ("from math import no_such_name\nassert f(1) == 1",)},
        {"tests": ("def check(candidate):\n    import no_such_package\n    assert candidate(1) == 1",)},
        {"tests": ("import no_such_package\ncallable(f(1))\nassert f(1).x == 1",)},
        {"tests": ("assert f(1) == 1",), "packages": ("no_such_package",)},
        {"tests": ("assert f(1) == 1 // 0",)},
        {"suite": Suite("unittest", "import no_such_package, unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual(f(1), 1)")},
        {"inputs": ([1],), "canonical_solution": "def f(x): return [x] * 10**6"},
        {"inputs": ([1],), "canonical_solution": "def f(x): return object()"},
        {"inputs": ([1],), "canonical_solution": "import no_such_package"},
    ],
)  # fmt: skip
def test_a_defect_of_the_problem_is_not_the_candidates(worker, fields, caplog):
    worker.defects.clear()
    for program in ("def f(x): return 1", "def f(x): raise ModuleNotFoundError('no_such_package')"):
        (verdict,) = worker.judge([Problem("p/1", "q", entry_point="f", **fields)], [program])
        assert (verdict.outcome, verdict.reason) == (Outcome.QUARANTINED, "problem_defect")
    assert caplog.text.count("problem p/1: ") == 1


def test_a_program_that_cannot_import_is_not_a_defect_of_the_problem(worker):
    tests = ("import math\nassert abs(f(1)) == math.floor(1.5)", "import math\nassert f(1).x == math.floor(1.5)")
    for program in (
        "import no_such_package",
        "def f(x):\n    raise ModuleNotFoundError(\"No module named 'math'\", name='math')",
    ):
        assert [result[0] for result in judged(worker, program, tests=tests)] == [False, False]


@pytest.mark.parametrize(
    "test",
    [
        "from solution import add\nassert add(1, 2) == 3",
        "from solution import add as plus\nassert plus(1, 2) == 3",
        "import solution\nassert solution.add(1, 2) == 3",
        "from solution import *\nassert abs(add(1, 2)) == 3",
        "if __name__ == '__main__':\n    assert add(1, 2) == 3",
    ],
)
def test_the_program_is_found_where_tests_look_for_it(worker, test):
    assert judged(worker, "def add(a, b): return a + b", tests=(test,)) == [RIGHT]
    assert judged(worker, "def add(a, b): return a - b", tests=(test,)) == [WRONG]
