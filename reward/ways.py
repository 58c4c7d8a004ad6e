"""How one test is run: a way for each kind of case, and what is noted of the run."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any

from couplet.configs.schema import SandboxConfig
from couplet.data.problem import Problem
from couplet.reward.agreement import equal, output_agrees, returns_agree
from couplet.reward.candidate import Asked, Question, TestFailed
from couplet.reward.expectations import Expectations, Unknown, encode_arguments, oracle_question, output
from couplet.reward.judge import REPLY, Judge, TrustedTimeout, failure, value_of
from couplet.reward.oracles import agrees
from couplet.reward.planner.names import import_line
from couplet.reward.planner.plan import Case, ProblemDefect
from couplet.reward.sandbox.faults import SandboxFault
from couplet.reward.sandbox.plain import Encoder, NotPlain, TooLarge

log = logging.getLogger(__name__)
FAILING = {"lost": "not_plain", "broken": "protocol", "skipped": "exception"}  # what a judge says -> why the test fails
SHARED = (
    "import couplet.reward.sandbox.suites as _suites\nglobals().update(_suites.shared({suite!r}, globals()))\n{driver}"
)
Way = Callable[[Asked, Case], bool]  # whether a program passes a test; raises `TestFailed`


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


class Ways:
    """The ways to run a test of one problem.

    Attributes:
        program: the source of the program at hand.
        strength: of the last test that was run.
        way: how it was run.
        done: how often it ran the check at a place.
    """

    def __init__(
        self,
        judge: Judge,
        config: SandboxConfig,
        expectations: Expectations,
        problem: Problem,
        canonical: Callable[[], Asked],
    ) -> None:
        self.judge, self.config, self.expectations = judge, config, expectations
        self.problem, self.canonical = problem, canonical
        self.program = ""
        self.strength = "strong"
        self.way: Way = self.judged
        self.done: dict[str, int] = {}

    def of(self, case: Case) -> Way:
        """The way for a kind of case."""
        return getattr(self, case.kind if case.kind != "judge" else "judged")  # type: ignore[no-any-return]

    def judged(self, candidate: Asked, case: Case) -> bool:
        self.way, self.done = self.judged, {}
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
            return self.weak(candidate, case)
        passed = isinstance(verdict, dict)
        if (passed or verdict == "skipped") and not self.judge.influenced:
            raise ProblemDefect(f"problem {name}: a test never calls the program")
        if not passed and verdict in FAILING:
            raise TestFailed(FAILING[verdict])
        self.done = verdict if passed else {}
        return passed

    def compare(self, candidate: Asked, case: Case) -> bool:
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
            return self.judged(candidate, case)
        value = value_of(reply)
        if case.relation in ("same", "other"):
            return (value is expected) is (case.relation == "same")
        return equal(value, expected)

    def oracle(self, candidate: Asked, case: Case) -> bool:
        problem = self.problem
        try:
            encoded = encode_arguments(case)
            expected = self.expectations.canonical(problem, case, self.canonical)
        except (NotPlain, TooLarge, Unknown) as error:
            shown = ", ".join(map(repr, case.arguments))
            shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
            what = f"its canonical solution gives nothing to compare with for {problem.entry_point}({shown})"
            raise ProblemDefect(f"problem {problem.problem_id}: {what} ({str(error) or 'too large'})") from None
        actual = output(problem, candidate, encoded)
        return agrees(problem.source, problem.entry_point, case.arguments, actual, expected, problem.atol)

    def call(self, candidate: Asked, case: Case) -> bool:
        assert case.call is not None
        (operation, arguments), *_ = known_questions(self.problem, case)
        actual = value_of(candidate.ask(operation, *arguments))
        if self.problem.comparison.rule == "checker":
            return self._accepted(candidate, list(case.call.arguments), case.call.expected, actual)
        return returns_agree(self.problem.comparison, actual, case.call.expected)

    def stdio(self, candidate: Asked, case: Case) -> bool:
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

    def weak(self, candidate: Asked, case: Case) -> bool:
        """Run the whole test in the candidate's process, which could forge it."""
        self.strength, self.way, self.done = "weak", self.weak, {}
        if self.config.strict:
            raise TestFailed("weak_refused")
        reply = candidate.ask("exec", self.weak_source(case))
        if reply.kind == "x" and reply.value[1] == "AssertionError":
            return False
        if reply.kind != "v":
            raise TestFailed(failure(reply))
        self.done = counts(reply.value)
        return True

    def weak_source(self, case: Case) -> str:
        """A test as it runs in the process of a program, where the tests of a suite share its namespace."""
        setup = "" if case.kind == "weak" else f"{case.weak_setup}\n"
        test = SHARED.format(suite=case.suite, driver=case.driver) if case.suite else case.source
        return "".join(f"{import_line(name)}\n" for name in case.modules) + setup + test
