"""Runs a whole program as `__main__`, with text on its standard input, and collects its standard output.

In the program's own process, so nothing here is trusted: what it returns is compared outside.
"""

import _thread
import atexit
import io
import os
import sys
import types

PART = 1 << 16


def run(source, text, limit):
    """(how it ended: "" or "exit", its output). Raises what the program raises; the output is cut behind `limit` bytes."""
    module = sys.modules["__main__"] = types.ModuleType("__main__")
    module.__file__ = "solution.py"
    sys.argv = ["solution.py"]
    sys.stdin = io.TextIOWrapper(os.fdopen(fed(text), "rb", closefd=False), "utf-8", "surrogateescape")
    output = Output(limit)
    sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", closefd=False), "utf-8", "surrogateescape")
    ended = ""
    try:
        exec(compile(source, "<program>", "exec", dont_inherit=True), module.__dict__)
    except SystemExit as end:
        ended = "exit" if end.code not in (None, 0) else ""
    finally:
        finish()
    return ended, output.text()


def finish() -> None:
    """What the interpreter does at its end: wait for threads, run exit functions, write what is left."""
    if "threading" in sys.modules:
        sys.modules["threading"]._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()


def fed(text) -> int:
    """Standard input, into which a thread writes `text`."""
    reading, writing = os.pipe()
    os.dup2(reading, 0)
    os.close(reading)

    def write():
        left = memoryview(text.encode("utf-8", "surrogatepass"))
        try:
            while left:
                left = left[os.write(writing, left[:PART]) :]
        except OSError:  # the program has closed it
            pass
        os.close(writing)

    _thread.start_new_thread(write, ())
    return 0


class Output:
    """Standard output, read by a thread until it is closed; what exceeds `limit` bytes is thrown away."""

    def __init__(self, limit) -> None:
        self.reading, writing = os.pipe()
        os.dup2(writing, 1)
        os.close(writing)
        self.data = bytearray()
        self.limit = limit
        self.ended = _thread.allocate_lock()
        self.ended.acquire()
        _thread.start_new_thread(self.read, ())

    def read(self) -> None:
        while part := os.read(self.reading, PART):
            if len(self.data) <= self.limit:
                self.data += part
        self.ended.release()

    def text(self) -> str:
        """All of it, once it is closed."""
        os.dup2(2, 1)
        self.ended.acquire()
        return self.data.decode("utf-8", "replace")
