"""Canonical solutions through the judging path of an evaluation, in the real sandbox."""

from __future__ import annotations

from couplet.configs.schema import RewardConfig, SandboxConfig
from couplet.data.katas.problems import generate
from couplet.evaluation.benchmark import run_canonical
from couplet.reward.worker import RewardWorker


def test_canonical_solutions_of_the_katas_give_all() -> None:
    with RewardWorker(RewardConfig(), SandboxConfig(cpu_seconds=1.0, memory_mb=256)) as worker:
        result = run_canonical(worker.score, generate("heldout")[:12])
    assert result == {"problems": 12, "without_solution": 0, "passed": 12, "failing": {}}
