"""The driver's side of the replay queue: starts it, calls it, and rebuilds it when it dies."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorUnavailableError

from couplet.actors.messages import StartedWorker
from couplet.actors.remote import DIED, fetch, fetch_all, reason_of
from couplet.actors.replay_actor import Memory, start_replay
from couplet.configs.schema import ConfigError, RunConfig
from couplet.replay.schedule import Schedule

TRIES = 5  # for one call that finds the queue dead
UNREACHABLE_SECONDS = 0.5  # before a queue that could not be reached is called again

log = logging.getLogger("couplet")


class ReplayClient:
    """Calls to the replay queue that survive its death.

    Args:
        config: the run.
        schedule: the training problems, as requests.
        memory: what the driver has recorded; a rebuilt queue continues from it.
        workers: the actors for a rebuilt queue.
    """

    def __init__(
        self,
        config: RunConfig,
        schedule: Schedule,
        memory: Memory,
        workers: Callable[[], Sequence[StartedWorker]],
    ) -> None:
        self.config = config
        self.schedule = schedule
        self.memory = memory
        self.workers = workers
        self.handle: ActorHandle | None = None

    def start(self) -> None:
        """Start the queue; waits for the name of a queue whose driver was killed.

        Raises:
            ConfigError: another run of this name uses the cluster.
        """
        try:
            self.handle = start_replay(self.config, self.schedule, self.memory)
        except ValueError:  # its name is taken
            raise ConfigError(
                f"name = {self.config.name!r}: a run of that name is active on this cluster; choose another name"
            ) from None

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the queue; one that has died or does not answer is rebuilt and called again.

        Every method may be called twice.

        Raises:
            TimeoutError, RayActorError: the same happened to several queues in a row.
        """
        lost, began, unreachable = "", 0.0, False
        for attempt in range(TRIES):
            try:
                if lost:
                    self.memory.restarts += 1
                    self.rebuild()
                    log.warning("replay queue: %s; rebuilt after %.1f s", lost, time.monotonic() - began)
                answer = getattr(self.handle, method).remote(*arguments)
                return fetch(answer, f"replay queue: {method} (replay.timeout)", self.config.replay.timeout)
            except (*DIED, TimeoutError) as error:
                if attempt == TRIES - 1:
                    raise
                if isinstance(error, ActorUnavailableError) and not unreachable:
                    unreachable = (
                        True  # a connection may break while another node dies; one that died says so next time
                    )
                    time.sleep(UNREACHABLE_SECONDS)
                    continue
                lost, began = reason_of(error), time.monotonic()

    def rebuild(self) -> None:
        """Start a queue from the driver's memory; open groups, except those of the current learner step, are re-issued."""
        self.stop()
        self.start()
        assert self.handle is not None
        joins = [self.handle.join.remote(worker) for worker in self.workers()]
        fetch_all(joins, "replay queue: join", self.config.ray.call_timeout)

    def stop(self) -> None:
        """Stop the queue."""
        if self.handle is not None:
            ray.kill(self.handle)
            self.handle = None
