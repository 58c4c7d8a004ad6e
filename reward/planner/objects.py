"""Tests that must run in the candidate's own process, because they handle what cannot leave it."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterable

from couplet.reward.planner.names import BUILTINS, calls, defined, is_class, mentions, parse_or_nothing, stored
from couplet.reward.planner.shape import is_plain_attribute

# With a value of the candidate's these run, import or look up what it names: in a judge it could read what is expected.
# fmt: off
OPENING = frozenset({
    "__import__", "compile", "ctypes", "delattr", "eval", "exec", "getattr", "globals", "importlib", "locals", "marshal",
    "open", "pickle", "runpy", "setattr", "shelve", "timeit", "vars",
})
# What belongs to a process, so that a test that looks at it or sets it must run where the program runs.
PROCESS_NAMES = frozenset({
    "MagicMock", "Mock", "builtins", "capsys", "contextlib", "gc", "input", "inspect", "io", "logging", "mock", "monkeypatch",
    "open", "os", "patch", "pathlib", "shutil", "signal", "subprocess", "tempfile", "threading", "tmp_path", "tracemalloc",
    "unittest", "warnings",
})
# fmt: on
PROCESS_ATTRIBUTES = {"sys": {"argv", "modules", "path", "setrecursionlimit", "stderr", "stdin", "stdout"}}
# Built-ins that do nothing with a function but call it.
CALLING = frozenset({"filter", "map", "max", "min", "sorted"})
STOPS = frozenset({"StopIteration", "StopAsyncIteration"})  # a judge lets no exception of the candidate be one


def needs_objects(tree: ast.AST, names: frozenset[str], framework: str = "") -> bool:
    """Whether a test handles what has no plain form: the candidate's classes and exceptions, the identity of values,
    a function that is given to the candidate or looked at rather than called, or the state of the process.

    `framework`: a module that only runs the tests.
    """
    made: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and calls(node.value, names):
            made |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    functions = BUILTINS | defined(ast.walk(tree))  # type: ignore[arg-type]
    return any(
        _handles_object(node, made, names) or _gives_function(node, names, functions) for node in ast.walk(tree)
    ) or _handles_process(tree, framework)


def _handles_process(tree: ast.AST, framework: str) -> bool:
    watched = PROCESS_NAMES - stored(tree) - {framework}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            root = node.value.id if isinstance(node.value, ast.Name) else ""
            if node.attr in ("seed", "mock") or node.attr in PROCESS_ATTRIBUTES.get(root, ()):
                return True
        elif isinstance(node, ast.arg):
            if node.arg in watched:
                return True
        elif watched.intersection(_modules(node)):
            return True
    return False


def _gives_function(node: ast.AST, names: frozenset[str], functions: frozenset[str]) -> bool:
    """Whether a call of the candidate's is given a function or a class."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names):
        return False
    given = [*node.args, *(option.value for option in node.keywords)]
    return any(
        isinstance(part, ast.Lambda)
        or (isinstance(part, ast.Name) and part.id in functions and callable(getattr(builtins, part.id, callable)))
        for part in given
    )


def _handles_object(node: ast.AST, made: set[str], names: frozenset[str]) -> bool:
    if isinstance(node, ast.ExceptHandler):
        return node.type is not None and mentions(node.type, names | STOPS)
    if isinstance(node, ast.Attribute):
        return (isinstance(node.value, ast.Name) and node.value.id in names) or _is_object_attribute(node, made, names)
    if isinstance(node, ast.Compare) and any(isinstance(operator, (ast.Is, ast.IsNot)) for operator in node.ops):
        return not any(map(_is_unique, [node.left, *node.comparators]))
    if not isinstance(node, ast.Call):
        return False
    if not isinstance(node.func, ast.Name):
        return isinstance(node.func, (ast.Call, ast.Subscript)) and calls(node.func, names)  # a function it returned
    if node.func.id in names:
        return is_class(node.func.id)
    if node.func.id in ("isinstance", "issubclass", "hasattr"):
        return any(mentions(argument, names) for argument in node.args[1:]) or _is_bare(node.args[:1], names)
    if node.func.id in made or (node.func.id == "callable" and any(calls(argument, names) for argument in node.args)):
        return True
    return node.func.id in ("id", "next") or (node.func.id in BUILTINS - CALLING and _is_bare(node.args, names))


def _is_unique(node: ast.expr) -> bool:
    """Whether identity with `node` means the same on both sides of a wall: a constant, or a class."""
    call = node.func if isinstance(node, ast.Call) else node
    return isinstance(node, ast.Constant) or (
        isinstance(call, ast.Name) and isinstance(getattr(builtins, call.id, 0), type)
    )


def _modules(node: ast.AST) -> Iterable[str]:
    """Modules that an import brings in, or the one that a name may mean."""
    if isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.ImportFrom):
        yield (
            (node.module or "").rpartition(".")[2]
            if node.module == "unittest.mock"
            else (node.module or "").partition(".")[0]
        )
    elif isinstance(node, ast.Import):
        yield from (alias.name.partition(".")[0] for alias in node.names)


def _is_bare(arguments: list[ast.expr], names: frozenset[str]) -> bool:
    return any(isinstance(argument, ast.Name) and argument.id in names for argument in arguments)


def _is_object_attribute(node: ast.Attribute, made: set[str], names: frozenset[str]) -> bool:
    held = isinstance(node.value, ast.Name) and node.value.id in made
    return not is_plain_attribute(node.attr) and (held or calls(node.value, names))


def runs_answers(checker: str) -> bool:
    """Whether a problem's checker may run as code what it is given, itself or in a program that it wraps."""
    body = parse_or_nothing(checker)
    texts = {name: node.value.value for node in body for name in stored(node) if _is_text(node)}  # type: ignore[attr-defined]
    wrapping = [node for node in ast.walk(ast.Module(body, [])) if isinstance(node, ast.Call) and mentions(node, texts)]
    known = {id(part) for call in wrapping for part in ast.walk(call) if isinstance(part, ast.Name)}
    own = (node for node in ast.walk(ast.Module(body, [])) if id(node) not in known)
    running = OPENING - {"open"}
    return any(not running.isdisjoint(_modules(node)) for node in own) or any(map(runs_answers, texts.values()))


def _is_text(node: ast.stmt) -> bool:
    value = node.value if isinstance(node, ast.Assign) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def opens(tree: ast.AST, names: frozenset[str]) -> bool:
    """Whether a value of the candidate's may reach something in `OPENING`."""
    tainted = set(names)
    while more := _tainted(tree, tainted) - tainted:
        tainted |= more
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    harmless = {
        id(node.func) for node in found if not any(mentions(part, tainted) for part in ast.iter_child_nodes(node))
    }
    for part in ast.walk(tree):
        if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
            harmless -= {id(node) for node in ast.walk(part)}  # who calls it with what is not followed
    return any(id(node) not in harmless and not OPENING.isdisjoint(_modules(node)) for node in ast.walk(tree))


def _tainted(tree: ast.AST, tainted: set[str]) -> set[str]:
    """Names in the statements of `tree` that mention one of `tainted`: any of them may hold a value of the candidate's."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt) and mentions(node, tainted):
            found |= {part.id for part in ast.walk(node) if isinstance(part, ast.Name)} - BUILTINS
    return found
