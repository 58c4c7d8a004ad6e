"""A supervised stage on learner ranks that are Ray actors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from couplet.actors.ray_init import connect
from couplet.actors.remote import fetch, fetch_all
from couplet.actors.storage import require_shared
from couplet.configs.schema import AdaptConfig, ConfigError
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

    def build(self, address: str, port: int) -> None:
        """Join the other ranks and load corpus and engine. Collective."""
        import torch

        from couplet.training.supervised_stage import StageRunner

        config, index, start, rank = self.arguments
        if config.learner.gpus == 0:
            torch.set_num_threads(config.learner.threads)
        join_environment(address, port, rank, config.learner)
        self.runner = StageRunner(config, index, start, rank, config.learner.ranks)

    def advance(self, updates: int) -> tuple[list[Row], int, bool]:
        """Up to `updates` updates. Collective."""
        return self.runner.advance(updates)

    def save(self, folder: str) -> None:
        """Write this rank's part of a checkpoint. Collective."""
        self.runner.save(Path(folder))

    def position(self) -> dict[str, Any]:
        """Where the corpus stands."""
        return self.runner.position()

    def restore(self, folder: str, position: dict[str, Any]) -> None:
        """Read this rank's part of a checkpoint. Collective."""
        self.runner.restore(Path(folder), position)


class StageGroup:
    """All ranks of one stage; the same verbs as `StageRunner`.

    Args:
        config: the adaptation, its corpora by names that hold on every node.
        index: number of the stage.
        start: folder of the policy to start from; shared storage on a cluster of several machines.
        checkpoints: folder for checkpoints; shared storage likewise.

    Raises:
        ConfigError: no cluster, no room on it, or a folder that a node does not see.
    """

    def __init__(self, config: AdaptConfig, index: int, start: str, checkpoints: Path) -> None:
        self.timeout = config.learner.timeout
        self.ranks: list[Any] = []
        self.connection = connect(config)
        try:
            require_shared(checkpoints, Path(start))
            self._start(config, index, start)
        except BaseException:
            self.close()
            raise

    def _start(self, config: AdaptConfig, index: int, start: str) -> None:
        """Start all ranks and let them meet."""
        learner, seconds = config.learner, config.ray.call_timeout
        actor: Any = ray.remote(StageActor).options(num_cpus=learner.cpus, num_gpus=learner.gpus)
        self.ranks = [actor.remote(config, index, start, rank) for rank in range(learner.ranks)]
        try:
            places = fetch_all([rank.rendezvous.remote() for rank in self.ranks], "stage ranks: start", seconds)
        except TimeoutError as error:
            free = ray.available_resources()
            raise ConfigError(
                f"learner.ranks = {learner.ranks}: they did not start within ray.call_timeout = {seconds:.0f} s; each "
                f"asks for {learner.cpus:g} CPU and {learner.gpus:g} GPU, free are {free.get('CPU', 0):g} and "
                f"{free.get('GPU', 0):g}: lower learner.ranks or learner.cpus, or add nodes"
            ) from error
        self._all("build", *places[0])

    def advance(self, updates: int) -> tuple[list[Row], int, bool]:
        """Up to `updates` updates on all ranks."""
        result: tuple[list[Row], int, bool] = self._all("advance", updates)
        return result

    def save(self, folder: Path) -> None:
        """Write a checkpoint."""
        self._all("save", str(folder))

    def position(self) -> dict[str, Any]:
        """Where the corpus stands."""
        result: dict[str, Any] = fetch(self.ranks[0].position.remote(), "stage rank 0: position", self.timeout)
        return result

    def restore(self, folder: Path, position: dict[str, Any]) -> None:
        """Read a checkpoint."""
        self._all("restore", str(folder), position)

    def close(self) -> None:
        """Stop all ranks, and leave the cluster."""
        for rank in self.ranks:
            ray.kill(rank)
        self.connection.close()

    def _all(self, method: str, *arguments: Any) -> Any:
        """Call every rank; the answer of rank 0. The first failure is raised at once."""
        calls = [getattr(rank, method).remote(*arguments) for rank in self.ranks]
        return fetch_all(calls, f"stage ranks: {method} (learner.timeout)", self.timeout)[0]
