"""Twenty thousand programs, one in twenty hostile, over two workers: nothing leaks and every honest verdict is right."""

import os
import random
import tempfile
import threading
import time
from pathlib import Path

import pytest

from couplet.configs.schema import RewardConfig, SandboxConfig
from couplet.data.problem import Problem
from couplet.data.verdict import Outcome
from couplet.reward.worker import RewardWorker

PROGRAMS, WORKERS, BATCH = 20_000, 2, 50
LINEAR = Problem(
    "linear", "q", (*(f"assert f({x}) == {3 * x + 1}" for x in range(4)), "assert abs(f(0.5) - 2.5) < 1e-9")
)
ONLY_ONE = Problem("one", "q", ("assert f(1) == 'the answer'",))
HONEST = [
    ("def f(x):\n    return 3 * x + 1 + {n} - {n}", 1.0),
    ("def f(x):\n    return 3 * x + 2 + {n} - {n}", 0.0),
    ("def f(x):\n    if x == 2: raise ValueError({n})\n    return 3 * x + 1", 0.8),
    ("import math\ndef f(x):\n    return sum([x] * 3) + {n} ** 0", 1.0),
]
HOSTILE = [
    "import os\nos._exit({n})",
    "import os\ndef f(x):\n    while True: os.fork()",
    "import os\ndef f(x): os.kill(-1, 9)",
    "def f(x): return 'x' * (300 << 20)",
    "def f(x): return bytearray(64 << 30)",
    "import os\ndef f(x):\n    for fd in range(64):\n        try: os.write(fd, b'\\x7f\\xff\\xff\\xff' * 99)\n        except OSError: pass",
    "def f(x):\n    for i in range(9999):\n        open(f'/tmp/{{i}}', 'wb').write(bytes(1 << 20))",
    "import threading, time\ndef f(x):\n    for _ in range(500): threading.Thread(target=time.sleep, args=(9,)).start()",
    "import sys\nsys.setrecursionlimit(10 ** 9)\ndef f(x): return f(x)",
    "import socket\ndef f(x): socket.create_connection(('127.0.0.1', 22))",
    "import shutil\ndef f(x): shutil.rmtree('/', ignore_errors=True)",
    "class Any:\n    def __eq__(self, o): return True\ndef f(x): return Any()",
    "def f(x): return {{i * (2 ** 61 - 1) for i in range(900)}}",
    "import ctypes\ndef f(x): ctypes.string_at(0)",
    "while True: {n}",
]


def resident_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmRSS")


def held() -> dict[str, object]:
    """Everything that could leak."""
    own = str(os.getpid())
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[stat.parent.name] = stat.read_text().rsplit(")", 1)[1].split()[1]
        except OSError:
            continue
    family, size = {own}, 0
    while len(family) != size:
        size = len(family)
        family |= {pid for pid, parent in parents.items() if parent in family}
    mounts = [
        line for line in Path("/proc/self/mounts").read_text().splitlines() if line.startswith(("sandbox", "scratch"))
    ]
    return {
        "processes": len(family),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "mounts": mounts,
        "folders": os.listdir(tempfile.gettempdir()),
    }


def grown(before: dict[str, object]) -> dict[str, object]:
    """What is held besides; descriptors that earlier tests had left open may be closed meanwhile."""
    now = held()
    if now["descriptors"] <= before["descriptors"]:
        now["descriptors"] = before["descriptors"]
    return {name: value for name, value in now.items() if value != before[name]}


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("tier", ["namespace", "landlock"])
def test_soak(tier, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = held()
    config = SandboxConfig(tier=tier, cpu_seconds=0.5, wall_factor=4.0, max_timeouts=1)
    memory: list[float] = []
    wrong: list[tuple[str, object]] = []
    count = PROGRAMS if tier == "namespace" else PROGRAMS // 4

    def work(seed: int) -> None:
        draw = random.Random(seed)
        with RewardWorker(RewardConfig(cache_entries=100), config) as worker:
            for start in range(0, count // WORKERS, BATCH):
                problems, programs, wanted = [], [], []
                for n in range(start, start + BATCH):
                    hostile = draw.random() < 0.05
                    program, rate = (draw.choice(HOSTILE), 0.0) if hostile else draw.choice(HONEST)
                    problems.append(ONLY_ONE if hostile else LINEAR)
                    programs.append(program.format(n=n))
                    wanted.append(rate)
                for verdict, program, rate in zip(worker.judge(problems, programs), programs, wanted):
                    right = Outcome.PASSED if rate == 1.0 else Outcome.FAILED
                    if verdict.outcome is not right or abs(verdict.pass_rate - rate) > 1e-9:
                        wrong.append((program, verdict))
                if seed == 0:
                    memory.append(resident_mb())
            assert worker.stats()["restarts"] == 0

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    half = memory[len(memory) // 2 :]
    assert max(half) - half[0] <= 10.0, half
    deadline = time.monotonic() + 20
    while grown(before) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert grown(before) == {}
