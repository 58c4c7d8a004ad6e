"""Running the tests of one program and forming the verdict outside its process."""

from __future__ import annotations

import contextlib
import itertools
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any

from couplet.configs.schema import SandboxConfig
from couplet.data.problem import Problem
from couplet.data.verdict import TestResult
from couplet.reward.candidate import Asked, Candidate, Question, Reply, Sandbox, TestFailed, read_reply
from couplet.reward.oracles import EXISTENCE_TASKS, agrees
from couplet.reward.planner.names import import_line
from couplet.reward.planner.plan import Case, ProblemDefect
from couplet.reward.sandbox.faults import SandboxFault
from couplet.reward.sandbox.handle import Budget, Child, ChildGone, frame
from couplet.reward.sandbox.plain import Encoder, NotPlain, TooLarge

JUDGE_REPLY = 32 << 20
MOST_ANNOUNCED = 64  # questions told to a program at a time
JUDGE_CPU_LIMIT = 3600  # seconds, should the worker itself stop watching; each test has its own budget
PATIENCE = 10  # the budget of a problem's own code, in budgets of a program
ENDINGS = 3  # ends of the process that computes a trusted value, each under a zygote of its own, that make a defect
log = logging.getLogger(__name__)


class TrustedTimeout(Exception):
    """A judge ran out of time. `influenced`: after the candidate had answered it."""

    def __init__(self, influenced: bool) -> None:
        super().__init__()
        self.influenced = influenced


class Judge:
    """The process that runs one program's trusted test code; forked when the first test needs it."""

    def __init__(self, sandbox: Sandbox, config: SandboxConfig) -> None:
        self.sandbox = sandbox
        self.cpu = PATIENCE * config.cpu_seconds
        self.wall = self.cpu * config.wall_factor
        self.child: Child | None = None
        self.calls = 0  # of the candidate, in the question at hand

    def ask(self, operation: str, arguments: list[Any], candidate: Asked | None) -> Reply:
        """The judge's answer; its calls of the candidate are passed on. A judge that ends is replaced and asked once more.

        Raises `TestFailed`, `TrustedTimeout` or `SandboxFault`.
        """
        for last in (False, True):
            try:
                return self._converse(operation, arguments, candidate)
            except ChildGone as gone:
                self._lost(gone, last)
            except TestFailed:
                self.end()  # it still waits for the candidate's answer
                raise
            if candidate is not None:
                candidate.end()  # it has seen a part of the test
                candidate.begin_test()
        raise AssertionError("unreachable")

    def _lost(self, gone: ChildGone, last: bool) -> None:
        """The process is of no more use, which is never the program's doing but for its values' part in a timeout."""
        self.end()
        if gone.reason == "timeout":
            raise TrustedTimeout(self.calls > 0)
        if not self.sandbox.alive():
            raise SandboxFault("zygote", "the zygote died under a judge")
        if last:
            raise SandboxFault("judge", f"a judge ended twice in one test ({gone.reason})")

    def _converse(self, operation: str, arguments: list[Any], candidate: Asked | None) -> Reply:
        if self.child is None:
            self.child = self.sandbox.spawn("judge", JUDGE_CPU_LIMIT)
        budget = Budget(self.cpu, self.wall, JUDGE_REPLY)
        token = secrets.token_hex(8)
        self.calls = 0
        self.child.send(frame({"n": token, "op": operation, "args": arguments}), budget)
        while True:
            message = self.child.receive(budget)
            if candidate is None or "call" not in message:
                return read_reply(message, token)
            self.calls += 1
            reply = candidate.ask("call", *message["call"])
            if reply.kind not in ("v", "x"):
                raise TestFailed(failure(reply))
            self.child.send(frame(reply.raw), budget)

    def end(self) -> None:
        """Kill the process; the next question starts another."""
        if self.child is not None:
            self.child.end()
            self.child = None


def failure(reply: Reply) -> str:
    """Why an answer that is no value fails its test."""
    return {"x": "exception", "o": "not_plain", "big": "oversize", "quit": "exit"}[reply.kind]


class Unknown(Exception):
    """A trusted value has no plain form, or its code fails."""


class Expectations:
    """Trusted values that tests compare with, each computed once by a judge and kept for later programs.

    What cannot be computed is kept as well: code that fails (`Unknown`), and code that does not end (`ProblemDefect`).
    """

    def __init__(self, limit: int = 100_000) -> None:
        self.limit = limit
        self.values: dict[tuple[Any, ...], tuple[type[Exception] | None, Any]] = {}
        self.endings: Counter[tuple[Any, ...]] = Counter()
        self.slow: set[str] = set()  # problems whose tests ran out of time with some program

    def trusted(self, problem: Problem, case: Case, judge: Judge) -> Any:
        """The value of a case's right side. Raises `Unknown`, `ProblemDefect` or `SandboxFault`."""
        arguments = [case.prelude, list(case.modules), case.expected_source]
        key = (case.prelude, case.modules, case.expected_source)
        return self._get(problem, key, lambda: value_of(judge.ask("value", arguments, None)))

    def canonical(self, problem: Problem, case: Case, canonical: Candidate) -> Any:
        """The canonical solution's output for a case's arguments. Raises `Unknown`, `ProblemDefect` or `SandboxFault`."""
        encoded = encode_arguments(case)
        key = (problem.source, problem.canonical_solution, problem.entry_point, repr(encoded))
        return self._get(problem, key, lambda: output(problem, canonical, encoded))

    def _get(self, problem: Problem, key: tuple[Any, ...], compute: Callable[[], Any]) -> Any:
        if key not in self.values:
            if len(self.values) >= self.limit:
                self.values.clear()
                self.endings.clear()
            self.values[key] = self._computed(problem, key, compute)
        error, value = self.values[key]
        if error is not None:
            raise error(value)
        return value

    def _computed(
        self, problem: Problem, key: tuple[Any, ...], compute: Callable[[], Any]
    ) -> tuple[type[Exception] | None, Any]:
        try:
            return None, compute()
        except TrustedTimeout:
            reason = "timeout"
        except TestFailed as failed:
            reason = failed.reason
        except SandboxFault as fault:
            if fault.kind != "judge":
                raise
            reason = "exit"
        if reason == "exit":
            self.endings[key] += 1
            if self.endings[key] < ENDINGS:
                raise SandboxFault("expected", "the process of a test's trusted code ended")
        if reason in ("timeout", "exit"):
            return ProblemDefect, f"problem {problem.problem_id}: its own code to compare with ends by {reason}"
        return Unknown, ""


def value_of(reply: Reply) -> Any:
    """The plain value of an answer. Raises `TestFailed` for any other answer."""
    if reply.kind != "v":
        raise TestFailed(failure(reply))
    return reply.value


def output(problem: Problem, program: Asked, encoded: Any) -> Any:
    """What a program's entry point returns. An object without a plain form stands as True where only existence counts."""
    program.begin_test()
    reply = program.ask("result", problem.entry_point, encoded, ["d", []])
    if reply.kind == "o" and problem.source == "mbpp+" and problem.entry_point in EXISTENCE_TASKS:
        return True
    return value_of(reply)


def same_order(value: Any, expected: Any) -> bool:
    """Whether the dicts in two equal values list their keys in the same order, as ordered ones must to be equal."""
    if isinstance(value, dict) and isinstance(expected, dict):
        return all(map(same_order, value, expected)) and all(map(same_order, value.values(), expected.values()))
    if isinstance(value, (list, tuple)) and isinstance(expected, (list, tuple)):
        return all(map(same_order, value, expected))
    return not isinstance(value, Hashable) or value == expected


def known_questions(problem: Problem, case: Case) -> list[Question]:
    """What a case will ask the program, where that is known before it is judged; else nothing."""
    if case.kind == "compare":
        return [("eval", [case.expression])]
    if case.kind == "oracle":
        with contextlib.suppress(NotPlain, TooLarge):
            return [("result", [problem.entry_point, encode_arguments(case), ["d", []]])]
    return []


def encode_arguments(case: Case) -> Any:
    """The arguments of an oracle case, encoded for a call."""
    return Encoder(JUDGE_REPLY).encode(list(case.arguments))


class ProgramRun:
    """All tests of one program, with the process of the program and, where needed, of a judge."""

    def __init__(self, judges: Sandbox, config: SandboxConfig, expectations: Expectations, problem: Problem) -> None:
        self.config, self.problem, self.expectations = config, problem, expectations
        self.judge = Judge(judges, config)
        self.strength = "strong"  # of the test at hand
        self.canonical: Candidate | None = None

    def results(self, candidate: Asked, cases: tuple[Case, ...]) -> list[TestResult]:
        """One result per case. Raises `SandboxFault` or `ProblemDefect` when sandbox or problem, not the program, failed."""
        results: list[TestResult] = []
        known = [known_questions(self.problem, case) for case in cases]
        ahead = 0  # questions up to here have been announced
        try:
            for index, case in enumerate(cases):
                if index >= ahead and not self.config.fresh_process_per_test:
                    series = list(itertools.takewhile(bool, known[index : index + MOST_ANNOUNCED]))
                    ahead = index + len(series)
                    candidate.expect([question for questions in series for question in questions])
                results.append(self._result(candidate, case))
                if self.config.fresh_process_per_test:
                    candidate.end()
        finally:
            candidate.end()
            self.judge.end()
            if self.canonical is not None:
                self.canonical.end()
        return results

    def _result(self, candidate: Asked, case: Case) -> TestResult:
        if candidate.timeouts >= self.config.max_timeouts or (candidate.timeouts and candidate.load_failure):
            return TestResult(False, "skipped", case.strength)
        self.strength = case.strength
        candidate.begin_test()
        before = candidate.cpu_seconds()
        try:
            passed = self._passes(candidate, case)
            reason = "" if passed else "wrong_value"
        except TestFailed as failed:
            passed, reason = False, failed.reason
        return TestResult(passed, reason, self.strength, candidate.cpu_seconds() - before)

    def _passes(self, candidate: Asked, case: Case) -> bool:
        if case.kind == "compare":
            return self._compare(candidate, case)
        if case.kind == "oracle":
            return self._oracle(candidate, case)
        if case.kind == "weak":
            return self._weak(candidate, case)
        return self._judged(candidate, case)

    def _judged(self, candidate: Asked, case: Case) -> bool:
        arguments = [case.prelude, list(case.modules), list(case.names), case.source]
        try:
            verdict = value_of(self.judge.ask("test", arguments, candidate))
        except TrustedTimeout as timeout:
            problem = self.problem.problem_id
            if not timeout.influenced:
                raise ProblemDefect(f"problem {problem}: the code of a test does not end") from None
            if problem not in self.expectations.slow:
                self.expectations.slow.add(problem)
                log.warning("problem %s: the code of a test ran out of time on what a program returned", problem)
            candidate.timeouts += 1
            raise TestFailed("timeout") from None
        if verdict == "weak":
            candidate.begin_test()
            return self._weak(candidate, case)
        return verdict is True

    def _compare(self, candidate: Asked, case: Case) -> bool:
        reply = candidate.ask("eval", case.expression)
        if reply.kind == "o" and case.relation in ("true", "false"):
            return self._weak(candidate, case)
        if reply.kind == "o" and case.relation == "other":
            return True  # whatever it is, it is neither None nor a truth value
        try:
            expected = (
                self.expectations.trusted(self.problem, case, self.judge) if case.expected_source else case.expected
            )
        except Unknown:
            return self._weak(candidate, case)
        value = value_of(reply)
        if case.relation in ("true", "false"):
            return bool(value) is (case.relation == "true")
        if case.relation in ("same", "other"):
            return (value is expected) is (case.relation == "same")
        if value != expected:
            return False
        if "OrderedDict" in case.expected_source + case.prelude and not same_order(value, expected):
            return self._weak(candidate, case)
        return True

    def _oracle(self, candidate: Asked, case: Case) -> bool:
        problem = self.problem
        if self.canonical is None:
            source = problem.canonical_solution or ""
            patient = self.config.replace(cpu_seconds=PATIENCE * self.config.cpu_seconds)
            self.canonical = Candidate(self.judge.sandbox, patient, source, "", len(problem.inputs))
        try:
            encoded = encode_arguments(case)
            expected = self.expectations.canonical(problem, case, self.canonical)
        except (NotPlain, TooLarge, Unknown):
            what = f"its canonical solution gives nothing to compare with for {case.source}"
            raise ProblemDefect(f"problem {problem.problem_id}: {what}") from None
        actual = output(problem, candidate, encoded)
        return agrees(problem.source, problem.entry_point, case.arguments, actual, expected, problem.atol)

    def _weak(self, candidate: Asked, case: Case) -> bool:
        """Run the whole test in the candidate's process, which could forge it."""
        self.strength = "weak"
        if self.config.strict:
            raise TestFailed("weak_refused")
        source = "".join(f"{import_line(name)}\n" for name in case.modules) + case.source
        reply = candidate.ask("exec", source)
        if reply.kind == "x" and reply.value[1] == "AssertionError":
            return False
        value_of(reply)
        return True
