"""`prepare rate`: how often a model solves each problem, and the difficulty levels that follow from it.

Sampling and judging come from outside as functions: completions from an endpoint (`serving.completions`) or from our
own policy, verdicts from the reward workers. Completions and ratings are appended to files as they come, so an
interrupted rating resumes from there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from couplet.data.files import writing
from couplet.data.formats.parquet import ProblemFileError
from couplet.data.jsonl import LineError, cut_unfinished_line, read_jsonl
from couplet.data.levels import Choice, Level, choose
from couplet.data.problem import Problem

# Problems in, one list of completion texts per problem out, in their order, each as soon as it is there.
Sample = Callable[[Sequence[Problem]], Iterable[list[str]]]
# Problems with their completions in; one pass rate per completion out, None if there was no verdict.
Judge = Callable[[Sequence[Problem], Sequence[Sequence[str]]], list[list[float | None]]]


@dataclass(frozen=True)
class Rating:
    """Pass rates of one problem's completions, those without a verdict left out."""

    problem_id: str
    rates: tuple[float, ...]
    lost: int = 0  # completions without a verdict

    @property
    def solved(self) -> int:
        """Completions that passed all tests: c of pass@k."""
        return sum(rate >= 1.0 for rate in self.rates)


def rate(
    problems: Sequence[Problem],
    sample: Sample,
    judge: Judge,
    ratings_file: str | Path,
    batch: int = 64,
    completions_file: str | Path | None = None,
) -> Iterator[Rating]:
    """Rate `problems` in their order, `batch` at a time, and yield each rating as it becomes known.

    Ratings found in `ratings_file` (JSON lines) are yielded first and not repeated; new ones are appended to it, and
    completions to `completions_file`, from which they are not sampled again. LineError if a line other than an
    unfinished last one is broken, ConfigError if a file cannot be written.
    """
    path = Path(ratings_file)
    kept = read_completions(completions_file) if completions_file else {}
    known = {problem.problem_id for problem in problems}
    done: dict[str, Rating] = {r.problem_id: r for r in read_ratings(path) if r.problem_id in known}
    yield from done.values()
    missing = [problem for problem in problems if problem.problem_id not in done]
    for start in range(0, len(missing), batch):
        chunk = missing[start : start + batch]
        wanted = [problem for problem in chunk if problem.problem_id not in kept]
        for problem, texts in zip(wanted, sample(wanted) if wanted else (), strict=True):
            kept[problem.problem_id] = texts
            if completions_file:
                _append(Path(completions_file), [{"problem_id": problem.problem_id, "texts": texts}])
        verdicts = judge(chunk, [kept[problem.problem_id] for problem in chunk])
        ratings = [_rating(problem, found) for problem, found in zip(chunk, verdicts, strict=True)]
        _append(path, [{"problem_id": r.problem_id, "rates": r.rates, "lost": r.lost} for r in ratings])
        yield from ratings


def _rating(problem: Problem, verdicts: Sequence[float | None]) -> Rating:
    rates = tuple(float(value) for value in verdicts if value is not None)
    return Rating(problem.problem_id, rates, len(verdicts) - len(rates))


def _append(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    lines = [json.dumps(row) + "\n" for row in rows]
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(lines))
            file.flush()
            os.fsync(file.fileno())


def read_completions(path: str | Path) -> dict[str, list[str]]:
    """Problem id to the texts in a file of completions, none if it does not exist; see `read_ratings`."""
    return {row["problem_id"]: row["texts"] for row in _rows(Path(path), "completions", ("problem_id", "texts"))}


def read_ratings(path: str | Path) -> list[Rating]:
    """The ratings of a file, none if it does not exist; an unfinished last line is cut off the file."""
    rows = _rows(Path(path), "a rating", ("problem_id", "rates", "lost"))
    return [Rating(row["problem_id"], tuple(row["rates"]), row["lost"]) for row in rows]


def _rows(path: Path, what: str, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of a file, none if it does not exist."""
    if not path.is_file():
        return
    cut_unfinished_line(path)
    for number, row in read_jsonl(path):
        lists = all(isinstance(row.get(name), list) for name in names if name in ("rates", "texts"))
        if not lists or not row.keys() >= set(names):
            raise LineError(f"{path}, line {number}: not {what} ({', '.join(names)}); delete the line")
        yield row


def select_level(problems: Sequence[Problem], ratings: Sequence[Rating], level: Level) -> tuple[list[Problem], Choice]:
    """Problems of a difficulty level, by `data.levels` over the rated ones, with their pass rates in the metadata.

    Problems without a rating are dropped and counted in the choice. ProblemFileError if none is rated.
    """
    rates = {rating.problem_id: rating.rates for rating in ratings if rating.rates}
    rated = [problem for problem in problems if problem.problem_id in rates]
    if not rated:
        raise ProblemFileError(f"none of {len(problems)} problems has a rating")
    choice = choose([rates[problem.problem_id] for problem in rated], level)
    choice.dropped["no pass rate"] = len(problems) - len(rated)
    kept = [
        replace(problem, metadata={**problem.metadata, "pass_rate": float(np.mean(rates[problem.problem_id]))})
        for problem, keep in zip(rated, choice.keep_N)
        if keep
    ]
    return kept, choice
