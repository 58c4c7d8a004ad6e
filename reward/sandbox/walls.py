"""The walls around one forked child, as steps made ready before the fork (see `kernel.Step`)."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from typing import Any

from couplet.reward.sandbox import kernel, landlock, namespaces, seccomp

FRESH_STREAMS: list[kernel.Step] = [
    # Standard streams of this process alone: flags and locks on what others have opened too would outlive it.
    ("close(0)", kernel.libc.close, (0,)),
    (f"open({os.devnull})", kernel.libc.open, (os.fsencode(os.devnull), os.O_RDWR)),  # the lowest free one: 0
    ("dup2(0, 1)", kernel.libc.dup2, (0, 1)),
    ("dup2(0, 2)", kernel.libc.dup2, (0, 2)),
]


# Standard input of a program: an empty file of its own, which `stdio` may fill: the program asks for its size, maps it and
# seeks in it as it could in a redirected file. A program cannot make further ones, which would take memory uncounted.
OWN_INPUT: list[kernel.Step] = [
    ("close(0)", kernel.libc.close, (0,)),
    ("memfd_create", getattr(kernel.libc, "memfd_create", kernel.libc.open), (b"stdin", 0)),
]


def bounded(which: int, value: int) -> int:
    """`value`, or the current hard limit of resource `which` if that is lower."""
    hard = resource.getrlimit(which)[1]
    return value if hard == resource.RLIM_INFINITY else min(value, hard)


def lower_limit(name: str, value: int) -> None:
    """Set a soft and hard limit, if this system knows it, never above the current hard limit."""
    if (which := getattr(resource, name, None)) is not None:
        resource.setrlimit(which, (bounded(which, value), bounded(which, value)))


def limiting(which: int, name: str, pair: ctypes.Array[ctypes.c_uint64]) -> kernel.Step:
    """setrlimit(2)."""
    return f"setrlimit({name})", kernel.libc.setrlimit, (which, pair)


class Walls:
    """What confines a child of this process: the tier's walls, its limits and its system-call filter.

    `own_user`: no other process has this process's user, so its number of threads can be limited.
    """

    def __init__(self, settings: dict[str, Any], own_user: bool) -> None:
        tier = settings["tier"]
        self.parent = os.getpid()
        self.pids_apart = tier == "namespace"
        self.watches_parent = tier not in ("namespace", "rlimits")
        self.cpu = (ctypes.c_uint64 * 2)()
        self.most_cpu = bounded(resource.RLIMIT_CPU, 1 << 30)
        self.filter = None if tier == "rlimits" else seccomp.Filter(call_filter(tier))
        if self.filter is not None and self.pids_apart:
            self.filter.name_process(1)
        self.steps = self._steps(settings, own_user)

    def _steps(self, settings: dict[str, Any], own_user: bool) -> list[kernel.Step]:
        steps: list[kernel.Step] = []
        if self.pids_apart:
            steps += namespaces.program_steps(settings["scratch_mb"])
        elif self.watches_parent:
            steps += [kernel.holding(), kernel.setting(kernel.PR_SET_PDEATHSIG, signal.SIGKILL, "PR_SET_PDEATHSIG")]
        steps += FRESH_STREAMS + (OWN_INPUT if hasattr(kernel.libc, "memfd_create") else [])
        steps.append(limiting(resource.RLIMIT_CPU, "RLIMIT_CPU", self.cpu))
        if own_user:
            processes = bounded(resource.RLIMIT_NPROC, settings["processes"])
            steps.append(limiting(resource.RLIMIT_NPROC, "RLIMIT_NPROC", (ctypes.c_uint64 * 2)(processes, processes)))
        return steps + (self.filter.steps if self.filter is not None else [])

    def enter(self, cpu_limit: int) -> None:
        """Confine this forked child, which may use so many seconds of CPU time. Raises OSError."""
        self.cpu[0] = self.cpu[1] = min(cpu_limit, self.most_cpu)
        if self.filter is not None and not self.pids_apart:
            self.filter.name_process(os.getpid())
        kernel.take(self.steps)
        if self.watches_parent and os.getppid() != self.parent:
            os._exit(1)


def call_filter(tier: str) -> bytes:
    """The tier's system-call filter. Landlock's first versions do not govern truncation by open()."""
    confined = tier == "namespace" or (tier == "landlock" and landlock.version() >= 3)
    return seccomp.build(scratch=tier == "namespace", files_confined=confined)
