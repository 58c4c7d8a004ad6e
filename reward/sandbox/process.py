"""The worker's side of a zygote: start it, have it fork children (`reward.sandbox.handle`), end it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from typing import Any

from couplet import ROOT
from couplet.configs.schema import ConfigError, SandboxConfig
from couplet.reward.sandbox import control
from couplet.reward.sandbox.faults import SandboxFault, TierUnavailable
from couplet.reward.sandbox.handle import Budget, Child, ChildGone

PROJECT = os.path.realpath(ROOT)
START_SECONDS = 300.0  # to start a zygote, imports of packages on a busy node included
SPAWN_SECONDS = 30.0  # to fork a child: generous, since a busy node must not look like a fault
SCRATCH_MB = 16
STARTER = "import sys; sys.path.insert(0, {root!r}); from couplet.reward.sandbox.zygote import main; main()"


def base_interpreter() -> str:
    """The interpreter itself, not a virtual environment's link to it: only its own library is needed."""
    return os.path.realpath(sys.executable)


class ZygoteProcess:
    """A running zygote of one tier. Raises `TierUnavailable` when the tier's walls cannot be built."""

    def __init__(self, tier: str, config: SandboxConfig, package_paths: tuple[str, ...] = ()) -> None:
        self.tier = tier
        try:
            self.control, theirs = socket.socketpair()
            with theirs:
                self.process = self._start(theirs)
        except OSError as error:
            raise TierUnavailable("start", f"tier {tier}: {error}") from None
        try:
            self._introduce(settings(tier, config, package_paths))
        except BaseException:
            self.close()
            raise

    def _start(self, theirs: socket.socket) -> subprocess.Popen[bytes]:
        command = [base_interpreter(), "-s", "-S", "-P", *(["-B"] if sys.dont_write_bytecode else []), "-c"]
        return subprocess.Popen(
            [*command, STARTER.format(root=PROJECT)],
            env={"PYTHONHASHSEED": "0", "LD_BIND_NOW": "1"},
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    def _introduce(self, values: dict[str, Any]) -> None:
        try:
            worker = os.pidfd_open(os.getpid())
        except (OSError, AttributeError):
            worker = -1
        self.pidfds = worker >= 0
        try:
            control.send(self.control, json.dumps(values), worker)
            answer, _ = self._answer(START_SECONDS)
            reply = json.loads(answer)
        except SandboxFault as fault:
            raise TierUnavailable("start", f"tier {self.tier}: {fault.detail}") from None
        finally:
            if self.pidfds:
                os.close(worker)
        if "sandbox.packages" in reply.get("error", ""):
            raise ConfigError(reply["error"].partition(": ")[2])
        if "error" in reply:
            raise TierUnavailable("start", f"tier {self.tier}: {reply['error']}")
        self.threads_limited = bool(reply.get("threads_limited"))

    def _answer(self, seconds: float) -> tuple[str, int]:
        """The next answer and its descriptor. Raises `SandboxFault`."""
        self.control.settimeout(seconds)
        try:
            message, descriptor = control.receive(self.control)
        except (OSError, ValueError) as error:
            self.control.close()  # an answer that comes later would be taken for the next one
            raise SandboxFault(
                "zygote", f"no answer from the zygote within {seconds:g} s: {error or type(error).__name__}"
            ) from None
        if not message:
            raise SandboxFault("zygote", "the zygote has ended")
        return message, descriptor

    def spawn(self, kind: str, cpu_limit: int, ahead: bytes = b"") -> Child:
        """A new confined child. It finds of the frames `ahead` what the socket takes; the caller sends it the rest, its
        `unsent`. Raises `SandboxFault`.
        """
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise SandboxFault("spawn", str(error)) from None
        ours.setblocking(False)
        try:
            with theirs:
                sent = ours.send(ahead) if ahead else 0
                control.send(self.control, f"{kind} {cpu_limit}", theirs.fileno())
                pid, descriptor = self._child_of(*self._answer(SPAWN_SECONDS))
        except (OSError, SandboxFault) as error:
            ours.close()
            raise error if isinstance(error, SandboxFault) else SandboxFault("zygote", str(error)) from None
        child = Child(ours, pid, descriptor if descriptor >= 0 else None)
        child.unsent = ahead[sent:]
        self._admit(child)
        return child

    def _admit(self, child: Child) -> None:
        """Wait until the child is confined; whatever it says before that comes from the zygote's code."""
        budget = Budget(cpu=SPAWN_SECONDS, wall=SPAWN_SECONDS, reply=1 << 12)
        try:
            first = child.receive(budget)
        except ChildGone as gone:
            child.end()
            kind = "spawn" if self.alive() else "zygote"
            raise SandboxFault(kind, f"a child ended before it was confined ({gone.reason})") from None
        if "ready" not in first:
            child.end()
            raise SandboxFault("spawn", str(first.get("fault")))

    def _child_of(self, answer: str, descriptor: int) -> tuple[int, int]:
        """Process id and descriptor of the child an answer is about. Raises `SandboxFault`."""
        if not answer.isdecimal():
            raise SandboxFault("spawn", answer.removeprefix("error "))
        if self.pidfds and descriptor < 0:  # a bare number might be anyone's
            self.control.close()  # which ends the child too
            raise SandboxFault("spawn", "the zygote gave no descriptor of the child")
        return int(answer), descriptor

    def alive(self) -> bool:
        """Whether the zygote answers. Its children die after its socket closes, so this shows whose fault an end was."""
        try:
            control.send(self.control, "ping")
            return self._answer(SPAWN_SECONDS)[0] == "ping"
        except (OSError, SandboxFault):
            return False

    def close(self) -> None:
        """End the zygote and everything it forked."""
        self.control.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(2)
        self.process.kill()
        self.process.wait()


def settings(tier: str, config: SandboxConfig, package_paths: tuple[str, ...]) -> dict[str, Any]:
    """The settings that a zygote receives once: its tier, the limits that its children inherit, and theirs alone."""
    megabyte = 1 << 20
    rlimits = [
        ("RLIMIT_AS", config.memory_mb * megabyte),
        ("RLIMIT_FSIZE", config.file_mb * megabyte),
        ("RLIMIT_NOFILE", config.open_files),
        ("RLIMIT_CORE", 0),
        ("RLIMIT_MEMLOCK", 0),
        ("RLIMIT_MSGQUEUE", 0),
    ]
    return {
        "tier": tier,
        "rlimits": rlimits,
        "processes": config.processes,  # unless it would count the user's other processes
        "reply": config.reply_kb << 10,
        "scratch_mb": SCRATCH_MB,
        "packages": list(config.packages),
        "package_paths": list(package_paths),
        "hidden_paths": [PROJECT],
    }
