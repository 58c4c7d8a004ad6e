"""A Ray actor around one rank of `learner.learner.Learner`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import ray

from couplet.actors.gauges import Exporter
from couplet.actors.messages import WorkerInfo
from couplet.configs.schema import RunConfig
from couplet.data.trajectory import ScoredGroup
from couplet.learner.rendezvous import free_port, join_environment
from couplet.training.factory import LearnerSlice, build_learner

if TYPE_CHECKING:
    import numpy as np

    from couplet.model.weights import Manifest


class LearnerActor:
    """One learner rank. `build` is a collective of all ranks, like `learn`, `weights`, `save` and `restore`."""

    def __init__(self, config: RunConfig, start: str, rank: int) -> None:
        self.config = config
        self.start = start
        self.rank = rank

    def rendezvous(self) -> tuple[str, int]:
        """Address and a free port of this rank's node; those of rank 0 are where the ranks meet."""
        return ray.util.get_node_ip_address(), free_port()

    def build(self, address: str, port: int) -> WorkerInfo:
        """Join the other ranks and build engine and learner; process and node of this rank."""
        join_environment(address, port, self.rank, self.config.learner)
        self.learner = build_learner(LearnerSlice.of(self.config), self.start, self.rank)
        self.metrics = Exporter(self.config.name, role="learner", index=self.rank)
        return WorkerInfo.of(ray.get_runtime_context())

    def learn(self, groups: tuple[ScoredGroup, ...]) -> dict[str, float]:
        """One learner step."""
        metrics = self.learner.learn(groups)
        self.metrics.export({f"learner_{name}": value for name, value in metrics.items()})
        return metrics

    def weights(self) -> tuple[tuple[Manifest, list[np.ndarray]] | None, int]:
        """(manifest, buckets) on rank 0, None elsewhere; and the version, small enough for the driver to wait for."""
        return self.learner.weights(self.config.weights.bucket_mb * 2**20), self.learner.version

    def save(self, folder: str) -> None:
        """Write this rank's part of a checkpoint."""
        self.learner.save(Path(folder))

    def restore(self, folder: str) -> int:
        """Read this rank's part of a checkpoint; the version it holds."""
        self.learner.restore(Path(folder))
        return self.learner.version
