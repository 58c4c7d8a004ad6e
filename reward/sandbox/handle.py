"""The worker's side of one confined process: what is sent and received, what time it uses, its end.

A child is driven from outside only: CPU time is read from its process clock, it is ended through its descriptor, and
what it says is decoded strictly.
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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from couplet.reward.sandbox.plain import BadReply, parse

ONE_READ = 1 << 16  # bytes: below the size from which the C library maps memory for each buffer
GRANT = 0.05  # seconds that a process which still waits for a core is given beyond its wall-clock limit, at a time
STARVATION = 4.0  # a wall-clock limit grows at most by this multiple of itself while there is no core for the process


class ChildGone(Exception):
    """The child ended or broke the protocol. `reason`: exit, timeout, oversize or protocol."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass
class Budget:
    """What is left to spend: CPU seconds of the child, wall-clock seconds of waiting; and the bytes of one reply.

    `patience` is what may still be added to `wall` for time in which the child was ready to run and no core was free,
    so that a busy node is not read as a slow program.
    """

    cpu: float
    wall: float
    reply: int = 0

    def __post_init__(self) -> None:
        self.patience = STARVATION * self.wall

    @property
    def spent(self) -> bool:
        return self.cpu <= 0 or self.wall <= 0


def process_of(pidfd: int) -> int | None:
    """The id, in our own numbering, of the process behind `pidfd`; None where the system does not tell."""
    try:
        with open(f"/proc/self/fdinfo/{pidfd}", "rb", buffering=0) as facts:
            found = re.search(rb"^Pid:\s*(\d+)$", facts.read(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) or None if found else None


def frame(message: dict[str, Any]) -> bytes:
    """A message as it travels."""
    body = json.dumps(message).encode("ascii")
    return len(body).to_bytes(4, "big") + body


class Meter:
    """Who pays for the processes of a sandbox that runs one program at a time: `payer` is what a whole program has left.

    Whatever such a process is waited for is taken from it as well as from the budget at hand; None: nobody pays.
    """

    def __init__(self) -> None:
        self.payer: Budget | None = None


class Child:
    """One confined process: a program's, or a judge's."""

    def __init__(self, wire: socket.socket, pid: int, pidfd: int | None) -> None:
        self.wire, self.pid, self.pidfd = wire, pid, pidfd
        self.known_as = None if pidfd is None else process_of(pidfd)
        self.clock = None if self.known_as is None else (~self.known_as << 3) | 2
        self.cpu = 0.0
        self.paid = 0.0  # CPU seconds taken from what the whole program has left
        self.excused = 0.0  # seconds without a core that have lengthened a limit already
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

    def starved_seconds(self) -> float:
        """Time its main thread has stood ready to run while no core was free; 0 where the system does not tell."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            return int(Path(f"/proc/{self.known_as}/schedstat").read_text().split()[1]) * 1e-9
        return 0.0

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
        """Wait until the wire is ready, spending `budget`. Raises `ChildGone("timeout")` when it, or the payer's, is spent."""
        payer = self.meter.payer
        budgets = (budget,) if payer is None else (budget, payer)
        used, now = self.cpu_seconds(), time.monotonic()
        if payer is not None:
            payer.cpu -= used - self.paid
        poll = select.poll()
        poll.register(self.wire, event)
        try:
            while self._may_go_on(budgets):
                soonest = min(min(each.wall, each.cpu) for each in budgets)
                ready = poll.poll(1000 * max(0.001, soonest))
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

    def _may_go_on(self, budgets: Sequence[Budget]) -> bool:
        if any(each.cpu <= 0 for each in budgets):
            return False
        if any(each.wall <= 0 for each in budgets):
            self.excuse(budgets)
        return all(each.wall > 0 for each in budgets)

    def held_up(self) -> bool:
        """Whether its main thread wants to run at this moment, or waits for the kernel (a disk, memory)."""
        with contextlib.suppress(OSError, IndexError):
            return Path(f"/proc/{self.known_as}/stat").read_text().rpartition(") ")[2][0] in "RD"
        return False

    def excuse(self, budgets: Sequence[Budget]) -> None:
        """Lengthen wall-clock limits by the time the process has had no core since this was last asked.

        The kernel counts a wait for a core when it is over, so one that has not ended is granted a little at a time.
        """
        starved = max(self.starved_seconds() - self.excused, 0.0)
        self.excused += starved
        if starved < GRANT and self.held_up():
            starved = GRANT
        for each in budgets:
            excuse = min(starved, each.patience)
            each.patience -= excuse
            each.wall += excuse

    def end(self) -> None:
        """Kill the process, and with it all it started."""
        self.cpu_seconds()
        with contextlib.suppress(ProcessLookupError):
            if self.pidfd is None:
                os.kill(self.pid, signal.SIGKILL)
            else:
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        if self.pidfd is not None:
            os.close(self.pidfd)
        self.wire.close()
