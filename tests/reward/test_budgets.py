"""What one program, and one answer of it, can cost the worker."""

import contextlib
import gc
import os
import random
import subprocess
import sys
import time
from fractions import Fraction

import pytest

from couplet.configs.load import RECIPES, load, read_recipe
from couplet.configs.schema import ReplayConfig, RewardConfig, RunConfig, SandboxConfig
from couplet.data.problem import Problem
from couplet.data.verdict import Outcome
from couplet.reward.sandbox import handle, process
from couplet.reward.sandbox.plain import MAX_RATIOS, RATIO_BITS, BadReply, Encoder, TooLarge, decode, parse
from couplet.reward.worker import RewardWorker

PERMITTED = SandboxConfig().reply_kb << 10
PRIME = 2**61 - 1  # multiples of it have the hash 0


def digits(count: int) -> str:
    return f"{random.Random(count).getrandbits(4 * count) | 1:x}"


def listed(tag: str, parts: list[str]) -> str:
    return f'["{tag}",[{",".join(parts)}]]'


def filled(part: str) -> str:
    return listed("l", [part] * ((PERMITTED - 10) // (len(part) + 1)))


def multiple(number: int) -> str:
    return f'["i","{number * PRIME:x}"]'


def colliding(count: int, *parts: str) -> list[str]:
    """Tuples of equal hash, equal but for their last part."""
    return [listed("t", [*parts, multiple(number)]) for number in range(count)]


def nested(depth: int) -> str:
    return '["t",[' * depth + "1" + "]]" * depth


HALF = '["q","1","2"]'
REPLIES = {
    "colliding integers": listed("s", [multiple(number) for number in range(5_000)]),
    "colliding keys of a dict": listed("d", [part for n in range(5_000) for part in (multiple(n), "1")]),
    "colliding tuples": listed("s", colliding(5_000, *"12345678")),
    "colliding long tuples": listed("s", colliding(4_000, *["1"] * 100)),
    "colliding tuples of fractions": listed("s", colliding(700, *[HALF] * 14)),
    "more colliding tuples of fractions": listed("s", colliding(4_500, *[HALF] * 14)),
    "colliding fractions": listed("s", [f'["q","{number * PRIME + 1:x}","2"]' for number in range(5_000)]),
    "colliding frozensets": listed(
        "s", [listed("z", [*map(multiple, range(1, 60)), multiple(100 + number)]) for number in range(80)]
    ),
    "many groups of colliding tuples": listed(
        "s", [listed("t", [str(group), HALF, HALF, multiple(n)]) for group in range(120) for n in range(40)]
    ),
    "one huge fraction": f'["q","{digits(500_000)}","{digits(500_001)}"]',
    "large fractions": listed("l", [f'["q","{digits(RATIO_BITS // 4)}","{digits(RATIO_BITS // 4 - 1)}"]'] * 126),
    "as many fractions as may be": listed("l", [f'["q","{digits(45)}","{digits(44)}"]'] * MAX_RATIOS),
    "more fractions": filled(HALF),
    "small integers": filled("1"),
    "empty tuples": filled('["t",[]]'),
    "empty sets": filled('["s",[]]'),
    "deep keys": listed("s", [nested(98)] * 1_200),
    "lists within lists": filled("[" * 50 + "]" * 50),
    "one long number": f'["f","1.{"3" * 1_000_000}"]',
    "one huge integer": f'["i","{digits(1_000_000)}"]',
}


def cost(body: bytes) -> float:
    """CPU seconds to decode a reply, or to refuse it, in a process that holds little else."""
    gc.collect()
    gc.freeze()  # what the test run holds is not walked again and again
    try:
        started = time.process_time()
        with contextlib.suppress(BadReply):
            decode(parse(body))
        return time.process_time() - started
    finally:
        gc.unfreeze()


@pytest.mark.parametrize("name", REPLIES)
def test_no_permitted_reply_is_dear_to_decode(name):
    body = REPLIES[name].encode()
    assert len(body) <= PERMITTED
    assert any(cost(body) < 0.5 for _ in range(3))  # at most 0.2 if the machine does nothing else


def test_keys_of_equal_hash_that_honest_programs_have_are_decoded():
    signs = {tuple(-1 - (number >> bit & 1) for bit in range(8)) for number in range(256)}  # hash(-1) == hash(-2)
    assert len({hash(key) for key in signs}) == 1
    for value in (signs, {number * PRIME: number for number in range(500)}, {frozenset({-1, x}) for x in range(500)}):
        assert decode(Encoder(PERMITTED).encode(value)) == value


def test_fractions_are_bounded_in_size_and_number():
    largest = Fraction(2**RATIO_BITS - 1, 2)
    assert decode(Encoder(PERMITTED).encode([largest, -largest])) == [largest, -largest]
    for value in (Fraction(2**RATIO_BITS, 3), [Fraction(1, 3)] * (MAX_RATIOS + 1)):
        with pytest.raises(TooLarge):
            Encoder(PERMITTED).encode(value)
    for tree in (["q", hex(2 ** (RATIO_BITS + 8)), "0x1"], ["l", [["q", "1", "3"]] * (MAX_RATIOS + 1)]):
        with pytest.raises(BadReply):
            decode(tree)


def judged(config: SandboxConfig, problem: Problem, program: str):
    """(verdict, seconds it took)."""
    with RewardWorker(RewardConfig(cache_entries=0), config) as worker:
        started = time.monotonic()
        return worker.judge([problem], [program])[0], time.monotonic() - started


def reasons(verdict) -> list[str]:
    return [test.reason for test in verdict.tests]


LIMITS = SandboxConfig(cpu_seconds=0.25, wall_factor=4.0, program_factor=8.0)  # 1 s of wall clock a test, 2 s in all
DAWDLERS = {
    "just below the limit of a test": "import time\ndef f(x):\n    time.sleep(0.7)\n    return x",
    "ends and is loaded again": "import os, time\ntime.sleep(0.3)\ndef f(x):\n    time.sleep(0.3)\n    os._exit(0)",
    "loads for long, ends each time": "import os, time\ntime.sleep(0.7)\ndef f(x): os._exit(0)",
}


@pytest.mark.parametrize("name", DAWDLERS)
def test_a_program_has_one_limit_for_all_its_tests_and_loads(name):
    problem = Problem("dawdler", "q", tuple(f"assert f({x}) == {x}" for x in range(40)))
    verdict, seconds = judged(LIMITS, problem, DAWDLERS[name])
    assert verdict.outcome is Outcome.FAILED and len(verdict.tests) == 40
    assert "timeout" in reasons(verdict) and reasons(verdict).count("skipped") >= 35
    assert sum(test.passed for test in verdict.tests) <= 3
    assert (
        seconds < 20
    )  # 40 tests at their own limit would take 40 s, with loads and second tries up to four times that


JUDGED = "total = 0\nfor i in range({calls}):\n    total += len(str(f(i)))\nassert total == {total}"


def test_reloads_within_one_judged_test_share_the_limit():
    program = """
import os, time
time.sleep(0.6)
calls = 0
def f(x):
    global calls
    calls += 1
    if calls > 1: os._exit(0)
    return x
"""
    problem = Problem("reloads", "q", (JUDGED.format(calls=40, total=70),) * 3, entry_point="f")
    verdict, seconds = judged(LIMITS, problem, program)
    assert reasons(verdict) == ["timeout", "skipped", "skipped"]
    assert seconds < 15  # 40 loads take 24 s


def test_a_judge_kept_busy_by_values_is_paid_by_the_program():
    """Each test alone stays below the judge's own limit of ten times a program's."""
    tests = tuple(f"for i in range(2):\n    k = f({x}) + i\n    while k > 0: k -= 1\nassert k == 0" for x in range(20))
    problem = Problem("busy", "q", tests, entry_point="f")
    calibrate = time.process_time()
    k = 2_000_000
    while k > 0:
        k -= 1
    second = int(2_000_000 / (time.process_time() - calibrate))
    verdict, seconds = judged(LIMITS, problem, f"def f(x): return {second // 3}")
    assert reasons(verdict)[-1] == "skipped" and "timeout" in reasons(verdict)
    assert seconds < 40
    quick, _ = judged(LIMITS, problem, "def f(x): return 3")
    assert quick.outcome is Outcome.PASSED


def test_many_tests_of_modest_time_are_all_run():
    tests = tuple(f"assert f({x}) == {x}" for x in range(38))
    tests += (JUDGED.format(calls=20, total=30), "assert abs(f(3) - 3) < 1e-9")
    program = "import time\ndef f(x):\n    time.sleep(0.01)\n    return x"
    verdict, _ = judged(LIMITS, Problem("modest", "q", tests, entry_point="f"), program)
    assert verdict.outcome is Outcome.PASSED


def test_nobody_pays_for_values_to_compare_with():
    """The canonical solution takes longer than a whole program may."""
    slow = "import time\ndef f(x):\n    time.sleep(0.6)\n    return x"
    inputs = tuple((x,) for x in range(5))
    problem = Problem("oracle", "q", entry_point="f", canonical_solution=slow, inputs=inputs)
    verdict, seconds = judged(LIMITS, problem, "def f(x): return x")
    assert verdict.outcome is Outcome.PASSED and seconds > 2


STEADY = """
import time
def f(x):
    start = time.process_time()
    while time.process_time() < start + 0.1: pass
    return x
"""


def test_the_limit_of_a_program_grows_where_no_core_is_free(monkeypatch):
    monkeypatch.setattr(handle, "FAR", 200.0)
    config = SandboxConfig(cpu_seconds=0.2, wall_factor=4.0, program_factor=5.0)  # 1 s for 0.6 CPU seconds
    problem = Problem("steady", "q", tuple(f"assert f({x}) == {x}" for x in range(6)))
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    spin = [sys.executable, "-S", "-c", "while True: pass"]
    rivals = [subprocess.Popen(spin, start_new_session=True) for _ in range(5)]  # each its own scheduling group
    try:
        verdict, seconds = judged(config, problem, STEADY)
        assert verdict.outcome is Outcome.PASSED and seconds > config.program_seconds
        sleeper, _ = judged(config, problem, "import time\ndef f(x):\n    time.sleep(0.5)\n    return x")
        assert reasons(sleeper)[-1] == "skipped"
    finally:
        os.sched_setaffinity(0, cores)
        for rival in rivals:
            rival.kill()
            rival.wait()


def test_past_its_wall_clock_limit_a_program_that_wants_to_run_is_not_ended_and_one_that_sleeps_is():
    zygote = process.ZygoteProcess("landlock", SandboxConfig())
    try:
        for body, seconds in (("while True: pass", 1.0), ("import time; time.sleep(60)", 0.0)):
            load = handle.frame({"n": "load", "op": "load", "args": [body, ""]})
            child = zygote.spawn("program", 30, load)
            time.sleep(0.5)
            budget = handle.Budget(cpu=child.cpu_seconds() + 1.0, wall=0.1)
            with pytest.raises(handle.ChildGone, match="timeout"):
                child.receive(budget)
            assert seconds / 2 <= 0.1 - budget.wall < 30 and (budget.cpu > 0 if not seconds else True)
            child.end()
    finally:
        zygote.close()


def recipes() -> list[str]:
    return [str(path) for path in sorted(RECIPES.rglob("*.yaml")) if "stages" not in read_recipe(path)]


def test_a_group_is_judged_within_the_reward_timeout_in_every_recipe(caplog):
    for path in recipes():
        config = load(RunConfig, path)
        config.warn()
        assert config.replay.completions * config.sandbox.program_seconds < config.reward.timeout, path
        assert config.sandbox.program_seconds >= (config.sandbox.max_timeouts + 1) * config.sandbox.cpu_seconds
    assert "reward.timeout" not in caplog.text


def test_a_group_that_may_outlast_the_reward_timeout_is_said(caplog):
    RunConfig(sandbox=SandboxConfig(cpu_seconds=8.0), replay=ReplayConfig(completions=10)).warn()
    assert "reward.timeout = 600: judging replay.completions = 10 programs may take 960 s (96 s each" in caplog.text


def test_time_before_the_worker_hears_of_a_program_is_paid_for(monkeypatch):
    """A program starts once it is confined, however late the worker admits it."""
    admit = process.ZygoteProcess._admit

    def late(zygote, child):
        time.sleep(1.0)
        admit(zygote, child)

    monkeypatch.setattr(process.ZygoteProcess, "_admit", late)
    busy = "import time\nwhile time.process_time() < 0.8: pass\ndef f(x): return x"
    problem = Problem("one", "q", ("assert f(1) == 1",))
    with RewardWorker(RewardConfig(), SandboxConfig(cpu_seconds=0.3, wall_factor=50.0)) as worker:
        assert worker.judge([problem], [busy])[0].tests[0].reason == "timeout"
        assert worker.judge([problem], ["def f(x): return x"])[0].outcome is Outcome.PASSED
