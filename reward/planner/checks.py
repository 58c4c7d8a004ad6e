"""Whether a test checks anything: one that every program passes is a defect of its problem."""

from __future__ import annotations

import ast
import re
from collections.abc import Container, Iterable, Iterator

from couplet.reward.planner.names import BUILTINS, mentions, root_name

CHECKING = re.compile(r"_*(assert|check|expect|exit|fail|raises|quit|verif|approx_equal)", re.IGNORECASE)
CATCHALL = frozenset({"AssertionError", "Exception", "BaseException"})
RAISING = frozenset({"assertRaises", "assertRaisesRegex", "assert_raises", "raises"})


def why_empty(body: list[ast.stmt], names: Container[str], helpers: Container[str]) -> str:
    """Why statements check nothing; empty if they do.

    `names` are the candidate's: calling one checks that it raises nothing. `helpers` are functions defined elsewhere,
    which may check what they are given.
    """
    if any(isinstance(node, (ast.Yield, ast.YieldFrom)) for node in _run(body)):
        return "it is a generator, which nothing runs"
    functions = {
        node.name: node.body
        for node in ast.walk(ast.Module(body, []))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    reached, todo = set[str](), [body]
    while todo:
        for node in _run(todo.pop()):
            if _checks(node, names, helpers):
                return ""
            if isinstance(node, ast.Call) and (called := last_name(node.func)) in functions and called not in reached:
                reached.add(called)
                todo.append(functions[called])
    for node in ast.walk(ast.Module(body, [])):
        if isinstance(node, ast.Assert) and is_always_true(node.test):
            return f"`{_shown(node)}` is always true"
    if set(functions) - reached:
        return f"nothing calls {sorted(set(functions) - reached)[0]!r}"
    if any(isinstance(node, ast.Try) for node in body):
        return "its assertions are caught where they fail"
    return f"`{_shown(body[-1])}` asserts nothing" if body else "it is empty"


def _shown(node: ast.AST) -> str:
    text = ast.unparse(node).splitlines()[0]
    return text if len(text) <= 60 else f"{text[:57]}..."


def last_name(func: ast.expr) -> str:
    return func.id if isinstance(func, ast.Name) else func.attr if isinstance(func, ast.Attribute) else ""


def _run(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Nodes that running the statements may reach; not the bodies of functions, and not what is caught when it fails."""
    for node in body:
        yield node
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.Try) and _swallows(node.handlers):
            yield from _run([*node.handlers, *node.orelse, *node.finalbody])
        elif isinstance(node, (ast.With, ast.AsyncWith)) and hides(node):
            continue
        elif isinstance(node, (ast.If, ast.While)) and isinstance(node.test, ast.Constant):
            yield from _run(node.body if node.test.value else node.orelse)
        else:
            yield from _run(ast.iter_child_nodes(node))


def _swallows(handlers: list[ast.ExceptHandler]) -> bool:
    """Whether a failed assertion would be caught and forgotten."""
    return any(catches_all(handler) and not any(_may_raise(node) for node in ast.walk(handler)) for handler in handlers)


def _may_raise(node: ast.AST) -> bool:
    """Whether part of a handler may let the test fail after all; what only reports, such as ``print``, does not."""
    if isinstance(node, ast.Call):
        own = isinstance(node.func, ast.Name) and node.func.id not in BUILTINS
        return own or bool(CHECKING.match(last_name(node.func)))
    return isinstance(node, (ast.Raise, ast.Assert))


def catches_all(handler: ast.ExceptHandler) -> bool:
    """Whether a handler catches failed assertions."""
    return handler.type is None or mentions(handler.type, CATCHALL)


def hides(node: ast.With | ast.AsyncWith) -> bool:
    """Whether failed assertions in a ``with`` statement would be forgotten (``suppress(AssertionError)``), or are even
    expected (``raises(AssertionError)``), so that any wrong answer passes.
    """
    for item in node.items:
        call = item.context_expr
        if isinstance(call, ast.Call) and mentions(call, CATCHALL):
            if last_name(call.func) == "suppress":
                return True
            if last_name(call.func) in RAISING and any(map(_is_assertion, ast.walk(ast.Module(node.body, [])))):
                return True
    return False


def _is_assertion(node: ast.AST) -> bool:
    call = isinstance(node, ast.Call) and last_name(node.func).startswith("assert")
    return isinstance(node, ast.Assert) or (call and last_name(node.func) not in RAISING)  # type: ignore[attr-defined]


def is_always_true(test: ast.expr) -> bool:
    match test:
        case ast.Constant(value=value):
            return bool(value)
        case ast.Tuple(elts=items) | ast.List(elts=items) | ast.Set(elts=items):
            return any(not isinstance(item, ast.Starred) for item in items)
        case ast.Dict(keys=keys):
            return any(keys)
        case ast.BoolOp(op=ast.Or(), values=values):
            return any(map(is_always_true, values))
        case ast.BoolOp(values=values):
            return all(map(is_always_true, values))
    return isinstance(test, (ast.GeneratorExp, ast.JoinedStr, ast.Lambda))


def _checks(node: ast.AST, names: Container[str], helpers: Container[str]) -> bool:
    if isinstance(node, ast.Assert):
        return not is_always_true(node.test)
    if isinstance(node, ast.Raise):
        return True
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        if not _checks(node.value, names, helpers) and CHECKING.match(last_name(node.value.func)):
            return False
        return root_name(node.value.func) in names  # type: ignore[operator]
    if isinstance(node, ast.Call):
        name = last_name(node.func)
        if name == "assertTrue" and node.args and is_always_true(node.args[0]):
            return False
        return bool(CHECKING.match(name)) or name in helpers
    return False
