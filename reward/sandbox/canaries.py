"""Attacks run when a worker starts: a tier works on this machine if all of them fail. No sysctl is trusted."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from couplet.configs.schema import SandboxConfig
from couplet.data.files import scratch
from couplet.reward.sandbox.faults import TierUnavailable
from couplet.reward.sandbox.handle import Budget, ChildGone, frame
from couplet.reward.sandbox.namespaces import SYSTEM_LIBRARIES, package_folders
from couplet.reward.sandbox.process import ZygoteProcess

PROGRAM = """
import ctypes, os, resource, socket
libc = ctypes.CDLL(None, use_errno=True)
def double(x):
    return 2 * x
def kernel(name, *arguments):
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)
def connect(family, address):
    with socket.socket(family) as wire:
        wire.settimeout(2)
        wire.connect(address)
def read_one_of(paths):
    for path in paths:
        try:
            with open(path, "rb") as file: return len(file.read(1))
        except OSError: pass
    raise PermissionError
def limit(name):
    resource.setrlimit(getattr(resource, name), (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
def write(path):
    with open(path, "w") as out:
        out.write("x")
"""


@dataclass(frozen=True)
class Canary:
    """An expression that raises if the wall works. `open_in`: tiers that do not promise this wall."""

    name: str
    expression: str
    open_in: tuple[str, ...] = ()


def _canaries(bait: Bait, config: SandboxConfig) -> tuple[Canary, ...]:
    return (
        Canary("read a file outside", f"open({bait.secret!r}).read()", ("seccomp",)),
        Canary("read a package that is not allowed", f"read_one_of({bait.packages!r})", ("seccomp",)),
        Canary("write a file outside", f"write({bait.folder + '/written'!r})"),
        Canary("list processes", "os.listdir('/proc')", ("seccomp",)),
        Canary("connect over TCP", f"connect(socket.AF_INET, ('127.0.0.1', {bait.port}))"),
        Canary("connect to a Unix socket", f"connect(socket.AF_UNIX, {bait.unix!r})"),
        Canary("start a process", "os.fork()"),
        Canary("run another program", "os.execv('/bin/true', ['true'])"),
        Canary("signal the worker", f"os.kill({os.getpid()}, 0)"),
        Canary("signal the parent", "os.kill(os.getppid(), 0)"),
        Canary("raise the memory limit", "limit('RLIMIT_AS')"),
        Canary("exceed the memory limit", f"len(bytearray({config.memory_mb} << 20))"),
        Canary("make a user namespace", "kernel('unshare', 0x10000000)"),
        Canary("mount", "kernel('mount', b'none', b'/tmp', b'tmpfs', 0, None)"),
        Canary("trace a process", "kernel('ptrace', 16, os.getppid(), None, None)"),
    )


@dataclass(frozen=True)
class Bait:
    """What the canaries try to reach: a secret, a writable folder, a TCP and an abstract Unix listener, packages."""

    folder: str
    secret: str
    port: int
    unix: str
    packages: list[str]


def other_packages(allowed: tuple[str, ...]) -> list[str]:
    """A file of each package folder of the interpreter and the system that belongs to none of the `allowed` packages."""
    libraries = (os.path.dirname(os.__file__), os.path.join(sys.base_prefix, "lib"), *SYSTEM_LIBRARIES)
    names = {name.partition(".")[0] for name in allowed}
    found: list[str] = []
    for folder in map(Path, package_folders(libraries)):
        files = itertools.chain(folder.glob("*.py"), folder.glob("*/__init__.py"))
        found += itertools.islice((str(f) for f in files if not names & {f.stem, f.parent.name}), 1)
    return found


@contextlib.contextmanager
def bait(allowed: tuple[str, ...]) -> Iterator[Bait]:
    """Bait that any user of this machine could reach."""
    with scratch("canary") as path:
        folder = str(path)
        os.chmod(folder, 0o777)
        secret = Path(folder, "secret")
        secret.write_text("secret")
        with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
            name = f"\0{folder}"
            unix.bind(name)
            unix.listen(4)
            yield Bait(folder, str(secret), tcp.getsockname()[1], name, other_packages(allowed))


def hold(zygote: ZygoteProcess, config: SandboxConfig) -> None:
    """Run every canary that the tier promises to stop. Raises `TierUnavailable` naming the first that succeeds."""
    with bait(config.packages) as lure:
        for canary in _canaries(lure, config):
            if zygote.tier in canary.open_in:
                continue
            budget = Budget(cpu=10.0, wall=30.0, reply=config.reply_kb << 10)
            child = zygote.spawn("program", 20)
            try:
                child.send(frame({"n": "c", "op": "load", "args": [PROGRAM, ""]}), budget)
                loaded = child.receive(budget)
                child.send(frame({"n": "c", "op": "eval", "args": ["double(21)"]}), budget)
                honest = child.receive(budget)
                child.send(frame({"n": "c", "op": "eval", "args": [canary.expression]}), budget)
                reply = child.receive(budget)
            except ChildGone as gone:
                raise _broken(zygote.tier, canary.name, f"the program ended ({gone.reason})") from None
            finally:
                child.end()
            if loaded.get("v", 0) is not None or honest.get("v") != 42:
                raise _broken(zygote.tier, "run an honest program", f"{loaded} {honest}")
            if "x" not in reply or os.path.exists(lure.folder + "/written"):
                raise _broken(zygote.tier, canary.name, f"answered {str(reply)[:100]}")


def _broken(tier: str, name: str, detail: str) -> TierUnavailable:
    return TierUnavailable("canary", f"tier {tier} does not hold here: canary '{name}' was not stopped: {detail}")
