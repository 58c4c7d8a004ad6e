"""The benchmark engine with a fake policy: numbers, resumption after a kill, files others read."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from rich.console import Console

from couplet.configs.schema import ConfigError, SamplerConfig
from couplet.data.problem import Problem
from couplet.data.prompts import PromptSet
from couplet.data.seeds import derive_seed
from couplet.data.trajectory import GroupId, PromptGroup, ScoredGroup
from couplet.data.verdict import Outcome, TestResult, Verdict
from couplet.evaluation.benchmark import Plan, run_benchmark, run_canonical
from couplet.evaluation.records import Records

SAMPLER = SamplerConfig(steps=4, completion_length=4)
FACTS = {"policy": "toy", "problems": "six"}


class Killed(Exception):
    """Stands for a SIGKILL in the middle of an evaluation."""


def prompt_set(count: int = 6) -> PromptSet:
    problems = tuple(Problem(f"toy/{i}", f"question {i}", tests=("assert f() == 1",)) for i in range(count))
    return PromptSet(problems, tuple(np.array([i]) for i in range(count)), dropped=2)


class FakeCluster:
    """Judges by hash: a sample passes with probability (problem number) / 6; `dies_after` problems it is killed."""

    def __init__(self, dies_after: int | None = None, faults: int = 0) -> None:
        self.dies_after, self.faults = dies_after, faults
        self.asked: list[list[str]] = []

    def evaluate(self, request):
        prompts, sampler, samples, seed = request.prompts, request.sampler, request.samples, request.seed
        progress = request.progress
        self.asked.append([p.problem_id for p in prompts.problems])
        groups = []
        for index, problem in enumerate(prompts.problems):
            if self.dies_after is not None and index == self.dies_after:
                raise Killed
            number = int(problem.problem_id.removeprefix("toy/"))
            verdicts, texts = [], []
            for g in range(samples):
                draw = derive_seed(seed, problem.problem_id, g, int(10 * sampler.temperature)) % 6
                outcome = (
                    Outcome.INFRA_ERROR if g < self.faults else Outcome.PASSED if draw < number else Outcome.FAILED
                )
                passed = outcome is Outcome.PASSED
                verdicts.append(
                    Verdict(outcome, 2.5 * passed, float(passed), tests=(TestResult(passed, "wrong_value"),))
                )
                texts.append(f"```python\ndef f(): return {g}\n```")
            group = PromptGroup(
                GroupId(0, index, 0), 0, 0, problem.problem_id, prompts.prompts[index], np.zeros((samples, 4), np.int32),
                np.zeros((samples, 4), np.int16), np.ones((samples, 4), bool), tuple(texts), (0,) * samples, 0, None,
            )  # fmt: skip
            groups.append(ScoredGroup(group, tuple(verdicts)))
            if progress:
                progress(index, groups[-1])
        return groups


def test_pass_at_1_is_the_share_of_passing_samples(tmp_path) -> None:
    rows = run_benchmark(
        FakeCluster().evaluate, prompt_set(), SAMPLER, Plan(samples=8, ks=(1, 8)), tmp_path, facts=FACTS
    )
    lines = [json.loads(line) for line in (tmp_path / "T1-S4" / "problems.jsonl").read_text().splitlines()]
    share = np.mean([c["outcome"] == "passed" for line in lines for c in line["completions"]])
    assert rows[0]["pass@1"]["mean"] == pytest.approx(share)
    assert rows[0]["pass@8"]["mean"] == np.mean([line["correct"] > 0 for line in lines])
    assert rows[0]["pass_rate"] == pytest.approx(share) and rows[0]["format_rate"] == 1.0
    assert rows[0]["pass@1"]["low"] <= share <= rows[0]["pass@1"]["high"]


def test_every_temperature_meets_every_number_of_steps(tmp_path) -> None:
    plan = Plan(temperatures=(0.2, 1.2), steps=(4, 2), samples=2)
    rows = run_benchmark(FakeCluster().evaluate, prompt_set(2), SAMPLER, plan, tmp_path, facts=FACTS)
    assert [(r["steps"], r["temperature"]) for r in rows] == [(4, 0.2), (4, 1.2), (2, 0.2), (2, 1.2)]
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["T0.2-S2", "T0.2-S4", "T1.2-S2", "T1.2-S4"]


def test_a_killed_run_resumes_and_ends_as_if_uninterrupted(tmp_path) -> None:
    plan = Plan(samples=4, ks=(1, 4))
    whole = run_benchmark(FakeCluster().evaluate, prompt_set(), SAMPLER, plan, tmp_path / "whole", facts=FACTS)
    with pytest.raises(Killed):
        run_benchmark(FakeCluster(3).evaluate, prompt_set(), SAMPLER, plan, tmp_path / "cut", facts=FACTS)
    with (tmp_path / "cut" / "T1-S4" / "problems.jsonl").open("a") as file:
        file.write('{"problem_id": "toy/3", "sam')  # torn by the kill
    again = FakeCluster()
    resumed = run_benchmark(again.evaluate, prompt_set(), SAMPLER, plan, tmp_path / "cut", facts=FACTS)
    assert again.asked == [["toy/3", "toy/4", "toy/5"]]
    assert resumed == whole
    for name in ("problems.jsonl", "samples.jsonl"):
        assert (tmp_path / "cut" / "T1-S4" / name).read_bytes() == (tmp_path / "whole" / "T1-S4" / name).read_bytes()


def test_a_finished_run_samples_nothing_again(tmp_path) -> None:
    first = run_benchmark(FakeCluster().evaluate, prompt_set(), SAMPLER, Plan(samples=2), tmp_path, facts=FACTS)
    idle = FakeCluster()
    assert run_benchmark(idle.evaluate, prompt_set(), SAMPLER, Plan(samples=2), tmp_path, facts=FACTS) == first
    assert idle.asked == []


def test_results_of_another_run_are_never_mixed_in(tmp_path) -> None:
    run_benchmark(FakeCluster().evaluate, prompt_set(), SAMPLER, Plan(samples=2), tmp_path, facts=FACTS)
    with pytest.raises(ConfigError, match="samples = 2, this run has 4"):
        run_benchmark(FakeCluster().evaluate, prompt_set(), SAMPLER, Plan(samples=4), tmp_path, facts=FACTS)
    with pytest.raises(ConfigError, match="policy = 'toy', this run has 'other'"):
        run_benchmark(
            FakeCluster().evaluate, prompt_set(), SAMPLER, Plan(samples=2), tmp_path, facts={**FACTS, "policy": "other"}
        )
    with pytest.raises(ConfigError, match="sampler"):
        hot = SAMPLER.replace(top_p=0.9)
        run_benchmark(FakeCluster().evaluate, prompt_set(), hot, Plan(samples=2), tmp_path, facts=FACTS)


def test_sandbox_faults_are_excluded_not_failed(tmp_path) -> None:
    plan = Plan(samples=4, ks=(1, 3))
    (row,) = run_benchmark(FakeCluster(faults=2).evaluate, prompt_set(), SAMPLER, plan, tmp_path, facts=FACTS)
    assert row["excluded"] == 12 and row["left_out@1"] == 0
    assert row["left_out@3"] == 6 and row["pass@3"] is None
    judged = [json.loads(line)["judged"] for line in (tmp_path / "T1-S4" / "problems.jsonl").read_text().splitlines()]
    assert judged == [2] * 6


def test_evalplus_reads_task_id_and_solution(tmp_path) -> None:
    run_benchmark(FakeCluster().evaluate, prompt_set(2), SAMPLER, Plan(samples=2), tmp_path, facts=FACTS)
    lines = [json.loads(line) for line in (tmp_path / "T1-S4" / "samples.jsonl").read_text().splitlines()]
    assert [sorted(line) for line in lines] == [["solution", "task_id"]] * 4
    assert lines[1]["task_id"] == "toy/0" and lines[1]["solution"].strip() == "def f(): return 1"


def test_the_table_prints(tmp_path) -> None:
    console = Console(record=True, width=140, file=io.StringIO())
    plan = Plan(temperatures=(0.2, 1.0), samples=2)
    run_benchmark(FakeCluster().evaluate, prompt_set(), SAMPLER, plan, tmp_path, facts=FACTS, console=console)
    text = console.export_text()
    assert "pass@1" in text and "2 dropped for length" in text and "[" in text
    assert (tmp_path / "results.md").read_text().count("\n") == 4


def test_a_duplicated_problem_is_an_error(tmp_path) -> None:
    one = prompt_set(1)
    twice = PromptSet(one.problems * 2, one.prompts * 2)
    with pytest.raises(ValueError, match="toy/0' is duplicated"):
        run_benchmark(FakeCluster().evaluate, twice, SAMPLER, Plan(samples=2), tmp_path, facts=FACTS)


def test_plans_that_cannot_be_estimated_are_refused() -> None:
    with pytest.raises(ConfigError, match="samples = 4"):
        Plan(samples=4, ks=(5,))
    with pytest.raises(ConfigError, match="temperatures"):
        Plan(temperatures=())


def test_a_broken_line_in_the_middle_is_an_error(tmp_path) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text('{"problem_id": "a"}\n{"prob\n{"problem_id": "b"}\n')
    with pytest.raises(ValueError, match="line 2"):
        Records(path)


def test_an_unwritable_folder_is_one_clear_error(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write"):
        run_benchmark(
            FakeCluster().evaluate, prompt_set(), SAMPLER, Plan(samples=2), tmp_path / "file" / "out", facts=FACTS
        )


def test_canonical_solutions_go_through_the_judge_as_answers(tmp_path) -> None:
    seen: dict[str, str] = {}

    def judge(problem, texts):  # type: ignore[no-untyped-def]
        (text,) = texts
        seen[problem.problem_id] = text
        good = "return 1" in text
        tests = (TestResult(good, "" if good else "wrong_value"),)
        return [Verdict(Outcome.PASSED if good else Outcome.FAILED, 0.0, float(good), tests=tests)]

    problems = [
        Problem("a", "q", canonical_solution="def f(): return 1"),
        Problem("b", "q", canonical_solution="def f(): return 2\n"),
        Problem("c", "q"),
    ]
    result = run_canonical(judge, problems, tmp_path)
    assert result["passed"] == 1 and result["without_solution"] == 1
    assert list(result["failing"]) == ["b"] and "wrong_value" in result["failing"]["b"]
    assert seen["a"] == "```python\ndef f(): return 1\n```\n"
    assert json.loads((tmp_path / "canonical.json").read_text())["problems"] == 2
    with pytest.raises(ConfigError, match="none of 1 problems"):
        run_canonical(judge, problems[2:])
