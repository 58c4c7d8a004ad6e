"""Accounting of prompt groups: who holds each, what became of it, and how many more may be admitted.

    issued -> generated(version) -> scoring (leased) -> ready -> leased to a learner step
                                                              -> trained | filtered | quarantined

The identity that always holds: issued = trained + filtered + quarantined + in flight. Pure bookkeeping: no payload, no
clock, no ray.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from couplet.configs.schema import ReplayConfig
from couplet.replay.record import FINAL, Record, State


@dataclass
class Entry:
    """One group in flight."""

    number: int
    attempt: int = 0
    losses: int = 0  # attempts whose holder died or timed out
    state: State = State.ISSUED
    version: int | None = None  # weights that generated it
    since: float = 0.0  # when it entered `state`
    arrival: int = -1  # place in the order of becoming ready


class Ledger:
    """States and credits of every group in flight.

    Args:
        config: groups per step, staleness bound, refill, attempts.
        record: finals of an earlier ledger; its open groups are re-issued with attempt + 1.
        leased: those of them that a learner step is working on: they wait for its finals, as they are.
        version: learner version at the start.
        steps: learner steps of the run; no more groups are admitted than they need. None: no end.
    """

    def __init__(
        self,
        config: ReplayConfig,
        record: Record | None = None,
        version: int = 0,
        steps: int | None = None,
        leased: Collection[int] = (),
    ) -> None:
        self.config = config
        self.record = record.copy() if record else Record()
        self.steps = steps
        self.version = version  # learner steps done
        self.published = version  # newest version given to the rollout actors
        self._started = (version, self._accepted())
        self.entries: dict[int, Entry] = {}
        self._arrivals = 0
        self._unreported: dict[int, State] = {}  # finals decided here that the driver has not recorded yet
        self._pending: list[int] = []  # groups to issue again before any new one
        for number in self.record.open_groups():
            entry = Entry(number, self.record.attempts.get(number, 0), self.record.losses.get(number, 0))
            self._open(entry)
            if number in leased:
                entry.state = State.LEASED
            else:
                self._reissue(entry)

    def capacity(self) -> int:
        """New groups that may be admitted now: (max_staleness + published version + 1) * P - (accepted + running).

        Counting from the published version rather than the learner's keeps groups from being generated that a
        broadcast every few steps would make too old to train on. Versions and accepted groups count from where this
        ledger started, so that a resumed run may have another P.
        """
        ahead = self.config.max_staleness + self.published + 1
        version, accepted = self._started
        admitted = (ahead if self.steps is None else min(ahead, self.steps)) - version
        return admitted * self.config.groups_per_step - (self._accepted() - accepted) - len(self.entries)

    def issue(self, limit: int, now: float) -> list[tuple[int, int]]:
        """Up to `limit` orders (number, attempt): re-issues first, then new groups as far as the credits reach.

        A group whose holder died is issued alone: if it is what kills, it takes no other with it.
        """
        orders: list[tuple[int, int]] = []
        while len(orders) < limit and self._pending:
            entry = self.entries.get(self._pending[0])
            alone = entry is not None and entry.losses > 0
            if alone and orders:
                return orders
            del self._pending[0]
            if entry is not None:
                entry.since = now
                orders.append((entry.number, entry.attempt))
            if alone:
                return orders
        while len(orders) < limit and self.capacity() > 0:
            number = self.record.issued
            self.record.issued += 1
            self._open(Entry(number, since=now))
            orders.append((number, 0))
        return orders

    def generated(self, number: int, attempt: int, version: int, now: float) -> bool:
        """A group arrived from a rollout actor. False (refused) for an older attempt or a state that is past it."""
        return self._advance(number, attempt, State.ISSUED, State.GENERATED, now, version=version)

    def scoring(self, number: int, attempt: int, now: float) -> bool:
        """A reward actor takes the lease of a group."""
        return self._advance(number, attempt, State.GENERATED, State.SCORING, now)

    def ready(self, number: int, attempt: int, now: float, *, valid: int, zero_signal: bool) -> State | None:
        """The verdicts arrived: the new state, or None where the result is refused.

        Fewer than two valid completions make no baseline: quarantined. A zero-signal group is filtered here only with
        `refill`; otherwise it counts towards its step and the learner leaves it out of the loss.
        """
        entry = self.entries.get(number)
        if entry is None or entry.attempt != attempt or entry.state is not State.SCORING:
            return None
        if valid < 2:
            return self._finish(number, State.QUARANTINED)
        if zero_signal and self.config.refill:
            return self._finish(number, State.FILTERED)
        self._advance(number, attempt, State.SCORING, State.READY, now)
        entry.arrival = self._arrivals
        self._arrivals += 1
        return State.READY

    def holds(self, number: int, attempt: int) -> bool:
        """True while this attempt is the one that counts and its group is not leased or final."""
        entry = self.entries.get(number)
        return entry is not None and entry.attempt == attempt and entry.state is not State.LEASED

    def lose(self, number: int, attempt: int, *, counted: bool = True) -> State | None:
        """The holder of an attempt died or timed out: re-issue it, or quarantine it after `max_attempts` losses.

        `counted=False` where the group certainly has no part in the loss. A re-issue of a stale group is no loss.

        Returns:
            ISSUED or QUARANTINED, or None where the attempt does not count any more.
        """
        if not self.holds(number, attempt):
            return None
        entry = self.entries[number]
        entry.losses += counted
        if entry.losses >= self.config.max_attempts:
            return self._finish(number, State.QUARANTINED)
        self._reissue(entry)
        return State.ISSUED

    def give_back(self, numbers: Iterable[int]) -> None:
        """Leased groups whose payload could not be fetched: issue them again."""
        for entry in [self.entries[n] for n in numbers if n in self.entries]:
            if entry.state is State.LEASED:
                self._reissue(entry)

    def lease(self, count: int, now: float) -> list[int] | None:
        """`count` ready groups for the next learner step, or None while there are not enough.

        Groups older than `max_staleness` are dropped and re-issued first. At `max_staleness = 0` the groups are the
        earliest issued ones, in issue order; otherwise they come in order of arrival.
        """
        for entry in [e for e in self.entries.values() if e.state is State.READY]:
            if self.version - self._version(entry) > self.config.max_staleness:
                self.record.stale_dropped += 1
                self._reissue(entry)
        ready = [e for e in self.entries.values() if e.state is State.READY]
        if len(ready) < count:
            return None
        synchronous = self.config.max_staleness == 0
        ready.sort(key=lambda e: e.number if synchronous else e.arrival)
        taken = ready[:count]
        for entry in taken:
            entry.state, entry.since = State.LEASED, now
        return [entry.number for entry in taken]

    def finish(self, finals: Mapping[int, State], version: int) -> None:
        """The driver's record of a finished step: final states and the learner's new version. Idempotent."""
        for number, state in finals.items():
            self._unreported.pop(number, None)
            if not self.record.is_final(number):
                self._finish(number, state)
                self._unreported.pop(number, None)
        self.version = max(self.version, version)

    def publish(self, version: int) -> None:
        """Weights `version` are with the rollout actors: more groups may be admitted."""
        self.published = max(self.published, version)
        self.version = max(self.version, version)

    def unreported(self) -> dict[int, State]:
        """Finals decided here (quarantined, filtered) that the driver has yet to record through `finish`."""
        return dict(self._unreported)

    def cursor(self) -> dict[str, Any]:
        """How far the numbering has come, attempts and losses of the groups in flight, and re-issues so far."""
        return {
            "issued": self.record.issued,
            "attempts": {e.number: e.attempt for e in self.entries.values() if e.attempt},
            "losses": {e.number: e.losses for e in self.entries.values() if e.losses},
            "reissued": self.record.reissued,
            "stale_dropped": self.record.stale_dropped,
        }

    def states(self) -> dict[str, int]:
        """Groups per state, every state named."""
        counts = Counter(entry.state.value for entry in self.entries.values())
        return {state.value: counts.get(state.value, 0) + self.record.totals.get(state.value, 0) for state in State}

    def totals(self) -> dict[str, int]:
        """The identity's terms: issued, trained, filtered, quarantined, in_flight, and counts of re-issues."""
        return {
            "issued": self.record.issued,
            **self.record.totals,
            "in_flight": len(self.entries),
            "reissued": self.record.reissued,
            "stale_dropped": self.record.stale_dropped,
        }

    def check(self) -> None:
        """Assert the identity issued = trained + filtered + quarantined + in flight."""
        totals = self.totals()
        final = sum(totals[state.value] for state in FINAL)
        assert totals["issued"] == final + totals["in_flight"], f"ledger identity broken: {totals}"

    def _accepted(self) -> int:
        """Groups that have used up a credit for good."""
        totals = self.record.totals
        return totals[State.TRAINED] + (0 if self.config.refill else totals[State.FILTERED])

    def _version(self, entry: Entry) -> int:
        assert entry.version is not None, f"group {entry.number} is {entry.state} without a version"
        return entry.version

    def _open(self, entry: Entry) -> None:
        self.entries[entry.number] = entry

    def _advance(
        self, number: int, attempt: int, source: State, target: State, now: float, version: int | None = None
    ) -> bool:
        entry = self.entries.get(number)
        if entry is None or entry.attempt != attempt or entry.state is not source:
            return False
        entry.state, entry.since = target, now
        if version is not None:
            entry.version = version
        return True

    def _reissue(self, entry: Entry) -> None:
        entry.attempt += 1
        entry.state, entry.version = State.ISSUED, None
        self.record.reissued += 1
        self._pending.append(entry.number)

    def _finish(self, number: int, state: State) -> State:
        self.entries.pop(number, None)
        self.record.add({number: state})
        self._unreported[number] = state
        return state
