"""A run accepts the sandbox tiers it started in and stronger ones."""

import psutil
import pytest

from couplet.configs.schema import RewardConfig, SandboxConfig
from couplet.data.problem import Problem
from couplet.data.verdict import Outcome
from couplet.reward.tiers import accepted, refuse
from couplet.reward.worker import RewardWorker


@pytest.mark.parametrize(
    "found, tiers",
    [
        (["namespace"], ("namespace",)),
        (["landlock", "namespace"], ("namespace", "landlock")),
        (["seccomp"], ("namespace", "landlock", "seccomp")),
        (["e2b"], ("e2b",)),
        ([], ()),
    ],
)
def test_accepted_tiers(found, tiers):
    assert accepted(found) == tiers


def test_a_weaker_tier_gives_faults_and_never_verdicts():
    assert refuse("namespace", ("namespace", "landlock"), 3) is None
    assert refuse("rlimits", (), 3) is None
    faults = refuse("rlimits", ("namespace", "landlock"), 3)
    assert [(fault.outcome.is_verdict, fault.reason) for fault in faults] == [(False, "tier_rlimits")] * 3


def test_a_package_that_starts_threads_does_not_lower_the_tier(tmp_path, monkeypatch):
    package = tmp_path / "couplet_test_threads"
    package.mkdir()
    threads = "import threading, time\nthreading.Thread(target=time.sleep, args=(1e6,), daemon=True).start()\n"
    (package / "__init__.py").write_text(threads + "VALUE = 7\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    program = "import couplet_test_threads\ndef f(x): return x + couplet_test_threads.VALUE\n"
    with RewardWorker(RewardConfig(), SandboxConfig()) as plain:
        tier = plain.tier
    others = set(psutil.Process().children(recursive=True))  # those of a Ray that the tests share
    with RewardWorker(RewardConfig(), SandboxConfig(packages=("couplet_test_threads",))) as worker:
        assert worker.tier == tier
        (verdict,) = worker.judge([Problem("p", "q", ("assert f(1) == 8",), "f")], [program])
        processes = set(psutil.Process().children(recursive=True)) - others
    assert verdict.outcome is Outcome.PASSED
    assert processes and not psutil.wait_procs(list(processes), timeout=10)[1]
