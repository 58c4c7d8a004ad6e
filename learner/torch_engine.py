"""The plain torch engine: one rank, or several by torch.distributed; AdamW in float32."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from couplet.learner.checkpoint import CheckpointError
from couplet.learner.engine import DTYPES, EngineState, Setup, adamw, check_norm, decay_groups, own_settings
from couplet.learner.process_group import join, sum_over_ranks
from couplet.model.adapters import trained_parameters


class TorchEngine(EngineState):
    """AdamW in plain torch, gradients summed over ranks; in bfloat16, with float32 copies of weights and gradients."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        if self.ranks > 1:
            join(self.rank, self.ranks, self.device, self.config.timeout)
        policy, dtype = setup.policy, DTYPES[self.config.dtype]
        self._has_masters = dtype != torch.float32
        exact = (
            [(name, parameter.detach().float().clone()) for name, parameter in trained_parameters(policy).items()]
            if self._has_masters
            else []
        )
        self.module = policy.to(dtype).train()
        trained = trained_parameters(self.module)
        masters = exact or list(trained.items())
        self._names, self._parameters = list(trained), list(trained.values())
        self._masters = [master for _, master in masters]
        self._optimizer = adamw(decay_groups(masters, setup.optimizer.weight_decay), setup.optimizer)

    def backward(self, loss: Tensor, last: bool) -> None:
        loss.backward()
        if self._has_masters:
            for master, parameter in zip(self._masters, self._parameters):
                _gradient(master).add_(_gradient(parameter))
                parameter.grad = None
        if last and self.ranks > 1:
            sum_over_ranks([_gradient(master) for master in self._masters])

    def step(self) -> float:
        norm = float(torch.nn.utils.clip_grad_norm_(self._masters, self.setup.optimizer.grad_norm))
        check_norm(norm, self.updates)
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._publish_masters()
        self.updates += 1
        return norm

    def named_weights(self, frozen: bool = False) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self.module.named_parameters() if frozen else zip(self._names, self._parameters):
            yield name, parameter.detach()

    @torch.no_grad()
    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        for name, parameter in zip(self._names, self._parameters):
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
            raise CheckpointError(f"{path} does not exist: the checkpoint was not written by learner.engine: torch")
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
