"""Watches Ray's own processes from the driver: when one ends, Ray would end the driver without a word about the run."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

import psutil
import ray
from ray._private import worker

CHECK_SECONDS = 0.5
AGENT_SECONDS = 10.0  # in which a raylet ends after one of its agents
GCS_TRIES = 6  # refused connections in a row after which the GCS has ended
AGENTS = {"DashboardAgent": "dashboard agent", "RuntimeEnvAgent": "runtime-environment agent"}


class Vitals(threading.Thread):
    """Calls `ended(what)` once if the raylet of this machine, one of its agents, or the cluster's GCS has ended.

    Args:
        ended: called in this thread; should end the process, because calls to Ray may never return now.
    """

    def __init__(self, ended: Callable[[str], None]) -> None:
        super().__init__(name="couplet-vitals", daemon=True)
        self.ended = ended
        self.stopped = threading.Event()
        self.gcs = ray.get_runtime_context().gcs_address
        self.raylet = _raylet()
        self.agents = {name: found for name in AGENTS if (found := _agent(self.raylet, name)) is not None}
        self.refused = 0

    def run(self) -> None:
        """Check until something has ended, or until `stop`."""
        while not self.stopped.wait(CHECK_SECONDS):
            what = self.check()
            if what and not self.stopped.is_set():
                self.ended(what)
                return

    def stop(self) -> None:
        """Watch no longer: Ray is about to be stopped."""
        self.stopped.set()

    def check(self) -> str:
        """What has ended; "" if nothing has."""
        for name, agent in self.agents.items():
            if not agent.is_running() and self._raylet_ends():
                return f"Ray's {AGENTS[name]} on this machine ended, and its raylet with it"
        if self.raylet is not None and not _lives(self.raylet):
            return "Ray's raylet on this machine ended"
        self.refused = 0 if self._gcs_listens() else self.refused + 1
        return f"Ray's GCS at {self.gcs} ended or cannot be reached" if self.refused >= GCS_TRIES else ""

    def _raylet_ends(self) -> bool:
        deadline = time.monotonic() + AGENT_SECONDS
        while self.raylet is not None and _lives(self.raylet) and not self.stopped.wait(CHECK_SECONDS):
            if time.monotonic() > deadline:
                self.agents = {name: agent for name, agent in self.agents.items() if agent.is_running()}
                return False  # the raylet does without it
        return True

    def _gcs_listens(self) -> bool:
        host, _, port = self.gcs.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5.0).close()
        except OSError:
            return False
        return True


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _raylet() -> psutil.Process | None:
    """The raylet that this process is connected to, if it runs in sight of it."""
    node = getattr(worker, "_global_node", None)
    name = getattr(node, "raylet_socket_name", None)
    for process in psutil.process_iter(["name", "cmdline"]):
        if process.info["name"] == "raylet" and f"--raylet_socket_name={name}" in (process.info["cmdline"] or ()):
            return process
    return None


def _agent(raylet: psutil.Process | None, name: str) -> psutil.Process | None:
    children = raylet.children() if raylet is not None else []
    return next((child for child in children if name in " ".join(child.cmdline()[:1])), None)
