"""Sets of competitive programming: a task, and programs for stdin or calls of a function, as JSON.

APPS, TACO, CodeContests, Codeforces, LiveCodeBench and the sets that restate them. Calls get `PREAMBLE`, because tasks
in LeetCode's form are written for a judge that imports these modules; programs for stdin get nothing.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from couplet.data.formats.cases import Fields, read_tests, stdio_fields, unpacked
from couplet.data.formats.columns import (
    Row,
    RowError,
    UnjudgeableRow,
    column,
    identifier,
    need,
    text,
    unexpected,
)
from couplet.data.problem import Problem
from couplet.data.syntax import parses

_MODULES = ("collections", "functools", "heapq", "itertools", "bisect", "math", "string", "random", "re", "operator")
PREAMBLE = "".join(f"from {name} import *\n" for name in (*_MODULES[:6], "typing", "builtins"))
PREAMBLE += f"import {', '.join((*_MODULES, 'copy', 'sys'))}"
PROGRAM = "Write a program that reads from standard input and writes to standard output."
STATEMENTS = ("question", "question_content", "problem", "description", "prompt", "text", "instruction")
IDS = ("id", "task_id", "question_id", "problem_id", "name")
PYTHON3 = 3  # CodeContests' number of the language


def inputs_and_outputs(row: Row) -> Problem:
    """A task with the columns `inputs` and `outputs`, and `fn_name` for calls."""
    return _problem(row, "", read_tests("inputs, outputs", {name: row[name] for name in row}))


def apps(row: Row) -> Problem:
    """APPS (Hendrycks et al. 2021) and TACO (Li et al. 2023): question, input_output, starter_code, solutions."""
    need(row, "APPS", "question", "input_output")
    return _problem(row, "apps", read_tests("input_output", row["input_output"]))


def code_contests(row: Row) -> Problem:
    """CodeContests (Li et al. 2022): description, and tests in three columns."""
    need(row, "CodeContests", "description")
    for name in ("input_file", "output_file"):
        if row.get(name):
            raise UnjudgeableRow(
                f"{name!r} is {row[name]!r}: the program reads or writes a file; only stdin and stdout are judged"
            )
    tests: dict[str, list[str]] = {"input": [], "output": []}
    for name in ("public_tests", "private_tests", "generated_tests"):
        found = row.get(name) or {}
        for part, values in tests.items():
            values += found.get(part) or []
    problem = _problem(row, "codecontests", read_tests("public_tests, private_tests, generated_tests", tests))
    limit = row.get("time_limit") or {}
    seconds = (limit.get("seconds") or 0) + (limit.get("nanos") or 0) / 1e9 if isinstance(limit, Mapping) else 0
    return _with_metadata(problem, {"time_limit": seconds} if seconds else {})


def cure(row: Row) -> Problem:
    """CodeContests as CURE restates it (Wang et al. 2025): question, test_input, test_output."""
    need(row, "CURE", "question", "test_input", "test_output")
    return _problem(
        row, "codecontests", read_tests("test_input", {"inputs": row["test_input"], "outputs": row["test_output"]})
    )


def codeforces(row: Row) -> Problem:
    """open-r1/codeforces: the statement in parts, official tests, and a checker if several answers are right."""
    need(row, "Codeforces", "description", "official_tests")
    if row.get("interaction_format"):
        raise UnjudgeableRow("'interaction_format' is given: interactive problems cannot be judged")
    if row.get("input_mode") == "file":
        raise UnjudgeableRow("'input_mode' is 'file': only programs for stdin and stdout are judged")
    cases = [*(row.get("examples") or []), *row["official_tests"]]
    fields = read_tests("official_tests", cases)
    if checker := text(row, "generated_checker", ""):
        fields = stdio_fields(fields["stdio"], checker_of_program(checker))
    titles = {"input_format": "Input", "output_format": "Output", "note": "Note"}
    parts = [text(row, "title", ""), text(row, "description")]
    parts += [f"{title}:\n{row[name]}" for name, title in titles.items() if row.get(name)]
    parts += [
        f"Example input:\n{case['input']}\nExample output:\n{case['output']}" for case in row.get("examples") or []
    ]
    problem = _problem({**row, "question": "\n\n".join(filter(None, parts))}, "codeforces", fields)
    return _with_metadata(problem, {"time_limit": row["time_limit"]} if row.get("time_limit") else {})


def livecodebench(row: Row) -> Problem:
    """LiveCodeBench (Jain et al. 2024): public tests as JSON, private ones also compressed and pickled."""
    need(row, "LiveCodeBench", "question_content", "public_test_cases")
    cases: list[Any] = []
    for name in ("public_test_cases", "private_test_cases"):
        found = unpacked(name, text(row, name, "[]"))
        if not isinstance(found, list):
            raise unexpected(name, found, "a list of cases with input, output and testtype")
        cases += found
    return _problem(row, "livecodebench", read_tests("public_test_cases", cases, column(row, "metadata.func_name")))


def verified(row: Row) -> Problem:
    """SYNTHETIC-1 (Prime Intellect): prompt, and test cases in verification_info."""
    need(row, "SYNTHETIC-1", "prompt", "verification_info")
    language = column(row, "verification_info.language") or "python"
    if str(language).lower() not in ("python", "python3"):
        raise UnjudgeableRow(f"'verification_info.language' is {language!r}; only Python is judged")
    return _problem(row, "synthetic-1", read_tests("verification_info", row["verification_info"]))


def deepcoder(row: Row) -> Problem:
    """DeepCoder (Agentica): problem, tests, solutions."""
    need(row, "DeepCoder", "problem", "tests")
    return _problem(row, "deepcoder", read_tests("tests", row["tests"], column(row, "metadata.func_name")))


def _problem(row: Row, source: str, fields: Fields) -> Problem:
    statement = next((text(row, name).strip() for name in STATEMENTS if isinstance(row.get(name), str)), None)
    if statement is None:
        raise RowError(f"missing column of the task, one of {', '.join(STATEMENTS)} (found {', '.join(row)})")
    is_program = "stdio" in fields
    preamble = "" if is_program else PREAMBLE
    solution = next((code for code in _solutions(row) if parses(code)), None)
    return Problem(
        problem_id=next((identifier(row, name) for name in IDS if row.get(name) is not None), ""),
        question=f"{statement}\n\n{PROGRAM if is_program else _asked(row, fields)}\n",
        preamble=preamble,
        canonical_solution=solution and (f"{preamble}\n{solution}" if preamble else solution),
        source=source,
        metadata={"difficulty": str(row["difficulty"])} if row.get("difficulty") is not None else {},
        **fields,
    )


def _asked(row: Row, fields: Fields) -> str:
    starter = text(row, "starter_code", "")
    if starter.strip():
        return f"Start from:\n```python\n{starter.rstrip()}\n```"
    return f"Write a function named {fields['entry_point']}." if "calls" in fields else ""


def _with_metadata(problem: Problem, more: Mapping[str, Any]) -> Problem:
    return replace(problem, metadata={**problem.metadata, **more})


def _solutions(row: Row) -> Iterable[str]:
    """Published programs in Python: a text, a list, such a list as JSON text, or CodeContests' languages and texts."""
    found: Any = next((row[name] for name in ("solutions", "gold_standard_solution", "solution") if row.get(name)), [])
    if isinstance(found, str):
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(found)
    if isinstance(found, Mapping):
        pairs = zip(found.get("language") or [], found.get("solution") or [])
        found = [code for language, code in pairs if language == PYTHON3]
    for code in [found] if isinstance(found, str) else found:
        if isinstance(code, str):
            yield _unfenced(code)


def _unfenced(code: str) -> str:
    lines = code.strip().split("\n")
    return "\n".join(lines[1:-1]) + "\n" if lines[0].startswith("```") and lines[-1] == "```" else code


_CHECKER = '''
import builtins, contextlib, io, sys

PROGRAM = {program!r}


def check(input, expected, actual):
    """Run the program as `checker.py INPUT EXPECTED ACTUAL`; it prints 1, 100 or a share of points."""
    files = dict(zip(("input.txt", "expected.txt", "actual.txt"), (input, expected, actual)))

    def open_text(path, *arguments, **named):
        return io.StringIO(files[str(path)]) if str(path) in files else builtins.open(path, *arguments, **named)

    written, before = io.StringIO(), sys.argv
    sys.argv = ["checker.py", *files]
    try:
        with contextlib.redirect_stdout(written):
            exec(compile(PROGRAM, "checker.py", "exec"), {{"__name__": "__main__", "open": open_text}})
    except SystemExit as end:
        if end.code not in (None, 0):
            return False
    finally:
        sys.argv = before
    words = written.getvalue().split()
    return bool(words) and float(words[-1]) >= 1
'''


def checker_of_program(program: str) -> str:
    """The function `check` of a checker that is a program with three file names as arguments; it needs no real files."""
    return _CHECKER.format(program=program)
