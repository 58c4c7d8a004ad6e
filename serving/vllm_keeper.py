"""Runs a command and surely ends everything it started, whichever way the process that asked for it goes away.

    python vllm_keeper.py FOLDER COMMAND ...

Its standard input is a pipe that nobody writes to: when it closes (the owner has closed it, or has died), the command's
process group is told to end, then killed, and so is every process that had left the group; FOLDER, which holds the
command's output, is removed. Linux; no imports from the
project, so that it starts at once.
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
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
GRACE_SECONDS = 10.0
LOOK_SECONDS = 0.2


def keep(folder: str, command: list[str]) -> int:
    """Run `command` until it ends or standard input closes; its exit code."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # orphans of the command come here, not to init
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
    """SIGTERM to the group, SIGKILL after a while."""
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
    """Kill and reap adopted processes until none is left; killing one may bring up its children."""
    while children := _children():
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in children:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _children() -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            found.append(int(path.parent.name))
    return found


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal goes to the owner, who closes the pipe
    sys.exit(keep(sys.argv[1], sys.argv[2:]))
