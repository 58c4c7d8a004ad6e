"""Uniform numbers as a pure function of their purpose: the same bits on every device, in every batch.

Each number is a hash of (row seed, purpose, step, position) in 64-bit wrapping integer arithmetic (the finaliser of
splitmix64, Steele et al. 2014), so a row depends neither on the other rows nor on skipped forward passes.
Nothing here touches a global generator.

Shapes: B rows, N positions per row.
"""

from __future__ import annotations

import torch
from torch import Tensor

PURPOSES = {
    "reveal": 1,  # sampler, order "origin": whether a position is revealed at a step
    "token": 2,  # sampler: which token is drawn at a position
    "order": 3,  # sampler, alg_temp > 0: Gumbel noise of the reveal order
    "mask_ratio": 4,  # estimators: diffusion time of a mask pair
    "mask": 5,  # estimators: which completion tokens are masked
    "second_mask": 6,  # estimators: the independent second mask of `decoupled`
    "corpus_ratio": 7,  # supervised stages: diffusion time of a sequence
    "corpus_mask": 8,  # supervised stages: which tokens are masked
    "slice": 9,  # estimator `trace`: where the schedule is cut
}

_GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_WORD = (1 << 64) - 1


def uniforms(seeds_B: Tensor, purpose: str, step: int, positions: Tensor) -> Tensor:
    """Uniform numbers in [0, 1), one per row and position.

    Args:
        seeds_B: int64 [B], a seed per row.
        purpose: a key of `PURPOSES`; different purposes give independent numbers.
        step: index of the schedule step, mask pair or optimiser step.
        positions: int64 [N], the same for all rows, or [B, N].

    Returns:
        float32 [B, N], multiples of 2**-24, on the device of `seeds_B`.

    Raises:
        ValueError: unknown purpose, or a shape or type other than the above.
    """
    if purpose not in PURPOSES:
        raise ValueError(f"purpose {purpose!r}: choose one of {', '.join(PURPOSES)}")
    if seeds_B.dim() != 1 or positions.dim() not in (1, 2):
        raise ValueError(
            f"seeds {tuple(seeds_B.shape)} and positions {tuple(positions.shape)}: need [B] and [N]/[B, N]"
        )
    if seeds_B.dtype != torch.int64 or positions.dtype != torch.int64:
        raise ValueError(f"seeds {seeds_B.dtype} and positions {positions.dtype}: both must be int64")
    key = _mix_int(_mix_int(PURPOSES[purpose]) + step)
    rows_B1 = _mix(seeds_B ^ _signed(key)).unsqueeze(1)
    hashed_BN = _mix(rows_B1 + positions * _signed(_GOLDEN))
    return ((hashed_BN >> 40) & 0xFFFFFF).to(torch.float32) * 2.0**-24


def seed_tensor(seeds: list[int] | tuple[int, ...], device: torch.device | str = "cpu") -> Tensor:
    """int64 [B] of Python seeds, each taken modulo 2**64."""
    return torch.tensor([_signed(seed & _WORD) for seed in seeds], dtype=torch.int64, device=device)


def _mix(x: Tensor) -> Tensor:
    x = x + _signed(_GOLDEN)
    x = (x ^ _shift(x, 30)) * _signed(_MULTIPLIERS[0])
    x = (x ^ _shift(x, 27)) * _signed(_MULTIPLIERS[1])
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift: torch's shift of int64 copies the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix_int(x: int) -> int:
    x = (x + _GOLDEN) & _WORD
    x = ((x ^ (x >> 30)) * _MULTIPLIERS[0]) & _WORD
    x = ((x ^ (x >> 27)) * _MULTIPLIERS[1]) & _WORD
    return x ^ (x >> 31)


def _signed(x: int) -> int:
    return x - (1 << 64) if x >> 63 else x
