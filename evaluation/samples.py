"""Sample files: JSON lines of ``{"task_id", "completion"}`` or ``{"task_id", "solution"}``, checked before anything runs."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from couplet.configs.errors import UserError, nearest
from couplet.data.problem import Problem
from couplet.reward.code_format import fenced_code, program_of_sample, whole_program


class SampleFileError(UserError):
    """A sample file that cannot be scored; the message names file and line."""


@dataclass(frozen=True)
class Sample:
    """One answer: `number` counts the samples of its problem from 0; `program` is what is executed."""

    problem: Problem
    number: int
    program: str


def read_samples(path: Path, problems: Sequence[Problem]) -> list[Sample]:
    """The samples of `path` in its order. A repeated task id is a further sample.

    A `completion` continues the prompt, or is a whole program; a `solution` is a whole program; both may be fenced.
    Raises `SampleFileError` naming file and line for broken JSON, missing columns and unknown task ids.
    """
    known = _by_task_id(problems)
    seen: Counter[str] = Counter()
    samples = []
    for number, line in _lines(path):
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise SampleFileError(f"{where}: not JSON: {error}") from None
        problem, program = _read_row(row, known, where)
        samples.append(Sample(problem, seen[problem.problem_id], program))
        seen[problem.problem_id] += 1
    if not samples:
        raise SampleFileError(f"{path}: the file has no samples")
    return samples


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, line
    except (OSError, UnicodeDecodeError) as error:
        raise SampleFileError(f"{path}: cannot be read: {error}") from None


def evalplus_id(problem_id: str) -> str:
    """The task id as EvalPlus spells it: ``Mbpp/601`` for ``MBPP/601``."""
    return problem_id.replace("MBPP/", "Mbpp/", 1) if problem_id.startswith("MBPP/") else problem_id


def _by_task_id(problems: Sequence[Problem]) -> dict[str, Problem]:
    """Problems by id, as EvalPlus spells it too, and by its last part (``601``) where no other problem ends in it."""
    ends = Counter(problem.problem_id.rsplit("/", 1)[-1] for problem in problems)
    known = {}
    for problem in problems:
        end = problem.problem_id.rsplit("/", 1)[-1]
        if ends[end] == 1:
            known[end] = problem
    known |= {evalplus_id(problem.problem_id): problem for problem in problems}
    return known | {problem.problem_id: problem for problem in problems}


def _read_row(row: Any, known: dict[str, Problem], where: str) -> tuple[Problem, str]:
    if not isinstance(row, dict) or "task_id" not in row:
        raise SampleFileError(f"{where}: a sample is an object with a task_id and a completion or a solution")
    task = str(row["task_id"])
    if task not in known:
        near = nearest(task, known)
        hint = f"; did you mean {near!r}?" if near else ""
        raise SampleFileError(f"{where}: unknown task_id {task!r}{hint}")
    texts = {name: row[name] for name in ("completion", "solution") if name in row}
    if len(texts) != 1:
        raise SampleFileError(f"{where}: give either a completion or a solution (found {', '.join(row)})")
    ((name, text),) = texts.items()
    if not isinstance(text, str):
        raise SampleFileError(f"{where}: {name} must be a string, not {type(text).__name__}")
    problem = known[task]
    if name == "solution":
        return problem, whole_program(fenced_code(text), problem)
    return problem, program_of_sample(text, problem)
