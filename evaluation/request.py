"""The request to sample and judge, for a training cluster, an evaluator, or a fake in a test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from couplet.configs.schema import SamplerConfig
from couplet.data.prompts import PromptSet, evaluation_requests
from couplet.data.trajectory import RolloutRequest, ScoredGroup

Progress = Callable[[int, ScoredGroup], None]
"""Called with (index of a problem, its group) as each problem is done, in any order."""


@dataclass(frozen=True)
class EvalRequest:
    """`samples` completions of every prompt, sampled and judged.

    Attributes:
        prompts: the problems.
        sampler: the decoder.
        samples: completions per problem.
        seed: of the samples; a problem gets the same completions whatever other problems are in the request.
        progress: called as each problem is done.
    """

    prompts: PromptSet
    sampler: SamplerConfig
    samples: int
    seed: int
    progress: Progress | None = None

    def rollouts(self) -> list[RolloutRequest]:
        """One rollout request for every problem, in order."""
        return evaluation_requests(self.prompts, self.samples, self.seed)

    def report(self, scored: ScoredGroup) -> int:
        """Call `progress` for a group that is done; returns the index of its problem."""
        index = scored.group.group_id.problem
        if self.progress is not None:
            self.progress(index, scored)
        return index


Evaluate = Callable[[EvalRequest], list[ScoredGroup]]
"""`Cluster.evaluate`, or `Evaluator.evaluate` of one policy: the scored groups in prompt order."""
