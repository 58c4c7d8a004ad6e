"""`Cluster` on Ray: the driver owns every actor, records what is final, and replaces workers that die."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ray.exceptions import RayError

from couplet.actors.dispatch import sample_and_judge_on
from couplet.actors.gauges import Exporter
from couplet.actors.learner_group import LearnerGroup
from couplet.actors.messages import Lease, PublishedWeights, Roster, StartedWorker
from couplet.actors.ray_init import alive_nodes, connect
from couplet.actors.remote import fetch_all
from couplet.actors.replay_actor import Memory
from couplet.actors.replay_client import ReplayClient
from couplet.actors.scaling import Scaling
from couplet.actors.storage import require_shared
from couplet.actors.worker_pool import WorkerPool
from couplet.configs.schema import RunConfig
from couplet.data.trajectory import PromptGroup, ScoredGroup
from couplet.evaluation.request import EvalRequest
from couplet.learner.checkpoint import latest_checkpoint, save_checkpoint
from couplet.replay.record import Record
from couplet.reward.fault_limit import FaultShareLimit
from couplet.reward.tiers import accepted
from couplet.training.cluster import Batch
from couplet.training.factory import build_schedule, for_rollouts
from couplet.training.step_metrics import PhaseTimes, batch_metrics

REST_SECONDS = 0.02  # between two questions whether the queue rests
TICK = 1.0  # seconds between two checks of the roster while the driver waits
QUIET_SECONDS = 60.0  # without progress, after which the driver says what it waits for; doubled each time
KEPT_STEPS = 50  # most learner steps whose payloads are kept, before a recovery checkpoint replaces them

log = logging.getLogger("couplet")


class RayCluster:
    """Actors on a Ray cluster.

    The replay queue keeps issuing between the calls, so `take`, `learn` and `publish` in sequence overlap generation,
    judging and learning. The driver holds the record of finals and the payload of each step: a restarted queue gets
    the record, and a restarted learner loads the last checkpoint and repeats the later steps from the payloads.

    Args:
        config: the run.
        start: folder of the policy to start from; shared storage on a cluster of several machines.
        checkpoints: folder for checkpoints; shared storage likewise.
        ended: called, from another thread, with what of Ray's own processes has ended; None: they are not watched.
    """

    def __init__(
        self, config: RunConfig, start: str, checkpoints: Path, ended: Callable[[str], None] | None = None
    ) -> None:
        self.config = config
        self.checkpoints = checkpoints
        self.recovery = checkpoints / "recovery"
        self.step = 0
        targets = {"rollout": config.rollout.actors, "reward": config.reward.actors}
        self.memory = Memory(Record(), targets=targets, folder=str(checkpoints.parent.resolve()))
        self.times = PhaseTimes()
        self.faults = FaultShareLimit(config.reward.max_fault_share)  # of evaluations; the queue guards training
        self.tiers: set[str] = set()
        self.schedule = build_schedule(config, start)
        self._reconciled = float("inf")  # nothing is reconciled before everything has started
        self.connection = connect(config, ended)
        self.pool = WorkerPool(for_rollouts(config), start, reconcile=self._reconcile, republish=self._republish)
        self.queue = ReplayClient(config, self.schedule, self.memory, self.pool.serving)
        self.scaling = Scaling(config, self.queue)
        self.learner = LearnerGroup(config, start, meanwhile=partial(self._reconcile, republish=False))
        try:
            self._start(start)
        except BaseException:
            self.close()
            raise

    def _start(self, start: str) -> None:
        require_shared(self.checkpoints, Path(start))
        shutil.rmtree(self.recovery, ignore_errors=True)  # of a driver that was killed
        self.metrics = Exporter(self.config.name, role="driver")
        self.queue.start()
        self.learner.ranks.reserve()
        self.pool.grow(self.memory.targets)
        self.learner.start()
        started = self.pool.wait_until_started()
        self.tiers = {worker.info.tier for worker in started if worker.role == "reward"}
        self.memory.tiers = self.pool.tiers = accepted(self.tiers)
        self.queue.call("accept", self.memory.tiers)
        self._introduce(started)
        self._reconciled = 0.0

    # --- the verbs ---------------------------------------------------------------------------------------------------

    def publish(self) -> None:
        """Gather the learner's weights into the object store and hand the reference to the replay queue."""
        self.memory.weights = PublishedWeights(self.step, self.learner.weights())
        self.queue.call("publish", self.memory.weights)

    def take(self, count: int) -> Batch:
        """Block until `count` groups are ready; meanwhile replace workers that die.

        Raises:
            TimeoutError: no group was generated or judged for as long as one call of each may take.
            Exception: what broke a worker's code.
        """
        if self.times.begin():
            self.queue.call("begin_report")
        asked = moved = time.monotonic()
        seen, quiet = -1, QUIET_SECONDS
        while True:
            self._reconcile()
            lease: Lease = self.queue.call("take", count, TICK)
            self.memory.record.follow(lease.cursor)
            if not lease.numbers:
                if lease.progress != seen:
                    moved, seen, quiet = time.monotonic(), lease.progress, QUIET_SECONDS
                idle = time.monotonic() - moved
                if idle > quiet:
                    quiet *= 2
                    log.warning("no group was generated or judged for %.0f s; %s", idle, self._working())
                self._require_progress(idle)
            elif (groups := self._payload(lease)) is not None:
                return self._batch(lease, groups, time.monotonic() - asked)

    def _batch(self, lease: Lease, groups: Sequence[PromptGroup], waited: float) -> Batch:
        """Record a lease whose payload has arrived: its groups, then those that were filtered."""
        self.memory.leased = lease.numbers
        self.memory.record.add(lease.decided)
        verdicts = (*lease.verdicts, *(some for _, some in lease.filtered))
        every = tuple(ScoredGroup(group, some) for group, some in zip(groups, verdicts, strict=True))
        scored, filtered = every[: len(lease.numbers)], every[len(lease.numbers) :]
        self.times.add("generate", lease.metrics["generate_seconds"])
        self.times.add("reward", lease.metrics["reward_seconds"])
        metrics = batch_metrics(scored, self.step) | dict(lease.metrics) | {"learner_wait": waited}
        return Batch(lease.numbers, scored, dict(lease.decided), metrics, filtered)

    def learn(self, batch: Batch) -> dict[str, float]:
        """One learner step on all ranks."""
        started = time.monotonic()
        metrics = self.learner.learn(self.step, batch.groups)
        ranks = self.config.learner.ranks
        self.times.add("train", (time.monotonic() - started) * ranks)
        self.step += 1
        finals = batch.finals(self.config.objective)
        self.memory.record.add(finals)
        self.memory.leased = ()
        self.memory.version = self.step
        self.memory.record.follow(self.queue.call("finish", finals, self.step))
        workers = self.pool.counts()
        metrics |= self.times.step({"generate": workers["rollout"], "reward": workers["reward"], "train": ranks})
        metrics |= {"learner_workers": float(ranks), "learner_restarts": float(self.learner.restarts)}
        self.metrics.export(batch.metrics | metrics)
        self.scaling.follow(batch.metrics | metrics, workers)
        if len(self.learner.payloads) > KEPT_STEPS:
            self._save_for_recovery()
        return metrics

    def save(self) -> Path:
        """Write a checkpoint; the steps before it need not be repeated any more."""
        state = {"step": self.step, "ledger": self.memory.record.to_dict()}
        path = save_checkpoint(self.checkpoints, self.step, self.learner.save, state, self.config.checkpoint.keep)
        self.learner.forget_before(self.step, path)
        return path

    def _save_for_recovery(self) -> None:
        """A checkpoint for ranks that die in this run; a run resumes only from those of `checkpoint.every`."""
        path = save_checkpoint(self.recovery, self.step, self.learner.save, {}, keep=1)
        self.learner.forget_before(self.step, path)

    def restore(self) -> int:
        """Load the newest complete checkpoint into the learner and the replay queue."""
        found = latest_checkpoint(self.checkpoints)
        if found is not None:
            path, state = found
            self.step = self.memory.version = state["step"]
            self.memory.record = Record.from_dict(state["ledger"])
            self.learner.restore(self.step, path)
            self.queue.rebuild()
        return self.step

    def evaluate(self, request: EvalRequest) -> list[ScoredGroup]:
        """Sample on the rollout actors and judge on the reward actors, each as early as possible."""
        self.times.pause()
        self._rest()

        def weights() -> PublishedWeights:
            assert self.memory.weights is not None, "publish before evaluating"
            return self.memory.weights

        request = replace(request, progress=self.faults.before(request.progress))
        groups = sample_and_judge_on(self.pool, weights, request)
        self.memory.resting = False
        self.queue.call("rest", False)
        return groups

    def show(self, metrics: Mapping[str, float]) -> None:
        """Export metrics as gauges of the driver: `eval/pass_at_1` is `eval_pass_at_1` there."""
        self.metrics.export({name.replace("/", "_"): value for name, value in metrics.items()})

    def totals(self) -> dict[str, int]:
        """The ledger's totals."""
        totals: dict[str, int] = self.queue.call("totals")
        return totals

    def describe(self) -> str:
        """For the user."""
        counts = self.pool.counts()
        workers = (
            f"{counts['rollout']} rollout, {counts['reward']} reward (sandbox tier {self.sandbox_tier()}), "
            f"{self.config.learner.ranks} learner ({self.config.learner.engine}) on {len(alive_nodes())} node(s)"
        )
        return "\n  ".join(part for part in (self.connection.describe(), workers) if part)

    @property
    def address(self) -> str:
        """HOST:PORT of the Ray cluster."""
        return self.connection.address

    def sandbox_tier(self) -> str:
        """The sandbox tier in use; several names if nodes differ."""
        return ", ".join(sorted(self.tiers))

    def restarts(self) -> dict[str, int]:
        """Workers lost and replaced so far, by role."""
        return {**self.queue.call("status")["restarts"], "learner": self.learner.restarts}

    def close(self) -> None:
        """Stop every actor, and Ray if it was started here."""
        self.scaling.close()
        self.learner.stop()
        self.pool.stop()
        self.queue.stop()
        shutil.rmtree(self.recovery, ignore_errors=True)
        self.connection.close()

    # --- supervision of the actors -----------------------------------------------------------------------------------

    def _introduce(self, workers: Sequence[StartedWorker]) -> None:
        for worker in workers:
            self.queue.call("join", worker)

    def _rest(self) -> None:
        """Let the queue give out no more work, and wait until what it has given out is done.

        Else its calls would wait behind those of the evaluation, and those behind its own: both would be late.
        """
        self.memory.resting = True
        while not self.queue.call("rest", True):
            self._reconcile()
            time.sleep(REST_SECONDS)

    def _payload(self, lease: Lease) -> list[PromptGroup] | None:
        """The leased groups, or None if a node or the queue died with them; then they are issued again."""
        try:
            return fetch_all(
                (*lease.groups, *(group for group, _ in lease.filtered)),
                "groups of a step (ray.call_timeout)",
                self.config.ray.call_timeout,
            )
        except RayError:
            self.queue.call("give_back", lease.numbers)
            return None

    def _require_progress(self, idle: float) -> None:
        limit = self.config.rollout.timeout + self.config.reward.timeout
        if idle > limit:
            status = self.queue.call("status")
            raise TimeoutError(
                f"no group was generated or judged for {idle:.0f} s (rollout.timeout + reward.timeout = {limit:.0f} s); "
                f"groups: {status['ledger']}, workers: { {role: len(some) for role, some in status['workers'].items()} }"
            )

    def _working(self) -> str:
        """Which workers are at what."""
        workers = self.queue.call("status")["workers"]
        at_work = [f"{role} {w['index']} ({w['work']})" for role, some in workers.items() for w in some if w["work"]]
        return f"at work are {', '.join(at_work)}" if at_work else "no worker has work"

    def _republish(self) -> None:
        """The weights were lost with the node that held them: gather them again."""
        self.publish()

    def _reconcile(self, republish: bool = True) -> None:
        """Start and stop workers until their numbers are the wanted ones; replace those that died for good.

        `republish=False` while the ranks compute: lost weights wait until they have a version again.
        """
        if time.monotonic() - self._reconciled < TICK:
            return
        self._reconciled = float("inf")  # the calls below may themselves wait and come back here
        try:
            roster: Roster = self.queue.call("roster")
            self.memory.targets, self.memory.lost = dict(roster.targets), dict(roster.lost)
            self.pool.follow(roster.held)
            for role, index in self.pool.dismiss(roster.targets):
                self.queue.call("leave", role, index)
            self.pool.grow(roster.targets)
            self._introduce(self.pool.newly_started())
            for loss in self.queue.call("report_losses"):
                log.warning("%s", loss.describe())
            if roster.weights_lost and republish:
                self._republish()
        finally:
            self._reconciled = time.monotonic()
