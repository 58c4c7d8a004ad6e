"""Autoscaling of a running job: measured load to wanted numbers of actors, and those to a request to Ray's autoscaler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.autoscaler.sdk import request_resources

from couplet.actors.messages import ROLES
from couplet.actors.replay_client import ReplayClient
from couplet.configs.schema import RunConfig
from couplet.training.autoscale import Autoscaler, Load

WAITS = {"rollout": "learner_wait", "reward": "reward_queue_wait"}
BUSY = {"rollout": "generate_busy_share", "reward": "reward_busy_share"}


class Scaling:
    """Follows the load of the roles whose `autoscale.max` is set.

    Args:
        config: the run.
        queue: whose wanted numbers of workers are changed; the driver starts and stops actors to match.
    """

    def __init__(self, config: RunConfig, queue: ReplayClient) -> None:
        self.config = config
        self.queue = queue
        limits = {role: getattr(config, role).autoscale for role in ROLES}
        self.scalers = {role: Autoscaler(limit) for role, limit in limits.items() if limit.max is not None}
        self._requested = False

    def follow(self, metrics: Mapping[str, float], workers: Mapping[str, int]) -> None:
        """Decide after a learner step with these metrics, while these workers are in service."""
        memory = self.queue.memory
        for role, scaler in self.scalers.items():
            load = Load(workers[role], metrics["step_seconds"], metrics[WAITS[role]], metrics[BUSY[role]])
            wanted = scaler.observe(load, memory.targets[role])
            if wanted != memory.targets[role]:
                memory.targets[role] = wanted
                memory.reasons[role] = scaler.reason
                self.queue.call("set_targets", {role: wanted}, {role: scaler.reason})
                self._request(memory.targets)

    def close(self) -> None:
        """Ask Ray's autoscaler for nothing any more."""
        if self._requested:
            request_resources(bundles=[])

    def _request(self, targets: Mapping[str, int]) -> None:
        """Ask for the resources of the whole run at once; a cluster of a fixed size takes no notice."""
        self._requested = True
        bundles, labels = self.demand(targets)
        request_resources(bundles=bundles, bundle_label_selectors=labels)

    def demand(self, targets: Mapping[str, int]) -> tuple[list[dict[str, float]], list[dict[str, Any]]]:
        """The resources of every actor of the run, and the labels of the nodes that they may run on."""
        counts = {"learner": self.config.learner.ranks, **targets}
        sections = [getattr(self.config, role) for role, count in counts.items() for _ in range(count)]
        bundles = [{"CPU": section.cpus, "GPU": getattr(section, "gpus", 0.0)} for section in sections]
        return [{name: n for name, n in one.items() if n} for one in bundles], [dict(s.labels) for s in sections]
