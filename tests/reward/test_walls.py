"""What a program is born with: its descriptors, its streams, the folders it can read, and who answers for it."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator

import pytest

from couplet.configs.schema import RewardConfig, SandboxConfig
from couplet.data.problem import Problem
from couplet.data.verdict import Outcome
from couplet.reward.sandbox import control
from couplet.reward.sandbox.canaries import other_packages
from couplet.reward.sandbox.faults import SandboxFault
from couplet.reward.sandbox.handle import Budget, frame
from couplet.reward.sandbox.namespaces import SYSTEM_LIBRARIES, package_folders
from couplet.reward.sandbox.process import ZygoteProcess
from couplet.reward.worker import RewardWorker

DOUBLE = Problem("double", "q", tuple(f"assert f({x}) == {2 * x}" for x in range(5)))
RIGHT = "def f(x): return 2 * x"
TRUE = Problem("true", "q", ("assert f(1) == True",))
TIERS = pytest.mark.parametrize("tier", ["namespace", "landlock"])


@pytest.fixture
def crowded() -> Iterator[None]:
    """More descriptors in this process than any fixed bound would expect."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4_096
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip("the limit on descriptors is low here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1_100)]
    yield
    for descriptor in held:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


DESCRIPTORS = """
import os
def f(x):
    held = []
    for descriptor in range(4096):
        try: os.fstat(descriptor)
        except OSError: continue
        held.append(descriptor)
    return held
"""


@TIERS
def test_a_program_holds_four_descriptors_however_many_the_worker_has(crowded, tier):
    with RewardWorker(RewardConfig(), SandboxConfig(tier=tier)) as worker:
        problem = Problem("held", "q", ("assert f(1) == [0, 1, 2, 3]",))
        assert worker.judge([problem], [DESCRIPTORS])[0].outcome is Outcome.PASSED


def test_no_answer_of_a_program_becomes_a_signal(crowded):
    """A spawn answer written by a program names a process of its choice."""
    with subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"]) as victim:
        forge = f"""
import os
def f(x):
    for descriptor in range(4, 4096):
        try: os.write(descriptor, b'{victim.pid}\\n')
        except OSError: pass
    return x
"""
        try:
            with RewardWorker(RewardConfig(), SandboxConfig()) as worker:
                worker.judge([DOUBLE], [forge])
                for extra in range(3):
                    verdict = worker.judge([DOUBLE], [f"{RIGHT} + {extra} - {extra}"])[0]
                    assert verdict.outcome is Outcome.PASSED
                assert worker.stats()["restarts"] == 0
            assert victim.poll() is None
        finally:
            victim.kill()


def test_a_spawn_answer_without_a_descriptor_is_a_fault(monkeypatch):
    with (
        RewardWorker(RewardConfig(), SandboxConfig()) as worker,
        subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"]) as victim,
    ):
        receive = control.receive

        def without_descriptor(wire):
            os.close(receive(wire)[1])
            return str(victim.pid), -1

        try:
            with monkeypatch.context() as patch:
                patch.setattr(control, "receive", without_descriptor)
                with pytest.raises(SandboxFault, match="no descriptor"):
                    worker.runner.sandbox.spawn("program", 5)
            assert victim.poll() is None
            assert worker.judge([DOUBLE], [RIGHT])[0].outcome is Outcome.PASSED
        finally:
            victim.kill()


STREAMS = """
import fcntl, os
def flags(): return [fcntl.fcntl(stream, fcntl.F_GETFL) for stream in (0, 1, 2)]
def f(x):
    found = flags()
    for stream in (0, 1, 2):
        fcntl.fcntl(stream, fcntl.F_SETFL, os.O_APPEND | os.O_NONBLOCK)
    return found == [os.O_RDWR | LARGE] * 3 and flags() != found
"""


@TIERS
def test_streams_do_not_remember_the_program_before(tier):
    with RewardWorker(RewardConfig(cache_entries=0), SandboxConfig(tier=tier)) as worker:
        large = os.O_LARGEFILE or 0o100000  # the kernel's own bit, whatever the C library calls it
        for _ in range(2):
            verdict = worker.judge([TRUE], [STREAMS.replace("LARGE", f"(flags()[0] & {large})")])[0]
            assert verdict.outcome is Outcome.PASSED


HOST_FILES = """
import fcntl, os
def succeeds(attempt):
    try: attempt()
    except OSError: return False
    return True
def f(x):
    targets = [1, 2, '/dev/null', os.__file__]  # 0 is a file in memory of this program alone
    attempts = [lambda t=t: os.utime(t, (1, 1)) for t in targets] + [lambda t=t: os.chmod(t, 0o600) for t in targets]
    attempts += [lambda t=t: fcntl.flock(t, fcntl.LOCK_EX | fcntl.LOCK_NB) for t in (0, 1, 2)]
    return [succeeds(attempt) for attempt in attempts].count(True)
"""


@TIERS
def test_devices_and_libraries_of_the_host_keep_their_times_modes_and_locks(tier):
    before = os.stat(os.devnull)
    with RewardWorker(RewardConfig(), SandboxConfig(tier=tier)) as worker:
        problem = Problem("host", "q", ("assert f(1) == 0",))
        assert worker.judge([problem], [HOST_FILES])[0].outcome is Outcome.PASSED
    after = os.stat(os.devnull)
    assert after.st_mtime >= before.st_mtime > 1 and after.st_mode == before.st_mode


LOOKING = """
import importlib, os, sys
def listing(folder): return sorted(os.listdir(folder))
def start(file): return len(open(file).read(1))
def imported(name, folder):
    sys.path.append(folder)
    return os.path.basename(importlib.import_module(name).__path__[0])
"""


def answer(zygote: ZygoteProcess, expression: str) -> dict:
    """What a program of `LOOKING` answers to one expression."""
    budget = Budget(cpu=30.0, wall=120.0, reply=1 << 20)
    child = zygote.spawn("program", 30)
    try:
        for operation, arguments in (("load", [LOOKING, ""]), ("eval", [expression])):
            child.send(frame({"n": "t", "op": operation, "args": arguments}), budget)
            reply = child.receive(budget)
        return reply
    finally:
        child.end()


@TIERS
def test_of_installed_packages_only_the_allowed_can_be_read(tier):
    """Those of the interpreter itself and of the system; a virtual environment's are not there at all."""
    folders = package_folders([os.path.join(sys.base_prefix, "lib"), *SYSTEM_LIBRARIES])
    files = other_packages(("pip",))
    home = next((folder for folder in folders if os.path.exists(f"{folder}/pip/__init__.py")), None)
    if not files or home is None:
        pytest.skip("this interpreter and this system have no packages")
    for packages, paths, shown in (((), (), []), (("pip",), (f"{home}/pip",), ["pip"])):
        zygote = ZygoteProcess(tier, SandboxConfig(packages=packages), paths)
        try:
            assert all("x" in answer(zygote, f"start({file!r})") for file in files)
            for folder in folders:
                listing = answer(zygote, f"listing({folder!r})")
                assert "x" in listing or listing["v"] == ["l", shown if folder == home else []]
            found = answer(zygote, f"imported('pip', {home!r})")
            assert found.get("v") == "pip" if shown else "x" in found
        finally:
            zygote.close()


LATE = """
import importlib, sys
importlib.invalidate_caches()
import sched, wave, xml.dom.minidom, ctypes
def f(x): return [sched.__name__, xml.dom.minidom.parseString('<a/>').documentElement.tagName]
"""


@TIERS
def test_the_standard_library_is_there_for_late_imports(tier):
    with RewardWorker(RewardConfig(), SandboxConfig(tier=tier)) as worker:
        problem = Problem("late", "q", ("assert f(1) == ['sched', 'a']",))
        assert worker.judge([problem], [LATE])[0].outcome is Outcome.PASSED


THREADS = """
import threading
threading.stack_size(65536)
over = threading.Event()
def f(x):
    started = 0
    try:
        for _ in range(200):
            threading.Thread(target=over.wait, daemon=True).start()
            started += 1
    except RuntimeError: pass
    over.set()
    return 8 <= started < 32
"""


@TIERS
def test_threads_are_limited_or_it_is_said(tier, caplog):
    """As root, too, wherever the interpreter lies: the limit does not hold for root itself."""
    with RewardWorker(RewardConfig(), SandboxConfig(tier=tier)) as worker:
        limited = worker.judge([TRUE], [THREADS])[0].outcome is Outcome.PASSED
        assert limited or (os.getuid() != 0 and tier == "landlock")
        assert ("only memory bounds a program's threads" in caplog.text) is not limited


IDENTITY = """
import ctypes, os
def f(x):
    libc = ctypes.CDLL(None, use_errno=True)
    regained = [call for call in ('setuid', 'setfsuid', 'setresuid') if getattr(libc, call)(0, 0, 0) == 0 and os.getuid() == 0]
    return [os.getuid() != 0, os.geteuid() != 0, regained]
"""


@TIERS
def test_no_program_is_root(tier):
    with RewardWorker(RewardConfig(), SandboxConfig(tier=tier)) as worker:
        problem = Problem("identity", "q", ("assert f(1) == [True, True, []]",))
        assert worker.judge([problem], [IDENTITY])[0].outcome is Outcome.PASSED
