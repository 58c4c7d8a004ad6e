"""Lost workers, queues and learner ranks: what is said of each, and that all of them are replaced. Without Ray."""

import asyncio
import itertools
import logging
import socket
import subprocess
import time
from types import SimpleNamespace

import psutil
import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, OutOfMemoryError

from couplet.actors import vitals
from couplet.actors.dispatch import Dispatch
from couplet.actors.learner_group import LearnerGroup
from couplet.actors.messages import Loss, WorkerInfo
from couplet.actors.remote import reason_of
from couplet.actors.replay_actor import Memory, ReplayActor
from couplet.actors.replay_client import ReplayClient
from couplet.actors.replay_state import Worker
from couplet.replay.record import State
from couplet.reward.judgement import Judgement
from tests.actors.runs import run_config

PROCESS, LATER = WorkerInfo(1, "node"), WorkerInfo(2, "node")
NODE_DIED = "The actor died because its node has died. Node Id: 17. The actor's node was terminated unexpectedly."
LEFT = "Worker exit type: INTENDED_USER_EXIT Worker exit detail: Worker exits with exit code 7. Exiting"


@pytest.mark.parametrize(
    "error, reason",
    [
        (ActorUnavailableError("the connection broke, error code 14, end of file", None), "its process died"),
        (ActorUnavailableError(NODE_DIED, None), "its node died"),
        (ActorUnavailableError(LEFT, None), "its process ended with code 7"),
        (OutOfMemoryError("3 workers were killed"), "its node ran out of memory and Ray ended it"),
        (TimeoutError("replay queue: take: no answer within 60 s"), "replay queue: take: no answer within 60 s"),
    ],
)
def test_a_reason_is_a_few_words(error, reason):
    assert reason_of(error) == reason


def test_a_loss_names_role_number_reason_and_seconds():
    assert (
        Loss("reward", 3, "its process died", 2.345).describe() == "reward worker 3: its process died; back after 2.3 s"
    )
    assert Loss("rollout", 0, "its node died", None).describe() == "rollout worker 0: its node died; another is started"


class Actor:
    """An actor that answers `describe` as scripted."""

    def __init__(self, *script):
        self.script = list(script)
        self.describe = SimpleNamespace(remote=self._describe)

    async def _describe(self):
        answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def queue_with(tmp_path, role, actor, **changes):
    queue = ReplayActor(run_config(tmp_path, "losses", **changes), None, Memory())
    worker = Worker(role, 0, actor, PROCESS)
    queue.hub.workers[role][0] = worker
    return queue, worker


def test_a_worker_that_died_is_neither_counted_nor_shown_as_serving_until_it_is_back(tmp_path):
    async def lose():
        actor = Actor(ActorUnavailableError("restarting", None), LATER)
        queue, worker = queue_with(tmp_path, "reward", actor, reward={"functions": {"code": 1.0, "mine:slow": 1.0}})
        worker.begin("katas/7")
        recovery = asyncio.ensure_future(queue.hub.recover(worker, TimeoutError("late")))
        await asyncio.sleep(0.05)
        seen = queue._depths()["reward_workers"], (await queue.roster()).serving["reward"]
        await recovery
        return seen, queue._depths()["reward_workers"], await queue.report_losses(), await queue.report_losses()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("couplet.actors.replay_state.ray.kill", lambda *_, **__: None)
        during, after, losses, again = asyncio.run(lose())
    assert during == (0.0, []) and after == 1.0 and again == ()
    assert losses[0].reason == "no answer within reward.timeout = 300 s over katas/7 with mine:slow"
    assert 0.4 < losses[0].seconds < 30


def test_an_idle_worker_that_died_is_found(tmp_path):
    async def look():
        queue, worker = queue_with(tmp_path, "rollout", Actor(ActorDiedError()))
        worker.since = time.monotonic() - 60
        await queue.hub.check(worker)
        return worker.leaving, await queue.report_losses()

    leaving, (loss,) = asyncio.run(look())
    assert leaving and loss.seconds is None and loss.role == "rollout"


def test_a_resting_queue_gives_out_nothing_and_says_when_it_is_done(tmp_path):
    async def rest():
        queue, worker = queue_with(tmp_path, "rollout", Actor(PROCESS))
        worker.begin("katas/1")
        first = await queue.rest(True)
        worker.end()
        return first, await queue.rest(True), queue.generation._issue(), queue.judging._next_job(worker)

    assert asyncio.run(rest()) == (False, True, [], None)


# --- the queue and the learner ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ActorDiedError(), TimeoutError("replay queue: take: no answer within 60 s")])
def test_a_queue_that_died_or_hangs_is_rebuilt_and_called_again(tmp_path, monkeypatch, caplog, error):
    client = ReplayClient(run_config(tmp_path, "queue"), None, Memory(), list)
    answers = [error, "lease"]

    def fetch(*_):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    rebuilt = []
    monkeypatch.setattr("couplet.actors.replay_client.fetch", fetch)
    client.handle = SimpleNamespace(take=SimpleNamespace(remote=lambda *_: None))
    client.rebuild = lambda: rebuilt.append(1)
    with caplog.at_level(logging.WARNING):
        assert client.call("take", 1) == "lease"
    assert rebuilt == [1] and client.memory.restarts == 1
    assert len(caplog.messages) == 1 and caplog.messages[0].startswith("replay queue: ")


def test_a_queue_that_cannot_be_reached_for_a_moment_is_not_rebuilt(tmp_path, monkeypatch):
    client = ReplayClient(run_config(tmp_path, "queue"), None, Memory(), list)
    answers = iter([ActorUnavailableError("the connection broke", None), "lease"])

    def fetch(*_):
        if isinstance(answer := next(answers), Exception):
            raise answer
        return answer

    monkeypatch.setattr("couplet.actors.replay_client.fetch", fetch)
    monkeypatch.setattr("couplet.actors.replay_client.UNREACHABLE_SECONDS", 0.0)
    client.handle = SimpleNamespace(take=SimpleNamespace(remote=lambda *_: None))
    client.rebuild = None
    assert client.call("take", 1) == "lease" and client.memory.restarts == 0


def test_a_learner_that_dies_while_it_starts_is_started_again(tmp_path, caplog):
    group = LearnerGroup(run_config(tmp_path, "start"), "")
    starts = []

    def start(meanwhile):
        starts.append(1)
        group.ranks.actors = [None]
        if len(starts) == 1:
            raise ActorDiedError()

    group.ranks = SimpleNamespace(
        reserve=lambda: None, start=start, actors=[], dead=lambda: [0], stop_ranks=lambda: group.ranks.actors.clear()
    )
    with caplog.at_level(logging.WARNING):
        group.start()
    assert len(starts) == 2 and group.restarts == 1
    assert len(caplog.messages) == 1 and caplog.messages[0].startswith("learner rank 0: its process died")


# --- evaluations ------------------------------------------------------------------------------------------------------


class Pool:
    """Two actors; calls are answered by `answer(index, job, call number)`."""

    def __init__(self, config):
        self.config, self.killed, self.deaths = config, [], []

    def reconcile(self):
        pass

    def usable(self, role):
        return [(0, 0), (1, 1)]

    def note_death(self, role, index, error):
        self.deaths.append(index)
        return True

    def kill(self, role, index, reason):
        self.killed.append((index, reason))


@pytest.fixture
def dispatch(tmp_path, monkeypatch):
    """`dispatch(answer, **changes)`: a `Dispatch` whose calls end as `answer(index, job)` says; None: never."""

    def make(answer, poisoned=None, **changes):
        pool = Pool(run_config(tmp_path, "pool", **changes))
        calls = []

        def submit(handle, job):
            calls.append((handle, job))
            return len(calls) - 1

        def wait(refs, timeout):
            ready = [ref for ref in refs if calls[ref][0] in dict(pool.killed) or answer(*calls[ref]) is not None]
            return (ready[:1], [])

        def get(ref, timeout):
            handle, job = calls[ref]
            found = ActorDiedError() if handle in dict(pool.killed) else answer(handle, job)
            pool.killed = [kill for kill in pool.killed if kill[0] != handle]
            if isinstance(found, Exception):
                raise found
            return found

        monkeypatch.setattr("couplet.actors.dispatch.ray", SimpleNamespace(wait=wait, get=get))
        return Dispatch(pool, "reward", submit, poisoned), calls

    return make


def test_a_hung_actor_is_replaced_during_an_evaluation(dispatch):
    hung = [True]

    def answer(index, job):
        if job == "slow" and hung:
            return None
        return "done"

    one, calls = dispatch(answer, reward={"timeout": 0.2})
    kill = one.pool.kill
    one.pool.kill = lambda *what: kill(*what) or hung.clear()
    assert dict(one.run(["slow", "quick"])) == {"slow": "done", "quick": "done"}
    assert [job for _, job in calls].count("slow") == 2


def test_a_job_that_died_beside_another_is_not_quarantined(dispatch):
    deaths = []

    def answer(index, job):
        if job == "innocent" and not deaths:
            deaths.append(job)
            return ActorDiedError()
        return "done"

    one, _ = dispatch(answer, poisoned=lambda job: "quarantined", replay={"max_attempts": 1})
    assert dict(one.run(["innocent", "other"])) == {"innocent": "done", "other": "done"}


def test_a_job_that_kills_its_actor_alone_is_quarantined(dispatch):
    one, _ = dispatch(
        lambda index, job: ActorDiedError(), poisoned=lambda job: "quarantined", replay={"max_attempts": 1}
    )
    assert dict(one.run(["guilty"])) == {"guilty": "quarantined"}


def test_a_sample_is_judged_again_by_another_actor(dispatch):
    one, calls = dispatch(lambda index, job: "done")
    job = Judgement("subject", 1, 3)
    for _ in range(4):
        assert len(list(one.run([job]))) == 1
    judges = [index for index, _ in calls]
    assert all(first != second for first, second in itertools.pairwise(judges))


def test_a_group_that_was_lost_with_others_is_tried_alone_first(tmp_path):
    queue, _ = queue_with(tmp_path, "rollout", None, replay={"max_attempts": 1}, rollout={"groups_per_call": 2})
    ledger = queue.ledger
    queue.hub.lose(ledger.issue(2, 0.0), counted=True)
    assert ledger.states()[State.QUARANTINED] == 0
    (alone,) = ledger.issue(2, 0.0)
    queue.hub.lose([alone], counted=True)
    assert ledger.states()[State.QUARANTINED] == 1


# --- Ray's own processes ----------------------------------------------------------------------------------------------


@pytest.fixture
def ray_processes(monkeypatch):
    """Stand-ins for a raylet, its agents and the GCS; `watch()` gives their `Vitals` and what it has said."""
    raylet, agent = (subprocess.Popen(["sleep", "60"]) for _ in range(2))
    gcs = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{gcs.getsockname()[1]}"
    monkeypatch.setattr(vitals, "CHECK_SECONDS", 0.01)
    monkeypatch.setattr(vitals, "_raylet", lambda: psutil.Process(raylet.pid))
    monkeypatch.setattr(
        vitals, "_agent", lambda _, name: psutil.Process(agent.pid) if name == "RuntimeEnvAgent" else None
    )
    context = SimpleNamespace(gcs_address=address)
    monkeypatch.setattr(vitals, "ray", SimpleNamespace(get_runtime_context=lambda: context))
    said = []
    watch = vitals.Vitals(said.append)
    watch.start()
    yield SimpleNamespace(raylet=raylet, agent=agent, gcs=gcs, said=said, watch=watch)
    watch.stop()
    watch.join()
    gcs.close()
    for process in (raylet, agent):
        process.kill()
        process.wait()


def end(*processes):
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    "die, said",
    [
        (lambda some: end(some.raylet), "Ray's raylet on this machine ended"),
        (
            lambda some: end(some.agent, some.raylet),
            "Ray's runtime-environment agent on this machine ended, and its raylet",
        ),
        (lambda some: some.gcs.close(), "Ray's GCS at 127.0.0.1:"),
    ],
)
def test_the_death_of_a_process_of_ray_is_named(ray_processes, die, said):
    time.sleep(0.1)
    assert ray_processes.said == []
    die(ray_processes)
    ray_processes.watch.join(20)
    assert len(ray_processes.said) == 1 and ray_processes.said[0].startswith(said)


def test_an_agent_whose_raylet_lives_on_ends_nothing(ray_processes, monkeypatch):
    monkeypatch.setattr(vitals, "AGENT_SECONDS", 0.1)
    end(ray_processes.agent)
    time.sleep(0.5)
    assert ray_processes.said == [] and ray_processes.watch.is_alive()
