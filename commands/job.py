"""Access to a running job from a second process, through its replay queue: the drivers of `status` and `scale`."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray
from rich.console import Console
from rich.table import Table

from couplet.actors.messages import ROLES
from couplet.actors.ray_init import NoCluster, attach
from couplet.actors.remote import DIED, NAMESPACE, fetch, namespace_of
from couplet.actors.replay_actor import NAME
from couplet.commands.display import identity
from couplet.configs.json_file import read_object
from couplet.configs.schema import ConfigError, RayConfig

CALL_SECONDS = 30.0
SCALE_SECONDS = 120.0  # a new worker starts a process and tests its sandbox
REPORT_SECONDS = 10.0  # between two lines to a user who waits
IN_FLIGHT = ("issued", "generated", "scoring", "ready", "leased")


def show_status(run: str | None, address: str | None, *, as_json: bool = False) -> None:
    """Print workers, groups and rates of a running job."""
    status = _call(_find(run, address), "status")
    if as_json:
        print(json.dumps(status))
        return
    console = Console(highlight=False)
    for line in status_lines(status):
        console.print(line, markup=False)
    workers = Table(title="workers", title_justify="left")
    for name in ("role", "index", "pid", "node", "calls", "lost", "tier"):
        workers.add_column(name)
    for role in ROLES:
        for w in status["workers"][role]:
            cells = (str(w[key])[:12] for key in ("index", "pid", "node", "calls", "lost"))
            workers.add_row(role, *cells, _tier(w, status))
    console.print(workers)


def status_lines(status: Mapping[str, Any]) -> list[str]:
    """The step of the run, the identity of its groups, its rates and the time to its end."""
    totals, rates, learner = status["totals"], status["rates"], status["learner"]
    left = (status["steps"] - status["step"]) * status["groups_per_step"]
    speed = rates["groups_per_second"]
    eta = f"about {timedelta(seconds=round(left / speed))} to the end" if speed > 0 else "no group in the last minute"
    reward = "none yet" if status["reward_mean"] is None else f"{status['reward_mean']:.2f}"
    scaled = {role: limits for role, limits in status["autoscale"].items() if limits is not None}
    return [
        f"run {status['run']} in {status['folder']}: learner step {status['step']} of {status['steps']}, {eta}",
        f"learner: {learner['ranks']} rank(s), {learner['engine']}; weights of step {status['published_version']} published",
        f"reward of the newest step: {reward}",
        identity(totals),
        f"in flight: {', '.join(f'{count} {name}' for name, count in status['ledger'].items() if name in IN_FLIGHT)}",
        f"{speed:.2f} groups/s, {rates['tokens_per_second']:.0f} tokens/s",
        *(_autoscaled(role, limits, status) for role, limits in scaled.items()),
    ]


def _autoscaled(role: str, limits: Mapping[str, Any], status: Mapping[str, Any]) -> str:
    wanted, serving = status["targets"][role], sum(not worker["leaving"] for worker in status["workers"][role])
    return (
        f"autoscale {role}: {limits['min']} to {limits['max']} actors, waits of at most {limits['target_wait']:g} s; "
        f"{wanted} wanted, {serving} in service; last change: {limits['last_change'] or 'none'}"
    )


def scale_workers(targets: Sequence[str], run: str | None, address: str | None) -> None:
    """Change the number of reward or rollout actors of a running job and wait until they are in service.

    Raises:
        ConfigError: a target that is not `reward=N` or `rollout=N` with N of at least 1, no such run, or too few
            resources; then the numbers stay as before.
    """
    wanted = dict(_target(text) for text in targets)
    queue = _find(run, address)
    _require_admitted(wanted, _call(queue, "status")["autoscale"])
    before = _call(queue, "roster").targets
    _call(queue, "set_targets", wanted)
    started = reported = time.monotonic()
    try:
        while (serving := _serving(queue)) != serving | wanted:
            now = time.monotonic()
            if now - reported > REPORT_SECONDS:
                reported = now
                print(f"waiting for {' '.join(targets)} for {now - started:.0f} s: {_reason(serving)}", flush=True)
            if now - started > SCALE_SECONDS:
                raise ConfigError(
                    f"scale {' '.join(targets)}: not reached within {SCALE_SECONDS:.0f} s ({_reason(serving)}); the "
                    "numbers are as before: add nodes, or lower reward.cpus / rollout.cpus"
                )
            time.sleep(0.5)
    except BaseException:
        _call(queue, "set_targets", {role: before[role] for role in wanted})
        raise
    print(", ".join(f"{role}: {count} in service" for role, count in serving.items()))


def _require_admitted(wanted: Mapping[str, int], autoscale: Mapping[str, Mapping[str, Any] | None]) -> None:
    """`ConfigError` for a number that autoscaling would change back."""
    for role, number in wanted.items():
        limits = autoscale[role]
        if limits is not None and not limits["min"] <= number <= limits["max"]:
            raise ConfigError(
                f"scale {role}={number}: {role}.autoscale keeps it within {limits['min']} to {limits['max']}; choose a "
                f"number within, or resume the run with other bounds"
            )


def _reason(serving: Mapping[str, int]) -> str:
    """The number of workers in service, and the free resources for the others."""
    counts = ", ".join(f"{count} {role}" for role, count in serving.items())
    free = ray.available_resources()
    left = ", ".join(f"{free.get(name, 0):g} {name}" for name in ("CPU", "GPU") if name in ray.cluster_resources())
    return f"{counts} in service, {left} free"


def _tier(worker: dict[str, Any], status: dict[str, Any]) -> str:
    """The sandbox tier of a worker, if it has one, and whether it may judge."""
    tier: str = worker.get("tier", "")
    return f"{tier} (refused)" if tier and status["tiers"] and tier not in status["tiers"] else tier


def _serving(queue: Any) -> dict[str, int]:
    """Workers that get work, by role."""
    return {role: len(indices) for role, indices in _call(queue, "roster").serving.items()}


def _target(text: str) -> tuple[str, int]:
    role, _, count = text.partition("=")
    if role not in ROLES or not count.isdigit() or int(count) < 1:
        raise ConfigError(f"scale {text!r}: write reward=N or rollout=N with N of at least 1")
    return role, int(count)


@dataclass(frozen=True)
class Job:
    """A running job: the name of the run, its cluster, and its folder; None if it is not known."""

    run: str | None
    address: str | None
    folder: Path | None = None

    @classmethod
    def named(cls, run: str | None, address: str | None) -> Job:
        """`run` is the folder of a run, whose `run.json` names the cluster, or a name."""
        if run is None or not (Path(run) / "run.json").is_file():
            if run is not None and (os.sep in run or Path(run).is_dir()):
                raise ConfigError(f"--run {run!r}: not the folder of a run (it has no run.json)")
            return cls(run, address)
        folder = Path(run).resolve()
        known = read_object(folder / "run.json", "give --run NAME --address HOST:PORT instead")
        if not known.get("address") and address is None:
            raise ConfigError(f"--run {run!r}: this run has not joined a Ray cluster (run.json has no address)")
        return cls(known.get("name") or folder.name, address or known["address"], folder)


def _find(run: str | None, address: str | None) -> Any:
    """The replay queue of a running job.

    Raises:
        ConfigError: there is no such job, or several could be meant.
    """
    job = Job.named(run, address)
    try:
        attach(RayConfig(address=job.address), local=False)
    except NoCluster as error:
        if job.folder is not None and address is None:
            raise ConfigError(f"the run in {job.folder} is not running: no Ray cluster at {job.address}") from error
        if job.address is None and not os.environ.get("RAY_ADDRESS"):
            raise ConfigError("no job is running on this machine; --address HOST:PORT names another cluster") from error
        raise
    queue = ray.get_actor(NAME, namespace=namespace_of(_choose(job.run, _running())))
    if job.folder is not None and (found := Path(_call(queue, "status")["folder"])) != job.folder:
        raise ConfigError(
            f"the run in {job.folder} is not running: the run of that name at {job.address} is in {found}"
        )
    return queue


def _running() -> list[str]:
    """Names of the runs on the cluster."""
    actors = ray.util.list_named_actors(all_namespaces=True)
    spaces = (actor["namespace"] for actor in actors if actor["name"] == NAME)
    return sorted(space.removeprefix(NAMESPACE) for space in spaces if space.startswith(NAMESPACE))


def _choose(run: str | None, runs: Sequence[str]) -> str:
    if not runs or (run is not None and run not in runs):
        running = f"; running: {', '.join(runs)}" if runs else ""
        raise ConfigError(f"no running job{'' if run is None else f' named {run!r}'} on this cluster{running}")
    if run is None and len(runs) > 1:
        raise ConfigError(f"several jobs are running ({', '.join(runs)}): name one with --run")
    return run or runs[0]


def _call(queue: Any, method: str, *arguments: Any) -> Any:
    try:
        return fetch(getattr(queue, method).remote(*arguments), f"the job's replay queue: {method}", CALL_SECONDS)
    except DIED as error:
        raise ConfigError("the job has just ended, or its replay queue is being restarted: ask again") from error
