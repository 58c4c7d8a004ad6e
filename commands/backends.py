"""Where the work runs: in this process (`--local`), or by actors on a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from couplet.configs.schema import RunConfig
    from couplet.training.cluster import Cluster
    from couplet.training.evaluator import Evaluator


def open_cluster(config: RunConfig, start: str, checkpoints: Path, *, local: bool) -> Cluster:
    """The cluster of a training run; `start` is the folder of the policy it begins with."""
    if local:
        from couplet.training.local_cluster import LocalCluster

        return LocalCluster(config, start, checkpoints)
    from couplet.actors.ray_cluster import RayCluster

    return RayCluster(config, start, checkpoints)


@contextmanager
def open_evaluator(config: RunConfig, *, local: bool) -> Iterator[Evaluator]:
    """The rollout and reward workers of `config`, without a learner or a queue."""
    evaluator = _evaluator(config.replace(learner=config.learner.replace(**NO_LEARNER)), local=local)
    try:
        yield evaluator
    finally:
        evaluator.close()


NO_LEARNER = {"engine": "torch", "ranks": 1, "cpus": 0.0, "gpus": 0.0, "zero_stage": 0, "offload": "none"}


def _evaluator(config: RunConfig, *, local: bool) -> Evaluator:
    if local:
        from couplet.training.evaluator import LocalEvaluator

        return LocalEvaluator(config)
    from couplet.actors.ray_evaluator import RayEvaluator

    return RayEvaluator(config)
