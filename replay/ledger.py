"""Accounting of prompt groups: who holds each, what became of it, and how many more may be admitted.

    issued -> generated(version) -> scoring (leased) -> ready -> leased to a learner step
                                                              -> trained | filtered | quarantined

The identity that always holds: issued = trained + filtered + quarantined + in flight. Pure bookkeeping: no payload, no
clock, no Ray.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from couplet.configs.schema import ReplayConfig
from couplet.replay.record import FINAL, Attempt, Cursor, Record, State
from couplet.replay.selection import Selection


@dataclass
class Entry:
    """One group in flight."""

    number: int
    attempt: int = 0
    losses: int = 0  # attempts whose holder died or timed out
    state: State = State.ISSUED
    version: int | None = None  # weights that generated it
    since: float = 0.0  # when it entered `state`
    arrival: int = -1  # how many groups had become ready before it


class Ledger:
    """States and credits of every group in flight.

    Every transition names the group's number and the attempt: one that comes late, twice, or from an attempt that has
    been given up changes nothing.

    The life of two groups, with two groups per step, `max_staleness` 1 and nothing published but version 0. Credits
    allow (1 + 0 + 1) * 2 = 4 groups:

        ledger = Ledger(ReplayConfig(groups_per_step=2, max_staleness=1))
        ledger.issue(2, now)                          # [(0, 0), (1, 0)]: attempt 0 of groups 0 and 1, to a rollout actor
        ledger.generated(0, 0, version=0, now)        # True; group 0 waits for a reward actor
        ledger.lose(1, 0)                             # ISSUED: the actor died over group 1, whose attempt 1 is pending
        ledger.generated(1, 0, version=0, now)        # False: the answer of a lost attempt is rejected
        ledger.issue(2, now)                          # [(1, 1)], alone, since it may have killed the actor
        ledger.generated(1, 1, version=0, now)        # True
        ledger.scoring(0, 0, now)                     # a reward actor leases group 0, then group 1
        ledger.scoring(1, 1, now)
        ledger.ready(0, 0, now, valid=8, zero_signal=False)    # READY
        ledger.lease(2, now)                          # None: a learner step needs two groups
        ledger.ready(1, 1, now, valid=8, zero_signal=True)     # READY: it counts, though it has no signal
        ledger.lease(2, now)                          # [0, 1]
        ledger.finish({0: TRAINED, 1: FILTERED}, version=1)    # the step is done: both are final
        ledger.publish(1)                             # the rollout actors get version 1: two more credits
        ledger.totals()                               # issued 2 = trained 1 + filtered 1 + in flight 0; reissued 1

    Had the learner been at version 2 when group 0 was to be leased, it would have been too old (2 - 0 > 1): dropped,
    and issued again as (0, 1).

    Args:
        config: groups per step, staleness bound, refill, attempts.
        record: finals of an earlier ledger; its open groups are re-issued with attempt + 1.
        version: learner version at the start.
        steps: learner steps of the run; no more groups are admitted than they need. None: no end.
        leased: open groups that a learner step is working on: they keep their attempt and wait for its finals.
        selection: which places of the schedule new groups get; None = every one in turn, the group's own number.
    """

    def __init__(
        self,
        config: ReplayConfig,
        record: Record | None = None,
        version: int = 0,
        steps: int | None = None,
        leased: Collection[int] = (),
        selection: Selection | None = None,
    ) -> None:
        self.config = config
        self.record = record.copy() if record else Record()
        self.steps = steps
        self.selection = selection
        self.version = version  # learner steps done
        self.published = version  # newest version given to the rollout actors
        self.entries: dict[int, Entry] = {}
        self._started = (version, self._accepted())
        self._arrivals = 0
        self._unreported: dict[int, State] = {}  # finals decided here that the driver has not recorded yet
        self._pending: deque[int] = deque()  # groups to issue again before any new one
        for number in self.record.open_groups():
            entry = Entry(number, self.record.attempts.get(number, 0), self.record.losses.get(number, 0))
            self.entries[number] = entry
            if number in leased:
                entry.state = State.LEASED
            else:
                self._reissue(entry)

    # --- admission -----------------------------------------------------------------------------------------------

    def capacity(self) -> int:
        """New groups that may be admitted now: (max_staleness + published version + 1) * P - (accepted + running).

        The count is from the published version, not the learner's: with a broadcast every few steps, other groups would
        be too old to train on when they are ready. Versions and accepted groups count from the start of this ledger, so
        a resumed run may have another P.
        """
        ahead = self.config.max_staleness + self.published + 1
        version, accepted = self._started
        admitted = (ahead if self.steps is None else min(ahead, self.steps)) - version
        return admitted * self.config.groups_per_step - (self._accepted() - accepted) - len(self.entries)

    def issue(self, limit: int, now: float) -> list[Attempt]:
        """Up to `limit` attempts to generate: re-issues first, then new groups as far as the credits reach.

        A group whose holder died is issued alone: if it kills its holder, no other group is lost.
        """
        issued: list[Attempt] = []
        while len(issued) < limit and (entry := self._first_pending()) is not None:
            if entry.losses and issued:
                return issued
            self._pending.popleft()
            entry.since = now
            issued.append(Attempt(entry.number, entry.attempt))
            if entry.losses:
                return issued
        while len(issued) < limit and self.capacity() > 0:
            number = self.record.issued
            self.record.issued += 1
            self.entries[number] = Entry(number, since=now)
            self._place(number)
            issued.append(Attempt(number, 0))
        return issued

    def place(self, number: int) -> int:
        """The place of group `number` in the schedule."""
        return self.record.places.get(number, number)

    # --- generation and judging ------------------------------------------------------------------------------------

    def generated(self, number: int, attempt: int, version: int, now: float) -> bool:
        """A group arrived from a rollout actor, made by weights `version`. False: refused."""
        return self._advance(number, attempt, State.ISSUED, State.GENERATED, now, version=version)

    def scoring(self, number: int, attempt: int, now: float) -> bool:
        """A reward actor takes the lease of a group. False: refused."""
        return self._advance(number, attempt, State.GENERATED, State.SCORING, now)

    def ready(
        self, number: int, attempt: int, now: float, *, valid: int, zero_signal: bool, solved: int = 0
    ) -> State | None:
        """The verdicts arrived, `valid` of them, `solved` positive: the new state, or None if they are refused.

        Fewer than two valid completions make no baseline: quarantined. A zero-signal group is filtered here only with
        `refill`; otherwise it counts towards its step and the learner leaves it out of the loss.
        """
        entry = self.entries.get(number)
        if entry is None or entry.attempt != attempt or entry.state is not State.SCORING:
            return None
        if self.selection is not None and valid:
            self.selection.follow(self.record.rates, self.place(number), solved, valid)
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

    def lose(self, number: int, attempt: int, *, counted: bool = True, alone: bool = True) -> State | None:
        """The holder of an attempt died or timed out: re-issue the group, or quarantine it after `max_attempts` losses.

        Args:
            number, attempt: what was lost.
            counted: False if the group certainly did not cause the loss.
            alone: False if the holder held other groups too: one of those may have caused it, so it is not quarantined.

        Returns:
            ISSUED or QUARANTINED, or None if the attempt no longer counts.
        """
        if not self.holds(number, attempt):
            return None
        entry = self.entries[number]
        entry.losses += counted
        if entry.losses >= self.config.max_attempts and alone:
            return self._finish(number, State.QUARANTINED)
        self._reissue(entry)
        return State.ISSUED

    # --- learner steps -----------------------------------------------------------------------------------------------

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
        """Weights `version` go out to the rollout actors: more groups may be admitted."""
        self.published = max(self.published, version)
        self.version = max(self.version, version)

    def unreported(self) -> dict[int, State]:
        """Finals decided here (quarantined, filtered) that the driver has yet to record through `finish`."""
        return dict(self._unreported)

    # --- reports -----------------------------------------------------------------------------------------------------

    def cursor(self) -> Cursor:
        """How far this ledger has come."""
        return Cursor(
            issued=self.record.issued,
            attempts={e.number: e.attempt for e in self.entries.values() if e.attempt},
            losses={e.number: e.losses for e in self.entries.values() if e.losses},
            reissued=self.record.reissued,
            stale_dropped=self.record.stale_dropped,
            place=self.record.place,
            places=dict(self.record.places),
            rates=dict(self.record.rates),
        )

    def states(self) -> dict[str, int]:
        """Groups per state, for every state."""
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

    def _first_pending(self) -> Entry | None:
        """The first group to issue again that has not become final meanwhile."""
        while self._pending and self._pending[0] not in self.entries:
            self._pending.popleft()
        return self.entries[self._pending[0]] if self._pending else None

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

    def _place(self, number: int) -> None:
        """Choose the place of a new group."""
        if self.selection is not None:
            place = self.selection.next_place(max(self.record.place, number), self.record.rates)
            self.record.places[number], self.record.place = place, place + 1

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
