"""`evaluate` and `analyze` in one process: a kill, the canonical solutions, whose settings count."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from couplet.commands.backends import open_evaluator
from couplet.commands.subject import open_policy, prompts_of, results_folder, set_name, weights_fingerprint
from couplet.data.prompts import PromptSet, evaluation_requests
from couplet.evaluation.request import EvalRequest

ROOT = Path(__file__).parents[2]


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_settings_come_from_the_run_then_the_recipe_then_the_override(run_folder, tmp_path):
    folder, own = open_policy(str(run_folder), None, ())
    assert folder == run_folder / "policy" and own.sampler.steps == 4 and own.seed == 5
    (tmp_path / "other.yaml").write_text("sampler: {steps: 2, completion_length: 8}")
    assert open_policy(str(folder), str(tmp_path / "other.yaml"), ())[1].sampler.steps == 2
    assert open_policy(str(folder), None, ["sampler.steps=8"])[1].sampler.steps == 8


def test_benchmarks_are_judged_under_the_limits_of_score_unless_overridden(run_folder):
    sandbox = open_policy(str(run_folder), None, ())[1].sandbox
    assert (sandbox.cpu_seconds, sandbox.memory_mb) == (8.0, 1024)
    sandbox = open_policy(str(run_folder), None, ["sandbox.cpu_seconds=1"])[1].sandbox
    assert (sandbox.cpu_seconds, sandbox.memory_mb) == (1.0, 1024)


def test_a_training_limit_on_prompts_drops_no_benchmark_problem(run_folder, problem_file):
    folder, config = open_policy(str(run_folder), None, ["problems.max_prompt_tokens=3"])
    assert len(prompts_of(config, folder, str(problem_file), None)) == 4
    with pytest.raises(ValueError, match="none of 4 problems has a prompt of at most"):
        prompts_of(config, folder, str(problem_file), None, ["problems.max_prompt_tokens=3"])


def test_every_setting_is_sampled_judged_and_tabulated(run_folder, problem_file, tmp_path, command):
    out = tmp_path / "out"
    words = ("--temperatures", "0.5,1", "--steps", "4,2", "--samples", 2, "--local", "--out", out)
    code, printed, _ = command("evaluate", run_folder, problem_file, *words)
    assert code == 0 and "4 problems, 0 dropped for length" in printed
    settings = json.loads((out / "results.json").read_text())["settings"]
    assert [(s["steps"], s["temperature"]) for s in settings] == [(4, 0.5), (4, 1.0), (2, 0.5), (2, 1.0)]
    assert all(s["pass@1"]["mean"] == s["pass@2"]["mean"] == 0.0 for s in settings)  # random weights
    samples = lines(out / "T0.5-S4" / "samples.jsonl")
    assert [row["task_id"] for row in samples[::2]] == [f"Mbpp/{n}" for n in range(601, 605)]


def test_a_prefix_begins_every_judged_text_and_is_part_of_what_results_belong_to(
    run_folder, problem_file, tmp_path, command
):
    words = ("evaluate", run_folder, problem_file, "--samples", 1, "--limit", 2, "--local", "--out", tmp_path / "out")
    assert command(*words, "--prefix", "published")[0] == 0
    rows = lines(next((tmp_path / "out").glob("*/problems.jsonl")))
    begun = "Here is the code to solve this problem:\n```python\n"
    assert [one["text"].startswith(begun) for row in rows for one in row["completions"]] == [True, True]
    code, _, said = command(*words)
    assert code == 2 and "answer_prefix" in said


def test_canonical_solutions_pass_through_the_same_path(run_folder, problem_file, tmp_path, command):
    code, printed, _ = command("evaluate", run_folder, problem_file, "--canonical", "--local", "--out", tmp_path)
    assert code == 0 and "4 of 4 pass (100.0%)" in printed
    assert json.loads((tmp_path / "canonical.json").read_text())["failing"] == {}


KILLED_AFTER_TWO = """
import os, signal, sys, launch
from couplet.evaluation.records import Records
append = Records.append
def fatal(self, row):
    append(self, row)
    if len(self.rows) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
Records.append = fatal
sys.exit(launch.main(sys.argv[1:]))
"""


def test_a_killed_evaluation_resumes_and_equals_an_uninterrupted_one(run_folder, problem_file, tmp_path, command):
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    words = ["evaluate", str(run_folder), "katas:heldout", "--limit", "24", "--samples", "4", "--local"]
    words += ["sampler.steps=8", "sandbox.tier=auto"]
    child = subprocess.run(
        [sys.executable, "-c", KILLED_AFTER_TWO, *words, "--out", str(cut)], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    assert child.returncode == -signal.SIGKILL
    records = cut / "T0.2-S8" / "problems.jsonl"
    before = records.read_bytes()
    assert before.count(b"\n") == 2
    assert command(*words, "--out", cut)[0] == 0
    assert command(*words, "--out", whole)[0] == 0
    assert records.read_bytes().startswith(before)
    for name in ("T0.2-S8/problems.jsonl", "T0.2-S8/samples.jsonl"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()


def test_a_problem_gets_the_same_completions_whichever_others_are_asked(run_folder, problem_file):
    folder, config = open_policy(str(run_folder), None, ())
    prompts = prompts_of(config, folder, str(problem_file), None)
    last = PromptSet(prompts.problems[3:], prompts.prompts[3:])
    assert evaluation_requests(last, 2, 7)[0].seeds_G == evaluation_requests(prompts, 2, 7)[3].seeds_G
    assert len({seed for r in evaluation_requests(prompts, 2, 7) for seed in r.seeds_G}) == 8
    with open_evaluator(config, local=True) as evaluator:
        together = evaluator.evaluate(folder, EvalRequest(prompts, config.sampler, 2, 7))
        alone = evaluator.evaluate(folder, EvalRequest(last, config.sampler, 2, 7))
    assert alone[0].group.texts == together[3].group.texts


def test_results_of_other_weights_are_never_mixed_in(run_folder, problem_file, tmp_path, command):
    from couplet.model.policy import DiffusionPolicy

    words = ("--samples", 1, "--limit", 1, "--local", "--out", tmp_path / "out")
    folder = tmp_path / "run" / "policy"
    policy = DiffusionPolicy.from_pretrained(run_folder / "policy")
    policy.save_pretrained(folder)
    assert weights_fingerprint(folder) == weights_fingerprint(run_folder / "policy")
    assert command("evaluate", folder, problem_file, *words, "sampler.steps=2", "sampler.completion_length=4")[0] == 0
    policy.model.norm.weight.data[0] += 1e-3
    policy.save_pretrained(folder)
    code, _, error = command("evaluate", folder, problem_file, *words, "sampler.steps=2", "sampler.completion_length=4")
    assert code == 2 and "holds results with weights" in error


def test_two_policies_are_analysed_side_by_side(run_folder, tmp_path, command):
    words = (
        "--before",
        run_folder / "policy",
        "--samples",
        2,
        "--limit",
        3,
        "--temperatures",
        "0.5,1",
        "--steps",
        "8,4",
    )
    code, _, error = command("analyze", run_folder, "katas:heldout", *words, "--local", "--out", tmp_path)
    assert code == 0, error
    found = json.loads((tmp_path / "analysis.json").read_text())
    assert [row["policy"] for row in found["settings"] if row["study"] == "steps"] == ["before"] * 2 + ["after"] * 2
    own = [{k: v for k, v in row.items() if k not in ("policy", "tokens_per_second")} for row in found["settings"]]
    assert own[: len(own) // 2] == own[len(own) // 2 :]  # the same weights under both names
    for name in ("temperature", "steps", "entropy_sink", "domains"):
        assert (tmp_path / f"{name}.png").stat().st_size > 1000 and (tmp_path / f"{name}.svg").exists()


def test_names_of_result_folders(run_folder):
    assert results_folder(run_folder / "policy") == run_folder / "benchmarks"
    assert results_folder(Path("/models/mine")) == Path("runs/benchmarks/mine")
    assert results_folder(Path("/models/mine/policy")) == Path("runs/benchmarks/mine")
    snapshot = Path("/hub/models--apple--DiffuCoder-7B-Instruct/snapshots/0a1b2c")
    assert results_folder(snapshot) == Path("runs/benchmarks/apple--DiffuCoder-7B-Instruct")
    assert set_name("katas:heldout") == "katas-heldout"
    assert set_name("data/mbpp.jsonl@test") == "mbpp-test"
    assert set_name("HumanEval.jsonl.gz") == "HumanEval"
