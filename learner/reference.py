"""The reference of the KL penalty: a copy of the policy's weights that follows slowly.

There is no second module: while the reference is asked, its tensors stand in the policy's place. A rank holds its own
part of the weights only, so under ZeRO 3 the reference is sharded as the policy is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from learner.engine import Engine


class Reference:
    """Reference weights beside an engine's own."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        engine.settle()
        self._tensors = [shard.detach().clone() for shard in engine.shards()]

    @torch.no_grad()
    def follow(self, alpha: float) -> None:
        """reference <- (1 - alpha) · reference + alpha · policy; 1.0 copies.

        The result is rounded to the type of the weights: in bfloat16 a weight that moved by a single unit in the last
        place since the last call ends at one of the two values, not between them.
        """
        self._engine.settle()
        for mine, shard in zip(self._tensors, self._engine.shards(), strict=True):
            if alpha == 1.0:
                mine.copy_(shard)
            else:
                mine.copy_(torch.lerp(mine.float(), shard.detach().float(), alpha))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the context the engine's module computes with the reference weights. No updates inside."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state(self) -> dict[str, Tensor]:
        """Full reference weights by name, on the CPU of rank 0 (elsewhere empty). Collective."""
        with self.in_place():
            weights = ((name, tensor) for name, tensor in self._engine.named_weights())
            if self._engine.rank == 0:
                return {name: tensor.cpu().clone() for name, tensor in weights}
            for _ in weights:
                pass
            return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Read what `state` gave; every rank needs it. Collective."""
        with self.in_place():
            self._engine.load_weights(state)

    def _swap(self) -> None:
        self._engine.settle()
        for index, shard in enumerate(self._engine.shards()):
            shard.data, self._tensors[index] = self._tensors[index], shard.data
