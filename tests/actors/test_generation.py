"""Weights are pushed to the rollout actors; whoever owes an answer is sent no more of them."""

import asyncio
from types import SimpleNamespace

from actors.generation import Generation
from actors.replay_hub import Worker


class Handle:
    """A rollout actor whose answers come when the test says so."""

    def __init__(self):
        self.sent, self.answers = [], []
        self.load_weights = SimpleNamespace(remote=self._load)

    def _load(self, weights):
        self.sent.append(weights[0])
        self.answers.append(asyncio.get_running_loop().create_future())
        return self.answers[-1]


def test_an_actor_that_owes_an_answer_is_sent_no_more_weights():
    async def publish_five_times():
        busy, idle = (Worker("rollout", index, Handle(), {}) for index in range(2))
        hub = SimpleNamespace(
            active=lambda role: [busy, idle],
            answered=lambda worker, info: None,
            config=SimpleNamespace(weights=SimpleNamespace(timeout=0.05)),
            spawn=asyncio.ensure_future,
            telemetry=SimpleNamespace(),
            fail=lambda error: None,
        )
        generation = Generation(hub, arrived=lambda *_: None)
        for version in range(1, 5):
            await generation.publish((version, [None]))
            await asyncio.sleep(0.01)
            idle.handle.answers[-1].set_result((version, 0.0, {}))
            await asyncio.sleep(0.1)  # longer than the limit of a push
        assert (busy.handle.sent, idle.handle.sent) == ([1], [1, 2, 3, 4])
        assert (busy.version, idle.version) == (None, 4)
        busy.handle.answers[0].set_result((1, 0.0, {}))
        await generation.publish((5, [None]))
        await asyncio.sleep(0.1)
        assert busy.handle.sent == [1, 5]

    asyncio.run(publish_five_times())
