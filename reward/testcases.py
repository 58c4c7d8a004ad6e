"""The planner: how each test of a problem is judged without letting the candidate see or forge the verdict.

A test becomes one of four kinds:

- ``compare``: the candidate computes a left-hand expression; its plain value is compared in the worker with a literal,
  or with the value of a trusted expression that a judge computes once.
- ``judge``: the test's own code runs in a judge, where the candidate's functions are remote calls on plain data.
- ``oracle``: the candidate's output for given arguments is compared with the canonical solution's (EvalPlus).
- ``weak``: the test handles objects of the candidate, so it must run in the candidate's process, which could forge it.
"""

from __future__ import annotations

import ast
import warnings
from dataclasses import dataclass
from typing import Any, Literal

from data.problem import Problem
from reward.names import bound_names, called_builtins, free_names, is_rooted, needs_objects, split_names


@dataclass(frozen=True)
class Case:
    """One test.

    Attributes:
        kind: how it is judged (see the module).
        source: the whole test as statements, for a judge or a weak run.
        expression: what the candidate evaluates (``compare``).
        relation: ``equal``, ``same`` (identity with None, True or False), ``true`` or ``false`` (``compare``).
        expected: the plain value to compare with, unless `expected_source` is given.
        expected_source: trusted expression of the value to compare with.
        prelude: trusted statements that run before `source` or `expected_source` in a judge.
        names: the candidate's names in `source`.
        modules: standard modules the test uses without importing them.
        arguments: positional arguments of the entry point (``oracle``).
    """

    kind: Literal["compare", "judge", "oracle", "weak"]
    source: str = ""
    expression: str = ""
    relation: Literal["equal", "same", "true", "false"] = "equal"
    expected: Any = None
    expected_source: str = ""
    prelude: str = ""
    names: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    arguments: tuple[Any, ...] = ()

    @property
    def strength(self) -> str:
        """`strong` where the verdict is formed outside the candidate's process, else `weak`."""
        return "weak" if self.kind == "weak" else "strong"


@dataclass(frozen=True)
class _Context:
    """What surrounds the tests of one problem."""

    entry_point: str | None
    prelude: str  # trusted source that runs before every test
    trusted: frozenset[str]  # names the prelude binds
    setup_names: frozenset[str]  # names the problem's setup binds in the candidate's process


def plan(problem: Problem) -> tuple[Case, ...]:
    """The cases of a problem, in order. Raises ValueError for a problem that tests nothing or whose tests do not parse."""
    cases: list[Case] = []
    prefix, prefix_names = _trusted_prefix(problem)
    setup = _parse(problem, problem.test_setup)
    context = _Context(problem.entry_point, prefix, prefix_names, bound_names(setup) if setup else frozenset())
    for test in problem.tests:
        body = _parse(problem, test)
        check = next((node for node in body if isinstance(node, ast.FunctionDef) and node.name == "check"), None)
        cases += _unroll(check, body, context) if check is not None else _whole(body, context)
    if problem.inputs:
        if problem.entry_point is None or problem.canonical_solution is None:
            raise ValueError(f"problem {problem.problem_id}: inputs need an entry_point and a canonical_solution")
        cases += [Case("oracle", arguments=tuple(arguments)) for arguments in problem.inputs]
    if not cases:
        raise ValueError(f"problem {problem.problem_id}: has no test of the candidate")
    return tuple(cases)


def _parse(problem: Problem, source: str) -> list[ast.stmt]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"problem {problem.problem_id}: a test does not parse: {error}") from None


def _trusted_prefix(problem: Problem) -> tuple[str, frozenset[str]]:
    """The prompt's own helpers and imports: trusted, so that a candidate cannot replace what its tests compute with."""
    for source in (problem.code_prefix, f"{problem.code_prefix}\n    pass\n"):
        try:
            body = ast.parse(source).body
        except SyntaxError:
            continue
        body = [node for node in body if getattr(node, "name", None) != problem.entry_point]
        return (ast.unparse(ast.Module(body, [])), bound_names(body)) if body else ("", frozenset())
    return "", frozenset()


def _whole(body: list[ast.stmt], context: _Context) -> list[Case]:
    """A test given as statements is one case, whatever it holds."""
    if len(body) == 1 and isinstance(body[0], ast.Assert):
        return _assertion(body[0], [], context)
    return [_judged(body, [], context)] if body else []


def _unroll(check: ast.FunctionDef, body: list[ast.stmt], context: _Context) -> list[Case]:
    """Every assertion of ``def check(candidate)`` is a case; what comes before it is its preamble."""
    around = [node for node in body if node is not check and not _calls_check(node)]
    renamed = _Rename(check.args.args[0].arg, context.entry_point or "candidate")
    preamble: list[ast.stmt] = list(around)
    cases: list[Case] = []
    for node in (renamed.visit(node) for node in check.body):
        if isinstance(node, ast.Assert):
            cases += _assertion(node, preamble, context)
        elif any(isinstance(inner, (ast.Assert, ast.Raise)) for inner in ast.walk(node)):
            cases.append(_judged([node], preamble, context))
        elif not _is_inert(node):
            preamble.append(node)
    return cases


class _Rename(ast.NodeTransformer):
    """Puts the entry point's name where the check function names its parameter."""

    def __init__(self, old: str, new: str) -> None:
        self.old, self.new = old, new

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.copy_location(ast.Name(self.new, node.ctx), node) if node.id == self.old else node


def _calls_check(node: ast.stmt) -> bool:
    call = node.value if isinstance(node, ast.Expr) else None
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "check"


def _is_inert(node: ast.stmt) -> bool:
    """Docstrings, ``pass``, bare constants and prints of the test's own progress."""
    if isinstance(node, ast.Pass):
        return True
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _assertion(node: ast.Assert, preamble: list[ast.stmt], context: _Context) -> list[Case]:
    """The case of one assertion; none where it says nothing about the candidate (``assert True``)."""
    local = bound_names(preamble) if preamble else frozenset()
    free = free_names(ast.unparse(node.test), "eval")
    names, modules = split_names(free, context.entry_point, context.trusted | local)
    if not names and not free & local:
        names = called_builtins(node.test)
        if not names:
            return []
    direct = _compare(node.test, frozenset(names), local, context)
    if direct is None:
        return [_judged([ast.Assert(node.test, None)], preamble, context, tuple(names))]
    expression, relation, right = direct
    source = ast.unparse(ast.Module([*preamble, ast.Assert(node.test, None)], []))
    case = Case("compare", source, ast.unparse(expression), relation, names=tuple(names), modules=tuple(modules))
    if right is None:
        return [case]
    try:
        return [_with(case, expected=ast.literal_eval(right))]
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        prelude = "\n".join((context.prelude, ast.unparse(ast.Module(preamble, []))))
        return [_with(case, expected_source=ast.unparse(right), prelude=prelude)]


def _with(case: Case, **changes: Any) -> Case:
    return Case(**{**case.__dict__, **changes})


def _compare(
    test: ast.expr, names: frozenset[str], local: frozenset[str], context: _Context
) -> tuple[ast.expr, Literal["equal", "same", "true", "false"], ast.expr | None] | None:
    """(candidate's expression, relation, trusted right side or None); None where the test is no such comparison."""

    def candidate(node: ast.expr) -> bool:
        return is_rooted(node, names) and not free_names(ast.unparse(node), "eval") & local

    def trusted(node: ast.expr) -> bool:
        free = free_names(ast.unparse(node), "eval")
        return not free & (names | context.setup_names)

    if candidate(test):
        return test, "true", None
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not) and candidate(test.operand):
        return test.operand, "false", None
    if not isinstance(test, ast.Compare) or len(test.ops) != 1:
        return None
    left, right = test.left, test.comparators[0]
    if isinstance(test.ops[0], ast.Is):
        constant = isinstance(right, ast.Constant) and (right.value is None or isinstance(right.value, bool))
        return (left, "same", right) if constant and candidate(left) else None
    if not isinstance(test.ops[0], ast.Eq):
        return None
    if candidate(left) and trusted(right):
        return left, "equal", right
    if candidate(right) and trusted(left):
        return right, "equal", left
    return None


def _judged(
    body: list[ast.stmt], preamble: list[ast.stmt], context: _Context, names: tuple[str, ...] | None = None
) -> Case:
    """A test run by a judge, or weakly in the candidate's process where it handles the candidate's objects."""
    tree = ast.fix_missing_locations(ast.Module([*preamble, *body], []))
    source = ast.unparse(tree)
    found, modules = split_names(free_names(source), context.entry_point, context.trusted)
    supplied = tuple(sorted({*found, *(names or ())} - set(bound_names(preamble) if preamble else ())))
    if not supplied:
        supplied = tuple(called_builtins(tree))
    weak = needs_objects(tree, frozenset(supplied)) or bool(context.setup_names & set(supplied))
    return Case("weak" if weak else "judge", source, prelude=context.prelude, names=supplied, modules=tuple(modules))
