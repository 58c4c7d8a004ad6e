"""A supervised stage on learner ranks that are Ray actors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.actor import ActorHandle

from couplet.actors.messages import WorkerInfo
from couplet.actors.rank_group import RankGroup
from couplet.actors.ray_init import connect
from couplet.actors.remote import named, start_actor
from couplet.actors.storage import require_shared
from couplet.configs.schema import AdaptConfig
from couplet.learner.rendezvous import free_port, join_environment

if TYPE_CHECKING:
    from couplet.learner.adapt import Row


class StageActor:
    """One rank of a stage around `training.supervised_stage.StageRunner`."""

    def __init__(self, config: AdaptConfig, index: int, start: str, rank: int) -> None:
        self.arguments = (config, index, start, rank)

    def rendezvous(self) -> tuple[str, int]:
        """Address and a free port of this rank's node."""
        return ray.util.get_node_ip_address(), free_port()

    def build(self, address: str, port: int) -> WorkerInfo:
        """Join the other ranks and load corpus and engine. Collective."""
        import torch

        from couplet.training.supervised_stage import StageRunner

        config, index, start, rank = self.arguments
        if config.learner.gpus == 0:
            torch.set_num_threads(config.learner.threads)
        join_environment(address, port, rank, config.learner)
        self.runner = StageRunner(config, index, start, rank, config.learner.ranks)
        return WorkerInfo.of(ray.get_runtime_context())

    def advance(self, updates: int) -> tuple[list[Row], int, bool]:
        """Up to `updates` updates. Collective."""
        return self.runner.advance(updates)

    def save(self, folder: str) -> None:
        """Write this rank's part of a checkpoint. Collective."""
        self.runner.save(Path(folder))

    def position(self) -> dict[str, Any]:
        """How far the corpus has been read."""
        return self.runner.position()

    def restore(self, folder: str, position: dict[str, Any]) -> None:
        """Load this rank's part of a checkpoint. Collective."""
        self.runner.restore(Path(folder), position)


class StageGroup:
    """All ranks of one stage, with the methods of `StageRunner`.

    Args:
        config: the adaptation, with corpus names that are valid on every node.
        index: number of the stage.
        start: folder of the policy to start from; shared storage on a cluster of several machines.
        checkpoints: folder for checkpoints; also on shared storage.

    Raises:
        ConfigError: no cluster, too few free resources on it, or a folder that a node does not see.
    """

    def __init__(self, config: AdaptConfig, index: int, start: str, checkpoints: Path) -> None:
        def create(rank: int, options: dict[str, Any]) -> ActorHandle:
            driver = ray.get_runtime_context().get_job_id()  # adaptations of one name beside each other
            options |= named(f"{config.name}:stage-{index + 1}-{driver}", "learner", rank)
            return start_actor(StageActor, options, config, index, start, rank)

        self.ranks = RankGroup(config.learner, config.ray.call_timeout, create)
        self.connection = connect(config)
        try:
            require_shared(checkpoints, Path(start))
            self.ranks.reserve()
            self.ranks.start()
        except BaseException:
            self.close()
            raise

    def advance(self, updates: int) -> tuple[list[Row], int, bool]:
        """Up to `updates` updates on all ranks."""
        result: tuple[list[Row], int, bool] = self.ranks.call("advance", updates)[0]
        return result

    def save(self, folder: Path) -> None:
        """Write a checkpoint."""
        self.ranks.call("save", str(folder))

    def position(self) -> dict[str, Any]:
        """How far the corpus has been read; the same on every rank."""
        position: dict[str, Any] = self.ranks.call("position")[0]
        return position

    def restore(self, folder: Path, position: dict[str, Any]) -> None:
        """Load a checkpoint."""
        self.ranks.call("restore", str(folder), position)

    def close(self) -> None:
        """Stop all ranks, and leave the cluster."""
        self.ranks.stop()
        self.connection.close()
