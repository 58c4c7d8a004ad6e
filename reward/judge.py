"""The worker's side of a judge: the process that runs one program's trusted test code."""

from __future__ import annotations

import secrets
from typing import Any

from couplet.configs.schema import SandboxConfig
from couplet.reward.candidate import Asked, Reply, Sandbox, TestFailed, read_reply
from couplet.reward.sandbox.faults import SandboxFault
from couplet.reward.sandbox.handle import Budget, Child, ChildGone, frame

REPLY = 32 << 20  # bytes
CPU_LIMIT = 3600  # seconds, should the worker itself stop watching; each test has its own budget
TRUSTED_FACTOR = 10  # the budget of a problem's own code, in budgets of a program


class TrustedTimeout(Exception):
    """A judge ran out of time. `influenced`: after the candidate had answered it."""

    def __init__(self, influenced: bool) -> None:
        super().__init__()
        self.influenced = influenced


class Judge:
    """Forked when the first test needs it; one that ends is replaced."""

    def __init__(self, sandbox: Sandbox, config: SandboxConfig) -> None:
        self.sandbox, self.config = sandbox, config
        self.cpu = TRUSTED_FACTOR * config.cpu_seconds
        self.wall = self.cpu * config.wall_factor
        self.child: Child | None = None
        self.influenced = False  # whether the judge has seen a value of the candidate in the current question

    def ask(
        self, operation: str, arguments: list[Any], candidate: Asked | None = None, influenced: bool = False
    ) -> Reply:
        """The judge's answer; its calls of the candidate are passed on. A judge that ends is asked once more.

        `influenced`: the arguments hold what the candidate returned. Raises `TestFailed`, `TrustedTimeout` or
        `SandboxFault`. What a candidate returned may not turn into a fault: it would be excluded instead of scored. So
            a
        judge that ends under it ends as the candidate's failure.
        """
        for last in (False, True):
            self.influenced = influenced
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
        self.end()
        if gone.reason == "timeout":
            raise TrustedTimeout(self.influenced)
        if not self.sandbox.alive():
            raise SandboxFault("zygote", "the zygote died under a judge")
        if last and self.influenced:
            raise TestFailed("judge_exit")
        if last:
            raise SandboxFault("judge", f"a judge ended twice in one test ({gone.reason})")

    def _converse(self, operation: str, arguments: list[Any], candidate: Asked | None) -> Reply:
        if self.child is None:
            self.child = self.sandbox.spawn("judge", CPU_LIMIT)
        budget = Budget(self.cpu, self.wall, REPLY)
        token = secrets.token_hex(8)
        self.child.send(frame({"n": token, "op": operation, "args": arguments}), budget)
        while True:
            message = self.child.receive(budget)
            if candidate is None or "call" not in message:
                return read_reply(message, token)
            reply = candidate.ask("call", *message["call"])
            self.influenced = True
            if reply.kind not in ("v", "x"):
                raise TestFailed(failure(reply))
            self.child.send(frame(reply.raw), budget)

    def end(self) -> None:
        """Kill the process; the next question starts another."""
        if self.child is not None:
            self.child.end()
            self.child = None


def failure(reply: Reply) -> str:
    """Why an answer that is not a value fails its test."""
    return {"x": "exception", "o": "not_plain", "big": "oversize", "quit": "exit"}[reply.kind]


def value_of(reply: Reply) -> Any:
    """The plain value of an answer. Raises `TestFailed` for any other answer."""
    if reply.kind != "v":
        raise TestFailed(failure(reply))
    return reply.value
