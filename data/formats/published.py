"""Published problem formats, one function per format: a row of the file becomes a Problem.

Questions are worded as DiffuCoder's paper evaluates instruct models (arXiv 2506.20639, tables 5 and 6): the problem in
a bare fence, for HumanEval after one sentence; MBPP's problem is the docstring EvalPlus makes of its text and first
test. There the answer was begun for the model with `ANSWER_PREFIX`; here an instruct model begins it itself.
"""

from __future__ import annotations

import ast
import builtins
from typing import Any

from couplet.data.formats.columns import (
    Row,
    RowError,
    identifier,
    items,
    number,
    parsed,
    text,
    texts,
    unexpected,
)
from couplet.data.formats.parquet import problem_from_row
from couplet.data.problem import Problem

SYSTEM = "You are a helpful assistant."
ANSWER_PREFIX = "Here is the code to solve this problem:\n```python\n"
CHAT = {"system": SYSTEM}


def _need(row: Row, format_name: str, *columns: str) -> None:
    missing = [name for name in columns if row.get(name) is None]
    if missing:
        raise RowError(f"missing column {', '.join(map(repr, missing))} of {format_name} (found {', '.join(row)})")


def _code(source: str) -> str:
    """Some published programs have Windows line ends."""
    return source.replace("\r\n", "\n")


def _task_number(row: Row) -> int:
    number = identifier(row, "task_id").split("/")[-1]
    if not number.isdecimal():
        raise RowError(f"'task_id' is {row['task_id']!r}, expected a number, e.g. MBPP/2")
    return int(number)


def humaneval(row: Row) -> Problem:
    """HumanEval (Chen et al. 2021): task_id, prompt, entry_point, canonical_solution, test."""
    _need(row, "HumanEval", "task_id", "prompt", "entry_point", "test")
    prompt, test, body = text(row, "prompt"), text(row, "test"), text(row, "canonical_solution", None)
    return Problem(
        problem_id=identifier(row, "task_id"),
        question=f"Please complete the following problem:\n```\n{prompt.strip()}\n```\n",
        tests=(parsed("test", test),) if test.strip() else (),
        entry_point=text(row, "entry_point"),
        code_prefix=prompt,
        canonical_solution=None if body is None else prompt + body,
        source="humaneval",
        metadata=dict(CHAT),
    )


def mbpp(row: Row) -> Problem:
    """MBPP (Austin et al. 2021), the full file (text, test_setup_code) or the sanitised one (prompt, test_imports)."""
    question = "text" if "text" in row else "prompt"
    _need(row, "MBPP", "task_id", question, "code", "test_list")
    code = _code(text(row, "code"))
    tests = tuple(parsed("test_list", _code(test)) for test in texts(row, "test_list"))
    setup = text(row, "test_setup_code", "") or "\n".join(texts(row, "test_imports", ()))
    number = _task_number(row)
    return Problem(
        problem_id=f"MBPP/{number}",
        question=f"```\n{_mbpp_docstring(text(row, question), tests)}\n```\n",
        tests=tests,
        entry_point=tested_function(code, tests),
        test_setup=_code(setup),
        canonical_solution=code,
        source="mbpp",
        metadata={**CHAT, "split": mbpp_split(number)},
    )


def _mbpp_docstring(description: str, tests: tuple[str, ...]) -> str:
    return '"""\n' + "\n".join([description.strip(), *tests[:1]]) + '\n"""'


def mbpp_split(number: int) -> str:
    """The published split of a task number."""
    return "prompt" if number <= 10 else "test" if number <= 510 else "validation" if number <= 600 else "train"


def evalplus(row: Row) -> Problem:
    """HumanEval+ and MBPP+ as EvalPlus publishes them: inputs whose outputs are compared with the canonical ones."""
    _need(row, "EvalPlus", "task_id", "prompt", "entry_point", "canonical_solution", "base_input", "plus_input")
    task, prompt, task_number = identifier(row, "task_id"), text(row, "prompt"), _task_number(row)
    is_mbpp = task.lower().startswith("mbpp")
    restore = _restore_mbpp_inputs if is_mbpp else lambda number, inputs: inputs
    base, plus = (restore(task_number, _arguments(row, name)) for name in ("base_input", "plus_input"))
    fenced = f"```\n{prompt.strip()}\n```\n"
    return Problem(
        problem_id=task,
        question=fenced if is_mbpp else f"Please complete the following problem:\n{fenced}",
        entry_point=text(row, "entry_point"),
        code_prefix="" if is_mbpp else prompt,
        canonical_solution=prompt + text(row, "canonical_solution"),
        inputs=tuple(list(arguments) for arguments in (*base, *plus)),
        atol=number(row, "atol", 0.0),
        source="mbpp+" if is_mbpp else "humaneval+",
        metadata={**CHAT, "base_inputs": len(base)},
    )


def _arguments(row: Row, name: str) -> list[list[Any]]:
    return items(row, name, list, "a list of argument lists") if row[name] else []


# MBPP+ inputs whose lists stand for other types, by task number (the file is JSON, which has only lists).
_TUPLES = {2, 116, 132, 143, 222, 261, 273, 394, 399, 421, 424, 429, 470, 560, 579, 596, 616, 630, 726, 740, 744, 809}
_LISTS_OF_TUPLES = {63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780}
_FIRST_IS_LIST_OF_TUPLES = {75, 413, 444, 753}
_FIRST_IS_TUPLE = {250, 307, 405, 446, 617, 720, 763, 808}
_SECOND_IS_TUPLE = {106, 750}
_TUPLES_OF_TUPLES = {259, 401, 445}
_ALL_TUPLES = {580, 615, 791}


def _deep_tuple(value: Any) -> Any:
    return tuple(_deep_tuple(item) for item in value) if isinstance(value, list) else value


def _restore_arguments(number: int, arguments: list[Any]) -> list[Any]:
    first, rest = arguments[0], arguments[1:]
    if number in _TUPLES:
        return [tuple(item) for item in arguments]
    if number in _LISTS_OF_TUPLES:
        return [[tuple(inner) for inner in item] for item in arguments]
    if number in _FIRST_IS_LIST_OF_TUPLES:
        return [[tuple(inner) for inner in first], *rest]
    if number in _FIRST_IS_TUPLE:
        return [tuple(first), *rest]
    if number in _SECOND_IS_TUPLE:
        return [first, tuple(rest[0])]
    if number in _TUPLES_OF_TUPLES:
        return [tuple(tuple(inner) for inner in item) for item in arguments]
    if number in _ALL_TUPLES:
        return [_deep_tuple(item) for item in arguments]
    if number == 115:
        return [[set(item) if isinstance(item, list) and item else {} for item in first]]
    if number == 124:
        return [float(first), complex(rest[0])]
    if number == 252:
        return [complex(first)]
    if number == 278:
        return [tuple(tuple(item) if isinstance(item, list) else item for item in first)]
    if number == 722:
        return [{key: tuple(value) for key, value in first.items()}, *rest]
    return arguments


def _restore_mbpp_inputs(number: int, inputs: list[Any]) -> list[Any]:
    return [_restore_arguments(number, list(arguments)) if arguments else [] for arguments in inputs]


def own(row: Row) -> Problem:
    """The columns of `data.formats.parquet`, also as JSON lines."""
    _need(row, "a problem file", "problem_id", "question")
    for name in ("problem_id", "question", "entry_point", "code_prefix", "test_setup", "canonical_solution", "source"):
        text(row, name, None)
    texts(row, "tests", ())
    number(row, "atol", 0.0)
    problem = problem_from_row(row)
    if not isinstance(problem.metadata, dict):
        raise unexpected("metadata", problem.metadata, "a JSON object")
    return problem


def tested_function(code: str, tests: tuple[str, ...]) -> str | None:
    """The function of `code` that the first test calls; None where there is none or the code does not parse."""
    try:
        defined = {node.name for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)}
        called = [node for node in ast.walk(ast.parse(tests[0])) if isinstance(node, ast.Call)] if tests else []
    except (SyntaxError, ValueError):
        return None
    names = [node.func.id for node in called if isinstance(node.func, ast.Name) and node.func.id in defined]
    return names[0] if names else None


def called_function(tests: tuple[str, ...], solution: str | None = None) -> str | None:
    """The function under test where a set does not name it; None where the tests do not tell.

    It is the one of `solution` that the first test calls, else the first that this test calls without having it.
    """
    if solution and (name := tested_function(solution, tests)):
        return name
    try:
        nodes = list(ast.walk(ast.parse(tests[0]))) if tests else []
    except (SyntaxError, ValueError, RecursionError):
        return None
    own = set(dir(builtins)) | set().union(*map(_bound, nodes))
    called = (node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name))
    return next((name for name in called if name not in own), None)


def _bound(node: ast.AST) -> set[str]:
    """Names that a node brings in: assigned, defined, imported, or arguments."""
    match node:
        case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
            return {name}
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
        case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
            return {(alias.asname or alias.name).partition(".")[0] for alias in aliases}
    return set()
