"""What a learner asks of an engine, and the plain torch engine.

An engine owns the optimiser. Gradients are *sums* over the micro-batches of an update and over all ranks: the caller
puts the normalisation into the loss, so one rank and several give the same gradient.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from couplet.configs.schema import ConfigError, LearnerConfig, OptimizerConfig
from couplet.learner.process_group import gather_rows, join, sum_over_ranks
from couplet.learner.schedule import learning_rate

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Engine(Protocol):
    """One rank of the optimiser around a policy.

    Attributes:
        module: what to call; forwards the policy's attributes.
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
            Diverged: the gradient is infinite or no number.
        """

    def gather(self, values_NM: Tensor) -> Tensor:
        """Rows of all ranks, on the CPU. Collective."""

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Full weights by name, one at a time; every rank must exhaust it. Collective."""

    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        """Overwrite the weights (the optimiser's copies are left alone). Collective."""

    def shards(self) -> list[Tensor]:
        """The tensors that hold this rank's part of the weights; `.data` may be swapped between forwards."""

    def exact_shards(self) -> Iterator[Tensor]:
        """What `shards` are the rounding of: the float32 weights that the optimiser moves. Collective."""

    def settle(self) -> None:
        """Give up weights gathered for a forward, so that the next one reads `shards` again."""

    def save(self, folder: Path) -> None:
        """Write weights, optimiser state and update count. Collective."""

    def restore(self, folder: Path) -> None:
        """Read what `save` wrote. Collective."""


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
        raise ValueError(
            f"learner.engine = 'deepspeed' needs the package {error.name}: install it, or choose engine: torch"
        ) from error
    return DeepSpeedEngine(policy, optimizer, learner, total_updates, rank, ranks)


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
    """A gradient that is infinite or no number."""


def check_norm(norm: float, updates: int) -> None:
    """Stop before weights are spoiled: raise `Diverged` where the gradient is infinite or no number."""
    if not math.isfinite(norm):
        raise Diverged(
            f"the gradient of optimiser update {updates} has norm {norm}: the weights would be spoiled; lower optimizer.lr "
            "(or use learner.dtype: float32 where it is not) and go on from the last checkpoint with --resume"
        )


@contextmanager
def own_settings(optimizer: Any) -> Iterator[None]:
    """Keep this run's hyper-parameters while a checkpoint is read, which brings those it was written with."""
    own = [{key: group[key] for key in ("weight_decay", "betas", "eps")} for group in optimizer.param_groups]
    yield
    for group, settings in zip(optimizer.param_groups, own, strict=True):
        group.update(settings)


class TorchEngine:
    """AdamW in plain torch, with gradients added up over ranks; in bfloat16 weights and gradients are kept in float32 too."""

    def __init__(
        self,
        policy: nn.Module,
        optimizer: OptimizerConfig,
        learner: LearnerConfig,
        total_updates: int,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.config, self.rank, self.ranks = learner, rank, ranks
        self.device = next(policy.parameters()).device
        if ranks > 1:
            join(rank, ranks, self.device, learner.timeout)
        dtype = DTYPES[learner.dtype]
        self._has_masters = dtype != torch.float32
        exact = (
            [(name, parameter.detach().float().clone()) for name, parameter in policy.named_parameters()]
            if self._has_masters
            else []
        )
        self.module = policy.to(dtype).train()
        masters = exact or list(self.module.named_parameters())
        self._parameters = [parameter for _, parameter in self.module.named_parameters()]
        self._masters = [master for _, master in masters]
        self._optimizer_config, self._total_updates = optimizer, total_updates
        self._optimizer = adamw(decay_groups(masters, optimizer.weight_decay), optimizer)
        self.updates = 0

    @property
    def learning_rate(self) -> float:
        return learning_rate(self.updates, self._total_updates, self._optimizer_config)

    def backward(self, loss: Tensor, last: bool) -> None:
        loss.backward()
        if self._has_masters:
            for master, parameter in zip(self._masters, self._parameters):
                _gradient(master).add_(_gradient(parameter))
                parameter.grad = None
        if last and self.ranks > 1:
            sum_over_ranks([_gradient(master) for master in self._masters])

    def step(self) -> float:
        norm = float(torch.nn.utils.clip_grad_norm_(self._masters, self._optimizer_config.grad_norm))
        check_norm(norm, self.updates)
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._publish_masters()
        self.updates += 1
        return norm

    def gather(self, values_NM: Tensor) -> Tensor:
        return gather_rows(values_NM, self.device, self.ranks)

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self.module.named_parameters():
            yield name, parameter.detach()

    @torch.no_grad()
    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        for name, parameter in self.module.named_parameters():
            parameter.copy_(state[name])

    def shards(self) -> list[Tensor]:
        return list(self._parameters)

    def exact_shards(self) -> Iterator[Tensor]:
        for master in self._masters:
            yield master.detach()

    def settle(self) -> None:
        return None

    def save(self, folder: Path) -> None:
        if self.rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            state = {
                "updates": self.updates,
                "masters": [master.detach() for master in self._masters],
                "optimizer": self._optimizer.state_dict(),
            }
            torch.save(state, folder / "engine.pt")

    @torch.no_grad()
    def restore(self, folder: Path) -> None:
        path = folder / "engine.pt"
        if not path.is_file():
            raise ValueError(f"{path} does not exist: the checkpoint was not written by learner.engine: torch")
        state = torch.load(path, map_location=self.device, weights_only=True)
        for master, stored in zip(self._masters, state["masters"], strict=True):
            master.copy_(stored)
        self._publish_masters()
        with own_settings(self._optimizer):
            self._optimizer.load_state_dict(state["optimizer"])
        self.updates = state["updates"]

    @torch.no_grad()
    def _publish_masters(self) -> None:
        if self._has_masters:
            for master, parameter in zip(self._masters, self._parameters):
                parameter.copy_(master)


def _gradient(parameter: Tensor) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad
