"""Nothing outlives a worker, nothing leaks, and nothing that happens to a sandbox changes a verdict."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from couplet.configs.schema import RewardConfig, SandboxConfig
from couplet.data.problem import Problem
from couplet.data.verdict import Outcome
from couplet.reward.sandbox import handle, process
from couplet.reward.sandbox.faults import SandboxFault
from couplet.reward.sandbox.handle import Budget, frame
from couplet.reward.worker import RewardWorker

PROJECT = str(Path(__file__).resolve().parents[2])
DOUBLE = Problem("double", "q", tuple(f"assert f({x}) == {2 * x}" for x in range(5)))
TIERS = pytest.mark.parametrize("tier", ["namespace", "landlock"])

VICTIM = """
import sys, threading
sys.path.insert(0, {project!r})
from couplet.configs.schema import RewardConfig, SandboxConfig
from couplet.data.problem import Problem
from couplet.reward.worker import RewardWorker
worker = RewardWorker(RewardConfig(), SandboxConfig(tier={tier!r}, cpu_seconds=120.0))
print(worker.runner.sandbox.zygote.process.pid, flush=True)
worker.judge([Problem("p", "q", ("assert f(1) == 1",))], ["def f(x):\\n    while True: pass"])
"""


def descendants(pid: int) -> set[int]:
    """Live process ids below `pid`."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
    found: set[int] = set()
    while more := {child for child, parent in parents.items() if parent in {pid, *found}} - found:
        found |= more
    return found


def session(leader: int) -> set[int]:
    """Process ids of the session that `leader` began."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rsplit(")", 1)[1].split()[3]) == leader:
                found.add(int(stat.parent.name))
    return found


def running(pids: set[int]) -> set[int]:
    """Those of `pids` that still run (a zombie does not)."""
    alive = set()
    for pid in pids:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX":
                alive.add(pid)
        except OSError:
            continue
    return alive


def soon(condition, seconds=60.0) -> bool:
    """Whether `condition()` becomes true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@TIERS
def test_everything_dies_with_a_killed_worker(tier):
    command = [sys.executable, "-c", VICTIM.format(project=PROJECT, tier=tier)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as victim:
        assert victim.stdout is not None
        zygote = int(victim.stdout.readline())
        assert soon(lambda: len(descendants(zygote)) >= (2 if tier == "namespace" else 1))
        family = {zygote, *descendants(zygote)}
        victim.kill()
    assert soon(lambda: not running(family)), running(family)


@TIERS
def test_a_forked_copy_of_the_worker_keeps_nothing_alive(tier):
    """A copy holds the control socket open, so the zygote must watch the worker itself."""
    command = [sys.executable, "-c", "import os\n" + VICTIM.format(project=PROJECT, tier=tier).replace(
        "worker.judge", "if os.fork() == 0:\n    import time\n    time.sleep(600)\n    os._exit(0)\nworker.judge"
    )]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as victim:
        assert victim.stdout is not None
        zygote = int(victim.stdout.readline())
        assert soon(lambda: len(descendants(victim.pid)) >= 2 and descendants(zygote))
        copies = {pid for pid in descendants(victim.pid) if pid != zygote} - descendants(zygote)
        family = {zygote, *descendants(zygote)}
        victim.kill()
        assert soon(lambda: not running(family)), running(family)
        for pid in copies:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_a_worker_outlives_the_thread_that_made_it():
    with ThreadPoolExecutor(1) as pool:
        worker = pool.submit(RewardWorker, RewardConfig(), SandboxConfig()).result()
    time.sleep(0.1)
    with worker:
        assert worker.judge([DOUBLE], ["def f(x): return 2 * x"])[0].outcome is Outcome.PASSED
        assert worker.stats()["restarts"] == 0


def leave_nothing(tier: str, folder: str) -> None:
    """Judge good and bad programs; what this process held before, it holds after."""
    tempfile.tempdir = folder

    def held() -> tuple[int, int, list[str], list[str]]:
        mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if "tmpfs" in line]
        ours = [line for line in mounts if line.startswith(("sandbox", "scratch"))]
        return len(os.listdir("/proc/self/fd")), len(descendants(os.getpid())), ours, os.listdir(folder)

    before = held()
    config = SandboxConfig(tier=tier, cpu_seconds=0.05, max_timeouts=1)
    programs = [
        "def f(x): return 2 * x",
        "import os\nos._exit(0)",
        "while True: pass",
        "def f(x): return 'x' * 2 ** 22",
    ]
    with RewardWorker(RewardConfig(cache_entries=0), config) as worker:
        for _ in range(8):
            worker.judge([DOUBLE] * 4, programs)
        during = held()
    assert during[0] - before[0] <= 2 and during[2:] == before[2:], (during, before)
    assert soon(lambda: held() == before), (held(), before)


@TIERS
def test_nothing_is_left_behind(tier, tmp_path):
    """In a process of its own, which has no other descendants."""
    code = f"from tests.reward.test_lifecycle import leave_nothing; leave_nothing({tier!r}, {str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


def test_workers_side_by_side_do_not_disturb_each_other():
    loop, fine, wrong = "while True: pass", "def f(x): return x + x", "def f(x): return x"
    config = SandboxConfig(cpu_seconds=0.3, wall_factor=50.0, max_timeouts=1)

    def work(name: int) -> list[float]:
        with RewardWorker(RewardConfig(cache_entries=0), config) as worker:
            return [
                verdict.pass_rate
                for verdict in worker.judge([DOUBLE] * 7, [fine, wrong, loop, fine, wrong, fine, fine])
            ]

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(work, range(3))) == [[1.0, 0.2, 0.0, 1.0, 0.2, 1.0, 1.0]] * 3


def test_one_worker_may_be_called_from_several_threads(worker):
    def work(k: int) -> float:
        return worker.judge([DOUBLE], [f"def f(x): return {k} * x"])[0].pass_rate

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(8))) == [0.2, 0.2, 1.0, 0.2, 0.2, 0.2, 0.2, 0.2]


@TIERS
def test_random_kills_of_the_zygote_change_no_verdict(tier):
    programs = [f"def f(x):\n    return {k % 3} * x + {k} - {k}" for k in range(60)]
    wanted = [(0.2, 0.2, 1.0)[k % 3] for k in range(60)]
    draw, verdicts = random.Random(0), []
    with RewardWorker(RewardConfig(), SandboxConfig(tier=tier, wall_factor=30.0)) as worker:

        def kill(delay: float, zygote_itself: bool) -> None:
            """One process, at some moment of a program; where more die, a program may be given up."""
            time.sleep(delay)
            zygote = worker.runner.sandbox.zygote.process.pid
            victims = [zygote] if zygote_itself else [zygote, *descendants(zygote)]
            with contextlib.suppress(ProcessLookupError):
                os.kill(draw.choice(victims), signal.SIGKILL)

        for number, program in enumerate(programs):
            killer = threading.Thread(target=kill, args=(draw.uniform(0.0, 0.02), number % 10 == 0))
            if number % 5 == 0:
                killer.start()
            verdicts.append(worker.judge([DOUBLE], [program])[0])
            if number % 5 == 0:
                killer.join()
        assert worker.stats()["restarts"] > 0
    assert [verdict.outcome for verdict in verdicts if not verdict.outcome.is_verdict] == []
    assert [verdict.pass_rate for verdict in verdicts] == wanted


def test_a_program_killed_from_outside_once_is_tried_again(worker):
    sandbox = worker.runner.sandbox
    spawn, killed = type(sandbox).spawn, []

    def unlucky(kind, cpu_limit, ahead=b""):
        child = spawn(sandbox, kind, cpu_limit, ahead)
        if not killed:
            killed.append(child.pid)
            signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
        return child

    sandbox.spawn = unlucky
    try:
        slow = "import time\ntime.sleep(0.2)  # the blow falls before it answers\ndef f(x):\n    return x * 2 + 5 - 5"
        verdict = worker.judge([DOUBLE], [slow])[0]
    finally:
        del sandbox.spawn
    assert killed and verdict.outcome is Outcome.PASSED


# A zygote that is held up between the fork and the look at the child.
HELD_UP = """
import sys; sys.path.insert(0, {root!r})
import os, time
look = os.pidfd_open
def late(pid):
    time.sleep(0.05)
    return look(pid)
os.pidfd_open = late
from couplet.reward.sandbox.zygote import main; main()
"""


@TIERS
@pytest.mark.parametrize("ending", ["import os; os._exit(0)", "import ctypes; ctypes.string_at(0)"])
def test_a_program_that_ends_before_the_zygote_looks_has_failed(tier, ending, monkeypatch):
    monkeypatch.setattr(process, "STARTER", HELD_UP)
    with RewardWorker(RewardConfig(), SandboxConfig(tier=tier)) as worker:
        verdict = worker.judge([DOUBLE], [ending])[0]
        assert verdict.outcome is Outcome.FAILED and {test.reason for test in verdict.tests} <= {"exit", "skipped"}
        assert worker.stats()["restarts"] == 0


@pytest.mark.parametrize("tier", ["landlock", "seccomp"])
def test_chance_is_the_same_for_all_even_where_a_package_has_threads(tier, tmp_path):
    """Python then does more than fork(2) in every child, and that would draw a fresh seed."""
    package = tmp_path / "threaded"
    package.mkdir()
    package.joinpath("__init__.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(1e6,), daemon=True).start()\n"
    )
    drawn = []
    for packages, paths in (((), ()), (("threaded",), (str(package),))):
        zygote = process.ZygoteProcess(tier, SandboxConfig(packages=packages, memory_mb=2_000), paths)
        try:
            for _ in range(2):
                asked = [("load", ["import random", ""]), ("eval", ["random.random()"])]
                frames = b"".join(frame({"n": "t", "op": name, "args": arguments}) for name, arguments in asked)
                child, budget = zygote.spawn("program", 5, frames), Budget(10.0, 60.0, 1 << 20)
                child.receive(budget)
                drawn.append(child.receive(budget)["v"])
                child.end()
        finally:
            zygote.close()
    assert len(set(drawn)) == 1


@TIERS
def test_ended_programs_are_buried_while_nothing_is_asked(tier):
    with RewardWorker(RewardConfig(), SandboxConfig(tier=tier)) as worker:
        assert worker.judge([DOUBLE], ["def f(x): return 2 * x"])[0].outcome is Outcome.PASSED
        left = 1 if tier == "namespace" else 0  # process 1 of the zygote's own namespace
        assert soon(lambda: len(descendants(worker.runner.sandbox.zygote.process.pid)) == left)


def late(_):
    """The zygote's answer does not come in time."""
    raise TimeoutError("timed out")


def test_a_program_whose_spawn_failed_does_not_stay(monkeypatch):
    """It finds its questions in its socket, whether or not the worker ever learns of it."""
    endless = frame({"n": "load", "op": "load", "args": ["import time\ntime.sleep(1000)", ""]})
    zygote = process.ZygoteProcess("landlock", SandboxConfig())
    monkeypatch.setattr(process.control, "receive", late)
    with pytest.raises(SandboxFault, match="no answer"):
        zygote.spawn("program", 5, endless)
    assert soon(lambda: zygote.process.poll() is not None and not running(session(zygote.process.pid)))
    assert not zygote.alive()
    zygote.close()


LOOKING = """
import os, socket, subprocess
def attempt(name):
    if name == "process": return os.fork() >= 0
    if name == "shell": return subprocess.run(["/bin/true"]).returncode == 0
    if name == "network": return socket.socket() is not None
    if name == "write": return open("/tmp/couplet-written", "w") is not None
    if name == "kill": return os.kill(os.getppid(), 0) is None
    if name == "read": return len(open("/etc/passwd").read()) > 0
"""


BUSY = """
import time
def f(x):
    while time.process_time() < 0.1 + x: pass
    return x
"""


def test_a_node_without_a_free_core_makes_no_program_slow(monkeypatch):
    monkeypatch.setattr(handle, "FAR", 200.0)
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    spin = [sys.executable, "-S", "-c", "while True: pass"]
    rivals = [subprocess.Popen(spin, start_new_session=True) for _ in range(7)]  # each its own scheduling group
    try:
        config = SandboxConfig(cpu_seconds=0.2, wall_factor=1.0, max_timeouts=1)
        with RewardWorker(RewardConfig(), config) as worker:
            problem = Problem("busy", "q", ("assert f(0) == 0",))
            assert worker.judge([problem], [BUSY])[0].outcome is Outcome.PASSED  # takes eight times as long
            sleeper = worker.judge([problem], ["import time\ndef f(x): time.sleep(60)"])[0]
            assert sleeper.tests[0].reason == "timeout"
    finally:
        os.sched_setaffinity(0, cores)
        for rival in rivals:
            rival.kill()
            rival.wait()


def test_the_seccomp_tier_leaves_reads_open_and_says_so(caplog):
    names = ("process", "shell", "network", "write", "kill", "read")
    problem = Problem("p", "q", tuple(f"assert attempt({name!r})" for name in names))
    with RewardWorker(RewardConfig(), SandboxConfig(tier="seccomp")) as worker:
        results = worker.judge([problem], [LOOKING])[0].tests
        assert worker.judge([DOUBLE], ["def f(x): return 2 * x"])[0].outcome is Outcome.PASSED
    assert [test.passed for test in results] == [False] * 5 + [True]
    assert "tier seccomp: programs can read every file this user can read" in caplog.text


def test_the_unsafe_tier_still_compares_outside(caplog):
    cheats = [
        "import os\nos._exit(0)",
        "class Any:\n    def __eq__(self, o): return True\ndef f(x): return Any()",
        "while True: pass",
    ]
    with RewardWorker(
        RewardConfig(), SandboxConfig(tier="rlimits", allow_unsafe=True, cpu_seconds=0.2, wall_factor=50.0)
    ) as worker:
        verdicts = worker.judge([DOUBLE] * 4, [*cheats, "def f(x): return 2 * x"])
    assert [verdict.pass_rate for verdict in verdicts] == [0.0, 0.0, 0.0, 1.0]
    assert "tier rlimits: programs can read, write, connect and start processes as this user" in caplog.text


# A container of its own: user 0 of a user namespace, whose limits on namespaces touch nobody else.
CONTAINER = """
import os, sys
sys.path.insert(0, {project!r})
from couplet.configs.schema import RewardConfig, SandboxConfig
from couplet.data.problem import Problem
from couplet.reward.sandbox import kernel
from couplet.reward.sandbox.local import LocalSandbox
from couplet.reward.worker import RewardWorker
uid, gid = os.getuid(), os.getgid()
kernel.unshare(kernel.NEWUSER, "user")
for name, text in (("setgroups", "deny"), ("uid_map", f"0 {{uid}} 1"), ("gid_map", f"0 {{gid}} 1")):
    with open(f"/proc/self/{{name}}", "w") as out:
        out.write(text)
def limit(name, value):
    with open(f"/proc/sys/user/{{name}}", "w") as out:
        out.write(str(value))
PROBLEM, PROGRAM = Problem("p", "q", ("assert f(1) == 2",)), "def f(x): return 2 * x"
"""


def in_container(code: str) -> str:
    """What `code` prints in a container of its own."""
    script = CONTAINER.format(project=PROJECT) + code
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_container_root_gets_the_namespace_tier():
    code = "with RewardWorker(RewardConfig(), SandboxConfig()) as worker:\n"
    code += "    print(worker.tier, worker.judge([PROBLEM], [PROGRAM])[0].outcome)"
    assert in_container(code) == "namespace passed\n"


def test_an_unavailable_tier_is_named_with_its_call_and_remedy():
    code = """
limit("max_net_namespaces", 0)
lower = LocalSandbox(SandboxConfig())
print(lower.tier)
lower.close()
try:
    LocalSandbox(SandboxConfig(tier="namespace"))
except Exception as error:
    print(type(error).__name__, error)
"""
    said = in_container(code)
    assert said.startswith("landlock\nTierUnavailable ")
    for part in ("tier namespace: ", "unshare(mount, ipc, uts, net)", "No space left", "remedy: allow user namespaces"):
        assert part in said, said


def test_the_tier_is_never_lowered_in_the_middle():
    code = """
with RewardWorker(RewardConfig(), SandboxConfig()) as worker:
    print(worker.judge([PROBLEM], [PROGRAM])[0].outcome)
    limit("max_mnt_namespaces", 0)
    print(worker.judge([PROBLEM], [PROGRAM + " # 2"])[0].outcome, worker.tier)
    limit("max_mnt_namespaces", 1000)
    print(worker.judge([PROBLEM], [PROGRAM + " # 3"])[0].outcome, worker.tier)
"""
    assert in_container(code).split("\n")[:3] == ["passed", "infra_error namespace", "passed namespace"]


def test_a_reward_process_never_imports_torch_or_ray():
    code = (
        f"import sys; sys.path.insert(0, {PROJECT!r})\n"
        "from couplet.reward.worker import RewardWorker\n"
        "from couplet.configs.schema import *\n"
        "from couplet.data.problem import Problem\n"
        "with RewardWorker(RewardConfig(), SandboxConfig()) as w:\n"
        "    print(w.judge([Problem('p', 'q', ('assert f(1) == 2',))], ['def f(x): return 2'])[0].pass_rate)\n"
        "print(sorted(set(sys.modules) & {'torch', 'ray', 'transformers', 'numpy', 'e2b', 'deepspeed'}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=400)
    assert done.stdout.split("\n")[:2] == ["1.0", "[]"], done.stderr
