"""Generation, judging and learning in one process, for a laptop, a debugger and the parity tests. Without Ray."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from couplet.configs.schema import RunConfig
from couplet.data.problem import Problem
from couplet.data.trajectory import PromptGroup, ScoredGroup
from couplet.data.verdict import solved_count
from couplet.evaluation.request import EvalRequest
from couplet.learner.checkpoint import latest_checkpoint, save_checkpoint
from couplet.replay.ledger import Ledger
from couplet.replay.record import Attempt, Record, State
from couplet.reward.fault_limit import FaultShareLimit
from couplet.reward.worker import RewardWorker
from couplet.training.cluster import Batch
from couplet.training.evaluator import judge_again, sample_and_judge
from couplet.training.factory import (
    LearnerSlice,
    RolloutSlice,
    build_learner,
    build_rollout_worker,
    build_schedule,
    build_selection,
    for_one_process,
    for_rollouts,
)
from couplet.training.replay_metrics import Telemetry, ledger_metrics
from couplet.training.step_metrics import PhaseTimes, batch_metrics


class LocalCluster:
    """Generates and judges inline when a batch is taken; ledger, seeds and parts are those of a Ray run.

    Args:
        config: the run; its learner section is reduced to one plain torch rank.
        start: folder of the policy to start from.
        checkpoints: folder for checkpoints.
    """

    def __init__(self, config: RunConfig, start: str, checkpoints: Path) -> None:
        self.config = config = for_one_process(config)
        self.checkpoints = checkpoints
        self.step = 0
        self.schedule = build_schedule(config, start)
        self.selection = build_selection(config, self.schedule)
        self.ledger = Ledger(config.replay, steps=config.steps, selection=self.selection)
        self.learner = build_learner(LearnerSlice.of(config), start)
        together = config.learner.adapter.rank and (config.rollout.gpus > 0) == (config.learner.gpus > 0)
        twin = self.learner.policy.twin() if together else None  # one copy of the frozen weights
        self.rollout = build_rollout_worker(RolloutSlice.of(for_rollouts(config)), start, twin)
        self.reward = RewardWorker(config.reward, config.sandbox)
        self.faults = FaultShareLimit(config.reward.max_fault_share)
        self.times = PhaseTimes()
        self.telemetry = Telemetry(time.monotonic())
        self._ready: dict[int, ScoredGroup] = {}
        self._filtered: list[ScoredGroup] = []  # since the last batch

    address = None

    def publish(self) -> None:
        """Copy the learner's weights into the rollout worker."""
        weights = self.learner.weights(self.config.weights.bucket_mb * 2**20)
        assert weights is not None, "rank 0 holds the weights"
        self.rollout.load_weights(*weights)
        self.ledger.publish(self.step)

    def take(self, count: int) -> Batch:
        """Generate and judge until `count` groups are ready."""
        if self.times.begin():
            self.telemetry.report(time.monotonic())  # what happened before does not belong to a step
        while (numbers := self.ledger.lease(count, time.monotonic())) is None:
            wanted = min(self.config.rollout.groups_per_call, count)
            attempts = self.ledger.issue(wanted, time.monotonic())
            assert attempts, f"no credit left and too few groups ready: {self.ledger.totals()}"
            self._produce(attempts)
        groups = tuple(self._ready.pop(number) for number in numbers)
        metrics = batch_metrics(groups, self.step) | self.telemetry.report(time.monotonic())
        filtered, self._filtered = tuple(self._filtered), []
        metrics |= ledger_metrics(self.ledger)
        return Batch(tuple(numbers), groups, self.ledger.unreported(), metrics, filtered)

    def learn(self, batch: Batch) -> dict[str, float]:
        """One learner step."""
        started = time.monotonic()
        metrics = self.learner.learn(batch.groups)
        self.times.add("train", time.monotonic() - started)
        self.step += 1
        self.ledger.finish(batch.finals(self.config.objective), self.step)
        self.ledger.check()
        return metrics | self.times.step({"generate": 1, "reward": 1, "train": 1})

    def save(self) -> Path:
        """Write a checkpoint."""
        state = {"step": self.step, "ledger": self.ledger.record.to_dict()}
        return save_checkpoint(self.checkpoints, self.step, self.learner.save, state, self.config.checkpoint.keep)

    def restore(self) -> int:
        """Load the newest complete checkpoint."""
        found = latest_checkpoint(self.checkpoints)
        if found is not None:
            path, state = found
            self.learner.restore(path)
            self.step = state["step"]
            record = Record.from_dict(state["ledger"])
            self.ledger = Ledger(self.config.replay, record, self.step, self.config.steps, selection=self.selection)
        return self.step

    def evaluate(self, request: EvalRequest) -> list[ScoredGroup]:
        """Sample and judge every prompt."""
        self.times.pause()
        return sample_and_judge(self.rollout, self._judge, request, self.config.rollout.groups_per_call)

    def show(self, metrics: Mapping[str, float]) -> None:
        """One process has no metrics endpoint."""

    def totals(self) -> dict[str, int]:
        """The ledger's totals."""
        return self.ledger.totals()

    def describe(self) -> str:
        """One line for the user."""
        return f"one process, plain torch learner, sandbox tier {self.reward.tier}"

    def sandbox_tier(self) -> str:
        """The sandbox tier in use."""
        return self.reward.tier

    def restarts(self) -> dict[str, int]:
        """Nothing restarts in one process."""
        return {}

    def close(self) -> None:
        """Stop the sandbox."""
        self.reward.close()

    def _produce(self, attempts: list[Attempt]) -> None:
        started = time.monotonic()
        groups = self.rollout.generate(
            [self.schedule.request(self.ledger.place(number), attempt) for number, attempt in attempts]
        )
        self.times.add("generate", time.monotonic() - started)
        for attempt, group in zip(attempts, groups, strict=True):
            now = time.monotonic()
            self.telemetry.generated(group, now)
            self.ledger.generated(*attempt, group.version, now)
            self.ledger.scoring(*attempt, now)
            scored = self._judge(self.schedule.problem(self.ledger.place(attempt.number)), group)
            spent = time.monotonic() - now
            self.times.add("reward", spent)
            self.telemetry.judged(scored.verdicts, spent, time.monotonic())
            self.telemetry.settled(group.row_length, scored.zero_signal)
            valid, solved = int(scored.valid_G.sum()), solved_count(scored.verdicts)
            state = self.ledger.ready(*attempt, now, valid=valid, zero_signal=scored.zero_signal, solved=solved)
            if state is State.FILTERED:
                self._filtered.append(scored)
            if state is State.READY:
                self._ready[attempt.number] = scored
                self.telemetry.ready(spent)

    def _judge(self, problem: Problem, group: PromptGroup) -> ScoredGroup:
        scored = ScoredGroup(group, tuple(judge_again(self.reward, problem, group.texts, self.config.reward.retries)))
        self.faults.count(scored.verdicts)
        return scored
