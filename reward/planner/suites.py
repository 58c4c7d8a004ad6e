"""Cases of unittest and pytest suites: one per test that the framework would collect."""

from __future__ import annotations

import ast
import dataclasses
import math
from collections.abc import Iterator

from couplet.data.problem import Suite
from couplet.reward.planner.asserts import cases_of, judged
from couplet.reward.planner.case import Case, ProblemDefect
from couplet.reward.planner.checks import why_empty
from couplet.reward.planner.names import BUILTINS, mentions, source_of
from couplet.reward.planner.noting import noting
from couplet.reward.planner.roles import Roles

Function = ast.FunctionDef | ast.AsyncFunctionDef
RUN = "import couplet.reward.sandbox.suites as _suites\n_suites.run_{framework}(globals(), {arguments})"


def suite_in(body: list[ast.stmt]) -> str:
    """The framework of tests that are given as plain statements but only defined there; empty if there is none."""
    if any(isinstance(node, ast.ClassDef) and _is_test_case(node, body) for node in body):
        return "unittest"
    tests = [node for node in body if isinstance(node, Function) and node.name.startswith("test")]
    called = {
        node.func.id
        for each in body
        for node in ast.walk(each)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    if tests and not any(test.name in called for test in tests):
        return "pytest"
    return ""


def suite_cases(framework: str, body: list[ast.stmt], roles: Roles) -> list[Case]:
    """The cases of a suite, in its order. Raises `ProblemDefect` if a suite has tests and none of them checks anything.

    A test that checks nothing beside others that do counts if it calls the candidate, which must raise nothing; else it
    is left out.
    """
    kept = _without_empty(body, roles)
    if framework == "unittest":
        whole = source_of(noting(kept, roles.own)[0])
        return [
            _case(kept, owner, method, f"{owner.name!r}, {method.name!r}", framework, roles, whole)
            for owner in kept
            if isinstance(owner, ast.ClassDef) and _is_test_case(owner, kept)
            for method in _methods(owner, kept, "test")
        ]
    shared = [node for node in kept if not isinstance(node, ast.Assert)]
    whole = source_of(noting(shared, roles.own)[0])
    cases = []
    for owner, test in _pytest_tests(shared):
        path = f"{owner.name}.{test.name}" if owner else test.name
        for place in _places(test, owner):
            cases.append(_case(shared, owner, test, f"{path!r}, {place}", framework, roles, whole))
    if len(shared) < len(kept):
        cases += cases_of(kept, roles)
    return cases


def _without_empty(body: list[ast.stmt], roles: Roles) -> list[ast.stmt]:
    """A suite without what runs all of it, and without tests that neither check anything nor call the candidate."""
    tests = list(_tests_of(body))
    empty = {test: why for test in tests if (why := why_empty([*test.body], _Anything(), ()))}
    if tests and len(empty) == len(tests):
        raise ProblemDefect(f"{tests[0].name}: {empty[tests[0]]}")
    others = {id(test) for test in empty if not mentions(test, roles.own)}
    return [_without(node, others) for node in body if id(node) not in others and not _runs_all(node)]


def suite_of(suite: Suite, body: list[ast.stmt], roles: Roles) -> list[Case]:
    """The cases of a problem's suite. Raises `ProblemDefect` for one without tests."""
    cases = suite_cases(suite.framework, body, roles)
    if not cases:
        raise ProblemDefect(f"its {suite.framework} suite has no test")
    return cases


def _runs_all(node: ast.stmt) -> bool:
    """Whether a statement is ``unittest.main()`` or ``pytest.main(...)``."""
    call = node.value if isinstance(node, ast.Expr) else None
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "main"


def _is_test_case(owner: ast.ClassDef, body: list[ast.stmt]) -> bool:
    """Whether a class derives from unittest's `TestCase`, perhaps through others of the suite."""
    bases = [base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "") for base in owner.bases]
    classes = {node.name: node for node in body if isinstance(node, ast.ClassDef) and node is not owner}
    return any(base.endswith("TestCase") or (base in classes and _is_test_case(classes[base], body)) for base in bases)


def _methods(owner: ast.ClassDef, body: list[ast.stmt], prefix: str) -> list[Function]:
    """Test methods of a class, those that it inherits from others of the suite first."""
    classes = {node.name: node for node in body if isinstance(node, ast.ClassDef) and node is not owner}
    found: dict[str, Function] = {}
    for base in owner.bases:
        if isinstance(base, ast.Name) and base.id in classes:
            found |= {method.name: method for method in _methods(classes[base.id], body, prefix)}
    found |= {node.name: node for node in owner.body if isinstance(node, Function) and node.name.startswith(prefix)}
    return list(found.values())


def _pytest_tests(body: list[ast.stmt]) -> Iterator[tuple[ast.ClassDef | None, Function]]:
    """(class or None, function) of every test that pytest collects."""
    for node in body:
        if isinstance(node, Function) and node.name.startswith("test"):
            yield None, node
        elif isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            yield from ((node, method) for method in _methods(node, body, "test"))


def _places(test: Function, owner: ast.ClassDef | None) -> list[int | None]:
    """Numbers of the sets of parameters of a test; None is all of them, if their number is not a literal."""
    marks = [*test.decorator_list, *(owner.decorator_list if owner else ())]
    sets: list[ast.expr] = [
        mark.args[1]
        for mark in marks
        if isinstance(mark, ast.Call) and isinstance(mark.func, ast.Attribute) and mark.func.attr == "parametrize"
        if len(mark.args) > 1
    ]
    lists = [each.elts for each in sets if isinstance(each, (ast.List, ast.Tuple))]
    if len(lists) < len(sets) or any(isinstance(item, ast.Starred) for each in lists for item in each):
        return [None]
    return list(range(math.prod(map(len, lists))))


def _case(
    body: list[ast.stmt],
    owner: ast.ClassDef | None,
    test: Function,
    arguments: str,
    framework: str,
    roles: Roles,
    whole: str,
) -> Case:
    """The case of one test, with the rest of the suite except its other tests; `whole`: source of all of it."""
    if why := _why_unchecked(owner, test, framework):
        raise ProblemDefect(f"{test.name}: {why}")
    others = {id(each) for each in _tests_of(body)} - {id(test)}
    kept = [_without(node, others) for node in body if id(node) not in others]
    driver = RUN.format(framework=framework, arguments=arguments)
    case = judged(kept, [], roles, framework=framework, driver=driver)
    return dataclasses.replace(case, suite=whole, driver=driver)


def _why_unchecked(owner: ast.ClassDef | None, test: Function, framework: str) -> str:
    """Why a framework would let any program pass a test; empty if it would not."""
    if any(ast.unparse(mark).endswith("expectedFailure") for mark in test.decorator_list):
        return "it is expected to fail"
    awaits = owner is None or any("Async" in ast.unparse(base) for base in owner.bases)
    if framework == "unittest" and isinstance(test, ast.AsyncFunctionDef) and not awaits:
        return "nothing awaits it"
    return ""


class _Anything:
    """Any name but a built-in: what a suite calls by itself may be a helper that checks."""

    def __contains__(self, name: object) -> bool:
        return name not in BUILTINS


def _tests_of(body: list[ast.stmt]) -> Iterator[Function]:
    for node in body:
        if isinstance(node, Function) and node.name.startswith("test"):
            yield node
        elif isinstance(node, ast.ClassDef):
            yield from (each for each in node.body if isinstance(each, Function) and each.name.startswith("test"))


def _without(node: ast.stmt, others: set[int]) -> ast.stmt:
    """A class without the tests in `others`; any other statement as it is."""
    if not isinstance(node, ast.ClassDef):
        return node
    body = [each for each in node.body if id(each) not in others] or [ast.Pass()]
    fields = {name: getattr(node, name) for name in node._fields}
    return ast.copy_location(ast.ClassDef(**{**fields, "body": body}), node)
