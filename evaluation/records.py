"""Results that survive a kill: JSON lines appended problem by problem; an unfinished last line is skipped."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from couplet.configs.errors import UserError
from couplet.configs.json_file import read_object
from couplet.configs.load import flat
from couplet.configs.schema import ConfigError
from couplet.data.files import write_json, writing
from couplet.data.jsonl import LineError, append_jsonl, cut_unfinished_line, read_jsonl
from couplet.data.prompts import PromptSet


class Records:
    """One JSON line per problem, keyed by `problem_id`; an existing file is continued after its last whole line.

    Args:
        path: the JSON lines file; created with its folder if missing.

    Attributes:
        rows: the records by problem id, in file order.
        torn: bytes of an unfinished last line that were removed.

    Raises:
        ValueError: a line that is not the record of a problem.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, dict[str, Any]] = {}
        self.torn = 0
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                self.torn = cut_unfinished_line(path)
                self.rows = {self._key(number, row): row for number, row in read_jsonl(path)}
            self._file = path.open("a", encoding="utf-8")

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one record and flush it to the operating system; a problem that already has one is ignored."""
        key = row["problem_id"]
        if key in self.rows:
            return
        with writing(self.path):
            append_jsonl(self._file, row)
        self.rows[key] = dict(row)

    def left(self, prompts: PromptSet) -> tuple[list[int], PromptSet]:
        """The problems without a record: their indices in `prompts`, and themselves."""
        indices = [i for i, problem in enumerate(prompts.problems) if problem.problem_id not in self.rows]
        return indices, prompts.take(indices)

    def of(self, prompts: PromptSet) -> list[dict[str, Any]]:
        """The records in the order of `prompts`. `UserError` if one is missing."""
        missing = [problem.problem_id for problem in prompts.problems if problem.problem_id not in self.rows]
        if missing:
            raise UserError(
                f"{self.path}: no result for {len(missing)} problems, first {missing[0]}; start again to resume"
            )
        return [self.rows[problem.problem_id] for problem in prompts.problems]

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _key(self, number: int, row: Mapping[str, Any]) -> str:
        if not isinstance(row.get("problem_id"), str):
            raise LineError(
                f"{self.path}, line {number}: not the record of a problem (problem_id is missing); delete the line"
            )
        return str(row["problem_id"])


def require_unique(prompts: PromptSet) -> None:
    """`UserError` if two problems have one id: their records would be one."""
    names = [problem.problem_id for problem in prompts.problems]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"problem {twice!r} is duplicated in the set: results are stored by problem id")


def same_run(path: Path, facts: Mapping[str, Any], results: Sequence[Path] = ()) -> None:
    """Store `facts` as JSON at `path`, or check that those already there are the same; see `check_run`."""
    check_run(path, facts, results)
    if not path.exists():
        write_json(path, facts)


def check_run(path: Path, facts: Mapping[str, Any], results: Sequence[Path] = ()) -> None:
    """Check that results may be added to those described by `path`, if there are any; nothing is written.

    Args:
        path: the file with the facts of those results.
        facts: what identifies this run; JSON values.
        results: the files that the facts describe, if known.

    Raises:
        ConfigError: a fact differs, by name, or there are results without facts; so results of two runs never mix.
    """
    there = [str(file) for file in results if file.exists()]
    remedy = f"name another --out, or delete {' and '.join([str(path), *there])}"
    remedy += "" if results else " and the results beside it"
    if not path.exists():
        if there:
            raise ConfigError(f"{there[0]} holds results, but {path}, which describes them, is missing: {remedy}")
        return
    old, new = flat(read_object(path, remedy)), flat(json.loads(json.dumps(facts)))
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            raise ConfigError(
                f"{path} holds results with {name} = {old.get(name)!r}, this run has {new.get(name)!r}: {remedy}"
            )
