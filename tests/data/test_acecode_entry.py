"""The function under test, read off AceCode's tests: never what the tests themselves compute with."""

import pytest

from couplet.data.formats.acecode import SlimRow, select


def entry_point(*tests):
    (problem,) = select([SlimRow("a", "o", "Add.", tests, (0.5,), None)], level="all", double=False).problems
    return problem.entry_point


@pytest.mark.parametrize(
    "test",
    [
        "assert f(1) == 2",
        "assert (f(1) == 2)",
        "assert abs(f(1.5) - 3.0) < 1e-6",
        "assert isinstance(f(1), list)",
        "assert all(a <= b for a, b in zip(f(3), f(3)[1:]))",
        "assert any(x == 3 for x in f(3))",
        "assert callable(f(3))",
        "assert max(f(3), 5) == 5",
        "assert len(f([1])) == 1",
        "assert isclose(f(1), 2.5)",
        "assert math.isclose(f(1), 2.5)",
        "assert np.allclose(f(1), [2.5])",
        "assert Counter(f('aab')) == Counter(f('aab'))",
        "assert f(datetime(2020, 1, 1)) == 3",
    ],
)
def test_built_ins_and_the_standard_library_are_never_the_function_under_test(test):
    assert entry_point(test) == "f"


def test_a_later_test_tells_where_the_first_does_not():
    assert entry_point("assert callable(f)", "assert f(1) == 2") == "f"
    assert entry_point("assert sorted([2, 1]) == [1, 2]") is None
    assert entry_point("assert f(", "assert f(1) == 2") == "f"


def test_a_name_of_the_standard_library_is_taken_where_nothing_else_is_called():
    assert entry_point("assert gcd(4, 6) == 2", "assert helper(gcd(4, 6)) == 2") == "gcd"
    assert entry_point("assert Stack().size() == 0") == "Stack"
