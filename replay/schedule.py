"""Which problem, which prompt and which seeds every group of a run has: all follow from the group's number."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from couplet.data.problem import Problem
from couplet.data.prompts import PromptSet, rollout_request
from couplet.data.seeds import derive_seed
from couplet.data.trajectory import GroupId, RolloutRequest


@dataclass(frozen=True)
class ProblemSchedule:
    """Every epoch visits each of `problems` once, in a permutation drawn from `seed`."""

    problems: int
    seed: int

    def group_id(self, number: int) -> GroupId:
        """Identity of the `number`-th group of the run (0-based)."""
        epoch, place = divmod(number, self.problems)
        return GroupId(epoch, int(_permutation(self.problems, self.seed, epoch)[place]), 0)


@lru_cache(maxsize=4)
def _permutation(problems: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng(derive_seed(seed, "problem_order", epoch)).permutation(problems)


@dataclass(frozen=True)
class Schedule:
    """Turns the ledger's numbers into requests to the rollout workers. No torch, no tokenizer.

    Attributes:
        prompts: the training problems.
        completions: G, completions per group.
        seed: of the run.
    """

    prompts: PromptSet
    completions: int
    seed: int

    @property
    def order(self) -> ProblemSchedule:
        """The order of the problems."""
        return ProblemSchedule(len(self.prompts), self.seed)

    def group_id(self, number: int) -> GroupId:
        """Identity of the group at place `number` (`Ledger.place`)."""
        return self.order.group_id(number)

    def problem(self, number: int) -> Problem:
        """Its problem."""
        return self.prompts.problems[self.group_id(number).problem]

    def request(self, number: int, attempt: int) -> RolloutRequest:
        """The request for it; seeds depend on the group, not on the attempt."""
        group_id = self.group_id(number)
        seeds = [derive_seed(self.seed, "completion", *group_id, g) for g in range(self.completions)]
        return rollout_request(self.prompts, group_id, attempt, seeds, derive_seed(self.seed, "completion", *group_id))
