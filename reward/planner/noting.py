"""Tests that note which of their checks run, so that one that runs none of them passes no program.

A loop over what a program returned, or a branch on it, checks nothing if that is empty. So every check of a test gets a
*place*, and the test calls `sandbox.notes` when it gets there: at an assertion, a call of an assertion method, a
condition whose failure raises, the entry of a handler of an expected exception. ``all(...)``, ``any(...)`` and filters
of which nothing may be left are checks only of what they iterate over. The branches of one statement are alternatives,
and share a place. ``zip`` of a program's values with trusted ones must use all of the latter.
"""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Container, Sequence
from functools import lru_cache
from typing import Any

from couplet.reward.planner.checks import catches_all, hides, is_always_true, last_name
from couplet.reward.planner.names import defined, mentions, parse_or_nothing, root_name, source_of

ASSERTING = re.compile(r"_*(assert|raises|warns|check|expect|verif|approx_equal)", re.IGNORECASE)
ENDING = frozenset({"exit", "fail", "quit", "_exit"})
TRUTHS = frozenset({"assertTrue", "assertFalse", "assert_"})


def noting(
    body: Sequence[ast.stmt], foreign: Container[str], prefix: str = ""
) -> tuple[list[ast.stmt], frozenset[str]]:
    """(the statements of a test with notes, the places of its checks).

    Args:
        foreign: names that may hold values of the program.
        prefix: of the places.
    """
    tree = ast.fix_missing_locations(ast.Module(copy.deepcopy(list(body)), []))
    found = _Noting(foreign, defined(ast.walk(tree)), prefix)  # type: ignore[arg-type]
    return ast.fix_missing_locations(found.visit(tree)).body, frozenset(found.places)


@lru_cache(maxsize=256)
def noting_prelude(source: str) -> tuple[str, frozenset[str]]:
    """The same of trusted code that runs before tests."""
    body, places = noting(parse_or_nothing(source), (), "prelude ")
    return (source_of(body) if places else source), places


class _Noting(ast.NodeTransformer):
    def __init__(self, foreign: Container[str], local: frozenset[str], prefix: str) -> None:
        self.foreign, self.local, self.prefix = foreign, local, prefix
        self.places: set[str] = set()
        self.shared = ""  # the place of the branching statement around
        self.checking = False  # within a check that is one only of what it iterates over

    def place(self, node: Any) -> str:
        return self.shared or f"{self.prefix}{node.lineno}:{node.col_offset}"

    def call(self, name: str, node: ast.AST, *arguments: ast.expr) -> ast.Call:
        place = self.place(node)
        self.places.add(place)
        return ast.copy_location(ast.Call(ast.Name(name, ast.Load()), [ast.Constant(place), *arguments], []), node)

    def condition(self, test: ast.expr) -> ast.expr:
        """A condition that notes what it checks."""
        if isinstance(test, ast.BoolOp):
            test.values = [self.condition(value) for value in test.values]
            return test
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not) and not _iterates(test):
            test.operand = self.condition(test.operand)
            return test
        if not _iterates(test):
            return self.call("_checked", test, self.visit(test))
        before, self.checking = self.checking, True
        visited: ast.expr = self.visit(test)
        self.checking = before
        return visited

    def visit_Assert(self, node: ast.Assert) -> ast.Assert:
        if not is_always_true(node.test):
            node.test = self.condition(node.test)
        return node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        if self.checking and _is_quantifier(node):
            (values,) = node.args
            if isinstance(values, (ast.GeneratorExp, ast.ListComp, ast.SetComp)):
                values.generators = [self.visit(part) for part in values.generators]
                values.elt = self.condition(values.elt)
            else:
                node.args = [self.call("_each", values, self.visit(values))]
            return node
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == "zip" and "zip" not in self.local:
            foreign = [mentions(part, self.foreign) for part in node.args]
            if any(foreign) and not all(foreign) and not any(isinstance(part, ast.Starred) for part in node.args):
                flags = ast.Tuple([ast.Constant(mine) for mine in foreign], ast.Load())
                call = self.call("_paired", node, flags, *node.args)
                call.keywords = node.keywords
                return call
        return node

    def visit_comprehension(self, node: ast.comprehension) -> ast.comprehension:
        self.generic_visit(node)
        if self.checking:
            node.ifs = [self.call("_checked", each, each) for each in node.ifs]
        return node

    def asserting(self, node: ast.expr) -> ast.expr:
        """A call for its own sake: one of an assertion method is a check, or checks the condition that it is given."""
        call = node.value if isinstance(node, ast.Await) else node
        if not isinstance(call, ast.Call):
            return self.visit(node)  # type: ignore[no-any-return]
        name = last_name(call.func)
        if not ASSERTING.match(name) or name in self.local or root_name(call.func) in self.foreign:  # type: ignore[operator]
            return self.visit(node)  # type: ignore[no-any-return]
        if name in TRUTHS and call.args:
            if not is_always_true(call.args[0]):
                call.args[0] = self.condition(call.args[0])
            return node
        if any(map(_is_quantifier, ast.walk(call))):
            call.args = [self.condition(part) if _iterates(part) else self.visit(part) for part in call.args]
            return node
        return self.call("_checked", node, self.visit(node))

    def visit_Expr(self, node: ast.Expr) -> ast.Expr:
        node.value = self.asserting(node.value)
        return node

    def visit_With(self, node: Any) -> Any:
        if hides(node):
            return node
        for item in node.items:
            item.context_expr = self.asserting(item.context_expr)
        node.body = [self.visit(each) for each in node.body]
        return node

    visit_AsyncWith = visit_With

    def branching(self, node: Any) -> Any:
        """A statement whose branches are alternatives."""
        before, self.shared = self.shared, self.place(node)
        self.generic_visit(node)
        self.shared = before
        return node

    visit_Match = branching

    def visit_If(self, node: ast.If) -> ast.If:
        test = node.test
        node.test = ast.Constant(True)  # not visited twice
        self.branching(node) if node.orelse else self.generic_visit(node)
        node.test = self.condition(test) if _fails(node.body) or _fails(node.orelse) else self.visit(test)
        return node

    def visit_Try(self, node: ast.Try) -> ast.Try:
        expecting = _fails(node.body) or _fails(node.orelse)
        self.branching(node)
        before, self.shared = self.shared, self.place(node)
        for handler in node.handlers:
            if expecting or not catches_all(handler):
                handler.body.insert(0, ast.Expr(self.call("_checked", handler)))
        self.shared = before
        return node


def _is_quantifier(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("all", "any")
        and len(node.args) == 1
        and not isinstance(node.args[0], ast.Starred)
    )


def _iterates(test: ast.expr) -> bool:
    """Whether a condition holds if there is nothing to iterate over: it has a quantifier, or what passes a filter must
    be nothing.
    """
    if any(map(_is_quantifier, ast.walk(test))):
        return True
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return _filters(test.operand)
    if not isinstance(test, ast.Compare):
        return False
    operands = [test.left, *test.comparators]
    return any(map(_is_nothing, operands)) and any(map(_filters, operands))


def _is_nothing(node: ast.expr) -> bool:
    """Whether an expression is what a sum, a count or a list of nothing is."""
    if isinstance(node, ast.Constant):
        return not node.value
    return ast.unparse(node) in ("[]", "()", "{}", "set()", "list()", "dict()", "tuple()")


def _filters(node: ast.AST) -> bool:
    return any(isinstance(part, ast.comprehension) and part.ifs for part in ast.walk(node))


def _fails(body: list[ast.stmt]) -> bool:
    """Whether to get to these statements is to fail."""
    return any(
        isinstance(node, ast.Raise)
        or (isinstance(node, ast.Assert) and isinstance(node.test, ast.Constant) and not node.test.value)
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and last_name(node.value.func) in ENDING)
        for node in body
    )
