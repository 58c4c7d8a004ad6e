"""Problems that a program passes without solving them: their tests check nothing that matters."""

from __future__ import annotations

from collections.abc import Sequence

from couplet.data.problem import Problem
from couplet.data.verdict import Outcome
from couplet.reward.planner.names import BUILTINS, called_names, defined, parse_or_nothing
from couplet.reward.worker import RewardWorker

STUB = "def {name}(*arguments, **named):\n    return None\n"


def stubs(problem: Problem) -> tuple[str, str]:
    """A program that defines nothing, and one whose every function returns None."""
    names = {problem.entry_point or ""} | defined(parse_or_nothing(problem.canonical_solution), classes=False)
    tests = [*problem.tests, *([problem.suite.source] if problem.suite else [])]
    for body in map(parse_or_nothing, tests):
        called = {name for node in body for name in called_names(node)}
        names |= called - defined(body) - BUILTINS
    return "", "".join(STUB.format(name=name) for name in sorted(names) if name.isidentifier())


def passing_stubs(problems: Sequence[Problem], worker: RewardWorker) -> tuple[str, ...]:
    """Ids of the problems that one of the `stubs` passes, in order; to be left out of training.

    Takes two short programs per problem. Problems that cannot be judged here are not among them: the worker logs each.
    """
    programs = [(problem, program) for problem in problems for program in dict.fromkeys(stubs(problem))]
    verdicts = worker.judge([problem for problem, _ in programs], [program for _, program in programs])
    passed = {p.problem_id for (p, _), verdict in zip(programs, verdicts) if verdict.outcome is Outcome.PASSED}
    return tuple(problem.problem_id for problem in problems if problem.problem_id in passed)
