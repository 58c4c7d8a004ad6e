"""The engine that a recipe names."""

from __future__ import annotations

import os

from torch import nn

from couplet.configs.schema import ConfigError, LearnerConfig, OptimizerConfig
from couplet.learner.engine import Engine
from couplet.learner.torch_engine import TorchEngine


def build_engine(
    policy: nn.Module,
    optimizer: OptimizerConfig,
    learner: LearnerConfig,
    total_updates: int,
    rank: int = 0,
    ranks: int = 1,
) -> Engine:
    """The engine named by `learner.engine`, on the device of `policy`; casts the policy to `learner.dtype`.

    Args:
        total_updates: optimiser updates of the whole run, for the schedule.
    """
    if learner.gradient_checkpointing:
        policy.checkpoint_gradients()  # type: ignore[operator]
    if learner.engine == "torch":
        return TorchEngine(policy, optimizer, learner, total_updates, rank, ranks)
    if next(policy.parameters()).device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read when deepspeed is imported
    try:
        from couplet.learner.deepspeed_engine import DeepSpeedEngine
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"learner.engine = 'deepspeed' needs the package {error.name}: install it, or choose engine: torch"
        ) from error
    return DeepSpeedEngine(policy, optimizer, learner, total_updates, rank, ranks)
