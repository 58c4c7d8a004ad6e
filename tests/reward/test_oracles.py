"""Agreement with the canonical solution: tolerances, and the tasks whose answer is not unique."""

import pytest

from couplet.data.problem import Problem
from couplet.reward.oracles import agrees, close


@pytest.mark.parametrize(
    "actual, expected, atol, equal",
    [
        (1, 1.0, 0.0, True),
        (1.0 + 1e-9, 1.0, 0.0, False),
        (1, 1.0 + 1e-9, 1e-8, False),
        ([1, 2.0], [1.0 + 1e-9, 2.0], 1e-8, True),
        (1.0 + 1e-9, 1.0, 1e-8, True),
        ([1.0, [2.0 + 1e-9]], [1.0, [2.0]], 1e-8, True),
        ((1.0,), [1.0], 1e-8, False),
        ([1.0], [1.0, 2.0], 1e-8, False),
        (10**400, 1.0, 1e-8, False),
        ("a", 1.0, 1e-8, False),
        (True, 1.0 + 1e-9, 1e-8, False),
        (float("nan"), 1.0, 1e-8, False),
        (1e9 + 50, 1e9, 1e-8, True),
    ],
)
def test_tolerance_of_the_comparison(actual, expected, atol, equal):
    assert close(actual, expected, atol) is equal


def test_floats_get_a_tolerance_where_the_set_gives_none():
    assert agrees("humaneval+", "f", [1], 1.0 + 1e-8, 1.0, 0.0)
    assert agrees("humaneval+", "f", [1], [1.0 + 1e-8, 2.0], [1.0, 2.0], 0.0)
    assert not agrees("humaneval+", "f", [1], 1.0 + 1e-4, 1.0, 0.0)
    assert not agrees("humaneval+", "f", [1], [1, 2 + 1e-8], [1, 2], 0.0)


@pytest.mark.parametrize(
    "source, entry_point, arguments, actual, expected, right",
    [
        ("humaneval+", "find_zero", [[-6, 11, -6, 1]], 3.0, 1.0, True),
        ("humaneval+", "find_zero", [[-6, 11, -6, 1]], 2.5, 1.0, False),
        ("humaneval+", "find_zero", [[-6, 11, -6, 1]], None, 1.0, False),
        ("katas", "find_zero", [[-6, 11, -6, 1]], 3.0, 1.0, False),
        ("mbpp+", "similar_elements", [(1, 2), (2, 1)], (2, 1), (1, 2), True),
        ("mbpp+", "similar_elements", [(1, 2), (2, 1)], 5, (1, 2), False),
        ("mbpp+", "check_str", ["a"], True, "match", True),
        ("mbpp+", "check_str", ["a"], False, "match", False),
        ("mbpp+", "check_str", ["a"], None, None, True),
        ("mbpp+", "sum_div", [8], 0, 7, True),
        ("mbpp+", "are_equivalent", [1, 2], False, True, True),
        ("mbpp+", "surface_Area", [3, 4], 33, 39, False),
        ("mbpp+", "surface_Area", [3, 4], 35, 33, True),
        ("mbpp+", "digit_distance_nums", [23, 456], 6, 5, False),
        ("mbpp+", "digit_distance_nums", [123, 256], 7, 5, True),
    ],
)
def test_tasks_with_a_rule_of_their_own(source, entry_point, arguments, actual, expected, right):
    assert agrees(source, entry_point, arguments, actual, expected, 0.1 if entry_point == "find_zero" else 0.0) is right


def test_match_objects_count_as_existing(worker):
    canonical = "import re\ndef check_str(s):\n    return re.match('[aeiou]', s)"
    problem = Problem(
        "Mbpp/1", "q", (), "check_str", canonical_solution=canonical, inputs=(["apple"], ["bee"]), source="mbpp+"
    )
    (right, other, wrong) = worker.judge(
        [problem] * 3,
        [canonical + "\n", "def check_str(s): return s[0] in 'aeiou'", "def check_str(s): return True"],
    )
    assert [[test.passed for test in verdict.tests] for verdict in (right, other, wrong)] == [
        [True, True],
        [True, True],
        [True, False],
    ]
