"""The worker's side of one confined process: its messages, its time and its end.

A child is controlled from outside only: CPU time is read from its process clock, it is killed through its descriptor,
and its messages are decoded strictly.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from couplet.reward.sandbox.plain import BadReply, parse

ONE_READ = 1 << 16  # bytes: below the size from which the C library maps memory for each buffer
LOOK = 0.02  # seconds between two looks at a process that is past its wall-clock limit
FAR = 10.0  # the limit, in wall-clock limits, of a process that waits for a core or the kernel at every look


class ChildGone(Exception):
    """The child ended or broke the protocol. `reason`: exit, timeout, oversize or protocol."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass
class Budget:
    """The remaining budget: CPU seconds of the child, wall-clock seconds of waiting; and the bytes of one reply.

    The wall clock is for programs that sleep. One that is late but wants to run may, so that a program is not slow because
    the node is busy: until its CPU time is spent, or a far limit.
    """

    cpu: float
    wall: float
    reply: int = 0

    def __post_init__(self) -> None:
        self.far = self.wall - FAR * self.wall

    @property
    def late(self) -> bool:
        return self.wall <= 0

    @property
    def spent(self) -> bool:
        return self.cpu <= 0 or self.wall <= self.far


def process_of(pidfd: int) -> int | None:
    """The id, in this process's namespace, of the process of `pidfd`; None if the system does not report it."""
    try:
        with open(f"/proc/self/fdinfo/{pidfd}", "rb", buffering=0) as facts:
            found = re.search(rb"^Pid:\s*(\d+)$", facts.read(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) or None if found else None


def frame(message: dict[str, Any]) -> bytes:
    """A message as bytes on the wire."""
    body = json.dumps(message).encode("ascii")
    return len(body).to_bytes(4, "big") + body


class Meter:
    """Accounting of a sandbox that runs one program at a time: `account` is what the whole program has left.

    Time spent waiting for such a process is taken from it as well as from the current budget; None: from the budget
    only.
    """

    def __init__(self) -> None:
        self.account: Budget | None = None


class Child:
    """One confined process: a program's, or a judge's."""

    def __init__(self, wire: socket.socket, pid: int, pidfd: int | None) -> None:
        self.wire, self.pid, self.pidfd = wire, pid, pidfd
        self.known_as = None if pidfd is None else process_of(pidfd)
        self.clock = None if self.known_as is None else (~self.known_as << 3) | 2
        self.cpu = 0.0
        self.paid = 0.0  # CPU seconds taken from what the whole program has left
        self.meter = Meter()
        self.buffer = bytearray()
        self.unsent = b""  # of what it was to be sent at once
        wire.setblocking(False)

    def cpu_seconds(self) -> float:
        """CPU time used so far, as last seen while the process lived."""
        if self.clock is not None:
            try:
                self.cpu = max(self.cpu, time.clock_gettime(self.clock))
            except OSError:  # it has ended
                self.clock = None
        return self.cpu

    def send(self, data: bytes, budget: Budget) -> None:
        """Send frames (see `frame`). Raises `ChildGone`."""
        left = memoryview(data)
        while left:
            try:
                left = left[self.wire.send(left) :]
            except BlockingIOError:
                self._wait(select.POLLOUT, budget)
            except OSError:
                raise ChildGone("exit") from None

    def receive(self, budget: Budget) -> dict[str, Any]:
        """The next frame, as a JSON object. Raises `ChildGone`."""
        while (body := self._body(budget.reply)) is None:
            self._wait(select.POLLIN, budget)
            try:
                data = self.wire.recv(ONE_READ)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if not data:
                raise ChildGone("exit")
            self.buffer += data
        try:
            message = parse(body)
        except BadReply:
            raise ChildGone("protocol") from None
        if type(message) is not dict:
            raise ChildGone("protocol")
        return message

    def _body(self, limit: int) -> bytes | None:
        """The body of the first whole frame that has arrived, taken from the buffer; None while there is none."""
        if len(self.buffer) < 4:
            return None
        size = int.from_bytes(self.buffer[:4], "big")
        if size > limit:
            raise ChildGone("oversize")
        if size == 0:
            raise ChildGone("protocol")
        if len(self.buffer) < size + 4:
            return None
        body = bytes(self.buffer[4 : size + 4])
        del self.buffer[: size + 4]
        return body

    def _wait(self, event: int, budget: Budget) -> None:
        """Wait until the wire is ready, spending `budget`. Raises `ChildGone("timeout")` if it or the account is spent."""
        account = self.meter.account
        budgets = (budget,) if account is None else (budget, account)
        used, now = self.cpu_seconds(), time.monotonic()
        if account is not None:
            account.cpu -= used - self.paid
        poll = select.poll()
        poll.register(self.wire, event)
        try:
            while not any(each.spent for each in budgets):
                late = any(each.late for each in budgets)
                if late and not self.held_up() and not poll.poll(0):
                    break
                soonest = LOOK if late else max(0.001, min(min(each.wall, each.cpu) for each in budgets))
                ready = poll.poll(1000 * soonest)
                before, started = used, now
                used, now = self.cpu_seconds(), time.monotonic()
                for each in budgets:
                    each.cpu -= used - before
                    each.wall -= now - started
                if ready:
                    return
        finally:
            self.paid = used
        raise ChildGone("timeout")

    def held_up(self) -> bool:
        """Whether its main thread wants to run at this moment, or waits for the kernel (a disk, memory)."""
        with contextlib.suppress(OSError, IndexError):
            return Path(f"/proc/{self.known_as}/stat").read_text().rpartition(") ")[2][0] in "RD"
        return False

    def end(self) -> None:
        """Kill the process and everything it started."""
        self.cpu_seconds()
        with contextlib.suppress(ProcessLookupError):
            if self.pidfd is None:
                os.kill(self.pid, signal.SIGKILL)
            else:
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        if self.pidfd is not None:
            os.close(self.pidfd)
        self.wire.close()
