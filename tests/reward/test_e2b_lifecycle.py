"""How long things last in the cloud tier: a job, a sandbox's lease, a pool that is closed while it works."""

import asyncio
import threading
import time

import pytest
from aiohttp import web

from couplet.configs.schema import RewardConfig, SandboxConfig
from couplet.data.problem import Problem
from couplet.data.retry import Retry
from couplet.data.verdict import Outcome
from couplet.reward.e2b import driver
from couplet.reward.e2b import pool as e2b_pool
from couplet.reward.e2b.pool import Pool
from couplet.reward.e2b.runner import CloudCandidate
from couplet.reward.sandbox.faults import SandboxFault
from couplet.reward.sandbox.process import PROJECT
from couplet.reward.worker import RewardWorker
from tests.reward.test_e2b import Cloud

ONE = Problem("one", "q", ("assert f(1) == 2",))
RIGHT = "def f(x):\n    return 2 * x\n"
SLEEP_AND_EXIT = "import os, time\ntime.sleep({0})\ndef f(x):\n    time.sleep({0})\n    os._exit(0)"
NEVER_READS = """
import os, time
body = b'{"n": "load", "v": null}'
for fd in range(3, 20):
    try: os.write(fd, len(body).to_bytes(4, "big") + body)
    except OSError: pass
while True: time.sleep(1)
"""
GUARD = 60.0  # seconds after which something hangs


class Leases(Cloud):
    """A stand-in whose sandboxes end with their lease. Its control plane has a port of its own."""

    def __init__(self, folder):
        self.ends: dict[str, float] = {}
        self.asked: list[tuple[str, float]] = []  # (sandbox, seconds) of each lease, the first included
        self.hold: asyncio.Event | None = None  # creations wait for it
        self.now = time.monotonic
        super().__init__(folder)
        asyncio.run_coroutine_threadsafe(self._control(), self.loop).result(10)

    async def _control(self):
        app = web.Application()
        app.router.add_post("/v2/sandboxes", self.create)
        app.router.add_delete("/sandboxes/{name}", self.delete)
        app.router.add_post("/sandboxes/{name}/timeout", self.renew)
        self.control = web.AppRunner(app, shutdown_timeout=0.1)
        await self.control.setup()
        site = web.TCPSite(self.control, "127.0.0.1", 0)
        await site.start()
        self.control_port = site._server.sockets[0].getsockname()[1]

    def close(self):
        asyncio.run_coroutine_threadsafe(self.control.cleanup(), self.loop).result(20)
        super().close()

    def lease(self, name, seconds):
        self.asked.append((name, seconds))
        self.ends[name] = self.now() + seconds

    def expire(self):
        self.alive -= {name for name in self.alive if self.now() > self.ends[name]}

    async def create(self, request):
        response = await super().create(request)
        if response.status == 201:
            self.lease(f"sandbox{self.counts['create']}", self.bodies[-1]["timeout"])
        if self.hold is not None:
            await self.hold.wait()
        return response

    async def renew(self, request):
        self.expire()
        name = request.match_info["name"]
        if name not in self.alive:
            return web.json_response({"code": 404, "message": "no such sandbox"}, status=404)
        self.lease(name, (await request.json())["timeout"])
        return web.Response(status=204)

    async def execute(self, request):
        self.expire()
        name = request.headers["E2b-Sandbox-Id"]
        gone = web.json_response({"message": "The sandbox was not found", "code": 502}, status=502)
        if name not in self.alive:
            return gone
        response = await super().execute(request)
        self.expire()
        return response if name in self.alive else gone


@pytest.fixture
def cloud(monkeypatch, tmp_path):
    server = Leases(str(tmp_path / "runner"))
    monkeypatch.setenv("E2B_API_KEY", "e2b_" + "0" * 40)
    monkeypatch.setenv("E2B_API_URL", f"http://127.0.0.1:{server.control_port}")
    monkeypatch.setenv("E2B_SANDBOX_URL", f"http://127.0.0.1:{server.port}")
    monkeypatch.setattr("couplet.reward.e2b.runner.FOLDER", str(tmp_path / "runner"))
    monkeypatch.setattr("couplet.reward.e2b.runner.RETRY", Retry(3, 0.01))
    monkeypatch.setattr("couplet.reward.e2b.pool.CREATION", Retry(6, 0.01, jitter=0.5))
    server.gate = tmp_path / "gate"
    yield server
    server.gate.touch()
    wait_until(lambda: not server.busy)
    server.close()


def wait_until(holds):
    deadline = time.monotonic() + GUARD
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Clock:
    """Monotonic time of the pool and of the stand-in, which a test may move on."""

    def __init__(self):
        self.ahead = 0.0

    def __call__(self):
        return time.monotonic() + self.ahead


@pytest.fixture
def clock(cloud, monkeypatch):
    clock = cloud.now = Clock()
    monkeypatch.setattr("couplet.reward.e2b.pool.monotonic", clock)
    return clock


def opened(**changes):
    return RewardWorker(RewardConfig(cache_entries=0), SandboxConfig(**{"tier": "e2b", "e2b_pool": 1, **changes}))


def judge(worker, program=RIGHT, problem=ONE):
    return worker.judge([problem], [program])[0]


def waiting_run(pool, gate):
    """A thread whose run ends when `gate` exists, and the faults it gets."""
    faults = []
    code = f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.02)"

    def run():
        try:
            pool.run(code, 50.0)
        except SandboxFault as fault:
            faults.append(fault.kind)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, faults


def fill(cloud, worker, size):
    """Use `size` sandboxes at once, so that as many are idle afterwards."""
    pool = worker.runner.pool
    threads = [waiting_run(pool, cloud.gate)[0] for _ in range(size)]
    wait_until(lambda: pool.taken == size and cloud.counts["execute"] == 2 * size)
    cloud.gate.touch()
    for thread in threads:
        thread.join(GUARD)
    assert len(pool.idle) == size


def job(program, questions, **changes):
    return {
        "load": {"n": "load", "op": "load", "args": [program, ""]},
        "requests": [{"n": str(k), "op": "eval", "args": [text]} for k, text in enumerate(questions)],
        "cpu": 5.0,
        "wall": 5.0,
        "seconds": 60.0,
        "cpu_limit": 60,
        "reply": 1 << 20,
        "max_timeouts": 2,
        "fresh": False,
        "limits": [],
        **changes,
    }


def driven(work):
    """Outcomes of a job; a driver that hangs fails the test instead of stopping it."""
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.extend(driver.run(PROJECT, work)), daemon=True)
    thread.start()
    thread.join(GUARD)
    assert outcomes, "the driver hangs"
    return outcomes


def test_a_whole_job_has_a_deadline_that_exits_count_against():
    program = SLEEP_AND_EXIT.format(0.4)
    started = time.monotonic()
    outcomes = driven(job(program, [f"f({k})" for k in range(12)], seconds=1.5))
    assert time.monotonic() - started < 12 * 4 * 0.4 / 2
    assert outcomes[-1] in ({"gone": "timeout"}, {"load": {"gone": "timeout"}})
    assert {"gone": "exit"} not in outcomes[2:]


def test_both_attempts_at_a_question_share_its_time():
    program = "import os, time\ndef f(x):\n    time.sleep(x)\n    os._exit(0)"
    assert driven(job(program, ["f(0.6)", "f(0)"], wall=1.0)) == [{"gone": "timeout"}, {"gone": "exit"}]


def test_a_program_that_never_reads_is_a_timeout():
    long = 'len("' + 200_000 * "x" + '")'
    assert driven(job(NEVER_READS, [long], wall=1.0)) == [{"gone": "timeout"}]
    (outcome,) = driven(job(RIGHT, [long]))
    assert '"v":200000' in outcome["body"] and outcome["cpu"] > 0


def test_an_interpreter_that_does_not_start_is_not_an_outcome(monkeypatch):
    monkeypatch.setattr(driver, "STARTER", "raise SystemExit")
    with pytest.raises(driver.Gone, match="exit"):
        driver.run(PROJECT, job(RIGHT, ["f(1)"]))


def test_sleeping_and_exiting_buys_no_infrastructure_fault(cloud, monkeypatch):
    monkeypatch.setattr("couplet.reward.e2b.runner.OVERHEAD", 4.0)
    monkeypatch.setattr("couplet.reward.e2b.runner.STARTING", 0.1)
    monkeypatch.setattr("couplet.reward.e2b.pool.REQUEST_SECONDS", 4.0)  # the client waits for the longer of the two
    problem = Problem("p", "q", tuple(f"assert f({k}) == {k}" for k in range(16)))
    with opened(cpu_seconds=0.15, wall_factor=2.0) as worker:
        verdict = judge(worker, SLEEP_AND_EXIT.format(0.2), problem)
        assert (verdict.outcome, verdict.pass_rate) == (Outcome.FAILED, 0.0)


def test_the_time_of_a_job_fits_into_a_new_sandbox():
    asked = []

    class NoPool:
        def run(self, code, seconds, *rest):
            asked.append(seconds)
            raise SandboxFault("closed", "")

    for cpu_seconds in (1.0, 1000.0):
        with pytest.raises(SandboxFault):
            CloudCandidate(
                NoPool(), SandboxConfig(cpu_seconds=cpu_seconds), False, RIGHT, "", 3, [("eval", ["f(1)"])] * 3
            )
    assert 4.0 * (1 + 3) < asked[0] < asked[1] == e2b_pool.LONGEST_RUN < e2b_pool.LIFETIME


def test_expired_sandboxes_are_not_drawn(cloud, clock):
    with opened(e2b_pool=2) as worker:
        fill(cloud, worker, 2)
        clock.ahead += e2b_pool.LEASE + 1
        assert judge(worker).outcome is Outcome.PASSED
        assert not worker.runner.faults and cloud.counts["create"] == 3
    assert cloud.alive == set()


def test_a_lease_is_short_and_renewed_by_use(cloud, clock):
    pool = Pool(SandboxConfig(tier="e2b", e2b_pool=1), "print(1)")
    for _ in range(4):
        assert pool.run("print(2)", 10.0).strip() == "2"
        clock.ahead += 0.6 * e2b_pool.LEASE
    pool.close()
    assert cloud.asked == [("sandbox1", e2b_pool.LEASE)] * 4 and e2b_pool.LEASE <= 600


def test_a_lease_is_renewed_during_a_run(cloud, monkeypatch):
    monkeypatch.setattr(e2b_pool, "LEASE", 2)
    pool = Pool(SandboxConfig(tier="e2b", e2b_pool=1), "print(1)")
    assert pool.run("import time; time.sleep(2.2); print(5)", 20.0).strip() == "5"
    pool.close()


def test_a_sandbox_too_old_for_the_job_is_retired(cloud):
    pool = Pool(SandboxConfig(tier="e2b", e2b_pool=1), "print(1)")
    pool.idle[0].born -= e2b_pool.LIFETIME - 60.0
    pool.run("print(1)", 10.0)
    assert cloud.counts["create"] == 1
    pool.run("print(1)", 61.0)
    assert cloud.counts["create"] == 2 and cloud.alive == {"sandbox2"}
    pool.close()


def test_sandboxes_that_end_unseen_are_not_held_against_a_program(cloud):
    with opened(e2b_pool=3) as worker:
        fill(cloud, worker, 3)
        cloud.alive.clear()
        assert judge(worker).outcome is Outcome.PASSED
        assert worker.runner.faults == {"sandbox_died": 1}
        assert len(worker.runner.pool.living) <= 3


@pytest.mark.parametrize("deaths, outcome", [(3, Outcome.PASSED), (4, Outcome.QUARANTINED)])
def test_only_deaths_in_sandboxes_of_its_own_quarantine_a_program(cloud, deaths, outcome):
    with opened() as worker:
        assert judge(worker, RIGHT + "# another").outcome is Outcome.PASSED
        cloud.executions.extend(["die", *["run", "die"] * (deaths - 1)])  # each new sandbox gets its runner first
        assert judge(worker).outcome is outcome
        assert worker.runner.faults == {"sandbox_died": deaths}


def test_nonsense_from_a_shared_sandbox_is_not_held_against_a_program(cloud):
    with opened() as worker:
        assert judge(worker, RIGHT + "# another").outcome is Outcome.PASSED
        cloud.executions.extend(["garble", "run", "garble", "run", "garble"])
        assert judge(worker).outcome is Outcome.PASSED
        assert cloud.counts["create"] == 4


def test_closing_ends_a_run_and_kills_its_sandbox(cloud):
    pool = Pool(SandboxConfig(tier="e2b"), "print(1)")
    thread, faults = waiting_run(pool, cloud.gate)
    wait_until(lambda: cloud.busy and cloud.counts["execute"] == 2)
    pool.close()
    assert cloud.alive == set()
    thread.join(GUARD)
    assert faults == ["closed"]
    with pytest.raises(SandboxFault, match="closed"):
        pool.run("print(1)", 1.0)


def test_closing_leaves_no_sandbox_that_is_being_created(cloud):
    pool = Pool(SandboxConfig(tier="e2b", e2b_programs=1), "print(1)")
    pool.run("print(1)", 10.0)
    cloud.hold = asyncio.Event()
    thread, faults = waiting_run(pool, cloud.gate)
    wait_until(lambda: cloud.counts["create"] == 2)
    closing = threading.Thread(target=pool.close)
    closing.start()
    wait_until(lambda: pool.closed)
    cloud.loop.call_soon_threadsafe(cloud.hold.set)
    closing.join(GUARD)
    thread.join(GUARD)
    assert not closing.is_alive() and faults == ["closed"]
    assert cloud.alive == set()


def test_waiting_for_a_run_has_an_end(cloud, monkeypatch):
    pool = Pool(SandboxConfig(tier="e2b", e2b_pool=1), "print(1)")
    waiting_run(pool, cloud.gate)
    wait_until(lambda: pool.taken == 1)
    monkeypatch.setattr(e2b_pool, "WAIT_SECONDS", 0.1)
    with pytest.raises(SandboxFault, match="stuck"):
        pool.run("print(1)", 0.1)
    pool.close()
    assert cloud.alive == set()
