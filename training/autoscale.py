"""How many workers a role should have: a rule with hysteresis, fed with measured load. No Ray, no clock.

More workers are wanted while work waits longer than `target_wait` and the workers are busy: if they are not, something
else is slow. Fewer are wanted once they have been mostly idle for a while. Three things keep it from oscillating: between
`SPARE` and `BUSY` nothing changes; a number leads to a share between the two; and a number that was too few is not tried
again before the work has become clearly less than it was then.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from couplet.configs.schema import AutoscaleConfig

BUSY = 0.7  # busy share from which waiting is the fault of too few workers
SATURATED = 0.9  # busy share from which the work cannot be measured: there is at least so much
GROWTH = 1.5  # factor of the workers while they are saturated
SPARE = 0.5  # busy share below which there are too many
AIM = 0.65  # busy share that a new number aims at
CALM = 3  # windows in a row that must be below `SPARE`
RELEASE = 0.8  # a number that was too few for some work is enough for this share of it


@dataclass(frozen=True)
class Load:
    """What the workers of one role did during a learner step.

    Attributes:
        workers: in service.
        seconds: length of the step.
        wait: mean seconds that work waited for them.
        busy: share of their time.
    """

    workers: int
    seconds: float
    wait: float
    busy: float


class Autoscaler:
    """The wanted number of workers of one role.

    Args:
        limits: bounds, the longest wait, and the length of a window.
    """

    def __init__(self, limits: AutoscaleConfig) -> None:
        assert limits.max is not None, "autoscaling is off"
        self.limits, self.most = limits, limits.max
        self.reason = ""  # of the last change
        self._window: list[Load] = []
        self._calm = 0
        self._too_few: dict[int, float] = {}  # number of workers -> the work it was too few for, in workers

    def observe(self, load: Load, wanted: int) -> int:
        """The number of workers wanted after a step with this load, while `wanted` are wanted."""
        inside = min(max(wanted, self.limits.min), self.most)
        if inside != wanted:
            return self._change(wanted, inside, f"{wanted} is outside of {self.limits.min} to {self.most}")
        if self._window and self._window[-1].workers != load.workers:
            self._window = []
        self._window.append(load)
        seconds = sum(one.seconds for one in self._window)
        if seconds < self.limits.window:
            return wanted
        wait = sum(one.wait for one in self._window) / len(self._window)
        busy = sum(one.busy * one.seconds for one in self._window) / seconds
        self._window = []
        return self._decide(load.workers, wait, busy, wanted)

    def _decide(self, workers: int, wait: float, busy: float, wanted: int) -> int:
        seen = f"work waited {wait:.1f} s, {workers} workers were {busy:.0%} busy"
        work, late = busy * workers, wait > self.limits.target_wait
        self._calm = self._calm + 1 if busy < SPARE and not late else 0
        if late and busy >= BUSY and workers >= wanted:  # else those that were added last have not started yet
            self._too_few[workers] = work
            more = math.ceil(workers * GROWTH) if busy >= SATURATED else math.ceil(work / AIM)
            return self._change(wanted, min(max(more, workers + 1), self.most), seen)
        if self._calm >= CALM:
            self._calm = 0
            return self._change(wanted, min(self._enough(work), wanted), seen)
        return wanted

    def _enough(self, work: float) -> int:
        short = [number for number, most in self._too_few.items() if work > RELEASE * most]
        return max(self.limits.min, math.ceil(work / AIM), *(number + 1 for number in short))

    def _change(self, wanted: int, number: int, reason: str) -> int:
        if number != wanted:
            self.reason = f"{wanted} to {number}: {reason}"
        return number
