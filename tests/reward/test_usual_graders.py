"""What the usual graders make of the forgeries that `test_attacks.py` holds against ours (docs/sandbox.md).

Two ways of judging, restated: the exit status of one `python -c` per test, and the program and its tests executed in
one interpreter that reports whether an exception came out.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

IN_PROCESS = """
import os, sys
source, report = sys.stdin.read(), os.dup(1)
null = os.open(os.devnull, os.O_RDWR)
os.dup2(null, 1)
os.dup2(null, 2)
try:
    exec(source, {})
    os.write(report, b"passed")
except BaseException:
    os.write(report, b"failed")
"""


def attacks():
    spec = importlib.util.spec_from_file_location("attack_table", Path(__file__).with_name("test_attacks.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def by_exit_status(source: str) -> bool:
    done = subprocess.run(
        [sys.executable, "-I", "-c", source], stdin=subprocess.DEVNULL, capture_output=True, timeout=60
    )
    return done.returncode == 0


def by_exception(source: str) -> bool:
    command = [sys.executable, "-I", "-c", IN_PROCESS]
    return subprocess.run(command, input=source.encode(), capture_output=True, timeout=60).stdout == b"passed"


@pytest.mark.slow
@pytest.mark.parametrize(
    "grader, forged",
    [
        (
            by_exit_status,
            {"os._exit on import", "sys.exit on import", "os._exit in the function", "SystemExit in the function",
             "atexit exit", "excepthook exit", "execv /bin/true", "re-exec with -O", "class with __eq__", "int subclass",
             "float subclass", "list subclass", "patched builtins", "frame walk", "gc scan", "command line"},
        ),
        (
            by_exception,
            {"class with __eq__", "int subclass", "float subclass", "list subclass", "patched builtins", "frame walk",
             "gc scan", "runner source"},
        ),
    ],
)  # fmt: skip
def test_usual_graders_pay_for_forgeries(grader, forged):
    table = attacks()
    found = {
        name
        for name, program in table.FORGERIES.items()
        if any(grader(f"{program}\n{test}") for test in table.FORGED_TESTS)
    }
    assert len(table.FORGERIES) == 36
    assert found == forged
