"""Rollout and reward actors: started, counted, replaced, and used directly for evaluation. The driver owns them all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from couplet.actors.remote import DIED, WeightsLate, is_defect, is_gone, original, raised
from couplet.actors.replay_state import ROLES
from couplet.actors.reward_actor import RewardActor
from couplet.actors.rollout_actor import RolloutActor
from couplet.configs.schema import ConfigError, RunConfig
from couplet.data.problem import Problem
from couplet.data.trajectory import PromptGroup, ScoredGroup
from couplet.data.verdict import Verdict
from couplet.reward.fault_limit import workers_died
from couplet.reward.judgement import Judgement, judge_in_rounds

NAMESPACE = "couplet"
IN_FLIGHT = 2  # evaluation calls per worker, so that it never waits for the driver
START_TRIES = 3  # replacements that may fail to start, in a row, before the run stops
WEIGHTS_TRIES = 5  # calls in a row that may find their weights lost before an evaluation stops
NOTHING = object()


def replay_name(run: str) -> str:
    """Name of a run's replay queue, by which `status` and `scale` find it."""
    return f"replay:{run}"


@dataclass
class Member:
    """One actor of the pool; `info` is None until it has answered."""

    handle: Any
    answer: Any  # reference to what `describe` will say
    info: dict[str, Any] | None = None
    restarting: bool = False  # its process died; it is asked until the next one answers
    leaving: bool = False

    @property
    def silent(self) -> bool:
        """True while its answer is waited for: it is given no work."""
        return self.info is None or self.restarting


class WorkerPool:
    """The rollout and reward actors of one run.

    Args:
        config: the run.
        start: folder of the policy the rollout actors load.
        tend: called about every second while the driver waits for evaluation work; by default it replaces what died.
        republish: called when an actor found the weights of its call lost.
    """

    def __init__(
        self,
        config: RunConfig,
        start: str,
        tend: Callable[[], None] | None = None,
        republish: Callable[[], None] = lambda: None,
    ) -> None:
        self.config = config
        self.start = start
        self.members: dict[str, dict[int, Member]] = {role: {} for role in ROLES}
        self.targets = dict.fromkeys(ROLES, 0)
        self.tiers: tuple[str, ...] = ()  # sandbox tiers the run accepts; empty: any
        self._tend = tend or self._renew
        self._republish = republish
        self._next = dict.fromkeys(ROLES, 0)
        self._failed_starts = 0

    def grow(self, targets: Mapping[str, int]) -> None:
        """Start actors until there are as many as wanted."""
        self.targets |= targets
        for role in ROLES:
            while sum(not m.leaving for m in self.members[role].values()) < self.targets[role]:
                index, self._next[role] = self._next[role], self._next[role] + 1
                handle = self._launch(role, index)
                self.members[role][index] = Member(handle, handle.describe.remote())

    def counts(self) -> dict[str, int]:
        """Actors that are in service, at least one per role."""
        return {role: max(1, sum(m.info is not None for m in self.members[role].values())) for role in ROLES}

    def dismiss(self, targets: Mapping[str, int]) -> list[tuple[str, int]]:
        """Mark the youngest actors beyond the wanted number as leaving; returns those that may still hold work."""
        holding = []
        for role in ROLES:
            staying = sorted(index for index, member in self.members[role].items() if not member.leaving)
            for index in staying[targets[role] :]:
                if self.members[role][index].info is None:
                    self.remove(role, index)
                else:
                    self.members[role][index].leaving = True
                    holding.append((role, index))
        return holding

    def remove(self, role: str, index: int) -> None:
        """Stop an actor."""
        ray.kill(self.members[role].pop(index).handle)

    def follow(self, held: Mapping[str, Mapping[int, dict[str, Any]]]) -> None:
        """Stop actors that the queue does not hold any more (they died for good, or left); note restarted processes."""
        for role in ROLES:
            for index, member in [(i, m) for i, m in self.members[role].items() if m.info is not None]:
                if index in held[role]:
                    member.info = held[role][index]
                else:
                    self.remove(role, index)

    def wait_until_started(self) -> list[tuple[str, int, Any, dict[str, Any]]]:
        """Wait for every actor's first answer; (role, index, handle, info) of each.

        Raises:
            ConfigError: an actor could not start, or found no room on the cluster in time.
        """
        deadline = time.monotonic() + self.config.ray.call_timeout
        while waiting := [(role, i) for role in ROLES for i, m in self.members[role].items() if m.silent]:
            self.newly_started(seconds=1.0, tries=1)
            if time.monotonic() > deadline:
                role, index = waiting[0]
                section = getattr(self.config, role)
                raise ConfigError(
                    f"{role} actor {index} did not start within ray.call_timeout = {self.config.ray.call_timeout:.0f} s; "
                    f"it asks for {section.cpus:g} CPU, free are {ray.available_resources().get('CPU', 0):g}: "
                    f"lower {role}.actors or {role}.cpus, or add nodes"
                )
        return self.serving()

    def newly_started(
        self, seconds: float = 0.0, tries: int = START_TRIES
    ) -> list[tuple[str, int, Any, dict[str, Any]]]:
        """Actors that have given their first answer since the last look, waited for at most `seconds`.

        One that died while it started is dropped, so that `grow` starts another; `ConfigError` when that has happened
        `tries` times in a row. One that is restarted is used again once it answers.
        """
        pending = {m.answer: (role, i, m) for role in ROLES for i, m in self.members[role].items() if m.silent}
        done, _ = ray.wait(list(pending), num_returns=len(pending), timeout=seconds) if pending else ([], [])
        started = []
        for ref in done:
            role, index, member = pending[ref]
            try:
                member.info = ray.get(ref, timeout=self.config.ray.call_timeout)
            except RayError as error:
                if member.restarting:
                    self._ask_again(role, index, error)
                    continue
                self.remove(role, index)
                self._failed_starts += 1
                if self._failed_starts >= tries:
                    raise ConfigError(f"{role} actor {index} could not start: {_cause(error)}") from error
                continue
            assert member.info is not None
            if not member.restarting:
                self._failed_starts = 0
                started.append((role, index, member.handle, member.info))
            member.restarting = False
        return started

    def serving(self) -> list[tuple[str, int, Any, dict[str, Any]]]:
        """(role, index, handle, info) of every actor that has answered and is to stay."""
        return [
            (role, index, member.handle, member.info)
            for role in ROLES
            for index, member in self.members[role].items()
            if member.info is not None and not member.leaving
        ]

    def spread(
        self,
        role: str,
        jobs: Iterable[Any],
        submit: Callable[[Any, Any], Any],
        poisoned: Callable[[Any], Any] | None = None,
    ) -> Iterator[tuple[Any, Any]]:
        """(job, result of `submit(handle, job)`) of every job, as they come; where an actor dies, its job is redone.

        A job that an actor has died over is redone alone on its actor: an answer on its way may be lost with a process
        that the next call kills, so only of a call that is alone is it certain that it did the killing.

        Args:
            role: rollout | reward.
            jobs: anything; taken as actors become free.
            submit: makes the call.
            poisoned: the result of a job that has killed `replay.max_attempts` actors; None raises instead.

        Raises:
            TimeoutError: no answer within the role's `timeout`, or weights that stay lost.
            Exception: what the actor's code raised.
        """
        waiting, ended = iter(jobs), False
        again: list[tuple[Any, int]] = []
        flying: dict[Any, tuple[int, Any, int]] = {}  # reference -> actor, job, actors it has killed
        limit = getattr(self.config, role).timeout
        last, lost = time.monotonic(), 0
        while True:
            self._tend()
            for index, member in self._usable(role):
                load = [killed for i, _, killed in flying.values() if i == index]
                while len(load) < IN_FLIGHT and not any(load):
                    redo = again and not (load and again[-1][1])
                    job, killed = again.pop() if redo else (next(waiting, NOTHING), 0)
                    if job is NOTHING:
                        ended = True
                        break
                    flying[submit(member.handle, job)] = (index, job, killed)
                    load.append(killed)
                    last = time.monotonic()
            if ended and not flying and not again:
                return
            done = ray.wait(list(flying), timeout=1.0)[0] if flying else []
            if not done:
                if time.monotonic() - last > limit:
                    raise TimeoutError(f"{role} actors: no answer within {role}.timeout = {limit:.0f} s")
                time.sleep(0.0 if flying else 0.1)
                continue
            index, job, killed = flying.pop(done[0])
            last = time.monotonic()
            try:
                result = ray.get(done[0], timeout=limit)
            except DIED as error:
                killed += self._note_death(role, index, error)
                if killed < self.config.replay.max_attempts:
                    again.append((job, killed))
                    continue
                if poisoned is None:
                    raise RuntimeError(f"{killed} {role} actors died over the same work; the last: {error}") from error
                result = poisoned(job)
            except (RayError, TimeoutError) as error:
                if is_defect(error):
                    raise original(error) from None
                lost += 1
                if lost == WEIGHTS_TRIES:
                    raise TimeoutError(
                        f"{role} actors lost the weights or the data of their call {lost} times in a row; the last: "
                        f"{_cause(error)}; free object-store memory (ray.object_store_mb) or raise weights.timeout"
                    ) from error
                if not isinstance(raised(error), WeightsLate):
                    self._republish()
                again.append((job, killed))
                continue
            lost = 0
            yield job, result

    def judge(self, groups: Iterable[PromptGroup], problem: Callable[[PromptGroup], Problem]) -> Iterator[ScoredGroup]:
        """Verdicts for groups as they come; samples lost to infrastructure faults are judged again."""

        def submit(actor: Any, job: Judgement[PromptGroup]) -> Any:
            return actor.score.remote(problem(job.subject), job.subject, job.pending, self.tiers)

        def poisoned(job: Judgement[PromptGroup]) -> tuple[list[Verdict], float]:
            return workers_died("reward", len(job.pending)), 0.0

        def judge(jobs: Iterable[Judgement[PromptGroup]]) -> Iterator[tuple[Judgement[PromptGroup], list[Verdict]]]:
            for job, (verdicts, *_) in self.spread("reward", jobs, submit, poisoned):
                yield job, verdicts

        work = (Judgement(group, group.completions, self.config.reward.retries) for group in groups)
        for job in judge_in_rounds(work, judge):
            yield ScoredGroup(job.subject, tuple(job.verdicts))

    def stop(self) -> None:
        """Stop every actor."""
        for role in ROLES:
            for index in list(self.members[role]):
                self.remove(role, index)

    def _usable(self, role: str) -> list[tuple[int, Member]]:
        """Actors that are given work; none in a tier the run refuses while there is another."""
        usable = [(i, m) for i, m in self.members[role].items() if not m.silent and not m.leaving]
        if role == "rollout" or not self.tiers:
            return usable
        return [(i, m) for i, m in usable if m.info is not None and m.info["tier"] in self.tiers] or usable

    def _renew(self) -> None:
        self.newly_started()
        self.grow({})

    def _note_death(self, role: str, index: int, error: Exception) -> bool:
        """An actor died over a call. False where that is known: this call had only waited behind the one that ran."""
        member = self.members[role].get(index)
        if member is None or member.restarting:
            return False
        self._ask_again(role, index, error)
        return True

    def _ask_again(self, role: str, index: int, error: Exception) -> None:
        """Wait for the next process of an actor that died; one that is gone for good is dropped."""
        if is_gone(error):
            self.remove(role, index)
        else:
            member = self.members[role][index]
            member.restarting, member.answer = True, member.handle.describe.remote()

    def _launch(self, role: str, index: int) -> Any:
        section = getattr(self.config, role)
        options = {
            "num_cpus": section.cpus,
            "num_gpus": getattr(section, "gpus", 0.0),
            "max_restarts": getattr(section, "max_restarts", -1),
            "max_task_retries": 0,
            "scheduling_strategy": "SPREAD" if role == "reward" else "DEFAULT",
        }
        if role == "rollout":
            return ray.remote(RolloutActor).options(**options).remote(self.config, self.start, index)
        actor = ray.remote(RewardActor).options(**options)
        return actor.remote(self.config.name, self.config.reward, self.config.sandbox, index)


def _cause(error: BaseException) -> str:
    """What a Ray error says happened in the actor: the exception below the last frame of its traceback."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    frames = [place for place, line in enumerate(lines) if line.lstrip().startswith('File "')]
    told = [line for line in lines[frames[-1] + 1 :] if not line.startswith(" ")] if frames else lines[-1:]
    return "\n".join(told)
