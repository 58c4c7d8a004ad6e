"""One program in a sandbox: it answers questions, and is restarted if it ends before it is no longer needed."""

from __future__ import annotations

import itertools
import math
import secrets
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from couplet.configs.schema import SandboxConfig
from couplet.reward.sandbox.faults import SandboxFault
from couplet.reward.sandbox.handle import Budget, Child, ChildGone, Meter, frame
from couplet.reward.sandbox.plain import BadReply, decode

ANSWERS = ("v", "x", "o", "big", "quit")
ONE_WRITE = 1 << 16  # bytes that a socket accepts at once even if the other side does not read
Question = tuple[str, list[Any]]  # operation and arguments


class TestFailed(Exception):
    """A test of the program failed; `reason` is one word."""

    __test__ = False

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class LoadFailed(TestFailed):
    """The program did not load, so none of its tests can pass."""


class Reply(NamedTuple):
    """A decoded answer: `value` is plain for kind ``v``, the raw JSON otherwise."""

    kind: str
    value: Any
    raw: dict[str, Any]


class Sandbox(Protocol):
    """The sandbox as a program needs it."""

    tier: str

    def spawn(self, kind: str, cpu_limit: int, ahead: bytes = b"") -> Child: ...

    def alive(self) -> bool: ...


def read_reply(message: dict[str, Any], token: str, operation: str = "") -> Reply:
    """The answer to the request `token`; to a ``call`` undecoded, which only the judge that made it can do.

    Raises `ChildGone("protocol")` for anything else.
    """
    kinds = [kind for kind in ANSWERS if kind in message]
    if len(kinds) != 1 or message.get("n") != token or len(message) != 2:
        raise ChildGone("protocol")
    kind = kinds[0]
    try:
        value = decode(message[kind]) if kind == "v" and operation != "call" else message[kind]
    except BadReply:
        raise ChildGone("protocol") from None
    named = type(value) is list and len(value) == 2 and all(type(part) is str for part in value)
    if kind == "x" and not named:
        raise ChildGone("protocol")
    return Reply(kind, value, message)


class Asked(Protocol):
    """A program that answers questions, wherever it runs.

    `timeouts` counts questions that ran out of time; `load_failure` says why the program did not reach its tests.
    """

    timeouts: int
    load_failure: str

    def expect(self, questions: list[Question]) -> None: ...

    def begin_test(self) -> None: ...

    def ask(self, operation: str, *arguments: Any) -> Reply: ...

    def cpu_seconds(self) -> float: ...

    def charge(self, seconds: float) -> None: ...

    def end(self) -> None: ...


class Candidate:
    """A program and the process that runs it.

    A process that ends is replaced before the next test, and the test it ended in is tried once more: only a second end
    counts against the program, since the first may have come from outside (an out-of-memory kill on a crowded node).

    All its processes share one allowance; the time in which a judge works on the values of a call is also taken from
    it. When it is spent, the current test is a timeout and the others are not tried.
    """

    def __init__(self, sandbox: Sandbox, config: SandboxConfig, program: str, setup: str, tests: int) -> None:
        self.sandbox, self.config = sandbox, config
        self.program, self.setup = program, setup
        self.budget = self._test_budget()
        self.allowance = Budget(config.program_seconds, config.program_seconds)
        self.meter: Meter = getattr(sandbox, "meter", None) or Meter()  # none if several programs share the sandbox
        self.cpu_limit = math.ceil(min(config.cpu_seconds * (tests + 2), config.program_seconds)) + 1
        self.child: Child | None = None
        self.used = 0.0  # CPU seconds of processes already ended
        self.timeouts = 0
        self.load_failure = ""
        self.queue: deque[tuple[Question, str]] = deque()
        self.sent = False

    def _test_budget(self) -> Budget:
        cpu = self.config.cpu_seconds
        return Budget(cpu, cpu * self.config.wall_factor, (self.config.reply_kb << 10) + 256)

    def begin_test(self) -> None:
        """All questions until the next test share one budget."""
        self.budget = self._test_budget()
        self.meter.account = None

    def expect(self, questions: list[Question]) -> None:
        """Announce the next questions, in order: they are sent at once, which saves the processes much waiting."""
        self.queue = deque((question, secrets.token_hex(8)) for question in questions)
        self.sent = False

    def ask(self, operation: str, *arguments: Any) -> Reply:
        """The program's answer. Raises `TestFailed`, `LoadFailed` or `SandboxFault`."""
        if self.allowance.spent:
            self._give_up()
            raise TestFailed("timeout")
        self.meter.account = self.allowance
        try:
            return self._ask((operation, list(arguments)))
        finally:
            if operation != "call":  # a judge continues with the value of a call
                self.meter.account = None

    def _ask(self, question: Question) -> Reply:
        operation, arguments = question
        factor = arguments[3] if operation == "result" and len(arguments) > 3 else 1
        self.budget.reply = factor * (self.config.reply_kb << 10) + 256
        if not (self.queue and self.queue[0][0] == question):
            return self._ask_between(question)
        try:
            return self._try_twice(self._next_answer)
        finally:
            self.queue.popleft()
            self.sent = self.sent and bool(self.queue)

    def _ask_between(self, question: Question) -> Reply:
        """The answer to an unannounced question. Announced ones that were sent are asked again later."""
        if self.sent:
            self.end()
        queue, self.queue = self.queue, deque()
        try:
            return self._try_twice(lambda child: self._exchange(child, self.budget, *question))
        finally:
            self.queue, self.sent = queue, False

    def _try_twice(self, attempt: Callable[[Child], Reply]) -> Reply:
        for last in (False, True):
            child = self._loaded()
            try:
                return attempt(child)
            except ChildGone as gone:
                self._lost(gone)
                if gone.reason != "exit" or last:
                    raise TestFailed(gone.reason) from None
        raise AssertionError("unreachable")

    def _next_answer(self, child: Child) -> Reply:
        """The answer to the first announced question."""
        if not self.sent:
            child.send(self._announced(), self.budget)
            self.sent = True
        (operation, _), token = self.queue[0]
        return read_reply(child.receive(self.budget), token, operation)

    def _announced(self) -> bytes:
        """All announced questions, or the first ones that fit into one write (the others are then asked one by one)."""
        data = b""
        for number, ((operation, arguments), token) in enumerate(self.queue):
            more = frame({"n": token, "op": operation, "args": arguments})
            if data and len(data) + len(more) > ONE_WRITE:
                self.queue = deque(itertools.islice(self.queue, number))
                break
            data += more
        return data

    def _exchange(self, child: Child, budget: Budget, operation: str, arguments: list[Any]) -> Reply:
        token = secrets.token_hex(8)
        child.send(frame({"n": token, "op": operation, "args": arguments}), budget)
        return read_reply(child.receive(budget), token, operation)

    def _loaded(self) -> Child:
        """A process that has run the program; a program that cannot load is not tried again."""
        for last in (False, True):
            if self.load_failure:
                break
            if self.child is not None:
                return self.child
            self._load(last)
        if self.child is not None and not self.load_failure:
            return self.child
        raise LoadFailed(self.load_failure)

    def _load(self, last: bool) -> None:
        """Start a process and have it run the program, followed at once by the announced questions."""
        start = frame({"n": "load", "op": "load", "args": [self.program, self.setup]})
        together = len(start) < ONE_WRITE
        ahead = start + self._announced() if together else start
        child = self.child = self.sandbox.spawn("program", self.cpu_limit, ahead)
        budget = self._test_budget()
        child.paid = child.cpu_seconds()  # it may have run the program before the worker learned of it
        for each in (budget, self.allowance):
            each.cpu -= child.paid
        try:
            if budget.spent:
                raise ChildGone("timeout")
            child.send(child.unsent, budget)
            self.sent = together
            reply = read_reply(child.receive(budget), "load")
        except ChildGone as gone:
            self._lost(gone)
            if gone.reason != "exit" or last:
                self.load_failure = gone.reason
            return
        if reply.kind != "v":
            self.load_failure = {"x": "exception", "quit": "exit"}.get(reply.kind, "protocol")

    def _lost(self, gone: ChildGone) -> None:
        """The process is lost. Raises `SandboxFault` if the zygote died."""
        self.timeouts += gone.reason == "timeout"
        self.end()
        if self.allowance.spent:
            self._give_up()
        if not self.sandbox.alive():
            raise SandboxFault("zygote", "the zygote died under a program")

    def _give_up(self) -> None:
        """Try no further test."""
        self.timeouts = max(self.timeouts, self.config.max_timeouts)

    def cpu_seconds(self) -> float:
        """CPU time of all processes of this program so far."""
        return self.used + (self.child.cpu_seconds() if self.child is not None else 0.0)

    def charge(self, seconds: float) -> None:
        """Take the worker's own work on the program from the allowance."""
        self.allowance.wall -= seconds

    def end(self) -> None:
        """Kill the process; the next question starts another."""
        if self.child is not None:
            self.child.end()
            self.used += self.child.cpu
            self.child = None
            self.sent = False
