"""Runs a command, interrupts it, and tells what it left behind: as a subreaper every orphan becomes its child.

usage: python -m tests.actors.keeper OUTPUT LOG TEXT SIGNAL COMMAND...
SIGNAL (SIGINT, ...) once the command's output or the file LOG contains TEXT; "-" lets it end by itself.
Prints one JSON object: returncode, survivors (command lines), output.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
START = 900.0  # seconds for TEXT to appear
AGAIN = 60.0  # seconds after which whoever waits presses Ctrl-C once more
END = 140.0  # seconds for the command to end after that
TIME_LIMIT = 90.0  # seconds for the last processes to end


def descendants() -> dict[int, str]:
    """Living processes below this one, with their command lines."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            except OSError:
                continue
            if fields[0] != "Z":
                parents[int(entry.name)], names[int(entry.name)] = int(fields[1]), command
    mine = {os.getpid()}
    while grown := {pid for pid, parent in parents.items() if parent in mine} - mine:
        mine |= grown
    return {pid: names[pid] for pid in mine if pid != os.getpid()}


def reap() -> None:
    """Collect the ends of orphans."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def main(output_file: str, log: str, text: str, number: str, *command: str) -> None:
    """See the top of the file."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would inherit a deaf ear
    places = [Path(output_file), Path(log)]
    try:
        with places[0].open("w+") as output:
            child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
            began = time.monotonic()
            while text != "-" and child.poll() is None and time.monotonic() - began < START:
                if any(text in place.read_text() for place in places if place.exists()):
                    child.send_signal(signal.Signals[number])
                    break
                time.sleep(0.05)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(AGAIN if text != "-" else START)
            if text != "-" and child.poll() is None:
                child.send_signal(signal.Signals[number])
            returncode = child.wait(END)
            deadline = time.monotonic() + TIME_LIMIT
            while (left := descendants()) and time.monotonic() < deadline:
                reap()
                time.sleep(0.2)
            output.seek(0)
            print(json.dumps({"returncode": returncode, "survivors": list(left.values()), "output": output.read()}))
    finally:
        for pid in descendants():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:])
