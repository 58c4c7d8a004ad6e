"""A supervised stage on learner ranks that are Ray actors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from actors.connect import attach
from actors.rendezvous import free_port, join_environment
from actors.waiting import fetch, fetch_all
from configs.schema import AdaptConfig

if TYPE_CHECKING:
    from learner.adapt import Row


class StageActor:
    """One rank of a stage around `actors.stage.StageRunner`."""

    def __init__(self, config: AdaptConfig, index: int, start: str, rank: int) -> None:
        self.arguments = (config, index, start, rank)

    def rendezvous(self) -> tuple[str, int]:
        """Address and a free port of this rank's node."""
        return ray.util.get_node_ip_address(), free_port()

    def build(self, address: str, port: int) -> None:
        """Join the other ranks and load corpus and engine. Collective."""
        import torch

        from actors.stage import StageRunner

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
    """All ranks of one stage; the same verbs as `StageRunner`."""

    def __init__(self, config: AdaptConfig, index: int, start: str) -> None:
        self.started_ray = not ray.is_initialized()
        if self.started_ray:
            attach(config.ray, local_cpus=max(4, config.learner.ranks + 2))
        self.timeout = config.learner.timeout
        actor: Any = ray.remote(StageActor).options(
            num_cpus=config.learner.cpus,
            num_gpus=config.learner.gpus,
        )
        self.ranks: list[Any] = [actor.remote(config, index, start, rank) for rank in range(config.learner.ranks)]
        try:
            self._all(
                "build", *fetch(self.ranks[0].rendezvous.remote(), "stage rank 0: start", config.ray.call_timeout)
            )
        except BaseException:
            self.close()
            raise

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
        """Stop all ranks, and the local Ray that was started for them."""
        for rank in self.ranks:
            ray.kill(rank)
        if self.started_ray:
            ray.shutdown()

    def _all(self, method: str, *arguments: Any) -> Any:
        """Call every rank; the answer of rank 0. The first failure is raised at once."""
        calls = [getattr(rank, method).remote(*arguments) for rank in self.ranks]
        return fetch_all(calls, f"stage ranks: {method} (learner.timeout)", self.timeout)[0]
