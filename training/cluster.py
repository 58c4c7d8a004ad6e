"""The interface of the training loop; `training.local_cluster` and `actors.ray_cluster` implement it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from couplet.configs.schema import ObjectiveConfig
from couplet.data.trajectory import ScoredGroup
from couplet.replay.record import State

if TYPE_CHECKING:
    from couplet.evaluation.request import EvalRequest
    from couplet.replay.schedule import Schedule


@dataclass(frozen=True)
class Batch:
    """The input of one learner step.

    `decided` contains finals that the replay queue decided itself (quarantined, filtered) since the last batch;
    `metrics` describes generation and judging since then; `filtered` are the groups that the queue filtered.
    """

    numbers: tuple[int, ...]
    groups: tuple[ScoredGroup, ...]
    decided: dict[int, State] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    filtered: tuple[ScoredGroup, ...] = ()

    def finals(self, objective: ObjectiveConfig) -> dict[int, State]:
        """Final state of every group of the batch once its step is done, and of those decided before it."""
        dropped = objective.zero_signal == "drop"
        states = {
            number: State.FILTERED if dropped and scored.zero_signal else State.TRAINED
            for number, scored in zip(self.numbers, self.groups, strict=True)
        }
        return self.decided | states


class Cluster(Protocol):
    """What the loop needs, implemented by one process or by a Ray cluster."""

    step: int  # learner steps done
    schedule: Schedule  # the training problems, as requests

    @property
    def address(self) -> str | None:
        """HOST:PORT of the Ray cluster; None for one process."""

    def publish(self) -> None:
        """Give the learner's weights to the rollout workers, which swap between groups."""

    def take(self, count: int) -> Batch:
        """Block until `count` scored groups are leased for the next learner step."""

    def learn(self, batch: Batch) -> dict[str, float]:
        """One learner step: mu inner updates over the batch; its groups become final. Returns metrics."""

    def save(self) -> Path:
        """Write a checkpoint of policy, optimiser, step, ledger and seeds."""

    def restore(self) -> int:
        """Load the newest complete checkpoint. Returns its learner step, 0 if there is none."""

    def evaluate(self, request: EvalRequest) -> list[ScoredGroup]:
        """Sample with the published weights and judge; in prompt order."""

    def show(self, metrics: Mapping[str, float]) -> None:
        """Show metrics that the caller has computed (an evaluation's) to whoever watches the cluster."""

    def totals(self) -> dict[str, int]:
        """The ledger's totals: issued, trained, filtered, quarantined, in_flight, reissued, stale_dropped."""

    def describe(self) -> str:
        """One line for the user: which workers run where, and the sandbox tier."""

    def sandbox_tier(self) -> str:
        """The sandbox tier in use."""

    def restarts(self) -> dict[str, int]:
        """Workers lost and replaced so far, by role."""

    def close(self) -> None:
        """Stop every worker."""
