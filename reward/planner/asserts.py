"""Cases of tests written as statements: assertions, scripts, and the assertions of ``def check(candidate)``."""

from __future__ import annotations

import ast
import copy
import textwrap
from dataclasses import dataclass, replace

from couplet.reward.planner.case import Case, Kind, ProblemDefect, Relation
from couplet.reward.planner.checks import why_empty
from couplet.reward.planner.flows import sources_of
from couplet.reward.planner.names import (
    bound_names,
    called_builtins,
    free_names,
    mentions,
    parse,
    source_of,
    split_names,
)
from couplet.reward.planner.noting import noting, noting_prelude
from couplet.reward.planner.objects import needs_objects, opens
from couplet.reward.planner.roles import Roles, calls_check
from couplet.reward.planner.shape import CONVERSIONS, Shape

VALUES = (ast.BinOp, ast.Dict, ast.DictComp, ast.JoinedStr, ast.List, ast.ListComp, ast.Set, ast.SetComp, ast.Tuple)


def cases_of(body: list[ast.stmt], roles: Roles) -> list[Case]:
    """The cases of one test. Raises `ProblemDefect` for one that checks nothing."""
    check = next((node for node in body if isinstance(node, ast.FunctionDef) and node.name == "check"), None)
    if check is not None:
        return _unroll(check, body, roles)
    *before, last = body or [ast.Pass()]
    if isinstance(last, ast.Assert) and all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in before):
        return _assertion(last, before, roles)
    return [judged(body, [], roles)] if body else []


def _unroll(check: ast.FunctionDef, body: list[ast.stmt], roles: Roles) -> list[Case]:
    """Every assertion of ``def check(candidate)`` is a case; what comes before it is its preamble."""
    preamble = [node for node in body if node is not check and not calls_check(node)]
    parameters = [argument.arg for argument in (*check.args.posonlyargs, *check.args.args)]
    entry_point = roles.entry_point or "candidate"
    renamed = _Rename(parameters[0] if parameters else entry_point, entry_point)
    nodes = [renamed.visit(node) for node in check.body]
    cases: list[Case] = []
    for place, node in enumerate(nodes):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            preamble = [*preamble, node]
            continue
        if isinstance(node, ast.Assert):
            cases += _assertion(node, preamble, roles)
        elif any(isinstance(inner, (ast.Assert, ast.Raise)) for inner in ast.walk(node)) or _calls_local(
            node, preamble
        ):
            cases.append(judged([node], preamble, roles))
        elif not _is_inert(node):
            preamble = [*preamble, node]
            continue
        if _is_needed(node, preamble, nodes[place + 1 :]):
            preamble = [*preamble, ast.fix_missing_locations(_WithoutAssertions().visit(copy.deepcopy(node)))]
    return cases


def _calls_local(node: ast.stmt, preamble: list[ast.stmt]) -> bool:
    """Whether a statement calls a function of the test file that checks what it is given."""
    checking = {
        each.name
        for each in preamble
        if isinstance(each, ast.FunctionDef)
        and any(isinstance(part, (ast.Assert, ast.Raise)) or _is_assertion_call(part) for part in ast.walk(each))
    }
    called = (part.func for part in ast.walk(node) if isinstance(part, ast.Call))
    return any(isinstance(func, ast.Name) and func.id in checking for func in called)


def _is_assertion_call(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr.startswith("assert")


def _is_needed(node: ast.stmt, preamble: list[ast.stmt], later: list[ast.stmt]) -> bool:
    """Whether later statements read what a statement with an assertion binds, or what it may change."""
    names = bound_names([node])
    if not isinstance(node, ast.Assert):
        assigned = bound_names([n for n in preamble if isinstance(n, (ast.Assign, ast.AnnAssign, ast.AugAssign))])
        names |= assigned & {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
    return bool(names) and any(names & free_names(ast.unparse(statement)) for statement in later)


class _WithoutAssertions(ast.NodeTransformer):
    """Keeps what assertions compute, not what they say."""

    def visit_Assert(self, node: ast.Assert) -> ast.Expr:
        return ast.Expr(node.test)


class _Rename(ast.NodeTransformer):
    """Replaces the check function's parameter by the name of the entry point."""

    def __init__(self, old: str, new: str) -> None:
        self.old, self.new = old, new

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.copy_location(ast.Name(self.new, node.ctx), node) if node.id == self.old else node


def _is_inert(node: ast.stmt) -> bool:
    """Docstrings, bare constants and ``pass``."""
    if isinstance(node, ast.Pass):
        return True
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


@dataclass(frozen=True)
class _Comparison:
    """The candidate's expression and the trusted right side, if the relation has one."""

    expression: ast.expr
    relation: Relation
    right: ast.expr | None = None


def _assertion(node: ast.Assert, preamble: list[ast.stmt], roles: Roles) -> list[Case]:
    """The case of one assertion; none if it says nothing about the candidate (``assert True``)."""
    if isinstance(node.test, ast.Tuple) and node.test.elts:
        raise ProblemDefect(why_empty([node], (), ()))
    local = bound_names(preamble) if preamble else frozenset()
    free = free_names(ast.unparse(node.test), "eval")
    names, modules = split_names(node.test, free - roles.trusted - local, roles.own)
    if not names and not free & local:
        names = called_builtins(node.test)
        if not names:
            return []
    supplied, borrowed, undefined = roles.supply(node.test, frozenset(names))
    found = None if borrowed or undefined else _compare(node.test, supplied, _Local(preamble, local, roles), roles)
    if found is None:
        return [judged([ast.Assert(node.test, None)], preamble, roles, tuple(names))]
    source = runnable([*preamble, ast.Assert(node.test, None)])
    prelude = "\n".join((roles.prelude, source_of(preamble)))
    case = Case(
        "compare",
        source,
        ast.unparse(found.expression),
        found.relation,
        prelude=prelude,
        setup=roles.setup_for(ast.unparse(found.expression)),
        weak_setup=roles.setup_for(source),
        imports=imports_of(preamble),
        names=tuple(names),
        modules=tuple(modules),
    )
    if found.right is None:
        return [case]
    if _is_literal(found.right):
        return [replace(case, expected=ast.literal_eval(found.right))]
    return [replace(case, expected_source=ast.unparse(found.right))]


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return False
    return True


class _Local:
    """Names that a preamble binds, and those of them that hold what the candidate returned."""

    def __init__(self, preamble: list[ast.stmt], names: frozenset[str], roles: Roles) -> None:
        self.names = names
        open_names = free_names(source_of(preamble)) - roles.trusted if preamble else frozenset()
        left, _ = split_names(ast.Module(preamble, []), open_names, roles.own)
        self.is_tainted = bool(left)


def _compare(test: ast.expr, names: frozenset[str], local: _Local, roles: Roles) -> _Comparison | None:
    """The comparison that an assertion is; None for anything else."""
    shape = Shape(names, roles.entry_point, roles.own, roles.setup_names)

    def candidate(node: ast.expr, direct: bool = True) -> bool:
        shaped = shape.is_direct(node) if direct else shape.is_rooted(node)
        return shaped and not free_names(ast.unparse(node), "eval") & (local.names | roles.helpers | roles.data)

    def trusted(node: ast.expr) -> bool:
        free = free_names(ast.unparse(node), "eval")
        return not free & (names | roles.setup_names) and not (local.is_tainted and free & local.names)

    if candidate(test):
        return _Comparison(test, "true")
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not) and candidate(test.operand):
        return _Comparison(test.operand, "false")
    if not isinstance(test, ast.Compare) or len(test.ops) != 1:
        return None
    left, right = test.left, test.comparators[0]
    if isinstance(test.ops[0], (ast.Is, ast.IsNot)) or (isinstance(test.ops[0], ast.NotEq) and _is_none(right)):
        relation: Relation = "same" if isinstance(test.ops[0], ast.Is) else "other"
        constant = isinstance(right, ast.Constant) and (right.value is None or isinstance(right.value, bool))
        return _Comparison(left, relation, right) if constant and candidate(left) else None
    if not isinstance(test.ops[0], ast.Eq):
        return None
    for side, other in ((left, right), (right, left)):
        if trusted(other) and candidate(side, _may_be_truth(other)):
            return _Comparison(side, "equal", other)
    return None


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _may_be_truth(node: ast.expr) -> bool:
    """Whether a trusted expression may be True, False or None, which anyone can guess."""
    if _is_literal(node):
        return isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, bool))
    makers = CONVERSIONS - {"bool", "max", "min", "next"}
    made = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in makers
    return not made and not isinstance(node, VALUES)


def runnable(statements: list[ast.stmt]) -> str:
    """Source of statements, as a function of their own if they return early. Raises SyntaxError."""
    source = source_of(statements)
    try:
        parse(source)
        compile(source, "<test>", "exec", dont_inherit=True)
    except SyntaxError:
        source = f"def _test():\n{textwrap.indent(source, '    ')}\n_test()"
        compile(source, "<test>", "exec", dont_inherit=True)
    return source


def imports_of(statements: list[ast.stmt]) -> tuple[str, ...]:
    """Import statements of a test that are not tried in it, written out; relative ones are left out."""
    found: dict[str, None] = {}
    tried: set[int] = set()
    for node in ast.walk(ast.Module(statements, [])):
        if isinstance(node, ast.Try):
            tried |= {id(part) for part in ast.walk(node)}
        relative = isinstance(node, ast.ImportFrom) and node.level
        if isinstance(node, (ast.Import, ast.ImportFrom)) and not relative and id(node) not in tried:
            found[ast.unparse(node)] = None
    return tuple(found)


def judged(
    body: list[ast.stmt],
    preamble: list[ast.stmt],
    roles: Roles,
    names: tuple[str, ...] | None = None,
    framework: str = "",
    driver: str = "",
) -> Case:
    """A test run by a judge, or weakly in the candidate's process if the judge could not tell who says what.

    `driver`: what runs the test once `body` has defined it, in `framework`. Raises `ProblemDefect` for a test that
        checks
    nothing.
    """
    tree = ast.fix_missing_locations(ast.Module([*preamble, *body], []))
    found, modules = split_names(tree, free_names(ast.unparse(tree)) - roles.trusted, roles.own)
    left = frozenset({*found, *(names or ())} - set(bound_names(preamble) if preamble else ()))
    supplied, borrowed, undefined = roles.supply(tree, left)
    if not driver and (
        why := why_empty([*preamble, *body], left | {roles.entry_point or ""}, roles.trusted | roles.setup_names)
    ):
        raise ProblemDefect(why)
    noted, places = noting(tree.body, sources_of(tree, supplied))
    prelude, others = noting_prelude(roles.trusted_code(borrowed))
    source = f"{runnable(noted)}\n{driver}" if driver else runnable(noted)
    foreign = supplied - roles.own if roles.own else frozenset()
    supplied = supplied or frozenset(called_builtins(tree))
    asked = roles.asked_helpers(tree, supplied)
    weak = not (borrowed or undefined) and (
        needs_objects(tree, supplied, framework)
        or opens(ast.Module([*roles.reached(tree, borrowed), *tree.body], []), supplied)
        or bool(foreign | (roles.setup_names & supplied) | asked)
    )
    kind: Kind = "weak" if weak else "judge"
    return Case(
        kind,
        source,
        prelude=prelude,
        setup=roles.setup_for(source) if weak else "",
        weak_setup=roles.setup_for(source),
        imports=imports_of(tree.body),
        names=tuple(sorted(supplied)),
        modules=tuple(modules),
        places=places | others if mentions(tree, roles.helpers | borrowed) else places,
    )
