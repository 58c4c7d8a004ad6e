"""AceCode-87K as DiffuCoder trained on it: a difficulty level, doubled prompts, a test case in the question.

The rules are those of DiffuCoder's released data script, restated. The pass rates of `RATED_MODELS` are pooled per
problem; problems without any are dropped before the thresholds are taken (`data.levels`).
"""

from __future__ import annotations

import builtins
import importlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from couplet.configs.errors import UserError
from couplet.data.formats.columns import Row, RowError, identifier, items, number, text, texts
from couplet.data.formats.wording import SYSTEM, completion_question
from couplet.data.levels import Level, choose
from couplet.data.problem import Problem
from couplet.data.syntax import NotPython, called_names, parse

# fmt: off
STANDARD = (
    "bisect", "collections", "copy", "datetime", "decimal", "fractions", "functools", "heapq", "itertools", "json", "math",
    "operator", "random", "re", "statistics", "types",
)
# fmt: on
RATED_MODELS = ("qwen_coder_2.5", "llama3_instruct")


class NothingRated(UserError):
    """No problem is left to choose from."""


@dataclass(frozen=True)
class SlimRow:
    """What the rules need of a row: its many inferences reduced to pass rates and one signature."""

    row_id: str
    origin: str
    question: str
    tests: tuple[str, ...]
    rates: tuple[float, ...]
    signature: str | None


@dataclass(frozen=True)
class Selection:
    """Problems chosen, what was dropped and why, and the thresholds used."""

    problems: list[Problem]
    read: int
    dropped: Counter[str]
    thresholds: dict[str, float]
    doubled: int


def slim_row(row: Row) -> SlimRow:
    """A row of the published file, reduced. RowError if a column is missing or of another type."""
    missing = [name for name in ("id", "question", "test_cases", "inferences") if row.get(name) is None]
    if missing:
        raise RowError(f"missing column {', '.join(map(repr, missing))} of AceCode (found {', '.join(row)})")
    inferences = items(row, "inferences", dict, "a list of inferences")
    rated = [(text(i, "model_name"), number(i, "pass_rate")) for i in inferences]
    return SlimRow(
        row_id=identifier(row, "id"),
        origin=text(row, "source", ""),
        question=text(row, "question"),
        tests=texts(row, "test_cases"),
        rates=tuple(rate for model, rate in rated if model in RATED_MODELS),
        signature=_signature(inferences, [rate for _, rate in rated]),
    )


def _signature(inferences: list[Row], rates: list[float]) -> str | None:
    """The head of the first inference of maximal pass rate over all models, if it begins with a function."""
    if not inferences:
        return None
    best = text(inferences[rates.index(max(rates))], "completion")
    head: str = best.split(":\n")[0].strip()
    return head if head.startswith("def ") else None


def select(rows: Iterable[SlimRow], level: Level = "hard", double: bool = True) -> Selection:
    """The problems of one difficulty level, in file order, each followed by its doubled form if it has one.

    Problems without a rating are dropped first, but kept by level `all`; problems without tests last, after the
    thresholds. NothingRated if no problem is rated.
    """
    dropped: Counter[str] = Counter()
    candidates = []
    read = 0
    for row in rows:
        read += 1
        if not row.rates and level != "all":
            dropped["no pass rate"] += 1
        else:
            candidates.append(row)
    if not candidates:
        models = " or ".join(RATED_MODELS)
        raise NothingRated(f"no problem with a pass rate of {models} among {read}: dropped {dict(dropped)}")
    choice = choose([row.rates for row in candidates], level)
    problems: list[Problem] = []
    doubled = 0
    for row, kept in zip(candidates, choice.keep_N):
        if not kept:
            continue
        if not row.tests:
            dropped["no tests"] += 1
            continue
        problems.append(_problem(row, row.question, row.row_id))
        if double and row.signature and "you" not in row.question.lower():
            problems.append(_problem(row, doubled_question(row.signature, row.question), f"{row.row_id}/complete"))
            doubled += 1
    return Selection(problems, read, dropped + choice.dropped, choice.thresholds, doubled)


def doubled_question(signature: str, question: str) -> str:
    """The question as the docstring of a function to be completed."""
    return completion_question(f'{signature}:\n    """\n    {question}\n    """')


def _problem(row: SlimRow, question: str, problem_id: str) -> Problem:
    if "\n```\n" not in question:
        question += "\nTest cases: " + row.tests[0]
    return Problem(
        problem_id=problem_id,
        question=question,
        tests=row.tests,
        entry_point=_called(row.tests),
        source="acecode",
        metadata={"system": SYSTEM, "origin": row.origin},
    )


def _called(tests: tuple[str, ...]) -> str | None:
    """Name of the function under test: the first one a test calls that is neither a built-in nor of the standard library.

    If a test calls nothing else, one of the standard library is taken: a problem may ask for its like.
    """
    for test in tests:
        names = [name for name in _calls(test) if not hasattr(builtins, name)]
        if names:
            return next((name for name in names if name not in _standard_names()), names[0])
    return None


def _calls(test: str) -> list[str]:
    """Names that a test calls, from the outermost call inwards; none if it does not parse."""
    try:
        return called_names(parse(test))
    except NotPython:
        return []


@lru_cache(maxsize=1)
def _standard_names() -> frozenset[str]:
    """What tests tend to call of the standard library without importing it."""
    return frozenset(name for module in STANDARD for name in vars(importlib.import_module(module)))
