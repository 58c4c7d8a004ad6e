"""The replay queue's own work per group: its event loop with fake workers that answer at once, in one process.

The workers are objects with the methods of an actor handle whose answers are futures, so Ray's messages come on top; what
is measured is issuing, the ledger, the wake-ups of the tasks, judging, the lease and the record of the finals. Groups have
the size of the 7B recipe: 10 completions of 256 tokens with behaviour estimates for two draws.
Staleness is 1, and there are half as many reward workers as rollout workers.
"""

from __future__ import annotations

import asyncio
import os
import pickle
from typing import Any

import numpy as np

from benchmarks.measure import cpu_seconds
from couplet.actors.messages import PublishedWeights, ScoreReply, StartedWorker, SwapReply, WorkerInfo
from couplet.actors.replay_actor import Memory, ReplayActor
from couplet.configs.load import from_dict
from couplet.configs.schema import RunConfig
from couplet.data.problem import Problem
from couplet.data.prompts import PromptSet
from couplet.data.trajectory import GroupId, PromptGroup
from couplet.data.verdict import Outcome, Verdict
from couplet.replay.record import State
from couplet.replay.schedule import Schedule

WHAT = "CPU time per group of the replay queue's event loop, fake workers in the same process"
LEFT_OUT = "Ray's messages and the object store"

COMPLETIONS, CANVAS = 10, 256
INFO = WorkerInfo(os.getpid(), "node")
CASES = [
    (1, 1, 300),
    (10, 10, 300),
    (100, 100, 600),
    (1000, 1000, 3000),
    (1000, 56, 1120),
]  # workers, groups per step, groups
TOY = [(3, 2, 12)]


def group_of_7b() -> PromptGroup:
    """A group of the size that the 7B recipe's groups have."""
    shape = (COMPLETIONS, CANVAS)
    return PromptGroup(
        group_id=GroupId(0, 0, 0),
        attempt=0,
        version=0,
        problem_id="p",
        prompt_tokens=np.zeros(200, np.int32),
        tokens_GC=np.zeros(shape, np.int32),
        reveal_step_GC=np.zeros(shape, np.int16),
        loss_mask_GC=np.ones(shape, bool),
        texts=("x" * 800,) * COMPLETIONS,
        seeds_G=(1,) * COMPLETIONS,
        group_seed=0,
        behaviour_GJC=np.zeros((COMPLETIONS, 2, CANVAS), np.float32),
        metrics={"seconds": 1.0},
    )


class FakeMethod:
    """Called as `handle.method.remote(...)`; answers through a future at the next turn of the loop."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def options(self, num_returns: int) -> FakeMethod:
        """One group per call is asked for."""
        assert num_returns == 1
        return self

    def remote(self, *arguments: Any) -> asyncio.Future[Any]:
        """The call."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        loop.call_soon(future.set_result, self.answer(*arguments))
        return future


class FakeWorker:
    """A rollout and a reward actor in one; its groups are always of the newest version."""

    def __init__(self, group: PromptGroup) -> None:
        self.payload = pickle.dumps(group, protocol=5)
        self.version = 0
        verdicts = [Verdict(Outcome.FAILED, float(row % 2)) for row in range(COMPLETIONS)]
        self.generate = FakeMethod(self._group)
        self.score = FakeMethod(lambda *_: ScoreReply(verdicts, 0.0, INFO))
        self.load_weights = FakeMethod(lambda weights: SwapReply(weights.version, 0.0, INFO))
        self.describe = FakeMethod(lambda: INFO)

    def _group(self, requests: Any, weights: PublishedWeights) -> PromptGroup:
        group: PromptGroup = pickle.loads(self.payload)  # as the queue deserialises what arrives
        object.__setattr__(group, "version", weights.version)
        return group


async def serve(workers: int, step: int, groups: int) -> None:
    """A run of `groups` groups through one queue."""
    config = from_dict(
        RunConfig,
        {
            "name": "queue",
            "steps": groups // step + 2,
            "model": {"path": "."},
            "problems": {"train": "katas:rl"},
            "replay": {"groups_per_step": step, "completions": COMPLETIONS, "max_staleness": 1},
        },
    )
    prompts = PromptSet((Problem("p", "q", ("assert True",)),), (np.zeros(200, np.int32),))
    queue = ReplayActor(config, Schedule(prompts, COMPLETIONS, 0), Memory(weights=PublishedWeights(0, None)))
    queue.metrics.export = lambda metrics: None  # type: ignore[method-assign]
    worker: Any = FakeWorker(group_of_7b())
    for index in range(workers):
        await queue.join(StartedWorker("rollout", index, worker, INFO))
    for index in range(max(1, workers // 2)):
        await queue.join(StartedWorker("reward", index, worker, INFO))
    for version in range(1, groups // step + 1):
        lease = await queue.take(step, 60.0)
        assert len(lease.numbers) == step
        await queue.finish(dict.fromkeys(lease.numbers, State.TRAINED), version)
        await queue.publish(PublishedWeights(version, None))
    for role, held in queue.hub.workers.items():
        for index in list(held):
            await queue.leave(role, index)
    while any(queue.hub.workers.values()):
        await asyncio.sleep(0)


def measure(toy: bool = False) -> dict[str, object]:
    """Microseconds and groups per CPU second at each number of workers."""
    cases = []
    for workers, step, groups in TOY if toy else CASES:
        asyncio.run(serve(1, 1, 2))  # imports and first calls
        seconds = cpu_seconds(lambda case=(workers, step, groups): asyncio.run(serve(*case)))  # type: ignore[misc]
        done = groups // step * step
        cases.append(
            {
                "rollout_workers": workers,
                "groups_per_step": step,
                "groups": done,
                "microseconds_per_group": round(1e6 * seconds / done),
                "groups_per_second": round(done / seconds),
            }
        )
        print(cases[-1], flush=True)
    return {"payload_kb": round(len(pickle.dumps(group_of_7b(), protocol=5)) / 1000, 1), "cases": cases}
