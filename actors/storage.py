"""Folders that every machine of the cluster must see: run folders and policies."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from couplet.actors.ray_init import alive_nodes
from couplet.actors.remote import fetch_all
from couplet.configs.schema import ConfigError

SECONDS = 120.0  # a node may first have to unpack the code


def require_shared(written: Path | None, policy: Path) -> None:
    """Check that every node sees the folder that a run writes, and the same policy. One node needs no check.

    Args:
        written: created if missing; every node must see a file that is put there for a moment. None: other nodes write
            nothing.
        policy: is only read; its config.json must be the same everywhere.

    Raises:
        ConfigError: names the folder and the nodes that do not see it.
    """
    nodes = alive_nodes()
    if len(nodes) < 2:
        return
    probe = None
    if written is not None:
        written.mkdir(parents=True, exist_ok=True)
        probe = written / f".probe-{uuid.uuid4().hex}"
        probe.touch()
    try:
        look = ray.remote(_look)
        calls = []
        for node in nodes:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            call = look.options(num_cpus=0, scheduling_strategy=there)
            calls.append(call.remote(None if probe is None else str(probe), str(policy / "config.json")))
        seen = fetch_all(calls, "every node: a look at the shared folders", SECONDS)
    finally:
        if probe is not None:
            probe.unlink(missing_ok=True)
    mine = _look(None, str(policy / "config.json"))[1]
    if written is not None:
        _require("the run folder", written, [n for n, (found, _) in zip(nodes, seen, strict=True) if not found])
    _require("the policy", policy, [n for n, (_, digest) in zip(nodes, seen, strict=True) if digest != mine])


def _require(what: str, folder: Path, blind: list[dict[str, str]]) -> None:
    if blind:
        names = ", ".join(node["NodeManagerAddress"] for node in blind)
        raise ConfigError(
            f"{what} {folder} is not the same on node(s) {names}: a cluster of several machines needs it on storage that "
            "all of them mount (runs_dir, model.path, HF_HOME, COUPLET_CACHE)"
        )


def _look(probe: str | None, config: str) -> tuple[bool, str | None]:
    """Whether this machine sees `probe`, and what it reads in `config`."""
    text = Path(config).read_bytes() if Path(config).is_file() else None
    return probe is not None and Path(probe).exists(), None if text is None else hashlib.sha256(text).hexdigest()
