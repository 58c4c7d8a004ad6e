"""Weights are pushed to the rollout actors; whoever owes an answer is sent no more of them. Late is not lost."""

import asyncio
import time
from types import SimpleNamespace

import pytest
import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, RayTaskError

from couplet.actors.dispatch import Dispatch
from couplet.actors.generation import Generation
from couplet.actors.messages import PublishedWeights, SwapReply, WorkerInfo
from couplet.actors.remote import WeightsDamaged, WeightsLate, WeightsLost
from couplet.actors.replay_actor import Memory, ReplayActor
from couplet.actors.replay_state import Worker
from couplet.actors.rollout_actor import RolloutActor
from couplet.actors.worker_pool import Member, WorkerPool
from couplet.model.weights import DamagedWeights
from couplet.replay.record import Attempt
from couplet.training.replay_metrics import Telemetry
from tests.actors.runs import run_config

PROCESS = WorkerInfo(pid=1, node="node")
SCHEDULE = SimpleNamespace(
    request=lambda *order: order, problem=lambda number: SimpleNamespace(problem_id=f"problem {number}")
)


class Handle:
    """A rollout actor whose answers come when the test says so."""

    def __init__(self):
        self.sent, self.answers = [], []
        self.load_weights = SimpleNamespace(remote=self._load)

    def _load(self, weights):
        self.sent.append(weights.version)
        self.answers.append(asyncio.get_running_loop().create_future())
        return self.answers[-1]


def test_an_actor_that_owes_an_answer_is_sent_no_more_weights():
    async def publish_five_times():
        busy, idle = (Worker("rollout", index, Handle(), PROCESS) for index in range(2))
        hub = SimpleNamespace(
            active=lambda role: [busy, idle],
            answered=lambda worker, info: None,
            config=SimpleNamespace(weights=SimpleNamespace(timeout=0.05)),
            spawn=asyncio.ensure_future,
            telemetry=Telemetry(0.0),
            fail=lambda error: None,
        )
        generation = Generation(hub, arrived=lambda *_: None)
        for version in range(1, 5):
            await generation.publish(PublishedWeights(version, None))
            await asyncio.sleep(0.01)
            idle.handle.answers[-1].set_result(SwapReply(version, 0.0, PROCESS))
            await asyncio.sleep(0.1)  # longer than the limit of a push
        assert (busy.handle.sent, idle.handle.sent) == ([1], [1, 2, 3, 4])
        assert (busy.version, idle.version) == (None, 4)
        busy.handle.answers[0].set_result(SwapReply(1, 0.0, PROCESS))
        await generation.publish(PublishedWeights(5, None))
        await asyncio.sleep(0.1)
        assert busy.handle.sent == [1, 5]

    asyncio.run(publish_five_times())


def test_an_actor_that_decodes_is_pushed_no_weights(tmp_path):
    async def publish_while_one_decodes():
        queue = ReplayActor(run_config(tmp_path, "push"), SCHEDULE, Memory())
        busy, idle = (Worker("rollout", index, Scripted(), PROCESS) for index in range(2))
        queue.hub.workers["rollout"] = {0: busy, 1: idle}
        queue.generation.weights = PublishedWeights(4, None)
        serving = asyncio.ensure_future(queue.generation.serve(busy))
        await asyncio.sleep(0.01)
        idle.handle.script = ["loaded"]
        await queue.publish(PublishedWeights(5, None))
        await asyncio.sleep(0.01)
        serving.cancel()
        return queue, busy.handle.calls, idle.handle.calls

    queue, busy, idle = asyncio.run(publish_while_one_decodes())
    assert (busy, idle) == ([("generate", 4)], [("load", 5)])
    assert queue.hub.telemetry.report(time.monotonic())["weight_broadcast_seconds"] > 0.0


def raised(cause):
    """What a call of an actor raises whose code raised `cause`."""
    return RayTaskError("generate", "traceback", cause, proctitle="", pid=1, ip="").as_instanceof_cause()


class Scripted:
    """A rollout actor of which every call ends as the next of `script`: an error, or anything else for an answer."""

    def __init__(self, *script):
        self.script, self.calls = list(script), []
        self.load_weights = SimpleNamespace(remote=lambda weights: self._answer("load", weights))
        generate = SimpleNamespace(remote=lambda requests, weights: self._answer("generate", weights))
        self.generate = SimpleNamespace(options=lambda num_returns: generate)

    def _answer(self, method, weights):
        answer = asyncio.get_running_loop().create_future()
        self.calls.append((method, weights.version))
        if self.script:
            end = self.script.pop(0)
            answer.set_exception(end) if isinstance(end, Exception) else answer.set_result(
                SwapReply(weights.version, 0.0, PROCESS)
            )
        return answer


async def served(tmp_path, *script):
    """The queue after its one rollout actor has run through `script`, and what that actor was called for."""
    queue = ReplayActor(run_config(tmp_path, "generation"), SCHEDULE, Memory())
    worker = Worker("rollout", 0, Scripted(*script), PROCESS)
    queue.hub.workers["rollout"][0] = worker
    queue.generation.weights = PublishedWeights(4, None)
    serving = asyncio.ensure_future(queue.generation.serve(worker))
    await asyncio.sleep(0.05)
    serving.cancel()
    return queue, worker.handle.calls


def test_an_actor_whose_weights_are_late_catches_up_alone_and_stops_nobody(tmp_path):
    late = raised(WeightsLate("weights version 4: not here after 120 s"))
    queue, calls = asyncio.run(served(tmp_path, late, late, "loaded"))
    assert calls == [("generate", 4), ("load", 4), ("load", 4), ("generate", 4)]
    assert not queue.generation.weights_lost and queue.hub.failure is None
    assert queue.hub.lost["rollout"] == 0 and queue.ledger.cursor().losses == {}


def test_weights_that_are_nowhere_stop_generation_until_they_are_published_again(tmp_path):
    queue, calls = asyncio.run(served(tmp_path, raised(WeightsLost("weights version 4: OwnerDiedError"))))
    assert calls == [("generate", 4)]
    assert queue.generation.weights_lost


def test_old_weights_that_are_lost_say_nothing_of_newer_ones(tmp_path):
    async def lost_when_newer_are_out():
        queue, _ = await served(tmp_path, raised(WeightsLost("weights version 3: OwnerDiedError")))
        old, queue.generation.weights_lost = queue.generation.weights, False
        queue.generation.weights = PublishedWeights(5, None)
        worker = queue.hub.workers["rollout"][0]
        await queue.generation._failed(worker, [], old, raised(WeightsLost("weights version 4: OwnerDiedError")))
        return queue

    assert not asyncio.run(lost_when_newer_are_out()).generation.weights_lost


@pytest.mark.parametrize("error, times", [(WeightsLate("weights version 4"), 0), (WeightsLost("weights version 4"), 1)])
def test_an_evaluation_has_lost_weights_published_again_and_waits_for_late_ones(tmp_path, monkeypatch, error, times):
    published, ends = [], [raised(error), "done"]

    def get(reference, timeout):
        end = ends.pop(0)
        if isinstance(end, Exception):
            raise end
        return end

    monkeypatch.setattr("couplet.actors.dispatch.ray", SimpleNamespace(wait=lambda refs, timeout: (refs, []), get=get))
    config = run_config(tmp_path, "evaluation")
    pool = WorkerPool(config, "", reconcile=lambda: None, republish=lambda: published.append(True))
    pool.members["rollout"][0] = Member(None, None, PROCESS)
    assert list(Dispatch(pool, "rollout", lambda handle, job: object()).run(["job"])) == [("job", "done")]
    assert len(published) == times


def test_an_evaluation_ends_with_its_last_answer_also_if_no_actor_is_left(tmp_path, monkeypatch):
    fake = SimpleNamespace(wait=lambda refs, timeout: (refs[:1], refs[1:]), get=lambda reference, timeout: "done")
    monkeypatch.setattr("couplet.actors.dispatch.ray", fake)
    pool = WorkerPool(run_config(tmp_path, "evaluation", rollout={"timeout": 1.0}), "", reconcile=lambda: None)
    pool.members["rollout"][0] = Member(None, None, PROCESS)
    answered = []
    for job, _ in Dispatch(pool, "rollout", lambda handle, job: object()).run(["first", "last"]):
        answered.append(job)
        if job == "last":
            pool.members["rollout"].clear()
    assert answered == ["first", "last"]


@pytest.mark.parametrize("whole_between", [False, True])
def test_damaged_weights_are_published_again_and_a_defect_the_second_time_in_a_row(tmp_path, whole_between):
    damaged = raised(WeightsDamaged("weights version 4: bucket 0 arrived damaged"))

    async def damaged_twice():
        queue, _ = await served(tmp_path, damaged)
        generation, worker = queue.generation, queue.hub.workers["rollout"][0]
        await generation._failed(worker, [], generation.weights, damaged)  # the same publication once more
        assert generation.weights_lost and queue.hub.failure is None
        if whole_between:
            generation._keep(worker, Attempt(9, 0), SimpleNamespace(version=4), None)
        generation.weights = PublishedWeights(4, object())
        await generation._failed(worker, [], generation.weights, damaged)
        return str(queue.hub.failure)

    assert ("arrived damaged; so were those published before" in asyncio.run(damaged_twice())) is not whole_between


def test_a_rollout_actor_says_that_weights_arrived_damaged(monkeypatch):
    def load_weights(manifest, buckets, verify):
        raise DamagedWeights("weights version 1: bucket 0 arrived damaged")

    monkeypatch.setattr(ray, "get", lambda reference, timeout: (None, []))
    worker = SimpleNamespace(version=0, load_weights=load_weights)
    with pytest.raises(WeightsDamaged, match="version 1: bucket 0"):
        RolloutActor.load_weights(
            SimpleNamespace(worker=worker, timeout=0.1, verify=True), PublishedWeights(1, object())
        )


@pytest.mark.parametrize("raises, expected", [(GetTimeoutError("slow"), WeightsLate), (ObjectLostError, WeightsLost)])
def test_a_rollout_actor_tells_late_weights_from_lost_ones(monkeypatch, raises, expected):
    def get(reference, timeout):
        raise raises if isinstance(raises, Exception) else raises("00", "owner", "stack")

    monkeypatch.setattr(ray, "get", get)
    actor = SimpleNamespace(worker=SimpleNamespace(version=0), timeout=0.1)
    with pytest.raises(expected, match="weights version 1"):
        RolloutActor.load_weights(actor, PublishedWeights(1, object()))
