"""Attaching to a Ray cluster, or starting a local one."""

from __future__ import annotations

import logging
import os
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from configs.schema import ConfigError, RayConfig, RunConfig, require

PROJECT = Path(__file__).parent.parent
TOKEN_LOGGER = "ray._private.authentication.authentication_token_setup"  # tells that the safe default is in force
WORKER_LOGGER = "ray._private.worker"  # warns of what is meant: Ray is joined from a thread
LEFT_BEHIND = ["runs/", ".venv/", ".git/", "**/__pycache__/", "tests/"]


@dataclass(frozen=True)
class Connection:
    """A joined cluster: where its dashboard is, and whether this process started Ray and so must stop it."""

    dashboard: str | None
    owned: bool

    def close(self) -> None:
        """Leave the cluster; a local one that was started here stops."""
        if self.owned:
            ray.shutdown()


def connect(config: RunConfig) -> Connection:
    """Join the cluster of `ray.address` or RAY_ADDRESS, or start a local Ray; one that is joined already is kept.

    Raises:
        ConfigError: no cluster answers at the address, or the cluster lacks the resources the run asks for.
    """
    if ray.is_initialized():
        connection = Connection(None, owned=False)
    else:
        context = attach(config.ray, local_cpus=_logical_cpus(config))
        connection = Connection(f"http://{context.dashboard_url}" if context.dashboard_url else None, owned=True)
    _require_resources(config)
    return connection


def alive_nodes() -> list[dict[str, Any]]:
    """The nodes that are there now, as `ray.nodes` describes them."""
    return [node for node in ray.nodes() if node["Alive"]]


def attach(config: RayConfig, local_cpus: int | None = None, local: bool = True) -> Any:
    """`ray.init`, with one clear error where nothing answers; `local=False` never starts a cluster."""
    logging.getLogger(TOKEN_LOGGER).addFilter(lambda record: "authentication is enabled" not in record.getMessage())
    address = config.address or os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "warning"}
    if address is None and local:
        return ray.init(
            address="local",
            num_cpus=config.num_cpus or local_cpus,
            object_store_memory=config.object_store_mb * 2**20,
            include_dashboard=config.dashboard,
            **options,
        )
    inside_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    if not inside_job and local and (PROJECT / "pyproject.toml").is_file():
        options["runtime_env"] = {"working_dir": str(PROJECT), "excludes": LEFT_BEHIND}
    return _init_within(address or "auto", config.connect_timeout, options)


def _init_within(address: str, seconds: float, options: dict[str, Any]) -> Any:
    """Run `ray.init` in a thread, since it can wait far longer than `seconds` for an address nobody answers at."""
    outcome: dict[str, Any] = {}
    logging.getLogger(WORKER_LOGGER).addFilter(lambda record: "SIGTERM handler is not set" not in record.getMessage())

    def init() -> None:
        try:
            outcome["context"] = ray.init(address=address, **options)
        except Exception as error:
            outcome["error"] = error

    if refused := _refusal(address, seconds):
        outcome["error"] = refused
    else:
        thread = threading.Thread(target=init, daemon=True)
        thread.start()
        thread.join(seconds)
    if "context" in outcome:
        return outcome["context"]
    reason = outcome.get("error", f"no answer within ray.connect_timeout = {seconds:.0f} s")
    raise ConfigError(
        f"ray.address = {address!r}: no Ray cluster there ({str(reason).splitlines()[0]}); "
        "start one with `ray start --head`, or leave ray.address and RAY_ADDRESS unset to start a local one"
    )


def _refusal(address: str, seconds: float) -> OSError | None:
    """Why nobody listens at HOST:PORT; None where somebody does, and for addresses of another form."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit():
        return None
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=seconds).close()
    except OSError as error:
        return error
    return None


def _logical_cpus(config: RunConfig) -> int:
    """CPU slots of a local Ray: at least what the run asks for, so that a laptop shares its cores among the actors."""
    wanted = (
        config.rollout.actors * config.rollout.cpus
        + config.reward.actors * config.reward.cpus
        + config.learner.ranks * config.learner.cpus
    )
    return max(os.cpu_count() or 1, int(wanted + 0.999) + 4)


def _require_resources(config: RunConfig) -> None:
    """`ConfigError` where the whole cluster, or its largest node, is too small; what is busy now may become free."""
    roles = {"learner": config.learner.ranks, "rollout": config.rollout.actors, "reward": config.reward.actors}
    for resource, field in (("CPU", "cpus"), ("GPU", "gpus")):
        each = {role: getattr(getattr(config, role), field, 0.0) for role in roles}
        largest = max((node["Resources"].get(resource, 0.0) for node in alive_nodes()), default=0.0)
        for role, amount in each.items():
            require(
                amount <= largest,
                f"{role}.{field}",
                amount,
                f"the largest node has {largest:g} {resource}; lower it, or add a larger node",
            )
        total = sum(roles[role] * each[role] for role in roles)
        have = ray.cluster_resources().get(resource, 0.0)
        if total > have:
            parts = " + ".join(f"{count} {role} x {each[role]:g}" for role, count in roles.items() if each[role])
            raise ConfigError(
                f"the run asks for {total:g} {resource} ({parts}), the cluster has {have:g}: lower learner.ranks, "
                f"rollout.actors, reward.actors or their {field}, or add nodes"
            )
