"""The state of a batch while it is denoised.

Shapes: B rows, U unique prompts, L prompt + canvas, C canvas, R revealed tokens, H hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from couplet.model.policy import DiffusionPolicy
from couplet.model.randomness import seed_tensor


@dataclass
class Canvas:
    """The state of a batch while it is denoised."""

    prompt_length: int
    unique_UL: Tensor  # each different prompt once, before anything is revealed
    group_B: Tensor  # row of `unique_UL` each row starts from
    tokens_BL: Tensor
    reveal_step_BC: Tensor
    entropy_BC: Tensor
    seeds_B: Tensor
    seeds: Sequence[int]

    @classmethod
    def masked(
        cls, policy: DiffusionPolicy, prompts: Sequence[Sequence[int]], length: int, seeds: Sequence[int]
    ) -> Canvas:
        """Prompts of one length, each followed by `length` masks."""
        device = policy.device
        unique = {prompt: row for row, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
        rows = [[*prompt, *[policy.token_ids.mask] * length] for prompt in unique]
        unique_UL = torch.tensor(rows, dtype=torch.int64, device=device)
        group_B = torch.tensor([unique[tuple(prompt)] for prompt in prompts], device=device)
        return cls(
            prompt_length=len(prompts[0]),
            unique_UL=unique_UL,
            group_B=group_B,
            tokens_BL=unique_UL[group_B],
            reveal_step_BC=torch.full((len(prompts), length), -1, device=device),
            entropy_BC=torch.full((len(prompts), length), float("nan"), device=device),
            seeds_B=seed_tensor(tuple(seeds), device),
            seeds=seeds,
        )

    @property
    def completion_BC(self) -> Tensor:
        """The canvas part of the tokens."""
        return self.tokens_BL[:, self.prompt_length :]

    def commit(self, step: int, row_R: Tensor, position_R: Tensor, token_R: Tensor, entropy_R: Tensor) -> None:
        """Write revealed tokens at canvas positions."""
        self.tokens_BL.index_put_((row_R, position_R + self.prompt_length), token_R)
        self.reveal_step_BC.index_put_((row_R, position_R), torch.full_like(row_R, step))
        self.entropy_BC.index_put_((row_R, position_R), entropy_R)


@dataclass(frozen=True)
class Revealed:
    """Where a step reveals, and the hidden states that predict these tokens."""

    row_R: Tensor
    position_R: Tensor
    hidden_RH: Tensor
