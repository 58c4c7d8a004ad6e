"""The judging half of the replay queue: sends generated groups to reward actors, which makes them ready."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import ray
from ray import ObjectRef
from ray.exceptions import RayError

from couplet.actors.messages import ScoreReply
from couplet.actors.remote import DIED, is_defect
from couplet.actors.replay_state import IDLE_SECONDS, Hub, Worker
from couplet.data.trajectory import is_zero_signal
from couplet.data.verdict import Verdict, solved_count
from couplet.replay.record import Attempt, State
from couplet.reward.fault_limit import workers_died
from couplet.reward.judgement import Judgement


@dataclass
class Job:
    """One generated group in judging."""

    attempt: Attempt
    group: ObjectRef  # of the PromptGroup
    generated: float
    judgement: Judgement[Attempt]


class Judging:
    """One `serve` task per reward actor, all fed from one queue of jobs."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.jobs: deque[Job] = deque()
        self.ready: dict[int, tuple[ObjectRef, tuple[Verdict, ...]]] = {}  # number -> its group, verdicts
        self.filtered: dict[int, tuple[ObjectRef, tuple[Verdict, ...]]] = {}  # likewise, until the driver has them

    def add(self, attempt: Attempt, group: ObjectRef) -> None:
        """A group has been generated."""
        config = self.hub.config
        judgement = Judgement(attempt, config.replay.completions, config.reward.retries)
        self.jobs.append(Job(attempt, group, time.monotonic(), judgement))

    async def serve(self, worker: Worker) -> None:
        """Keep one reward actor busy until it leaves."""
        while not worker.leaving:
            job = self._next_job(worker)
            if job is None:
                await self.hub.check(worker)
                await self.hub.wait(IDLE_SECONDS)
                continue
            worker.begin(self.hub.problem_id(job.attempt.number))
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
                self.hub.lose([job.attempt], counted=False)  # the group was lost with its node
                if is_defect(error):
                    self.hub.fail(error)
            worker.end()
            self.hub.notify()

    def take(self, numbers: Sequence[int]) -> tuple[tuple[ObjectRef, ...], tuple[tuple[Verdict, ...], ...]]:
        """References and verdicts of leased groups; the payloads of stale groups are released."""
        taken = [self.ready.pop(number) for number in numbers]
        for number in [n for n in self.ready if not self.hub.is_ready(n)]:
            del self.ready[number]
        return tuple(group for group, _ in taken), tuple(verdicts for _, verdicts in taken)

    def _next_job(self, worker: Worker) -> Job | None:
        judges = {judge.index: judge for judge in self._judges()}
        if worker.index not in judges or self.hub.resting:
            return None
        others = any(index != worker.index and not other.recovering for index, other in judges.items())
        for place, job in enumerate(self.jobs):
            if job.judgement.avoid != worker.index or not others:
                del self.jobs[place]
                if self.hub.ledger.holds(*job.attempt):
                    return job
                return self._next_job(worker)
        return None

    def _judges(self) -> list[Worker]:
        """Workers that get jobs: those in a tier the run accepts, or all if there is none.

        A worker in another tier returns faults at once, so it would always be free and take nearly every job.
        """
        active = self.hub.active("reward")
        return [w for w in active if not self.hub.tiers or w.info.tier in self.hub.tiers] or active

    async def _judge(self, worker: Worker, job: Job) -> None:
        now = time.monotonic()
        self.hub.ledger.scoring(*job.attempt, now)
        if job.judgement.avoid is None:
            self.hub.telemetry.taken(now - job.generated)
        worker.calls += 1
        problem, pending = (
            self.hub.schedule.problem(self.hub.ledger.place(job.attempt.number)),
            tuple(job.judgement.pending),
        )
        call: ObjectRef = worker.handle.score.remote(problem, job.group, pending, self.hub.tiers)
        reply: ScoreReply = await asyncio.wait_for(call, self.hub.config.reward.timeout)
        self.hub.answered(worker, reply.info)
        self.hub.progress += 1
        self.hub.telemetry.judged(reply.verdicts, reply.seconds, time.monotonic())
        job.judgement.record(reply.verdicts)
        if job.judgement.pending:
            job.judgement.avoid = worker.index
            self.hub.spawn(self._later(job, job.judgement.pause))
        else:
            if self.hub.config.replay.refill and is_zero_signal(job.judgement.verdicts):
                job.group = ray.put(await job.group)  # it is final: no death of another node may lose it now
            self._settle(job, job.judgement.verdicts)

    async def _later(self, job: Job, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self.jobs.append(job)
        self.hub.notify()

    def _try_again(self, job: Job, worker: Worker) -> None:
        """Judge again on another worker; a group that keeps killing its worker is quarantined, not scored 0."""
        job.judgement.avoid = worker.index
        if job.judgement.fail():
            self.jobs.appendleft(job)
        else:
            self._settle(job, workers_died("reward", self.hub.config.replay.completions))

    def _settle(self, job: Job, verdicts: Sequence[Verdict]) -> None:
        now = time.monotonic()
        self.hub.guard(verdicts)
        valid, zero_signal = sum(v.outcome.is_verdict for v in verdicts), is_zero_signal(verdicts)
        solved = solved_count(verdicts)
        self.hub.telemetry.settled(self.hub.row_length(job.attempt.number), zero_signal)
        state = self.hub.ledger.ready(*job.attempt, now, valid=valid, zero_signal=zero_signal, solved=solved)
        if state is State.FILTERED:
            self.filtered[job.attempt.number] = (job.group, tuple(verdicts))
        if state is State.READY:
            self.ready[job.attempt.number] = (job.group, tuple(verdicts))
            self.hub.telemetry.ready(now - job.generated)
