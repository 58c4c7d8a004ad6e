"""Problems of a training set that resemble a benchmark's: shared word n-grams, or the same function name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from couplet.data.problem import Problem
from couplet.data.syntax import called_function

_WORD = re.compile(r"[a-z0-9]+")
# Wording that this many problems of one benchmark file share is its frame, not the content of any of them.
FRAME_PROBLEMS = 5
# Names that say nothing about what a function does.
GENERIC_NAMES = frozenset(("f", "g", "func", "function", "main", "run", "search", "solution", "solve", "test"))


@dataclass(frozen=True)
class Overlap:
    """One resemblance: `reason` is `ngram` (detail: the shared words) or `name` (detail: the function)."""

    problem_id: str
    benchmark_id: str
    reason: Literal["ngram", "name"]
    detail: str


def words(text: str) -> list[str]:
    """Lower-case words and numbers; punctuation and layout do not count."""
    return _WORD.findall(text.lower())


def ngrams(text: str, n: int) -> set[tuple[str, ...]]:
    """All runs of `n` words; the whole text if it is shorter."""
    found = words(text)
    return {tuple(found[i : i + n]) for i in range(max(1, len(found) - n + 1))} if found else set()


def _frame(benchmark: Sequence[Problem], n: int) -> set[tuple[str, ...]]:
    """Runs of words in `FRAME_PROBLEMS` problems of one file or more; ids that differ only in case are one problem."""
    grams: dict[str, set[tuple[str, ...]]] = {}
    for problem in benchmark:
        grams.setdefault(problem.problem_id.casefold(), set()).update(ngrams(problem.question, n))
    counts = Counter(gram for found in grams.values() for gram in found)
    return {gram for gram, count in counts.items() if count >= FRAME_PROBLEMS}


def _function(problem: Problem) -> str | None:
    """The function under test, if its name says something."""
    name = problem.entry_point or called_function(problem.tests, problem.canonical_solution)
    return None if name in GENERIC_NAMES else name


def find_overlaps(problems: Sequence[Problem], *benchmarks: Sequence[Problem], n: int = 10) -> list[Overlap]:
    """Every resemblance of a problem's question to a benchmark's, at most one of each kind per problem.

    Left out are the frame of each benchmark (the wording that `FRAME_PROBLEMS` of its problems repeat), runs that are
    mostly numbers, and `GENERIC_NAMES`. A problem without an entry point goes by the function its tests call.

    Args:
        problems: the training set.
        benchmarks: one set of problems per benchmark file.
        n: words in a row that count as a resemblance.
    """
    owners: dict[tuple[str, ...], str] = {}
    frame: set[tuple[str, ...]] = set()
    names: dict[str, str] = {}
    for benchmark in benchmarks:
        frame |= _frame(benchmark, n)
        for target in benchmark:
            for gram in ngrams(target.question, n):
                owners.setdefault(gram, target.problem_id)
            if name := _function(target):
                names.setdefault(name, target.problem_id)
    found = []
    for problem in problems:
        common = (ngrams(problem.question, n) & owners.keys()) - frame
        shared = sorted(gram for gram in common if 2 * sum(not word.isdigit() for word in gram) >= len(gram))
        if shared:
            found.append(Overlap(problem.problem_id, owners[shared[0]], "ngram", " ".join(shared[0])))
        name = _function(problem)
        if name in names:
            found.append(Overlap(problem.problem_id, names[name], "name", name))
    return found
