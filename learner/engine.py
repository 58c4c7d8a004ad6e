"""The engine's interface, and what the engines share.

An engine owns the optimiser. Gradients are *sums* over the micro-batches of an update and over all ranks: the caller
puts the normalisation into the loss, so one rank and several give the same gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from couplet.configs.schema import ConfigError, LearnerConfig, OptimizerConfig
from couplet.learner.process_group import gather_rows
from couplet.learner.schedule import learning_rate

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Engine(Protocol):
    """One rank of the optimiser around a policy.

    Attributes:
        module: what to call; delegates to the policy's attributes.
        config: the learner's configuration (micro-batch sizes).
        device: where inputs must be.
        rank, ranks: this process and how many there are.
        updates: optimiser updates done.
        learning_rate: of the next update.
    """

    module: Any
    config: LearnerConfig
    device: torch.device
    rank: int
    ranks: int
    updates: int

    @property
    def learning_rate(self) -> float: ...

    def backward(self, loss: Tensor, last: bool) -> None:
        """Add the gradient of `loss`; `last` marks the last micro-batch of the update. Collective."""

    def step(self) -> float:
        """Clip, update, clear the gradients; returns the norm before clipping. Collective.

        Raises:
            Diverged: the gradient is infinite or NaN.
        """

    def gather(self, values_NM: Tensor) -> Tensor:
        """Rows of all ranks, on the CPU. Collective."""

    def named_weights(self, frozen: bool = False) -> Iterator[tuple[str, Tensor]]:
        """Full trained weights by name, with `frozen` all of them, one at a time; every rank must exhaust it. Collective."""

    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        """Overwrite the trained weights (the optimiser's copies are unchanged). Collective."""

    def shards(self) -> list[Tensor]:
        """The tensors that hold this rank's part of the trained weights; `.data` may be swapped between forward passes."""

    def exact_shards(self) -> Iterator[Tensor]:
        """The float32 weights that the optimiser updates, of which `shards` are rounded copies. Collective."""

    def settle(self) -> None:
        """Release weights gathered for a forward pass, so that the next one reads `shards` again."""

    def save(self, folder: Path) -> None:
        """Write weights, optimiser state and update count. Collective."""

    def restore(self, folder: Path) -> None:
        """Load what `save` wrote. Collective."""


@dataclass(frozen=True)
class Setup:
    """What an engine is built from.

    Attributes:
        policy: the module to train; its device is the engine's.
        optimizer, learner: sections of the configuration.
        total_updates: optimiser updates of the whole run, for the schedule.
        rank, ranks: this process and how many there are.
    """

    policy: nn.Module
    optimizer: OptimizerConfig
    learner: LearnerConfig
    total_updates: int
    rank: int = 0
    ranks: int = 1


class EngineState:
    """The attributes of `Engine` that every engine has in the same way."""

    def __init__(self, setup: Setup) -> None:
        self.setup, self.config, self.rank, self.ranks = setup, setup.learner, setup.rank, setup.ranks
        self.device: torch.device = next(setup.policy.parameters()).device
        self.updates = 0

    @property
    def learning_rate(self) -> float:
        return learning_rate(self.updates, self.setup.total_updates, self.setup.optimizer)

    def gather(self, values_NM: Tensor) -> Tensor:
        return gather_rows(values_NM, self.device, self.ranks)


def decay_groups(named: list[tuple[str, Tensor]], weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups: matrices decay, biases and norms do not."""
    groups = [
        {"params": [tensor for _, tensor in named if tensor.ndim >= 2], "weight_decay": weight_decay},
        {"params": [tensor for _, tensor in named if tensor.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def adamw(groups: list[dict[str, Any]], config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over parameter groups, with torch's fused kernel (no compilation)."""
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


class Diverged(ConfigError, ArithmeticError):
    """A gradient that is infinite or NaN."""


def check_norm(norm: float, updates: int) -> None:
    """Raise `Diverged` if the gradient is infinite or NaN, before it reaches the weights."""
    if not math.isfinite(norm):
        raise Diverged(
            f"the gradient of optimiser update {updates} has norm {norm}: the update was not applied; lower "
            "optimizer.lr (or use learner.dtype: float32) and resume from the last checkpoint"
        )


@contextmanager
def own_settings(optimizer: Any) -> Iterator[None]:
    """Keep this run's hyper-parameters while a checkpoint is read, which restores those it was written with."""
    own = [{key: group[key] for key in ("weight_decay", "betas", "eps")} for group in optimizer.param_groups]
    yield
    for group, settings in zip(optimizer.param_groups, own, strict=True):
        group.update(settings)
