"""Sample files, checked before anything runs: JSON lines, a JSON list, Parquet, or bigcode's generations.json.

A row is ``{"task_id", "completion"}`` or ``{"task_id", "solution"}``; generations.json is a list of lists of programs
in the problems' order.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from couplet.configs.errors import UserError, nearest
from couplet.data.answers import program_of_answer
from couplet.data.problem import Problem
from couplet.data.sources import SourceError, holds_one_list, read_json, read_records

log = logging.getLogger(__name__)


class SampleFileError(UserError):
    """A sample file that cannot be scored; the message names file and line."""


@dataclass(frozen=True)
class Sample:
    """One answer: `number` counts the samples of its problem from 0; `program` is what is executed.

    `task_id` is the problem's id as the sample file writes it, to be repeated in its verdict.
    """

    problem: Problem
    number: int
    program: str
    task_id: str | int = ""


def read_samples(path: Path, problems: Sequence[Problem]) -> list[Sample]:
    """The samples of `path` in its order. A repeated task id is a further sample.

    A `completion` continues the prompt, or is a whole program; a `solution` is a whole program, and counts if a row has
    both; null is an empty answer. Both may be in any form of `data.answers`. Raises `SampleFileError` naming file and
    line for broken JSON, missing columns and unknown task ids.
    """
    known = _by_task_id(problems)
    seen: Counter[str] = Counter()
    samples = []
    both = 0
    for place, row in _rows(path, problems):
        problem, program, has_both = _read_row(row, known, place)
        samples.append(Sample(problem, seen[problem.problem_id], program, row["task_id"]))
        seen[problem.problem_id] += 1
        both += has_both
    if not samples:
        raise SampleFileError(f"{path}: the file has no samples")
    if both:
        log.warning("%s: %d samples have a completion and a solution; the solution counts", path, both)
    return samples


def _rows(path: Path, problems: Sequence[Problem]) -> Iterator[tuple[str, Any]]:
    """(place, row) of every sample."""
    if not path.is_file():
        raise SampleFileError(f"{path}: cannot be read: no such file")
    try:
        generations = _generations(path)
        if generations is None:
            yield from read_records(path, any_name=True)
            return
    except SourceError as error:
        raise SampleFileError(str(error)) from None
    if len(generations) != len(problems):
        raise SampleFileError(
            f"{path}: holds programs for {len(generations)} problems; the problem file has {len(problems)}"
        )
    for number, (programs, problem) in enumerate(zip(generations, problems), start=1):
        for place, program in enumerate(programs, start=1):
            yield f"{path}: item {number}, program {place}", {"task_id": problem.problem_id, "solution": program}


def _generations(path: Path) -> list[list[Any]] | None:
    """bigcode's list of lists of programs; None if the file is of another form."""
    if not path.name.lower().endswith((".json", ".json.gz")) or not holds_one_list(path):
        return None
    found = read_json(path)
    return found if found and all(isinstance(item, list) for item in found) else None


def evalplus_id(problem_id: str) -> str:
    """The task id as EvalPlus spells it: ``Mbpp/601`` for ``MBPP/601``."""
    return problem_id.replace("MBPP/", "Mbpp/", 1) if problem_id.startswith("MBPP/") else problem_id


def _by_task_id(problems: Sequence[Problem]) -> dict[str, Problem]:
    """Problems by id, as EvalPlus spells it too, and by its last part (``601``) if no other problem ends in it."""
    ends = Counter(problem.problem_id.rsplit("/", 1)[-1] for problem in problems)
    known = {}
    for problem in problems:
        end = problem.problem_id.rsplit("/", 1)[-1]
        if ends[end] == 1:
            known[end] = problem
    known |= {evalplus_id(problem.problem_id): problem for problem in problems}
    return known | {problem.problem_id: problem for problem in problems}


def _read_row(row: Any, known: dict[str, Problem], place: str) -> tuple[Problem, str, bool]:
    """The problem, the program, and whether the row has both a completion and a solution."""
    if not isinstance(row.get("task_id"), (str, int)) or isinstance(row["task_id"], bool):
        raise SampleFileError(f"{place}: a sample is an object with a task_id and a completion or a solution")
    task = str(row["task_id"])
    if task not in known:
        near = nearest(task, known)
        hint = f"; did you mean {near!r}?" if near else ""
        raise SampleFileError(f"{place}: unknown task_id {task!r}{hint}")
    texts = {name: row[name] for name in ("solution", "completion") if name in row}
    if not texts:
        raise SampleFileError(f"{place}: give a completion or a solution (found {', '.join(row)})")
    name = next((name for name, text in texts.items() if text is not None), next(iter(texts)))
    text = texts[name] if texts[name] is not None else ""
    if not isinstance(text, str):
        raise SampleFileError(f"{place}: {name} must be a string, not {type(text).__name__}")
    has_both = sum(text is not None for text in texts.values()) == 2
    return known[task], program_of_answer(text, known[task], continues=name == "completion"), has_both
