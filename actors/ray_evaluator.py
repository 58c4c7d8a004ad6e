"""The evaluator on a Ray cluster: the worker pool of a run, without its learner and its queue."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray import ObjectRef
from ray.actor import ActorHandle

from couplet.actors.ray_init import alive_nodes, connect
from couplet.actors.storage import require_shared
from couplet.actors.worker_pool import WorkerPool
from couplet.configs.schema import RunConfig
from couplet.data.problem import Problem
from couplet.data.trajectory import ScoredGroup
from couplet.data.verdict import Verdict
from couplet.evaluation.request import EvalRequest
from couplet.reward.fault_limit import FaultShareLimit, workers_died
from couplet.reward.judgement import Judgement, judge_in_rounds
from couplet.reward.tiers import accepted
from couplet.training.factory import chunked

OWN_WEIGHTS = (0, [None])  # version 0 is what a rollout actor has loaded from its folder


class RayEvaluator:
    """Rollout and reward actors; the rollout actors are made anew where another policy is asked for."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.connection = connect(config)
        self.pool = WorkerPool(config, "")
        self.faults = FaultShareLimit(config.reward.max_fault_share)
        try:
            self._need(rollout=0)
        except BaseException:
            self.close()
            raise

    def evaluate(self, policy: Path, request: EvalRequest) -> list[ScoredGroup]:
        """Sample on the rollout actors and judge on the reward actors, each as soon as it can be."""
        if str(policy) != self.pool.start:
            require_shared(None, policy)
            self.pool.start = str(policy)
            for index in list(self.pool.members["rollout"]):
                self.pool.remove("rollout", index)
        self._need(rollout=self.config.rollout.actors)
        request = replace(request, progress=self.faults.before(request.progress))
        return sample_and_judge_on(self.pool, lambda: OWN_WEIGHTS, request)

    def judge(
        self, problems: Sequence[Problem], texts: Sequence[Sequence[str]], *, programs: bool = False
    ) -> list[list[Verdict]]:
        """On all reward actors at once."""

        def submit(actor: ActorHandle, job: Judgement[int]) -> ObjectRef:
            chosen = [texts[job.subject][g] for g in job.pending]
            return actor.judge.remote(problems[job.subject], chosen, programs, self.pool.tiers)

        def judge(jobs: Iterable[Judgement[int]]) -> Iterator[tuple[Judgement[int], list[Verdict]]]:
            return self.pool.spread("reward", jobs, submit, lambda job: workers_died("reward", len(job.pending)))

        work = [Judgement(i, len(some), self.config.reward.retries) for i, some in enumerate(texts)]
        judged = {job.subject: job.verdicts for job in judge_in_rounds(work, judge)}
        for verdicts in judged.values():
            self.faults.count(verdicts)
        return [judged[i] for i in range(len(problems))]

    @property
    def tier(self) -> str:
        """The sandbox tier in force; several names where nodes differ."""
        return ", ".join(sorted({info["tier"] for role, _, _, info in self.pool.serving() if role == "reward"}))

    def describe(self) -> str:
        """One line for the user."""
        return (
            f"{self.config.rollout.actors} rollout, {self.config.reward.actors} reward (sandbox tier {self.tier}) "
            f"on {len(alive_nodes())} node(s)"
        )

    def close(self) -> None:
        """Stop every actor."""
        self.pool.stop()
        self.connection.close()

    def _need(self, rollout: int) -> None:
        self.pool.grow({"rollout": rollout, "reward": self.config.reward.actors})
        started = self.pool.wait_until_started()
        if not self.pool.tiers:
            self.pool.tiers = accepted(info["tier"] for role, _, _, info in started if role == "reward")


def sample_and_judge_on(
    pool: WorkerPool,
    weights: Callable[[], tuple[int, list[Any]]],
    request: EvalRequest,
) -> list[ScoredGroup]:
    """The groups of `request`, generated with `weights()` and judged as they arrive; in prompt order."""
    chunks = chunked(request.rollouts(), pool.config.rollout.groups_per_call)
    generated = pool.spread(
        "rollout", chunks, lambda actor, chunk: actor.generate.remote(chunk, weights(), request.sampler)
    )

    def groups() -> Iterator[Any]:
        for _, found in generated:
            yield from found if isinstance(found, tuple) else (found,)

    results: dict[int, ScoredGroup] = {}
    for scored in pool.judge(groups(), lambda group: request.prompts.problems[group.group_id.problem]):
        results[request.report(scored)] = scored
    return [results[index] for index in range(len(request.prompts))]
