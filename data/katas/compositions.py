"""The primitives of the katas, how they compose, and the bugs that turn a right program into a wrong one."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache

KINDS = ("lists", "strings", "numbers")

# Each primitive: name -> (words, code).
REDUCERS = {
    "sum": ("the sum of", "sum({})"),
    "max": ("the largest of", "max({})"),
    "min": ("the smallest of", "min({})"),
    "list": ("the list of", "[{}]"),
    "sorted": ("the sorted list of", "sorted({})"),
    "set": ("the set of", "{{{}}}"),
}
MAPS = {
    "double": ("doubled", "x * 2"),
    "triple": ("tripled", "x * 3"),
    "quadruple": ("quadrupled", "x * 4"),
    "square": ("squared", "x * x"),
    "cube": ("cubed", "x ** 3"),
    "negate": ("negated", "-x"),
    "halve": ("halved", "x // 2"),
    "increment": ("increased by one", "x + 1"),
    "decrement": ("decreased by one", "x - 1"),
    "add_five": ("increased by five", "x + 5"),
}
FILTERS = {
    "even": ("the even numbers", "x % 2 == 0"),
    "odd": ("the odd numbers", "x % 2 == 1"),
    "threes": ("the multiples of three", "x % 3 == 0"),
    "fives": ("the multiples of five", "x % 5 == 0"),
    "positive": ("the positive numbers", "x > 0"),
    "negative": ("the negative numbers", "x < 0"),
    "above_three": ("the numbers above three", "x > 3"),
    "below_seven": ("the numbers below seven", "x < 7"),
    "from_two": ("the numbers not below two", "x >= 2"),
    "to_four": ("the numbers not above four", "x <= 4"),
}
STRING_OPERATIONS = {
    "reverse": ("reversed", "{}[::-1]"),
    "upper": ("in upper case", "{}.upper()"),
    "lower": ("in lower case", "{}.lower()"),
    "swap_case": ("with swapped case", "{}.swapcase()"),
    "strip": ("stripped", "{}.strip()"),
    "drop_first": ("without the first letter", "{}[1:]"),
    "drop_last": ("without the last letter", "{}[:-1]"),
    "every_second": ("with every second letter", "{}[::2]"),
    "first_four": ("cut to the first four", "{}[:4]"),
    "last_four": ("cut to the last four", "{}[-4:]"),
    "repeat": ("repeated twice", "{} * 2"),
    "exclaim": ("with a bang added", '{} + "!"'),
    "title": ("in title case", "{}.title()"),
    "a_to_o": ("with a turned into o", '{}.replace("a", "o")'),
}
CONDITIONS = {
    "even": ("is even", "n % 2 == 0"),
    "threes": ("is a multiple of three", "n % 3 == 0"),
    "positive": ("is positive", "n > 0"),
    "negative": ("is negative", "n < 0"),
    "above_five": ("is above five", "n > 5"),
    "to_four": ("is not above four", "n <= 4"),
}
BRANCHES = {
    "double": ("n doubled", "n * 2"),
    "triple": ("n tripled", "n * 3"),
    "square": ("n squared", "n * n"),
    "negate": ("n negated", "-n"),
    "halve": ("n halved", "n // 2"),
    "increment": ("n increased by one", "n + 1"),
    "decrement": ("n decreased by one", "n - 1"),
    "zero": ("zero", "0"),
    "itself": ("n itself", "n"),
}

# Bugs that leave the length in tokens unchanged: what a careless author writes, what the tests must catch, and what
# the messy corpus repeats.
BUGS = (
    (" > ", " >= "),
    (" < ", " <= "),
    (" >= ", " > "),
    (" <= ", " < "),
    (" == 0", " == 1"),
    (" == 1", " == 0"),
    (" + ", " - "),
    (" - ", " + "),
    (" // ", " * "),
    ("max(", "min("),
    ("min(", "max("),
    ("x * x", "x + x"),
    ("n * n", "n + n"),
    ("** 3", "** 2"),
    (" * 2", " * 3"),
    (" * 3", " * 2"),
    (" * 4", " * 2"),
    (".upper()", ".lower()"),
    (".lower()", ".upper()"),
    (".title()", ".upper()"),
    (".swapcase()", ".lower()"),
    (".strip()", ".upper()"),
    ("[::-1]", "[::-2]"),
    ("[::2]", "[::3]"),
    ("[1:]", "[2:]"),
    ("[:-1]", "[:-2]"),
    ("[:4]", "[:3]"),
    ("[-4:]", "[-3:]"),
    ('"!"', '"?"'),
    ('"a", "o"', '"o", "a"'),
)


@dataclass(frozen=True)
class Composition:
    """One way of composing primitives: its kind, the primitives' names, what it asks for, and the function body."""

    kind: str
    parts: tuple[str, ...]
    wording: str
    expression: str

    @property
    def argument(self) -> str:
        """Name of the parameter of `f`."""
        return {"lists": "xs", "strings": "s", "numbers": "n"}[self.kind]

    @property
    def program(self) -> str:
        """The canonical solution."""
        return f"def f({self.argument}):\n    return {self.expression}"


def _lists() -> list[Composition]:
    found = []
    for (filtered, (kept, condition)), (reducer, (noun, code)) in itertools.product(FILTERS.items(), REDUCERS.items()):
        for mapped, (verb, formula) in MAPS.items():
            body = code.format(f"{formula} for x in xs if {condition}")
            found.append(Composition("lists", (reducer, mapped, filtered), f"{noun} {kept} in xs, each {verb}", body))
    for filtered, (kept, condition) in FILTERS.items():
        body = f"len([x for x in xs if {condition}])"
        found.append(Composition("lists", ("count", filtered), f"the count of {kept} in xs", body))
    return found


def _strings() -> list[Composition]:
    found = []
    for (first, (words, code)), (second, (then, outer)) in itertools.permutations(STRING_OPERATIONS.items(), 2):
        inner = code.format("s")
        body = outer.format(f"({inner})" if first in ("repeat", "exclaim") else inner)
        found.append(Composition("strings", (first, second), f"s {words}, then {then}", body))
    return found


def _numbers() -> list[Composition]:
    found = []
    for condition, (words, test) in CONDITIONS.items():
        for (yes, (gain, left)), (no, (other, right)) in itertools.permutations(BRANCHES.items(), 2):
            wording = f"{gain} if n {words}, otherwise {other}"
            found.append(Composition("numbers", (condition, yes, no), wording, f"{left} if {test} else {right}"))
    return found


@cache
def compositions(kind: str) -> tuple[Composition, ...]:
    """All compositions of one kind, in a fixed order."""
    return tuple({"lists": _lists, "strings": _strings, "numbers": _numbers}[kind]())


def buggy_variants(expression: str) -> list[str]:
    """`expression` with one bug of `BUGS` at a time, at its first place; empty if none applies."""
    return [expression.replace(right, wrong, 1) for right, wrong in BUGS if right in expression]
