"""The learner ranks as one: collectives over all of them, and the way back after a rank dies."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from couplet.actors.learner_actor import LearnerActor
from couplet.actors.remote import DIED, fetch_all, is_defect
from couplet.configs.schema import ConfigError, RunConfig
from couplet.data.trajectory import ScoredGroup

MAX_REBUILDS = 5  # in a row, without a finished call between
LEANER = (
    "lower learner.micro_groups or learner.micro_completions, set learner.gradient_checkpointing: true, or raise "
    "learner.zero_stage"
)


class LearnerGroup:
    """Learner actors of all ranks.

    The payload of every step since the last checkpoint is kept (by reference, owned by the driver). When a rank dies
    all are started anew, the checkpoint is read back and those steps are repeated from the payloads: the weights become
    what they were, so a loss costs time and no data.

    Args:
        config: the run.
        start: folder of the policy to start from.
        meanwhile: called about every second while the ranks compute.
    """

    def __init__(self, config: RunConfig, start: str, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.config = config
        self.start_folder = start
        self.meanwhile = meanwhile
        self.room: PlacementGroup | None = None
        self.ranks: list[Any] = []
        self.places: list[dict[str, Any]] = []  # process and node of each rank
        self.payloads: dict[int, Any] = {}  # step -> reference to its groups
        self.done = 0  # steps whose result the ranks hold
        self.checkpoint: tuple[int, Path] | None = None
        self.restarts = 0
        self._beside: Exception | None = None  # what `meanwhile` raised

    def reserve(self) -> None:
        """Room for all ranks on as few nodes as can be; it stays theirs while they are rebuilt.

        Raises:
            ConfigError: there is none on the cluster.
        """
        config = self.config.learner
        share = {name: amount for name, amount in (("CPU", config.cpus), ("GPU", config.gpus)) if amount > 0}
        if not share:
            return
        self.room = placement_group([share] * config.ranks, strategy="PACK")
        deadline = time.monotonic() + self.config.ray.call_timeout
        while not self.room.wait(1):
            if time.monotonic() > deadline:
                raise self._no_room()

    def start(self) -> None:
        """Start all ranks in their room and let them meet.

        Raises:
            ConfigError: they do not start in time.
        """
        config = self.config.learner
        self.ranks = []
        for rank in range(config.ranks):
            actor = ray.remote(LearnerActor).options(
                num_cpus=config.cpus,
                num_gpus=config.gpus,
                max_restarts=0,
                scheduling_strategy=PlacementGroupSchedulingStrategy(self.room, rank) if self.room else "DEFAULT",
            )
            self.ranks.append(actor.remote(self.config, self.start_folder, rank))
        seconds = self.config.ray.call_timeout
        try:
            places = fetch_all([rank.rendezvous.remote() for rank in self.ranks], "learner ranks: start", seconds)
        except TimeoutError as error:
            raise self._no_room() from error
        self.places = self._all("build", *places[0])

    def learn(self, step: int, groups: tuple[ScoredGroup, ...]) -> dict[str, float]:
        """Learner step `step` (0-based) on all ranks; the metrics of rank 0."""
        self.payloads[step] = ray.put(groups)
        metrics: dict[str, float] = self._surviving(lambda: self._all("learn", self.payloads[step])[0], step)
        self.done = step + 1
        return metrics

    def weights(self) -> Any:
        """A settled reference to (manifest, buckets), owned by the driver."""
        return self._surviving(self._weights, self.done)

    def save(self, folder: Path) -> None:
        """Every rank writes its part of a checkpoint."""
        self._surviving(lambda: self._all("save", str(folder)), self.done)

    def forget_before(self, step: int, path: Path) -> None:
        """The checkpoint at `path` holds everything up to `step`: older payloads are not needed."""
        self.checkpoint = (step, path)
        self.payloads = {s: ref for s, ref in self.payloads.items() if s >= step}

    def restore(self, step: int, path: Path) -> None:
        """Every rank reads its part of a checkpoint."""
        self.forget_before(step, path)
        self._surviving(lambda: self._all("restore", str(path)), step)
        self.done = step

    def stop(self) -> None:
        """Stop all ranks and give up their room."""
        self._stop_ranks()
        if self.room is not None:
            remove_placement_group(self.room)
            self.room = None

    def _stop_ranks(self) -> None:
        for rank in self.ranks:
            ray.kill(rank)
        self.ranks = []

    def _no_room(self) -> ConfigError:
        config, free = self.config.learner, ray.available_resources()
        return ConfigError(
            f"learner.ranks = {config.ranks}: they did not start within ray.call_timeout = "
            f"{self.config.ray.call_timeout:.0f} s; each asks for {config.cpus:g} CPU and {config.gpus:g} GPU, free are "
            f"{free.get('CPU', 0):g} and {free.get('GPU', 0):g}: lower learner.ranks or learner.cpus, or add nodes"
        )

    def _all(self, method: str, *arguments: Any) -> list[Any]:
        """Call every rank; a failure is raised at once, since the others of a collective cannot end then."""
        refs = [getattr(rank, method).remote(*arguments) for rank in self.ranks]
        return self._wait(refs, method)

    def _wait(self, refs: list[Any], method: str) -> list[Any]:
        return fetch_all(refs, f"learner ranks: {method} (learner.timeout)", self.config.learner.timeout, self._tend)

    def _tend(self) -> None:
        try:
            self.meanwhile()
        except Exception as error:
            self._beside = error
            raise

    def _weights(self) -> Any:
        answers = [rank.weights.options(num_returns=2).remote() for rank in self.ranks]
        self._wait([version for _, version in answers], "weights")
        return answers[0][0]

    def _surviving(self, work: Callable[[], Any], step: int) -> Any:
        """The result of `work`, which needs ranks that have done `step` steps; they are rebuilt where one dies."""
        last: BaseException | None = None
        for _ in range(MAX_REBUILDS):
            try:
                if not self.ranks:
                    self._rebuild(step)
                return work()
            except (RayError, TimeoutError, RuntimeError) as error:  # RuntimeError: a collective without its peer
                if error is self._beside:
                    raise  # the ranks have no part in it
                if _is_gpu_full(error):
                    raise ConfigError(
                        f"the learner ran out of GPU memory ({str(error).splitlines()[0]}); {LEANER}"
                    ) from error
                if self._is_final(error, last):
                    raise
                if isinstance(error, TimeoutError) and isinstance(last, TimeoutError):
                    raise TimeoutError(f"{error}, twice in a row: if the work needs longer, raise the limit") from error
                last = error
                self._stop_ranks()
        raise RuntimeError(f"the learner died {MAX_REBUILDS} times in a row; the last time: {last}") from last

    def _is_final(self, error: BaseException, last: BaseException | None) -> bool:
        """True for an error that new ranks would only raise again.

        All ranks living, it is no loss. Where some are silent, they may be waiting in a collective for the rank that
        raised it, or for one that is gone: it is a defect when it comes a second time.
        """
        if isinstance(error, RayError) and not is_defect(error):
            return False
        try:
            probes = [rank.rendezvous.remote() for rank in self.ranks]
            fetch_all(probes, "learner ranks", self.config.ray.connect_timeout)
        except DIED:
            return False
        except TimeoutError:
            return is_defect(error) and (type(error), str(error)) == (type(last), str(last))
        return True

    def _rebuild(self, step: int) -> None:
        """New ranks, the last checkpoint, and every step since once more, up to but not including `step`."""
        self.restarts += 1
        self.start()
        first = 0
        if self.checkpoint is not None:
            first, path = self.checkpoint
            self._all("restore", str(path))
        for done in range(first, step):
            self._all("learn", self.payloads[done])
        self.done = step


def _is_gpu_full(error: BaseException) -> bool:
    """By its name, so that torch need not be loaded; an error of Ray has the same, for a process it has ended."""
    return type(error).__name__ == "OutOfMemoryError" and type(error).__module__.partition(".")[0] == "torch"
