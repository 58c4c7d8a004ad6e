"""The planner: how each test of a problem is judged without letting the candidate see or forge the verdict.

A test becomes one of four kinds:

- ``compare``: the candidate computes a left-hand expression; its plain value is compared in the worker with a literal,
  or with the value of a trusted expression that a judge computes once. A mere True or False counts only from a direct
  call of a function under test: whatever else says it could have been given the answer.
- ``judge``: the test's own code runs in a judge, where the candidate's functions are remote calls on plain data.
- ``oracle``: the candidate's output for given arguments is compared with the canonical solution's (EvalPlus).
- ``weak``: the test handles objects of the candidate, or names that no test shows to be under test, so it must run in
  the candidate's process, which could forge it.
"""

from __future__ import annotations

import ast
import copy
import itertools
import textwrap
import warnings
from dataclasses import dataclass, replace
from typing import Any, Literal

from couplet.data.problem import Problem
from couplet.reward.planner.names import (
    BUILTINS,
    CONVERSIONS,
    Shape,
    bound_names,
    called_builtins,
    free_names,
    needs_objects,
    opens,
    own_names,
    split_names,
)

VALUES = (ast.BinOp, ast.Dict, ast.DictComp, ast.JoinedStr, ast.List, ast.ListComp, ast.Set, ast.SetComp, ast.Tuple)
Relation = Literal["equal", "same", "other", "true", "false"]


class ProblemDefect(ValueError):
    """A problem that cannot be judged, whatever the program: its tests do not parse, or its own code does not end."""


@dataclass(frozen=True)
class Case:
    """One test.

    Attributes:
        kind: how it is judged (see the module).
        source: the whole test as statements, for a judge or a weak run.
        expression: what the candidate evaluates (``compare``).
        relation: ``equal``, ``same`` or ``other`` (identity with None, True or False), ``true`` or ``false`` (``compare``).
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
    relation: Relation = "equal"
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
    own: frozenset[str]  # names the program is to define
    prelude: str  # trusted source that runs before every test
    trusted: frozenset[str]  # names the prelude binds
    helpers: frozenset[str]  # functions among what prompt and setup define
    setup_names: frozenset[str]  # names the setup binds with the candidate's help, in its process


def plan(problem: Problem) -> tuple[Case, ...]:
    """The cases of a problem, in order. Raises ValueError for one without tests, `ProblemDefect` for one that cannot be
    judged.
    """
    if not problem.tests and not problem.inputs:
        raise ValueError(f"problem {problem.problem_id}: has no test of the candidate")
    try:
        cases = _cases(problem)
    except ProblemDefect:
        raise
    except (ArithmeticError, LookupError, MemoryError, RuntimeError, SyntaxError, TypeError, ValueError) as error:
        cause = f"{type(error).__name__}: {error}"
        raise ProblemDefect(f"problem {problem.problem_id}: its tests cannot be taken apart: {cause}") from None
    if not cases:
        raise ProblemDefect(f"problem {problem.problem_id}: has no test of the candidate")
    return tuple(cases)


def _cases(problem: Problem) -> list[Case]:
    bodies = [_parse(problem, test) for test in problem.tests]
    context = _context(problem, bodies)
    cases: list[Case] = []
    for body in bodies:
        check = _check(body)
        cases += _unroll(check, body, context) if check is not None else _whole(body, context)
    if problem.inputs:
        if problem.entry_point is None or problem.canonical_solution is None:
            raise ProblemDefect(f"problem {problem.problem_id}: inputs need an entry_point and a canonical_solution")
        cases += [Case("oracle", arguments=tuple(arguments)) for arguments in problem.inputs]
    return cases


def _parse(problem: Problem, source: str) -> list[ast.stmt]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ProblemDefect(f"problem {problem.problem_id}: a test does not parse: {error}") from None


def _context(problem: Problem, bodies: list[list[ast.stmt]]) -> _Context:
    prefix = _prompt_helpers(problem)
    trusted = bound_names(prefix)
    setup = _parse(problem, problem.test_setup)
    foreign = free_names(ast.unparse(ast.Module(setup, []))) - trusted - BUILTINS
    own_setup = [node for node in setup if not foreign or isinstance(node, (ast.Import, ast.ImportFrom))]
    trusted |= bound_names(own_setup)
    setup_names = bound_names(setup) - trusted
    tests = ast.Module(list(itertools.chain(*bodies)), [])
    solved = _defined(_parse_or_nothing(problem.canonical_solution))
    entry_point = problem.entry_point or _checked_name(tests.body)
    if entry_point in BUILTINS - solved and own_names(tests, None, trusted | setup_names):
        entry_point = None  # it was read off a test that begins with a built-in
    own = own_names(tests, entry_point, trusted | setup_names) | solved
    prelude = ast.unparse(ast.Module([*prefix, *own_setup], []))
    return _Context(entry_point, own - trusted, prelude, trusted, _defined([*prefix, *setup], False), setup_names)


def _prompt_helpers(problem: Problem) -> list[ast.stmt]:
    """The prompt's own helpers and imports: trusted, so that a candidate cannot replace what its tests compute with."""
    body = _parse_or_nothing(problem.code_prefix) or _parse_or_nothing(f"{problem.code_prefix}\n    pass\n")
    return [node for node in body if getattr(node, "name", None) != problem.entry_point]


def _parse_or_nothing(source: str | None) -> list[ast.stmt]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source or "").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []


def _defined(body: list[ast.stmt], classes: bool = True) -> frozenset[str]:
    """Names of the functions, and perhaps the classes, that the statements define."""
    functions = {node.name for node in body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
    return frozenset(functions | {node.name for node in body if isinstance(node, ast.ClassDef) and classes})


def _whole(body: list[ast.stmt], context: _Context) -> list[Case]:
    """A test given as statements is one case, whatever it holds."""
    if len(body) == 1 and isinstance(body[0], ast.Assert):
        return _assertion(body[0], [], context)
    return [_judged(body, [], context)] if body else []


def _check(body: list[ast.stmt]) -> ast.FunctionDef | None:
    return next((node for node in body if isinstance(node, ast.FunctionDef) and node.name == "check"), None)


def _unroll(check: ast.FunctionDef, body: list[ast.stmt], context: _Context) -> list[Case]:
    """Every assertion of ``def check(candidate)`` is a case; what comes before it is its preamble."""
    preamble = [node for node in body if node is not check and not _calls_check(node)]
    parameters = [argument.arg for argument in (*check.args.posonlyargs, *check.args.args)]
    entry_point = context.entry_point or "candidate"
    renamed = _Rename(parameters[0] if parameters else entry_point, entry_point)
    nodes = [renamed.visit(node) for node in check.body]
    cases: list[Case] = []
    for place, node in enumerate(nodes):
        if isinstance(node, ast.Assert):
            cases += _assertion(node, preamble, context)
        elif any(isinstance(inner, (ast.Assert, ast.Raise)) for inner in ast.walk(node)):
            cases.append(_judged([node], preamble, context))
        elif not _is_inert(node):
            preamble = [*preamble, node]
            continue
        if _is_needed(node, preamble, nodes[place + 1 :]):
            preamble = [*preamble, ast.fix_missing_locations(_WithoutAssertions().visit(copy.deepcopy(node)))]
    return cases


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
    """Puts the entry point's name where the check function names its parameter."""

    def __init__(self, old: str, new: str) -> None:
        self.old, self.new = old, new

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.copy_location(ast.Name(self.new, node.ctx), node) if node.id == self.old else node


def _calls_check(node: ast.stmt) -> bool:
    call = node.value if isinstance(node, ast.Expr) else None
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "check"


def _checked_name(body: list[ast.stmt]) -> str | None:
    """The function that ``check(function)`` is called with."""
    calls = [node.value for node in body if isinstance(node, ast.Expr) and _calls_check(node)] if _check(body) else []
    arguments = [argument for call in calls if isinstance(call, ast.Call) for argument in call.args]
    return next((argument.id for argument in arguments if isinstance(argument, ast.Name)), None)


def _is_inert(node: ast.stmt) -> bool:
    """Docstrings, bare constants and ``pass``."""
    if isinstance(node, ast.Pass):
        return True
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _assertion(node: ast.Assert, preamble: list[ast.stmt], context: _Context) -> list[Case]:
    """The case of one assertion; none where it says nothing about the candidate (``assert True``)."""
    local = bound_names(preamble) if preamble else frozenset()
    free = free_names(ast.unparse(node.test), "eval")
    names, modules = split_names(node.test, free - context.trusted - local, context.own)
    if not names and not free & local:
        names = called_builtins(node.test)
        if not names:
            return []
    direct = _compare(node.test, frozenset(names), local, context)
    if direct is None:
        return [_judged([ast.Assert(node.test, None)], preamble, context, tuple(names))]
    expression, relation, right = direct
    source = _runnable([*preamble, ast.Assert(node.test, None)])
    case = Case("compare", source, ast.unparse(expression), relation, names=tuple(names), modules=tuple(modules))
    if right is None:
        return [case]
    if _is_literal(right):
        return [replace(case, expected=ast.literal_eval(right))]
    prelude = "\n".join((context.prelude, ast.unparse(ast.Module(preamble, []))))
    return [replace(case, expected_source=ast.unparse(right), prelude=prelude)]


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return False
    return True


def _compare(
    test: ast.expr, names: frozenset[str], local: frozenset[str], context: _Context
) -> tuple[ast.expr, Relation, ast.expr | None] | None:
    """(candidate's expression, relation, trusted right side or None); None where the test is no such comparison."""

    shape = Shape(names, context.entry_point, context.own, context.setup_names)

    def candidate(node: ast.expr, direct: bool = True) -> bool:
        shaped = shape.is_direct(node) if direct else shape.is_rooted(node)
        return shaped and not free_names(ast.unparse(node), "eval") & (local | context.helpers)

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
    if isinstance(test.ops[0], (ast.Is, ast.IsNot)) or (isinstance(test.ops[0], ast.NotEq) and _is_none(right)):
        relation: Relation = "same" if isinstance(test.ops[0], ast.Is) else "other"
        constant = isinstance(right, ast.Constant) and (right.value is None or isinstance(right.value, bool))
        return (left, relation, right) if constant and candidate(left) else None
    if not isinstance(test.ops[0], ast.Eq):
        return None
    for side, other in ((left, right), (right, left)):
        if trusted(other) and candidate(side, _may_be_truth(other)):
            return side, "equal", other
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


def _runnable(statements: list[ast.stmt]) -> str:
    """Source of statements, as a function of their own where they return early. Raises SyntaxError."""
    source = ast.unparse(ast.Module(statements, []))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            compile(source, "<test>", "exec", dont_inherit=True)
        except SyntaxError:
            source = f"def _test():\n{textwrap.indent(source, '    ')}\n_test()"
            compile(source, "<test>", "exec", dont_inherit=True)
    return source


def _judged(
    body: list[ast.stmt], preamble: list[ast.stmt], context: _Context, names: tuple[str, ...] | None = None
) -> Case:
    """A test run by a judge, or weakly in the candidate's process where the judge could not tell who says what."""
    tree = ast.fix_missing_locations(ast.Module([*preamble, *body], []))
    source = _runnable(tree.body)
    found, modules = split_names(tree, free_names(ast.unparse(tree)) - context.trusted, context.own)
    supplied = frozenset({*found, *(names or ())} - set(bound_names(preamble) if preamble else ()))
    helpers = supplied - context.own if context.own else frozenset()
    supplied = supplied or frozenset(called_builtins(tree))
    weak = needs_objects(tree, supplied) or opens(tree, supplied) or bool(helpers | (context.setup_names & supplied))
    kind: Literal["judge", "weak"] = "weak" if weak else "judge"
    return Case(kind, source, prelude=context.prelude, names=tuple(sorted(supplied)), modules=tuple(modules))
