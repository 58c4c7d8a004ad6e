"""The planner and the judge under attack and under stress: no forged pass is strong, no right program fails for what it
returns or is given, no fault is a verdict, and no problem's own defect is one of the programs.
"""

import os
import signal
import time

import pytest

from couplet.configs.schema import RewardConfig, SandboxConfig
from couplet.data.problem import CallCase, Comparison, Problem
from couplet.data.retry import Retry
from couplet.data.verdict import Outcome
from couplet.reward.cache import problem_fingerprint
from couplet.reward.oracles import agrees
from couplet.reward.planner.plan import ProblemDefect, plan
from couplet.reward.worker import RewardWorker


def judged(worker, program, *tests, **fields):
    """(passed, strength) of each test."""
    fields = {"entry_point": "f", **fields}
    (verdict,) = worker.judge([Problem("p", "q", tests, **fields)], [program])
    return [(test.passed, test.strength) for test in verdict.tests]


YES = """
class Yes:
    def __getattr__(self, name): return lambda *a, **k: True
    def __call__(self, *a, **k): return True
    def __getitem__(self, key): return True
    def __contains__(self, item): return True
    def __eq__(self, other): return True
    def __sub__(self, other): return 0.0
    def __len__(self): return 3
    def __iter__(self): return iter((1, 2, 3))
    __hash__ = None
def f(x): return Yes()
"""
ZERO = "def f(x): return None\n"
CLOSE = "def close_to(a, b): return abs(a - b) < 1e-6"
NEAR = "lambda a, b: abs(a - b) < 1e-6"


@pytest.mark.parametrize(
    "test, program",
    [
        ('assert f(1).startswith("abcdef")', YES),
        ("assert f(1).startswith('918273645') is True", YES),
        ("assert f(1).startswith('918273645') == True", YES),
        ("assert f(1).__eq__(918273645)", YES),
        ("assert f(1).__eq__(918273645) == bool(1)", YES),
        ("assert f(1).issubset({1, 2, 3})", YES),
        ("assert not f(1).difference([1, 2, 3])", "class S:\n    def difference(s, o): return 0\ndef f(x): return S()"),
        ("assert f(1).difference({1, 2}) == set()", "class S:\n    def difference(s, o): return set()\ndef f(x): return S()"),
        ("assert f(1).isalpha()", YES),
        ("assert f(1)['abc']", YES),
        ("assert bool(f(1)) == True", YES),
        ("assert '918273645'.startswith(f(1))", YES),
        ("assert list(map(lambda a, b: a == b, f(1), [7, 8, 9])) == [True] * 3", YES),
        ("assert list(zip(f(1), [7, 8, 9])) == [(7, 7), (8, 8), (9, 9)]", "import sys\nzip = lambda a, b: [(x, x) for x in b]\n" + ZERO),
        ("assert isclose(f(1), 2.5)", "isclose = lambda *a: True\n" + ZERO),
        ("assert math.isclose(f(1), 2.5)", "class M:\n    isclose = lambda *a: True\nmath = M()\n" + ZERO),
        ("assert all(v > 7 for v in f(1))", "all = lambda g: True\n" + ZERO),
        ("assert len(f(1)) > 2 and f(1)[0] == 918273645", "len = lambda v: 3\n" + YES),
    ],
)  # fmt: skip
def test_a_predicate_on_a_value_is_not_the_candidates_to_answer(worker, test, program):
    for entry_point in ("f", None):
        assert judged(worker, program, test, entry_point=entry_point) == [(False, "strong")]


# A program that brings what it is judged with, one way for each form of it.
MATCHERS = [
    ("assert np.allclose(f(1), [1.0, 2.5])", YES + "np = Yes()\n"),
    ("assert np.subtract(f(1), 2.5) == 0", "class N:\n    subtract = lambda *a: 0\nnp = N()\n" + ZERO),
    ("assert close_to(f(1), 2.5)", "close_to = lambda *a: True\n" + ZERO),
    ("assert close_to(f(1), 2.5) == True", "close_to = lambda *a: True\n" + ZERO),
    ("assert close_to(a=f(1), b=2.5) is True", "close_to = lambda **a: True\n" + ZERO),
    ("assert errors(f(1)) == 0", "errors = lambda *a: 0\n" + ZERO),
    ("assert abs(f(1)) > 3 or close_to(f(1), 2.5)", "close_to = lambda *a: True\ndef f(x): return 0"),
    ("assert equals(2.5)(f(1))", "equals = lambda e: lambda v: True\n" + ZERO),
    ("matches = equals(2.5)\nassert matches(f(1))", "equals = lambda e: lambda v: True\n" + ZERO),
    ("assert Checker(2.5).accepts(f(1))", "class Checker:\n    def __init__(s, e): pass\n    def accepts(s, v): return True\n" + ZERO),
    ("c = Checker(2.5)\nassert c.accepts(f(1))", "class Checker:\n    def __init__(s, e): pass\n    def accepts(s, v): return True\n" + ZERO),
    ("r = f(1)\nassert is_valid(r)", "is_valid = lambda v: True\n" + ZERO),
    ("assert all(is_valid(v) for v in f(1))", "is_valid = lambda v: True\ndef f(x): return [0]"),
    ("for v in f(1):\n    assert is_valid(v)", "is_valid = lambda v: True\ndef f(x): return [0]"),
    ("assert all(map(is_valid, f(1)))", "is_valid = lambda v: True\ndef f(x): return [0]"),
    ("assert all(map(lambda v: is_valid(v), f(1)))", "is_valid = lambda v: True\ndef f(x): return [0]"),
    ("def fine(v):\n    return is_valid(v)\nassert fine(f(1))", "is_valid = lambda v: True\n" + ZERO),
    ("assert not differs(f(1), 2.5)", "differs = lambda *a: False\n" + ZERO),
    ("assert (lambda v: is_valid(v))(f(1))", "is_valid = lambda v: True\n" + ZERO),
    ("assert [is_valid][0](f(1))", "is_valid = lambda v: True\n" + ZERO),
    ("assert (is_valid if True else None)(f(1))", "is_valid = lambda v: True\n" + ZERO),
    ("from functools import partial\nassert partial(is_valid)(f(1))", "is_valid = lambda v: True\n" + ZERO),
    ("found = []\nfound.append(f(1))\nassert is_valid(found[0])", "is_valid = lambda v: True\n" + ZERO),
    ("found = {}\nfound.update(r=f(1))\nassert is_valid(found['r'])", "is_valid = lambda v: True\n" + ZERO),
    ("class Held:\n    r = f(1)\nassert is_valid(Held.r)", "is_valid = lambda v: True\n" + ZERO),
    ("def get():\n    return f(1)\nassert is_valid(get())", "is_valid = lambda v: True\n" + ZERO),
    ("def each():\n    yield f(1)\nassert all(map(is_valid, each()))", "is_valid = lambda v: True\n" + ZERO),
    ("def fine(r=f(1)):\n    assert is_valid(r)\nfine()", "is_valid = lambda v: True\n" + ZERO),
    ("match f(1):\n    case r:\n        assert is_valid(r)", "is_valid = lambda v: True\n" + ZERO),
    ("x = [0]\nf(x)\nassert is_valid(x)", "is_valid = lambda v: True\n" + ZERO),
]  # fmt: skip


@pytest.mark.parametrize("test, program", MATCHERS)
def test_a_helper_that_nobody_asks_for_is_not_the_programs_to_define(worker, test, program):
    for entry_point in ("f", None):
        assert judged(worker, program, test, entry_point=entry_point)[0][0] is False
    solved = {"canonical_solution": "def f(x): return 2.5"}
    assert judged(worker, program, test, **solved) == [(False, "strong")]


@pytest.mark.parametrize("test, program", [MATCHERS[k] for k in (2, 5, 6, 7, 9, 11)])
def test_a_helper_that_the_question_asks_for_is_weak(worker, test, program):
    fields = {"entry_point": "f", "canonical_solution": None}
    question = "Write f, close_to, errors, equals, Checker and is_valid."
    (verdict,) = worker.judge([Problem("p", question, (test,), **fields)], [program])
    assert [(each.passed, each.strength) for each in verdict.tests] == [(True, "weak")]


@pytest.mark.parametrize("test", ["assert Box(f(5)).equals(918273645)", "assert Box(f(5)).error(918273645) == 0"])
def test_a_class_around_what_a_function_returned_makes_a_test_weak(worker, test):
    program = (
        "class Box:\n    def __init__(s, v): pass\n    def equals(s, e): return True\n    def error(s, e): return 0\n"
    )
    for entry_point in ("f", None):
        assert judged(worker, program + ZERO, test, entry_point=entry_point) == [(True, "weak")]


@pytest.mark.parametrize(
    "setup, test",
    [
        ("CASES = [(5, 125)]", "assert f(CASES[0][0]) == CASES[0][1]"),
        ("CASES = [(5, 125)]", "assert f(CASES[0][0]) == 125"),
        ("X, Y = 5, 125", "assert f(X) == Y"),
        ("class Row:\n    x, y = 5, 125", "assert f(Row.x) == Row.y"),
    ],
)
def test_a_table_of_inputs_and_answers_stays_in_the_judge(worker, setup, test):
    peek = "def f(x):\n    found = globals()\n    return dict(found['CASES'])[x] if 'CASES' in found else found.get('Y', Row.y)"
    assert judged(worker, peek, test, test_setup=setup) == [(False, "strong")]
    assert judged(worker, "def f(x): return x ** 3", test, test_setup=setup) == [(True, "strong")]


@pytest.mark.parametrize("kind", ["unittest.case:_ShouldStop", "unittest.case:SkipTest"])
def test_no_exception_of_a_test_framework_is_the_candidates_to_raise(worker, kind):
    module, name = kind.split(":")
    program = (
        f"class Stop(Exception): pass\nStop.__module__, Stop.__qualname__ = {module!r}, {name!r}\ndef f(x): raise Stop"
    )
    for how in ("self.assertEqual(f(5), 120)", "with self.subTest():\n            self.assertEqual(f(5), 120)"):
        suite = f"import unittest\nclass T(unittest.TestCase):\n    def test_a(self):\n        {how}\n"
        assert judged(worker, program, suite) == [(False, "strong")]


def test_a_key_that_json_cannot_name_is_a_wrong_answer(worker):
    for key in ("10 ** 5000", "(10 ** 5000,)"):
        call = CallCase((5,), {"a": 1})
        problem = Problem("p", "q", entry_point="f", calls=(call,), comparison=Comparison("json"))
        (verdict,) = worker.judge([problem], [f"def f(x): return {{{key}: 1}}"])
        assert (verdict.outcome, verdict.reason) == (Outcome.FAILED, "wrong_value")


HELPED = """
def f(x):
    return 2.5
def is_valid(v, e=2.5):
    return v == e
def reference(x):
    return 2.5
class Checker:
    def __init__(self, e): self.e = e
    def accepts(self, v): return v == self.e
"""
BRINGS_ALL = """
def f(x): return 0
def is_valid(*a): return True
def reference(x): return 0
class Checker:
    def __init__(self, *a): pass
    def accepts(self, v): return True
"""


@pytest.mark.parametrize(
    "test",
    [
        "assert is_valid(f(1))",
        "assert is_valid(f(1), 2.5)",
        "assert is_valid(f(1)) is True",
        "r = f(1)\nassert is_valid(r)",
        "assert f(1) == reference(1)",
        "for x in range(3):\n    assert f(x) == reference(x)",
        "assert abs(f(1) - reference(1)) < 1e-9 and f(1) == reference(1)",
        "assert Checker(2.5).accepts(f(1))",
    ],
)
def test_a_helper_that_only_the_canonical_solution_defines_is_run_from_there(worker, test):
    for entry_point in ("f", "is_valid") if "is_valid" in test else ("f",):
        fields = {"canonical_solution": HELPED, "entry_point": entry_point}
        assert judged(worker, BRINGS_ALL, test, **fields) == [(False, "strong")]
        assert judged(worker, "def f(x): return 5 / 2", test, **fields) == [(True, "strong")]


@pytest.mark.parametrize(
    "test",
    [
        "assert eval('f(5) == 120')",
        "assert eval('f(5)') == 120",
        "exec('assert f(5) == 120')",
        "assert all([eval('f(5) == 120'), True])",
    ],
)
def test_a_test_in_a_text_is_taken_out_of_it(worker, test):
    cheat = "import builtins\neval = exec = builtins.eval = builtins.exec = lambda *a: True\ndef f(x): return 0"
    for entry_point in ("f", None, "eval"):
        assert judged(worker, cheat, test, entry_point=entry_point) == [(False, "strong")]
        assert judged(worker, "def f(x): return 120", test, entry_point=entry_point) == [(True, "strong")]


@pytest.mark.parametrize(
    "test, program",
    [
        ("for x in range(3):\n    assert f(x) == reference(x)", "f = reference = lambda x: 0"),
        ("assert f(4) == root(2)", "f = root = lambda x: 0"),
        ("assert callable(f)", "f = callable"),
        ("assert eval(f(2)) == 918273645", "def f(x): return '918273645'"),
        ("code = f(2)\nassert (lambda text: eval(text))(code) == 918273645", "def f(x): return '918273645'"),
        ("assert list(map(eval, f(2))) == [3]", "def f(x): return ['3']"),
    ],
)
def test_what_only_the_candidate_can_say_is_weak(worker, test, program):
    assert judged(worker, program, test) == [(True, "weak")]
    with RewardWorker(RewardConfig(), SandboxConfig(strict=True)) as strict:
        assert judged(strict, program, test)[0][0] is False


def test_eval_of_the_tests_own_text_stays_strong(worker):
    tests = ("assert abs(f('1/3') - eval('1/3')) < 1e-9", "assert f('2*3') == eval('2*3')")
    assert judged(worker, "def f(x): return eval(x)", *tests) == [(True, "strong")] * 2


@pytest.mark.parametrize("setup", [CLOSE, "close_to = " + NEAR, "from math import isclose as close_to"])
def test_helpers_of_the_setup_run_in_the_judge(worker, setup):
    test = "assert close_to(f(1), 2.5)"
    number = (
        "class N:\n    def __sub__(self, other): return 0.0\n    __float__ = lambda self: 2.5\ndef f(x): return N()"
    )
    override = "def f(x):\n    globals()['close_to'] = lambda a, b: True\n    return 0"
    for program, passed in (("def f(x): return 2.5", True), (number, False), (override, False)):
        assert judged(worker, program, test, test_setup=setup) == [(passed, "strong")]


def test_helpers_that_need_the_candidate_are_weak(worker):
    fields = {"test_setup": "def fine(x): return f(x) == 918273645"}
    assert judged(worker, "def f(x): return 918273645", "assert fine(1)", **fields) == [(True, "weak")]
    assert judged(worker, "def f(x): return 1", "assert fine(1)", **fields) == [(False, "weak")]


def test_helpers_of_the_prompt_make_the_inputs(worker):
    prefix = "def encode(s):\n    return s[::-1]\n\ndef decode(s):\n"
    check = "def check(candidate):\n    assert candidate(encode('abc')) == 'abc'\n"
    fields = {"entry_point": "decode", "code_prefix": prefix}
    assert judged(worker, prefix + "    return s[::-1]", check, **fields) == [(True, "strong")]
    assert judged(worker, "def encode(s): return s\ndef decode(s): return s", check, **fields) == [(False, "strong")]


COMMON = "from collections import *\nfrom decimal import *\nimport datetime\n"


@pytest.mark.parametrize(
    "test, program",
    [
        ("assert abs(f(lambda x: x * x, 2) - 4) < 1e-9", "def f(g, x): return g(x)"),
        ("assert abs(f(3)(4) - 12) < 1e-9", "def f(k): return lambda x: k * x"),
        ("g = f(3)\nassert g(4) > 11", "def f(k): return lambda x: k * x"),
        ("assert callable(f(3))", "def f(k): return lambda x: k * x"),
        ("assert isinstance(f(3).v, int)", "class N:\n    v = 3\ndef f(x): return N()"),
        ("assert isinstance(3, int) and isinstance(f(3), N)", "class N: pass\ndef f(x): return N()"),
        ("x = [1]\nassert f(x) is x", "def f(x): return x"),
        ("try:\n    f(lambda: 1)\n    assert False\nexcept TypeError:\n    pass", "def f(g): return g() + ''"),
        ("import io, sys\nsys.stdout = io.StringIO()\nf('a')\nassert sys.stdout.getvalue() == 'a\\n'", "def f(x): print(x)"),
        ("with open('x', 'w') as out:\n    out.write('a')\nassert f('x') == 'a'", "def f(x): return open(x).read()"),
    ],
)  # fmt: skip
def test_right_programs_pass_weakly_where_the_judge_cannot_tell(worker, test, program):
    assert judged(worker, COMMON + program, test) == [(True, "weak")]


@pytest.mark.parametrize(
    "test, program",
    [
        ("assert sum(f(4)) / 2 == 3.0", "def f(n):\n    yield from range(n)"),
        ("assert all(isinstance(v, int) for v in f(4))", "def f(n): return (i for i in range(n))"),
        ("import types\nassert isinstance(f(4), types.GeneratorType)", "def f(n): return (i for i in range(n))"),
        ("assert [x for x, _ in zip(f(2), range(3))] == [2, 3, 4]", "import itertools\ndef f(n): return itertools.count(n)"),
        ("assert list(f(3)) == sorted(f(3))", "def f(n): return map(abs, range(n))"),
        ("assert f(2) != 5 and f(2) == range(2)", "def f(x): return range(x)"),
        ("assert f([1, 2]) != [1, 2] and len(f([1, 2])) == 2", "def f(x): return deque(x)"),
        ("assert f(2)['no'] < 1", "def f(x): return Counter('ab')"),
        ("assert f(2)['no'] > [3] or f(2)['no'] == []", "def f(x): return defaultdict(list, a=[1])"),
        ("assert f(2) != OrderedDict(b=1, a=2)", "def f(x): return OrderedDict(a=2, b=1)"),
        ("assert list(f({'z': 1, 'a': 2})) < ['z', 'b']", "def f(d): return d.keys()"),
        ("assert abs(f(2) - Decimal('2.5')) < Decimal('0.001')", "def f(x): return Decimal('2.5')"),
        ("import datetime\nassert f(3) > datetime.date(2020, 1, 2)", "def f(x): return datetime.date(2020, 1, x)"),
        ("import datetime\nassert f(3) < datetime.timedelta(4)", "def f(x): return datetime.timedelta(x)"),
        ("import asyncio\nassert asyncio.run(f(2)) == 4", "async def f(x): return 2 * x"),
        ("assert f(2) != None and f(0) is None", "def f(x): return x or None"),
    ],
)  # fmt: skip
def test_results_of_the_standard_librarys_classes_arrive_as_such(worker, test, program):
    wrong = f"{test.rpartition('assert ')[0]}assert not ({test.rpartition('assert ')[2]})"
    assert judged(worker, COMMON + program, test, wrong) == [(True, "strong"), (False, "strong")]


@pytest.mark.parametrize(
    "test, program",
    [
        ("assert f(range(5)) != 7", "def f(r): return r.stop + r.count(3)"),
        ("assert abs(f(Counter('aab')) - 2) < 1e-9", "def f(c): return c.most_common(1)[0][1]"),
        ("assert abs(f(Decimal('1.25')) - Decimal('1.3')) < Decimal('0.001')",
         "def f(x): return x.quantize(Decimal('0.1'), ROUND_HALF_UP)"),
        ("import datetime\nassert f(datetime.date(2020, 1, 1)) != datetime.date(2020, 1, 1)",
         "def f(x): return x + datetime.timedelta(1)"),
        ("row = [1]\nm = [row]\nf(m)\nassert row == [9]", "def f(m): m[0][0] = 9"),
        ("row = [1]\nm = [row]\nf(m)\nassert row == [1] and m == [[9]]", "def f(m): m[0] = [9]"),
        ("m = [[0]] * 2\nf(m)\nassert m == [[5], [5]]", "def f(m): m[0][0] = 5"),
        ("d = {'a': [1]}\nf([d, d['a']])\nassert d == {'a': [1, 2]}", "def f(m): m[1].append(2)"),
        ("x = [1]\nf(x)\nassert x[1] == [1, 2] and len(x) == 2", "def f(x): x.append([1, 2])"),
        ("r = f('1.10')\nassert str(r) == '1.10'", "def f(s): return Decimal(s)"),
        ("r = f(3)\nassert r == [(datetime.date(2024, 1, 3), {Decimal('2.50')})]", "def f(n): return [(datetime.date(2024, 1, n), {Decimal('2.5')})]"),
        ("r = f(3)\nassert r['q'][0] == [3] and not isinstance(r['q'], list)", "def f(n): return {'q': deque([[n]])}"),
        ("r = f(3)\nassert sum(r.values()) == 3 and r['none'] == 0", "def f(n): return Counter('a' * n)"),
    ],
)  # fmt: skip
def test_what_is_given_and_returned_is_plain_at_any_depth(worker, test, program):
    imports = "from collections import *\nfrom decimal import *\nimport datetime\n"
    assert judged(worker, COMMON + program, imports + test) == [(True, "strong")]
    assert (
        judged(worker, COMMON + "def f(*a): return 918273645", imports + test) == [(False, "strong")]
        or "!= 7" in test
        or "!= date" in test
    )


@pytest.mark.parametrize("name", ["generator", "range", "Counter", "Decimal", "date", "iterator", "coroutine"])
def test_a_program_cannot_choose_to_be_judged_weakly(worker, name):
    claim = (
        f"{YES.replace('Yes', name)}\n{name}.__module__ = 'builtins'\n{name}.__abs__ = {name}.__lt__ = lambda *a: True"
    )
    assert judged(worker, claim, "assert abs(f(2) - 918273645) < 1e-6") == [(False, "strong")]


RAISING = """
import json, decimal
class Negative(ValueError):
    def __init__(self, code):
        super().__init__("negative")
        self.code = code
    def __str__(self): return f"negative: {self.code}"
def f(x):
    if x == 0: raise ValueError("negative input")
    if x == 1: raise KeyError("k")
    if x == 2: return json.loads("{")
    if x == 3: return b"\\xff".decode("utf-8")
    if x == 4: return decimal.Decimal(0) / decimal.Decimal(0)
    if x == 5: raise Negative(7)
    if x == 6: return open("/no/such/file")
    if x == 7: raise ValueError(object(), 3)
"""
CATCH = "try:\n    f({x})\n    raise SystemExit\nexcept {kind} as e:\n    assert {test}"


@pytest.mark.parametrize(
    "x, kind, test",
    [
        (0, "ValueError", "'negative' in str(e) and type(e) == ValueError"),
        (0, "Exception", "e.args == ('negative input',)"),
        (1, "KeyError", "e.args[0] == 'k' and str(e) == \"'k'\""),
        (2, "json.JSONDecodeError", "e.pos == 1 and 'Expecting property name' in e.msg"),
        (3, "UnicodeDecodeError", "e.start == 0 and e.object == b'\\xff'"),
        (4, "decimal.InvalidOperation", "isinstance(e, ArithmeticError)"),
        (5, "ValueError", "str(e) == 'negative: 7' and e.code == 7 and type(e).__name__ == 'Negative'"),
        (6, "FileNotFoundError", "e.errno == 2"),
        (7, "ValueError", "e.args[1] == 3"),
    ],
)
def test_exceptions_arrive_with_class_arguments_and_text(worker, x, kind, test):
    imports = "import json, decimal\n"
    right, wrong = (imports + CATCH.format(x=x, kind=kind, test=text) for text in (test, f"not ({test})"))
    assert judged(worker, RAISING, right, wrong) == [(True, "strong"), (False, "strong")]


def test_an_exception_of_another_class_is_not_caught(worker):
    test = CATCH.format(x=1, kind="ValueError", test="True")
    assert judged(worker, RAISING, test) == [(False, "strong")]
    undefined = CATCH.format(x=1, kind="KeyError", test="True")
    assert judged(worker, "def g(x): pass", undefined) == [(False, "strong")]


def test_changed_arguments_arrive_by_name_and_after_an_exception(worker):
    program = "def f(x, memo=None):\n    memo[x] = x\n    if x > 1: raise ValueError"
    tests = (
        "d = {}\nf(1, memo=d)\nassert d == {1: 1}",
        "d = {}\nf(x=1, memo=d)\nassert d == {}",
        "d = {}\ntry:\n    f(2, d)\nexcept ValueError:\n    pass\nassert d == {2: 2}",
        "m = [[1, 2], [3, 4]]\nf(0, m)\nassert m == [0, [3, 4]]",
    )
    assert judged(worker, program, *tests) == [(True, "strong"), (False, "strong"), (True, "strong"), (True, "strong")]


def test_a_value_that_is_not_none_needs_no_plain_form(worker):
    program = "class Node: pass\ndef f(x):\n    return Node() if x else None"
    tests = ("assert f(1) is not None", "assert f(1) != None", "assert f(0) is None", "assert f(0) is not None")
    assert judged(worker, program, *tests) == [(True, "strong")] * 3 + [(False, "strong")]


def test_the_order_of_an_expected_ordered_dict_counts(worker):
    test = "assert f(1) == OrderedDict([('a', 1), ('b', 2)])"
    made = "from collections import OrderedDict\ndef f(x): return {}"
    programs = {
        "OrderedDict(b=2, a=1)": False,
        "OrderedDict(a=1, b=2)": True,
        "dict(b=2, a=1)": False,
        "dict(a=1, b=2)": True,
    }
    for value, passed in programs.items():
        assert judged(worker, made.format(value), test)[0][0] is passed


def test_names_of_the_standard_library_may_be_the_programs(worker):
    assert judged(worker, "def calendar(x): return x", "assert calendar(3) == 3", entry_point=None) == [
        (True, "strong")
    ]
    tests = ("assert isclose(1, 1)", "assert not isclose(1, 2)")
    assert judged(worker, "def isclose(a, b): return a == b", *tests, entry_point=None) == [(True, "strong")] * 2


CHECK = """
def check(candidate):
    seen = []
    for i in range(3):
        r = candidate(i)
        seen.append(r)
        assert r == i
    assert r == 2
    assert (last := candidate(5)) == 5
    assert [*seen, last] == [0, 1, 2, 5]
    assert candidate(9) == 9
"""


def test_what_a_statement_with_an_assertion_binds_is_known_later(worker):
    assert judged(worker, "def f(x): return x", CHECK) == [(True, "strong")] * 5
    wrong = [passed for passed, _ in judged(worker, "def f(x): return min(x, 8)", CHECK)]
    assert wrong == [True, True, True, True, False]


def test_a_check_may_name_its_function_itself(worker):
    assert judged(worker, "def f(x): return 2", "def check():\n    assert f(1) == 2") == [(True, "strong")]
    unnamed = "def check(candidate):\n    assert candidate(1) == 2\ncheck(f)"
    assert judged(worker, "def f(x): return 2", unnamed, entry_point=None) == [(True, "strong")]


def test_a_check_may_return_early(worker):
    check = (
        "def check(candidate):\n    for x in range(9):\n        assert candidate(x) == x\n        if x == 3: return\n"
    )
    assert judged(worker, "def f(x): return min(x, 3)", check) == [(True, "strong")]
    assert judged(worker, "def f(x): return min(x, 2)", check) == [(False, "strong")]


DOUBLE = ("assert f(1) == 2", "assert abs(f(0.5) - 1.0) < 1e-9")
RIGHT = "def f(x): return 2 * x"


@pytest.fixture
def fresh(monkeypatch):
    monkeypatch.setattr("couplet.reward.runner.RETRY", Retry(3, 0.0))
    with RewardWorker(RewardConfig(), SandboxConfig()) as worker:
        yield worker


def strike(worker, monkeypatch, blow, times, at=2):
    """Have `blow(child)` strike judges before the message `at` to each arrives (the second one answers a test's call of
    the program), `times` times. Returns the list of blows.
    """
    spawn, blows = type(worker.runner.sandbox).spawn, []

    def unlucky(kind, cpu_limit, ahead=b""):
        child = spawn(worker.runner.sandbox, kind, cpu_limit, ahead)
        send, sent = child.send, []

        def interrupted(data, budget):
            sent.append(len(data))
            if len(sent) == at and len(blows) < times:
                blows.append(child.pid)
                blow(child)
            send(data, budget)

        if kind == "judge":
            child.send = interrupted
        return child

    monkeypatch.setattr(worker.runner.sandbox, "spawn", unlucky)
    return blows


def kill_child(child):
    signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)


def test_a_judge_killed_once_changes_no_verdict(fresh, monkeypatch):
    blows = strike(fresh, monkeypatch, kill_child, 1)
    verdict = fresh.judge([Problem("p", "q", DOUBLE, "f")], [RIGHT])[0]
    assert len(blows) == 1 and verdict.outcome is Outcome.PASSED and not fresh.runner.faults


def test_a_judge_killed_again_and_again_is_a_fault_and_is_not_remembered(fresh, monkeypatch):
    blows = strike(fresh, monkeypatch, kill_child, 100, at=1)
    problem = Problem("p", "q", DOUBLE, "f")
    verdict = fresh.judge([problem], [RIGHT])[0]
    assert (verdict.outcome, verdict.reason) == (Outcome.INFRA_ERROR, "judge")
    assert len(blows) == 6 and fresh.runner.faults == {"judge": 3} and not fresh.cache.stored
    monkeypatch.undo()
    assert fresh.judge([problem], [RIGHT])[0].outcome is Outcome.PASSED


def test_a_judge_that_ends_on_what_the_program_returned_is_the_programs_failure(fresh, monkeypatch):
    blows = strike(fresh, monkeypatch, kill_child, 100)
    verdict = fresh.judge([Problem("p", "q", DOUBLE, "f")], [RIGHT])[0]
    assert [(test.passed, test.reason) for test in verdict.tests] == [(True, ""), (False, "judge_exit")]
    assert len(blows) == 2 and not fresh.runner.faults


def test_a_zygote_killed_under_a_judge_is_a_fault(fresh, monkeypatch):
    sandbox = fresh.runner.sandbox

    def kill_zygote(child):
        os.kill(sandbox.zygote.process.pid, signal.SIGKILL)
        while sandbox.alive():
            time.sleep(0.001)

    blows = strike(fresh, monkeypatch, kill_zygote, 1)
    verdict = fresh.judge([Problem("p", "q", DOUBLE, "f")], [RIGHT])[0]
    assert len(blows) == 1 and verdict.outcome is Outcome.PASSED
    assert fresh.runner.faults in ({}, {"zygote": 1})  # none where the judge's answer had left before the blow


def test_a_judge_killed_over_an_expected_value_is_a_fault_before_it_is_a_defect(fresh, monkeypatch):
    problem = Problem("p", "q", ("assert f(1) == [0] * 2",), "f")
    with monkeypatch.context() as patch:
        blows = strike(fresh, patch, kill_child, 3, at=1)
        assert fresh.judge([problem], ["def f(x): return [0, 0]"])[0].outcome is Outcome.PASSED
    assert len(blows) == 3 and fresh.runner.faults == {"expected": 1}
    deadly = Problem("d", "q", ("assert f(1) == os.abort()",), "f")
    assert fresh.judge([deadly], [RIGHT])[0].outcome is Outcome.QUARANTINED


BUSY = "(lambda start: sum(iter(lambda: int(time.process_time() > start + 0.3), 1)))(time.process_time()) + 3"


def test_slow_trusted_code_has_a_budget_of_its_own():
    with RewardWorker(RewardConfig(), SandboxConfig(cpu_seconds=0.1)) as short:
        tests = (f"assert f(1) == {BUSY}", f"assert abs(f(1)) == {BUSY}")
        assert judged(short, "def f(x): return 3", *tests) == [(True, "strong")] * 2
        fields = {"canonical_solution": f"import time\ndef f(x): return {BUSY}", "inputs": ([1],)}
        assert judged(short, "def f(x): return 3", **fields) == [(True, "strong")]


ENDLESS = (
    {"tests": ("assert f(1) == 1", "assert f(1) == sum(iter(int, 1))")},
    {"tests": ("assert sum(iter(int, 1)) < abs(f(1))",)},
    {"canonical_solution": "def f(x):\n    while True: pass", "inputs": ([1],)},
    {"canonical_solution": "while True: pass", "inputs": ([1],)},
)


@pytest.mark.slow
def test_trusted_code_that_does_not_end_is_a_defect_of_the_problem(caplog):
    problems = [Problem(f"endless {k}", "q", entry_point="f", **fields) for k, fields in enumerate(ENDLESS)]
    fine = Problem("fine", "q", ("assert f(1) == 1",), "f")
    with RewardWorker(RewardConfig(), SandboxConfig(cpu_seconds=0.05)) as short:
        for program in ("def f(x): return x", "def f(x): return 1"):
            *verdicts, last = short.judge([*problems, fine], [program] * 5)
            assert [(v.outcome, v.reason) for v in verdicts] == [(Outcome.QUARANTINED, "problem_defect")] * 4
            assert last.outcome is Outcome.PASSED
        assert not short.runner.faults and short.stats()["restarts"] == 0
    assert [caplog.text.count(f"problem endless {k}") for k in range(4)] == [1] * 4


def test_an_expected_value_that_cannot_be_had_is_computed_once(monkeypatch):
    problem = Problem("endless", "q", ("assert f(1) == sum(iter(int, 1))",), "f")
    with RewardWorker(RewardConfig(), SandboxConfig(cpu_seconds=0.05)) as short:
        spawn, judges = type(short.runner.sandbox).spawn, []

        def counted(kind, cpu_limit, ahead=b""):
            judges.extend([kind] if kind == "judge" else [])
            return spawn(short.runner.sandbox, kind, cpu_limit, ahead)

        monkeypatch.setattr(short.runner.sandbox, "spawn", counted)
        for k in range(3):
            assert short.judge([problem], [f"def f(x): return {k}"])[0].reason == "problem_defect"
    assert judges == ["judge"]


def test_a_test_that_does_not_end_on_a_programs_values_is_its_failure_and_is_named(caplog):
    problem = Problem("turning", "q", ("x = f(1)\nwhile x == 1:\n    pass\nassert x", "assert f(1) == 1"), "f")
    with RewardWorker(RewardConfig(), SandboxConfig(cpu_seconds=0.05, max_timeouts=1)) as short:
        verdict = short.judge([problem], ["def f(x): return 1"])[0]
    assert [test.reason for test in verdict.tests] == ["timeout", "skipped"]
    assert caplog.text.count("problem turning: the code of a test ran out of time") == 1


@pytest.mark.parametrize(
    "test",
    [
        "assert f(",
        "assert True",
        "nonlocal x\nassert f(1)",
        "assert " + "-" * 5000 + "f(1) == 1",
        "def check(candidate):\n    continue\n    assert abs(candidate(1)) == 2",
    ],
)
def test_a_problem_that_cannot_be_planned_stops_nothing(worker, test, caplog):
    broken, fine = Problem("broken", "q", (test,), "f"), Problem("fine", "q", ("assert f(1) == 2",), "f")
    worker.defects.clear()
    first, second, third = worker.judge([broken, fine, broken], [RIGHT, RIGHT, RIGHT + "\n"])
    assert [first.outcome, second.outcome, third.outcome] == [Outcome.QUARANTINED, Outcome.PASSED, Outcome.QUARANTINED]
    assert first.reason == "problem_defect" and caplog.text.count("problem broken") == 1
    with pytest.raises(ProblemDefect, match="problem broken: "):
        plan(broken)


def test_infinity_is_not_a_tolerance(worker):
    infinity = float("inf")
    assert not agrees("humaneval+", "f", [1], 5.0, infinity, 0.0)
    assert not agrees("humaneval+", "f", [1], [1.0, 2.0], [infinity, 2.0], 1e-6)
    assert not agrees("humaneval+", "f", [1], -infinity, infinity, 0.0)
    assert not agrees("humaneval+", "f", [1], infinity, 5.0, 1e-6)
    assert agrees("humaneval+", "f", [1], [infinity, 2.0 + 1e-9], [infinity, 2.0], 1e-6)
    fields = {"canonical_solution": "def f(x): return x * 1e308 * 10", "inputs": ([5.0],), "source": "humaneval+"}
    assert judged(worker, "def f(x): return 0.0", **fields) == [(False, "strong")]


def test_the_set_a_problem_comes_from_is_part_of_its_verdict(worker):
    fields = {"canonical_solution": "def sum_div(x): return 1", "inputs": ([5],), "entry_point": "sum_div"}
    theirs, ours = (Problem("p", "q", source=source, **fields) for source in ("mbpp+", "own"))
    assert problem_fingerprint(theirs) != problem_fingerprint(ours)
    verdicts = [worker.judge([problem], ["def sum_div(x): return 0"])[0] for problem in (theirs, ours)]
    assert [verdict.outcome for verdict in verdicts] == [Outcome.PASSED, Outcome.FAILED]
