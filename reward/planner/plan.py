"""The planner: how each test of a problem is judged without letting the candidate see or forge the verdict.

A test becomes one of six kinds:

- ``compare``: the candidate computes a left-hand expression; its plain value is compared in the worker with a literal,
  or with the value of a trusted expression that a judge computes once. A mere True or False counts only from a direct
  call of a function under test: whatever else says it could have been given the answer.
- ``judge``: the test's own code runs in a judge, where the candidate's functions are remote calls on plain data.
- ``oracle``: the candidate's output for given arguments is compared with the canonical solution's (EvalPlus).
- ``call``: the same, compared with a value that the problem gives.
- ``stdio``: the whole program runs as `__main__`; what it writes is compared.
- ``weak``: the test handles objects of the candidate, or names that no test shows to be under test, so it must run in
  the candidate's process, which could forge it.
"""

from __future__ import annotations

import ast

from couplet.data.problem import Problem
from couplet.reward.planner.asserts import cases_of
from couplet.reward.planner.case import Case, ProblemDefect
from couplet.reward.planner.names import parse_or_nothing, source_of
from couplet.reward.planner.objects import runs_answers
from couplet.reward.planner.rewrite import rewritten
from couplet.reward.planner.roles import roles
from couplet.reward.planner.suites import suite_cases, suite_in, suite_of

__all__ = ["Case", "ProblemDefect", "candidate_setup", "plan"]


def plan(problem: Problem) -> tuple[Case, ...]:
    """The cases of a problem, in order. Raises ValueError for one without tests, `ProblemDefect` for one that cannot be
    judged.
    """
    if not (problem.tests or problem.inputs or problem.calls or problem.stdio or problem.suite):
        raise ValueError(f"problem {problem.problem_id}: has no test of the candidate")
    try:
        cases = _cases(problem)
    except ProblemDefect as defect:
        raise ProblemDefect(f"problem {problem.problem_id}: {defect}") from None
    except (ArithmeticError, LookupError, MemoryError, RuntimeError, SyntaxError, TypeError, ValueError) as error:
        cause = f"{type(error).__name__}: {error}"
        raise ProblemDefect(f"problem {problem.problem_id}: its tests cannot be taken apart: {cause}") from None
    if not cases:
        raise ProblemDefect(f"problem {problem.problem_id}: has no test of the candidate")
    return tuple(cases)


def _cases(problem: Problem) -> list[Case]:
    bodies = [_parsed(test) for test in problem.tests]
    suite = _parsed(problem.suite.source) if problem.suite else []
    known = roles(problem, [*bodies, suite], _parsed(problem.test_setup))
    cases: list[Case] = []
    for body in bodies:
        framework = suite_in(body)
        cases += suite_cases(framework, body, known) if framework else cases_of(body, known)
    cases += _of_values(problem)
    if problem.suite:
        cases += suite_of(problem.suite, suite, known)
    return cases


def _of_values(problem: Problem) -> list[Case]:
    """Cases that are given as values."""
    if problem.inputs and (problem.entry_point is None or problem.canonical_solution is None):
        raise ProblemDefect("inputs need an entry_point and a canonical_solution")
    if problem.calls and problem.entry_point is None:
        raise ProblemDefect("calls need an entry_point")
    blank = problem.comparison.rule != "checker" and not any(run.output.strip() for run in problem.stdio)
    if problem.stdio and blank:
        raise ProblemDefect("none of its runs expects any output, so a program that does nothing would pass")
    weak = runs_answers(problem.comparison.checker)
    return [
        *(Case("oracle", arguments=tuple(arguments)) for arguments in problem.inputs),
        *(Case("call", call=call, runs_answers=weak) for call in problem.calls),
        *(Case("stdio", stdio=run, runs_answers=weak) for run in problem.stdio),
    ]


def _parsed(source: str) -> list[ast.stmt]:
    try:
        return rewritten(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ProblemDefect(f"a test does not parse: {error}") from None


def candidate_setup(problem: Problem, cases: tuple[Case, ...]) -> str:
    """The part of a problem's set-up that runs in the candidate's process: imports, and what the expressions that are
    evaluated there name.
    """
    setup = parse_or_nothing(problem.test_setup)
    needed = {ast.unparse(node) for case in cases for node in parse_or_nothing(case.setup)}
    kept = [node for node in setup if isinstance(node, (ast.Import, ast.ImportFrom)) or ast.unparse(node) in needed]
    return source_of(kept) if kept else ""
