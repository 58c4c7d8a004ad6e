"""Tests that note which of their checks run, so that one that runs none of them passes no program.

A loop over what a program returned, or a branch on it, checks nothing if that is empty. So every check of a test gets a
*place*, and the test calls `sandbox.notes` when it gets there: at an assertion, a call of an assertion method, a
condition whose failure raises, the entry of a handler of an expected exception. ``all(...)``, ``any(...)``, bounds of
sums and filters of which nothing may be left are checks only of what they iterate over. The branches of an ``if`` are
alternatives, and share a place. ``zip`` of a program's values with trusted ones must use all of the latter, and a NaN
passes no comparison that must not hold.

How often a check in a loop should run is known only if the loop is over trusted values, or looks each of the program's
up in trusted ones, and not under a condition on one: of several right answers one may be shorter.
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
AGGREGATES = frozenset({"max", "min", "sum"})
COMPREHENSIONS = (ast.GeneratorExp, ast.ListComp, ast.SetComp)
ORDERS = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}
LOOP = "loop "  # begins the places of checks in loops whose number of rounds is not the program's


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
        self.failing = False  # the check at hand must not hold
        self.checking = False  # within a check that is one only of what it iterates over
        self.returning = False  # within a function that fails if it gets to its end
        self.loop = ""  # LOOP within a loop
        self.free = False  # within a loop whose number of rounds is the program's

    def place(self, node: Any) -> str:
        return f"{'' if self.free else self.loop}{self.shared or f'{self.prefix}{node.lineno}:{node.col_offset}'}"

    def call(self, name: str, node: ast.AST, *arguments: ast.expr) -> ast.Call:
        place = self.place(node)
        self.places.add(place)
        return ast.copy_location(ast.Call(ast.Name(name, ast.Load()), [ast.Constant(place), *arguments], []), node)

    def condition(self, test: ast.expr, fails: bool = False) -> ast.expr:
        """A condition that notes what it checks; `fails`: the test fails if it holds."""
        if isinstance(test, ast.BoolOp):
            test.values = [self.condition(value, fails) for value in test.values]
            return test
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not) and not _iterates(test):
            test.operand = self.condition(test.operand, not fails)
            return test
        if _iterates(test):
            before, self.checking, self.failing = (self.checking, self.failing), True, fails
            visited: ast.expr = self.visit(test)
            self.checking, self.failing = before
            return visited
        return self.call("_checked", test, self.compared(test) if fails else self.visit(test))

    def compared(self, test: ast.expr) -> ast.expr:
        """A comparison that must not hold, and holds for NaN."""
        if not isinstance(test, ast.Compare) or len(test.ops) != 1 or type(test.ops[0]) not in ORDERS:
            return self.visit(test)  # type: ignore[no-any-return]
        order = ast.Constant(ORDERS[type(test.ops[0])])
        sides = [self.visit(test.left), self.visit(test.comparators[0])]
        return ast.copy_location(ast.Call(ast.Name("_ordered", ast.Load()), [order, *sides], []), test)

    def visit_Assert(self, node: ast.Assert) -> ast.Assert:
        if not is_always_true(node.test):
            node.test = self.condition(node.test)
        return node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        if self.checking and _is_quantifier(node):
            (values,) = node.args
            if isinstance(values, COMPREHENSIONS):
                before = self.entering(values.generators, values.elt)
                values.generators = [self.visit(part) for part in values.generators]
                values.elt = self.condition(values.elt, self.failing)
                self.loop, self.free = before
            else:
                node.args = [self.call("_each", values, self.visit(values))]
            return node
        self.generic_visit(node)
        if self.checking and _is_aggregate(node):
            node.args[0].elt = self.call("_checked", node.args[0].elt, node.args[0].elt)  # type: ignore[attr-defined]
        name = node.func.id if isinstance(node.func, ast.Name) and node.func.id not in self.local else ""
        if name == "zip" and (pairs := self.paired(node, node.args)):
            pairs.keywords = node.keywords
            return pairs
        if name == "map" and (pairs := self.paired(node, node.args[1:])):  # starmap
            row = ast.Starred(ast.Name("_row", ast.Load()), ast.Load())
            rows = ast.comprehension(ast.Name("_row", ast.Store()), pairs, [], 0)
            return ast.copy_location(ast.GeneratorExp(ast.Call(node.args[0], [row], []), [rows]), node)
        return node

    def paired(self, node: ast.Call, values: list[ast.expr]) -> ast.Call | None:
        """What pairs values of the program with trusted ones; None if there are not both."""
        foreign = [mentions(part, self.foreign) for part in values]
        if all(foreign) or not any(foreign) or any(isinstance(part, ast.Starred) for part in values):
            return None
        return self.call("_paired", node, ast.Tuple([ast.Constant(mine) for mine in foreign], ast.Load()), *values)

    def entering(self, loops: list[Any], *body: ast.AST) -> tuple[str, bool]:
        """The state before loops, now within them."""
        before = self.loop, self.free
        self.loop, self.free = LOOP, self.free or self.is_free(loops, *body)
        return before

    def is_free(self, loops: list[Any], *body: ast.AST) -> bool:
        """Whether the number of rounds of loops is the program's, and no trusted value is looked up by what they give."""
        if not any(mentions(loop.iter, self.foreign) or getattr(loop, "ifs", ()) for loop in loops):
            return False
        given = {part.id for loop in loops for part in ast.walk(loop.target) if isinstance(part, ast.Name)}
        looked_up = (part for each in body for part in ast.walk(each) if isinstance(part, ast.Subscript))
        return not any(mentions(part.slice, given) and not mentions(part.value, self.foreign) for part in looked_up)

    def visit_For(self, node: Any) -> Any:
        before = self.entering([node], *node.body)
        self.generic_visit(node)
        self.loop, self.free = before
        return node

    visit_AsyncFor = visit_For

    def visit_While(self, node: ast.While) -> ast.While:
        before, self.free = self.free, True
        self.generic_visit(node)
        self.free = before
        return node

    def visit_FunctionDef(self, node: Any) -> Any:
        before = self.returning, self.free
        self.returning, self.free = _fails(node.body[-1:]), self.free or not node.name.startswith("test")
        self.generic_visit(node)
        self.returning, self.free = before
        return node

    visit_AsyncFunctionDef = visit_FunctionDef

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
                call.args[0] = self.condition(call.args[0], name == "assertFalse")
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
        before, self.free = self.free, self.free or mentions(test, self.foreign)
        self.branching(node) if node.orelse else self.generic_visit(node)
        self.free = before
        fails = _fails(node.body)
        node.test = self.condition(test, fails) if fails or _fails(node.orelse) else self.visit(test)
        return node

    def visit_Try(self, node: ast.Try) -> ast.Try:
        expecting = _fails(node.body) or _fails(node.orelse)
        self.generic_visit(node)
        for handler in node.handlers:
            if expecting or (not catches_all(handler) and self.accepts(handler)):
                handler.body.insert(0, ast.Expr(self.call("_checked", handler)))
        return node

    def accepts(self, handler: ast.ExceptHandler) -> bool:
        """Whether a handler says that its exception is right: ``assert True``, or a return before what fails."""
        says = any(isinstance(each, ast.Assert) and is_always_true(each.test) for each in handler.body)
        return says or (self.returning and any(isinstance(each, ast.Return) for each in handler.body))


def _is_quantifier(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("all", "any")
        and len(node.args) == 1
        and not isinstance(node.args[0], ast.Starred)
    )


def _is_aggregate(node: ast.AST) -> bool:
    named = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in AGGREGATES
    return named and isinstance(next(iter(node.args), None), COMPREHENSIONS)  # type: ignore[attr-defined]


def _iterates(test: ast.expr) -> bool:
    """Whether a condition holds if there is nothing to iterate over: it has a quantifier, or what passes a filter must
    be nothing, or a sum over it is bounded.
    """
    if any(map(_is_quantifier, ast.walk(test))):
        return True
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return _filters(test.operand)
    if not isinstance(test, ast.Compare):
        return False
    operands = [test.left, *test.comparators]
    if type(test.ops[0]) in ORDERS and any(_is_aggregate(part) for each in operands for part in ast.walk(each)):
        return True
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
