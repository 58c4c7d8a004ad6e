"""The zygote: a warm interpreter that forks one confined child per program and never sees code or tests.

It talks over a socket pair (`reward.sandbox.control`). First the worker sends the settings as JSON (with a descriptor of itself, whose end
ends the zygote); the zygote answers ``{"ready": true}`` or ``{"error": ...}``. Then each ``{"kind", "cpu"}`` message
brings one end of a socket pair; the zygote forks a child that serves it and answers with the child's descriptor.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import random
import resource
import select
import signal
import socket
import sys

from reward.sandbox import control, kernel, landlock, namespaces, seccomp
from reward.sandbox.child import Channel, Program, serve
from reward.sandbox.judge_child import serve_judge

# What programs commonly use, imported once. Every further module makes every fork dearer, so rarer ones are imported by
# the programs that want them.
# fmt: off
WARM = (
    "bisect", "collections", "collections.abc", "copy", "datetime", "functools", "heapq", "itertools", "json", "math",
    "operator", "random", "re", "string", "time", "types", "typing",
)
# fmt: on
CHANNEL = 3  # the zygote's control socket; in a child, whose own socket replaces it, the only one it has


class Zygote:
    """The serving side of one control socket."""

    def __init__(self, wire: socket.socket, settings: dict, watched: int, threads: int, own_user: bool) -> None:
        self.control, self.settings, self.watched = wire, settings, watched
        self.threads, self.own_user = threads, own_user
        self.tier = settings["tier"]
        self.own = os.pidfd_open(os.getpid()) if self.tier == "namespace" else -1
        self.pid = os.getpid()
        self.filter = b"" if self.tier == "rlimits" else call_filter(self.tier)

    def serve(self) -> None:
        """Fork children on request until the worker is gone."""
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        if self.watched >= 0:
            poll.register(self.watched, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if self.watched in ready:
                return
            message, descriptors = control.receive(self.control)
            if message is None:
                return
            if not descriptors:
                control.send(self.control, message, [])  # a ping
                continue
            self.spawn(message, descriptors[0])
            os.close(descriptors[0])

    def spawn(self, request: dict, channel: int) -> None:
        """Fork one child on `channel`; tell the worker its process id here and its descriptor."""
        try:
            if self.tier == "namespace":
                kernel.call("setns", kernel.libc.setns, self.own, kernel.NEWPID)
                kernel.unshare(kernel.NEWPID, "pid")
            pid = self.fork()
        except OSError as error:
            control.send(self.control, {"error": str(error)}, [])
            return
        if pid == 0:
            self.child(request, channel)
        handles = []
        with contextlib.suppress(OSError, AttributeError):
            handles.append(os.pidfd_open(pid))
        control.send(self.control, {"pid": pid}, handles)
        for handle in handles:
            os.close(handle)

    def fork(self) -> int:
        """fork(2), bare where there are no other threads whose locks Python would have to mend in the child."""
        return kernel.call("fork", kernel.fork) if self.threads == 1 else os.fork()

    def child(self, request: dict, channel: int) -> None:
        """Confine this forked process, then serve the worker. Never returns."""
        try:
            os.dup2(channel, CHANNEL)
            kernel.close_from(CHANNEL + 1)
            wire = Channel(lambda size: os.read(CHANNEL, size), lambda data: os.write(CHANNEL, data))
            try:
                self.confine(request)
            except (OSError, ValueError) as error:
                wire.send({"fault": str(error)})
                os._exit(1)
            wire.send({"ready": True})
            gc.enable()
            random.seed(0)  # the same program gets the same verdict everywhere
            if request["kind"] == "judge":
                serve_judge(wire)
            else:
                serve(wire, self.settings["reply"], Program())
        finally:
            os._exit(0)

    def confine(self, request: dict) -> None:
        """The tier's walls around this process. Raises OSError."""
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if self.tier == "namespace":
            namespaces.enter_program(self.settings["scratch_mb"])
        elif self.tier != "rlimits":
            kernel.drop_capabilities()
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL, "PR_SET_PDEATHSIG")
            if os.getppid() != self.pid:
                os._exit(1)
        fresh_standard_streams()
        lower_limit("RLIMIT_CPU", request["cpu"])
        if self.own_user:
            lower_limit("RLIMIT_NPROC", self.settings["processes"])
        if self.tier != "rlimits":
            seccomp.install(seccomp.for_process(self.filter, os.getpid()))


def call_filter(tier: str) -> bytes:
    """The tier's system-call filter. Landlock's first versions do not govern truncation by open()."""
    confined = tier == "namespace" or (tier == "landlock" and landlock.version() >= 3)
    return seccomp.build(scratch=tier == "namespace", files_confined=confined)


def lower_limit(name: str, value: int) -> None:
    """Set a soft and hard limit, where this system knows it, never above the hard limit in force."""
    which = getattr(resource, name, None)
    if which is None:
        return
    hard = resource.getrlimit(which)[1]
    bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (bound, bound))


def count_threads() -> int:
    """Threads of this process (a package may have started some); 0 where the system does not tell."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 0


def warm_up(packages: list[str], package_paths: list[str]) -> None:
    """Import what programs commonly use, and the allowed packages with one thread per math library.

    Packages are found below the folders of `package_paths` this once; what else lies there cannot be imported later.
    """
    before = list(sys.path)
    sys.path += sorted({os.path.dirname(path) for path in package_paths})
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    for name in (*WARM, *packages):
        importlib.import_module(name)
    sys.path[:] = before
    os.environ.clear()
    sys.setswitchinterval(0.005)


def settle(settings: dict, wire: socket.socket) -> bool:
    """Bring this process behind the tier's walls. Raises OSError naming the call that failed.

    Returns whether its user is nobody else's here, so that a limit on the number of threads counts no others.
    """
    tier, user = settings["tier"], os.getuid()
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")
    paths = namespaces.library_paths(tuple(settings["package_paths"]))
    if tier == "namespace":
        namespaces.enter_world()
        namespaces.settle(paths)
        if (pid := os.fork()) != 0:
            wire.close()
            kernel.close_from(CHANNEL)
            os.waitpid(pid, 0)
            os._exit(0)
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL, "PR_SET_PDEATHSIG")
    elif tier in ("landlock", "seccomp"):
        if os.getuid() == 0:
            with contextlib.suppress(OSError):  # a container may hold no other user
                namespaces.become_spare_user(files_of_root=not namespaces.readable_by_others(paths))
        if tier == "landlock":
            landlock.confine(paths, namespaces.DEVICES)
    os.chdir("/")
    return tier == "namespace" or os.getuid() != user


def take_control() -> socket.socket:
    """The control socket, handed over as standard input, at its own descriptor; every other one is closed."""
    os.dup2(0, CHANNEL, inheritable=False)
    fresh_standard_streams()
    kernel.close_from(CHANNEL + 1)
    return socket.socket(fileno=CHANNEL)


def fresh_standard_streams() -> None:
    """Standard streams of this process alone: flags and locks on what others have opened too would outlive it."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(null, stream)
    os.close(null)


def main() -> None:
    """Run a zygote on the control socket that is its standard input, in a fresh interpreter with an empty environment."""
    wire = take_control()
    settings, watched = control.receive(wire)
    if settings is None:
        return
    sys.path[:] = [path for path in sys.path if path not in settings["hidden_paths"]]
    try:
        warm_up(settings["packages"], settings["package_paths"])
        threads = count_threads()
        own_user = settle(settings, wire)
    except Exception as error:
        text = str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        control.send(wire, {"error": text}, [])
        return
    for name, value in settings["rlimits"]:
        lower_limit(name, value)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.disable()
    gc.collect()
    gc.freeze()
    control.send(wire, {"ready": True, "threads_limited": own_user}, [])
    Zygote(wire, settings, watched[0] if watched else -1, threads, own_user).serve()
