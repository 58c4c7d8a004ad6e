"""The driver's record of prompt groups: what became of each.

Groups are numbered as they are issued, and `replay.schedule` says what number n is. So the whole history of a run is
the count issued, a low-water mark below which every group is final, and the few finals above it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from couplet.replay.selection import PassRate


class State(StrEnum):
    """What holds a group, or what became of it. The last three are final."""

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


class Attempt(NamedTuple):
    """One attempt at a group: what the ledger issues. A re-issue is the same number with the next attempt."""

    number: int
    attempt: int


@dataclass(frozen=True)
class Cursor:
    """How far a ledger has come: what the driver must know besides finals to rebuild it."""

    issued: int  # groups numbered so far
    attempts: Mapping[int, int]  # newest attempt of groups in flight, unless it is 0
    losses: Mapping[int, int]  # attempts of groups in flight that died with their holder, unless there are none
    reissued: int  # times a group was issued again
    stale_dropped: int  # of these, because it had become too old
    place: int = 0  # these three: see `Record`
    places: Mapping[int, int] = field(default_factory=dict)
    rates: Mapping[int, PassRate] = field(default_factory=dict)


@dataclass
class Record:
    """Final states as the driver has recorded them: enough to rebuild a ledger. Plain integers, for a checkpoint."""

    issued: int = 0
    floor: int = 0  # every group below is final
    finals: dict[int, State] = field(default_factory=dict)  # final groups at or above the floor
    totals: dict[str, int] = field(default_factory=lambda: {state.value: 0 for state in FINAL})
    attempts: dict[int, int] = field(default_factory=dict)  # these four: see `Cursor`
    losses: dict[int, int] = field(default_factory=dict)
    reissued: int = 0
    stale_dropped: int = 0
    place: int = 0  # of the schedule, where the next group is looked for; these three only with `replay.select`
    places: dict[int, int] = field(default_factory=dict)  # of the groups in flight
    rates: dict[int, PassRate] = field(default_factory=dict)  # by problem

    def add(self, finals: Mapping[int, State]) -> None:
        """Record final states; a group already recorded keeps its first state (the transition is idempotent)."""
        for number, state in finals.items():
            if not state.is_final:
                raise ValueError(f"group {number}: {state} is not a final state")
            if number < self.floor or number in self.finals:
                continue
            self.finals[number] = state
            self.totals[state.value] += 1
            self.attempts.pop(number, None)
            self.losses.pop(number, None)
            self.places.pop(number, None)
            self.issued = max(self.issued, number + 1)
        while self.floor in self.finals:
            del self.finals[self.floor]
            self.floor += 1

    def follow(self, cursor: Cursor) -> None:
        """Take over a ledger's account of groups in flight (`Ledger.cursor`), so that no number is used twice."""
        self.issued = max(self.issued, cursor.issued)
        self.attempts = {n: a for n, a in cursor.attempts.items() if not self.is_final(n)}
        self.losses = {n: a for n, a in cursor.losses.items() if not self.is_final(n)}
        self.reissued, self.stale_dropped = cursor.reissued, cursor.stale_dropped
        self.place, self.rates = cursor.place, dict(cursor.rates)
        self.places = {n: place for n, place in cursor.places.items() if not self.is_final(n)}

    def is_final(self, number: int) -> bool:
        """True if group `number` has ended."""
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
            "place": self.place,
            "places": {str(n): place for n, place in self.places.items()},
            "rates": {str(problem): list(rate) for problem, rate in self.rates.items()},
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
            place=tree.get("place", 0),
            places={int(n): place for n, place in tree.get("places", {}).items()},
            rates={int(problem): PassRate(*rate) for problem, rate in tree.get("rates", {}).items()},
        )
