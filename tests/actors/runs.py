"""Small runs of the whole system: their configuration, and a record of what they trained."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import ray

from couplet.configs.load import from_dict
from couplet.configs.schema import RunConfig
from couplet.training.cluster import Batch

P, G = 2, 4
TIME_LIMIT = 300.0  # seconds that end a hang; tests about limits set their own
SETTINGS = {
    "steps": 100,
    "problems": {"train": "katas:rl-lists", "evaluate": "katas:heldout-lists", "limit": 24},
    "sampler": {"steps": 8, "completion_length": 32},
    "optimizer": {"lr": 3e-4, "betas": [0.9, 0.99]},
    "replay": {"groups_per_step": P, "completions": G, "max_staleness": 1},
    "learner": {"engine": "torch", "timeout": TIME_LIMIT},
    "rollout": {"timeout": TIME_LIMIT},
    "reward": {"timeout": TIME_LIMIT},
    "sandbox": {"cpu_seconds": 1.0, "wall_factor": 30.0, "memory_mb": 256},
    "evaluation": {"limit": 4, "samples": 2, "ar_ness_problems": 2, "ar_ness_temperatures": [0.2]},
    "checkpoint": {"every": 2},
    "ray": {"dashboard": False, "object_store_mb": 128, "call_timeout": TIME_LIMIT},
}


def settings(start, name, **changes) -> dict:
    """The settings above with `changes`, whose keys may be sections (`replay={"max_staleness": 0}`)."""
    tree = {key: dict(value) if isinstance(value, dict) else value for key, value in SETTINGS.items()}
    for key, value in changes.items():
        tree[key] = {**tree.get(key, {}), **value} if isinstance(value, dict) else value
    return {"name": name, "model": {"path": str(start)}, **tree}


def run_config(start, name, **changes) -> RunConfig:
    """`settings` as a configuration."""
    return from_dict(RunConfig, settings(start, name, **changes))


@dataclass
class History:
    """What a cluster has trained, in order."""

    batches: list[Batch] = field(default_factory=list)
    metrics: list[dict[str, float]] = field(default_factory=list)

    def steps(self, cluster, count):
        """`count` learner steps, published as the configuration asks; the identity is checked after each."""
        for _ in range(count):
            batch = cluster.take(cluster.config.replay.groups_per_step)
            self.metrics.append(batch.metrics | cluster.learn(batch))
            self.batches.append(batch)
            if cluster.step % cluster.config.weights.broadcast_every == 0:
                cluster.publish()
            assert_identity(cluster.totals())
        return self.metrics[-count:]

    @property
    def numbers(self):
        """Ledger numbers of all trained groups, in order."""
        return [number for batch in self.batches for number in batch.numbers]

    @property
    def losses(self):
        """Loss of each step."""
        return [row["loss"] for row in self.metrics]


def assert_identity(totals):
    """issued = trained + filtered + quarantined + in flight."""
    final = totals["trained"] + totals["filtered"] + totals["quarantined"]
    assert totals["issued"] == final + totals["in_flight"], totals


def assert_trained_once(history, totals):
    """No group twice, and none skipped: all numbers below the lowest open one are there."""
    counts = Counter(history.numbers)
    assert set(counts.values()) == {1}
    assert totals["trained"] + totals["filtered"] == len(counts)
    assert totals["quarantined"] == 0
    assert max(counts) < totals["issued"]
    assert totals["issued"] - totals["in_flight"] == len(counts)


def wait_for(condition, seconds=240):
    """Return once `condition()` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def status(cluster):
    """What `launch.py status --json` prints."""
    return ray.get(cluster.queue.handle.status.remote(), timeout=TIME_LIMIT)


def alive(pid):
    """Whether a process runs."""
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


def living(cluster, role):
    """Processes of the workers of a role, once the queue knows of no dead one."""
    found = []

    def known():
        found[:] = [worker["pid"] for worker in status(cluster)["workers"][role]]
        return all(map(alive, found))

    wait_for(known)
    return found


def kill_process(pid):
    """kill -9, and wait until the process is gone."""
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not alive(pid))
