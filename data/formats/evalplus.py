"""EvalPlus (Liu et al. 2023): HumanEval+ and MBPP+ as JSON lines, and the loops of its other published forms.

The JSON lines hold inputs, whose outputs are compared with the canonical solution's. The hub's sets and the files
`*-OriginFmt.jsonl.gz` hold a test instead that loops over inputs and results and calls a helper that needs numpy;
`loop_tests` reads those loops, so that they are judged like the inputs, without numpy.
"""

from __future__ import annotations

import ast
import math
from typing import Any

from couplet.data.formats.cases import Fields, call_fields
from couplet.data.formats.columns import Row, RowError, identifier, items, need, number, text
from couplet.data.formats.wording import SYSTEM, completion_question, fenced
from couplet.data.problem import CallCase, Problem
from couplet.data.syntax import NotPython, parse


def evalplus(row: Row) -> Problem:
    """HumanEval+ and MBPP+ as EvalPlus publishes them: inputs whose outputs are compared with the canonical ones.

    MBPP's prompts are docstrings, HumanEval's begin the function; ids are ``HumanEval/0``, ``Mbpp/2``, or numbers.
    """
    need(row, "EvalPlus", "task_id", "prompt", "entry_point", "canonical_solution", "base_input", "plus_input")
    task, prompt, entry_point = identifier(row, "task_id"), text(row, "prompt"), text(row, "entry_point")
    is_mbpp = f"def {entry_point}" not in prompt
    if task.isdecimal():
        task = f"{'Mbpp' if is_mbpp else 'HumanEval'}/{task}"
    base, plus = (_arguments(row, name) for name in ("base_input", "plus_input"))
    if is_mbpp:
        task_number = _task_number(row)
        base, plus = (_restore_mbpp_inputs(task_number, inputs) for inputs in (base, plus))
    return Problem(
        problem_id=task,
        question=fenced(prompt) if is_mbpp else completion_question(prompt),
        entry_point=entry_point,
        code_prefix="" if is_mbpp else prompt,
        canonical_solution=prompt + text(row, "canonical_solution"),
        inputs=tuple(list(arguments) for arguments in (*base, *plus)),
        atol=number(row, "atol", 0.0),
        source="mbpp+" if is_mbpp else "humaneval+",
        metadata={"system": SYSTEM, "base_inputs": len(base), "plus_tests": len(plus)},
    )


def _task_number(row: Row) -> int:
    task = identifier(row, "task_id").split("/")[-1]
    if not task.isdecimal():
        raise RowError(f"'task_id' is {row['task_id']!r}, expected a number, e.g. Mbpp/2")
    return int(task)


def _arguments(row: Row, name: str) -> list[list[Any]]:
    return items(row, name, list, "a list of argument lists") if row[name] else []


# MBPP+ inputs whose lists mean other types, by task number (the file is JSON, which has only lists).
_TUPLES = {2, 116, 132, 143, 222, 261, 273, 394, 399, 421, 424, 429, 470, 560, 579, 596, 616, 630, 726, 740, 744, 809}
_LISTS_OF_TUPLES = {63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780}
_FIRST_IS_LIST_OF_TUPLES = {75, 413, 444, 753}
_FIRST_IS_TUPLE = {250, 307, 405, 446, 617, 720, 763, 808}
_SECOND_IS_TUPLE = {106, 750}
_TUPLES_OF_TUPLES = {259, 401, 445}
_ALL_TUPLES = {580, 615, 791}


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _deep_tuple(value: Any) -> Any:
    return tuple(_deep_tuple(item) for item in value) if isinstance(value, list) else value


def _restore_arguments(number: int, arguments: list[Any]) -> list[Any]:
    first, rest = arguments[0], arguments[1:]
    if number in _TUPLES:
        return [_tuple(item) for item in arguments]
    if number in _LISTS_OF_TUPLES:
        return [[_tuple(inner) for inner in item] for item in arguments]
    if number in _FIRST_IS_LIST_OF_TUPLES:
        return [[_tuple(inner) for inner in first], *rest]
    if number in _FIRST_IS_TUPLE:
        return [_tuple(first), *rest]
    if number in _SECOND_IS_TUPLE:
        return [first, _tuple(rest[0])]
    if number in _TUPLES_OF_TUPLES:
        return [tuple(_tuple(inner) for inner in item) for item in arguments]
    if number in _ALL_TUPLES:
        return [_deep_tuple(item) for item in arguments]
    if number == 115:
        return [[set(item) if isinstance(item, list) and item else {} for item in first]]
    if number == 124:
        return [float(first), complex(rest[0])]
    if number == 252:
        return [complex(first)]
    if number == 278:
        return [tuple(_tuple(item) for item in first)]
    if number == 722:
        return [{key: _tuple(value) for key, value in first.items()}, *rest]
    return arguments


def _restore_mbpp_inputs(number: int, inputs: list[Any]) -> list[Any]:
    return [_restore_arguments(number, list(arguments)) if arguments else [] for arguments in inputs]


# --- loops over inputs and results -----------------------------------------------------------------------------------


class _OtherForm(Exception):
    """A test that is not a loop of EvalPlus's."""


SAME_SET = "def check(input, expected, actual):\n    return set(actual) == set(expected)\n"


def loop_tests(source: str, entry_point: str | None) -> Fields:
    """The calls of a test that EvalPlus has written; no fields if it is another test.

    Recognised are ``for i, (inp, exp) in enumerate(zip(inputs, results)): assertion(f(*inp), exp, atol)`` with values
    that are written out, and the form with a reference function for results that are too long for a file. The loop is
    at the top level, or in ``check(candidate)``.
    """
    try:
        tree = parse(source, limit=len(source))
        return _loop_fields(tree, entry_point)
    except (NotPython, _OtherForm):
        return {}


def _loop_fields(tree: ast.Module, entry_point: str | None) -> Fields:
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    if not {"assertion", "is_floats"} <= set(functions) or "allclose" not in ast.unparse(functions["assertion"]):
        raise _OtherForm
    check = functions.get("check")
    body = check.body if check else tree.body
    parts = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.Assign, ast.For)
    if any(not isinstance(node, parts) for node in (*body, *tree.body) if not _is_call_of_check(node)):
        raise _OtherForm
    callee = check.args.args[0].arg if check and check.args.args else entry_point
    match [node for node in body if isinstance(node, ast.For)]:
        case [ast.For(body=[ast.Expr(ast.Call(ast.Name("assertion"), [actual, expected, tolerance]))])]:
            pass
        case _:
            raise _OtherForm
    values = {
        node.targets[0].id: node.value
        for node in body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    if "inputs" not in values:
        raise _OtherForm
    inputs, atol = [list(arguments) for arguments in _plain(values["inputs"])], float(_plain(tolerance))
    called, name = _called_with_inputs(actual)
    if entry_point is None and not check:
        callee = entry_point = name
    if name != callee or entry_point is None:
        raise _OtherForm
    if ast.unparse(expected) == "ref_func(*inp)" and not called:
        return {"inputs": tuple(inputs), "atol": atol}
    if "results" not in values or ast.unparse(expected) != ("set(exp)" if called else "exp"):
        raise _OtherForm
    results = _plain(values["results"])
    if len(results) != len(inputs):
        raise _OtherForm
    cases = [CallCase(tuple(given), result) for given, result in zip(inputs, results)]
    return call_fields(entry_point, cases, "checker" if called else "equal", atol, SAME_SET if called else "")


def _is_call_of_check(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and ast.unparse(node).startswith("check(")


def _called_with_inputs(node: ast.expr) -> tuple[str, str]:
    """("", f) of ``f(*inp)``, ("set", f) of ``set(f(*inp))``."""
    match node:
        case ast.Call(ast.Name(name), [ast.Starred(ast.Name("inp"))], []):
            return "", name
        case ast.Call(ast.Name("set"), [ast.Call(ast.Name(name), [ast.Starred(ast.Name("inp"))], [])], []):
            return "set", name
    raise _OtherForm


_NUMBERS = {"inf": math.inf, "nan": math.nan}
_MAKERS = {"set": set, "frozenset": frozenset, "float": float, "complex": complex, "tuple": tuple}


def _plain(node: ast.expr) -> Any:
    """The value of an expression that is written out, as `ast.literal_eval`, also ``inf``, ``nan`` and ``set()``."""
    match node:
        case ast.Name(id=name) if name in _NUMBERS:
            return _NUMBERS[name]
        case ast.UnaryOp(ast.USub(), ast.Name(id=name)) if name in _NUMBERS:
            return -_NUMBERS[name]
        case ast.Call(ast.Name(id=name), arguments, []) if name in _MAKERS:
            return _MAKERS[name](*map(_plain, arguments))
        case ast.List(elts=items):
            return [_plain(item) for item in items]
        case ast.Tuple(elts=items):
            return tuple(_plain(item) for item in items)
        case ast.Set(elts=items):
            return {_plain(item) for item in items}
        case ast.Dict(keys=keys, values=values) if None not in keys:
            return {_plain(key): _plain(value) for key, value in zip(keys, values) if key is not None}
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise _OtherForm from None
