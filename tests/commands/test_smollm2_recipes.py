"""The recipes of configs/smollm2 run from start to end, on a small Llama folder in the model's place."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.commands.test_families_run import write_folder


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("form", ["", "_cpu"])
def test_adaptation_and_reinforcement_learning_follow_each_other(tmp_path, command, problem_file, monkeypatch, form):
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "model", "llama", max_position_embeddings=1024)
    rows = [json.loads(line) for line in problem_file.read_text().splitlines()]
    tests = [
        row | {"task_id": row["task_id"] - 590} for row in rows
    ]  # 601.. are of the train split, 11.. of the test split
    (tmp_path / "mbpp.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows + tests))
    short = [
        f"stages.{n}.{key}"
        for n in (0, 1)
        for key in ("steps=4", "batch=2", "validate_every=2", "validation_examples=2")
    ]
    where = ["start=model", "runs_dir=runs", "learner.gpus=0", "learner.dtype=float32"]
    code, printed, error = command("adapt", f"smollm2/adapt{form}.yaml", *where, *short)
    assert code == 0, error
    policy = tmp_path / "runs" / f"smollm2-adapt{form.replace('_', '-')}" / "policy"
    fields = json.loads((policy / "config.json").read_text())
    assert fields["model_type"] == "llama" and fields["vocab_size"] % 64 == 0
    assert "validation at the start" in printed
    options = [f"model.path={policy}", "model.recipe=null", "model.dtype=float32", "runs_dir=runs", "steps=1"]
    options += ["rollout.gpus=0", "learner.gpus=0", "learner.dtype=float32", "problems.max_prompt_tokens=400"]
    options += ["sampler.steps=4", "sampler.completion_length=32", "replay.groups_per_step=2", "replay.completions=2"]
    options += [
        "evaluation.limit=2",
        "evaluation.samples=1",
        "evaluation.ar_ness_problems=1",
        "objective.zero_signal=keep",
    ]
    code, _, error = command("train", f"smollm2/rl{form}.yaml", "--local", *options)
    assert code == 0, error
    assert (tmp_path / "runs" / f"smollm2-rl{form.replace('_', '-')}" / "summary.json").is_file()
    shutil.rmtree(tmp_path / "runs")
