"""The replay queue's tasks on one event loop, without Ray: whoever waits for a change hears of it."""

import asyncio
import time

from couplet.actors.replay_actor import Memory, ReplayActor
from tests.actors.runs import P, run_config


def make_ready(ledger, orders):
    for number, attempt in orders:
        ledger.generated(number, attempt, 0, 0.0)
        ledger.scoring(number, attempt, 0.0)
        ledger.ready(number, attempt, 0.0, valid=4, zero_signal=False)


def test_a_take_hears_of_the_last_ready_group_whoever_else_is_waking(tmp_path):
    async def look_again(hub):
        while True:
            await hub.wait(9.0)

    async def seconds_of_a_take(turns):
        """How long a take lasts beside eight idle tasks, its groups being ready `turns` turns after another change."""
        queue = ReplayActor(run_config(tmp_path, "waking"), None, Memory())
        queue.judging.ready = dict.fromkeys(range(P), (None, ()))
        idle = [asyncio.ensure_future(look_again(queue.hub)) for _ in range(8)]
        take = asyncio.ensure_future(queue.take(P, 0.3))
        await asyncio.sleep(0.01)
        started = time.monotonic()
        queue.hub.notify()
        for _ in range(turns):
            await asyncio.sleep(0)
        make_ready(queue.ledger, queue.ledger.issue(P, 0.0))
        queue.hub.notify()
        assert (await take).numbers == tuple(range(P))
        for task in idle:
            task.cancel()
        return time.monotonic() - started

    for turns in range(40):
        assert asyncio.run(seconds_of_a_take(turns)) < 0.2
