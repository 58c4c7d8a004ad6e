"""Difficulty levels from pass rates, by the percentile rules of DiffuCoder's data script."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

Level = Literal["all", "easy", "medium", "hard"]
LEVELS: tuple[Level, ...] = get_args(Level)


@dataclass(frozen=True)
class Choice:
    """Which of N problems a level keeps, how many it drops for which reason, and the thresholds it used."""

    keep_N: np.ndarray  # bool
    dropped: Counter[str]
    thresholds: dict[str, float]


def choose(rates: Sequence[Sequence[float]], level: Level) -> Choice:
    """Problems of a level, given the pass rates of each (at least one per problem, except for level `all`).

    `hard`: mean <= P20 of the means and standard deviation (ddof 0) >= P40 of the deviations; `medium`: P25 <= mean <=
    P75; `easy`: mean >= P75. Percentiles are linear and taken over all problems, before any is left out.
    """
    if level not in LEVELS:
        raise ValueError(f"level = {level!r}: use one of {', '.join(LEVELS)}")
    if level == "all":
        return Choice(np.ones(len(rates), dtype=bool), Counter(), {})
    means = np.array([np.mean(found) for found in rates])
    deviations = np.array([np.std(found) for found in rates])
    if level == "hard":
        mean_limit, spread_limit = float(np.percentile(means, 20)), float(np.percentile(deviations, 40))
        low = means <= mean_limit
        keep = low & (deviations >= spread_limit)
        dropped = {"mean above P20": ~low, "deviation below P40": low & ~keep}
        return _choice(keep, dropped, {"mean_p20": mean_limit, "std_p40": spread_limit})
    high_limit = float(np.percentile(means, 75))
    if level == "easy":
        return _choice(means >= high_limit, {"mean below P75": means < high_limit}, {"mean_p75": high_limit})
    low_limit = float(np.percentile(means, 25))
    dropped = {"mean below P25": means < low_limit, "mean above P75": means > high_limit}
    keep = (means >= low_limit) & (means <= high_limit)
    return _choice(keep, dropped, {"mean_p25": low_limit, "mean_p75": high_limit})


def _choice(keep: np.ndarray, dropped: dict[str, np.ndarray], thresholds: dict[str, float]) -> Choice:
    return Choice(keep, Counter({reason: int(mask.sum()) for reason, mask in dropped.items()}), thresholds)
