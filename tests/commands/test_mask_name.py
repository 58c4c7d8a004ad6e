"""A policy whose tokenizer has another name for the mask token: config.json says its id, and the name does not matter."""

from __future__ import annotations

import shutil

import pytest

from couplet.configs.load import load
from couplet.configs.schema import RunConfig
from couplet.studies import variance as variance_study
from couplet.studies.path_measure import Decoding, measure_policy


@pytest.fixture(scope="module")
def renamed(run_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("renamed") / "policy"
    shutil.copytree(run_folder / "policy", folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / name).read_text()
        (folder / name).write_text(text.replace("<|mask|>", "<|blank|>"))
    return folder


def recipe(tmp_path, policy, problems):
    path = tmp_path / "train.yaml"
    path.write_text(
        f"{{name: blank, steps: 1, runs_dir: {tmp_path / 'runs'}, model: {{path: {policy}}},"
        f" problems: {{train: {problems}, evaluate: {problems}}}, replay: {{groups_per_step: 2, completions: 2}},"
        " sampler: {steps: 4, completion_length: 8}, evaluation: {limit: 2, samples: 1, ar_ness_problems: 1}}"
    )
    return path


def test_it_trains_and_is_evaluated(renamed, problem_file, tmp_path, command):
    code, _, error = command("train", recipe(tmp_path, renamed, problem_file), "--local")
    assert code == 0, error
    words = ("--samples", 1, "--local", "--limit", 2, "--out", tmp_path / "out")
    code, _, error = command("evaluate", renamed, problem_file, *words)
    assert code == 0, error


def test_it_is_measured_and_studied(renamed, problem_file, tmp_path):
    path = recipe(tmp_path, renamed, problem_file)
    config = load(RunConfig, path)
    assert measure_policy(renamed, config, [Decoding(1.0, 1)])[0]["problems"] == 2
    words = ["--policy", renamed, "--recipe", path, "--problems", problem_file, "--out", tmp_path / "out"]
    words += ["--limit", "1", "--draws", "16", "--seeds", "0"]
    assert variance_study.main([str(word) for word in words]) == 0
