"""The format rule: what is accepted, what keeps half, what is refused, and which program is executed."""

import pytest

from couplet.data.problem import Problem
from couplet.reward.code_format import read_answer

PLAIN = Problem("p", "q", ("assert f(1) == 1",))
HUMANEVAL = Problem(
    "h",
    "q",
    entry_point="f",
    code_prefix='import math\n\ndef helper(x):\n    return x\n\ndef f(x):\n    """Doc."""\n',
)


@pytest.mark.parametrize(
    "text, score",
    [
        ("```python\nx = 1\n```", 1.0),
        ("Some prose.\nHere:\n```python\nx = 1\n```\n \n", 1.0),
        ("```python\n```", 1.0),
        ("```python\nx = = 1\n```", 0.5),
        ("```python\nx = '\x00'\n```", 0.5),
        ("```python\n" + "(" * 9000 + "\n```", 0.5),
        ("x = 1", 0.0),
        ("```Python\nx = 1\n```", 0.0),
        ("```python \nx = 1\n```", 0.0),
        ("```py\nx = 1\n```", 0.0),
        ("```python\nx = 1\n``` and more", 0.0),
        ("```python\nx = 1\n```\n```python\ny = 1\n```", 0.0),
        ("```python\nx = 1", 0.0),
        ("", 0.0),
    ],
)
def test_format_scores(text, score):
    assert read_answer(text, PLAIN).score == score


def test_strict_format_wants_exactly_one_newline_after_the_fence():
    assert read_answer("```python\nx = 1\n```\n", PLAIN, strict=True).score == 1.0
    assert read_answer("```python\nx = 1\n```", PLAIN, strict=True).score == 0.0
    assert read_answer("```python\nx = 1\n```\n\n", PLAIN, strict=True).score == 0.0


def test_the_parsed_code_is_the_executed_code():
    assert read_answer("prose\n```python\nx = 1\n```", PLAIN).program == "x = 1\n"
    assert read_answer("```python\ndef f(x):\n    return x\n```", HUMANEVAL).program == (
        HUMANEVAL.code_prefix + "\ndef f(x):\n    return x\n"
    )


def test_a_text_without_a_fence_is_what_is_missing_before_the_suffix():
    gap = Problem("g", "q", entry_point="f", code_prefix="def f(x):\n    return x", suffix=" / 1\n")
    assert read_answer(" * 2", gap) == (1.0, "def f(x):\n    return x * 2 / 1\n")
    assert read_answer(" * ", gap).score == 0.5
    assert read_answer("```python\ndef f(x):\n    return 2\n```", gap).score == 1.0
