"""The reward worker: typed outcomes, the published reward, joining, the cache, faults that are not a verdict."""

import math
import os
import signal
import time

import pytest

from couplet.configs.schema import ConfigError, RewardConfig, SandboxConfig
from couplet.data.problem import Problem
from couplet.data.retry import Retry
from couplet.data.verdict import Outcome
from couplet.reward.functions import REWARDS, register
from couplet.reward.sandbox.faults import SandboxFault
from couplet.reward.worker import RewardWorker, visible_tests

DOUBLE = Problem("double", "q", ("assert f(1) == 2", "assert f(2) == 4", "assert f(-3) == -6", "assert f(0) == 0"))


def fenced(code: str) -> str:
    return f"Here it is.\n```python\n{code}\n```"


def test_reward_is_two_times_the_pass_rate_plus_half_the_format(worker):
    texts = [
        fenced("def f(x):\n    return 2 * x"),
        fenced("def f(x):\n    return 2 * abs(x)"),
        fenced("def f(x):\n    return None"),
        fenced("def f(x) return"),
        "def f(x):\n    return 2 * x",
    ]
    verdicts = worker.score(DOUBLE, texts)
    assert [v.reward for v in verdicts] == [2.5, 2.0, 0.5, 0.25, 0.0]
    assert [v.pass_rate for v in verdicts] == [1.0, 0.75, 0.0, 0.0, 0.0]
    assert [v.outcome for v in verdicts] == [
        Outcome.PASSED,
        Outcome.FAILED,
        Outcome.FAILED,
        Outcome.FORMAT_ERROR,
        Outcome.FORMAT_ERROR,
    ]
    assert verdicts[1].reason == "wrong_value"
    assert verdicts[0].parts == {"code": 1.0, "code_format": 1.0}
    assert [t.strength for t in verdicts[0].tests] == ["strong"] * 4
    assert verdicts[0].cpu_seconds > 0


def test_pairs_are_judged_in_order(worker):
    other = Problem("triple", "q", ("assert f(1) == 3",))
    code = fenced("def f(x):\n    return 3 * x")
    verdicts = worker.score_batch([DOUBLE, other, DOUBLE], [code, code, fenced("def f(x):\n    return x + x")])
    assert [v.pass_rate for v in verdicts] == [0.25, 1.0, 1.0]


def test_each_failure_has_its_reason(worker):
    tests = ("assert f(1) == 2",)
    programs = {
        "def f(x):\n    return 3": "wrong_value",
        "def f(x):\n    raise KeyError": "exception",
        "def g(x):\n    return 2": "exception",
        "return 2": "exception",
        "import os\ndef f(x):\n    os._exit(0)": "exit",
        "import sys\ndef f(x):\n    sys.exit(0)": "exit",
        "import os\nos._exit(0)": "exit",
        "def f(x):\n    return 'x' * (1 << 21)": "oversize",
        "def f(x):\n    return object()": "not_plain",
    }
    verdicts = worker.judge([Problem("p", "q", tests)] * len(programs), list(programs))
    assert [v.reason for v in verdicts] == list(programs.values())


def test_an_evaluation_reads_answers_in_any_form_and_the_reward_stays_that_of_the_format():
    """A wrong tag, no fence, two blocks: judged as `score` judges them, and paid nothing."""
    problem = Problem("p", "q", ("assert f(1) == 2",), entry_point="f")
    right = "def f(x):\n    return x + 1"
    texts = [
        f"```python\n{right}\n```",
        f"```py\n{right}\n```",
        right,
        f"```\n1\n```\n```python\n{right}\n```",
        "no code",
    ]
    with RewardWorker(RewardConfig(answers="any"), SandboxConfig()) as worker:
        verdicts = worker.score(problem, texts)
    assert [verdict.outcome for verdict in verdicts] == [Outcome.PASSED] * 4 + [Outcome.FAILED]
    assert [verdict.reward for verdict in verdicts] == [2.5, 0.0, 0.0, 0.0, 0.0]
    with RewardWorker(RewardConfig(), SandboxConfig()) as worker:
        assert [verdict.outcome for verdict in worker.score(problem, texts)] == [Outcome.PASSED] + [
            Outcome.FORMAT_ERROR
        ] * 4


def test_a_timeout_fails_its_test_and_the_others_continue():
    problem = Problem("p", "q", tuple(f"assert f({x}) == {x}" for x in range(6)))
    loop = "def f(x):\n    while x in (1, 3): pass\n    return x"
    config = SandboxConfig(cpu_seconds=0.2, wall_factor=50.0, max_timeouts=2)
    with RewardWorker(RewardConfig(), config) as short:
        verdict = short.judge([problem], [loop])[0]
    assert [t.reason for t in verdict.tests] == ["", "timeout", "", "timeout", "skipped", "skipped"]
    assert all(0.2 <= verdict.tests[place].cpu_seconds < 1.0 for place in (1, 3))  # stopped from outside, in time


def test_all_or_nothing_and_hidden_tests_shape_the_reward_only():
    text = fenced("def f(x):\n    return 2 * abs(x)")
    with RewardWorker(RewardConfig(pass_rate="all_or_nothing"), SandboxConfig()) as strict:
        verdict = strict.score(DOUBLE, [text])[0]
    assert (verdict.reward, verdict.pass_rate) == (0.5, 0.75)
    shown = visible_tests(DOUBLE, 4, 0.5)
    assert sum(shown) == 2 and shown == visible_tests(DOUBLE, 4, 0.5)
    with RewardWorker(RewardConfig(hidden_share=0.5), SandboxConfig()) as partial:
        verdict = partial.score(DOUBLE, [text])[0]
    seen = [test.passed for test, show in zip(verdict.tests, shown) if show]
    assert verdict.outcome is Outcome.FAILED
    assert verdict.reward == 0.5 + 2.0 * sum(seen) / 2
    assert sum(visible_tests(DOUBLE, 1, 1.0)) == 1


def test_equal_programs_are_joined_and_remembered():
    with RewardWorker(RewardConfig(), SandboxConfig()) as fresh:
        text = fenced("def f(x):\n    return 2 * x")
        first = fresh.score(DOUBLE, [text] * 5)
        assert (fresh.stats()["programs"], fresh.stats()["joined"]) == (1, 4)
        again = fresh.score(DOUBLE, [text])
        assert fresh.stats()["programs"] == 1 and again[0].cached and not first[0].cached
        assert fresh.stats()["cache_hits"] == 1 and fresh.stats()["cache_hit_rate"] == 0.5


def test_a_timeout_is_remembered_only_after_a_second_run():
    problem = Problem("p", "q", ("assert f(1) == 1",))
    loop = "def f(x):\n    while True: pass"
    with RewardWorker(RewardConfig(), SandboxConfig(cpu_seconds=0.1)) as fresh:
        for programs in (1, 2, 2):
            assert fresh.judge([problem], [loop])[0].reason == "timeout"
            assert fresh.stats()["programs"] == programs


def test_a_killed_zygote_changes_no_verdict(worker):
    before = worker.stats()["restarts"]
    for x in range(3):
        os.kill(worker.runner.sandbox.zygote.process.pid, signal.SIGKILL)
        while worker.runner.sandbox.alive():
            time.sleep(0.001)
        assert worker.score(DOUBLE, [fenced(f"def f(x):\n    return 2 * x + {x} - {x}")])[0].reward == 2.5
    assert worker.stats()["restarts"] == before + 3
    assert worker.stats()["faults_zygote"] >= 3


def test_a_fault_is_not_a_verdict_and_is_not_remembered(monkeypatch):
    with RewardWorker(RewardConfig(), SandboxConfig()) as fresh:
        text = fenced("def f(x):\n    return 2 * x")
        with monkeypatch.context() as patch:
            patch.setattr("couplet.reward.runner.RETRY", Retry(3, 0.0))

            def broken(*_):
                raise SandboxFault("spawn", "no more processes")

            patch.setattr(fresh.runner.sandbox, "spawn", broken)
            verdicts = fresh.score(DOUBLE, [text, text, "no fence"])
        assert [v.outcome for v in verdicts] == [Outcome.INFRA_ERROR, Outcome.INFRA_ERROR, Outcome.FORMAT_ERROR]
        assert math.isnan(verdicts[0].reward) and verdicts[0].reason == "spawn"
        assert fresh.stats()["infra_errors"] == 1 and fresh.stats()["faults_spawn"] == 1
        assert fresh.score(DOUBLE, [text])[0].outcome is Outcome.PASSED


def test_a_program_that_always_kills_its_zygote_is_quarantined(monkeypatch):
    with RewardWorker(RewardConfig(), SandboxConfig()) as fresh:
        monkeypatch.setattr("couplet.reward.runner.RETRY", Retry(3, 0.0))
        sandbox = fresh.runner.sandbox
        spawn = type(sandbox).spawn

        def deadly(kind, cpu_limit, ahead=b""):
            child = spawn(sandbox, kind, cpu_limit, ahead)
            os.kill(sandbox.zygote.process.pid, signal.SIGKILL)
            while sandbox.alive():
                time.sleep(0.001)
            return child

        monkeypatch.setattr(sandbox, "spawn", deadly)
        slow = "import time\ntime.sleep(0.5)  # the blow falls before it answers\ndef f(x):\n    return 2 * x"
        verdict = fresh.score(DOUBLE, [fenced(slow)])[0]
        assert verdict.outcome is Outcome.QUARANTINED and math.isnan(verdict.reward)
        monkeypatch.undo()
        assert fresh.score(DOUBLE, [fenced("def f(x):\n    return x + x")])[0].outcome is Outcome.PASSED


def test_an_unknown_reward_function_names_the_nearest():
    with pytest.raises(ConfigError, match=r"reward.functions.code_fromat = 1.0: .*'code_format'"):
        RewardWorker(RewardConfig(functions={"code_fromat": 1.0}), SandboxConfig())


def test_a_function_of_any_module_is_paid(monkeypatch, tmp_path):
    (tmp_path / "my_rewards.py").write_text("def short(judged):\n    return float(len(judged.text) < 60)\nlimit = 3\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    functions = {"code": 1.0, "my_rewards:short": 0.5}
    with RewardWorker(RewardConfig(functions=functions), SandboxConfig()) as paying:
        verdict = paying.score(DOUBLE, [fenced("def f(x):\n    return 2 * x")])[0]
    assert verdict.reward == 1.5 and verdict.parts == {"code": 1.0, "my_rewards_short": 1.0}
    for name, message in (("my_rewards:long", "cannot be imported"), ("my_rewards:limit", "is not a function")):
        with pytest.raises(ConfigError, match=f"reward.functions.{name}.*{message}"):
            RewardWorker(RewardConfig(functions={name: 1.0}), SandboxConfig())


def test_a_registered_function_is_paid(monkeypatch):
    monkeypatch.setattr("couplet.reward.functions.REWARDS", dict(REWARDS))

    @register("short")
    def short(judged):
        return float(len(judged.program) < 40)

    functions = {"code": 1.0, "short": 0.25}
    with RewardWorker(RewardConfig(functions=functions), SandboxConfig()) as paying:
        verdict = paying.score(DOUBLE, [fenced("def f(x):\n    return 2 * x")])[0]
    assert verdict.reward == 1.25 and verdict.parts == {"code": 1.0, "short": 1.0}
    with pytest.raises(ValueError, match="already registered"):
        register("short")(short)


def test_programs_may_use_threads_and_named_packages():
    program = """
import threading
def f(n):
    seen = []
    threads = [threading.Thread(target=seen.append, args=(k,)) for k in range(n)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    return sum(seen)
def g(n):
    import numpy
    return numpy.arange(n).sum()
"""
    problem = Problem("p", "q", ("assert f(4) == 6", "assert g(4) == 6"))
    for tier in ("namespace", "landlock"):
        for packages, passed in (((), [True, False]), (("numpy",), [True, True])):
            config = SandboxConfig(tier=tier, packages=packages, memory_mb=2048)
            with RewardWorker(RewardConfig(), config) as worker:
                assert [test.passed for test in worker.judge([problem], [program])[0].tests] == passed
    with pytest.raises(ConfigError, match="'no_such_package' is not installed"):
        RewardWorker(RewardConfig(), SandboxConfig(packages=("no_such_package",)))


def test_a_problem_without_tests_is_refused(worker):
    with pytest.raises(ValueError, match="problem empty: has no test"):
        worker.judge([Problem("empty", "q")], ["x = 1"])


def test_the_unsafe_tier_must_be_asked_for():
    with pytest.raises(ConfigError, match="allow_unsafe"):
        SandboxConfig(tier="rlimits")
