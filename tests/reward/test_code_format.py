"""The format rule: what is accepted, what keeps half, what is refused, and which program is executed."""

import pytest

from couplet.data.problem import Problem
from couplet.reward.code_format import program_of_sample, read_answer

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


def test_samples_are_continuations_programs_or_fenced_blocks():
    continued = program_of_sample("    return x\n", HUMANEVAL)
    assert continued == HUMANEVAL.code_prefix + "    return x\n"
    whole = "def f(x):\n    return x\n"
    assert program_of_sample(whole, HUMANEVAL) == HUMANEVAL.code_prefix + "\n" + whole
    assert program_of_sample(f"Sure:\n```python\n{whole}```\nDone.", HUMANEVAL) == HUMANEVAL.code_prefix + "\n" + whole
    assert program_of_sample(f"```\n{whole}", PLAIN) == whole
