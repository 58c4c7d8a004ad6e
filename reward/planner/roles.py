"""Who supplies what the tests of a problem call: its program, its trusted code, or its canonical solution.

A program must not supply what it is judged with. So a function that is given what another function of the program
returned, or that is compared with one, is a *helper*: it is the program's only if the problem asks for it. A helper
that the canonical solution defines is run from there, in a judge; one that nobody defines is left undefined.
"""

from __future__ import annotations

import ast
import itertools
import re
import sys
from collections.abc import Container
from dataclasses import dataclass

from couplet.data.problem import Problem
from couplet.data.syntax import whole_statements
from couplet.reward.planner.flows import Helpers, given_by, helpers, sources_of
from couplet.reward.planner.names import (
    BUILTINS,
    KNOWN_IMPORTS,
    bound_names,
    called_names,
    calls,
    defined,
    free_names,
    is_class,
    mentions,
    parse_or_nothing,
    root_name,
    source_of,
    stored,
)
from couplet.reward.planner.shape import Shape

DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
STDLIB = sys.stdlib_module_names


@dataclass(frozen=True)
class Roles:
    """What surrounds the tests of one problem.

    Attributes:
        entry_point: the function under test, if it is known.
        own: names the program is to define.
        solved: names the canonical solution binds; None if there is none.
        asked: words of the question, where functions that the program must define are named.
        prelude: trusted source that runs before every test.
        trusted: names the prelude binds.
        helpers: functions among what prompt and set-up define; `data` is what else the set-up binds by itself, such as a
            table of inputs and expected values.
        setup: statements of the set-up; `setup_names` are those that it binds with the program's help, in its process.
        canonical: source of the canonical solution; `functions` are those that it defines, and the entry point.
    """

    entry_point: str | None
    own: frozenset[str]
    solved: frozenset[str] | None
    asked: frozenset[str]
    prelude: str
    trusted: frozenset[str]
    helpers: frozenset[str]
    data: frozenset[str]
    setup: tuple[ast.stmt, ...]
    setup_names: frozenset[str]
    canonical: str
    functions: frozenset[str | None]

    def supply(self, tree: ast.AST, names: frozenset[str]) -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
        """(names the program supplies, helpers from the canonical solution, helpers that nobody defines) of a test that
        leaves `names` open.
        """
        found = self._helpers(tree, names)
        if self.solved is None:
            undefined = found.judging - self.asked
            return names - undefined, frozenset(), undefined
        borrowed = (found.judging | found.compared) & self.solved - self.asked
        undefined = found.judging - self.solved - self.asked
        return names - borrowed - undefined, borrowed, undefined

    def asked_helpers(self, tree: ast.AST, names: frozenset[str]) -> frozenset[str]:
        """Those of the program's `names` that judge what others of them return."""
        return self._helpers(tree, names).judging

    def _helpers(self, tree: ast.AST, names: frozenset[str]) -> Helpers:
        classes = frozenset(name for name in names if is_class(name) and name not in self.functions)
        return helpers(tree, names - self.setup_names, classes, self.entry_point)

    def trusted_code(self, borrowed: frozenset[str]) -> str:
        """What a judge runs before a test that needs helpers of the canonical solution."""
        return f"{self.prelude}\n{self.canonical}" if borrowed else self.prelude

    def reached(self, tree: ast.AST, borrowed: frozenset[str]) -> list[ast.stmt]:
        """Functions and classes of the trusted code that a test may call, directly or through others."""
        left = [node for node in parse_or_nothing(self.trusted_code(borrowed)) if isinstance(node, DEFINITIONS)]
        found: list[ast.stmt] = []
        while more := [node for node in left if any(mentions(each, {node.name}) for each in (tree, *found))]:
            left = [node for node in left if node not in more]
            found += more
        return found

    def setup_for(self, source: str) -> str:
        """The part of the set-up that `source` names, in the program's process: imports, and what else it needs."""
        wanted = set(free_names(source))
        kept = []
        for node in reversed(self.setup):
            names = bound_names([node])
            if isinstance(node, (ast.Import, ast.ImportFrom)) or names & wanted or _changes(node, wanted):
                kept.append(node)
                wanted |= free_names(source_of([node]))
        return source_of(reversed(kept))


def _changes(node: ast.stmt, wanted: Container[str]) -> bool:
    """Whether a statement without a name of its own may change what a test needs (``root.left = Node(2)``)."""
    return isinstance(node, (ast.Expr, ast.Assign, ast.AugAssign, ast.For, ast.While, ast.If, ast.With)) and any(
        isinstance(part, (ast.Attribute, ast.Subscript)) and root_name(part) in wanted  # type: ignore[operator]
        for part in ast.walk(node)
    )


def roles(problem: Problem, bodies: list[list[ast.stmt]], setup: list[ast.stmt]) -> Roles:
    """The roles in a problem whose tests are `bodies`."""
    prefix = _prompt_helpers(problem)
    trusted = bound_names(prefix)
    foreign = free_names(source_of(setup)) - trusted - BUILTINS
    own_setup = [node for node in setup if not foreign or isinstance(node, (ast.Import, ast.ImportFrom))]
    trusted |= bound_names(own_setup)
    setup_names = bound_names(setup) - trusted
    tests = ast.Module(list(itertools.chain(*bodies)), [])
    canonical = parse_or_nothing(problem.canonical_solution)
    asked = _asked(problem)
    entry_point = problem.entry_point or checked_name(tests.body)
    if entry_point in BUILTINS - defined(canonical) and own_names(tests, None, trusted | setup_names):
        entry_point = None  # it was read off a test that begins with a built-in
    if entry_point and not canonical and entry_point not in asked and _only_judges(tests, entry_point, trusted):
        entry_point = None  # it was read off a test that begins with a helper
    own = own_names(tests, entry_point, trusted | setup_names) | defined(canonical)
    return Roles(
        entry_point,
        own - trusted,
        bound_names(canonical) if canonical else None,
        asked,
        source_of([*prefix, *own_setup]),
        trusted,
        defined([*prefix, *setup], False),
        bound_names(node for node in own_setup if not isinstance(node, (ast.Import, ast.ImportFrom))),
        tuple(setup),
        setup_names,
        problem.canonical_solution or "",
        defined(canonical, classes=False) | {entry_point},
    )


def _only_judges(tests: ast.AST, entry_point: str, trusted: frozenset[str]) -> bool:
    """Whether the tests call a function only with what another one returned."""
    names = frozenset(called_names(tests)) - trusted - BUILTINS - set(KNOWN_IMPORTS) - stored(tests)
    given = [
        node
        for node in ast.walk(tests)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == entry_point
    ]
    sources = sources_of(tests, frozenset(name for name in names if not is_class(name)))
    return bool(given) and all(
        set().union(*(given_by(part, sources) for part in call.args)) - {entry_point} for call in given
    )


def _asked(problem: Problem) -> frozenset[str]:
    """Words of the question and the prompt, the tests that they may show left out."""
    text = problem.question
    for test in problem.tests:
        text = text.replace(test.strip(), " ")
    return frozenset(re.findall(r"\w+", f"{text} {problem.code_prefix}"))


def _prompt_helpers(problem: Problem) -> list[ast.stmt]:
    """The prompt's own helpers and imports: trusted, so that a candidate cannot replace what its tests compute with."""
    body = parse_or_nothing(whole_statements(problem.code_prefix))
    return [node for node in body if getattr(node, "name", None) != problem.entry_point]


def calls_check(node: ast.stmt) -> bool:
    """Whether a statement is a call of ``check``."""
    call = node.value if isinstance(node, ast.Expr) else None
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "check"


def checked_name(body: list[ast.stmt]) -> str | None:
    """The function that ``check(function)`` is called with."""
    if "check" not in defined(body):
        return None
    calls = [node.value for node in body if isinstance(node, ast.Expr) and calls_check(node)]
    arguments = [argument for call in calls if isinstance(call, ast.Call) for argument in call.args]
    return next((argument.id for argument in arguments if isinstance(argument, ast.Name)), None)


def own_names(tree: ast.AST, entry_point: str | None, trusted: frozenset[str]) -> frozenset[str]:
    """What the tests of a problem show its program to define: `entry_point`, and what is compared with trusted values.

    Any other name may be a helper, which a candidate could define to its liking. Without such a comparison these are
    the functions that are given no value of another one.
    """
    entry = frozenset([entry_point] if entry_point else [])
    tests = [test for node in ast.walk(tree) if isinstance(node, ast.Assert) for test in _operands(node.test)]
    assigned = stored(tree)
    for known in (frozenset(KNOWN_IMPORTS), frozenset[str]()):
        other = (trusted | assigned | BUILTINS | known) - entry
        found = entry.union(*(_compared(test, other) for test in tests))
        if found:
            return found
    names = frozenset(called_names(tree)) - other
    alone = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and not Shape(names).wraps(node)]
    return names & {call.func.id for call in alone if isinstance(call.func, ast.Name)} or names


def _operands(test: ast.expr) -> list[ast.expr]:
    """What ``and`` and ``or`` join, each by itself."""
    return [part for value in test.values for part in _operands(value)] if isinstance(test, ast.BoolOp) else [test]


def _compared(test: ast.expr, other: Container[str]) -> frozenset[str]:
    """The one function, with the classes of its arguments, that a test compares with trusted values; else nothing."""
    free = free_names(ast.unparse(test), "eval")
    called = set(called_names(test))
    names = frozenset(n for n in free if n not in other and (n in called or n not in STDLIB))
    functions = {name for name in names if not is_class(name)} or names
    if len(functions) == 1 and calls(test, functions) and _on_one_side(test, functions):
        return names
    return frozenset()


def _on_one_side(test: ast.expr, names: Container[str]) -> bool:
    """Whether at most one operand of a comparison mentions one of `names`."""
    operands = [test.left, *test.comparators] if isinstance(test, ast.Compare) else [test]
    return sum(mentions(operand, names) for operand in operands) == 1
