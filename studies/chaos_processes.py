"""What chaos is done to: Ray nodes and a driver as child processes, and the actors of a run found by their titles."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import psutil

from couplet.data import files
from couplet.data.metric_table import is_learner_step
from couplet.learner.rendezvous import free_port
from couplet.studies.cli import RunFailed, last_lines

TITLES = {"rollout": "RolloutActor", "reward": "RewardActor", "queue": "ReplayActor", "learner": "LearnerActor"}
STARTING = (".__init__", ".build")  # an actor whose title ends so has not started yet
START_SECONDS = 600.0
CPUS = 6
QUICK = {  # a dead node is noticed in about 2 s, and Ray waits for a busy machine
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "30000",  # of a node that is busy; one that is gone refuses at once
    "RAY_health_check_failure_threshold": "3",
    "RAY_raylet_start_wait_time_s": "120",
    "RAY_agent_register_timeout_ms": "120000",
    "RAY_worker_register_timeout_seconds": "120",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_worker_niceness": "0",  # Ray would let everything else on this machine go first
}


def environment() -> dict[str, str]:
    """For every process of a study: one thread each, and a Ray with a token of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    return {"OMP_NUM_THREADS": "1", **kept, **QUICK, **token}


class Machines:
    """A Ray head and one more node, both on this machine.

    Args:
        folder: for the logs of the nodes.
        environ: of all processes, see `environment`.
    """

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self.folder = folder
        self.environ = environ
        self.started = 0
        self.ends = ExitStack()
        self.second: subprocess.Popen[bytes] | None = None
        self.head = self._start("--head", f"--port={free_port()}", "--include-dashboard=false")
        found = re.search(r"--address='([^']+)'", (folder / "node-1.log").read_text())
        assert found is not None, "Ray prints how to join the head"
        self.address = found[1]

    def add(self) -> None:
        """Start a second node."""
        self.second = self._start(f"--address={self.address}")

    def processes(self) -> list[psutil.Process]:
        """Every process of the nodes."""
        return [*_tree(self.head), *(_tree(self.second) if self.second else [])]

    def kill_second(self) -> list[int]:
        """kill -9 of the second node with all that runs on it. Returns the processes."""
        assert self.second is not None
        victims = _tree(self.second)
        _kill(victims)
        self.second.wait()
        self.second = None
        return [process.pid for process in victims]

    def close(self) -> None:
        """End both nodes."""
        _kill(self.processes())
        self.ends.close()

    def _start(self, *options: str) -> subprocess.Popen[bytes]:
        self.started += 1
        temporary = self.ends.enter_context(files.scratch("chaos"))  # short, for the paths of Ray's sockets
        temporary.chmod(0o755)  # as /tmp/ray: the sandbox's processes read the code there without privileges
        log = self.folder / f"node-{self.started}.log"
        command = [str(Path(sys.executable).parent / "ray"), "start", "--block", "--disable-usage-stats", *options]
        command += [f"--temp-dir={temporary}"]  # its own: nodes replace what they find of the run's code
        command += [
            f"--num-cpus={CPUS}",
            f"--object-store-memory={128 * 2**20}",
            f"--ray-client-server-port={free_port()}",
        ]
        command += ["--log-style=record", "--log-color=false"]
        with log.open("wb") as output:
            node = subprocess.Popen(command, env=dict(self.environ), stdout=output, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + START_SECONDS
        while b"Ray runtime started" not in log.read_bytes():
            if node.poll() is not None or time.monotonic() > deadline:
                _kill(_tree(node))
                raise RunFailed(f"a Ray node did not start; the last lines of {log}:\n{last_lines(log)}")
            time.sleep(0.1)
        return node


class Driver:
    """`couplet train` as a child process, started again with `--resume` after it was killed.

    Args:
        command: of `couplet`, e.g. `studies.cli.COUPLET`.
        recipe: of the run.
        folder: that the run will have.
        environ: of the process.
    """

    def __init__(self, command: Sequence[str], recipe: Path, folder: Path, environ: Mapping[str, str]) -> None:
        self.command = [*command, "train", str(recipe)]
        self.folder = folder
        self.environ = environ
        self.log = recipe.with_suffix(".log")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        """Start the run, or continue it with `--resume`."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [*self.command, *options], env=dict(self.environ), stdout=output, stderr=subprocess.STDOUT
            )

    def signal(self, number: int) -> None:
        """Send a signal to the driver and wait until it has ended."""
        assert self.process is not None
        self.process.send_signal(number)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            raise RunFailed(f"the driver did not end within 60 s of {signal.Signals(number).name}") from None

    def kill(self) -> None:
        """kill -9, if it still runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def code(self) -> int | None:
        """The driver's exit code; None while it runs."""
        assert self.process is not None
        return self.process.poll()

    def require_running(self) -> None:
        """`RunFailed` if the driver has ended."""
        if (code := self.code()) is not None:
            raise RunFailed(f"the run ended with code {code}; the last lines of {self.log}:\n{last_lines(self.log)}")

    def last_step(self) -> tuple[int, float]:
        """The newest learner step that is logged, and when; (0, 0.0) without one."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_bytes()[-20_000:].split(b"\n")[:-1] if path.exists() else []
        for line in reversed(lines):
            with contextlib.suppress(ValueError):
                if is_learner_step(row := json.loads(line)):
                    return row["step"], row["time"]
        return 0, 0.0

    def said(self, text: str) -> int:
        """How often the driver's output contains `text`."""
        return self.log.read_text(errors="replace").count(text) if self.log.exists() else 0


def actors(machines: Machines, started: bool = True) -> dict[str, list[int]]:
    """role -> processes of the run's actors, in the order of their ids; `started`: without those that still start."""
    found: dict[str, list[int]] = {role: [] for role in TITLES}
    for process in machines.processes():
        title = title_of(process.pid)
        for role, name in TITLES.items():
            if title.startswith("ray::") and name in title and not (started and title.endswith(STARTING)):
                found[role].append(process.pid)
    return {role: sorted(pids) for role, pids in found.items()}


def title_of(pid: int) -> str:
    """The title of a process, of an actor that works `ray::NAME:CLASS.method`; "" if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")[0].decode(errors="replace").strip()
    except OSError:
        return ""


def is_alive(pid: int) -> bool:
    """Whether a process exists and has not ended."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _tree(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        parent = psutil.Process(process.pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _kill(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=10)
