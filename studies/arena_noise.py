"""How noisy the gradient of one batch is under each likelihood estimator, and how far from the exact one.

The batch is sampled and judged once; only the masks are drawn again. On policy the ratio is 1 and every objective has the
same gradient, so only the estimator matters.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from couplet.configs.schema import EstimatorConfig, ObjectiveConfig, RunConfig
from couplet.data.trajectory import ScoredGroup
from couplet.learner.batch import MicroBatch, shard, step_batch
from couplet.learner.loss import grpo_loss
from couplet.model.likelihood import batch_logprobs
from couplet.training.local_cluster import LocalCluster

EXACT = EstimatorConfig(name="trace", slices=2**15 - 1)


def measure_noise(config: RunConfig, start: str, draws: int) -> dict[str, Any]:
    """`gradient_noise` of the configured estimator on a batch sampled from the policy folder `start`."""
    with tempfile.TemporaryDirectory() as folder:
        cluster = LocalCluster(config, start, Path(folder))
        try:
            cluster.publish()
            batch = cluster.take(config.replay.groups_per_step)
            policy = cluster.rollout._policy.train()
            return gradient_noise(policy, batch.groups, config.objective, config.estimator, draws)
        finally:
            cluster.close()


def gradient_noise(
    policy: Any, groups: Sequence[ScoredGroup], objective: ObjectiveConfig, estimator: EstimatorConfig, draws: int
) -> dict[str, Any]:
    """Cosines of gradients of the surrogate over `groups`, without KL.

    Args:
        policy: the weights that sampled them.
        groups: scored groups.
        objective: advantages and normalisation.
        estimator: whose masks are drawn `draws` + 2 times.
        draws: of the large estimate; the two others are not among them.

    Returns:
        `pair`: cosine of two independent estimates; `large`: mean cosine of these with the mean of `draws` others;
        `exact` and `large_exact`: of one estimate, and of that mean, with the gradient of the trajectories' exact
        log-probabilities (`trace` with a slice per step); `norm_ratio`: mean norm of one estimate to that of the mean.
        `nan` if the batch has no signal.
    """
    options = {"inner_updates": draws + 2, "kl_weight": 0.0, "ratio": "current"}
    many = objective.replace(**options)
    micro = shard(step_batch(groups, many), many, policy.token_ids.pad, micro_groups=1)
    if not micro:
        return dict.fromkeys(("pair", "large", "exact", "large_exact", "norm_ratio"), float("nan"))
    first, second = (_gradient(policy, micro, many, estimator, draw) for draw in range(2))
    fixed = torch.equal(first, second)  # an estimator that draws nothing
    others = [first] if fixed else [_gradient(policy, micro, many, estimator, 2 + draw) for draw in range(draws)]
    mean = torch.stack(others).mean(dim=0)
    exact = _gradient(policy, micro, many, EXACT, 0)
    return {
        "pair": _cosine(first, second),
        "large": float(np.mean([_cosine(first, mean), _cosine(second, mean)])),
        "exact": float(np.mean([_cosine(first, exact), _cosine(second, exact)])),
        "large_exact": _cosine(mean, exact),
        "norm_ratio": float((first.norm() + second.norm()) / (2 * mean.norm())),
    }


def _gradient(
    policy: Any, micro: Sequence[MicroBatch], objective: ObjectiveConfig, estimator: EstimatorConfig, draw: int
) -> Tensor:
    """The gradient of all weights, flat, under the masks of one draw."""
    policy.zero_grad()
    for part in micro:
        seeds = part.seeds_JPG[draw : draw + 1], part.group_seeds_JP[draw : draw + 1]
        new_PGC = batch_logprobs(policy, part.tokens, *seeds, estimator)[0]
        grpo_loss(new_PGC, new_PGC.detach(), part.advantages_PG, part.weights_PGC, objective).loss.backward()
    gradients = [weight.grad for weight in policy.parameters() if weight.grad is not None]
    return torch.cat([gradient.reshape(-1) for gradient in gradients]).clone()


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))
