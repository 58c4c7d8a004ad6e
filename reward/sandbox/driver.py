"""Runs one program inside a cloud sandbox: the questions of a whole job in, raw answers out.

Shipped into the sandbox with `plain`, `child` and, as far as the cloud's kernel lets them, the walls of the local
tiers. It needs nothing but the standard library, holds no expected value and judges nothing.
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

STARTER = "import sys; sys.path.insert(0, {root!r}); from reward.sandbox.driver import child; child({job!r})"
START_SECONDS = 30.0
CPU_POLL = 0.05  # seconds between looks at the CPU clock


class Gone(Exception):
    """The program's process ended or spoke out of turn; the message is one word."""


class Process:
    """One process of the program."""

    def __init__(self, root, job):
        settings = json.dumps({"root": root, "limits": job["limits"], "reply": job["reply"], "cpu": job["cpu_limit"]})
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", "-c", STARTER.format(root=root, job=settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},
            cwd="/tmp",
            start_new_session=True,
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self.job = job
        try:
            self.answer(START_SECONDS, START_SECONDS, 0.0)  # the interpreter's start is not the program's time
        except Gone:
            self.end()
            raise

    def cpu_seconds(self):
        with contextlib.suppress(OSError):
            return time.clock_gettime((~self.process.pid << 3) | 2)
        return 0.0

    def ask(self, request):
        """(body of the answer as text, CPU seconds). Raises `Gone`."""
        body, before = json.dumps(request).encode("ascii"), self.cpu_seconds()
        try:
            self.stdin.write(len(body).to_bytes(4, "big") + body)
            self.stdin.flush()
        except OSError:
            raise Gone("exit") from None
        return self.answer(self.job["cpu"], self.job["wall"], before)

    def answer(self, cpu, wall, before):
        """The next frame of the process: (body as text, CPU seconds since the clock showed `before`)."""
        deadline = time.monotonic() + wall
        data = bytearray()
        while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "big"):
            if len(data) >= 4 and int.from_bytes(data[:4], "big") > self.job["reply"] + 256:
                raise Gone("oversize")
            if time.monotonic() > deadline or self.cpu_seconds() - before > cpu:
                raise Gone("timeout")
            if select.select([self.stdout], [], [], CPU_POLL)[0]:
                part = os.read(self.stdout.fileno(), 1 << 16)
                if not part:
                    raise Gone("exit")
                data += part
        if len(data) > 4 + int.from_bytes(data[:4], "big"):
            raise Gone("protocol")
        return data[4:].decode("ascii", "replace"), self.cpu_seconds() - before

    def end(self):
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, 9)
        self.stdin.close()
        self.stdout.close()
        self.process.wait()


def run(root, job):
    """One outcome per request of the job: ``{"body", "cpu"}``, ``{"gone": reason}`` or ``{"load": outcome}``."""
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

    def outcome(self, request):
        if self.load_failure is not None:
            return {"load": self.load_failure}
        if self.timeouts >= self.job["max_timeouts"]:
            return {"gone": "skipped"}
        for last in (False, True):
            try:
                if self.process is None and not self.load():
                    return {"load": self.load_failure}
                assert self.process is not None
                body, cpu = self.process.ask(request)
                if self.job["fresh"]:
                    self.end()
                return {"body": body, "cpu": cpu}
            except Gone as gone:
                self.end()
                self.timeouts += str(gone) == "timeout"
                if str(gone) != "exit" or last:
                    return {"gone": str(gone)}
        raise AssertionError("unreachable")

    def load(self):
        """Start a process and have it run the program; False where it does not come to its tests."""
        for last in (False, True):
            try:
                self.process = Process(self.root, self.job)
                body, cpu = self.process.ask(self.job["load"])
            except Gone as gone:
                self.end()
                if str(gone) != "exit" or last:
                    self.load_failure = {"gone": str(gone)}
                    return False
                continue
            if '"v": null' in body:
                return True
            self.load_failure = {"body": body, "cpu": cpu}
            return False
        raise AssertionError("unreachable")

    def end(self):
        if self.process is not None:
            self.process.end()
            self.process = None


def child(settings):
    """The program's process: walls as far as they go, then answers on its standard input and output."""
    job = json.loads(settings)
    wire_in, wire_out = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    from reward.sandbox.child import Channel, Program, serve

    for name, value in [*job["limits"], ["RLIMIT_CPU", job["cpu"]]]:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(getattr(resource, name), (value, value))
    confine(job["root"])
    channel = Channel(lambda size: os.read(wire_in, size), lambda data: os.write(wire_out, data))
    channel.send({"ready": True})
    serve(channel, job["reply"], Program())


def confine(root):
    """Landlock and the system-call filter where this kernel has them; the cloud's own wall stands in any case."""
    from reward.sandbox import landlock, namespaces, seccomp

    with contextlib.suppress(OSError):
        landlock.confine([*namespaces.library_paths(()), root], namespaces.DEVICES)
    with contextlib.suppress(OSError):
        seccomp.install(seccomp.for_process(seccomp.build(scratch=False, files_confined=True), os.getpid()))
