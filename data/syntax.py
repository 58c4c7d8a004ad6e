"""Python source as text: parsed safely, what it defines, what it calls. Nothing is executed or compiled."""

from __future__ import annotations

import ast
import builtins
import re
import warnings
from collections.abc import Iterable, Iterator

MAX_CODE = 1 << 20  # characters; longer code counts as code that does not parse
# CPython joins the parts of a dotted name one by one: `import a.a.a...` of 60 kB costs 1 GB.
LONG_DOTTED_NAME = re.compile(r"\b(?:\w++[\s\\]*+\.[\s\\]*+){256}")


class NotPython(ValueError):
    """Source that does not parse; the message says why."""


def parse(source: str, limit: int = MAX_CODE) -> ast.Module:
    """The syntax tree of `source`. Raises `NotPython`, also for source too long or too deep to parse cheaply."""
    if len(source) > limit:
        raise NotPython(f"{len(source)} characters, the limit is {limit}")
    if LONG_DOTTED_NAME.search(source):
        raise NotPython("a dotted name of more than 256 parts")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except SyntaxError as error:
        raise NotPython(error.msg) from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise NotPython(str(error) or type(error).__name__) from None


def parses(source: str) -> bool:
    """Whether `source` is Python."""
    try:
        parse(source)
    except NotPython:
        return False
    return True


def whole_statements(source: str) -> str:
    """`source` up to its last top-level statement that is complete: a prompt that ends within a function, without it."""
    lines = source.splitlines(keepends=True)
    starts = [number for number, line in enumerate(lines) if line[:1].strip()]
    parts = ("".join(lines[:end]) for end in (len(lines), *reversed(starts)))
    return next((part for part in parts if parses(part)), "")


def top_level_names(tree: ast.Module) -> set[str]:
    """Names that a module binds: functions, classes, assignments and imports, also under `if`, `try` and `with`."""
    return {name for node in _module_statements(tree.body) for name in _bound_by_statement(node)}


def _module_statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        yield node
        if isinstance(node, (ast.If, ast.Try, ast.With, ast.For, ast.While)):
            for part in ("body", "orelse", "finalbody"):
                yield from _module_statements(getattr(node, part, []))
            for handler in getattr(node, "handlers", []):
                yield from _module_statements(handler.body)


def _bound_by_statement(node: ast.stmt) -> set[str]:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef() | ast.Import() | ast.ImportFrom():
            return _bound(node)
        case ast.Assign(targets=targets):
            found: list[ast.expr] = list(targets)
        case ast.AnnAssign(target=target) | ast.For(target=target):
            found = [target]
        case _:
            return set()
    return set().union(*(_bound(inner) for target in found for inner in ast.walk(target)))


def defines(source: str, name: str | None) -> bool:
    """Whether `source` parses and binds `name` at its top level.

    `Solution().f` needs the class; a plain name is also found as a method of a class `Solution`.
    """
    if name is None:
        return False
    try:
        tree = parse(source)
    except NotPython:
        return False
    owner = name.partition("(")[0].partition(".")[0]
    return owner in top_level_names(tree) or name in _methods_of_solution(tree)


def _methods_of_solution(tree: ast.Module) -> set[str]:
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Solution"]
    return {node.name for one in classes for node in one.body if isinstance(node, ast.FunctionDef)}


def missing_names(tree: ast.Module) -> set[str]:
    """Names that a module reads but nowhere binds, built-in ones left out."""
    nodes = list(ast.walk(tree))
    read = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    return read - set().union(*map(_bound, nodes)) - set(dir(builtins))


def tested_function(code: str, tests: tuple[str, ...]) -> str | None:
    """The function of `code` that the first test calls; None if there is none or the code does not parse."""
    try:
        defined = {node.name for node in parse(code).body if isinstance(node, ast.FunctionDef)}
        called = called_names(parse(tests[0])) if tests else []
    except NotPython:
        return None
    return next((name for name in called if name in defined), None)


def called_function(tests: tuple[str, ...], solution: str | None = None) -> str | None:
    """The function under test if a set does not name it; None if the tests do not tell.

    It is the one of `solution` that the first test calls, else the first name that this test calls and does not bind.
    """
    if solution and (name := tested_function(solution, tests)):
        return name
    try:
        tree = parse(tests[0]) if tests else ast.Module([], [])
    except NotPython:
        return None
    own = set(dir(builtins)) | set().union(*map(_bound, ast.walk(tree)))
    return next((name for name in called_names(tree) if name not in own), None)


def called_names(tree: ast.AST) -> list[str]:
    """Plain names that are called, from the outermost call inwards."""
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return [func.id for func in calls if isinstance(func, ast.Name)]


def _bound(node: ast.AST) -> set[str]:
    """Names that a node brings in: assigned, defined, imported, or arguments."""
    match node:
        case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name) | ast.ExceptHandler(name=str(name)):
            return {name}
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
        case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
            return {(alias.asname or alias.name).partition(".")[0] for alias in aliases}
    return set()
