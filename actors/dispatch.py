"""Evaluation work on the actors of a pool: assigned as they become free, repeated when one of them dies."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import RayError

from couplet.actors.messages import PublishedWeights, ScoreReply
from couplet.actors.remote import DIED, WeightsLate, cause_lines, is_defect, original, raised
from couplet.actors.worker_pool import WorkerPool
from couplet.data.problem import Problem
from couplet.data.trajectory import PromptGroup, ScoredGroup
from couplet.data.verdict import Verdict
from couplet.evaluation.request import EvalRequest
from couplet.reward.fault_limit import workers_died
from couplet.reward.judgement import Judgement, judge_in_rounds
from couplet.training.factory import chunked

IN_FLIGHT = 2  # evaluation calls in flight per worker, so that it never waits for the driver
WEIGHTS_TRIES = 5  # calls in a row that may find their weights lost before an evaluation fails

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass
class _Call(Generic[Job]):
    """One job in flight."""

    job: Job
    killed: int = 0  # actors that have died over it
    index: int = -1  # of the actor that has it now
    alone: bool = False  # that actor has no other call
    since: float = math.inf  # when it became the first of its actor's calls


class Dispatch(Generic[Job, Result]):
    """Assigns jobs to the actors of one role.

    A job during which an actor died is repeated alone on its actor. Otherwise an answer may be lost because another
    call killed the process; only a call that runs alone is certain to have killed it.

    Args:
        pool: whose actors do the work.
        role: rollout | reward.
        submit: makes the call.
        poisoned: the result of a job that has killed `replay.max_attempts` actors; None raises instead.
    """

    def __init__(
        self,
        pool: WorkerPool,
        role: str,
        submit: Callable[[ActorHandle, Job], ObjectRef],
        poisoned: Callable[[Job], Result] | None = None,
    ) -> None:
        self.pool = pool
        self.role = role
        self.submit = submit
        self.poisoned = poisoned
        self.limit: float = getattr(pool.config, role).timeout
        self._again: list[_Call[Job]] = []
        self._flying: dict[ObjectRef, _Call[Job]] = {}
        self._ended = False  # no job waits to be given out for the first time
        self._last = 0.0  # when an actor last had work
        self._lost = 0  # calls in a row that found their weights lost

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Result]]:
        """(job, result) of every job, as they arrive; jobs are taken as actors become free.

        Raises:
            TimeoutError: no actor to work for the role's `timeout`, or weights that stay lost.
            Exception: what the actor's code raised.
        """
        waiting = (_Call(job) for job in jobs)
        self._ended, self._last = False, time.monotonic()
        while True:
            self.pool.reconcile()
            self._hand_out(waiting)
            if self._ended and not self._flying and not self._again:
                return
            done = ray.wait(list(self._flying), timeout=1.0)[0] if self._flying else []
            self._replace_hung()
            if not done:
                self._require_progress()
                continue
            call = self._flying.pop(done[0])
            self._last = time.monotonic()
            self._first_of(call.index)
            try:
                result: Result = ray.get(done[0], timeout=self.limit)
            except DIED as error:
                if not self._died(call, error):
                    continue
                assert self.poisoned is not None
                result = self.poisoned(call.job)
            except (RayError, TimeoutError) as error:
                self._missed(call, error)
                continue
            self._lost = 0
            if isinstance(call.job, Judgement):
                call.job.avoid = call.index
            yield call.job, result

    def _replace_hung(self) -> None:
        """End the actors that do not answer in time; their calls fail and are repeated."""
        now = time.monotonic()
        for call in [call for call in self._flying.values() if now - call.since > self.limit]:
            call.since = math.inf
            self.pool.kill(self.role, call.index, f"no answer within {self.role}.timeout = {self.limit:g} s")

    def _require_progress(self) -> None:
        """Wait a moment; raise if there has been no actor to work for too long."""
        if self._flying:
            self._last = time.monotonic()
        elif time.monotonic() - self._last > self.limit:
            raise TimeoutError(f"{self.role} actors: none to work within {self.role}.timeout = {self.limit:.0f} s")
        else:
            time.sleep(0.1)

    def _first_of(self, index: int) -> None:
        """The clock of an actor's next call starts."""
        calls = [call for call in self._flying.values() if call.index == index]
        if calls:
            calls[0].since = min(calls[0].since, time.monotonic())

    def _hand_out(self, waiting: Iterator[_Call[Job]]) -> None:
        """Give every usable actor its calls."""
        usable = self.pool.usable(self.role)
        for index, handle in usable:
            load = [call.killed for call in self._flying.values() if call.index == index]
            while len(load) < IN_FLIGHT and not any(load):
                call = self._next(waiting, index, bool(load), len(usable) > 1)
                if call is None:
                    break
                call.index, call.alone = index, call.killed > 0
                self._flying[self.submit(handle, call.job)] = call
                self._first_of(index)
                load.append(call.killed)
                self._last = time.monotonic()

    def _next(self, waiting: Iterator[_Call[Job]], index: int, busy: bool, others: bool) -> _Call[Job] | None:
        """A call for actor `index`: one to repeat, else a new one; a job that another can judge again goes to another."""

        def fits(call: _Call[Job]) -> bool:
            avoided = isinstance(call.job, Judgement) and call.job.avoid == index
            return not (call.killed and busy) and not (avoided and others)

        for place in reversed(range(len(self._again))):
            if fits(self._again[place]):
                return self._again.pop(place)
        for call in waiting:
            if fits(call):
                return call
            self._again.append(call)
        self._ended = True
        return None

    def _died(self, call: _Call[Job], error: Exception) -> bool:
        """The actor of a call died: repeat the call, or return True if it has killed too many."""
        call.killed += self.pool.note_death(self.role, call.index, error)
        if call.killed < self.pool.config.replay.max_attempts or not call.alone:
            self._again.append(call)
            return False
        if self.poisoned is None:
            raise RuntimeError(
                f"{call.killed} {self.role} actors died over the same work; the last: {error}"
            ) from error
        return True

    def _missed(self, call: _Call[Job], error: Exception) -> None:
        """The weights or the data of a call were lost: publish again and repeat it. A defect is raised."""
        if is_defect(error):
            raise original(error) from None
        self._lost += 1
        if self._lost == WEIGHTS_TRIES:
            raise TimeoutError(
                f"{self.role} actors lost the weights or the data of their call {self._lost} times in a row; the last: "
                f"{cause_lines(error)}; free object-store memory (ray.object_store_mb) or raise weights.timeout"
            ) from error
        if not isinstance(raised(error), WeightsLate):
            self.pool.republish()
        self._again.append(call)


def sample_and_judge_on(
    pool: WorkerPool, weights: Callable[[], PublishedWeights], request: EvalRequest
) -> list[ScoredGroup]:
    """The groups of `request`, generated with `weights()` and judged as they arrive; in prompt order."""

    def generate(actor: ActorHandle, chunk: Any) -> ObjectRef:
        return actor.generate.remote(chunk, weights(), request.sampler)

    def groups() -> Iterator[PromptGroup]:
        for _, found in Dispatch[Any, Any](pool, "rollout", generate).run(chunks):
            yield from found if isinstance(found, tuple) else (found,)

    chunks = chunked(request.rollouts(), pool.config.rollout.groups_per_call)
    results: dict[int, ScoredGroup] = {}
    for scored in judge_groups(pool, groups(), lambda group: request.prompts.problems[group.group_id.problem]):
        results[request.report(scored)] = scored
    return [results[index] for index in range(len(request.prompts))]


def judge_groups(
    pool: WorkerPool, groups: Iterable[PromptGroup], problem: Callable[[PromptGroup], Problem]
) -> Iterator[ScoredGroup]:
    """Verdicts of groups as they arrive; samples lost to infrastructure faults are judged again."""

    def submit(actor: ActorHandle, job: Judgement[PromptGroup]) -> ObjectRef:
        return actor.score.remote(problem(job.subject), job.subject, tuple(job.pending), pool.tiers)

    def judge(jobs: Iterable[Judgement[PromptGroup]]) -> Iterator[tuple[Judgement[PromptGroup], list[Verdict]]]:
        for job, reply in Dispatch(pool, "reward", submit, quarantined).run(jobs):
            yield job, reply.verdicts if isinstance(reply, ScoreReply) else reply

    work = (Judgement(group, group.completions, pool.config.reward.retries) for group in groups)
    for job in judge_in_rounds(work, judge):
        yield ScoredGroup(job.subject, tuple(job.verdicts))


def quarantined(job: Judgement[Any]) -> list[Verdict]:
    """Verdicts for samples that keep killing the actor that judges them."""
    return workers_died("reward", len(job.pending))
