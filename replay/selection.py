"""Which problems the next groups ask: those that can teach, judged by what became of their earlier groups.

Every epoch walks over all problems in the schedule's permutation. A problem is skipped with a probability that grows
with how surely all completions of a group would get the same verdict; one that was skipped long enough is not skipped
again. The walk depends on the run's seed and on the verdicts so far, and its state is part of the ledger's record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from couplet.data.seeds import MAX_SEED, derive_seed
from couplet.replay.schedule import ProblemSchedule

MEMORY = 0.5  # weight of earlier verdicts of a problem, per group of it


class PassRate(NamedTuple):
    """Verdicts of one problem, older ones with less weight, and the last epoch in which it was asked."""

    solved: float
    judged: float
    epoch: int

    def follow(self, solved: int, judged: int, epoch: int) -> PassRate:
        """After another group."""
        return PassRate(MEMORY * self.solved + solved, MEMORY * self.judged + judged, max(self.epoch, epoch))


def signal_probability(rate: PassRate | None, completions: int) -> float:
    """The probability that a group has both verdicts, 1 - p^G - (1 - p)^G, with p the mean under a uniform prior."""
    p = 0.5 if rate is None else (rate.solved + 1.0) / (rate.judged + 2.0)
    return float(1.0 - p**completions - (1.0 - p) ** completions)


@dataclass(frozen=True)
class Selection:
    """Skips problems that have little to teach.

    Attributes:
        schedule: places in it are visited in order; a place is an epoch and a problem.
        completions: G, completions per group.
        floor: least probability that a problem is asked in an epoch; it is asked at least once in 1/floor epochs.
    """

    schedule: ProblemSchedule
    completions: int
    floor: float

    def next_place(self, place: int, rates: Mapping[int, PassRate]) -> int:
        """The first place from `place` on that is not skipped."""
        while self._skips(place, rates):
            place += 1
        return place

    def follow(self, rates: dict[int, PassRate], place: int, solved: int, judged: int) -> None:
        """Take the verdicts of the group at `place` into account."""
        epoch, problem, _ = self.schedule.group_id(place)
        rates[problem] = rates.get(problem, PassRate(0.0, 0.0, epoch)).follow(solved, judged, epoch)

    def _skips(self, place: int, rates: Mapping[int, PassRate]) -> bool:
        epoch, problem, _ = self.schedule.group_id(place)
        rate = rates.get(problem)
        if rate is None or (epoch - rate.epoch) * self.floor >= 1.0:
            return False
        kept = max(self.floor, signal_probability(rate, self.completions))
        return derive_seed(self.schedule.seed, "selection", epoch, problem) >= kept * MAX_SEED
