"""Metrics of the groups of one learner step, and of the time the phases spent on them. Plain numbers, no Ray."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np

from couplet.data.trajectory import ScoredGroup
from couplet.data.verdict import Outcome, format_rate

PHASES = ("generate", "reward", "train")


def batch_metrics(groups: Sequence[ScoredGroup], version: int) -> dict[str, float]:
    """Rewards and their parts, pass and format rate, zero-signal share, staleness, and the sampler's own metrics."""
    verdicts = [v for scored in groups for v in scored.verdicts]
    judged = [v for v in verdicts if v.outcome.is_verdict]
    ages = [version - scored.group.version for scored in groups]
    metrics = {
        "reward_mean": _mean([v.reward for v in judged]),
        "reward_std": float(np.std([v.reward for v in judged])) if judged else float("nan"),
        "pass_rate": _mean([v.pass_rate for v in judged]),
        "solved_rate": _mean([float(v.outcome is Outcome.PASSED) for v in judged]),
        "format_rate": format_rate(verdicts),
        "zero_signal_share": _mean([float(scored.zero_signal) for scored in groups]),
        "excluded_share": 1.0 - len(judged) / len(verdicts),
        "verdict_cache_hit_share": _mean([float(v.cached) for v in judged]),
        "weak_verdict_share": _mean([float(t.strength == "weak") for v in judged for t in v.tests]),
        "staleness_mean": _mean([float(age) for age in ages]),
        "staleness_max": float(max(ages)),
        "completion_tokens_mean": _mean([float(m) for scored in groups for m in scored.group.loss_mask_GC.sum(-1)]),
    }
    for name in sorted({name for v in judged for name in v.parts}):
        metrics[f"reward_{name}"] = _mean([v.parts[name] for v in judged if name in v.parts])
    sampler = [scored.group.metrics or {} for scored in groups]
    for name in sorted({name for m in sampler for name in m} - {"seconds", "swap_seconds"}):
        metrics[name] = _mean([m[name] for m in sampler if name in m])
    return metrics


class PhaseTimes:
    """Busy seconds of the phases generate, judge and learn, and how much they overlap.

    `bound` is the speed-up that perfect overlap would reach over running the phases sequentially: the sum of all busy
    seconds over those of the slowest phase (each divided by its number of workers). `reached` is the sum of busy
    seconds over the wall clock, which runs from the first `begin`; time between `pause` and `begin` does not count.
    """

    def __init__(self) -> None:
        self.total = dict.fromkeys(PHASES, 0.0)
        self._last = dict(self.total)
        self._wall = 0.0  # seconds since the last step, up to `_running_since`
        self._running_since: float | None = None

    def begin(self) -> bool:
        """Start the clock; False if it is already running."""
        if self._running_since is not None:
            return False
        self._running_since = time.monotonic()
        return True

    def pause(self) -> None:
        """Stop the clock until the next `begin`: what follows (an evaluation) does not belong to a step."""
        if self._running_since is not None:
            self._wall += time.monotonic() - self._running_since
            self._running_since = None

    def add(self, stage: str, seconds: float) -> None:
        """Add busy seconds of a phase."""
        self.total[stage] += seconds

    def step(self, workers: Mapping[str, int]) -> dict[str, float]:
        """Metrics of the time since the last call; `workers` is the number of workers of each phase."""
        self.pause()
        wall, self._wall = max(self._wall, 1e-9), 0.0
        self.begin()
        spent = {stage: self.total[stage] - self._last[stage] for stage in PHASES}
        self._last = dict(self.total)
        metrics = {f"{stage}_seconds": spent[stage] for stage in PHASES}
        for stage in PHASES:
            busy = min(1.0, spent[stage] / (wall * workers[stage]))
            metrics |= {f"{stage}_busy_share": busy, f"{stage}_idle_share": 1.0 - busy}
        bound, reached, slowest = overlap(spent, workers, wall)
        speedup = {"speedup_bound": bound, "speedup_reached": reached, "bounding_stage": float(PHASES.index(slowest))}
        return metrics | {"step_seconds": wall} | speedup


def overlap(spent: Mapping[str, float], workers: Mapping[str, float], wall: float) -> tuple[float, float, str]:
    """Speed-up bound, speed-up reached and the slowest phase; see `PhaseTimes`.

    Args:
        spent: busy seconds of each phase, summed over its workers.
        workers: number of workers of each phase.
        wall: seconds on the clock.
    """
    per_worker = {stage: spent[stage] / workers[stage] for stage in PHASES}
    slowest = max(PHASES, key=lambda stage: per_worker[stage])
    total = sum(spent.values())
    return total / max(per_worker[slowest], 1e-9), total / max(wall, 1e-9), slowest


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
