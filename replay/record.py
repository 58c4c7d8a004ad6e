"""What the driver remembers of prompt groups: in which order they come, and what became of each.

Groups are numbered in the order of issue; number n stands for the group `order.group_id(n)`, so the whole history of a run
is the count issued, a low-water mark below which every group is final, and the few finals above it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Any

import numpy as np

from couplet.data.seeds import derive_seed
from couplet.data.trajectory import GroupId


class State(StrEnum):
    """Where a group stands. The last three are final."""

    ISSUED = "issued"
    GENERATED = "generated"
    SCORING = "scoring"
    READY = "ready"
    LEASED = "leased"
    TRAINED = "trained"
    FILTERED = "filtered"
    QUARANTINED = "quarantined"

    @property
    def is_final(self) -> bool:
        """True once nothing more can happen to the group."""
        return self in FINAL


FINAL = (State.TRAINED, State.FILTERED, State.QUARANTINED)


@dataclass(frozen=True)
class IssueOrder:
    """The order of problems: every epoch visits each of `problems` once, in a permutation drawn from `seed`."""

    problems: int
    seed: int

    def group_id(self, number: int) -> GroupId:
        """Identity of the `number`-th group of the run (0-based)."""
        epoch, place = divmod(number, self.problems)
        return GroupId(epoch, int(_permutation(self.problems, self.seed, epoch)[place]), 0)


@lru_cache(maxsize=4)
def _permutation(problems: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng(derive_seed(seed, "problem_order", epoch)).permutation(problems)


@dataclass
class Record:
    """Final states as the driver has recorded them: enough to rebuild a ledger. Plain integers, for a checkpoint."""

    issued: int = 0
    floor: int = 0  # every group below is final
    finals: dict[int, State] = field(default_factory=dict)  # final groups at or above the floor
    totals: dict[str, int] = field(default_factory=lambda: {state.value: 0 for state in FINAL})
    attempts: dict[int, int] = field(default_factory=dict)  # newest attempt of groups in flight, where it is not 0
    losses: dict[int, int] = field(default_factory=dict)  # and how many attempts died with their holder
    reissued: int = 0  # times a group was issued again
    stale_dropped: int = 0  # of them, because it had grown too old

    def add(self, finals: Mapping[int, State]) -> None:
        """Record final states; a group already recorded keeps its first state (the transition is idempotent)."""
        for number, state in finals.items():
            if not state.is_final:
                raise ValueError(f"group {number}: {state} is no final state")
            if number < self.floor or number in self.finals:
                continue
            self.finals[number] = state
            self.totals[state.value] += 1
            self.attempts.pop(number, None)
            self.losses.pop(number, None)
            self.issued = max(self.issued, number + 1)
        while self.floor in self.finals:
            del self.finals[self.floor]
            self.floor += 1

    def follow(self, cursor: Mapping[str, Any]) -> None:
        """Take over what a ledger knows of groups in flight (`Ledger.cursor`), so that none is numbered twice."""
        self.issued = max(self.issued, cursor["issued"])
        self.attempts = {n: a for n, a in cursor["attempts"].items() if not self.is_final(n)}
        self.losses = {n: a for n, a in cursor["losses"].items() if not self.is_final(n)}
        self.reissued, self.stale_dropped = cursor["reissued"], cursor["stale_dropped"]

    def is_final(self, number: int) -> bool:
        """True where `number` has ended."""
        return number < self.floor or number in self.finals

    def open_groups(self) -> list[int]:
        """Numbers issued and not final, in issue order."""
        return [n for n in range(self.floor, self.issued) if n not in self.finals]

    def copy(self) -> Record:
        """An independent copy."""
        return Record.from_dict(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "issued": self.issued,
            "floor": self.floor,
            "finals": {str(n): s.value for n, s in self.finals.items()},
            "totals": dict(self.totals),
            "attempts": {str(n): a for n, a in self.attempts.items()},
            "losses": {str(n): a for n, a in self.losses.items()},
            "reissued": self.reissued,
            "stale_dropped": self.stale_dropped,
        }

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> Record:
        """Inverse of `to_dict`."""
        return cls(
            issued=tree["issued"],
            floor=tree["floor"],
            finals={int(n): State(s) for n, s in tree["finals"].items()},
            totals=dict(tree["totals"]),
            attempts={int(n): a for n, a in tree.get("attempts", {}).items()},
            losses={int(n): a for n, a in tree.get("losses", {}).items()},
            reissued=tree.get("reissued", 0),
            stale_dropped=tree.get("stale_dropped", 0),
        )
