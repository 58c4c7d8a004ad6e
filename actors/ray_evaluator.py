"""The evaluator on a Ray cluster: the worker pool of a run, without its learner and its queue."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import ray
from ray import ObjectRef
from ray.actor import ActorHandle

from couplet.actors.dispatch import Dispatch, quarantined, sample_and_judge_on
from couplet.actors.messages import PublishedWeights
from couplet.actors.ray_init import alive_nodes, connect
from couplet.actors.storage import require_shared
from couplet.actors.worker_pool import WorkerPool
from couplet.configs.schema import RunConfig
from couplet.data.problem import Problem
from couplet.data.trajectory import ScoredGroup
from couplet.data.verdict import Verdict
from couplet.evaluation.request import EvalRequest
from couplet.reward.fault_limit import FaultShareLimit
from couplet.reward.judgement import Judgement, judge_in_rounds
from couplet.reward.tiers import accepted

OWN_WEIGHTS = PublishedWeights(0, None)


class RayEvaluator:
    """Rollout and reward actors; the rollout actors are replaced when another policy is requested."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.connection = connect(config)
        driver = ray.get_runtime_context().get_job_id()  # evaluations beside a run of the same name
        self.pool = WorkerPool(config, "", owner=f"{config.name}:evaluation-{driver}")
        self.faults = FaultShareLimit(config.reward.max_fault_share)
        try:
            self._need(rollout=0)
        except BaseException:
            self.close()
            raise

    def evaluate(self, policy: Path, request: EvalRequest) -> list[ScoredGroup]:
        """Sample on the rollout actors and judge on the reward actors, each as early as possible."""
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
            return Dispatch(self.pool, "reward", submit, quarantined).run(jobs)

        work = [Judgement(i, len(some), self.config.reward.retries) for i, some in enumerate(texts)]
        judged = {job.subject: job.verdicts for job in judge_in_rounds(work, judge)}
        for verdicts in judged.values():
            self.faults.count(verdicts)
        return [judged[i] for i in range(len(problems))]

    @property
    def tier(self) -> str:
        """The sandbox tier in use; several names if nodes differ."""
        return ", ".join(sorted({worker.info.tier for worker in self.pool.serving() if worker.role == "reward"}))

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
            self.pool.tiers = accepted(worker.info.tier for worker in started if worker.role == "reward")
