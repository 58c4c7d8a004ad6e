"""Rollout and reward actors: started, counted, replaced. The driver owns them all."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import RayError

from couplet.actors.messages import ROLES, StartedWorker, WorkerInfo
from couplet.actors.remote import cause_lines, is_gone, named, start_actor
from couplet.actors.reward_actor import RewardActor
from couplet.actors.rollout_actor import RolloutActor
from couplet.configs.schema import ConfigError, RunConfig

log = logging.getLogger("couplet")
START_TRIES = 3  # replacements that may fail to start, in a row, before the run stops


@dataclass
class Member:
    """One actor of the pool; `info` is None until it has answered."""

    handle: ActorHandle
    answer: ObjectRef  # reference to the answer of `describe`
    info: WorkerInfo | None = None
    restarting: bool = False  # its process died; wait for the next one to answer
    leaving: bool = False

    @property
    def unanswered(self) -> bool:
        """True while its answer is awaited: it gets no work."""
        return self.info is None or self.restarting


class WorkerPool:
    """The rollout and reward actors of one run.

    Args:
        config: the run.
        start: folder of the policy the rollout actors load.
        reconcile: called about every second while the driver waits for evaluation work; by default it replaces workers
            that died.
        republish: called when the weights of a call were lost.
        owner: whose actors they are in Ray's dashboard; by default the run.
    """

    def __init__(
        self,
        config: RunConfig,
        start: str,
        reconcile: Callable[[], None] | None = None,
        republish: Callable[[], None] = lambda: None,
        owner: str | None = None,
    ) -> None:
        self.config = config
        self.owner = owner or config.name
        self.start = start
        self.members: dict[str, dict[int, Member]] = {role: {} for role in ROLES}
        self.targets = dict.fromkeys(ROLES, 0)
        self.tiers: tuple[str, ...] = ()  # sandbox tiers the run accepts; empty: any
        self.reconcile = reconcile or self._renew
        self.republish = republish
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
        """Mark the youngest surplus actors as leaving. Returns (role, index) of those that may hold work."""
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

    def follow(self, held: Mapping[str, Mapping[int, WorkerInfo]]) -> None:
        """Stop actors that the queue no longer holds (they died for good, or left); note restarted processes."""
        for role in ROLES:
            for index, member in [(i, m) for i, m in self.members[role].items() if m.info is not None]:
                if index in held[role]:
                    member.info = held[role][index]
                else:
                    self.remove(role, index)

    def wait_until_started(self) -> list[StartedWorker]:
        """Wait for every actor's first answer.

        Raises:
            ConfigError: an actor could not start, or the cluster had no free resources for it in time.
        """
        seconds = self.config.ray.call_timeout
        deadline = time.monotonic() + seconds
        while waiting := [(role, i) for role in ROLES for i, m in self.members[role].items() if m.unanswered]:
            self.newly_started(seconds=1.0, tries=1)
            if time.monotonic() > deadline:
                role, index = waiting[0]
                cpus, free = getattr(self.config, role).cpus, ray.available_resources().get("CPU", 0)
                raise ConfigError(
                    f"{role} actor {index} did not start within ray.call_timeout = {seconds:.0f} s; it asks for "
                    f"{cpus:g} CPU, free are {free:g}: lower {role}.actors or {role}.cpus, or add nodes"
                )
        return self.serving()

    def newly_started(self, seconds: float = 0.0, tries: int = START_TRIES) -> list[StartedWorker]:
        """Actors that gave their first answer since the last call, within `seconds`.

        An actor that died while it started is dropped, so that `grow` starts another; `ConfigError` after `tries` times
        in a row. A restarted actor is used again once it answers.
        """
        pending = {m.answer: (role, i, m) for role in ROLES for i, m in self.members[role].items() if m.unanswered}
        done, _ = ray.wait(list(pending), num_returns=len(pending), timeout=seconds) if pending else ([], [])
        started = []
        for ref in done:
            role, index, member = pending[ref]
            try:
                info: WorkerInfo = ray.get(ref, timeout=self.config.ray.call_timeout)
            except RayError as error:
                if member.restarting:
                    self._ask_again(role, index, error)
                    continue
                self.remove(role, index)
                self._failed_starts += 1
                if self._failed_starts >= tries:
                    raise ConfigError(f"{role} actor {index} could not start: {cause_lines(error)}") from error
                continue
            if not member.restarting:
                self._failed_starts = 0
                started.append(StartedWorker(role, index, member.handle, info))
            member.info, member.restarting = info, False
        return started

    def serving(self) -> list[StartedWorker]:
        """Every actor that has answered and is not leaving."""
        return [
            StartedWorker(role, index, member.handle, member.info)
            for role in ROLES
            for index, member in self.members[role].items()
            if member.info is not None and not member.leaving
        ]

    def usable(self, role: str) -> list[tuple[int, ActorHandle]]:
        """(index, handle) of the actors that get work; none in a refused tier while there is another."""
        usable = [(i, m) for i, m in self.members[role].items() if not m.unanswered and not m.leaving]
        if role == "reward" and self.tiers:
            usable = [(i, m) for i, m in usable if m.info is not None and m.info.tier in self.tiers] or usable
        return [(i, m.handle) for i, m in usable]

    def note_death(self, role: str, index: int, error: Exception) -> bool:
        """An actor died during a call. False if the call certainly did not run: it waited behind another."""
        member = self.members[role].get(index)
        if member is None or member.restarting:
            return False
        self._ask_again(role, index, error)
        return True

    def kill(self, role: str, index: int, reason: str) -> None:
        """End the process of an actor that does not answer; Ray starts another."""
        member = self.members[role].get(index)
        if member is not None:
            log.warning("%s worker %d: %s; it is replaced", role, index, reason)
            ray.kill(member.handle, no_restart=False)

    def stop(self) -> None:
        """Stop every actor."""
        for role in ROLES:
            for index in list(self.members[role]):
                self.remove(role, index)

    def _renew(self) -> None:
        self.newly_started()
        self.grow({})

    def _ask_again(self, role: str, index: int, error: Exception) -> None:
        """Wait for the next process of an actor that died; one that is gone for good is dropped."""
        if is_gone(error):
            self.remove(role, index)
        else:
            member = self.members[role][index]
            member.restarting, member.answer = True, member.handle.describe.remote()

    def _launch(self, role: str, index: int) -> ActorHandle:
        section = getattr(self.config, role)
        options = {
            **named(self.owner, role, index),
            "label_selector": section.labels,
            "num_cpus": section.cpus,
            "num_gpus": getattr(section, "gpus", 0.0),
            "max_restarts": getattr(section, "max_restarts", -1),
            "max_task_retries": 0,
            "scheduling_strategy": "SPREAD" if role == "reward" else "DEFAULT",
        }
        if role == "rollout":
            return start_actor(RolloutActor, options, self.config, self.start, index)
        arguments = self.config.name, self.config.reward, self.config.sandbox, index
        return start_actor(RewardActor, options, *arguments)
