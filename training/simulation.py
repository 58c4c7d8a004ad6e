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


def simulate(
    replay: ReplayConfig,
    layout: Layout,
    durations: Durations,
    steps: int,
    *,
    zero_signal: float = 0.0,
    seed: int = 0,
) -> Timeline:
    """Run `steps` learner steps (at least two) of a queue with these workers.

    Args:
        zero_signal: probability that a group's rewards do not differ.
        seed: of the durations and of the zero-signal groups.
    """
    return _Run(replay, layout, durations, steps, zero_signal, seed).run()


class _Run:
    """Events in order of time; ties in order of creation."""

    def __init__(
        self, replay: ReplayConfig, layout: Layout, durations: Durations, steps: int, zero_signal: float, seed: int
    ) -> None:
        self.replay, self.layout, self.durations = replay, layout, durations
        self.steps, self.zero_signal = steps, zero_signal
        self.random = random.Random(seed)
        self.ledger = Ledger(replay, steps=steps)
        self.now = 0.0
        self.version = 0  # learner steps done
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.ties = itertools.count()
        self.idle_rollout = deque(range(layout.rollout_actors))
        self.held = [0] * layout.rollout_actors  # version of the weights each rollout actor holds
        self.idle_reward = layout.reward_actors
        self.jobs: deque[tuple[int, int]] = deque()
        self.learning = False
        workers = {"rollout": layout.rollout_actors, "reward": layout.reward_actors, "learner": 1}
        self.timeline = Timeline(workers=workers)

    def run(self) -> Timeline:
        self._work()
        while self.version < self.steps:
            self.now, _, happen = heapq.heappop(self.events)
            happen()
            self._work()
        self.timeline.stale_dropped = self.ledger.record.stale_dropped
        return self.timeline

    def _work(self) -> None:
        """Give work to every idle worker."""
        self._generate()
        self._judge()
        self._learn()

    def _after(self, role: str, seconds: float, happen: Callable[[], None]) -> None:
        if self.durations.spread:
            seconds *= self.random.lognormvariate(-(self.durations.spread**2) / 2, self.durations.spread)
        self.timeline.busy[role] += seconds
        heapq.heappush(self.events, (self.now + seconds, next(self.ties), happen))

    def _generate(self) -> None:
        while self.idle_rollout and (issued := self.ledger.issue(self.layout.groups_per_call, self.now)):
            actor, version = self.idle_rollout.popleft(), self.ledger.published
            seconds = self.durations.generate(len(issued)) + self.durations.swap * (self.held[actor] != version)
            self.held[actor] = version

            def generated(actor: int = actor, issued: list[Attempt] = issued, version: int = version) -> None:
                self.idle_rollout.append(actor)
                for number, attempt in issued:
                    if self.ledger.generated(number, attempt, version, self.now):
                        self.jobs.append((number, attempt))

            self._after("rollout", seconds, generated)

    def _judge(self) -> None:
        while self.idle_reward and self.jobs:
            number, attempt = self.jobs.popleft()
            if not self.ledger.scoring(number, attempt, self.now):
                continue
            self.idle_reward -= 1
            equal = self.random.random() < self.zero_signal

            def judged(number: int = number, attempt: int = attempt, equal: bool = equal) -> None:
                self.idle_reward += 1
                valid = self.replay.completions
                self.ledger.ready(number, attempt, self.now, valid=valid, zero_signal=equal)

            self._after("reward", self.durations.judge, judged)

    def _learn(self) -> None:
        if self.learning or (numbers := self.ledger.lease(self.replay.groups_per_step, self.now)) is None:
            return
        self.learning = True
        versions = [self.ledger.entries[number].version for number in numbers]
        self.timeline.staleness += [self.version - version for version in versions if version is not None]

        def learned() -> None:
            self.version += 1
            self.timeline.step_ends.append(self.now)
            self.ledger.finish(dict.fromkeys(numbers, State.TRAINED), self.version)
            if self.version % self.layout.broadcast_every == 0:
                self._after("learner", self.durations.publish, published)
            else:
                self.learning = False

        def published() -> None:
            self.ledger.publish(self.version)
            self.learning = False

        self._after("learner", self.durations.learn, learned)
