"""Judging in E2B's cloud sandboxes, through its own client; only if `sandbox.tier` is ``e2b``.

A cloud sandbox is slow to make and rate-limited, so a pool of them is kept, each used for several programs, every
program in a process of its own inside, and thrown away after `e2b_programs` programs or anything unusual. The same
evaluator as in the local tiers is shipped in; expected values never are: comparison and judges stay on the worker.
"""

from __future__ import annotations

import json
import math
import secrets
import threading
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from couplet.configs.schema import SandboxConfig
from couplet.data.problem import Problem
from couplet.data.retry import Retry
from couplet.data.verdict import TestResult
from couplet.reward.candidate import LoadFailed, Question, Reply, TestFailed, read_reply
from couplet.reward.e2b.faults import Unrelated
from couplet.reward.e2b.pool import LONGEST_RUN, Pool
from couplet.reward.expectations import Expectations
from couplet.reward.planner.plan import Case
from couplet.reward.runner import Quarantined
from couplet.reward.sandbox.faults import SandboxFault
from couplet.reward.sandbox.handle import Child, ChildGone
from couplet.reward.sandbox.local import LocalSandbox
from couplet.reward.sandbox.plain import BadReply, parse
from couplet.reward.verdicts import ProgramRun

SHIPPED = (
    "plain",
    "notes",
    "standard",
    "stdio",
    "pytest_part",
    "suites",
    "child",
    "kernel",
    "syscalls",
    "seccomp",
    "landlock",
    "namespaces",
)  # of the local sandbox
FOLDER = "/tmp/couplet-runner"
RETRY = Retry(attempts=3, pause=0.5)
STARTING = 0.25  # seconds of a job's time for each start of a process
OVERHEAD = 30.0  # seconds of wall clock beyond what the job itself may take
DEADLY = ("sandbox_died", "driver")  # faults that a program may have caused


def setup_code() -> str:
    """Python that writes the runner's files into a cloud sandbox."""
    reward = Path(__file__).parents[1]
    names = ("e2b/driver.py", "sandbox/syscalls.json", *(f"sandbox/{name}.py" for name in SHIPPED))
    files = {f"couplet/reward/{name}": (reward / name).read_text() for name in names}
    folders = ("couplet", "couplet/reward", "couplet/reward/sandbox", "couplet/reward/e2b")
    files |= {f"{folder}/__init__.py": "" for folder in folders}
    return (
        "import os\n"
        f"for _name, _text in {files!r}.items():\n"
        f"    _path = os.path.join({FOLDER!r}, _name)\n"
        "    os.makedirs(os.path.dirname(_path), exist_ok=True)\n"
        "    with open(_path, 'w') as _out:\n"
        "        _out.write(_text)\n"
    )


def job_code(job: dict[str, Any], mark: str) -> str:
    """Python that runs one job and prints its outcomes behind `mark`."""
    return (
        f"import json, sys\nif {FOLDER!r} not in sys.path:\n    sys.path.insert(0, {FOLDER!r})\nfrom couplet.reward.e2b import driver\n"
        f"print({mark!r} + json.dumps(driver.run({FOLDER!r}, json.loads({json.dumps(job)!r}))))\n"
    )


class CloudCandidate:
    """A program in the cloud. Questions known beforehand are asked in one request; later ones start a new process."""

    def __init__(
        self,
        pool: Pool,
        config: SandboxConfig,
        alone: bool,
        program: str,
        setup: str,
        tests: int,
        known: list[Question],
    ) -> None:
        self.pool, self.config = pool, config
        self.program, self.setup = program, setup
        self.tenant, self.alone = secrets.token_hex(8), alone
        self.timeouts = 0
        self.load_failure = ""
        self.used = 0.0
        self.ready: dict[str, list[tuple[str, dict[str, Any]]]] = {}
        if known:
            for question, outcome in zip(known, self._run(known)):
                self.ready.setdefault(json.dumps(question), []).append(outcome)

    def begin_test(self) -> None:
        """Budgets are kept inside the sandbox."""

    def expect(self, questions: list[Question]) -> None:
        """Everything known was asked at the start."""

    def end(self) -> None:
        """The process ended with its request."""

    def charge(self, seconds: float) -> None:
        """Nothing is left to take it from."""

    def cpu_seconds(self) -> float:
        """CPU time of the answers used so far."""
        return self.used

    def ask(self, operation: str, *arguments: Any) -> Reply:
        """The program's answer. Raises `TestFailed`, `LoadFailed` or `SandboxFault`."""
        if self.load_failure:
            raise LoadFailed(self.load_failure)
        question = (operation, list(arguments))
        waiting = self.ready.get(json.dumps(question))
        token, outcome = waiting.pop(0) if waiting else self._run([question])[0]
        if "load" in outcome:
            self.load_failure = self._load_failure(outcome["load"], token)
            raise LoadFailed(self.load_failure)
        return self._reply(outcome, token, operation)

    def _reply(self, outcome: dict[str, Any], token: str, operation: str = "") -> Reply:
        if "gone" in outcome:
            self.timeouts += outcome["gone"] == "timeout"
            raise TestFailed(str(outcome["gone"]))
        try:
            self.used += float(outcome["cpu"])
            return read_reply(parse(outcome["body"].encode()), token, operation)
        except (BadReply, ChildGone, AttributeError, KeyError, TypeError, ValueError):
            raise TestFailed("protocol") from None

    def _load_failure(self, outcome: dict[str, Any], token: str) -> str:
        try:
            reply = self._reply(outcome, "load")
        except TestFailed as failed:
            return failed.reason
        return {"x": "exception", "quit": "exit"}.get(reply.kind, "protocol")

    def _run(self, questions: list[Question]) -> list[tuple[str, dict[str, Any]]]:
        """(token, outcome) of each question. Raises `SandboxFault`."""
        config, megabyte = self.config, 1 << 20
        wall = config.cpu_seconds * config.wall_factor
        seconds = self._seconds(len(questions))
        tokens = [secrets.token_hex(8) for _ in questions]
        job = {
            "load": {"n": "load", "op": "load", "args": [self.program, self.setup]},
            "requests": [{"n": t, "op": op, "args": args} for t, (op, args) in zip(tokens, questions)],
            "cpu": config.cpu_seconds,
            "wall": wall,
            "cpu_limit": math.ceil(config.cpu_seconds * (len(questions) + 2)) + 1,
            "reply": config.reply_kb << 10,
            "seconds": seconds,
            "max_timeouts": config.max_timeouts,
            "fresh": config.fresh_process_per_test,
            "limits": [
                ["RLIMIT_AS", config.memory_mb * megabyte],
                ["RLIMIT_FSIZE", config.file_mb * megabyte],
                ["RLIMIT_NOFILE", config.open_files],
                ["RLIMIT_CORE", 0],
            ],
        }
        mark = secrets.token_hex(16)

        def read(text: str) -> tuple[list[dict[str, Any]], bool]:
            # A process that ended out of turn may have left something behind.
            return outcomes_of(text, mark, len(questions)), '{"gone"' not in text

        outcomes = self.pool.run(job_code(job, mark), seconds + OVERHEAD, read, self.tenant, self.alone)
        return list(zip(tokens, outcomes))

    def _seconds(self, questions: int) -> float:
        """The time of a whole job: enough for any program that keeps to its limits and whose process ends once."""
        config = self.config
        starts = 1 + (questions if config.fresh_process_per_test else config.max_timeouts + 1)
        seconds = config.cpu_seconds * config.wall_factor * (questions + starts) + STARTING * starts
        return min(seconds, LONGEST_RUN - OVERHEAD)


def outcomes_of(text: str, mark: str, count: int) -> list[dict[str, Any]]:
    """The outcomes that a job printed behind `mark`. Raises `SandboxFault` for anything but `count` of them."""
    lines = [line for line in text.splitlines() if line.startswith(mark)]
    try:
        outcomes = parse(lines[0][len(mark) :].encode()) if len(lines) == 1 else None
    except BadReply:
        outcomes = None
    if type(outcomes) is not list or len(outcomes) != count or any(type(o) is not dict for o in outcomes):
        raise SandboxFault("driver", "the runner inside the cloud sandbox gave no outcomes")
    return outcomes


class SharedJudges:
    """The local sandbox that runs the problem sets' own trusted code for several programs at a time.

    Trusted code may also run in the unsafe tier, if this machine has no other.
    """

    def __init__(self, config: SandboxConfig) -> None:
        self.lock = threading.Lock()
        self.sandbox = LocalSandbox(config.replace(tier="auto", allow_unsafe=True))
        self.tier = self.sandbox.tier

    def spawn(self, kind: str, cpu_limit: int, ahead: bytes = b"") -> Child:
        """A judge's process, from a fresh zygote if the last one died."""
        with self.lock:
            if not self.sandbox.alive():
                self.sandbox.restart()
            return self.sandbox.spawn(kind, cpu_limit, ahead)

    def alive(self) -> bool:
        """Whether the zygote still answers."""
        with self.lock:
            return self.sandbox.alive()

    def close(self) -> None:
        """End the zygote and everything it forked."""
        self.sandbox.close()


class E2BRunner:
    """Runs programs in a pool of cloud sandboxes, several at once.

    Raises `ConfigError` at construction for a missing client, a missing key or one that is refused.
    """

    def __init__(self, config: SandboxConfig) -> None:
        self.config = config
        self.tier = "e2b"
        self.parallel = config.e2b_pool
        self.faults: Counter[str] = Counter()
        self.expectations = Expectations()
        self.pool = Pool(config, setup_code())
        self.judges = SharedJudges(config)

    @property
    def restarts(self) -> int:
        """Cloud sandboxes thrown away before their time."""
        return self.pool.discarded

    def run(self, problem: Problem, program: str, cases: tuple[Case, ...]) -> tuple[TestResult, ...]:
        """Results in the order of `cases`. Raises `SandboxFault` or `Quarantined` after retries on other sandboxes.

        Once a sandbox has died under it the program has sandboxes of its own, and only their deaths count against it;
        a first death that others may have caused costs no attempt.
        """
        deaths = failed = 0
        alone = False
        last: SandboxFault | None = None
        while failed < RETRY.attempts:
            if last is not None:
                RETRY.sleep(RETRY.seconds(max(failed, 1)))
            try:
                start = partial(CloudCandidate, self.pool, self.config, alone)
                run = ProgramRun(self.judges, start, self.config, self.expectations, problem)
                return tuple(run.results(program, cases))
            except SandboxFault as fault:
                if fault.kind == "closed":
                    raise
                self.faults[fault.kind] += 1
                died, unrelated = fault.kind in DEADLY, isinstance(fault, Unrelated)
                deaths += died and not unrelated
                failed += alone or not (died and unrelated)
                alone, last = alone or died, fault
        if deaths == RETRY.attempts:
            raise Quarantined(program)
        assert last is not None
        raise last

    def close(self) -> None:
        """Kill the cloud sandboxes and the judges."""
        self.pool.close()
        self.judges.close()
