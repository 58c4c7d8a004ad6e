"""The engine that a recipe names."""

from __future__ import annotations

import os

from couplet.configs.schema import ConfigError
from couplet.learner.engine import Engine, Setup
from couplet.learner.torch_engine import TorchEngine


def build_engine(setup: Setup) -> Engine:
    """The engine named by `learner.engine`, on the device of the policy; casts the policy to `learner.dtype`."""
    policy, learner = setup.policy, setup.learner
    if learner.gradient_checkpointing:
        policy.checkpoint_gradients()  # type: ignore[operator]
    if learner.engine == "torch":
        return TorchEngine(setup)
    if next(policy.parameters()).device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read when deepspeed is imported
    try:
        from couplet.learner.deepspeed_engine import DeepSpeedEngine
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"learner.engine = 'deepspeed' needs the package {error.name}: install it, or choose engine: torch"
        ) from error
    return DeepSpeedEngine(setup)
