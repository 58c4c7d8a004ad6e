"""The training loop. It does not know whether its cluster is one process or many machines."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

from couplet.configs.schema import RunConfig
from couplet.training.cluster import Batch, Cluster
from couplet.training.interruption import Deferred
from couplet.training.run_folder import RunFolder

Observer = Callable[[int, Batch, dict[str, float]], None]


def due(step: int, every: int) -> bool:
    """True at every `every`-th step; 0 means never."""
    return every > 0 and step % every == 0


def train(
    config: RunConfig,
    cluster: Cluster,
    folder: RunFolder,
    observe: Observer,
    evaluate: Callable[[int], None],
    deferred: Deferred = nullcontext,
) -> None:
    """Learner steps `cluster.step` .. `config.steps`.

    Args:
        config: the run.
        cluster: restored or new; its weights are published first.
        folder: receives metrics and trajectories of every step.
        observe: called after each step with the batch and all its metrics (progress display).
        evaluate: called with the step number when an evaluation is due; again for the step that a run resumes at.
        deferred: the context of a step from its update to its checkpoint, which is not interrupted.
    """
    if 0 < cluster.step < config.steps and due(cluster.step, config.evaluation.every):
        evaluate(cluster.step)  # the crash may have interrupted this evaluation
    while cluster.step < config.steps:
        batch = cluster.take(config.replay.groups_per_step)
        with deferred():
            metrics = batch.metrics | cluster.learn(batch)
            step = cluster.step
            evaluating = due(step, config.evaluation.every)  # an evaluation needs the weights of this step
            if due(step, config.weights.broadcast_every) or evaluating or step == config.steps:
                cluster.publish()
            folder.log_metrics(step, metrics)
            folder.log_trajectories(step, (*batch.groups, *batch.filtered))
            observe(step, batch, metrics)
            if due(step, config.checkpoint.every) or step == config.steps:
                cluster.save()
        if evaluating and step < config.steps:
            evaluate(step)
