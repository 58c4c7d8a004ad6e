"""Problem sets by name or file, whatever published format the file has."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from couplet.data import arithmetic
from couplet.data.formats import acecode
from couplet.data.formats import published as formats
from couplet.data.formats.columns import Row, RowError
from couplet.data.formats.parquet import ProblemFileError
from couplet.data.katas import problems as katas
from couplet.data.katas import routines
from couplet.data.problem import Problem
from couplet.data.sources import SourceError, read_hub, read_records

# Recognised by a column that only this format has; the first match counts.
FORMATS: tuple[tuple[str, Callable[[Row], Problem] | None], ...] = (
    ("problem_id", formats.own),
    ("base_input", formats.evalplus),
    ("plus_input", formats.evalplus),
    ("test_cases", None),  # AceCode: chosen among, not read row by row
    ("test_list", formats.mbpp),
    ("entry_point", formats.humaneval),
)
GENERATORS = {"katas": katas.generate, "routines": routines.generate, "arithmetic": arithmetic.arithmetic}


def load_problems(source: str, seed: int = 0, limit: int | None = None) -> list[Problem]:
    """The problems of a source, in its order; `limit` keeps the first ones.

    `source` is `katas:SPLIT`, `routines:SPLIT`, `arithmetic:SPLIT`, or a file (JSONL, JSON, both also gzipped, or Parquet) in the format
    of HumanEval, MBPP (full or sanitised), HumanEval+, MBPP+, AceCode, or `data.formats.parquet`. `FILE@SPLIT` keeps one
    published split of MBPP, e.g. `mbpp.jsonl@test`; `hub:NAME[@CONFIG][:SPLIT]` reads from the Hugging Face hub. `seed`
    serves the generated families.

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
    path, split = split_source(source)
    problems = read_problem_file(path)
    if split:
        known = sorted({str(problem.metadata["split"]) for problem in problems if problem.metadata.get("split")})
        problems = [problem for problem in problems if problem.metadata.get("split") == split]
        if not problems:
            raise ProblemFileError(f"{path}: no problem of split {split!r}; it has {', '.join(known) or 'no splits'}")
    return problems[:limit]


def split_source(source: str) -> tuple[str, str]:
    """Path and split of `FILE@SPLIT`; any other source, and a file that has such a name, is given back with no split."""
    path, at, split = source.rpartition("@")
    return (source, "") if not at or source.startswith("hub:") or Path(source).exists() else (path, split)


def read_rows(source: str) -> Iterator[tuple[str, Row]]:
    """(place, row) of every row of a file or of `hub:NAME[@CONFIG][:SPLIT]`, streamed. ProblemFileError where there is none."""
    empty = True
    try:
        if not source.startswith("hub:") and not Path(source).is_file():
            raise SourceError(f"{source}: no such file (or use katas:SPLIT)")
        is_hub = source.startswith("hub:")
        for found in read_hub(source.removeprefix("hub:")) if is_hub else read_records(Path(source)):
            empty = False
            yield found
    except SourceError as error:
        raise ProblemFileError(str(error)) from error
    if empty:
        raise ProblemFileError(f"{source}: the file is empty")


def read_problem_file(source: str) -> list[Problem]:
    """All problems of a file, checked; AceCode's without any choice of difficulty."""
    rows = read_rows(source)
    place, first = next(rows)
    matches = [reader for column, reader in FORMATS if column in first]
    if not matches:
        columns = ", ".join(first) or "none"
        raise ProblemFileError(
            f"{source}: unknown problem format (columns {columns}); use prepare with a column mapping to convert it"
        )
    rows, reader = itertools.chain([(place, first)], rows), matches[0]
    if reader is None:
        return read_acecode(source, rows, "all").problems
    return check_problems([(place, at_place(place, reader, row)) for place, row in rows])


def read_acecode(
    source: str, rows: Iterable[tuple[str, Row]], level: acecode.Level, double: bool = True
) -> acecode.Selection:
    """AceCode's problems of one level, checked; a broken row is named by its place."""
    slim = (at_place(place, acecode.slim_row, row) for place, row in rows)
    try:
        selection = acecode.select(slim, level, double)
    except acecode.NothingRated as error:
        raise ProblemFileError(f"{source}: {error}") from error
    check_problems([(source, problem) for problem in selection.problems])
    return selection


def at_place(place: str, read: Callable[[Row], Any], row: Row) -> Any:
    """`read(row)`, its complaint turned into one that names the place."""
    try:
        return read(row)
    except RowError as error:
        raise ProblemFileError(f"{place}: {error}") from error
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise ProblemFileError(f"{place}: a column holds something unexpected: {error!r}") from error


def check_problems(found: list[tuple[str, Problem]]) -> list[Problem]:
    """The problems, given their places. ProblemFileError on a double id or a problem that nothing can judge."""
    places: dict[str, str] = {}
    for place, problem in found:
        if problem.problem_id in places:
            first = places[problem.problem_id]
            raise ProblemFileError(f"{place}: problem id {problem.problem_id!r} occurs before, at {first}")
        places[problem.problem_id] = place
        comparable = problem.inputs and problem.entry_point and problem.canonical_solution
        if not problem.tests and not comparable:
            raise ProblemFileError(f"{place}: problem {problem.problem_id!r} has no tests, so nothing can judge it")
    return [problem for _, problem in found]
