"""State shared by the tasks of the replay queue: the ledger, the workers, an event for changes, and a failure."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from couplet.actors.messages import ROLES, Loss, PublishedWeights, SwapReply, WorkerInfo
from couplet.actors.remote import is_gone, original, reason_of
from couplet.configs.schema import ConfigError, RunConfig
from couplet.data.verdict import Verdict
from couplet.replay.ledger import Ledger
from couplet.replay.record import Attempt, State
from couplet.replay.schedule import Schedule
from couplet.reward.fault_limit import FaultShareLimit, workers_died
from couplet.training.replay_metrics import Telemetry

IDLE_SECONDS = 5.0  # a task looks for work at least this often

log = logging.getLogger("couplet")


@dataclass
class Worker:
    """The queue's view of a rollout or reward actor."""

    role: str
    index: int
    handle: ActorHandle
    info: WorkerInfo
    leaving: bool = False
    busy: bool = False  # it works on a call, or recovers from a failed one
    calls: int = 0
    lost: int = 0
    damaged: PublishedWeights | None = None  # the weights it found damaged last, until it generates again
    recovering: bool = False  # its death has been counted
    version: int | None = None  # newest weights it has acknowledged
    work: str = ""  # what it works on, or was lost over
    since: float = 0.0  # when it began, or was last known to be alive
    push: asyncio.Future[SwapReply] | None = None  # the last weights sent to it outside of a call for work

    def begin(self, problems: str) -> None:
        """It starts to work on the groups of these problems."""
        self.work, self.since = problems, time.monotonic()

    def end(self) -> None:
        """It has no work."""
        self.work, self.since = "", time.monotonic()


class Hub:
    """Shared state of one queue's tasks. Everything runs on one event loop, so nothing is locked."""

    def __init__(self, config: RunConfig, schedule: Schedule, ledger: Ledger, lost: Mapping[str, int]) -> None:
        self.config = config
        self.schedule = schedule
        self.ledger = ledger
        self.workers: dict[str, dict[int, Worker]] = {role: {} for role in ROLES}
        self.lost = {role: lost.get(role, 0) for role in ROLES}
        self.losses: list[Loss] = []  # that the driver has not seen
        self.tiers: tuple[str, ...] = ()  # sandbox tiers the run accepts
        self.faults = FaultShareLimit(config.reward.max_fault_share)
        self.telemetry = Telemetry(time.monotonic())
        self.failure: BaseException | None = None
        self.resting = False  # an evaluation uses the workers: they get nothing new
        self.progress = 0  # groups generated and calls judged so far
        self._changed = asyncio.Event()  # set at the next change, then replaced
        self._tasks: set[asyncio.Task[Any]] = set()

    def row_length(self, number: int) -> int:
        """Positions of one forward pass over a completion of a group: prompt, canvas and suffix."""
        request = self.schedule.request(self.ledger.place(number), 0)
        return len(request.prompt_tokens) + self.config.sampler.completion_length + len(request.suffix_tokens)

    def active(self, role: str) -> list[Worker]:
        """Workers that are given work, now or when they have recovered."""
        return [worker for worker in self.workers[role].values() if not worker.leaving]

    def serving(self, role: str) -> list[Worker]:
        """Workers that work or could: without those that have died and are not back."""
        return [worker for worker in self.active(role) if not worker.recovering]

    def problem_id(self, number: int) -> str:
        """The problem of group `number`."""
        return self.schedule.problem(self.ledger.place(number)).problem_id

    def lose(self, attempts: list[Attempt], *, counted: bool) -> None:
        """Attempts whose holder is gone. A group that is lost too often counts as an infrastructure fault."""
        for attempt in attempts:
            alone = len(attempts) == 1
            if self.ledger.lose(*attempt, counted=counted, alone=alone) is State.QUARANTINED:
                self.guard(workers_died("rollout", self.config.replay.completions))

    def guard(self, verdicts: Sequence[Verdict]) -> None:
        """Count the samples of a group, and stop the run if too many are lost to faults."""
        try:
            self.faults.count(verdicts)
        except ConfigError as error:
            self.fail(error)

    def is_ready(self, number: int) -> bool:
        """True while the payload of group `number` may still be leased."""
        entry = self.ledger.entries.get(number)
        return entry is not None and entry.state is State.READY

    def fail(self, error: BaseException) -> None:
        """A defect: keep it for the driver, which stops the run with it."""
        self.failure = self.failure or original(error)

    def answered(self, worker: Worker, info: WorkerInfo) -> None:
        """A worker answered and described itself; if it died while idle, it is another process now."""
        if info.pid != worker.info.pid and not worker.recovering:
            self._count_loss(worker)
            self.losses.append(Loss(worker.role, worker.index, "its process died while it had no work", 0.0))
        worker.info = info

    async def check(self, worker: Worker) -> None:
        """Ask a worker that has had no work for a while whether it is alive; wait for its recovery if it is not."""
        if self.resting or time.monotonic() - worker.since < IDLE_SECONDS:
            return  # at work for an evaluation, it would answer late
        worker.since = time.monotonic()
        try:
            limit = getattr(self.config, worker.role).timeout
            self.answered(worker, await asyncio.wait_for(worker.handle.describe.remote(), limit))
        except (RayError, TimeoutError) as error:
            await self.recover(worker, error)

    async def recover(self, worker: Worker, error: BaseException) -> None:
        """Wait until a worker that died answers again; a hung one is killed first, one that does not restart is removed."""
        self._count_loss(worker)
        worker.recovering, began = True, time.monotonic()
        reason = self._reason(worker, error)
        log.warning("%s worker %d: %s", worker.role, worker.index, error)  # goes to Ray's log of this process
        if isinstance(error, TimeoutError):
            ray.kill(worker.handle, no_restart=False)
        while not worker.leaving:
            try:
                worker.info = await asyncio.wait_for(worker.handle.describe.remote(), self.config.ray.call_timeout)
                worker.recovering = False
                self.losses.append(Loss(worker.role, worker.index, reason, time.monotonic() - began))
                return
            except (RayError, TimeoutError) as failure:
                if is_gone(failure):
                    worker.leaving = True  # the driver starts another
                    self.losses.append(Loss(worker.role, worker.index, self._reason(worker, failure), None))
                else:
                    await asyncio.sleep(0.5)

    def _reason(self, worker: Worker, error: BaseException) -> str:
        """Why a worker was lost, over what, and with which functions of the user."""
        if isinstance(error, TimeoutError):
            limit = getattr(self.config, worker.role).timeout
            reason = f"no answer within {worker.role}.timeout = {limit:g} s"
        else:
            reason = reason_of(error)
        return f"{reason}{self.over(worker)}"

    def over(self, worker: Worker) -> str:
        """The work of a worker, for a message."""
        if not worker.work:
            return ""
        own = ", ".join(name for name in self.config.reward.functions if ":" in name) if worker.role == "reward" else ""
        return f" over {worker.work}" + (f" with {own}" if own else "")

    def _count_loss(self, worker: Worker) -> None:
        worker.lost += 1
        self.lost[worker.role] += 1

    def report_losses(self) -> tuple[Loss, ...]:
        """The losses since the last report."""
        reported, self.losses = tuple(self.losses), []
        return reported

    def notify(self) -> None:
        """Wake every task that waits for a change."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def wait(self, seconds: float) -> bool:
        """Wait for any change; False if `seconds` pass first.

        It listens before it awaits anything, so a task that checks and then waits misses no change.
        """
        if seconds <= 0:
            return False
        try:
            await asyncio.wait_for(self._changed.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` as another task; an error in it stops the run."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.fail(error)
