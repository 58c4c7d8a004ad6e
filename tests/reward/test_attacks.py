"""The attack table: every row a program that tries to be paid, to look, to write, to reach out or to outlive its run.

An attack passes its test only if it succeeds, so the law is the same for all of them: the verdict is a failure of the
program (never a pass, never an infrastructure fault), and the next program is judged as if nothing had happened.
"""

import os
import socket
import tempfile
import time
from pathlib import Path

import pytest

from couplet.data.problem import Problem
from couplet.data.verdict import Outcome

ANSWER = 918_273_645
HONEST = Problem("honest", "q", ("assert double(21) == 42", "assert abs(double(0.5) - 1) < 1e-9"))
HONEST_PROGRAM = "def double(x):\n    return 2 * x"

# Each attack defines f(x). Tests: f(1) == ANSWER is judged by comparison, f(2) within a tolerance by a judge.
FORGED_TESTS = (f"assert f(1) == {ANSWER}", f"assert abs(f(2) - {ANSWER}) < 1e-6", f"assert list(f(3)) == [{ANSWER}]")
# Attacks on the machine return True only if they succeeded.
BREACH_TESTS = ("assert f(1) == True",)

# Exceptions that would end a judge which rebuilt them carelessly, or end an iteration of the test's.
ABSURD = "class E({base}):\n    __str__ = lambda s: ''\ndef f(x): raise E({arguments})"
FATAL = {
    "Unicode positions below": ABSURD.format(base="UnicodeDecodeError", arguments="'u', b'x', -2**60, 1 - 2**60, ''"),
    "Unicode positions above": ABSURD.format(base="UnicodeEncodeError", arguments="'u', 'x', 2**62, 2**62 + 1, ''"),
    "Unicode positions swapped": ABSURD.format(base="UnicodeTranslateError", arguments="'x' * 9, 8, -2**40, ''"),
    "Unicode error itself": "def f(x): raise UnicodeDecodeError('u', b'x', -2**60, 1 - 2**60, '')",
    "Unicode error late": "import time\ndef f(x):\n    time.sleep(0.4)\n    raise UnicodeDecodeError('u', b'x', -2**60, 1 - 2**60, '')",
    "syntax error of nonsense": "def f(x): raise SyntaxError('m', (b'f', -2**70, 2**70, {}, [], 1))",
    "system error of nonsense": "def f(x): raise OSError(-2**40, {}, [], b'x', (1,))",
    "decode error of nonsense": "import json\nclass E(json.JSONDecodeError):\n    def __init__(s): s.args = (1, -2**60, 'x')\ndef f(x): raise E",
    "import error of nonsense": "def f(x): raise ImportError([], name={}, path=b'x')",
    "exception with its own attributes": "class E(ValueError): pass\ndef f(x):\n    e = E()\n    e.__dict__.update(args=1, __traceback__=2, with_traceback=3, __class__=4)\n    raise e",
    "group of nonsense": "def f(x): raise ExceptionGroup('g' * 10**5, [ValueError(-2**80)] * 99)",
    "StopIteration": "def f(x): raise StopIteration",
    "StopIteration of its own": "class E(StopIteration, ValueError): pass\ndef f(x): raise E(918273645)",
    "StopAsyncIteration": "def f(x): raise StopAsyncIteration",
    "GeneratorExit": "def f(x): raise GeneratorExit",
    "IndexError": "def f(x): raise IndexError",
    "KeyboardInterrupt": "def f(x): raise KeyboardInterrupt",
    "references to nothing": "from couplet.reward.sandbox import child\nchild.Program.call = lambda self, *a: [['r', 10**9], None]\ndef f(x): return 1",
    "other arguments": "from couplet.reward.sandbox import child\nchild.Program.call = lambda self, *a: [['t', ['value', 918273645, '']], [['l', []]] * 99]\ndef f(x): return 1",
    "a field named __eq__": "from couplet.reward.sandbox import child\nchild.Program.encoded = lambda self, v: ['@', 'namedtuple', ['N', ['l', ['__eq__']], ['l', [1]]]]\ndef f(x): return 1",
    "a class of no table": "from couplet.reward.sandbox import child\nchild.Program.encoded = lambda self, v: ['@', 'os.system', ['x']]\ndef f(x): return 1",
    "a huge Decimal": "import decimal\ndef f(x): return decimal.Decimal('1e99999') ** 9",
}

EXIT = {
    "os._exit on import": "import os\nos._exit(0)",
    "sys.exit on import": "import sys\nsys.exit(0)",
    "os._exit in the function": "import os\ndef f(x): os._exit(0)",
    "SystemExit in the function": "def f(x): raise SystemExit(0)",
    "atexit exit": "import atexit, os\natexit.register(os._exit, 0)\ndef f(x): raise SystemExit",
    "excepthook exit": "import sys, os\nsys.excepthook = lambda *a: os._exit(0)\ndef f(x): raise ValueError",
    "execv /bin/true": "import os\ndef f(x): os.execv('/bin/true', ['true'])",
    "abort": "import os\ndef f(x): os.abort()",
    "segfault": "import ctypes\ndef f(x): ctypes.string_at(0)",
}

ALWAYS_EQUAL = """
class Any{base}:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 1
    def __abs__(self): return self
    def __sub__(self, other): return self
    __rsub__ = __sub__
    def __lt__(self, other): return True
    __le__ = __gt__ = __ge__ = __lt__
    def __bool__(self): return True
"""
PATCHING = {
    "class with __eq__": ALWAYS_EQUAL.format(base="") + "def f(x): return Any()",
    "int subclass": ALWAYS_EQUAL.format(base="(int)") + "def f(x): return [Any(7)] if x == 3 else Any(7)",
    "float subclass": ALWAYS_EQUAL.format(base="(float)") + "def f(x): return [Any(7)] if x == 3 else Any(7)",
    "list subclass": ALWAYS_EQUAL.format(base="(list)") + "def f(x): return Any()",
    "patched builtins": """
import builtins
class Never(BaseException):
    def __init__(self, *a): pass
builtins.AssertionError = Never
builtins.isinstance = lambda *a: True
builtins.type = lambda *a: bool
builtins.abs = lambda v: 0
builtins.list = lambda *a: [0]
def f(x): return True
""",
    "patched serialiser": """
import json, sys
from couplet.reward.sandbox import child, plain
plain.Encoder.encode = lambda self, value, depth=0: True
child.answer = lambda limit, work: {"v": True}
json.dumps = lambda message: '{"n": "%s", "v": true, "passed": true}' % message.get("n")
def f(x): return True
""",
    "settrace skipping lines": """
import sys
def trace(frame, event, arg):
    frame.f_trace_lines = True
    try:
        frame.f_lineno = frame.f_lineno + 1
    except ValueError:
        pass
    return trace
sys.settrace(trace)
def f(x): return 0
""",
    "re-exec with -O": "import os, sys\ndef f(x): os.execv(sys.executable, [sys.executable, '-O', '-c', 'pass'])",
}

FOUND = """
def found(values):
    for value in values:
        if type(value) is int and value > 900_000_000 and value < 1_000_000_000:
            return value
        text = value if type(value) is str else value.decode('latin1') if type(value) is bytes else ''
        for word in text.replace(')', ' ').replace(']', ' ').split():
            if word.isdigit() and len(word) == 9:
                return int(word)
    return 0
"""
FINDING = {
    "frame walk": """
import sys
def f(x):
    frame, values = sys._getframe(), []
    while frame:
        values += [*frame.f_locals.values(), *frame.f_globals.values()]
        for value in list(frame.f_locals.values()):
            values += list(getattr(value, '__dict__', {}).values())
        frame = frame.f_back
    return found(values + [repr(values)])
""",
    "gc scan": "import gc\ndef f(x): return found([repr(o) for o in gc.get_objects() if type(o) in (dict, list, tuple)])",
    "/proc/self/mem": """
def f(x):
    for name in ('/proc/self/mem', '/proc/1/mem', '/proc/self/environ'):
        with open(name, 'rb') as memory:
            return found([memory.read(1 << 20)])
""",
    "command line": "import sys\ndef f(x): return found(sys.argv + sys.orig_argv + [open('/proc/self/cmdline').read()])",
    "runner source": """
import inspect, sys
def f(x):
    values = [repr(vars(m)) for name, m in list(sys.modules.items()) if name.startswith(('reward', '__main__'))]
    for name, module in list(sys.modules.items()):
        if name.startswith('reward'):
            values.append(inspect.getsource(module))
    return found(values)
""",
    "fd enumeration": """
import os
def f(x):
    values = []
    for fd in range(64):
        try:
            os.set_blocking(fd, False)
            values.append(os.read(fd, 65536))
        except OSError:
            pass
    return found(values)
""",
}

WRITE = """
import json, os, sys
def token():
    frame = sys._getframe()
    while frame:
        request = frame.f_locals.get('request')
        if isinstance(request, dict):
            return request['n']
        frame = frame.f_back
def frame(body):
    return len(body).to_bytes(4, 'big') + body
def everywhere(data):
    for fd in range(64):
        try:
            os.write(fd, data)
        except OSError:
            pass
"""
FORGING = {
    "printing a marker": """
def f(x):
    for text in ('PASSED', 'OK', '{"passed": true}', 'all tests passed', '{"v": true}'):
        print(text, flush=True)
    return None
""",
    "writing the parent's fd": WRITE
    + """
def f(x):
    everywhere(frame(json.dumps({"n": token(), "v": True, "passed": True, "verdict": "passed"}).encode()))
""",
    "replies written ahead": WRITE
    + """
for value in (True, 1, 'passed'):
    everywhere(frame(json.dumps({"n": "0", "v": value}).encode()) * 50)
def f(x): return True
""",
    "reply with another token": WRITE
    + 'def f(x): everywhere(frame(json.dumps({"n": "0" * 16, "v": 918273645}).encode()))',
    "unknown tag": WRITE + 'def f(x): everywhere(frame(json.dumps({"n": token(), "v": ["pass", true]}).encode()))',
    "200k-deep JSON": WRITE
    + """
def f(x): everywhere(frame(('{"n": "%s", "v": ' % token() + '[' * 200000 + ']' * 200000 + '}').encode()))
""",
    "deep tagged value": WRITE
    + """
def f(x): everywhere(frame(('{"n": "%s", "v": ' % token() + '["l",[' * 9000 + ']]' * 9000 + '}').encode()))
""",
    "false length header": WRITE + "def f(x): everywhere(b'\\x7f\\xff\\xff\\xff' + b'x' * 1000)",
    "short length header": WRITE + "def f(x): everywhere(b'\\x00\\x00\\x00\\x00' * 1000)",
    "pickle __reduce__": """
import os
class Evil:
    def __reduce__(self): return (os.system, ('true',))
def f(x): return [Evil()] if x == 3 else Evil()
""",
    "hash-collision reply": "def f(x): return {i * (2 ** 61 - 1): i for i in range(5000)}",
    "too many colliding keys": "def f(x): return {i * (2 ** 61 - 1) for i in range(30000)}",
    "NaN and huge ints": "def f(x): return [float('nan')] if x == 3 else float('nan') if x == 1 else 7 ** 200000",
}

TIME = {
    "endless loop at import": "while True: pass",
    "loop catching BaseException": """
def f(x):
    while True:
        try:
            while True: pass
        except BaseException: pass
""",
    "sleep": "import time\ndef f(x): time.sleep(60)",
    "ignoring signals": """
import signal
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
def f(x):
    while True: pass
""",
    "regex backtracking": "import re\ndef f(x): return re.match(r'(a+)+$', 'a' * 64 + 'b')",
    "10**10**9": "def f(x): return 10 ** 10 ** 9",
    "waiting on stdin": "import sys\ndef f(x): return sys.stdin.read() or input()",
}

RESOURCES = {
    "64 GB allocation": "def f(x): return len(bytearray(64 << 30)) > 0",
    "slow growth": """
def f(x):
    kept = []
    while len(kept) < 700: kept.append(bytearray(1 << 20))
    return True
""",
    "MemoryError caught and continued": """
def f(x):
    kept = []
    for _ in range(2000):
        try: kept.append(bytearray(1 << 20))
        except MemoryError: pass
    return len(kept) >= 600
""",
    "shared mmap": """
import mmap
def f(x):
    maps = [mmap.mmap(-1, 64 << 20) for _ in range(12)]
    for m in maps: m[0] = 1
    return True
""",
    "memfd": "import os\ndef f(x): return os.memfd_create('x') >= 0",
    "fork bomb": """
import os
def f(x):
    while os.fork() >= 0: pass
    return True
""",
    "thread bomb": """
import threading, time
threading.stack_size(65536)
def f(x):
    for _ in range(2000):
        threading.Thread(target=time.sleep, args=(9,), daemon=True).start()
    return True
""",
    "deep recursion": "import sys\nsys.setrecursionlimit(10 ** 9)\ndef f(x): return f(x) + 1",
    "1 GB stdout": """
import sys
def f(x):
    for _ in range(1024): sys.stdout.write('x' * (1 << 20))
""",
    "1 GB reply": WRITE + "def f(x):\n    while True: os.write(3, b'\\x40\\x00\\x00\\x00' + b'x' * (1 << 20))",
    "300 MB return value": "def f(x): return 'x' * (300 << 20)",
    "disk fill": """
def f(x):
    for i in range(40):
        with open(f'/tmp/{i}', 'wb') as out: out.write(bytes(4 << 20))
    return True
""",
    "inode exhaustion": """
import os
def f(x):
    for i in range(5000): os.close(os.open(f'/tmp/{i}', os.O_CREAT))
    return True
""",
}

ESCAPE = {
    "daemonised grandchild": """
import os
def f(x):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            while True: pass
        os._exit(0)
    return True
""",
    "subprocess": "import subprocess\ndef f(x): return subprocess.run(['/bin/sh', '-c', 'true']).returncode == 0",
    "os.system": "import os\ndef f(x): return os.system('true') == 0",
    "posix_spawn": "import os\ndef f(x): return os.posix_spawn('/bin/true', ['true'], {}) > 0",
    "write outside tmp": """
def f(x):
    with open(FOLDER + '/written', 'w') as out: out.write('x')
    return True
""",
    "change a file outside": """
import os
def f(x):
    done = False
    for attempt in (lambda: os.chmod(SECRET, 0), lambda: os.utime(SECRET, (1, 1)), lambda: os.unlink(SECRET),
                    lambda: os.rename(SECRET, SECRET + '2'), lambda: os.truncate(SECRET, 0),
                    lambda: os.setxattr(SECRET, 'user.x', b'y'), lambda: os.symlink('/', FOLDER + '/link'),
                    lambda: os.chown(SECRET, os.getuid(), os.getgid()), lambda: os.mkdir(FOLDER + '/made')):
        try: attempt(); done = True
        except OSError: pass
    return done
""",
    "rmtree of system folders": """
import os, shutil, sys
def f(x):
    gone = False
    for folder in (FOLDER, os.path.dirname(os.__file__), '/usr/lib', '/etc'):
        before = os.path.exists(folder)
        shutil.rmtree(folder, ignore_errors=True)
        gone = gone or (before and not os.path.exists(folder))
    return gone
""",
    "reading a secret file": "def f(x): return open(SECRET).read() == 'planted secret'",
    "reading /etc/shadow": "def f(x): return len(open('/etc/shadow').read()) > 0",
    "reading environment secrets": "import os\ndef f(x): return 'COUPLET_PLANTED' in os.environ",
    "reading the parent's environment": "import os\ndef f(x): return len(open(f'/proc/{os.getppid()}/environ').read()) > 0",
    "listing host processes": "import os\ndef f(x): return len(os.listdir('/proc')) > 0",
    "kill everything": "import os\ndef f(x):\n    os.kill(-1, 9)\n    return True",
    "kill the worker": "import os\ndef f(x):\n    os.kill(PID, 0)\n    return True",
    "kill the parent": "import os\ndef f(x):\n    os.kill(os.getppid(), 9)\n    return True",
    "kill the process group": "import os\ndef f(x):\n    os.killpg(0, 9)\n    return True",
    "signal through fcntl": """
import fcntl, os
def f(x):
    read, write = os.pipe()
    fcntl.fcntl(read, fcntl.F_SETOWN, PID)
    return True
""",
    "TCP connect": "import socket\ndef f(x): return socket.create_connection(('127.0.0.1', PORT), 0.1) is not None",
    "UDP socket": "import socket\ndef f(x): return socket.socket(socket.AF_INET, socket.SOCK_DGRAM) is not None",
    "raw socket": "import socket\ndef f(x): return socket.socket(socket.AF_INET, socket.SOCK_RAW, 1) is not None",
    "netlink socket": "import socket\ndef f(x): return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) is not None",
    "unix socket": "import socket\ndef f(x): return socket.socket(socket.AF_UNIX) is not None",
    "datagram socket pair": "import socket\ndef f(x): return bool(socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))",
    "ptrace": "import os\ndef f(x): return libc('ptrace', 16, os.getppid(), 0, 0)",
    "nested user namespace": "def f(x): return libc('unshare', 0x10000000)",
    "new namespace by clone": "def f(x): return libc('syscall', CLONE, 0x10000011, 0, 0, 0, 0)",
    "mount": "def f(x): return libc('mount', b'none', b'/tmp', b'tmpfs', 0, None)",
    "bpf": "def f(x): return libc('syscall', BPF, 5, 0, 0)",
    "io_uring": "def f(x): return libc('syscall', IO_URING, 1, 0)",
    "keyctl": "def f(x): return libc('syscall', KEYCTL, 0, -3, 1)",
    "userfaultfd": "def f(x): return libc('syscall', USERFAULTFD, 1)",
    "shared memory segment": "def f(x): return libc('shmget', 7, 4096, 0o1777)",
    "x32 system call": "def f(x): return libc('syscall', 0x40000000 + 41, 1, 1, 0)",
    "unknown system call": "def f(x): return libc('syscall', 5000)",
    "raising rlimits": """
import resource
def f(x):
    for name in ('RLIMIT_AS', 'RLIMIT_CPU', 'RLIMIT_NPROC', 'RLIMIT_NOFILE'):
        limit = getattr(resource, name)
        resource.setrlimit(limit, (resource.getrlimit(limit)[1] + 1, resource.RLIM_INFINITY))
    return True
""",
    "TIOCSTI": "import fcntl\ndef f(x): return fcntl.ioctl(0, 0x5412, b'x') is not None",
}
# Refused means EPERM: any other errno tells that the kernel went to work.
LIBC = """
import ctypes, platform
CLONE, BPF, IO_URING, KEYCTL, USERFAULTFD = {
    'x86_64': (56, 321, 425, 250, 323), 'aarch64': (220, 280, 425, 219, 282)
}[platform.machine()]
def libc(name, *arguments):
    return getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) >= 0 or ctypes.get_errno() != 1
"""

FORGERIES = {**EXIT, **PATCHING, **{name: FOUND + code for name, code in FINDING.items()}, **FORGING}
BREACHES = {**TIME, **RESOURCES, **ESCAPE}


@pytest.fixture(scope="module")
def bait():
    """A secret and a folder that every user may reach, and a listener."""
    temporary = tempfile.TemporaryDirectory()
    folder = Path(temporary.name)
    folder.chmod(0o777)
    secret = folder / "secret"
    secret.write_text("planted secret")
    secret.chmod(0o666)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0)
    yield {"FOLDER": str(folder), "SECRET": str(secret), "PORT": listener.getsockname()[1], "PID": os.getpid()}
    with pytest.raises(BlockingIOError):
        listener.accept()
    listener.close()
    assert secret.read_text() == "planted secret" and secret.stat().st_mode & 0o777 == 0o666
    assert [path.name for path in folder.iterdir()] == ["secret"]
    temporary.cleanup()


def zygote_family(worker) -> set[int]:
    """Process ids of everything the worker's zygote started."""
    children: dict[int, set[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), set()).add(int(stat.parent.name))
    found, todo = set(), [worker.runner.sandbox.zygote.process.pid]
    while todo:
        more = children.get(todo.pop(), set())
        found |= more
        todo += more
    return found


def judge_attack(worker, program: str, tests: tuple[str, ...]) -> None:
    """The law of the table."""
    resting = zygote_family(worker)
    restarts, started = worker.runner.restarts, time.thread_time()
    verdict = worker.judge([Problem("attack", "q", tests)], [program])[0]
    assert verdict.outcome is Outcome.FAILED, verdict
    assert verdict.pass_rate == 0.0, verdict
    assert time.thread_time() - started < 3.0, "the worker itself was kept busy"
    honest = worker.judge([HONEST], [HONEST_PROGRAM])[0]
    assert honest.outcome is Outcome.PASSED, honest
    assert worker.runner.restarts == restarts, "the zygote fell"
    deadline = time.monotonic() + 60
    while zygote_family(worker) - resting and time.monotonic() < deadline:
        time.sleep(0.01)
    assert zygote_family(worker) <= resting, "a process outlived its run"


@pytest.mark.parametrize("name", FORGERIES)
def test_no_verdict_is_forged(attacked, name):
    judge_attack(attacked, FORGERIES[name], FORGED_TESTS)


# In each of these tests an exception of the program's, or what it leaves of an argument, meets the test's own loop.
MET_TESTS = (
    f"assert abs(f(2) - {ANSWER}) < 1e-6",
    f"assert all(map(lambda t: f(t) == {ANSWER}, [1, 2]))",
    f"assert [f(k) for k in (1, 2)] == [{ANSWER}] * 2",
    f"class Values:\n    def __getitem__(self, k): return f(k)\nassert all(v == {ANSWER} for v in Values())",
    f"def each():\n    for k in range(3):\n        yield f(k)\nassert list(each()) == [{ANSWER}] * 3",
    f"x = [1]\nf(x)\nassert x == [{ANSWER}]",
)


@pytest.mark.parametrize("name", FATAL)
def test_nothing_a_program_returns_or_raises_ends_a_judge(attacked, name):
    faults = attacked.runner.faults.total()
    judge_attack(attacked, FATAL[name], MET_TESTS)
    assert attacked.runner.faults.total() == faults, f"{name} became a fault"


def test_a_group_of_hostile_programs_loses_no_sample_to_faults(attacked):
    """How often the samples of one group become faults, and which program did it."""
    programs = {**EXIT, **FATAL}
    problem = Problem("group", "q", FORGED_TESTS)
    verdicts = attacked.judge([problem] * len(programs), list(programs.values()))
    excluded = {name: v.reason for name, v in zip(programs, verdicts) if not v.outcome.is_verdict}
    assert excluded == {}


@pytest.mark.parametrize("name", BREACHES)
def test_no_wall_is_breached(attacked, bait, name, monkeypatch):
    monkeypatch.setenv("COUPLET_PLANTED", "secret")
    constants = "".join(f"{key} = {value!r}\n" for key, value in bait.items())
    judge_attack(attacked, constants + LIBC + BREACHES[name], BREACH_TESTS)


def test_imports_cannot_be_hijacked_for_the_next_program(attacked):
    plant = """
import os, sys
for folder in ('/tmp', os.getcwd(), *sys.path):
    for name in ('this', 'sched'):
        try:
            with open(f'{folder}/{name}.py', 'w') as out: out.write('hijacked = True')
        except OSError: pass
def f(x): return 0
"""
    look = "import sys\nsys.path.insert(0, '/tmp')\nimport sched\ndef f(x): return hasattr(sched, 'hijacked')"
    judge_attack(attacked, plant, BREACH_TESTS)
    judge_attack(attacked, look, BREACH_TESTS)


def test_nothing_is_left_between_runs(attacked):
    leave = """
import builtins, math, os
builtins.left = math.left = True
for name in ('/tmp/left', 'left'):
    try:
        with open(name, 'w') as out: out.write('x')
    except OSError: pass
def f(x): return 0
"""
    look = """
import builtins, math, os
def f(x):
    return hasattr(builtins, 'left') or hasattr(math, 'left') or os.path.exists('/tmp/left') or os.path.exists('left')
"""
    judge_attack(attacked, leave, BREACH_TESTS)
    judge_attack(attacked, look, BREACH_TESTS)
