"""Runs a whole program as `__main__`, with text on its standard input, and collects its standard output.

In the program's own process, so nothing here is trusted: what it returns is compared outside.
"""

import _thread
import atexit
import builtins
import contextlib
import io
import os
import stat
import sys
import types

PART = 1 << 16
built_in_open = open


def run(source, text, limit):
    """(how it ended: "" or "exit", its output). Raises what the program raises; the output is cut behind `limit` bytes."""
    module = sys.modules["__main__"] = types.ModuleType("__main__")
    module.__file__ = "solution.py"
    sys.argv = ["solution.py"]
    sys.stdin = io.TextIOWrapper(os.fdopen(fed(text), "rb", closefd=False), "utf-8", "surrogateescape")
    output = Output(limit)
    sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", closefd=False), "utf-8", "surrogateescape")
    builtins.open = opening
    ended = ""
    try:
        exec(compile(source, "<program>", "exec", dont_inherit=True), module.__dict__)
    except SystemExit as end:
        ended = "exit" if end.code not in (None, 0) else ""
    finally:
        finish()
    return ended, output.text()


def opening(file, *arguments, **options):
    """`open`, also of the standard streams by their names, which the sandbox does not have."""
    return built_in_open({"/dev/stdin": 0, "/dev/stdout": 1}.get(file, file), *arguments, **options)


def finish() -> None:
    """What the interpreter does at its end: wait for threads, run exit functions, write what is left."""
    if "threading" in sys.modules:
        sys.modules["threading"]._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()


def fed(text) -> int:
    """Standard input with `text`: the file that it already is, if that is one and large enough, else a pipe."""
    data = text.encode("utf-8", "surrogatepass")
    try:
        if stat.S_ISREG(os.fstat(0).st_mode):
            put(0, data)
            os.lseek(0, 0, os.SEEK_SET)
            return 0
    except OSError:  # larger than a file may be
        pass
    reading, writing = os.pipe()
    os.dup2(reading, 0)
    os.close(reading)

    def write():
        with contextlib.suppress(OSError):  # the program has closed it
            put(writing, data)
        os.close(writing)

    _thread.start_new_thread(write, ())
    return 0


def put(descriptor, data) -> None:
    """Write all of it."""
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left[:PART]) :]


class Output:
    """Standard output, read by a thread until the program has ended; what exceeds `limit` bytes is thrown away."""

    def __init__(self, limit) -> None:
        self.reading, self.writing = os.pipe()
        os.dup2(self.writing, 1)
        self.data = bytearray()
        self.limit = limit
        self.end = os.urandom(16)  # follows all of it: its end cannot be waited for, as others may hold the pipe
        self.ended = _thread.allocate_lock()
        self.ended.acquire()
        _thread.start_new_thread(self.read, ())

    def read(self) -> None:
        last = b""
        while self.end not in last:
            part = os.read(self.reading, PART)
            last = last[-len(self.end) :] + part
            if len(self.data) <= self.limit:
                self.data += part
        self.ended.release()

    def text(self) -> str:
        """All of it, once the program has ended."""
        os.dup2(2, 1)
        put(self.writing, self.end)
        self.ended.acquire()
        return self.data.partition(self.end)[0].decode("utf-8", "replace")
