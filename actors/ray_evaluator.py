"""The evaluator on a Ray cluster: the worker pool of a run, without its learner and its queue."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ray import ObjectRef
from ray.actor import ActorHandle

from couplet.actors.ray_init import alive_nodes, connect
from couplet.actors.storage import require_shared
from couplet.actors.worker_pool import WorkerPool
from couplet.configs.schema import RunConfig, SamplerConfig
from couplet.data.problem import Problem
from couplet.data.prompts import PromptSet, evaluation_requests
from couplet.data.trajectory import ScoredGroup
from couplet.data.verdict import Outcome, Verdict
from couplet.reward.tiers import accepted
from couplet.training.evaluator import Progress
from couplet.training.factory import chunked
from couplet.training.step_metrics import FaultGuard, workers_died

OWN_WEIGHTS = (0, [None])  # version 0 is what a rollout actor has loaded from its folder


class RayEvaluator:
    """Rollout and reward actors; the rollout actors are made anew where another policy is asked for."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.connection = connect(config)
        self.pool = WorkerPool(config, "")
        self.faults = FaultGuard(config.reward.max_fault_share)
        try:
            self._need(rollout=0)
        except BaseException:
            self.close()
            raise

    def evaluate(
        self,
        policy: Path,
        prompts: PromptSet,
        sampler: SamplerConfig,
        samples: int,
        seed: int,
        progress: Progress | None = None,
    ) -> list[ScoredGroup]:
        """Sample on the rollout actors and judge on the reward actors, each as soon as it can be."""
        if str(policy) != self.pool.start:
            require_shared(None, policy)
            self.pool.start = str(policy)
            for index in list(self.pool.members["rollout"]):
                self.pool.remove("rollout", index)
        self._need(rollout=self.config.rollout.actors)
        told = self.faults.before(progress)
        return sample_and_judge_on(self.pool, lambda: OWN_WEIGHTS, prompts, sampler, samples, seed, told)

    def judge(
        self, problems: Sequence[Problem], texts: Sequence[Sequence[str]], *, programs: bool = False
    ) -> list[list[Verdict]]:
        """All reward actors at once; what an infrastructure fault took is judged again."""
        found: list[dict[int, Verdict]] = [{} for _ in problems]
        for attempt in range(self.config.reward.retries + 1):
            lost = [
                (i, [g for g in range(len(some)) if g not in found[i] or found[i][g].outcome is Outcome.INFRA_ERROR])
                for i, some in enumerate(texts)
            ]
            jobs = [(i, which) for i, which in lost if which]
            if jobs and attempt:
                time.sleep(0.1 * 2 ** (attempt - 1))

            def submit(actor: ActorHandle, job: tuple[int, list[int]]) -> ObjectRef:
                i, which = job
                return actor.judge.remote(problems[i], [texts[i][g] for g in which], programs, self.pool.tiers)

            for (i, which), verdicts in self.pool.spread("reward", jobs, submit, poisoned=_poisoned):
                found[i].update(zip(which, verdicts, strict=True))
        judged = [[verdicts[g] for g in sorted(verdicts)] for verdicts in found]
        for verdicts in judged:
            self.faults.count(verdicts)
        return judged

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
    prompts: PromptSet,
    sampler: SamplerConfig,
    samples: int,
    seed: int,
    progress: Progress | None = None,
) -> list[ScoredGroup]:
    """`samples` completions of every prompt by `weights()`, judged as they come; in prompt order."""
    requests = evaluation_requests(prompts, samples, seed)
    chunks = chunked(requests, pool.config.rollout.groups_per_call)
    generated = pool.spread("rollout", chunks, lambda actor, chunk: actor.generate.remote(chunk, weights(), sampler))

    def groups() -> Iterator[Any]:
        for _, found in generated:
            yield from found if isinstance(found, tuple) else (found,)

    results: dict[int, ScoredGroup] = {}
    for scored in pool.judge(groups(), lambda group: prompts.problems[group.group_id.problem]):
        index = scored.group.group_id.problem
        results[index] = scored
        if progress:
            progress(index, scored)
    return [results[index] for index in range(len(prompts))]


def _poisoned(job: tuple[int, list[int]]) -> list[Verdict]:
    """The verdicts of answers that keep killing the actor that judges them: quarantined, not scored 0."""
    return workers_died("reward", len(job[1]))
