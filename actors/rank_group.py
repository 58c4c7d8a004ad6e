"""A group of ranks: actors that are placed together, joined by a rendezvous, and called together with a time limit."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from couplet.actors.messages import WorkerInfo
from couplet.actors.remote import DIED, fetch_all
from couplet.configs.schema import ConfigError, LearnerConfig

DEATH_SECONDS = 1.0  # in which a call to a dead process fails


class RankGroup:
    """`learner.ranks` actors of one class.

    An actor has `rendezvous()` (address and a free port of its node) and the collective `build(address, port)`, which
    returns its `WorkerInfo`.

    Args:
        config: number of ranks, their resources, the time limit of a call.
        start_seconds: `ray.call_timeout`, the limit of placement and of the processes' start.
        create: starts the actor of a rank, with the given options of Ray.
    """

    def __init__(
        self, config: LearnerConfig, start_seconds: float, create: Callable[[int, dict[str, Any]], ActorHandle]
    ) -> None:
        self.config = config
        self.start_seconds = start_seconds
        self.create = create
        self.placement: PlacementGroup | None = None
        self.actors: list[ActorHandle] = []
        self.places: list[WorkerInfo] = []

    def reserve(self) -> None:
        """Reserve resources for all ranks on as few nodes as possible; they are kept while the ranks are replaced.

        Raises:
            ConfigError: the cluster does not have them in time.
        """
        wanted = (("CPU", self.config.cpus), ("GPU", self.config.gpus))
        share = {name: amount for name, amount in wanted if amount > 0}
        if not share or self.placement is not None:
            return
        labels = [self.config.labels] * self.config.ranks
        self.placement = placement_group([share] * self.config.ranks, "PACK", bundle_label_selector=labels)
        deadline = time.monotonic() + self.start_seconds
        while not self.placement.wait(1):
            if time.monotonic() > deadline:
                raise self._no_resources()

    def start(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Start all ranks on the reserved resources and let them join; `meanwhile` is called about every second.

        Raises:
            ConfigError: they do not start in time.
        """
        self.actors = []
        for rank in range(self.config.ranks):
            where = PlacementGroupSchedulingStrategy(self.placement, rank) if self.placement else "DEFAULT"
            options: dict[str, Any] = {"num_cpus": self.config.cpus, "num_gpus": self.config.gpus}
            options["scheduling_strategy"] = where
            if self.placement is None:
                options["label_selector"] = self.config.labels
            self.actors.append(self.create(rank, {**options, "max_restarts": 0}))
        try:
            meeting = self.probe(self.start_seconds)[0]
        except TimeoutError as error:
            raise self._no_resources() from error
        built = [actor.build.remote(*meeting) for actor in self.actors]
        seconds = max(self.config.timeout, self.start_seconds)
        self.places = fetch_all(built, "learner ranks: build (learner.timeout)", seconds, meanwhile)

    def call(self, method: str, *arguments: Any, meanwhile: Callable[[], None] = lambda: None) -> list[Any]:
        """Call every rank; a failure is raised at once, since the others of a collective cannot end then."""
        return self.wait([getattr(actor, method).remote(*arguments) for actor in self.actors], method, meanwhile)

    def wait(self, refs: Sequence[ObjectRef], method: str, meanwhile: Callable[[], None] = lambda: None) -> list[Any]:
        """The answers of all ranks to `method`, within `learner.timeout`."""
        return fetch_all(refs, f"learner ranks: {method} (learner.timeout)", self.config.timeout, meanwhile)

    def probe(self, seconds: float) -> list[tuple[str, int]]:
        """Ask every rank for its rendezvous: raises if one has died or is busy for longer than `seconds`."""
        return fetch_all([actor.rendezvous.remote() for actor in self.actors], "learner ranks: start", seconds)

    def dead(self) -> list[int]:
        """Ranks whose process has ended, as far as it is known by now."""
        calls: list[Any] = [actor.rendezvous.remote() for actor in self.actors]
        answered = set(ray.wait(calls, num_returns=len(calls), timeout=DEATH_SECONDS)[0]) if calls else set()
        return [rank for rank, call in enumerate(calls) if call in answered and isinstance(_error(call), DIED)]

    def stop_ranks(self) -> None:
        """Stop all ranks; their resources stay reserved."""
        for actor in self.actors:
            ray.kill(actor)
        self.actors = []

    def stop(self) -> None:
        """Stop all ranks and release what is reserved."""
        self.stop_ranks()
        if self.placement is not None:
            remove_placement_group(self.placement)
            self.placement = None

    def _no_resources(self) -> ConfigError:
        config, free = self.config, ray.available_resources()
        return ConfigError(
            f"learner.ranks = {config.ranks}: they did not start within ray.call_timeout = {self.start_seconds:.0f} s; "
            f"each asks for {config.cpus:g} CPU and {config.gpus:g} GPU, free are {free.get('CPU', 0):g} and "
            f"{free.get('GPU', 0):g}: lower learner.ranks or learner.cpus, or add nodes"
        )


def _error(call: ObjectRef) -> BaseException | None:
    """What a call that has ended raised."""
    try:
        ray.get(call, timeout=DEATH_SECONDS)
    except Exception as error:
        return error
    return None
