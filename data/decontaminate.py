"""Problems of a training set that resemble a benchmark's: shared word n-grams, or the same function name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from data.problem import Problem

_WORD = re.compile(r"[a-z0-9]+")
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
    """All runs of `n` words; the whole text where it is shorter."""
    found = words(text)
    return {tuple(found[i : i + n]) for i in range(max(1, len(found) - n + 1))} if found else set()


def _is_prose(gram: tuple[str, ...]) -> bool:
    return 2 * sum(not word.isdigit() for word in gram) >= len(gram)


def find_overlaps(problems: Sequence[Problem], benchmarks: Sequence[Problem], n: int = 10) -> list[Overlap]:
    """Every resemblance of a problem's question to a benchmark's, at most one of each kind per problem.

    Left out are wording that a benchmark repeats in more than one problem (its frame, not its content), runs that are
    mostly numbers, and `GENERIC_NAMES`.
    """
    owners: dict[tuple[str, ...], str] = {}
    frame: set[tuple[str, ...]] = set()
    names: dict[str, str] = {}
    for benchmark in benchmarks:
        for gram in ngrams(benchmark.question, n):
            if owners.setdefault(gram, benchmark.problem_id) != benchmark.problem_id:
                frame.add(gram)
        if benchmark.entry_point and benchmark.entry_point not in GENERIC_NAMES:
            names.setdefault(benchmark.entry_point, benchmark.problem_id)
    found = []
    for problem in problems:
        shared = sorted(filter(_is_prose, (ngrams(problem.question, n) & owners.keys()) - frame))
        if shared:
            found.append(Overlap(problem.problem_id, owners[shared[0]], "ngram", " ".join(shared[0])))
        if problem.entry_point in names:
            name = str(problem.entry_point)
            found.append(Overlap(problem.problem_id, names[name], "name", name))
    return found
