"""Runs one program inside a cloud sandbox: the questions of a whole job in, raw answers out.

Shipped into the sandbox with `child`, what it imports and, as far as the cloud's kernel lets them, the walls of the
local tiers. It needs nothing but the standard library, holds no expected value and judges nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import subprocess
import sys
import time

STARTER = "import sys; sys.path.insert(0, {root!r}); from couplet.reward.e2b.driver import child; child({job!r})"
START_SECONDS = 20.0
END_SECONDS = 5.0
CPU_POLL = 0.05  # seconds between looks at the CPU clock


class Gone(Exception):
    """The program's process ended or spoke out of turn; the message is one word."""


class Budget:
    """CPU and wall-clock seconds left for one question, its second attempt included; nothing lasts past `deadline`."""

    def __init__(self, cpu, wall, deadline):
        self.cpu, self.wall, self.deadline = cpu, wall, deadline


class Process:
    """One process of the program, started by `deadline`. Raises `Gone`."""

    def __init__(self, root, job, deadline):
        settings = json.dumps({"root": root, "limits": job["limits"], "reply": job["reply"], "cpu": job["cpu_limit"]})
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", "-c", STARTER.format(root=root, job=settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={},
            cwd="/tmp",
            start_new_session=True,
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        os.set_blocking(self.stdin.fileno(), False)  # the program need not read
        self.reply = job["reply"]
        self.used = 0.0
        self.seen = time.monotonic()
        try:
            # The interpreter's start is not the program's time.
            self.answer(Budget(START_SECONDS, START_SECONDS, deadline))
        except Gone:
            self.end()
            raise

    def cpu_seconds(self):
        """CPU time used so far, as last seen while the process lived."""
        with contextlib.suppress(OSError):
            self.used = max(self.used, time.clock_gettime((~self.process.pid << 3) | 2))
        return self.used

    def charge(self, budget):
        """Take what was used since the last look from `budget`. Raises `Gone` when it is spent."""
        used, seen = self.used, self.seen
        self.seen = time.monotonic()
        budget.cpu -= self.cpu_seconds() - used
        budget.wall -= self.seen - seen
        if min(budget.cpu, budget.wall, budget.deadline - self.seen) <= 0:
            raise Gone("timeout")

    def ask(self, request, budget):
        """Body of the answer as text. Raises `Gone`."""
        body = json.dumps(request).encode("ascii")
        left = memoryview(len(body).to_bytes(4, "big") + body)
        self.cpu_seconds()
        self.seen = time.monotonic()
        while left:
            self.charge(budget)
            if select.select([], [self.stdin], [], CPU_POLL)[1]:
                try:
                    left = left[os.write(self.stdin.fileno(), left) :]
                except BlockingIOError:
                    continue
                except OSError:
                    raise Gone("exit") from None
        return self.answer(budget)

    def answer(self, budget):
        """Body of the next frame of the process, as text. Raises `Gone`."""
        data = bytearray()
        while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "big"):
            if len(data) >= 4 and int.from_bytes(data[:4], "big") > self.reply + 256:
                raise Gone("oversize")
            self.charge(budget)
            if select.select([self.stdout], [], [], CPU_POLL)[0]:
                part = os.read(self.stdout.fileno(), 1 << 16)
                if not part:
                    raise Gone("exit")
                data += part
        if len(data) > 4 + int.from_bytes(data[:4], "big"):
            raise Gone("protocol")
        with contextlib.suppress(Gone):
            self.charge(budget)
        return data[4:].decode("ascii", "replace")

    def end(self):
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, 9)
        self.stdin.close()
        self.stdout.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(END_SECONDS)


def run(root, job):
    """One outcome per request of the job: ``{"body", "cpu"}``, ``{"gone": reason}`` or ``{"load": outcome}``.

    The whole job takes ``seconds`` from the first process's start on; what it has not answered by then is a timeout.
    Raises `Gone` if no process starts at all, which is not the program's fault.
    """
    session = Session(root, job)
    try:
        return [session.outcome(request) for request in job["requests"]]
    finally:
        session.end()


class Session:
    """The program's process, replaced when it ends, and what is known of it."""

    def __init__(self, root, job):
        self.root, self.job = root, job
        self.process: Process | None = None
        self.load_failure: dict | None = None
        self.timeouts = 0
        self.first: Process | None = Process(root, job, time.monotonic() + START_SECONDS)
        self.deadline = time.monotonic() + job["seconds"]

    def budget(self):
        """The whole budget of a question, or of loading the program."""
        return Budget(self.job["cpu"], self.job["wall"], self.deadline)

    def outcome(self, request):
        if self.load_failure is not None:
            return {"load": self.load_failure}
        if self.timeouts >= self.job["max_timeouts"]:
            return {"gone": "skipped"}
        if time.monotonic() >= self.deadline:
            return {"gone": "timeout"}
        budget = self.budget()
        for last in (False, True):
            try:
                if self.process is None and not self.load():
                    return {"load": self.load_failure}
                assert self.process is not None
                body = self.process.ask(request, budget)
                if self.job["fresh"]:
                    self.end()
                return {"body": body, "cpu": self.job["cpu"] - budget.cpu}
            except Gone as gone:
                self.end()
                self.timeouts += str(gone) == "timeout"
                if str(gone) != "exit" or last:
                    return {"gone": str(gone)}
        raise AssertionError("unreachable")

    def load(self):
        """Start a process and have it run the program; False if it does not reach its tests."""
        for last in (False, True):
            budget = self.budget()
            try:
                self.process, self.first = self.first or Process(self.root, self.job, self.deadline), None
                body = self.process.ask(self.job["load"], budget)
            except Gone as gone:
                self.end()
                if str(gone) != "exit" or last:
                    self.load_failure = {"gone": str(gone)}
                    return False
                continue
            if '"v":null' in body.replace(" ", ""):
                return True
            self.load_failure = {"body": body, "cpu": self.job["cpu"] - budget.cpu}
            return False
        raise AssertionError("unreachable")

    def end(self):
        for process in (self.process, self.first):
            if process is not None:
                process.end()
        self.process = self.first = None


def child(settings):
    """The program's process: walls as far as they go, then answers on its standard input and output."""
    job = json.loads(settings)
    wire_in, wire_out = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    with contextlib.suppress(AttributeError, OSError):
        os.dup2(os.memfd_create("stdin"), 0)  # see `walls.OWN_INPUT`
    from couplet.reward.sandbox.child import Channel, Program, serve

    for name, value in [*job["limits"], ["RLIMIT_CPU", job["cpu"]]]:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(getattr(resource, name), (value, value))
    confine(job["root"])
    channel = Channel(lambda size: os.read(wire_in, size), lambda data: os.write(wire_out, data))
    channel.send({"ready": True})
    serve(channel, Program(job["reply"]))


def confine(root):
    """Landlock and the system-call filter if this kernel has them; the cloud's own wall is there in any case."""
    from couplet.reward.sandbox import kernel, landlock, namespaces, seccomp

    with contextlib.suppress(OSError):
        landlock.confine([*namespaces.library_paths(()), root], namespaces.DEVICES)
    with contextlib.suppress(OSError):
        calls = seccomp.Filter(seccomp.build(scratch=False, files_confined=True))
        calls.name_process(os.getpid())
        kernel.take(calls.steps)
