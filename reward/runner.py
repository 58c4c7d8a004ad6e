"""Runs a program's tests in the local sandbox, replacing a sandbox that failed and trying again."""

from __future__ import annotations

import time
from collections import Counter
from typing import Protocol

from couplet.configs.schema import SandboxConfig
from couplet.data.problem import Problem
from couplet.data.verdict import TestResult
from couplet.reward.candidate import Candidate
from couplet.reward.planner.plan import Case
from couplet.reward.sandbox.faults import SandboxFault
from couplet.reward.sandbox.local import LocalSandbox
from couplet.reward.verdicts import Expectations, ProgramRun

ATTEMPTS = 3
BACK_OFF = 0.05  # seconds before the second attempt; doubled before each later one


class Quarantined(Exception):
    """The program took its sandbox down on every attempt: no verdict, and no further attempt."""


class Runner(Protocol):
    """What a worker needs to have programs judged."""

    tier: str
    parallel: int  # programs that may run at once
    faults: Counter[str]

    @property
    def restarts(self) -> int: ...

    def run(self, problem: Problem, program: str, cases: tuple[Case, ...]) -> tuple[TestResult, ...]: ...

    def close(self) -> None: ...


class LocalRunner:
    """One zygote, one program at a time. Raises `TierUnavailable` at construction when no tier holds."""

    parallel = 1

    def __init__(self, config: SandboxConfig) -> None:
        self.config = config
        self.sandbox = LocalSandbox(config)
        self.tier = self.sandbox.tier
        self.expectations = Expectations()
        self.faults: Counter[str] = Counter()

    @property
    def restarts(self) -> int:
        """Zygotes replaced so far."""
        return self.sandbox.restarts

    def run(self, problem: Problem, program: str, cases: tuple[Case, ...]) -> tuple[TestResult, ...]:
        """Results in the order of `cases`. Raises `SandboxFault` or `Quarantined` after local retries."""
        deaths = 0
        for attempt in range(ATTEMPTS):
            try:
                if attempt:
                    time.sleep(BACK_OFF * 2 ** (attempt - 1))
                    self.sandbox.restart()
                run = ProgramRun(self.sandbox, self.config, self.expectations, problem)
                candidate = Candidate(self.sandbox, self.config, program, problem.test_setup, len(cases))
                return tuple(run.results(candidate, cases))
            except SandboxFault as fault:
                self.faults[fault.kind] += 1
                deaths += fault.kind == "zygote"
                last = fault
        if deaths == ATTEMPTS:
            self.sandbox.restart()
            raise Quarantined(program)
        raise last

    def close(self) -> None:
        """End the zygote and everything it forked."""
        self.sandbox.close()
