"""The state of a batch while it is denoised.

A row is a prompt, a canvas and a suffix. The canvas may hold given tokens anywhere; the others, its open positions, are
decoded. Rows of a batch agree in their lengths and in the number of open positions of each block.

Shapes: B rows, U unique rows, L prompt + canvas + suffix, C canvas, n open positions, R revealed tokens, H hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from couplet.model.policy import DiffusionPolicy
from couplet.model.randomness import seed_tensor


@dataclass(frozen=True)
class Template:
    """What a row holds before anything is revealed; `canvas` has the mask token at its open positions."""

    prompt: tuple[int, ...]
    canvas: tuple[int, ...]
    suffix: tuple[int, ...] = ()

    def open_counts(self, mask: int, width: int) -> tuple[int, ...]:
        """The number of open positions in each block of `width`."""
        blocks = (self.canvas[start : start + width] for start in range(0, len(self.canvas), width))
        return tuple(block.count(mask) for block in blocks)


@dataclass
class Canvas:
    """The state of a batch while it is denoised."""

    prompt_length: int
    length: int  # C
    unique_UL: Tensor  # each different row once, before anything is revealed
    open_Un: Tensor  # their open canvas positions, ascending
    group_B: Tensor  # row of `unique_UL` each row starts from
    given_BC: Tensor  # bool, canvas positions whose token was given; in host memory
    tokens_BL: Tensor
    reveal_step_BC: Tensor
    entropy_BC: Tensor
    seeds_B: Tensor
    seeds: Sequence[int]

    @classmethod
    def of(cls, policy: DiffusionPolicy, templates: Sequence[Template], seeds: Sequence[int]) -> Canvas:
        """A batch of templates with the same lengths and the same number of open positions."""
        device, mask = policy.device, policy.token_ids.mask
        unique = {template: row for row, template in enumerate(dict.fromkeys(templates))}
        rows = [[*template.prompt, *template.canvas, *template.suffix] for template in unique]
        unique_UL = torch.tensor(rows, dtype=torch.int64, device=device)
        group_B = torch.tensor([unique[template] for template in templates], device=device)
        length = len(templates[0].canvas)
        opened = [[i for i, token in enumerate(template.canvas) if token == mask] for template in unique]
        return cls(
            prompt_length=len(templates[0].prompt),
            length=length,
            unique_UL=unique_UL,
            open_Un=torch.tensor(opened, dtype=torch.int64, device=device),
            group_B=group_B,
            given_BC=torch.tensor([[token != mask for token in template.canvas] for template in templates]),
            tokens_BL=unique_UL[group_B],
            reveal_step_BC=torch.full((len(templates), length), -1, device=device),
            entropy_BC=torch.full((len(templates), length), float("nan"), device=device),
            seeds_B=seed_tensor(tuple(seeds), device),
            seeds=seeds,
        )

    @property
    def completion_BC(self) -> Tensor:
        """The canvas part of the tokens."""
        return self.tokens_BL[:, self.prompt_length : self.prompt_length + self.length]

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
