"""Runs a command, and ends everything it started however its owner ends.

    python vllm_keeper.py FOLDER COMMAND ...

Standard input is a pipe to which nothing is written. When it closes, because the owner closed it or died, the process
group of the command gets SIGTERM, then SIGKILL, and so does every process that has left the group. FOLDER, which
contains the output of the command, is removed. Linux only; it imports nothing from the project, to start fast.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time

import psutil

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
GRACE_SECONDS = 10.0
LOOK_SECONDS = 0.2


def keep(folder: str, command: list[str]) -> int:
    """Run `command` until it ends or standard input closes; returns its exit code."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # orphans of the command come to this process, not to init
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0),
    )
    closed = False
    try:
        while child.poll() is None and not closed:
            closed = bool(select.select([0], [], [], LOOK_SECONDS)[0])
        _end_group(child)
    finally:
        _kill_descendants()
        if closed:
            shutil.rmtree(folder, ignore_errors=True)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _end_group(child: subprocess.Popen[bytes]) -> None:
    """Send SIGTERM to the group, and SIGKILL later."""
    deadline = time.monotonic() + GRACE_SECONDS
    _signal_group(child.pid, signal.SIGTERM)
    while child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    _signal_group(child.pid, signal.SIGKILL)
    child.wait()


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def _kill_descendants() -> None:
    """Kill and reap adopted processes until none is left; killing one may orphan its children."""
    while children := psutil.Process().children(recursive=True):
        for process in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(children)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal goes to the owner, who closes the pipe
    sys.exit(keep(sys.argv[1], sys.argv[2:]))
