"""A discrete-event simulation of the replay queue: how long a step takes, who waits, and how stale samples get.

The rules are not modelled but run: every group goes through the `Ledger` of a real run, which admits, leases, drops
stale groups and re-issues them. Only the work itself is replaced by durations. A ratio of FLOPs cannot see that groups
are indivisible, that credits hold generation back, or that the last straggler of a step keeps all others waiting.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from couplet.configs.schema import ReplayConfig
from couplet.replay.ledger import Ledger
from couplet.replay.record import Attempt, State


@dataclass(frozen=True)
class Durations:
    """Seconds of each piece of work; `spread` is the standard deviation of its logarithm (0: always the same).

    Attributes:
        generate: a rollout actor's call, by the number of groups in it.
        judge: judging one group.
        learn: one learner step, all inner updates.
        publish: gathering and packing weights, for which the driver waits.
        swap: additional seconds of a rollout actor's first call with new weights.
    """

    generate: Callable[[int], float]
    judge: float
    learn: float
    publish: float = 0.0
    swap: float = 0.0
    spread: float = 0.0


@dataclass(frozen=True)
class Layout:
    """The number of workers, and how work is divided among them."""

    rollout_actors: int
    reward_actors: int
    groups_per_call: int = 1
    broadcast_every: int = 1


@dataclass
class Timeline:
    """Measurements of a simulated run. Shares are of the time from the end of the first to the end of the last step."""

    step_ends: list[float] = field(default_factory=list)
    staleness: list[int] = field(default_factory=list)  # of every group trained
    busy: dict[str, float] = field(default_factory=lambda: {"rollout": 0.0, "reward": 0.0, "learner": 0.0})
    workers: dict[str, int] = field(default_factory=dict)
    stale_dropped: int = 0

    def step_seconds(self, warm_up: int = 2) -> float:
        """Mean seconds of a learner step once the pipeline is full."""
        ends = self.step_ends[min(warm_up, len(self.step_ends) - 2) :]
        return (ends[-1] - ends[0]) / (len(ends) - 1)

    def idle(self, role: str) -> float:
        """Share of the whole time in which the workers of `role` had nothing to do."""
        return 1.0 - self.busy[role] / (self.step_ends[-1] * self.workers[role])


@dataclass
class Run:
    """A queue with these workers, which runs for `steps` learner steps (at least two).

    Events are in order of time; ties in order of creation.

    Attributes:
        zero_signal: probability that a group's rewards do not differ.
        seed: of the durations and of the zero-signal groups.
        observe: called after every learner step; it may change `wanted` and `durations`.
        wanted: workers per role; surplus ones leave once they are idle.
        waits: seconds that each group waited for a reward actor, since the last learner step.
        learner_wait: seconds that the learner waited for the groups of the last step.
    """

    replay: ReplayConfig
    layout: Layout
    durations: Durations
    steps: int
    zero_signal: float = 0.0
    seed: int = 0
    observe: Callable[[Run], None] = lambda run: None

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.ledger = Ledger(self.replay, steps=self.steps)
        self.now = 0.0
        self.version = 0  # learner steps done
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.ties = itertools.count()
        self.wanted = {"rollout": self.layout.rollout_actors, "reward": self.layout.reward_actors}
        self.working = {"rollout": 0, "reward": 0}
        self.held: deque[int] = deque()  # versions of the weights that idle rollout actors hold
        self.jobs: deque[tuple[int, int, float]] = deque()  # group, attempt, when it was generated
        self.learning = False
        self.free_since = 0.0  # since when the learner has nothing to do
        self.waits: list[float] = []
        self.learner_wait = 0.0
        self.timeline = Timeline(workers={**self.wanted, "learner": 1})

    def run(self) -> Timeline:
        """What was measured."""
        self._work()
        while self.version < self.steps:
            self.now, _, happen = heapq.heappop(self.events)
            happen()
            self._work()
        self.timeline.stale_dropped = self.ledger.record.stale_dropped
        return self.timeline

    def _work(self) -> None:
        """Give work to every idle worker; the learner first, whose lease may send stale groups back."""
        self._learn()
        self._generate()
        self._judge()

    def _after(self, role: str, seconds: float, happen: Callable[[], None]) -> None:
        if self.durations.spread:
            seconds *= self.random.lognormvariate(-(self.durations.spread**2) / 2, self.durations.spread)
        self.timeline.busy[role] += seconds
        heapq.heappush(self.events, (self.now + seconds, next(self.ties), happen))

    def _idle(self, role: str) -> bool:
        return self.working[role] < self.wanted[role]

    def _generate(self) -> None:
        while self._idle("rollout") and (issued := self.ledger.issue(self.layout.groups_per_call, self.now)):
            held, version = self.held.popleft() if self.held else 0, self.ledger.published
            seconds = self.durations.generate(len(issued)) + self.durations.swap * (held != version)
            self.working["rollout"] += 1

            def generated(issued: list[Attempt] = issued, version: int = version) -> None:
                self.working["rollout"] -= 1
                self.held.append(version)
                for number, attempt in issued:
                    if self.ledger.generated(number, attempt, version, self.now):
                        self.jobs.append((number, attempt, self.now))

            self._after("rollout", seconds, generated)

    def _judge(self) -> None:
        while self._idle("reward") and self.jobs:
            number, attempt, since = self.jobs.popleft()
            if not self.ledger.scoring(number, attempt, self.now):
                continue
            self.waits.append(self.now - since)
            self.working["reward"] += 1
            equal = self.random.random() < self.zero_signal

            def judged(number: int = number, attempt: int = attempt, equal: bool = equal) -> None:
                self.working["reward"] -= 1
                valid = self.replay.completions
                self.ledger.ready(number, attempt, self.now, valid=valid, zero_signal=equal)

            self._after("reward", self.durations.judge, judged)

    def _learn(self) -> None:
        if self.learning or (numbers := self.ledger.lease(self.replay.groups_per_step, self.now)) is None:
            return
        self.learning, self.learner_wait = True, self.now - self.free_since
        versions = [self.ledger.entries[number].version for number in numbers]
        self.timeline.staleness += [self.version - version for version in versions if version is not None]

        def learned() -> None:
            self.version += 1
            self.timeline.step_ends.append(self.now)
            self.ledger.finish(dict.fromkeys(numbers, State.TRAINED), self.version)
            if self.version % self.layout.broadcast_every == 0:
                self._after("learner", self.durations.publish, published)
            else:
                done()

        def published() -> None:
            self.ledger.publish(self.version)
            done()

        def done() -> None:
            self.learning, self.free_since = False, self.now
            self.observe(self)
            self.waits.clear()

        self._after("learner", self.durations.learn, learned)
