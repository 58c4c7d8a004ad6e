"""The seeded schedule of kills and hangs, how each is done to a running job, and how long the job takes to recover."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from couplet.studies.chaos_processes import Driver, Machines, actors, is_alive, title_of
from couplet.studies.cli import RunFailed

WORKERS = ("rollout", "reward")
RECOVERY_SECONDS = 150.0  # a run that needs longer has not recovered
MOMENT_SECONDS = 20.0  # that an event waits for its moment
POLL = 0.1


@dataclass(frozen=True)
class Kind:
    """One kind of event.

    Attributes:
        share: how many of `sum` events are of this kind.
        roles: whose processes; `one` of each at random, or all.
        hang: SIGSTOP instead of SIGKILL.
        method: of a learner rank, during which it happens.
    """

    share: int
    roles: tuple[str, ...] = ()
    one: bool = True
    hang: bool = False
    method: str | None = None


KINDS = {
    "kill rollout": Kind(9, ("rollout",)),
    "kill reward": Kind(9, ("reward",)),
    "kill queue": Kind(6, ("queue",)),
    "kill learner rank": Kind(3, ("learner",)),
    "kill learner rank during broadcast": Kind(3, ("learner",), method="weights"),
    "kill learner rank during checkpoint": Kind(3, ("learner",), method="save"),
    "kill all workers": Kind(4, WORKERS, one=False),
    "kill workers, queue and learner": Kind(2, (*WORKERS, "queue", "learner"), one=False),
    "kill a worker during an evaluation": Kind(3, WORKERS),
    "hang rollout": Kind(2, ("rollout",), hang=True),
    "hang reward": Kind(2, ("reward",), hang=True),
    "hang queue": Kind(2, ("queue",), hang=True),
    "hang learner rank": Kind(1, ("learner",), hang=True),
    "kill node": Kind(3),
    "kill driver": Kind(2),
    "stop driver (SIGTERM)": Kind(1),
}
EVALUATION = "Evaluating at step"


def schedule(seed: int, count: int, kinds: Sequence[str] = tuple(KINDS)) -> list[str]:
    """`count` names of `KINDS` in a seeded order: each kind as often as its share says, and at least once if they fit."""
    total = sum(KINDS[name].share for name in kinds)
    exact = {name: max(1.0, count * KINDS[name].share / total) for name in kinds}
    names = [name for name in kinds for _ in range(round(exact[name]))]
    generator = random.Random(f"chaos schedule {seed}")
    generator.shuffle(names)
    while len(names) < count:
        names.append(generator.choice(tuple(kinds)))
    return names[:count]


@dataclass
class Event:
    """One event, as it was done.

    Attributes:
        at: seconds since the study began.
        step: learner steps done.
        pids: processes that were killed or stopped.
        replaced: seconds until none of them was left and every role was complete again.
        stepped: seconds until a learner step was done after that.
    """

    name: str
    at: float
    step: int
    pids: list[int] = field(default_factory=list)
    replaced: float = 0.0
    stepped: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


class Chaos:
    """Does events to a run and waits for its recovery.

    Args:
        machines, driver: what runs.
        wanted: processes per role.
        seed: of the choice of victims.
        slowness: factor of the time limits.
        two_nodes: whether there is a second node.
    """

    def __init__(
        self, machines: Machines, driver: Driver, wanted: dict[str, int], seed: int, slowness: float, two_nodes: bool
    ) -> None:
        self.machines = machines
        self.driver = driver
        self.wanted = wanted
        self.random = random.Random(f"chaos victims {seed}")
        self.two_nodes = two_nodes
        self.limit = RECOVERY_SECONDS * slowness
        self.began = time.monotonic()

    def do(self, name: str) -> Event:
        """One event, to its recovery. RunFailed: the run did not recover, or ended."""
        kind = KINDS[name]
        self.wait_for_moment(name, kind)
        step, _ = self.driver.last_step()
        event = Event(name, time.monotonic() - self.began, step)
        began, moment = time.monotonic(), time.time()
        if name == "kill node":
            event.pids = self.machines.kill_second()
        elif "driver" in name:
            event.pids = self.stop_driver(signal.SIGTERM if "SIGTERM" in name else signal.SIGKILL)
        else:
            event.pids = self.strike(kind)
        if "driver" in name:
            self.start("--resume")
        while not self.recovered(event.pids):
            self.wait(name, began)
        event.replaced = time.monotonic() - began
        while (last := self.driver.last_step())[1] <= moment + event.replaced:
            self.wait(name, began)
        event.stepped = last[1] - moment
        if name == "kill node":
            self.machines.add()
        return event

    def start(self, *options: str) -> None:
        """Start the driver while the head is the only node, which it then joins, and add the second node."""
        if self.machines.second is not None:
            self.machines.kill_second()
        began = time.monotonic()
        self.driver.start(*options)
        while not actors(self.machines)["queue"]:
            self.wait("waiting for the replay queue", began)
        if self.two_nodes:
            self.machines.add()

    def wait_for_step(self, step: int) -> None:
        """Return when the run is complete and has done `step` learner steps."""
        began = time.monotonic()
        while self.driver.last_step()[0] < step or not self.recovered([]):
            self.wait(f"waiting for learner step {step}", began)

    def pause(self) -> None:
        """Some quiet seconds."""
        time.sleep(self.random.uniform(0.2, 2.0))

    def stop_driver(self, number: int) -> list[int]:
        """End the driver; its actors end with it."""
        orphans = [pid for pids in actors(self.machines, started=False).values() for pid in pids]
        self.driver.signal(number)
        return orphans

    def strike(self, kind: Kind) -> list[int]:
        """Kill or stop processes of the roles of `kind`."""
        found = actors(self.machines)
        roles = [self.random.choice(kind.roles)] if kind.one else kind.roles
        pids = [pid for role in roles for pid in self.victims(found[role], kind)]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP if kind.hang else signal.SIGKILL)
        return pids

    def victims(self, pids: list[int], kind: Kind) -> list[int]:
        """One of `pids`, one that is in the method of `kind`, or all."""
        if kind.method is None:
            return [self.random.choice(pids)] if kind.one and pids else pids
        deadline = time.monotonic() + MOMENT_SECONDS
        while time.monotonic() < deadline:
            if inside := [pid for pid in pids if title_of(pid).endswith(f".{kind.method}")]:
                return [self.random.choice(inside)]
            time.sleep(0.0005)
        return [self.random.choice(pids)]

    def wait_for_moment(self, name: str, kind: Kind) -> None:
        """Return when the run is complete, and in an evaluation if the event asks for one."""
        began = time.monotonic()
        while not self.recovered([]):
            self.wait("waiting for a complete run", began)
        if "evaluation" not in name:
            return
        seen = self.driver.said(EVALUATION)
        while self.driver.said(EVALUATION) == seen and time.monotonic() - began < MOMENT_SECONDS:
            self.wait(name, began)

    def recovered(self, pids: Sequence[int]) -> bool:
        """Whether none of `pids` is left and every role has its processes."""
        found = actors(self.machines)
        complete = all(len(found[role]) == count for role, count in self.wanted.items())
        return complete and not any(map(is_alive, pids))

    def wait(self, what: str, began: float) -> None:
        """Sleep a moment. RunFailed: the run has ended, or has not recovered in time."""
        self.driver.require_running()
        if time.monotonic() - began > self.limit:
            found = {role: len(pids) for role, pids in actors(self.machines).items()}
            step, _ = self.driver.last_step()
            raise RunFailed(f"{what}: not recovered after {self.limit:.0f} s; processes {found}, step {step}")
        time.sleep(POLL)
