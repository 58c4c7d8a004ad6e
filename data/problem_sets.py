"""Problem sets by name or file, whatever published format the file has."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from couplet.data import arithmetic
from couplet.data.formats import acecode
from couplet.data.formats.columns import Row, RowError, UnjudgeableRow
from couplet.data.formats.competition import IDS
from couplet.data.formats.parquet import ProblemFileError
from couplet.data.formats.table import Reader, format_of
from couplet.data.katas import problems as katas
from couplet.data.katas import routines
from couplet.data.problem import Problem
from couplet.data.sources import SourceError, read_apps_folder, read_hub, read_records

GENERATORS = {"katas": katas.generate, "routines": routines.generate, "arithmetic": arithmetic.arithmetic}


def load_problems(source: str, seed: int = 0, limit: int | None = None) -> list[Problem]:
    """The problems of a source, in its order; `limit` keeps the first ones.

    `source` is `katas:SPLIT`, `routines:SPLIT`, `arithmetic:SPLIT`, or a file (JSONL, JSON, both also gzipped, or
    Parquet) in one of `PROBLEM_FORMATS`, or a folder of APPS's problems. `FILE@SPLIT` keeps one published split of
    MBPP, e.g. `mbpp.jsonl@test`, or chooses a format's variant, e.g. `BigCodeBench.jsonl@instruct`;
    `hub:NAME[@CONFIG][:SPLIT]` reads from the Hugging Face hub. `seed` is for the generated families.

    Raises:
        ProblemFileError: missing or empty file, broken line, missing column, unknown format, a double id, or a problem
            that nothing can judge; the message names file and line.
    """
    family, _, split = source.partition(":")
    if family in GENERATORS:
        try:
            return GENERATORS[family](split, seed)[:limit]
        except ValueError as error:
            raise ProblemFileError(str(error)) from error
    return read_problem_file(source).problems[:limit]


def split_source(source: str) -> tuple[str, str]:
    """Path and split of `FILE@SPLIT`; any other source, and a file that has such a name, is given back with no split."""
    path, at, split = source.rpartition("@")
    return (source, "") if not at or source.startswith("hub:") or Path(source).exists() else (path, split)


def read_rows(source: str) -> Iterator[tuple[str, Row]]:
    """(place, row) of every row of a file or of `hub:NAME[@CONFIG][:SPLIT]`, streamed. ProblemFileError if there is none."""
    empty = True
    try:
        for found in _open_rows(source):
            empty = False
            yield found
    except SourceError as error:
        raise ProblemFileError(str(error)) from error
    if empty:
        raise ProblemFileError(f"{source}: the file is empty")


def _open_rows(source: str) -> Iterator[tuple[str, Row]]:
    if source.startswith("hub:"):
        return read_hub(source.removeprefix("hub:"))
    path = Path(source)
    if path.is_dir() and next(path.glob("*/question.txt"), None):
        return read_apps_folder(path)
    if not path.is_file():
        raise SourceError(f"{source}: no such file (or use katas:SPLIT)")
    return read_records(path)


@dataclass
class ProblemSet:
    """The problems of a file; `refused` says of each row that nothing can judge, by its place, why."""

    problems: list[Problem]
    refused: list[str] = field(default_factory=list)


def read_problem_file(source: str, keep_refused: bool = False) -> ProblemSet:
    """All problems of a file, checked; AceCode's without any choice of difficulty. `source` as `load_problems`.

    Args:
        keep_refused: collect the rows that nothing can judge (interactive problems, no tests) instead of raising.
    """
    path, split = split_source(source)
    rows = read_rows(path)
    place, first = next(rows)
    found = format_of(first)
    if found is None:
        columns = ", ".join(first) or "none"
        raise ProblemFileError(
            f"{path}: unknown problem format (columns {columns}); use prepare with a column mapping to convert it"
        )
    _, problem_format = found
    rows = itertools.chain([(place, first)], rows)
    if problem_format.read is None:
        return ProblemSet(read_acecode(path, rows, "all").problems)
    reader = problem_format.variants.get(split, problem_format.read)
    problems = read_with(path, reader, rows, keep_refused)
    if split and split not in problem_format.variants:
        problems.problems = published_split(path, problems.problems, split, problem_format.variants)
    return problems


def read_with(source: str, read: Reader, rows: Iterable[tuple[str, Row]], keep_refused: bool = False) -> ProblemSet:
    """The problems of rows, checked. Problems without an id are numbered, after the name of the file."""
    stem = Path(source.removeprefix("hub:")).name.split(".")[0]
    found, refused = [], []
    for number, (place, row) in enumerate(rows):
        try:
            problem = at_place(place, read, row)
            if not problem.problem_id:
                problem = replace(problem, problem_id=f"{stem}/{number}")
            if not problem.is_judgeable:
                raise UnjudgeableProblem(
                    f"{place}: problem {problem.problem_id!r} has no tests, so nothing can judge it"
                )
        except UnjudgeableProblem as error:
            if not keep_refused:
                raise
            refused.append(str(error))
            continue
        found.append((place, problem))
    return ProblemSet(check_ids(found), refused)


class UnjudgeableProblem(ProblemFileError):
    """A problem that nothing here can judge; `prepare` counts and names it, and leaves it out."""


def published_split(source: str, problems: list[Problem], split: str, variants: Iterable[str] = ()) -> list[Problem]:
    """The problems of one published split. ProblemFileError that names the splits there are."""
    kept = [problem for problem in problems if problem.metadata.get("split") == split]
    if problems and not kept:
        known = sorted({str(p.metadata["split"]) for p in problems if p.metadata.get("split")} | set(variants))
        raise ProblemFileError(f"{source}: no problem of split {split!r}; it has {', '.join(known) or 'no splits'}")
    return kept


def read_acecode(
    source: str, rows: Iterable[tuple[str, Row]], level: acecode.Level, double: bool = True
) -> acecode.Selection:
    """AceCode's problems of one level, checked; a broken row is named by its place."""
    slim = (at_place(place, acecode.slim_row, row) for place, row in rows)
    try:
        selection = acecode.select(slim, level, double)
    except acecode.NothingRated as error:
        raise ProblemFileError(f"{source}: {error}") from error
    check_ids([(source, problem) for problem in selection.problems])
    return selection


def at_place(place: str, read: Callable[[Row], Any], row: Row) -> Any:
    """`read(row)`; an error names the place and, if the row has an id, the problem."""
    name = next((repr(row[column]) for column in IDS if isinstance(row.get(column), (str, int))), "")
    where = f"{place}: problem {name}" if name else place
    try:
        return read(row)
    except UnjudgeableRow as error:
        raise UnjudgeableProblem(f"{where}: {error}") from error
    except RowError as error:
        raise ProblemFileError(f"{where}: {error}") from error
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise ProblemFileError(f"{where}: a column holds something unexpected: {error!r}") from error


def check_ids(found: Iterable[tuple[str, Problem]]) -> list[Problem]:
    """The problems, given their places. ProblemFileError on a double id."""
    places: dict[str, str] = {}
    problems = []
    for place, problem in found:
        if problem.problem_id in places:
            first = places[problem.problem_id]
            raise ProblemFileError(f"{place}: problem id {problem.problem_id!r} occurs before, at {first}")
        places[problem.problem_id] = place
        problems.append(problem)
    return problems
