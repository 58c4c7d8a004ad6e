"""The reference of the KL penalty: a copy of the policy's weights that follows slowly.

There is no second module: the reference's tensors replace the policy's while it is evaluated. A rank holds only its own
part of the weights, so under ZeRO 3 the reference is sharded like the policy.

With an adapter the trained weights are the adapter's factors alone: the reference starts as the frozen base, whose
adapter changes nothing, shares that base, and follows factor by factor.

The reference is kept in float32 and follows the optimiser's float32 weights. With 16-bit weights it is in host memory,
touched only when the reference moves, and its rounding replaces the policy's weights. If the state were
rounded, or interpolated between rounded weights, it would mostly jump to the policy, because the two differ by at most
one unit in the last place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from couplet.learner.engine import Engine


class Reference:
    """Reference weights beside an engine's own."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        engine.settle()
        self._tensors = [shard.detach().clone() for shard in engine.shards()]
        self._dtype = self._tensors[0].dtype
        self._exact = self._tensors if self._is_exact else [_copy(exact) for exact in engine.exact_shards()]

    @torch.no_grad()
    def follow(self, alpha: float) -> None:
        """reference <- (1 - alpha) · reference + alpha · policy, in float32; 1.0 copies."""
        self._engine.settle()
        for mine, exact in zip(self._exact, self._engine.exact_shards(), strict=True):
            mine.lerp_(exact.to(mine.device), alpha)
        self._show(0)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside the context the engine's module computes with the reference weights. No updates inside."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state(self) -> dict[str, Tensor]:
        """Full reference weights by name in float32, on the CPU of rank 0 (elsewhere empty). Collective."""
        total: dict[str, Tensor] = {}
        for number in range(self._parts):
            self._show(number)
            with self.in_place():
                for name, tensor in self._engine.named_weights():
                    if self._engine.rank == 0:
                        part = tensor.to("cpu", torch.float32, copy=True)
                        total[name] = total[name].add_(part) if number else part
        self._show(0)
        return total

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Load what `state` returned, or the 16-bit weights of an older checkpoint; every rank needs it. Collective."""
        for number in range(self._parts):
            with self.in_place():
                self._engine.load_weights(
                    {name: _part(tensor.float(), number, self._dtype) for name, tensor in state.items()}
                )
            for exact, part in zip(self._exact, self._tensors, strict=True):
                exact.copy_(exact + part.to(exact) if number else part)
        self._show(0)

    @property
    def _is_exact(self) -> bool:
        return self._dtype == torch.float32

    @property
    def _parts(self) -> int:
        """How many numbers of the weights' type sum exactly to a float32 number; an engine gathers only that type."""
        return 1 if self._is_exact else 3

    @torch.no_grad()
    def _show(self, number: int) -> None:
        """Put a part of the exact values into the tensors that the engine reads; part 0 is their rounding."""
        if not self._is_exact:
            for tensor, exact in zip(self._tensors, self._exact, strict=True):
                tensor.copy_(_part(exact, number, self._dtype))

    def _swap(self) -> None:
        self._engine.settle()
        for index, shard in enumerate(self._engine.shards()):
            shard.data, self._tensors[index] = self._tensors[index], shard.data


def _copy(exact: Tensor) -> Tensor:
    return exact.detach().to("cpu", torch.float32, copy=True)


def _part(exact: Tensor, number: int, dtype: torch.dtype) -> Tensor:
    """The `number`-th of three values of `dtype` (bfloat16) whose sum is `exact`; float32 is its own part 0."""
    for _ in range(number):
        exact = exact - exact.to(dtype).float()
    return exact.to(dtype)
