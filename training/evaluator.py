"""Sampling and judging without a learner or a queue, for `evaluate`, `analyze` and `prepare rate`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from couplet.configs.schema import RunConfig
from couplet.data.problem import Problem
from couplet.data.trajectory import PromptGroup, ScoredGroup
from couplet.data.verdict import Verdict
from couplet.evaluation.request import EvalRequest
from couplet.reward.fault_limit import FaultShareLimit
from couplet.reward.judgement import Judgement
from couplet.reward.worker import RewardWorker
from couplet.training.factory import RolloutSlice, build_rollout_worker, chunked

if TYPE_CHECKING:
    from couplet.rollout.worker import RolloutWorker


class Evaluator(Protocol):
    """Samples and judges; an implementation starts its workers when they are first needed."""

    def evaluate(self, policy: Path, request: EvalRequest) -> list[ScoredGroup]:
        """Sample with the policy in folder `policy` and judge; in prompt order."""

    def judge(
        self, problems: Sequence[Problem], texts: Sequence[Sequence[str]], *, programs: bool = False
    ) -> list[list[Verdict]]:
        """Verdicts of given texts, a list per problem. `programs`: they are whole programs, without a format rule."""

    @property
    def tier(self) -> str:
        """The sandbox tier in use."""

    def describe(self) -> str:
        """One line for the user."""

    def close(self) -> None:
        """Stop every worker."""


class LocalEvaluator:
    """One rollout worker and one reward worker in this process. Ray is not imported."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.reward = RewardWorker(config.reward, config.sandbox)
        self.faults = FaultShareLimit(config.reward.max_fault_share)
        self.policy: Path | None = None

    def evaluate(self, policy: Path, request: EvalRequest) -> list[ScoredGroup]:
        """Sample and judge, one chunk of problems at a time."""
        if policy != self.policy:
            self.rollout = build_rollout_worker(RolloutSlice.of(self.config), str(policy))
            self.policy = policy

        def judged(problem: Problem, group: PromptGroup) -> ScoredGroup:
            return ScoredGroup(group, tuple(judge_again(self.reward, problem, group.texts, self.config.reward.retries)))

        size = self.config.rollout.groups_per_call
        request = replace(request, progress=self.faults.before(request.progress))
        return sample_and_judge(self.rollout, judged, request, size)

    def judge(
        self, problems: Sequence[Problem], texts: Sequence[Sequence[str]], *, programs: bool = False
    ) -> list[list[Verdict]]:
        """Judge one problem at a time."""
        judged = []
        for problem, some in zip(problems, texts, strict=True):
            judged.append(judge_again(self.reward, problem, some, self.config.reward.retries, programs=programs))
            self.faults.count(judged[-1])
        return judged

    @property
    def tier(self) -> str:
        """The sandbox tier in use."""
        return self.reward.tier

    def describe(self) -> str:
        """One line for the user."""
        return f"one process, sandbox tier {self.tier}"

    def close(self) -> None:
        """End the sandbox."""
        self.reward.close()


def sample_and_judge(
    rollout: RolloutWorker,
    judge: Callable[[Problem, PromptGroup], ScoredGroup],
    request: EvalRequest,
    size: int,
) -> list[ScoredGroup]:
    """The groups of `request` in prompt order, generated `size` problems at a time."""
    results: list[ScoredGroup] = []
    for chunk in chunked(request.rollouts(), size):
        for group in rollout.generate(chunk, sampler=request.sampler):
            results.append(judge(request.prompts.problems[group.group_id.problem], group))
            request.report(results[-1])
    return results


def judge_again(
    worker: RewardWorker, problem: Problem, texts: Sequence[str], retries: int, *, programs: bool = False
) -> list[Verdict]:
    """Verdicts of `texts` by one worker; see `reward.judgement` for what is judged again."""
    judgement = Judgement(problem, len(texts), retries)
    while judgement.pending:
        time.sleep(judgement.pause)
        judgement.record(judge_texts(worker, problem, [texts[g] for g in judgement.pending], programs))
    return judgement.verdicts


def judge_texts(worker: RewardWorker, problem: Problem, texts: Sequence[str], programs: bool) -> list[Verdict]:
    """Verdicts of answers under the format rule, or of whole programs without it."""
    return list(worker.judge([problem] * len(texts), texts) if programs else worker.score(problem, texts))
