"""A missing device is an error of one line that names the setting and the remedy."""

from __future__ import annotations

import pytest
import torch

from couplet.configs.schema import ConfigError
from couplet.model.device import check_device, device_for

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
STAGE = "{name: a, steps: 1, batch: 2, length: 64, canvas: 32, objective: instruct, corpus: 'katas:tune'}"


def mistake(found: tuple[int, str, str]) -> str:
    code, _, error = found
    assert code == 2 and error.startswith("error: ") and error.count("\n") == 1, error
    return error


@pytest.mark.parametrize("device", ["nonsense", "cuda:x", "meta", "cuda:99"])
def test_sample_names_a_device_that_cannot_be(run_folder, command, device):
    error = mistake(command("sample", run_folder, "--once", "hi", "--device", device))
    assert f"--device = '{device}'" in error and "use --device cpu" in error


@needs_no_gpu
def test_sample_without_a_gpu(run_folder, command):
    error = mistake(command("sample", run_folder, "--once", "hi", "--device", "cuda"))
    assert "--device = 'cuda'" in error and "use --device cpu" in error


@needs_no_gpu
def test_evaluate_without_a_gpu(run_folder, problem_file, tmp_path, command):
    words = ("rollout.gpus=1", "--samples", 1, "--local", "--out", tmp_path / "out")
    error = mistake(command("evaluate", run_folder, problem_file, *words))
    assert "rollout.gpus = 1" in error and "set rollout.gpus=0" in error


@needs_no_gpu
def test_adapt_without_a_gpu(tmp_path, command):
    recipe = tmp_path / "adapt.yaml"
    recipe.write_text(f"{{runs_dir: {tmp_path / 'runs'}, learner: {{engine: torch}}, stages: [{STAGE}]}}")
    error = mistake(command("adapt", recipe, "learner.gpus=1"))
    assert "learner.gpus = 1" in error and "set learner.gpus=0" in error


@needs_no_gpu
def test_train_without_a_gpu(run_folder, tmp_path, command):
    recipe = tmp_path / "train.yaml"
    recipe.write_text(f"{{model: {{path: {run_folder / 'policy'}}}, runs_dir: {tmp_path / 'runs'}}}")
    for setting in ("rollout.gpus", "learner.gpus"):
        assert f"{setting} = 1" in mistake(command("train", recipe, "--local", f"{setting}=1"))


def test_a_device_that_works_is_given_back():
    assert check_device("cpu", "--device", "cpu", "") == device_for(0.0, "rollout.gpus") == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match=r"rollout\.gpus = 0\.5"):
            device_for(0.5, "rollout.gpus")
