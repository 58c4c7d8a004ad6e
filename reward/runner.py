"""Runs a program's tests in the local sandbox, replacing a sandbox that failed and trying again."""

from __future__ import annotations

from collections import Counter
from typing import Protocol

from couplet.configs.schema import SandboxConfig
from couplet.data.problem import Problem
from couplet.data.retry import Retry
from couplet.data.verdict import TestResult
from couplet.reward.candidate import Asked, Candidate, Question
from couplet.reward.expectations import Expectations
from couplet.reward.planner.plan import Case
from couplet.reward.sandbox.faults import SandboxFault
from couplet.reward.sandbox.local import LocalSandbox
from couplet.reward.verdicts import ProgramRun

RETRY = Retry(attempts=3, pause=0.05)


class Quarantined(Exception):
    """The program killed its sandbox on every attempt: no verdict, and no further attempt."""


class Runner(Protocol):
    """What a worker needs to judge programs."""

    tier: str
    parallel: int  # programs that may run at once
    faults: Counter[str]

    @property
    def restarts(self) -> int: ...

    def run(self, problem: Problem, program: str, cases: tuple[Case, ...]) -> tuple[TestResult, ...]: ...

    def close(self) -> None: ...


class LocalRunner:
    """One zygote, one program at a time. Raises `TierUnavailable` at construction if no tier works."""

    parallel = 1

    def __init__(self, config: SandboxConfig) -> None:
        self.config = config
        self.sandbox = LocalSandbox(config)
        self.tier = self.sandbox.tier
        self.expectations = Expectations()
        self.faults: Counter[str] = Counter()
        self._failed = False  # the last attempt ended in a fault: the next one starts a fresh zygote

    @property
    def restarts(self) -> int:
        """Zygotes replaced so far."""
        return self.sandbox.restarts

    def run(self, problem: Problem, program: str, cases: tuple[Case, ...]) -> tuple[TestResult, ...]:
        """Results in the order of `cases`. Raises `SandboxFault`, or `Quarantined` if every attempt killed the zygote.

        A process that cannot be started is not the program's fault: it is not repeated here but by the caller, later
        and elsewhere (`reward.judgement`).
        """
        deaths = 0
        for _ in RETRY:
            try:
                if self._failed:
                    self.sandbox.restart()
                    self._failed = False
                run = ProgramRun(self.sandbox, self._start, self.config, self.expectations, problem)
                return tuple(run.results(program, cases))
            except SandboxFault as fault:
                self._failed = True
                self.faults[fault.kind] += 1
                if fault.kind == "spawn":
                    raise
                deaths += fault.kind == "zygote"
                last = fault
        if deaths == RETRY.attempts:
            raise Quarantined(program)
        raise last

    def _start(self, program: str, setup: str, tests: int, known: list[Question]) -> Asked:
        return Candidate(self.sandbox, self.config, program, setup, tests)

    def close(self) -> None:
        """End the zygote and everything it forked."""
        self.sandbox.close()
