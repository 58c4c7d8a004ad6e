"""The generating half of the replay queue: sends requests and weights to rollout actors, passes on their groups."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from ray import ObjectRef
from ray.exceptions import RayError

from couplet.actors.messages import PublishedWeights, SwapReply
from couplet.actors.remote import WeightsDamaged, WeightsLate, WeightsLost, is_defect, raised
from couplet.actors.replay_state import IDLE_SECONDS, Hub, Worker
from couplet.data.trajectory import PromptGroup
from couplet.replay.record import Attempt


class Generation:
    """One `serve` task per rollout actor.

    Args:
        hub: the state that all tasks share.
        arrived: called with (attempt, reference) of every group that counts.
    """

    def __init__(self, hub: Hub, arrived: Callable[[Attempt, ObjectRef], None]) -> None:
        self.hub = hub
        self.arrived = arrived
        self.weights: PublishedWeights | None = None
        self.weights_lost = False

    async def serve(self, worker: Worker) -> None:
        """Keep one rollout actor busy until it leaves."""
        while not worker.leaving:
            attempts = self._issue()
            weights = self.weights
            if not attempts or weights is None:
                await self.hub.check(worker)
                await self.hub.wait(IDLE_SECONDS)
                continue
            worker.busy = True
            worker.begin(", ".join(self.hub.problem_id(number) for number, _ in attempts))
            try:
                await self._produce(worker, attempts, weights)
            except (RayError, TimeoutError) as error:
                await self._failed(worker, attempts, weights, error)
            worker.busy = False
            worker.end()
            self.hub.notify()

    async def publish(self, weights: PublishedWeights) -> None:
        """New weights: push them to the rollout actors that are idle; the others get them with their next call.

        A push that waits behind a call would keep its weights in the object store all that time, and so would one that
        is not answered. So an actor with an outstanding push gets no other.
        """
        self.weights, self.weights_lost = weights, False
        for worker in self.hub.active("rollout"):
            if not worker.busy and (worker.push is None or worker.push.done()):
                self.hub.spawn(self._push(worker, weights))

    def _issue(self) -> list[Attempt]:
        if self.weights is None or self.weights_lost or self.hub.failure is not None or self.hub.resting:
            return []
        return self.hub.ledger.issue(self.hub.config.rollout.groups_per_call, time.monotonic())

    async def _produce(self, worker: Worker, attempts: list[Attempt], weights: PublishedWeights) -> None:
        requests = [self.hub.schedule.request(self.hub.ledger.place(n), attempt) for n, attempt in attempts]
        call: Any = worker.handle.generate.options(num_returns=len(attempts)).remote(requests, weights)
        refs = [call] if len(attempts) == 1 else call
        worker.calls += 1
        groups = await asyncio.wait_for(asyncio.gather(*refs), self.hub.config.rollout.timeout)
        for attempt, group, ref in zip(attempts, groups, refs, strict=True):
            self._keep(worker, attempt, group, ref)

    def _keep(self, worker: Worker, attempt: Attempt, group: PromptGroup, ref: ObjectRef) -> None:
        worker.version, worker.damaged, now = group.version, None, time.monotonic()
        if self.hub.ledger.generated(*attempt, group.version, now):
            self.hub.progress += 1
            self.hub.telemetry.generated(group, now)
            self.arrived(attempt, ref)

    async def _failed(
        self, worker: Worker, attempts: list[Attempt], weights: PublishedWeights, error: Exception
    ) -> None:
        """A call that carried `weights` failed: its groups are issued again."""
        cause = raised(error)
        self.hub.lose(attempts, counted=not isinstance(cause, (WeightsLost, WeightsLate)))
        self.hub.notify()
        if is_defect(error):
            self.hub.fail(error)
        elif isinstance(cause, WeightsDamaged) and worker.damaged not in (None, weights):
            self.hub.fail(RuntimeError(f"rollout actor {worker.index}: {cause}; so were those published before"))
        elif isinstance(cause, WeightsLost):
            worker.damaged = weights if isinstance(cause, WeightsDamaged) else worker.damaged
            self.weights_lost |= weights is self.weights  # losing older ones no longer matters
        elif isinstance(cause, WeightsLate):
            await self._catch_up(worker)
        else:
            await self.hub.recover(worker, error)

    async def _catch_up(self, worker: Worker) -> None:
        """An actor whose weights were late gets no requests until it has the newest ones; the others continue."""
        while not worker.leaving and (weights := self.weights) is not None:
            try:
                answer: ObjectRef = worker.handle.load_weights.remote(weights)
                reply: SwapReply = await asyncio.wait_for(answer, self.hub.config.rollout.timeout)
                worker.version = reply.version
                return self.hub.answered(worker, reply.info)
            except (RayError, TimeoutError) as error:
                if not isinstance(raised(error), WeightsLate):
                    return await self._failed(worker, [], weights, error)

    async def _push(self, worker: Worker, weights: PublishedWeights) -> None:
        started = time.monotonic()
        worker.push = asyncio.ensure_future(worker.handle.load_weights.remote(weights))
        worker.push.add_done_callback(lambda push: push.cancelled() or push.exception())  # mark it as retrieved
        try:
            answer = asyncio.shield(worker.push)
            reply: SwapReply = await asyncio.wait_for(answer, self.hub.config.weights.timeout)
            worker.version = reply.version
            self.hub.answered(worker, reply.info)
            self.hub.telemetry.pushed(time.monotonic() - started, reply.seconds)
        except (RayError, TimeoutError) as error:
            if is_defect(error):
                self.hub.fail(error)
