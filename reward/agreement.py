"""Whether what a program returned or wrote agrees with what a problem expects; always outside the program's process.

Everything here works on values and texts whose size and keys have been bounded (`sandbox.plain`).
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

from couplet.data.problem import Comparison

FLOAT_TOLERANCE = 1e-6  # if a problem gives none and what it expects is made of floats


def equal(value: Any, expected: Any) -> bool:
    """Python's ``==``; what makes it raise is unequal, and so is a dict in another order than an expected OrderedDict."""
    try:
        return bool(value == expected) and in_order(value, expected)
    except (ArithmeticError, RecursionError, TypeError, ValueError):
        return False


def in_order(value: Any, expected: Any) -> bool:
    """Whether dicts list their keys in the order of the ordered ones in an equal `expected`."""
    if isinstance(expected, dict) and isinstance(value, dict):
        ordered = not isinstance(expected, OrderedDict) or list(value) == list(expected)
        return ordered and all(in_order(value[key], part) for key, part in expected.items())
    if isinstance(expected, (list, tuple)) and isinstance(value, (list, tuple)):
        return all(map(in_order, value, expected))
    return True


def returns_agree(comparison: Comparison, actual: Any, expected: Any) -> bool:
    """Whether a returned value agrees with the expected one under a rule of `CALL_RULES` but ``checker``."""
    tolerance = comparison.tolerance or (FLOAT_TOLERANCE if made_of_floats(expected) else 0.0)

    def agree(actual: Any, expected: Any) -> bool:
        if equal(actual, expected):
            return True
        try:
            return tolerance > 0 and near(actual, expected, tolerance)
        except (ArithmeticError, RecursionError, TypeError, ValueError):
            return False

    if comparison.rule == "equal":
        return agree(actual, expected)
    expected = as_json(expected)
    try:
        actual = as_json(actual)
    except (RecursionError, ValueError):  # ValueError: a key whose number is too long to be written
        return False
    if agree(actual, expected):
        return True
    alone = comparison.rule == "json_or_element" and isinstance(expected, list) and len(expected) == 1
    return alone and agree(actual, expected[0])


def near(actual: Any, expected: Any, tolerance: float) -> bool:
    """Equality with a tolerance for numbers at any depth of lists, tuples and dict values."""
    if isinstance(expected, (list, tuple)):
        same = type(actual) is type(expected) and len(actual) == len(expected)
        return same and all(near(a, b, tolerance) for a, b in zip(actual, expected))
    if isinstance(expected, dict):
        same = isinstance(actual, dict) and actual.keys() == expected.keys()
        return same and all(near(actual[key], part, tolerance) for key, part in expected.items())
    numbers = isinstance(actual, (int, float)) and isinstance(expected, (int, float))
    return bool(actual == expected) or (numbers and close(actual, expected, tolerance))


def close(actual: float, expected: float, tolerance: float) -> bool:
    """|actual - expected| <= tolerance * max(1, |expected|), for finite numbers."""
    finite = math.isfinite(actual) and math.isfinite(expected)
    return finite and abs(actual - expected) <= tolerance * max(1.0, abs(expected))


def made_of_floats(value: Any) -> bool:
    """A float, or a list or tuple of nothing else."""
    if isinstance(value, (list, tuple)) and value:
        return all(isinstance(item, float) for item in value)
    return isinstance(value, float)


def as_json(value: Any) -> Any:
    """A value as JSON would have it: tuples are lists, keys are strings."""
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    if isinstance(value, dict):
        return {_key(key): as_json(part) for key, part in value.items()}
    return value


def _key(key: Any) -> str:
    return {True: "true", False: "false", None: "null"}[key] if isinstance(key, (bool, type(None))) else str(key)


def output_agrees(comparison: Comparison, actual: str, expected: str) -> bool:
    """Whether a program's output agrees with the expected one under a rule of `STDIO_RULES` but ``checker``."""
    actual, expected = (text.replace("\r\n", "\n") for text in (actual, expected))
    return OUTPUT_RULES[comparison.rule](actual, expected, comparison.tolerance)


def _exact(actual: str, expected: str, tolerance: float) -> bool:
    return _stripped(actual) == _stripped(expected)


def _stripped(text: str) -> list[str]:
    lines = [line.rstrip() for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _tokens(actual: str, expected: str, tolerance: float) -> bool:
    return actual.split() == expected.split()


def _float(actual: str, expected: str, tolerance: float) -> bool:
    words, wanted = actual.split(), expected.split()
    return len(words) == len(wanted) and all(_same_word(a, b, tolerance) for a, b in zip(words, wanted))


def _same_word(actual: str, expected: str, tolerance: float) -> bool:
    if actual == expected:
        return True
    if "_" in actual or "_" in expected:
        return False
    try:
        return close(float(actual), float(expected), tolerance)
    except (OverflowError, ValueError):
        return False


def _unordered_lines(actual: str, expected: str, tolerance: float) -> bool:
    found, wanted = (
        Counter(tuple(line.split()) for line in text.split("\n") if line.strip()) for text in (actual, expected)
    )
    return found == wanted


OUTPUT_RULES: dict[str, Callable[[str, str, float], bool]] = {
    "exact": _exact,
    "tokens": _tokens,
    "float": _float,
    "unordered_lines": _unordered_lines,
}
