"""Running the tests of one program and forming the verdict outside its process."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

from couplet.configs.schema import SandboxConfig
from couplet.data.problem import Problem
from couplet.data.verdict import TestResult
from couplet.reward.candidate import Asked, Candidate, Question, Sandbox, TestFailed
from couplet.reward.expectations import Expectations, watched
from couplet.reward.judge import TRUSTED_FACTOR, Judge
from couplet.reward.planner.noting import LOOP
from couplet.reward.planner.plan import Case, ProblemDefect, candidate_setup
from couplet.reward.ways import Way, Ways, known_questions

MOST_ANNOUNCED = 64  # questions sent to a program at a time
# Failures of a strong test after which the problem's own solution is asked whether the test can be judged so at all.
STRONG_FAILURES = {"judge": ("wrong_value", "exception", "not_plain"), "compare": ("not_plain",)}
Start = Callable[[str, str, int, list[Question]], Asked]  # (program, set-up, number of tests, known questions)


class ProgramRun:
    """All tests of one program, with the processes of the program and, if needed, of a judge.

    Args:
        judges: the sandbox of trusted code.
        start: starts a program in its sandbox.
    """

    def __init__(
        self, judges: Sandbox, start: Start, config: SandboxConfig, expectations: Expectations, problem: Problem
    ) -> None:
        self.config, self.problem, self.expectations, self.start = config, problem, expectations, start
        self.judge = Judge(judges, config)
        self.cases: tuple[Case, ...] = ()
        self.ways = Ways(self.judge, config, expectations, problem, self._canonical)
        self.started: dict[str, Asked] = {}

    def results(self, program: str, cases: tuple[Case, ...]) -> list[TestResult]:
        """One result per case. Raises `SandboxFault` or `ProblemDefect` if sandbox or problem, not the program, failed."""
        self.ways.program, self.cases = program, cases
        try:
            self._require_imports()
            results = self._results()
            if self._is_first_failure(results):
                self._end()
                self._try_suite()
                self._end()
                results = self._results()
            if (needs := self.expectations.needs.get(self._suite_key(), "")) and not all(
                each.passed for each in results
            ):
                what = f"its own solution needs what the sandbox does not have ({needs})"
                raise ProblemDefect(f"problem {self.problem.problem_id}: {what}")
        finally:
            self._end()
        return results

    def _results(self) -> list[TestResult]:
        known = [known_questions(self.problem, case) for case in self.cases]
        results: list[TestResult] = []
        ahead = 0  # questions up to here have been announced
        for index, case in enumerate(self.cases):
            candidate = self._started("main" if case.kind == "stdio" else "module", known)
            fresh = case.kind == "stdio" or self.config.fresh_process_per_test
            if index >= ahead and not fresh:
                series = list(itertools.takewhile(bool, known[index : index + MOST_ANNOUNCED]))
                ahead = index + len(series)
                candidate.expect([question for questions in series for question in questions])
            results.append(self._result(candidate, case))
            if fresh:
                candidate.end()
        return results

    def _end(self) -> None:
        """End all processes; the next question starts others."""
        for each in self.started.values():
            each.end()
        self.started.clear()
        self.judge.end()

    def _suite_key(self) -> tuple[Any, ...]:
        return self.problem.canonical_solution, self.problem.suite

    def _is_first_failure(self, results: list[TestResult]) -> bool:
        """Whether a suite fails and has not been tried on the problem's own solution."""
        tried = self.problem.suite is None or not self.problem.canonical_solution
        return not tried and self._suite_key() not in self.expectations.needs and not all(r.passed for r in results)

    def _try_suite(self) -> None:
        """Run a suite on the problem's own solution: what the sandbox lacks for it, and which tests are weak.

        Its tests may depend on one another (on random states, say), so each way is tried on all of them in order.
        """
        solution = self.problem.canonical_solution or ""
        sources = [self.ways.weak_source(case) for case in self.cases]
        passed, needs = watched(solution, sources, candidate_setup(self.problem, self.cases), self.judge)
        for case, passes in zip(self.cases, passed):
            if case.kind == "judge":
                canonical = self._canonical()
                canonical.begin_test()
                reason = self._reason(canonical, case, self.ways.judged)
                self.expectations.weak[self._weak_key(case)] = reason == "not_plain" or (bool(reason) and passes)
        self.expectations.needs[self._suite_key()] = needs

    def _require_imports(self) -> None:
        """Raises `ProblemDefect` if the tests, or the packages that the problem names, cannot be imported here."""
        lines = [f"import {name}" for name in self.problem.packages]
        lines += [line for case in self.cases for line in case.imports]
        if lines:
            self.expectations.require(self.problem, tuple(dict.fromkeys(lines)), self.judge)

    def _started(self, what: str, known: list[list[Question]]) -> Asked:
        """The program as a module, as `main`, which each test runs again, or the canonical solution."""
        if what not in self.started:
            setup = candidate_setup(self.problem, self.cases)
            if what == "main":
                self.started[what] = self.start("", "", len(self.cases), [])
            elif what == "module":
                questions = [question for series in known for question in series]
                self.started[what] = self.start(self.ways.program, setup, len(self.cases), questions)
            else:
                generous = self.config.replace(cpu_seconds=TRUSTED_FACTOR * self.config.cpu_seconds)
                source = self.problem.canonical_solution or ""
                self.started[what] = Candidate(self.judge.sandbox, generous, source, setup, len(self.cases))
        return self.started[what]

    def _canonical(self) -> Asked:
        return self._started("canonical", [])

    def _result(self, candidate: Asked, case: Case) -> TestResult:
        if candidate.timeouts >= self.config.max_timeouts or (candidate.timeouts and candidate.load_failure):
            return TestResult(False, "skipped", case.strength)
        if self.config.strict and case.strength == "weak":
            return TestResult(False, "weak_refused", "weak")
        self.ways.strength = case.strength
        candidate.begin_test()
        before = candidate.cpu_seconds()
        if self.problem.suite and self.expectations.weak.get(self._weak_key(case)):
            reason = self._reason(candidate, case, self.ways.weak)
        else:
            reason = self._reason(candidate, case, self.ways.of(case))
        if self.problem.suite is None and reason in STRONG_FAILURES.get(case.kind, ()) and self._is_weak(case):
            candidate.begin_test()
            reason = self._reason(candidate, case, self.ways.weak)
        if not reason and self._checks_less(case):
            reason = "unchecked"
        return TestResult(not reason, reason, self.ways.strength, candidate.cpu_seconds() - before)

    def _reason(self, candidate: Asked, case: Case, way: Way) -> str:
        """Why the test fails; empty if it passes. The program pays for the worker's own work on its values."""
        started = time.thread_time()
        try:
            return "" if way(candidate, case) else "wrong_value"
        except TestFailed as failed:
            return failed.reason
        finally:
            candidate.charge(time.thread_time() - started)

    def _checks_less(self, case: Case) -> bool:
        """Whether a test that passed ran fewer of its checks than on the problem's own solution; or, if that is not known,
        none of them.
        """
        if case.places <= self.ways.done.keys() and not any(place.startswith(LOOP) for place in case.places):
            return False
        needed = self._checks_needed(case)
        if needed is None:
            return not self.ways.done
        exact = "random" not in case.source
        return any(
            self.ways.done.get(place, 0) < (n if exact and place.startswith(LOOP) else 1) for place, n in needed.items()
        )

    def _checks_needed(self, case: Case) -> dict[str, int] | None:
        """How often the problem's own solution has a test run which check; None if there is none that passes it."""
        if not self.problem.canonical_solution:
            return None
        key = (self.ways.way.__name__, *self._weak_key(case))
        if key not in self.expectations.checks:
            done, strength, canonical = self.ways.done, self.ways.strength, self._canonical()
            canonical.begin_test()
            reason = self._reason(canonical, case, self.ways.way)
            self.expectations.checks[key] = None if reason else self.ways.done
            self.ways.done, self.ways.strength = done, strength
        needed = self.expectations.checks[key]
        if needed is not None and not needed and self.problem.suite is None:
            what = "a test runs none of its checks on the problem's own solution"
            raise ProblemDefect(f"problem {self.problem.problem_id}: {what}")
        return needed

    def _is_weak(self, case: Case) -> bool:
        """Whether the problem's own solution returns objects in a test, or passes it only in its own process.

        That depends on the problem alone, so a program cannot choose to be judged weakly.
        """
        if not self.problem.canonical_solution:
            return False
        key = self._weak_key(case)
        if key not in self.expectations.weak:
            canonical, strength = self._canonical(), self.ways.strength
            reasons = []
            for way in (self.ways.of(case), self.ways.weak):
                canonical.begin_test()
                reasons.append(self._reason(canonical, case, way))
                if not reasons[-1]:
                    break
            self.ways.strength = strength
            self.expectations.weak[key] = reasons[0] == "not_plain" or reasons[1:] in ([""], ["weak_refused"])
        return self.expectations.weak[key]

    def _weak_key(self, case: Case) -> tuple[Any, ...]:
        return self.problem.canonical_solution, self.problem.test_setup, case.source
