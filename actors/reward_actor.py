"""A Ray actor around `reward.worker.RewardWorker`. Its process never imports torch."""

from __future__ import annotations

import time
from collections.abc import Sequence

import ray

from couplet.actors.gauges import Exporter
from couplet.actors.messages import ScoreReply, WorkerInfo
from couplet.configs.schema import RewardConfig, SandboxConfig
from couplet.data.problem import Problem
from couplet.data.trajectory import PromptGroup
from couplet.data.verdict import Verdict
from couplet.reward.tiers import refuse
from couplet.reward.worker import RewardWorker
from couplet.training.evaluator import judge_texts


class RewardActor:
    """Judges completions; stateless but for its verdict cache, so Ray may restart it at any time."""

    def __init__(self, name: str, reward: RewardConfig, sandbox: SandboxConfig, index: int) -> None:
        self.worker = RewardWorker(reward, sandbox)
        self.started = time.monotonic()
        self.busy = 0.0
        self.metrics = Exporter(name, role="reward", index=index)

    def describe(self) -> WorkerInfo:
        """Process, node and sandbox tier of the actor."""
        return WorkerInfo.of(ray.get_runtime_context(), self.worker.tier)

    def score(
        self, problem: Problem, group: PromptGroup, which: Sequence[int], tiers: Sequence[str] = ()
    ) -> ScoreReply:
        """Verdicts of the completions `which` of a group.

        Args:
            problem, group: question and answers.
            which: indices of the completions to judge.
            tiers: the sandbox tiers the run accepts; in any other nothing is judged. Empty: any.
        """
        texts = [group.texts[g] for g in which]
        started = time.monotonic()
        verdicts = refuse(self.worker.tier, tiers, len(texts)) or self.worker.score(problem, texts)
        return ScoreReply(verdicts, self._count(started), self.describe())

    def judge(self, problem: Problem, texts: Sequence[str], programs: bool, tiers: Sequence[str] = ()) -> list[Verdict]:
        """Verdicts of given texts; see `training.evaluator.judge_texts`, and `score` for `tiers`."""
        started = time.monotonic()
        verdicts = refuse(self.worker.tier, tiers, len(texts)) or judge_texts(self.worker, problem, texts, programs)
        self._count(started)
        return verdicts

    def _count(self, started: float) -> float:
        """Count the busy seconds since `started`."""
        seconds = time.monotonic() - started
        self.busy += seconds
        stats = {f"sandbox_{name}": float(value) for name, value in self.worker.stats().items()}
        self.metrics.export({"reward_busy_share": self.busy / (time.monotonic() - self.started), **stats})
        return seconds
