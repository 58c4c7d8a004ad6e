"""Problems whose tests every program passes: found by running programs that cannot be right.

Reinforcement learning finds such problems soon, and then learns from them what is not the task. The check is run once
per problem set, by `prepare`, and by a run for the problems that `prepare` has not checked.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from functools import partial

from couplet.data.answers import whole_program
from couplet.data.problem import Problem
from couplet.data.syntax import NotPython, missing_names, parse, top_level_names
from couplet.data.verdict import Outcome, Verdict
from couplet.reward.planner.plan import ProblemDefect, plan

Judge = Callable[[Sequence[Problem], Sequence[str]], Sequence[Verdict]]
BATCH = 64  # problems judged between two reports of progress

RETURNS = """
def {name}(*arguments, **named):
    return {value}
"""
SOLUTION = """
class Solution:
    def __getattr__(self, name):
        return lambda *arguments, **named: {value}
"""


def unsound_problems(
    problems: Sequence[Problem], judge: Judge, progress: Callable[[int], None] = lambda done: None
) -> dict[str, str]:
    """Why a problem cannot be trusted, by id: its tests check nothing, or a program that computes nothing passes them.

    Args:
        judge: verdicts of whole programs, e.g. `RewardWorker.judge`.
        progress: called with the number of problems checked.
    """
    found = {}
    runnable = []
    for problem in problems:
        try:
            plan(problem)
            runnable.append(problem)
        except (ProblemDefect, ValueError) as defect:
            found[problem.problem_id] = str(defect).removeprefix(f"problem {problem.problem_id}: ")
    for start in range(0, len(runnable), BATCH):
        batch = runnable[start : start + BATCH]
        for what, stub in STUBS.items():
            for problem, verdict in zip(batch, judge(batch, [stub(problem) for problem in batch])):
                if verdict.outcome is Outcome.PASSED:
                    found.setdefault(problem.problem_id, f"a program {what} passes all its tests")
        progress(len(problems) - len(runnable) + start + len(batch))
    return found


def _empty(problem: Problem) -> str:
    return whole_program("", problem)


def _returns(problem: Problem, value: str) -> str:
    """Every name that the tests need is a function that returns `value`."""
    names = _needed_names(problem)
    stubs = [(SOLUTION if name == "Solution" else RETURNS).format(name=name, value=value) for name in sorted(names)]
    return whole_program("".join(stubs), problem)


def _needed_names(problem: Problem) -> set[str]:
    names = {problem.entry_point.partition("(")[0]} if problem.entry_point else set()
    for source in (*problem.tests, problem.suite.source if problem.suite else ""):
        names |= missing_names(_parsed(source))
    names |= top_level_names(_parsed(problem.canonical_solution or ""))
    return {name for name in names if name.isidentifier()}


def _parsed(source: str) -> ast.Module:
    try:
        return parse(source)
    except NotPython:
        return parse("")


STUBS: dict[str, Callable[[Problem], str]] = {
    "that defines nothing": _empty,
    "whose functions all return None": partial(_returns, value="None"),
    "whose functions all return an empty list": partial(_returns, value="[]"),
}
