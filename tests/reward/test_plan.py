"""The planner: what is computed by the candidate, what by the worker and what by a judge."""

import pytest

from couplet.data.problem import Problem
from couplet.reward.planner.plan import plan


def kinds(*tests, **fields):
    return [case.kind for case in plan(Problem("p", "q", tests, **fields))]


@pytest.mark.parametrize(
    "test, expression, relation, expected",
    [
        ("assert f(1, 2) == [3]", "f(1, 2)", "equal", [3]),
        ("assert f(1) == -2, 'message'", "f(1)", "equal", -2),
        ("assert (f(1) == (1, None))", "f(1)", "equal", (1, None)),
        ("assert {'a': 1} == f('a')", "f('a')", "equal", {"a": 1}),
        ("assert sorted(f([2, 1])) == [1, 2]", "sorted(f([2, 1]))", "equal", [1, 2]),
        ("assert list(map(int, f(1))) == [1]", "list(map(int, f(1)))", "equal", [1]),
        ("assert f(1)[0].strip() == 'a'", "f(1)[0].strip()", "equal", "a"),
        ("assert ''.join(f(1)) == 'a'", "''.join(f(1))", "equal", "a"),
        ("assert Stack().size() == 0", "Stack().size()", "equal", 0),
        ("assert f(1) is True", "f(1)", "same", True),
        ("assert f(1) is None", "f(1)", "same", None),
        ("assert f(1)", "f(1)", "true", None),
        ("assert not f(1)", "f(1)", "false", None),
        ("assert sum([1, 2]) == 3", "sum([1, 2])", "equal", 3),
    ],
)
def test_a_comparison_with_a_literal_is_made_in_the_worker(test, expression, relation, expected):
    (case,) = plan(Problem("p", "q", (test,)))
    assert (case.kind, case.expression, case.relation, case.expected) == ("compare", expression, relation, expected)
    assert case.expected_source == "" and case.strength == "strong"


@pytest.mark.parametrize(
    "test, trusted",
    [
        ("assert f(2) == [0] * 5", "[0] * 5"),
        ("assert f(1) == math.pi", "math.pi"),
        ("assert f(1) == set('ab')", "set('ab')"),
    ],
)
def test_a_trusted_right_side_is_computed_by_a_judge(test, trusted):
    (case,) = plan(Problem("p", "q", (test,)))
    assert (case.kind, case.expected_source, case.expected) == ("compare", trusted, None)


@pytest.mark.parametrize(
    "test",
    [
        "assert abs(f(1.33) - 0.33) < 1e-6",
        "assert math.isclose(f(1), 0.5)",
        "assert isinstance(f(1), int)",
        "assert f(1) in (1, 2)",
        "assert f(1) != 3",
        "assert 0 < f(1) < 3",
        "assert f(1) == 2 and f(2) == 3",
        "assert f(f(1)) == f(1)",
        "assert all(f(x) == x for x in range(9))",
        "for x in range(9):\n    assert f(x) == x",
        "x = [3, 1]\nf(x)\nassert x == [1, 3]",
        "try:\n    f(-1)\n    assert False\nexcept ValueError:\n    pass",
        "assert f(1) - 3 == 0",
    ],
)
def test_whatever_works_on_plain_data_is_run_by_a_judge(test):
    (case,) = plan(Problem("p", "q", (test,)))
    assert (case.kind, case.names, case.strength) == ("judge", ("f",), "strong")


@pytest.mark.parametrize(
    "test",
    [
        "assert Point(1, 2) == Point(1, 2)",
        "s = Stack()\ns.push(1)\nassert s.items() == [1]",
        "try:\n    f(1)\nexcept TooDeep:\n    pass",
        "assert isinstance(f(1), Node)",
        "assert next(f(1)) == 1 and f(2) == 2",
        "assert Tree.build([1]).depth > 1 - f(1)",
    ],
)
def test_tests_of_the_candidates_objects_are_weak(test):
    (case,) = plan(Problem("p", "q", (test,)))
    assert (case.kind, case.strength) == ("weak", "weak")


CHECK = """
METADATA = {'author': 'x'}
LIMIT = 1e-6

def check(candidate):
    import math
    assert candidate([1]) == 1
    assert True, "This prints if this assert fails"
    values = [1.5, 2.5]
    assert candidate(values) == 2.5
    assert math.fabs(candidate([0.1]) - 0.1) < LIMIT
    for size in range(3):
        assert candidate([size]) == helper(size)

check(largest)
"""


def test_a_check_function_is_unrolled_into_its_assertions():
    prefix = 'def helper(x):\n    return x\n\ndef largest(values):\n    """Doc."""\n'
    cases = plan(Problem("p", "q", (CHECK,), entry_point="largest", code_prefix=prefix))
    assert [case.kind for case in cases] == ["compare", "judge", "judge", "judge"]
    assert cases[0].expression == "largest([1])" and cases[0].expected == 1
    assert "values = [1.5, 2.5]" in cases[1].source and "LIMIT = 1e-06" in cases[2].source
    assert [case.names for case in cases[1:]] == [("largest",)] * 3
    assert "def helper" in cases[3].prelude and "largest" not in cases[3].prelude


def test_names_bound_by_the_setup_live_in_the_candidates_process():
    setup = "root = Node(1)"
    fields = {"test_setup": setup}
    assert kinds("assert depth(root) == 1", **fields) == ["compare"]
    assert kinds("assert abs(depth(root) - 1) < 2", **fields) == ["weak"]
    assert kinds("assert depth(1) == root", **fields) == ["weak"]


def test_inputs_are_compared_with_the_canonical_solution():
    problem = Problem("p", "q", (), "f", canonical_solution="def f(x): return x", inputs=([1], [2]))
    assert [(case.kind, case.arguments) for case in plan(problem)] == [("oracle", (1,)), ("oracle", (2,))]
    with pytest.raises(ValueError, match="inputs need an entry_point and a canonical_solution"):
        plan(Problem("p", "q", (), inputs=([1],)))


def test_a_problem_must_test_the_candidate():
    for tests in ((), ("assert True",), ("",), ("assert 1 + 1 == 2",)):
        with pytest.raises(ValueError, match="problem p: has no test of the candidate"):
            plan(Problem("p", "q", tests))
    with pytest.raises(ValueError, match="problem p: a test does not parse"):
        plan(Problem("p", "q", ("assert f(",)))
