"""The replay queue: the actor that keeps issuing groups, has them generated and judged, and leases ready ones.

It pulls: it calls the rollout actors and keeps the references of what they return, so it owns them. One task per
rollout actor and one per reward actor run side by side on its event loop; a worker that joins or leaves adds or ends
a task.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from couplet.actors.gauges import Exporter
from couplet.actors.generation import Generation
from couplet.actors.judging import Judging
from couplet.actors.messages import ROLES, Lease, Loss, PublishedWeights, Roster, StartedWorker
from couplet.actors.remote import namespace_of, start_actor
from couplet.actors.replay_state import Hub, Worker
from couplet.configs.schema import RunConfig
from couplet.replay.ledger import Ledger
from couplet.replay.record import Cursor, Record, State
from couplet.replay.schedule import Schedule
from couplet.training.factory import build_selection
from couplet.training.replay_metrics import ledger_metrics

NAME = "replay"  # of the queue in the namespace of its run, by which `status` and `scale` find it
EXPORT_SECONDS = 2.0  # between two exports of the queue's depths and rates


def start_replay(config: RunConfig, schedule: Schedule, memory: Memory) -> ActorHandle:
    """Start the queue of a run on the driver's node; it dies with the driver. ValueError: the name is in use."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    options = {
        "name": NAME,
        "namespace": namespace_of(config.name),
        "num_cpus": 0,
        "max_concurrency": 1000,
        "scheduling_strategy": here,
    }
    return start_actor(ReplayActor, options, config, schedule, memory)


@dataclass
class Memory:
    """The driver's memory of a queue, from which a rebuilt queue continues."""

    record: Record = field(default_factory=Record)
    leased: tuple[int, ...] = ()  # groups of the current learner step
    version: int = 0  # learner steps done
    weights: PublishedWeights | None = None  # the newest published ones
    restarts: int = 0
    targets: dict[str, int] = field(default_factory=dict)  # wanted workers per role
    reasons: dict[str, str] = field(default_factory=dict)  # of the last change by autoscaling, per role
    lost: dict[str, int] = field(default_factory=dict)  # workers lost so far, per role
    tiers: tuple[str, ...] = ()  # sandbox tiers the run accepts; empty: any
    folder: str = ""  # of the run
    resting: bool = False  # an evaluation uses the workers


class ReplayActor:
    """Ledger, distribution of work and lease of ready groups. Every method may safely be called twice.

    Args:
        config: the run.
        schedule: prompts and seeds of every group.
        memory: finals, leases, version and counts as the driver has recorded them; all other groups are issued again.
    """

    def __init__(self, config: RunConfig, schedule: Schedule, memory: Memory) -> None:
        self.config = config
        selection = build_selection(config, schedule)
        self.ledger = Ledger(config.replay, memory.record, memory.version, config.steps, memory.leased, selection)
        if memory.weights is not None:
            self.ledger.published = (
                memory.weights.version
            )  # credits count from the version that the rollout actors hold
        self.hub = Hub(config, schedule, self.ledger, memory.lost)
        self.hub.tiers, self.hub.resting = memory.tiers, memory.resting
        self.judging = Judging(self.hub)
        self.generation = Generation(self.hub, self.judging.add)
        self.generation.weights = memory.weights
        self.targets = dict(memory.targets)
        self.reasons = dict(memory.reasons)
        self.restarts = memory.restarts
        self.folder = memory.folder
        self.reward_mean: float | None = None  # of the groups that were leased last
        self.metrics = Exporter(config.name, role="replay")
        self._exporting: asyncio.Task[None] | None = None

    async def join(self, started: StartedWorker) -> None:
        """A worker has started: give it work from now on."""
        workers = self.hub.workers[started.role]
        if started.index in workers:
            return
        worker = Worker(started.role, started.index, started.handle, started.info)
        workers[started.index] = worker
        self.hub.spawn(self._serve(worker))
        if self._exporting is None:
            self._exporting = self.hub.spawn(self._export())

    async def leave(self, role: str, index: int) -> None:
        """Give a worker no more work; it disappears from the roster once it holds none."""
        worker = self.hub.workers[role].get(index)
        if worker is not None:
            worker.leaving = True
            self.hub.notify()

    async def publish(self, weights: PublishedWeights) -> None:
        """New weights: push them to every rollout actor and admit more groups."""
        self.ledger.publish(weights.version)
        await self.generation.publish(weights)
        self.hub.notify()

    async def take(self, count: int, seconds: float) -> Lease:
        """Lease `count` ready groups; a lease without groups after `seconds`.

        Raises the defect of a worker, if there was one. A lease whose payload is lost is returned by `give_back`.
        """
        deadline = time.monotonic() + seconds
        while True:
            if self.hub.failure is not None:
                raise self.hub.failure
            reissued, depths = self.ledger.record.reissued, self._depths()  # as the learner finds the queue
            numbers = self.ledger.lease(count, time.monotonic())
            if self.ledger.record.reissued > reissued:
                self.hub.notify()  # stale groups went back to be issued again
            if numbers is not None:
                break
            if not await self.hub.wait(deadline - time.monotonic()):
                return Lease(self.ledger.cursor(), self.hub.progress)
        groups, verdicts = self.judging.take(numbers)
        rewards = [verdict.reward for some in verdicts for verdict in some if verdict.outcome.is_verdict]
        self.reward_mean = sum(rewards) / len(rewards) if rewards else None
        return Lease(
            self.ledger.cursor(),
            self.hub.progress,
            tuple(numbers),
            groups,
            verdicts,
            tuple(self.judging.filtered.values()),
            self.ledger.unreported(),
            self.hub.telemetry.report(time.monotonic()) | depths,
        )

    async def begin_report(self) -> None:
        """The driver's clock starts: work done while it was stopped is in no report, like its seconds."""
        self.hub.telemetry.report(time.monotonic())

    async def give_back(self, numbers: Sequence[int]) -> None:
        """The payload of these leased groups could not be fetched: issue them again."""
        self.ledger.give_back(numbers)
        self.hub.notify()

    async def finish(self, finals: Mapping[int, State], version: int) -> Cursor:
        """The driver has recorded these finals; how far the numbering has come."""
        self.ledger.finish(finals, version)
        self.ledger.check()
        for number in finals:
            self.judging.filtered.pop(number, None)
        self.hub.notify()
        return self.ledger.cursor()

    async def totals(self) -> dict[str, int]:
        """The ledger's totals."""
        return self.ledger.totals()

    async def set_targets(self, targets: Mapping[str, int], reasons: Mapping[str, str] | None = None) -> None:
        """Wanted number of workers per role, and why; the driver starts and stops actors to match."""
        self.targets |= targets
        self.reasons |= reasons or {}

    async def accept(self, tiers: tuple[str, ...]) -> None:
        """The sandbox tiers the run accepts from now on."""
        self.hub.tiers = tiers

    async def roster(self) -> Roster:
        """The workers and their wanted numbers, for the driver to reconcile."""
        return Roster(
            targets=dict(self.targets),
            held={role: {i: w.info for i, w in workers.items()} for role, workers in self.hub.workers.items()},
            serving={role: [worker.index for worker in self.hub.serving(role)] for role in ROLES},
            lost=dict(self.hub.lost),
            weights_lost=self.generation.weights_lost,
        )

    async def report_losses(self) -> tuple[Loss, ...]:
        """Workers lost since the last call, for the driver alone."""
        return self.hub.report_losses()

    async def rest(self, resting: bool) -> bool:
        """Give no worker anything new while an evaluation uses them; whether none has a call of the queue's left."""
        self.hub.resting = resting
        self.hub.notify()
        return not any(worker.work for workers in self.hub.workers.values() for worker in workers.values())

    async def status(self) -> dict[str, Any]:
        """Workers, ledger states and rates as a JSON document, for `launch.py status`."""
        return {
            "run": self.config.name,
            "folder": self.folder,
            "step": self.ledger.version,
            "steps": self.config.steps,
            "published_version": self.ledger.published,
            "groups_per_step": self.config.replay.groups_per_step,
            "learner": {"ranks": self.config.learner.ranks, "engine": self.config.learner.engine},
            "reward_mean": self.reward_mean,
            "targets": dict(self.targets),
            "autoscale": {role: self._autoscale(role) for role in ROLES},
            "tiers": list(self.hub.tiers),
            "workers": {role: [_shown(w) for _, w in sorted(self.hub.workers[role].items())] for role in ROLES},
            "ledger": self.ledger.states(),
            "totals": self.ledger.totals(),
            "pid": os.getpid(),
            "queue": {"waiting_for_reward": len(self.judging.jobs), "ready": len(self.judging.ready)},
            "rates": self.hub.telemetry.rates(time.monotonic()),
            "sandbox_faults": dict(self.hub.telemetry.faults),
            "restarts": {"replay": self.restarts, **self.hub.lost},
        }

    def _autoscale(self, role: str) -> dict[str, Any] | None:
        """Bounds and last change of a role whose number follows the load; None if it does not."""
        limits = getattr(self.config, role).autoscale
        return None if limits.max is None else {**dict(limits), "last_change": self.reasons.get(role)}

    async def _serve(self, worker: Worker) -> None:
        await (self.generation if worker.role == "rollout" else self.judging).serve(worker)
        self.hub.workers[worker.role].pop(worker.index, None)

    async def _export(self) -> None:
        while True:
            self.metrics.export(self._depths() | self.hub.telemetry.rates(time.monotonic()))
            await asyncio.sleep(EXPORT_SECONDS)

    def _depths(self) -> dict[str, float]:
        """Groups per ledger state, totals, workers and restarts."""
        metrics = ledger_metrics(self.ledger) | {"replay_restarts": float(self.restarts)}
        for role in ROLES:
            metrics[f"{role}_workers"] = float(len(self.hub.serving(role)))
            metrics[f"{role}_restarts"] = float(self.hub.lost[role])
        return metrics


def _shown(worker: Worker) -> dict[str, Any]:
    return {
        "index": worker.index,
        "calls": worker.calls,
        "lost": worker.lost,
        "version": worker.version,
        "leaving": worker.leaving,
        "recovering": worker.recovering,
        "work": worker.work,
        **asdict(worker.info),
    }
