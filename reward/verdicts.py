"""Running the tests of one program and forming the verdict outside its process."""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections.abc import Callable
from typing import Any

from couplet.configs.schema import SandboxConfig
from couplet.data.problem import Problem
from couplet.data.verdict import TestResult
from couplet.reward.agreement import equal, output_agrees, returns_agree
from couplet.reward.candidate import Asked, Candidate, Question, Sandbox, TestFailed
from couplet.reward.expectations import Expectations, Unknown, encode_arguments, oracle_question, output, watched
from couplet.reward.judge import REPLY, TRUSTED_FACTOR, Judge, TrustedTimeout, failure, value_of
from couplet.reward.oracles import agrees
from couplet.reward.planner.names import import_line
from couplet.reward.planner.noting import LOOP
from couplet.reward.planner.plan import Case, ProblemDefect, candidate_setup
from couplet.reward.sandbox.faults import SandboxFault
from couplet.reward.sandbox.plain import Encoder, NotPlain, TooLarge

MOST_ANNOUNCED = 64  # questions sent to a program at a time
log = logging.getLogger(__name__)
# Failures of a strong test after which the problem's own solution is asked whether the test can be judged so at all.
STRONG_FAILURES = {"judge": ("wrong_value", "exception", "not_plain"), "compare": ("not_plain",)}
FAILING = {"lost": "not_plain", "broken": "protocol", "skipped": "exception"}  # what a judge says -> why the test fails
SHARED = (
    "import couplet.reward.sandbox.suites as _suites\nglobals().update(_suites.shared({suite!r}, globals()))\n{driver}"
)
Start = Callable[[str, str, int, list[Question]], Asked]  # (program, set-up, number of tests, known questions)


def known_questions(problem: Problem, case: Case) -> list[Question]:
    """What a case will ask the program, if that is known before it is judged; else nothing."""
    if case.kind == "compare":
        return [("truth" if case.relation in ("true", "false") else "eval", [case.expression])]
    with contextlib.suppress(NotPlain, TooLarge):
        if case.kind == "oracle":
            return [("result", oracle_question(problem, encode_arguments(case)))]
        if case.call is not None:
            arguments, keywords = (
                Encoder(REPLY).encode(part) for part in (list(case.call.arguments), case.call.keywords)
            )
            return [("result", [problem.entry_point, arguments, keywords])]
    return []


def counts(value: Any) -> dict[str, int]:
    """How often a test ran which checks, as a process of the program's says."""
    pairs = value.items() if isinstance(value, dict) else ()
    return {place: number for place, number in pairs if isinstance(place, str) and isinstance(number, int)}


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
        self.program = ""
        self.cases: tuple[Case, ...] = ()
        self.strength = "strong"  # of the test at hand
        self.way = self._judged  # how it was run
        self.done: dict[str, int] = {}  # how often it ran the check at a place
        self.started: dict[str, Asked] = {}
        self.ways: dict[str, Callable[[Asked, Case], bool]] = {
            "compare": self._compare,
            "judge": self._judged,
            "oracle": self._oracle,
            "call": self._call,
            "stdio": self._stdio,
            "weak": self._weak,
        }

    def results(self, program: str, cases: tuple[Case, ...]) -> list[TestResult]:
        """One result per case. Raises `SandboxFault` or `ProblemDefect` if sandbox or problem, not the program, failed."""
        self.program, self.cases = program, cases
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
        sources = [self._weak_source(case) for case in self.cases]
        passed, needs = watched(solution, sources, candidate_setup(self.problem, self.cases), self.judge)
        for case, passes in zip(self.cases, passed):
            if case.kind == "judge":
                canonical = self._canonical()
                canonical.begin_test()
                reason = self._reason(canonical, case, self._judged)
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
                self.started[what] = self.start(self.program, setup, len(self.cases), questions)
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
        self.strength = case.strength
        candidate.begin_test()
        before = candidate.cpu_seconds()
        if self.problem.suite and self.expectations.weak.get(self._weak_key(case)):
            reason = self._reason(candidate, case, self._weak)
        else:
            reason = self._reason(candidate, case, self.ways[case.kind])
        if self.problem.suite is None and reason in STRONG_FAILURES.get(case.kind, ()) and self._is_weak(case):
            candidate.begin_test()
            reason = self._reason(candidate, case, self._weak)
        if not reason and self._checks_less(case):
            reason = "unchecked"
        return TestResult(not reason, reason, self.strength, candidate.cpu_seconds() - before)

    def _reason(self, candidate: Asked, case: Case, way: Callable[[Asked, Case], bool]) -> str:
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
        if case.places <= self.done.keys() and not any(place.startswith(LOOP) for place in case.places):
            return False
        needed = self._checks_needed(case)
        if needed is None:
            return not self.done
        exact = "random" not in case.source
        return any(
            self.done.get(place, 0) < (n if exact and place.startswith(LOOP) else 1) for place, n in needed.items()
        )

    def _checks_needed(self, case: Case) -> dict[str, int] | None:
        """How often the problem's own solution has a test run which check; None if there is none that passes it."""
        if not self.problem.canonical_solution:
            return None
        key = (self.way.__name__, *self._weak_key(case))
        if key not in self.expectations.checks:
            done, strength, canonical = self.done, self.strength, self._canonical()
            canonical.begin_test()
            reason = self._reason(canonical, case, self.way)
            self.expectations.checks[key] = None if reason else self.done
            self.done, self.strength = done, strength
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
            canonical, strength = self._canonical(), self.strength
            reasons = []
            for way in (self.ways[case.kind], self._weak):
                canonical.begin_test()
                reasons.append(self._reason(canonical, case, way))
                if not reasons[-1]:
                    break
            self.strength = strength
            self.expectations.weak[key] = reasons[0] == "not_plain" or reasons[1:] in ([""], ["weak_refused"])
        return self.expectations.weak[key]

    def _weak_key(self, case: Case) -> tuple[Any, ...]:
        return self.problem.canonical_solution, self.problem.test_setup, case.source

    def _judged(self, candidate: Asked, case: Case) -> bool:
        self.way, self.done = self._judged, {}
        arguments = [case.prelude, list(case.modules), list(case.names), case.source]
        name = self.problem.problem_id
        try:
            verdict = value_of(self.judge.ask("test", arguments, candidate))
        except TrustedTimeout as timeout:
            if not timeout.influenced:
                raise ProblemDefect(f"problem {name}: the code of a test does not end") from None
            if name not in self.expectations.slow:
                self.expectations.slow.add(name)
                log.warning("problem %s: the code of a test ran out of time on what a program returned", name)
            candidate.timeouts += 1
            raise TestFailed("timeout") from None
        except SandboxFault as fault:
            if fault.kind == "judge":
                self.expectations.count_ending(self.problem, (case.prelude, case.source))
            raise
        if verdict == "lost" and not self.judge.influenced:  # by the test alone
            candidate.begin_test()
            return self._weak(candidate, case)
        passed = isinstance(verdict, dict)
        if (passed or verdict == "skipped") and not self.judge.influenced:
            raise ProblemDefect(f"problem {name}: a test never calls the program")
        if not passed and verdict in FAILING:
            raise TestFailed(FAILING[verdict])
        self.done = verdict if passed else {}
        return passed

    def _compare(self, candidate: Asked, case: Case) -> bool:
        if case.relation in ("true", "false"):
            return value_of(candidate.ask("truth", case.expression)) is (case.relation == "true")
        reply = candidate.ask("eval", case.expression)
        if reply.kind == "o" and case.relation in ("same", "other"):
            return case.relation == "other"  # whatever it is, it is neither None nor a truth value
        try:
            expected = (
                self.expectations.trusted(self.problem, case, self.judge) if case.expected_source else case.expected
            )
        except Unknown as unknown:
            if str(unknown) == "exception":
                what = f"the code of an expected value fails: {case.expected_source}"
                raise ProblemDefect(f"problem {self.problem.problem_id}: {what}") from None
            return self._judged(candidate, case)
        value = value_of(reply)
        if case.relation in ("same", "other"):
            return (value is expected) is (case.relation == "same")
        return equal(value, expected)

    def _oracle(self, candidate: Asked, case: Case) -> bool:
        problem = self.problem
        try:
            encoded = encode_arguments(case)
            expected = self.expectations.canonical(problem, case, self._canonical)
        except (NotPlain, TooLarge, Unknown) as error:
            shown = ", ".join(map(repr, case.arguments))
            shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
            what = f"its canonical solution gives nothing to compare with for {problem.entry_point}({shown})"
            raise ProblemDefect(f"problem {problem.problem_id}: {what} ({str(error) or 'too large'})") from None
        actual = output(problem, candidate, encoded)
        return agrees(problem.source, problem.entry_point, case.arguments, actual, expected, problem.atol)

    def _call(self, candidate: Asked, case: Case) -> bool:
        assert case.call is not None
        (operation, arguments), *_ = known_questions(self.problem, case)
        actual = value_of(candidate.ask(operation, *arguments))
        if self.problem.comparison.rule == "checker":
            return self._accepted(candidate, list(case.call.arguments), case.call.expected, actual)
        return returns_agree(self.problem.comparison, actual, case.call.expected)

    def _stdio(self, candidate: Asked, case: Case) -> bool:
        assert case.stdio is not None
        match value_of(candidate.ask("run", self.program, case.stdio.input)):
            case ("", str(written)):
                pass
            case ("exit", str()):
                raise TestFailed("exit")
            case _:
                raise TestFailed("protocol")
        if self.problem.comparison.rule == "checker":
            return self._accepted(candidate, case.stdio.input, case.stdio.output, written)
        return output_agrees(self.problem.comparison, written, case.stdio.output)

    def _accepted(self, candidate: Asked, given: Any, expected: Any, actual: Any) -> bool:
        """Whether the problem's checker accepts an answer."""
        encoded = Encoder(REPLY).encode([given, expected, actual])
        try:
            reply = self.judge.ask("check", [self.problem.comparison.checker, encoded], influenced=True)
        except TrustedTimeout:
            candidate.timeouts += 1
            raise TestFailed("timeout") from None
        return reply.kind == "v" and reply.value is True

    def _weak(self, candidate: Asked, case: Case) -> bool:
        """Run the whole test in the candidate's process, which could forge it."""
        self.strength, self.way, self.done = "weak", self._weak, {}
        if self.config.strict:
            raise TestFailed("weak_refused")
        reply = candidate.ask("exec", self._weak_source(case))
        if reply.kind == "x" and reply.value[1] == "AssertionError":
            return False
        if reply.kind != "v":
            raise TestFailed(failure(reply))
        self.done = counts(reply.value)
        return True

    def _weak_source(self, case: Case) -> str:
        """A test as it runs in the process of a program, where the tests of a suite share its namespace."""
        setup = "" if case.kind == "weak" else f"{case.weak_setup}\n"
        test = SHARED.format(suite=case.suite, driver=case.driver) if case.suite else case.source
        return "".join(f"{import_line(name)}\n" for name in case.modules) + setup + test
