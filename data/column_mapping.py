"""Problems of any file with a prompt and tests, through a mapping of roles to its columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from couplet.data.formats.cases import read_tests
from couplet.data.formats.columns import Row, RowError, chat, column, identifier, parsed, text
from couplet.data.formats.parquet import ProblemFileError
from couplet.data.problem import Problem
from couplet.data.problem_sets import ProblemSet, read_rows, read_with

ROLES = ("id", "prompt", "tests", "entry_point", "solution", "setup", "prefix", "suffix")
DEFAULT_COLUMNS = {"id": "id", "prompt": "prompt", "tests": "tests"}  # the column of a role that is not named


def read_columns(source: str, columns: Mapping[str, str], keep_refused: bool = False) -> ProblemSet:
    """Problems of any file with a prompt and tests, through a mapping of roles (`ROLES`) to its columns.

    Tests come in any form of `data.formats.cases`, the prompt as text or as chat messages; dots lead into nested
    columns. Without an id column the problems are numbered. A column that `columns` names must be in some row, those of
    `id`, `prompt` and `tests` in every one. `keep_refused` as in `read_problem_file`.
    """
    unknown = set(columns) - set(ROLES)
    if unknown:
        raise ProblemFileError(f"columns: no role {', '.join(sorted(unknown))}; use {', '.join(ROLES)}")
    mapping = {**DEFAULT_COLUMNS, **columns}
    absent = set(columns)
    last: tuple[str, Row] = ("", {})

    def watched() -> Iterator[tuple[str, Row]]:
        nonlocal absent, last
        for place, row in read_rows(source):
            absent = {role for role in absent if mapping[role] not in row and column(row, mapping[role]) is None}
            last = place, row
            yield place, row

    read = partial(_mapped, mapping=mapping, id_needed="id" in columns, source=Path(source).name.split(".")[0])
    problems = read_with(source, read, watched(), keep_refused)
    if absent:
        names = ", ".join(f"{mapping[role]!r} (role {role})" for role in sorted(absent))
        raise ProblemFileError(f"{last[0]}: missing column {names}, as in every row; it has {', '.join(last[1])}")
    return problems


def _mapped(row: Row, mapping: Mapping[str, str], id_needed: bool, source: str) -> Problem:
    needed = ["prompt", "tests", *(["id"] if id_needed else [])]
    missing = [f"{mapping[role]!r} (role {role})" for role in needed if column(row, mapping[role]) is None]
    if missing:
        raise RowError(f"missing column {', '.join(missing)}; it has {', '.join(row)}")

    def optional(role: str, default: str | None) -> Any:
        return text(row, mapping[role], default) if role in mapping else default

    question, system = chat(row, mapping["prompt"])
    entry_point = optional("entry_point", None)
    tests = read_tests(mapping["tests"], column(row, mapping["tests"]), entry_point)
    return Problem(
        problem_id=identifier(row, mapping["id"], ""),
        question=question,
        code_prefix=optional("prefix", ""),
        suffix=optional("suffix", ""),
        test_setup=parsed(mapping.get("setup", ""), optional("setup", "")),
        canonical_solution=optional("solution", None),
        source=source,
        metadata={"system": system} if system else {},
        **{"entry_point": entry_point, **tests},
    )
