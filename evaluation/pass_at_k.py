"""pass@k, the probability that one of k samples solves a problem, and its uncertainty over problems."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
CONFIDENCE = 0.95


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Unbiased estimate 1 - C(n - c, k) / C(n, k) from n samples of which c are correct (Chen et al. 2021).

    Whole-number arithmetic until the last division, so the result is correctly rounded for every n.

    Raises:
        ValueError: k < 1, n < k, or c outside 0..n.
    """
    if k < 1:
        raise ValueError(f"k = {k}: must be at least 1")
    if num_samples < k:
        raise ValueError(f"num_samples = {num_samples}: pass@{k} needs at least {k} samples per problem")
    if not 0 <= num_correct <= num_samples:
        raise ValueError(f"num_correct = {num_correct}: must be in 0..num_samples = {num_samples}")
    draws = math.comb(num_samples, k)
    return (draws - math.comb(num_samples - num_correct, k)) / draws


@dataclass(frozen=True)
class Estimate:
    """A mean over problems with its bootstrap confidence interval."""

    mean: float
    low: float
    high: float
    problems: int

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def estimate(
    counts: Sequence[tuple[int, int]],
    k: int,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """Mean pass@k over problems, with a percentile bootstrap over problems.

    Args:
        counts: (samples, correct) of every problem.
        k: as in `pass_at_k`.
        seed: of the resampling.
        resamples: bootstrap draws.
        confidence: mass of the interval.

    Raises:
        ValueError: no problem, or a problem with fewer than k samples.
    """
    if not counts:
        raise ValueError(f"pass@{k}: no problem to average over")
    return bootstrap(np.array([pass_at_k(n, c, k) for n, c in counts]), seed, resamples, confidence)


def bootstrap(
    values_P: np.ndarray, seed: int = 0, resamples: int = RESAMPLES, confidence: float = CONFIDENCE
) -> Estimate:
    """Mean of one value per problem with its percentile bootstrap interval; a single problem has a width of zero."""
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence = {confidence}: must be strictly between 0 and 1")
    generator = np.random.Generator(np.random.PCG64(seed))
    count = len(values_P)
    means = np.empty(resamples)
    block = max(1, 2**22 // count)  # bounds the memory of the drawn indices
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        means[start : start + size] = values_P[generator.integers(0, count, (size, count))].mean(axis=1)
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Estimate(float(values_P.mean()), float(low), float(high), count)
