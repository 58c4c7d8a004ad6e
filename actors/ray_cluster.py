"""The Ray wiring of `Cluster`: the driver owns every actor, remembers what is final, and rebuilds what dies."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from couplet.actors.gauges import Exporter
from couplet.actors.learner_group import LearnerGroup
from couplet.actors.ray_evaluator import sample_and_judge_on
from couplet.actors.ray_init import alive_nodes, connect
from couplet.actors.remote import DIED, fetch, fetch_all
from couplet.actors.replay_actor import Memory, ReplayActor
from couplet.actors.storage import require_shared
from couplet.actors.worker_pool import NAMESPACE, WorkerPool, replay_name
from couplet.configs.schema import ConfigError, RunConfig
from couplet.data.trajectory import ScoredGroup
from couplet.evaluation.request import EvalRequest
from couplet.learner.checkpoint import latest_checkpoint, save_checkpoint
from couplet.replay.record import Record
from couplet.reward.fault_limit import FaultShareLimit
from couplet.reward.tiers import accepted
from couplet.training.cluster import Batch
from couplet.training.factory import OrderBook, for_rollouts, load_prompts
from couplet.training.step_metrics import StageTimes, batch_metrics

TICK = 1.0  # seconds between two looks at the roster while the driver waits
NAME_SECONDS = 30.0  # the actors of a driver that was killed end within this time
QUEUE_TRIES = 5  # of one call that finds the replay queue dead
KEPT_STEPS = 50  # learner steps whose payloads are kept at most, before a recovery checkpoint takes their place


class RayCluster:
    """Actors on a Ray cluster.

    The replay queue keeps issuing between the calls, so `take`, `learn` and `publish` in sequence overlap generation,
    judging and learning. The driver holds the record of finals and the payload of each step: a restarted queue is given
    the record, and a restarted learner goes back to the last checkpoint and repeats the steps since from the payloads.

    Args:
        config: the run.
        start: folder of the policy to start from; shared storage on a cluster of several machines.
        checkpoints: folder for checkpoints; shared storage likewise.
    """

    def __init__(self, config: RunConfig, start: str, checkpoints: Path) -> None:
        self.config = config
        self.checkpoints = checkpoints
        self.recovery = checkpoints / "recovery"
        self.step = 0
        targets = {"rollout": config.rollout.actors, "reward": config.reward.actors}
        self.memory = Memory(Record(), targets=targets)
        self.holder: tuple[int, list[Any]] | None = None
        self.times = StageTimes()
        self.faults = FaultShareLimit(config.reward.max_fault_share)  # of evaluations; the queue guards training
        self.tiers: set[str] = set()
        self.replay: Any = None
        self._reconciled = float("inf")  # nothing is looked after before everything stands
        self.connection = connect(config)
        self.pool = WorkerPool(for_rollouts(config), start, tend=self._reconcile, republish=self._republish)
        self.learner = LearnerGroup(config, start, meanwhile=partial(self._reconcile, republish=False))
        try:
            self._start(start)
        except BaseException:
            self.close()
            raise

    def _start(self, start: str) -> None:
        config = self.config
        require_shared(self.checkpoints, Path(start))
        shutil.rmtree(self.recovery, ignore_errors=True)  # of a driver that was killed
        self.metrics = Exporter(config.name, role="driver")
        self.book = OrderBook(
            load_prompts(config, start, config.problems.train, config.problems.limit),
            config.replay.completions,
            config.seed,
        )
        self._start_replay()
        self.learner.reserve()
        self.pool.grow(self.memory.targets)
        self.learner.start()
        started = self.pool.wait_until_started()
        self.tiers = {info["tier"] for role, _, _, info in started if role == "reward"}
        self.memory.tiers = self.pool.tiers = accepted(self.tiers)
        self._on_replay("accept", self.memory.tiers)
        self._introduce(started)
        self._reconciled = 0.0

    # --- the verbs ---------------------------------------------------------------------------------------------------

    def publish(self) -> None:
        """Gather the learner's weights into the object store and hand the reference to the replay queue."""
        self.holder = (self.step, [self.learner.weights()])
        self.memory.published = self.step
        self._on_replay("publish", *self.holder)

    def take(self, count: int) -> Batch:
        """Block until `count` groups are ready; meanwhile look after the workers.

        Raises:
            TimeoutError: no group was generated or judged for as long as one call of each may take.
            Exception: what broke a worker's code.
        """
        if self.times.begin():
            self._on_replay("begin_report")
        moved, seen = time.monotonic(), -1
        while True:
            self._reconcile()
            taken = self._on_replay("take", count, TICK)
            self.memory.record.follow(taken["cursor"])
            if taken["numbers"] is None:
                if taken["progress"] != seen:
                    moved, seen = time.monotonic(), taken["progress"]
                self._require_progress(time.monotonic() - moved)
            elif (groups := self._payload(taken)) is not None:
                break
        self.memory.leased = tuple(taken["numbers"])
        self.memory.record.add(taken["decided"])
        scored = tuple(ScoredGroup(group, verdicts) for group, verdicts in zip(groups, taken["verdicts"], strict=True))
        self.times.add("generate", taken["metrics"]["generate_seconds"])
        self.times.add("reward", taken["metrics"]["reward_seconds"])
        metrics = batch_metrics(scored, self.step) | taken["metrics"]
        return Batch(tuple(taken["numbers"]), scored, taken["decided"], metrics)

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
        self.memory.record.follow(self._on_replay("finish", finals, self.step))
        workers = self.pool.counts()
        metrics |= self.times.step({"generate": workers["rollout"], "reward": workers["reward"], "train": ranks})
        metrics |= {"learner_workers": float(ranks), "learner_restarts": float(self.learner.restarts)}
        self.metrics.export(batch.metrics | metrics)
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
        """A checkpoint for ranks that die in this run; what a run resumes from, `checkpoint.every` alone decides."""
        path = save_checkpoint(self.recovery, self.step, self.learner.save, {}, keep=1)
        self.learner.forget_before(self.step, path)

    def restore(self) -> int:
        """Load the newest whole checkpoint into the learner and the replay queue."""
        found = latest_checkpoint(self.checkpoints)
        if found is not None:
            path, state = found
            self.step = self.memory.version = state["step"]
            self.memory.record = Record.from_dict(state["ledger"])
            self.learner.restore(self.step, path)
            self._rebuild_replay()
        return self.step

    def evaluate(self, request: EvalRequest) -> list[ScoredGroup]:
        """Sample on the rollout actors and judge on the reward actors, each as soon as it can be."""
        self.times.pause()

        def weights() -> tuple[int, list[Any]]:
            assert self.holder is not None, "publish before evaluating"
            return self.holder

        request = replace(request, progress=self.faults.before(request.progress))
        return sample_and_judge_on(self.pool, weights, request)

    def totals(self) -> dict[str, int]:
        """The ledger's totals."""
        return self._on_replay("totals")

    def describe(self) -> str:
        """For the user."""
        dashboard = f"dashboard {self.connection.dashboard}\n  " if self.connection.dashboard else ""
        counts = self.pool.counts()
        return (
            f"{dashboard}{counts['rollout']} rollout, {counts['reward']} reward (sandbox tier {self.sandbox_tier()}), "
            f"{self.config.learner.ranks} learner ({self.config.learner.engine}) on {len(alive_nodes())} node(s)"
        )

    def sandbox_tier(self) -> str:
        """The sandbox tier in force; several names where nodes differ."""
        return ", ".join(sorted(self.tiers))

    def restarts(self) -> dict[str, int]:
        """Workers lost and replaced so far, by role."""
        return {**self._on_replay("status")["restarts"], "learner": self.learner.restarts}

    def close(self) -> None:
        """Stop every actor, and Ray where it was started here."""
        self.learner.stop()
        self.pool.stop()
        if self.replay is not None:
            ray.kill(self.replay)
        shutil.rmtree(self.recovery, ignore_errors=True)
        self.connection.close()

    # --- looking after the actors ------------------------------------------------------------------------------------

    def _start_replay(self) -> None:
        """Start the queue near the driver, whose death it does not outlive anyway."""
        name = replay_name(self.config.name)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        actor = ray.remote(ReplayActor).options(
            name=name, namespace=NAMESPACE, num_cpus=0, max_concurrency=1000, scheduling_strategy=here
        )
        deadline = time.monotonic() + NAME_SECONDS
        while True:
            try:
                self.replay = actor.remote(self.config, self.book, self.memory)
                return
            except ValueError:  # the name is not free yet
                if time.monotonic() > deadline:
                    raise ConfigError(
                        f"name = {self.config.name!r}: a run of that name is going on on this cluster; choose another name"
                    ) from None
                time.sleep(0.2)

    def _rebuild_replay(self) -> None:
        """A new queue from the driver's memory: every open group but those being learned from is issued again."""
        ray.kill(self.replay)
        self._start_replay()
        seconds = self.config.ray.call_timeout
        joins = [self.replay.join.remote(*worker) for worker in self.pool.serving()]
        fetch_all(joins, "replay queue: join", seconds)
        if self.holder is not None:
            fetch(self.replay.publish.remote(*self.holder), "replay queue: publish", seconds)

    def _introduce(self, workers: list[tuple[str, int, Any, dict[str, Any]]]) -> None:
        for role, index, handle, info in workers:
            self._on_replay("join", role, index, handle, info)

    def _on_replay(self, method: str, *arguments: Any) -> Any:
        """Call the replay queue; where it has died, rebuild it and call again (every method may be called twice)."""
        rebuild = False
        for attempt in range(QUEUE_TRIES):
            try:
                if rebuild:
                    self.memory.restarts += 1
                    self._rebuild_replay()
                call = getattr(self.replay, method).remote(*arguments)
                return fetch(call, f"replay queue: {method} (ray.call_timeout)", self.config.ray.call_timeout)
            except DIED:
                if attempt == QUEUE_TRIES - 1:
                    raise
                rebuild = True

    def _payload(self, taken: dict[str, Any]) -> list[Any] | None:
        """The leased groups, or None where a node or the queue died with them; then they are issued again."""
        try:
            return fetch_all(taken["groups"], "groups of a step (ray.call_timeout)", self.config.ray.call_timeout)
        except RayError:
            self._on_replay("give_back", taken["numbers"])
            return None

    def _require_progress(self, idle: float) -> None:
        limit = self.config.rollout.timeout + self.config.reward.timeout
        if idle > limit:
            status = self._on_replay("status")
            raise TimeoutError(
                f"no group was generated or judged for {idle:.0f} s (rollout.timeout + reward.timeout = {limit:.0f} s); "
                f"groups: {status['ledger']}, workers: { {role: len(some) for role, some in status['workers'].items()} }"
            )

    def _republish(self) -> None:
        """The weights went with the node that held them: gather them again."""
        self.publish()

    def _reconcile(self, republish: bool = True) -> None:
        """Start and stop workers until their numbers are those wanted; replace those that died for good.

        `republish=False` while the ranks compute: lost weights wait until they have a version again.
        """
        if time.monotonic() - self._reconciled < TICK:
            return
        self._reconciled = float("inf")  # looking after the workers may itself wait, and come here again
        try:
            roster = self._on_replay("roster")
            self.memory.targets, self.memory.lost = roster["targets"], roster["lost"]
            self.pool.follow(roster["held"])
            for role, index in self.pool.dismiss(roster["targets"]):
                self._on_replay("leave", role, index)
            self.pool.grow(roster["targets"])
            self._introduce(self.pool.newly_started())
            if roster["weights_lost"] and republish:
                self._republish()
        finally:
            self._reconciled = time.monotonic()
