"""Where the work runs: in this process (`--local`), or by actors on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from couplet.configs.schema import RunConfig
    from couplet.training.cluster import Cluster
    from couplet.training.evaluator import Evaluator


def open_cluster(
    config: RunConfig, start: str, checkpoints: Path, *, local: bool, ended: Callable[[str], None]
) -> Cluster:
    """The cluster of a training run.

    Args:
        config, start, checkpoints: see `RayCluster`.
        local: one process, without Ray.
        ended: ends this process; called with what of Ray's own processes has ended.
    """
    if local:
        from couplet.training.local_cluster import LocalCluster

        return LocalCluster(config, start, checkpoints)
    from couplet.actors.ray_cluster import RayCluster

    return RayCluster(config, start, checkpoints, ended)


NO_LEARNER = {"engine": "torch", "ranks": 1, "cpus": 0.0, "gpus": 0.0, "zero_stage": 0, "offload": "none"}


def open_evaluator(config: RunConfig, *, local: bool) -> AbstractContextManager[Evaluator]:
    """The rollout and reward workers of `config`, without a learner or a queue; they end with the block."""
    config = config.replace(learner=config.learner.replace(**NO_LEARNER))
    if local:
        from couplet.training.evaluator import LocalEvaluator

        return closing(LocalEvaluator(config))
    from couplet.actors.ray_evaluator import RayEvaluator

    return closing(RayEvaluator(config))
