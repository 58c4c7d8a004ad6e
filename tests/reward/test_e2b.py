"""The cloud tier through E2B's own client, against a local server that speaks its wire protocol."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections import Counter, deque

import pytest
from aiohttp import web

from couplet.configs.schema import ConfigError, RewardConfig, SandboxConfig
from couplet.data.problem import Problem
from couplet.data.retry import Retry
from couplet.data.verdict import Outcome
from couplet.reward.worker import RewardWorker

DOUBLE = Problem("double", "q", ("assert f(1) == 2", "assert f(2) == 4", "assert abs(f(0.5) - 1) < 1e-9"))
RIGHT = "def f(x):\n    return 2 * x"
CLOUD = SandboxConfig(tier="e2b", cpu_seconds=1.0, wall_factor=30.0, e2b_pool=1)


class Cloud:
    """A stand-in for E2B: creates sandboxes, runs cells in a process of their own, fails on demand."""

    def __init__(self, folder):
        self.folder = folder
        self.creations: deque = deque()  # what the next creations answer, then success
        self.executions: deque = deque()  # what the next cells do, then run
        self.counts: Counter = Counter()
        self.alive: set[str] = set()
        self.busy = self.most_busy = 0
        self.meeting: asyncio.Barrier | None = None  # where programs that say `# together` wait for each other
        self.bodies: list[dict] = []
        self.codes: list[str] = []
        self.keys: set[str] = set()
        self.loop = asyncio.new_event_loop()
        started = threading.Event()
        self.thread = threading.Thread(target=self._serve, args=(started,), daemon=True)
        self.thread.start()
        assert started.wait(60)

    def _serve(self, started):
        asyncio.set_event_loop(self.loop)
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/v2/sandboxes", self.create)
        app.router.add_post("/execute", self.execute)
        app.router.add_delete("/sandboxes/{name}", self.delete)
        app.router.add_get("/health", self.health)
        self.runner = web.AppRunner(app, shutdown_timeout=0.1)
        self.loop.run_until_complete(self.runner.setup())
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        self.loop.run_until_complete(site.start())
        self.port = site._server.sockets[0].getsockname()[1]
        started.set()
        self.loop.run_forever()

    def close(self):
        asyncio.run_coroutine_threadsafe(self.runner.cleanup(), self.loop).result(60)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    async def create(self, request):
        self.counts["create"] += 1
        self.keys.add(request.headers.get("X-API-KEY"))
        self.bodies.append(await request.json())
        status = self.creations.popleft() if self.creations else 201
        if status != 201:
            return web.json_response({"code": status, "message": f"scripted {status}"}, status=status)
        name = f"sandbox{self.counts['create']}"
        self.alive.add(name)
        answer = {"sandboxID": name, "templateID": "t", "clientID": "c", "envdVersion": "0.4.0", "envdAccessToken": "x"}
        return web.json_response(answer, status=201)

    async def delete(self, request):
        self.counts["delete"] += 1
        self.alive.discard(request.match_info["name"])
        return web.Response(status=204)

    async def health(self, request):
        name = request.headers.get("E2b-Sandbox-Id")
        if name in self.alive:
            return web.Response(status=204)
        return web.json_response({"message": "The sandbox was not found", "code": 502}, status=502)

    async def execute(self, request):
        self.counts["execute"] += 1
        body = await request.json()
        self.codes.append(body["code"])
        name = request.headers["E2b-Sandbox-Id"]
        fate = self.executions.popleft() if self.executions else "run"
        if isinstance(fate, int):
            return web.json_response({"message": f"scripted {fate}"}, status=fate)
        if fate == "die":
            self.alive.discard(name)
        if fate in ("die", "drop"):
            response = web.StreamResponse()
            await response.prepare(request)
            request.transport.abort()
            return response
        if fate == "hang":
            await asyncio.sleep(600)
        if fate == "garble":
            return self.cell("nonsense")
        self.busy += 1
        self.most_busy = max(self.busy, self.most_busy)
        try:
            if self.meeting is not None and "# together" in body["code"]:
                await asyncio.wait_for(self.meeting.wait(), 60)
            code = body["code"].replace(self.folder, f"{self.folder}-{name}")  # a file system of its own
            done = await asyncio.to_thread(
                subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True, timeout=240
            )
        finally:
            self.busy -= 1
        return self.cell(done.stdout, done.stderr if done.returncode else "")

    def cell(self, printed, trouble=""):
        lines = [
            {"type": "stdout", "text": printed[i : i + 5000], "timestamp": 0} for i in range(0, len(printed), 5000)
        ]
        if trouble:
            lines.append({"type": "error", "name": "Error", "value": trouble[-300:], "traceback": trouble})
        return web.Response(text="".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def cloud(monkeypatch, tmp_path):
    server = Cloud(str(tmp_path / "runner"))
    monkeypatch.setenv("E2B_API_KEY", "e2b_" + "0" * 40)
    monkeypatch.setenv("E2B_API_URL", f"http://127.0.0.1:{server.port}")
    monkeypatch.setenv("E2B_SANDBOX_URL", f"http://127.0.0.1:{server.port}")
    monkeypatch.setattr("couplet.reward.e2b.runner.FOLDER", str(tmp_path / "runner"))
    monkeypatch.setattr("couplet.reward.e2b.runner.RETRY", Retry(3, 0.01))
    monkeypatch.setattr("couplet.reward.e2b.pool.CREATION", Retry(6, 0.01, jitter=0.5))
    yield server
    server.close()


def judge(worker, program, problem=DOUBLE):
    return worker.judge([problem], [program])[0]


def test_programs_are_judged_with_the_comparison_outside(cloud):
    with RewardWorker(RewardConfig(), CLOUD) as worker:
        assert worker.tier == "e2b"
        assert judge(worker, RIGHT).outcome is Outcome.PASSED
        wrong = judge(worker, "def f(x):\n    return 2 * abs(x) if x != 2 else 5")
        assert [test.passed for test in wrong.tests] == [True, False, True]
        assert judge(worker, "import os\nos._exit(0)").reason == "exit"
        assert judge(worker, "def f(x) return").reason == "exception"
        assert judge(worker, "def f(x):\n    return 'x' * (1 << 21)").reason == "oversize"
        assert wrong.cpu_seconds > 0
        assert worker.stats()["infra_errors"] == 0
        assert cloud.bodies[0]["allow_internet_access"] is False and cloud.keys == {os.environ["E2B_API_KEY"]}
    assert cloud.alive == set()


def test_no_expected_value_travels_to_the_cloud(cloud):
    tests = ("assert f(1) == 918273645", "assert abs(f(2) - 918273645) < 1", "assert f(3) == 918273000 + 645")
    with RewardWorker(RewardConfig(), CLOUD) as worker:
        program = "def f(x):\n    return 9182 * 100000 + 73645"
        assert judge(worker, program, Problem("p", "q", tests)).pass_rate == 1.0
    assert cloud.counts["execute"] == 3  # the runner's files, all known questions, the judge's one
    assert all("918273645" not in code and "918273000" not in code for code in cloud.codes)


def test_a_timeout_is_kept_inside_and_the_other_tests_continue(cloud):
    loop = "def f(x):\n    while x == 1: pass\n    return 2 * x"
    with RewardWorker(
        RewardConfig(), SandboxConfig(tier="e2b", cpu_seconds=0.3, wall_factor=50.0, e2b_pool=1)
    ) as worker:
        verdict = judge(worker, loop)
        assert [test.reason for test in verdict.tests] == ["timeout", "", ""]
        assert cloud.counts["delete"] >= 1, "a sandbox with a timeout is retired"
        assert judge(worker, "while True: pass").reason == "timeout"


def test_sandboxes_are_reused_and_recycled(cloud):
    config = SandboxConfig(tier="e2b", e2b_pool=1, e2b_programs=3)
    problem = Problem("p", "q", ("assert f(1) == 2",))
    with RewardWorker(RewardConfig(), config) as worker:
        for k in range(7):
            assert judge(worker, f"{RIGHT} + {k} - {k}", problem).outcome is Outcome.PASSED
        assert cloud.counts["create"] == 3 and cloud.counts["delete"] == 2
        assert worker.stats()["restarts"] == 0


def test_the_pool_runs_several_programs_at_once_and_no_more(cloud):
    problem = Problem("p", "q", ("assert f(1) == 2",))
    program = "def f(x):\n    return 2 * x + {0} - {0}  # together"
    cloud.meeting = asyncio.Barrier(3)
    with RewardWorker(RewardConfig(), SandboxConfig(tier="e2b", wall_factor=30.0, e2b_pool=3)) as worker:
        verdicts = worker.judge([problem] * 9, [program.format(k) for k in range(9)])
        assert [verdict.outcome for verdict in verdicts] == [Outcome.PASSED] * 9
        assert (cloud.most_busy, cloud.counts["create"], dict(worker.runner.faults)) == (3, 3, {})


@pytest.mark.parametrize("trouble", [429, 503, 500])
def test_creation_backs_off(cloud, trouble):
    cloud.creations.extend([trouble, trouble])
    with RewardWorker(RewardConfig(), CLOUD) as worker:
        assert cloud.counts["create"] == 3
        assert judge(worker, RIGHT).outcome is Outcome.PASSED


@pytest.mark.parametrize("fate", [429, 503, "drop", "die", "garble"])
def test_a_fault_is_tried_again_on_another_sandbox(cloud, fate):
    with RewardWorker(RewardConfig(), CLOUD) as worker:
        cloud.executions.append(fate)
        assert judge(worker, RIGHT).outcome is Outcome.PASSED
        assert cloud.counts["create"] >= 1 + (fate != "garble")
        assert sum(worker.runner.faults.values()) == 1


def test_a_permanent_fault_is_not_a_verdict(cloud):
    with RewardWorker(RewardConfig(), CLOUD) as worker:
        cloud.executions.extend(["run", 503] * 3)  # each new sandbox gets its runner, then refuses the program
        cloud.executions.popleft()
        verdict = judge(worker, RIGHT)
        assert verdict.outcome is Outcome.INFRA_ERROR
        assert worker.stats()["infra_errors"] == 1
        assert judge(worker, RIGHT).outcome is Outcome.PASSED


def test_a_program_whose_sandbox_always_dies_is_quarantined(cloud):
    with RewardWorker(RewardConfig(), CLOUD) as worker:
        cloud.executions.extend(["die", "run", "die", "run", "die"])
        assert judge(worker, RIGHT).outcome is Outcome.QUARANTINED


def test_a_request_that_hangs_is_a_fault(cloud, monkeypatch):
    with RewardWorker(RewardConfig(), CLOUD) as worker:
        run, limits = worker.runner.pool.run, iter([1.0])  # seconds of the first request alone
        monkeypatch.setattr(worker.runner.pool, "run", lambda code, s, *rest: run(code, next(limits, s), *rest))
        cloud.executions.append("hang")
        assert judge(worker, RIGHT).outcome is Outcome.PASSED
        assert worker.stats()["faults_http_timeout"] == 1


def test_the_key_is_checked_at_the_start(cloud, monkeypatch):
    cloud.creations.append(401)
    with pytest.raises(ConfigError, match="E2B_API_KEY was refused"):
        RewardWorker(RewardConfig(), CLOUD)
    monkeypatch.delenv("E2B_API_KEY")
    with pytest.raises(ConfigError, match="set E2B_API_KEY"):
        RewardWorker(RewardConfig(), CLOUD)


def test_a_stray_key_never_switches_it_on(cloud):
    with RewardWorker(RewardConfig(), SandboxConfig()) as worker:
        assert worker.tier != "e2b" and judge(worker, RIGHT).outcome is Outcome.PASSED
    assert cloud.counts == Counter()


def test_a_missing_client_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "e2b_code_interpreter", None)
    with pytest.raises(ConfigError, match="the client is not installed"):
        RewardWorker(RewardConfig(), CLOUD)


@pytest.mark.parametrize(
    "attack",
    [
        "class Any:\n    def __eq__(self, o): return True\n    __abs__ = __sub__ = lambda s, *a: 0\ndef f(x): return Any()",
        "import os\nfor fd in range(3, 20):\n    try: os.write(fd, b'\\x00\\x00\\x00\\x02{}')\n    except OSError: pass\ndef f(x): return 0",
        "import sys\nsys.stdout.write('passed\\n')\ndef f(x): return None",
        "import socket\nsocket.socket()\ndef f(x): return 2 * x",
        "import os\nos.fork()\ndef f(x): return 2 * x",
        "open('/etc/passwd').read()\ndef f(x): return 2 * x",
    ],
)
def test_the_walls_and_the_comparison_hold_in_the_cloud_too(cloud, attack):
    with RewardWorker(RewardConfig(), CLOUD) as worker:
        verdict = judge(worker, attack)
        assert verdict.outcome is Outcome.FAILED and verdict.pass_rate == 0.0
        assert judge(worker, RIGHT).outcome is Outcome.PASSED
