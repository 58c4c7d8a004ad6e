"""Messages between driver, replay queue and workers: small frozen records that hold payloads by reference.

Ray resolves a reference only if it is itself an argument; inside these records it stays a reference.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from ray import ObjectRef
from ray.actor import ActorHandle
from ray.runtime_context import RuntimeContext

from couplet.data.verdict import Verdict
from couplet.replay.record import Cursor, State

ROLES = ("rollout", "reward")


@dataclass(frozen=True)
class WorkerInfo:
    """An actor's process, as it describes itself."""

    pid: int
    node: str
    tier: str = ""  # sandbox tier of a reward actor

    @classmethod
    def of(cls, context: RuntimeContext, tier: str = "") -> WorkerInfo:
        """Of the calling process, whose context `ray.get_runtime_context` gives."""
        return cls(os.getpid(), context.get_node_id(), tier)


@dataclass(frozen=True)
class StartedWorker:
    """A rollout or reward actor that has answered."""

    role: str
    index: int
    handle: ActorHandle
    info: WorkerInfo


@dataclass(frozen=True)
class PublishedWeights:
    """One version of the weights; `packed` refers to (manifest, buckets), owned by the driver.

    `packed` is None for version 0 of an evaluation: the rollout actors have loaded it from their folder.
    """

    version: int
    packed: ObjectRef | None


@dataclass(frozen=True)
class SwapReply:
    """A rollout actor now holds `version`; fetching and swapping took `seconds`."""

    version: int
    seconds: float
    info: WorkerInfo


@dataclass(frozen=True)
class ScoreReply:
    """Verdicts of a reward actor, which worked on them for `seconds`."""

    verdicts: list[Verdict]
    seconds: float
    info: WorkerInfo


@dataclass(frozen=True)
class Lease:
    """The answer to `take`: the groups of one learner step, or no `numbers` while there are too few.

    Attributes:
        cursor: how far the ledger has come.
        progress: groups generated and calls judged so far; the driver stops a run in which it does not grow.
        numbers, groups, verdicts: the leased groups; `groups` are references to their `PromptGroup`.
        filtered: groups that the queue has filtered and the driver has not recorded, with their verdicts (`refill`).
        decided: finals that the queue decided and the driver has not recorded yet.
        metrics: of generation and judging since the last lease.
    """

    cursor: Cursor
    progress: int
    numbers: tuple[int, ...] = ()
    groups: tuple[ObjectRef, ...] = ()
    verdicts: tuple[tuple[Verdict, ...], ...] = ()
    filtered: tuple[tuple[ObjectRef, tuple[Verdict, ...]], ...] = ()
    decided: Mapping[int, State] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Loss:
    """A worker whose process ended or did not answer.

    `seconds`: until it answered again; None if it is gone for good, so that the driver starts another.
    """

    role: str
    index: int
    reason: str
    seconds: float | None

    def describe(self) -> str:
        """One line for the user."""
        after = "another is started" if self.seconds is None else f"back after {self.seconds:.1f} s"
        return f"{self.role} worker {self.index}: {self.reason}; {after}"


@dataclass(frozen=True)
class Roster:
    """The workers that the queue holds, and how many it wants.

    Attributes:
        targets: wanted workers per role.
        held: role -> index -> process, of every worker that holds work or may get some.
        serving: role -> indices of the workers that are given work.
        lost: workers lost so far, per role.
        weights_lost: the published weights are gone and must be published again.
    """

    targets: Mapping[str, int]
    held: Mapping[str, Mapping[int, WorkerInfo]]
    serving: Mapping[str, list[int]]
    lost: Mapping[str, int]
    weights_lost: bool
