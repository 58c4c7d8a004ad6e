"""The zygote: a warm interpreter that forks one confined child per program and never sees code or tests.

It talks over a socket pair (`reward.sandbox.control`). First the worker sends the settings as JSON (with a descriptor
of itself, whose end ends the zygote); the zygote answers
``{"ready": true}`` or ``{"error": ...}``. Then each message ``KIND CPU_SECONDS`` brings one end of a socket pair; the
zygote forks a child that serves it and answers with the child's process id and descriptor, or ``error TEXT``.

Most of a program's cost is memory that the child or, meanwhile, the zygote writes to for the first time after the fork:
what a child does is prepared and rehearsed before, and between two forks the zygote does as little as it can.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.machinery
import json
import os
import random
import re
import select
import signal
import sys

from couplet.reward.sandbox import control, kernel, landlock, namespaces
from couplet.reward.sandbox.child import Channel, Program, serve
from couplet.reward.sandbox.judge_child import serve_judge
from couplet.reward.sandbox.walls import FRESH_STREAMS, Walls, lower_limit

# What programs commonly use, imported once. Every further module makes every fork dearer, so rarer ones are imported by
# the programs that want them.
# fmt: off
WARM = (
    "bisect", "collections", "collections.abc", "copy", "datetime", "functools", "heapq", "itertools", "json", "math",
    "operator", "random", "re", "string", "time", "types", "typing",
)
# fmt: on
REHEARSALS = 20  # how often the interpreter must run code to specialise it
PROGRAM = """
def f(x):
    return [x, {"a": (x, 1.5)}, f"{x}"]
"""
EXPRESSIONS = ("f(1)", "f(True)[0]", "{1, 2}", "'text'", "None", "f(1)[0] == 1", "missing")
REAP_MILLISECONDS = 500  # between checks for ended children while there is no request
CHANNEL = 3  # the zygote's control socket; in a child, whose own socket replaces it, the only one it has


class Zygote:
    """The serving side of one control socket."""

    def __init__(self, wire: control.Wire, watched: int, settings: dict, own_user: bool, threads: int) -> None:
        self.control, self.watched, self.threads, self.reply = wire, watched, threads, settings["reply"]
        self.walls = Walls(settings, own_user)
        self.new_pids: list[kernel.Step] = []
        if settings["tier"] == "namespace":
            own = os.pidfd_open(os.getpid())
            back = ("setns", kernel.libc.setns, (own, kernel.NEWPID))
            self.new_pids = [back, kernel.unsharing(kernel.NEWPID, "pid")]
        self.wire = Channel(lambda size: os.read(CHANNEL, size), lambda data: os.write(CHANNEL, data))  # of a child

    def serve(self) -> None:
        """Fork children on request until the worker is gone."""
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        if self.watched >= 0:
            poll.register(self.watched, select.POLLIN)
        while True:
            found = poll.poll(None if self.reap() else REAP_MILLISECONDS)
            for ready, _ in found:
                if ready == self.watched:
                    return
            if not found:
                continue
            message, channel = control.receive(self.control)
            if not message:
                return
            if channel < 0:
                control.send(self.control, message)  # a ping
                continue
            kind, cpu_limit = message.split()
            self.spawn(kind, int(cpu_limit), channel)
            os.close(channel)

    def reap(self) -> bool:
        """Reap the children that have ended; whether none is left. Until then their ids are not reused."""
        while (found := kernel.libc.waitpid(-1, None, os.WNOHANG)) > 0:
            pass
        return found < 0

    def spawn(self, kind: str, cpu_limit: int, channel: int) -> None:
        """Fork one child on `channel`; tell the worker its process id here and its descriptor."""
        try:
            kernel.take(self.new_pids)
            pid = self.fork()
        except OSError as error:
            control.send(self.control, f"error {error}")
            return
        if pid == 0:
            self.child(kind, cpu_limit, channel)
        try:
            handle = os.pidfd_open(pid)
        except (OSError, AttributeError):
            control.send(self.control, f"{pid}")
            return
        control.send(self.control, f"{pid}", handle)
        os.close(handle)

    def fork(self) -> int:
        """fork(2); the bare call if there are no other threads whose locks Python would have to reset in the child."""
        return kernel.call("fork", kernel.fork) if self.threads == 1 else os.fork()

    def child(self, kind: str, cpu_limit: int, channel: int) -> None:
        """Confine this forked process, then serve the worker. Never returns."""
        try:
            os.dup2(channel, CHANNEL)
            kernel.close_from(CHANNEL + 1)
            try:
                self.walls.enter(cpu_limit)
            except OSError as error:
                self.wire.send({"fault": str(error)})
                os._exit(1)
            self.wire.send({"ready": True})
            gc.enable()
            if self.threads != 1:
                seed()  # which os.fork() has undone
            if kind == "judge":
                serve_judge(self.wire)
            else:
                serve(self.wire, Program(self.reply))
        finally:
            os._exit(0)


def count_threads() -> int:
    """Threads of this process (a package may have started some); 0 if the system does not report it."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 0


def normal(name: str) -> str:
    """The name of a distribution as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


class Listed:
    """Finds the allowed packages and their metadata, and nothing else that is installed beside them."""

    def __init__(self, packages: list[str], paths: list[str]) -> None:
        self.packages, self.folders = set(packages), sorted({os.path.dirname(path) for path in paths})
        self.metadata = [path for path in paths if path.endswith(".dist-info")]

    def find_spec(self, name, path=None, target=None):
        found = name in self.packages and path is None
        return importlib.machinery.PathFinder.find_spec(name, self.folders) if found else None

    def find_distributions(self, context):
        """What `importlib.metadata` asks: some packages read their own version."""
        from importlib.metadata import PathDistribution
        from pathlib import Path

        for path in self.metadata:
            name = os.path.basename(path).partition("-")[0]
            if context.name is None or normal(name) == normal(context.name):
                yield PathDistribution(Path(path))


def warm_up(packages: list[str], package_paths: list[str]) -> None:
    """Import what programs commonly use, and the allowed packages with one thread per math library.

    Nothing else below the folders of `package_paths` can be imported, now or later.
    """
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    for name in WARM:
        importlib.import_module(name)
    sys.meta_path.append(Listed(packages, package_paths))
    for name in packages:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ImportError(
                f"sandbox.packages: {name!r} cannot be imported: {error}; list what it needs, too"
            ) from None
    if (pools := sys.modules.get("threadpoolctl")) is not None:
        # It looks for math libraries in /proc, which programs do not have; each of them has one thread in any case.
        pools.ThreadpoolController._find_libraries_with_linux = lambda self: None
    os.environ.clear()
    sys.setswitchinterval(0.005)
    sys.dont_write_bytecode = True


def seed() -> None:
    """Fix the global random states, so that the same program gets the same verdict everywhere."""
    random.seed(0)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(0)


def continue_in_child(wire: control.Wire) -> None:
    """Return in a forked child, which has one thread and ends with this process; this process only waits for it."""
    if (pid := os.fork()) != 0:
        wire.close()
        kernel.close_from(CHANNEL)
        os.waitpid(pid, 0)
        os._exit(0)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL, "PR_SET_PDEATHSIG")


def settle(settings: dict, wire: control.Wire, is_child: bool = False) -> bool:
    """Put this process behind the tier's walls. Raises OSError naming the call that failed.

    `is_child`: this process is a child of the one that the worker started, and ends with it.

    Returns whether no other process has its user, so that a limit on the number of threads counts only its own.
    """
    tier, user = settings["tier"], os.getuid()
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")
    paths = namespaces.library_paths(tuple(settings["package_paths"]))
    if tier == "namespace":
        namespaces.enter_world()
        namespaces.settle(paths)
        if is_child:  # a change of user has cleared it
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL, "PR_SET_PDEATHSIG")
        continue_in_child(wire)
    elif tier in ("landlock", "seccomp"):
        if os.getuid() == 0:
            with contextlib.suppress(OSError):  # a container may have no other user
                namespaces.become_spare_user(files_of_root=not namespaces.readable_by_others(paths))
        if tier == "landlock":
            landlock.confine(paths, namespaces.DEVICES)
    os.chdir("/")
    return tier == "namespace" or os.getuid() != user


def take_control() -> control.Wire:
    """The control socket, received as standard input, at its own descriptor; every other one is closed."""
    os.dup2(0, CHANNEL, inheritable=False)
    kernel.take(FRESH_STREAMS)
    kernel.close_from(CHANNEL + 1)
    return control.Wire(fileno=CHANNEL)


def rehearse(limit: int) -> None:
    """Answer common questions once, so that no child is the first to run that code: each child would fill the
    interpreter's caches in its own pages.
    """
    requests = [{"n": "load", "op": "load", "args": [PROGRAM, ""]}]
    requests += [{"n": "0123456789abcdef", "op": "eval", "args": [expression]} for expression in EXPRESSIONS]
    for _ in range(REHEARSALS):
        heard, said = os.pipe()
        channel = Channel(lambda size, heard=heard: os.read(heard, size), lambda data, said=said: os.write(said, data))
        for request in requests:
            channel.send(request)
        os.close(said)
        channel.write = len
        serve(channel, Program(limit))
        os.close(heard)
    del sys.modules["solution"]


def main() -> None:
    """Run a zygote on the control socket that is its standard input, in a fresh interpreter with an empty environment."""
    wire = take_control()
    greeting, watched = control.receive(wire)
    if not greeting:
        return
    settings = json.loads(greeting)
    sys.path[:] = [path for path in sys.path if path not in settings["hidden_paths"]]
    try:
        warm_up(settings["packages"], settings["package_paths"])
        is_child = settings["tier"] == "namespace" and count_threads() > 1
        if is_child:
            continue_in_child(wire)  # pandas starts threads, and only a process of one may enter a user namespace
        threads = count_threads()
        own_user = settle(settings, wire, is_child)
        for name, value in settings["rlimits"]:
            lower_limit(name, value)
        zygote = Zygote(wire, watched, settings, own_user, threads)
        rehearse(settings["reply"])
    except Exception as error:
        text = str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        control.send(wire, json.dumps({"error": text}))
        return
    seed()
    gc.disable()
    gc.collect()
    gc.freeze()
    control.send(wire, json.dumps({"ready": True, "threads_limited": own_user}))
    zygote.serve()
