"""Tens of thousands of groups through ledger, queue and record: memory, checkpoint and the time of a lease stay the same."""

import asyncio
import json
import logging
import random
import statistics
import time
from types import SimpleNamespace

import pytest
from ray.exceptions import ActorUnavailableError

from couplet.actors.messages import PublishedWeights, ScoreReply, StartedWorker, WorkerInfo
from couplet.actors.replay_actor import Memory, ReplayActor
from couplet.data.verdict import Outcome, Verdict
from couplet.replay.record import State
from tests.actors.runs import run_config

P, G = 8, 4
PROCESS = WorkerInfo(1, "node", "namespace")
VERDICTS = [Verdict(Outcome.PASSED, float(g)) for g in range(G)]
SCHEDULE = SimpleNamespace(
    request=lambda *attempt: SimpleNamespace(prompt_tokens=(1, 2), suffix_tokens=()),
    problem=lambda number: SimpleNamespace(problem_id="p"),
)


class Group:
    """A payload; counts how many there are."""

    alive = 0

    def __init__(self, version):
        self.version, self.metrics, self.completions = version, None, G
        self.tokens_GC = SimpleNamespace(size=G)
        Group.alive += 1

    def __del__(self):
        Group.alive -= 1


class Worker:
    """A rollout or reward actor that answers at once, and dies over one call in fifty."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.generate = SimpleNamespace(options=lambda num_returns: SimpleNamespace(remote=self._generate))
        self.score = SimpleNamespace(remote=lambda *_: self._answer(ScoreReply(VERDICTS, 0.0, PROCESS)))
        self.load_weights = SimpleNamespace(
            remote=lambda weights: self._answer(SimpleNamespace(version=weights.version))
        )
        self.describe = SimpleNamespace(remote=lambda: self._answer(PROCESS, dies=False))

    def _generate(self, requests, weights):
        return self._answer(Group(weights.version))

    def _answer(self, value, dies=True):
        answer = asyncio.get_running_loop().create_future()
        if dies and self.random.random() < 0.02:
            answer.set_exception(ActorUnavailableError("it is restarting", None))
        else:
            answer.set_result(value)
        return answer


async def run(config, steps):
    """`steps` learner steps of a driver. Rows of (seconds of `take`, payloads alive, bytes of a checkpoint, entries)."""
    memory = Memory(targets={"rollout": 2, "reward": 2})
    queue = ReplayActor(config, SCHEDULE, memory)
    await queue.publish(PublishedWeights(0, None))
    for role in ("rollout", "reward"):
        for index in range(2):
            await queue.join(StartedWorker(role, index, Worker(f"{role} {index}"), PROCESS))
    rows = []
    for step in range(1, steps + 1):
        while queue.ledger.states()[State.READY] < P:
            assert queue.hub.failure is None, queue.hub.failure
            await asyncio.sleep(0)
        began = time.perf_counter()
        lease = await queue.take(P, 60.0)
        seconds = time.perf_counter() - began
        memory.record.follow(lease.cursor)
        memory.record.add(lease.decided)
        finals = lease.decided | dict.fromkeys(lease.numbers, State.TRAINED)
        memory.record.add(finals)
        memory.record.follow(await queue.finish(finals, step))
        await queue.publish(PublishedWeights(step, None))
        await queue.report_losses()
        if step % (steps // 20) == 0:
            queue.hub.telemetry.rates(time.monotonic())
            del lease
            rows.append((seconds, Group.alive, len(json.dumps(memory.record.to_dict())), len(queue.ledger.entries)))
        else:
            rows.append((seconds, None, None, None))
    totals = await queue.totals()
    for workers in queue.hub.workers.values():
        for worker in workers.values():
            worker.leaving = True
    queue._exporting.cancel()
    queue.hub.notify()
    await asyncio.wait(list(queue.hub._tasks), timeout=60)
    return rows, totals


@pytest.mark.parametrize("groups", [800, pytest.param(50_000, marks=pytest.mark.slow)])
def test_memory_checkpoint_and_lease_do_not_grow(tmp_path, monkeypatch, groups):
    sleep = asyncio.sleep
    monkeypatch.setattr(asyncio, "sleep", lambda seconds: sleep(seconds if seconds >= 1 else 0))  # no pauses
    monkeypatch.setattr(logging.getLogger("couplet"), "disabled", True)
    config = run_config(
        tmp_path, "many", steps=groups, replay={"groups_per_step": P, "completions": G, "max_staleness": 2}
    )
    began = time.monotonic()
    rows, totals = asyncio.run(run(config, groups // P))
    seconds = time.monotonic() - began
    final = totals["trained"] + totals["quarantined"]
    assert (
        totals["issued"] == final + totals["in_flight"]
        and totals["trained"] == groups
        and totals["reissued"] > groups / 100
    )
    marked = [row for row in rows if row[1] is not None]
    payloads, checkpoints, entries = ([row[k] for row in marked] for k in (1, 2, 3))
    assert max(payloads) <= 4 * P and max(entries) <= 4 * P  # (max_staleness + 2) steps
    assert max(checkpoints) < 2_000
    tenth = len(rows) // 10
    first, last = (1e6 * statistics.median(row[0] for row in some) for some in (rows[:tenth], rows[-tenth:]))
    assert last < 3 * first + 100, (first, last)
    print(
        f"\n{groups} groups in {seconds:.0f} s: take {first:.0f} us at first, {last:.0f} us at the end; at most "
        f"{max(payloads)} payloads, {max(entries)} entries, {max(checkpoints)} bytes of a checkpoint; {totals}"
    )
