"""Two thousand programs, one in ten hostile, scored twice from files: equal verdicts, nothing left, no undue delay."""

import json
import random

import pytest

from couplet.configs.schema import SandboxConfig
from couplet.evaluation.score_file import score_file
from tests.reward.test_soak import HONEST, HOSTILE, held

PROGRAMS, SHARE = 2_000, 0.1
PROBLEM = {
    "problem_id": "linear",
    "question": "q",
    "tests": [*(f"assert f({x}) == {3 * x + 1}" for x in range(4)), "assert abs(f(0.5) - 2.5) < 1e-9"],
}
LIMITS = SandboxConfig(cpu_seconds=0.5, wall_factor=4.0, program_factor=8.0)


def written(folder, name, hostile_share):
    """A sample file; (path, whether each program is hostile)."""
    drawn = random.Random(7)
    programs, hostile = [], []
    for number in range(PROGRAMS):
        hostile.append(drawn.random() < hostile_share)
        source = drawn.choice(HOSTILE) if hostile[-1] else HONEST[number % len(HONEST)][0]
        programs.append(source.format(n=number))
    path = folder / name
    path.write_text("".join(json.dumps({"task_id": "linear", "solution": program}) + "\n" for program in programs))
    return path, hostile


@pytest.mark.slow
def test_two_thousand_programs_have_the_same_verdicts_twice(tmp_path):
    problems = tmp_path / "problems.jsonl"
    problems.write_text(json.dumps(PROBLEM) + "\n")
    samples, hostile = written(tmp_path, "mixed.jsonl", SHARE)
    before = held()
    runs = [score_file(problems, samples, tmp_path / f"{k}.jsonl", sandbox=LIMITS) for k in range(2)]
    first, second = ([(row["passed"], row["pass_rate"]) for row in run.rows] for run in runs)
    assert first == second
    for number, (row, bad) in enumerate(zip(runs[0].rows, hostile)):
        assert row["passed"] is not None, row
        assert row["pass_rate"] == pytest.approx(0.0 if bad else HONEST[number % len(HONEST)][1]), row
    assert held() == before
    honest = score_file(problems, written(tmp_path, "honest.jsonl", 0.0)[0], tmp_path / "honest.out", sandbox=LIMITS)
    delay = min(run.seconds for run in runs) - honest.seconds * (1 - SHARE)
    assert delay < sum(hostile) * LIMITS.program_seconds, "hostile programs cost more than their own budgets"
