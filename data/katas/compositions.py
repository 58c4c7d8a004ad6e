"""The primitives of the katas (`primitives.yaml`), how they compose, and the bugs that turn a right program wrong."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

KINDS = ("lists", "strings", "numbers")

_PRIMITIVES = yaml.safe_load(Path(__file__).with_name("primitives.yaml").read_text(encoding="utf-8"))
REDUCERS, MAPS, FILTERS = _PRIMITIVES["reducers"], _PRIMITIVES["maps"], _PRIMITIVES["filters"]
STRING_OPERATIONS = _PRIMITIVES["string_operations"]
CONDITIONS, BRANCHES, BUGS = _PRIMITIVES["conditions"], _PRIMITIVES["branches"], _PRIMITIVES["bugs"]


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
