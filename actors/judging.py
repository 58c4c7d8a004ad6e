"""The judging half of the replay queue: generated groups to reward actors, and back as ready groups."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ray.exceptions import RayError

from couplet.actors.remote import DIED, is_defect
from couplet.actors.replay_state import IDLE_SECONDS, Hub, Worker
from couplet.data.trajectory import is_zero_signal
from couplet.data.verdict import Verdict
from couplet.replay.record import State
from couplet.training.evaluator import faulty
from couplet.training.step_metrics import workers_died


@dataclass
class Job:
    """One generated group on its way through judging."""

    number: int
    attempt: int
    group: Any  # reference to the PromptGroup
    generated: float
    verdicts: list[Verdict] | None = None
    tries: int = 0
    avoid: int | None = None  # reward worker that failed it last


class Judging:
    """One `serve` task per reward actor, all fed from one line of jobs."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.jobs: deque[Job] = deque()
        self.ready: dict[int, tuple[Any, tuple[Verdict, ...]]] = {}  # number -> reference to its group, verdicts

    def add(self, number: int, attempt: int, group: Any) -> None:
        """A group has been generated."""
        self.jobs.append(Job(number, attempt, group, time.monotonic()))

    async def serve(self, worker: Worker) -> None:
        """Keep one reward actor busy until it leaves."""
        while not worker.leaving:
            job = self._next_job(worker)
            if job is None:
                await self.hub.wait(IDLE_SECONDS)
                continue
            try:
                await self._judge(worker, job)
            except (*DIED, TimeoutError) as error:
                if is_defect(error):
                    self.hub.fail(error)
                else:
                    self._try_again(job, worker)
                    self.hub.notify()
                    await self.hub.recover(worker, error)
            except RayError as error:
                self.hub.lose([(job.number, job.attempt)], counted=False)  # the group went with the node that held it
                if is_defect(error):
                    self.hub.fail(error)
            self.hub.notify()

    def take(self, numbers: Sequence[int]) -> tuple[list[Any], list[tuple[Verdict, ...]]]:
        """References and verdicts of leased groups; payloads that went stale are let go."""
        taken = [self.ready.pop(number) for number in numbers]
        for number in [n for n in self.ready if not self.hub.is_ready(n)]:
            del self.ready[number]
        return [group for group, _ in taken], [verdicts for _, verdicts in taken]

    def _next_job(self, worker: Worker) -> Job | None:
        judges = {judge.index: judge for judge in self._judges()}
        if worker.index not in judges:
            return None
        others = any(index != worker.index and not other.recovering for index, other in judges.items())
        for place, job in enumerate(self.jobs):
            if job.avoid != worker.index or not others:
                del self.jobs[place]
                if self.hub.ledger.holds(job.number, job.attempt):
                    return job
                return self._next_job(worker)
        return None

    def _judges(self) -> list[Worker]:
        """Workers that are given jobs: those in a tier the run accepts, or all where there is none.

        A refused one answers faults at once, so it would always be free and take nearly every job.
        """
        active = self.hub.active("reward")
        return [w for w in active if not self.hub.tiers or w.info["tier"] in self.hub.tiers] or active

    async def _judge(self, worker: Worker, job: Job) -> None:
        which = None if job.verdicts is None else faulty(job.verdicts)
        self.hub.ledger.scoring(job.number, job.attempt, time.monotonic())
        worker.calls += 1
        call = worker.handle.score.remote(self.hub.book.problem(job.number), job.group, which, self.hub.tiers)
        verdicts, seconds, info = await asyncio.wait_for(call, self.hub.config.reward.timeout)
        self.hub.answered(worker, info)
        self.hub.progress += 1
        self.hub.telemetry.judged(verdicts, seconds, time.monotonic())
        if job.verdicts is None or which is None:
            job.verdicts = list(verdicts)
        else:
            for place, verdict in zip(which, verdicts, strict=True):
                job.verdicts[place] = verdict
        if faulty(job.verdicts) and job.tries < self.hub.config.reward.retries:
            job.tries, job.avoid = job.tries + 1, worker.index
            self.hub.spawn(self._later(job, 0.1 * 2**job.tries))
        else:
            self._settle(job)

    async def _later(self, job: Job, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self.jobs.append(job)
        self.hub.notify()

    def _try_again(self, job: Job, worker: Worker) -> None:
        """Judge again on another worker; a group that keeps killing its worker is quarantined, not scored 0."""
        job.tries, job.avoid = job.tries + 1, worker.index
        if job.tries <= self.hub.config.reward.retries:
            self.jobs.appendleft(job)
            return
        job.verdicts = workers_died("reward", self.hub.config.replay.completions)
        self._settle(job)

    def _settle(self, job: Job) -> None:
        assert job.verdicts is not None
        now = time.monotonic()
        self.hub.guard(job.verdicts)
        valid, silent = sum(v.outcome.is_verdict for v in job.verdicts), is_zero_signal(job.verdicts)
        state = self.hub.ledger.ready(job.number, job.attempt, now, valid=valid, zero_signal=silent)
        if state is State.READY:
            self.ready[job.number] = (job.group, tuple(job.verdicts))
            self.hub.telemetry.ready(now - job.generated)
