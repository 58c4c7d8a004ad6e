"""Running the tests of one program and forming the verdict outside its process."""

from __future__ import annotations

import contextlib
import itertools
import secrets
from typing import Any

from configs.schema import SandboxConfig
from data.problem import Problem
from data.verdict import TestResult
from reward.candidate import Asked, Candidate, Question, Reply, Sandbox, TestFailed, read_reply
from reward.names import import_line
from reward.oracles import EXISTENCE_TASKS, agrees
from reward.sandbox.faults import SandboxFault
from reward.sandbox.plain import Encoder, NotPlain, TooLarge
from reward.sandbox.process import Budget, Child, ChildGone, frame
from reward.testcases import Case

JUDGE_REPLY = 32 << 20
MOST_ANNOUNCED = 64  # questions told to a program at a time
JUDGE_CPU_LIMIT = 3600  # seconds, should the worker itself stop watching; each test has its own budget


class Judge:
    """The process that runs one program's trusted test code; forked when the first test needs it."""

    def __init__(self, sandbox: Sandbox, config: SandboxConfig) -> None:
        self.sandbox = sandbox
        self.cpu, self.wall = 2 * config.cpu_seconds, 2 * config.cpu_seconds * config.wall_factor
        self.child: Child | None = None

    def ask(self, operation: str, arguments: list[Any], candidate: Asked | None) -> Reply:
        """The judge's answer; its calls of the candidate are passed on. Raises `TestFailed`, `SandboxFault`."""
        try:
            return self._converse(operation, arguments, candidate)
        except ChildGone as gone:
            self.end()
            raise TestFailed(gone.reason) from None
        except TestFailed:
            self.end()  # it still waits for the candidate's answer
            raise

    def _converse(self, operation: str, arguments: list[Any], candidate: Asked | None) -> Reply:
        if self.child is None:
            self.child = self.sandbox.spawn("judge", JUDGE_CPU_LIMIT)
        budget = Budget(self.cpu, self.wall, JUDGE_REPLY)
        token = secrets.token_hex(8)
        self.child.send(frame({"n": token, "op": operation, "args": arguments}), budget)
        while True:
            message = self.child.receive(budget)
            if candidate is None or "call" not in message:
                return read_reply(message, token)
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
    """Trusted values that tests compare with, each computed once by a judge and kept for later programs."""

    def __init__(self, limit: int = 100_000) -> None:
        self.limit = limit
        self.values: dict[tuple[Any, ...], tuple[bool, Any]] = {}

    def trusted(self, case: Case, judge: Judge) -> Any:
        """The value of a case's right side. Raises `Unknown`."""
        key = (case.prelude, case.modules, case.expected_source)
        arguments = [case.prelude, list(case.modules), case.expected_source]
        return self._get(key, lambda: value_of(judge.ask("value", arguments, None)))

    def canonical(self, problem: Problem, case: Case, canonical: Candidate) -> Any:
        """The canonical solution's output for a case's arguments. Raises `Unknown`."""
        encoded = encode_arguments(case)
        key = (problem.canonical_solution, problem.entry_point, repr(encoded))
        return self._get(key, lambda: output(problem, canonical, encoded))

    def _get(self, key: tuple[Any, ...], compute) -> Any:
        if key not in self.values:
            if len(self.values) >= self.limit:
                self.values.clear()
            try:
                self.values[key] = (True, compute())
            except TestFailed as failed:
                if failed.reason in ("timeout", "exit"):
                    raise SandboxFault("expected", f"trusted code of a test ended by {failed.reason}") from None
                self.values[key] = (False, None)
        known, value = self.values[key]
        if not known:
            raise Unknown
        return value


def value_of(reply: Reply) -> Any:
    """The plain value of an answer. Raises `TestFailed` for any other answer."""
    if reply.kind != "v":
        raise TestFailed(failure(reply))
    return reply.value


def output(problem: Problem, program: Asked, encoded: Any) -> Any:
    """What a program's entry point returns. An object without a plain form stands as True where only existence counts."""
    program.begin_test()
    reply = program.ask("call", problem.entry_point, encoded, ["d", []])
    if reply.kind == "o" and problem.source == "mbpp+" and problem.entry_point in EXISTENCE_TASKS:
        return True
    value = value_of(reply)
    if type(value) is not tuple or len(value) != 2:
        raise TestFailed("protocol")
    return value[0]


def known_questions(problem: Problem, case: Case) -> list[Question]:
    """What a case will ask the program, where that is known before it is judged; else nothing."""
    if case.kind == "compare":
        return [("eval", [case.expression])]
    if case.kind == "oracle":
        with contextlib.suppress(NotPlain, TooLarge):
            return [("call", [problem.entry_point, encode_arguments(case), ["d", []]])]
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
        """One result per case. Raises `SandboxFault` when the sandbox, not the program, failed."""
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
        arguments = [case.prelude, list(case.modules), list(case.names), case.source]
        reply = self.judge.ask("test", arguments, candidate)
        return value_of(reply) is True

    def _compare(self, candidate: Asked, case: Case) -> bool:
        reply = candidate.ask("eval", case.expression)
        if reply.kind == "o" and case.relation in ("true", "false"):
            return self._weak(candidate, case)
        try:
            expected = self.expectations.trusted(case, self.judge) if case.expected_source else case.expected
        except Unknown:
            return self._weak(candidate, case)
        value = value_of(reply)
        if case.relation in ("true", "false"):
            return bool(value) is (case.relation == "true")
        if case.relation == "same":
            return value is expected
        return bool(value == expected)

    def _oracle(self, candidate: Asked, case: Case) -> bool:
        problem = self.problem
        if self.canonical is None:
            source = problem.canonical_solution or ""
            self.canonical = Candidate(self.judge.sandbox, self.config, source, "", len(problem.inputs))
        try:
            encoded = encode_arguments(case)
            expected = self.expectations.canonical(problem, case, self.canonical)
        except (NotPlain, TooLarge, Unknown):
            raise TestFailed("expected_value") from None
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
