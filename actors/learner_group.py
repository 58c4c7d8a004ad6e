"""The learner ranks of a run: collectives over all of them, and recovery after a rank dies."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import RayError

from couplet.actors.learner_actor import LearnerActor
from couplet.actors.rank_group import RankGroup
from couplet.actors.remote import DIED, cause_lines, is_defect, named, reason_of, start_actor
from couplet.configs.schema import ConfigError, RunConfig
from couplet.data.trajectory import ScoredGroup

MAX_REBUILDS = 5  # in a row, without a finished call in between
LEANER = (
    "lower learner.micro_groups or learner.micro_completions, set learner.gradient_checkpointing: true, or raise "
    "learner.zero_stage"
)

T = TypeVar("T")

log = logging.getLogger("couplet")


class LearnerGroup:
    """Learner actors of all ranks.

    The payload of every step since the last checkpoint is kept (by reference, owned by the driver). When a rank dies
    all are replaced, the checkpoint is loaded and the later steps are repeated from the payloads: the weights become
    what they were, so a loss costs time but no data.

    Args:
        config: the run.
        start: folder of the policy to start from.
        meanwhile: called about every second while the ranks compute.
    """

    def __init__(self, config: RunConfig, start: str, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.config = config
        self.start_folder = start
        self.meanwhile = meanwhile
        self.ranks = RankGroup(config.learner, config.ray.call_timeout, self._create)
        self.payloads: dict[int, ObjectRef] = {}  # step -> reference to its groups
        self.done = 0  # steps whose result the ranks hold
        self.checkpoint: tuple[int, Path] | None = None
        self.restarts = 0
        self._started = False
        self._beside: Exception | None = None  # what `meanwhile` raised

    def start(self) -> None:
        """Reserve resources and start all ranks; those that die meanwhile are replaced. Raises as `RankGroup.reserve`."""
        self.ranks.reserve()
        self._surviving(lambda: None, 0)

    def learn(self, step: int, groups: tuple[ScoredGroup, ...]) -> dict[str, float]:
        """Learner step `step` (0-based) on all ranks; the metrics of rank 0."""
        self.payloads[step] = ray.put(groups)
        metrics: dict[str, float] = self._surviving(lambda: self._all("learn", self.payloads[step])[0], step)
        self.done = step + 1
        return metrics

    def weights(self) -> ObjectRef:
        """A settled reference to (manifest, buckets), owned by the driver."""
        return self._surviving(self._weights, self.done)

    def save(self, folder: Path) -> None:
        """Every rank writes its part of a checkpoint."""
        self._surviving(lambda: self._all("save", str(folder)), self.done)

    def forget_before(self, step: int, path: Path) -> None:
        """Drop the payloads that the checkpoint at `path`, of `step`, makes unnecessary."""
        self.checkpoint = (step, path)
        self.payloads = {s: ref for s, ref in self.payloads.items() if s >= step}

    def restore(self, step: int, path: Path) -> None:
        """Every rank loads its part of a checkpoint."""
        self.forget_before(step, path)
        self._surviving(lambda: self._all("restore", str(path)), step)
        self.done = step

    def stop(self) -> None:
        """Stop all ranks."""
        self.ranks.stop()

    def _create(self, rank: int, options: dict[str, Any]) -> ActorHandle:
        options |= named(self.config.name, "learner", rank)
        return start_actor(LearnerActor, options, self.config, self.start_folder, rank)

    def _all(self, method: str, *arguments: Any) -> list[Any]:
        return self.ranks.call(method, *arguments, meanwhile=self._call_meanwhile)

    def _call_meanwhile(self) -> None:
        try:
            self.meanwhile()
        except Exception as error:
            self._beside = error
            raise

    def _weights(self) -> ObjectRef:
        answers: list[list[ObjectRef]] = [rank.weights.options(num_returns=2).remote() for rank in self.ranks.actors]
        self.ranks.wait([version for _, version in answers], "weights", self._call_meanwhile)
        return answers[0][0]

    def _surviving(self, work: Callable[[], T], step: int) -> T:
        """The result of `work`, which needs ranks that have done `step` steps; they are replaced if one dies."""
        previous: BaseException | None = None
        reason, began = "", 0.0
        for _ in range(MAX_REBUILDS):
            try:
                if not self.ranks.actors:
                    self._rebuild(step)
                if previous is not None:
                    log.warning("%s; all ranks are back after %.1f s", reason, time.monotonic() - began)
                return work()
            except (RayError, TimeoutError, RuntimeError) as error:  # RuntimeError: a collective without its peer
                if error is self._beside:
                    raise  # raised here, not by the ranks
                if _is_gpu_full(error):
                    raise ConfigError(
                        f"the learner ran out of GPU memory ({str(error).splitlines()[0]}); {LEANER}"
                    ) from error
                if self._is_final(error, previous):
                    raise
                if isinstance(error, TimeoutError) and isinstance(previous, TimeoutError):
                    raise TimeoutError(f"{error}, twice in a row: if the work needs longer, raise the limit") from error
                previous = error
                reason, began = f"learner {self._lost(error)}", time.monotonic()
                self.ranks.stop_ranks()
        raise RuntimeError(f"the learner died {MAX_REBUILDS} times in a row; the last time: {previous}") from previous

    def _lost(self, error: BaseException) -> str:
        """Which ranks died, and why."""
        dead = ", ".join(map(str, self.ranks.dead()))
        lost = isinstance(error, (RayError, TimeoutError))
        reason = reason_of(error) if lost else f"a collective failed ({cause_lines(error).splitlines()[0]})"
        return f"rank {dead}: {reason}" if dead else f"ranks: {reason}"

    def _is_final(self, error: BaseException, previous: BaseException | None) -> bool:
        """True for an error that new ranks would only raise again.

        If all ranks are alive, nothing was lost. Ranks that do not answer may be waiting in a collective for the rank
        that raised the error, or for one that is gone: it is a defect if it comes a second time.
        """
        if isinstance(error, RayError) and not is_defect(error):
            return False
        try:
            self.ranks.probe(self.config.ray.connect_timeout)
        except DIED:
            return False
        except TimeoutError:
            return is_defect(error) and (type(error), str(error)) == (type(previous), str(previous))
        return True

    def _rebuild(self, step: int) -> None:
        """Start new ranks, load the last checkpoint, and repeat the later steps before `step`."""
        self.restarts += self._started
        self._started = True
        self.ranks.start(self._call_meanwhile)
        first = 0
        if self.checkpoint is not None:
            first, path = self.checkpoint
            self._all("restore", str(path))
        for done in range(first, step):
            self._all("learn", self.payloads[done])
        self.done = step


def _is_gpu_full(error: BaseException) -> bool:
    """Judged by its name, so that torch need not be loaded; Ray's error for a process it ended has the same name."""
    return type(error).__name__ == "OutOfMemoryError" and type(error).__module__.partition(".")[0] == "torch"
