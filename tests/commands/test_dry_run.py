"""`train --dry-run`: it says what `train` would say of a start, and the 7B recipe follows its arithmetic."""

from __future__ import annotations

import pytest

from couplet.commands.dry_run import KNOWN, _flops, describe
from couplet.configs.load import load
from couplet.configs.schema import ConfigError, RunConfig


@pytest.fixture
def big() -> RunConfig:
    return load(RunConfig, "diffucoder_7b.yaml")


def test_a_folder_without_a_mask_token_is_no_valid_configuration(maskless, run_folder, tmp_path, command):
    recipe = tmp_path / "train.yaml"
    recipe.write_text(f"runs_dir: {tmp_path / 'runs'}\n")
    code, printed, error = command("train", recipe, "--dry-run", f"model.path={maskless}")
    assert code == 2 and "has no mask token" in error and "configuration valid" not in printed
    code, printed, error = command("train", recipe, "--dry-run", f"model.path={run_folder / 'policy'}")
    assert code == 0 and "configuration valid" in printed, error
    code, printed, error = command("train", recipe, "--dry-run")
    assert code == 2 and "give exactly one of them" in error
    assert not (tmp_path / "runs").exists()


def test_a_known_checkpoint_needs_no_download(big):
    assert "7,615,616,512 parameters" in describe(big)
    assert "not there yet: problems.train = " in describe(
        big.replace(problems=big.problems.replace(train="absent.jsonl"))
    )
    assert "generation bounds the step, learning waits for 43% of it" in describe(big)


def test_any_hub_name_needs_its_config_alone(big, run_folder, monkeypatch):
    asked = []

    def download(name, file):
        asked.append((name, file))
        if name == "absent/model":
            raise OSError("no connection\nand more")
        return str(run_folder / "policy" / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    text = describe(big.replace(model=big.model.replace(path="some/model")))
    assert "(1 layers, hidden 16" in text and asked == [("some/model", "config.json")]
    with pytest.raises(ConfigError, match=r"not known without .*\(no connection\); .* `hf download absent/model`"):
        describe(big.replace(model=big.model.replace(path="absent/model")))
    with pytest.raises(ConfigError, match="no such model folder"):
        describe(big.replace(model=big.model.replace(path="/nowhere/model")))


def test_an_offloaded_optimiser_is_told():
    assert "offloaded optimiser 0.00 GB and float32 reference 30.46 GB per learner rank" in describe(
        load(RunConfig, "diffucoder_7b.yaml")
    )
    told = describe(load(RunConfig, "diffucoder_1gpu.yaml"))
    assert (
        "optimiser 137.08 GB and float32 reference 30.46 GB per learner rank; a local Ray's object store 68.72" in told
    )


def test_the_float32_reference_beside_16_bit_weights_is_counted(big):
    def reference(**learner):
        told = describe(big.replace(learner=big.learner.replace(**learner)))
        return told.split("float32 reference ")[1].split(" GB")[0]

    assert (reference(), reference(zero_stage=3), reference(dtype="float32")) == ("30.46", "3.81", "0.00")


def test_the_7b_recipe_splits_eight_nodes_so_that_a_step_is_shortest(big):
    gpus = big.rollout.actors + big.learner.ranks
    assert gpus == 64 and big.rollout.gpus == big.learner.gpus == 1
    generate, train = _flops(big, KNOWN[big.model.path])
    groups = big.replay.groups_per_step

    def slower(ranks):
        return max(generate / (gpus - ranks), train / ranks)

    possible = [ranks for ranks in range(1, gpus) if groups % ranks == 0]
    assert min(possible, key=slower) == big.learner.ranks
    assert slower(big.learner.ranks) < 1.06 * min(slower(ranks) for ranks in range(1, gpus))


def test_the_7b_recipe_has_the_papers_hyper_parameters(big):
    assert big.objective.advantage == "group_mean"  # leave_one_out is a variant there
    assert (big.objective.clip_low, big.objective.kl_weight, big.objective.inner_updates) == (0.5, 0.01, 2)
    assert (big.sampler.temperature, big.sampler.top_p, big.sampler.completion_length) == (1.2, 0.95, 256)
    assert (big.replay.completions, big.problems.max_prompt_tokens) == (10, 200)
    assert (big.optimizer.lr, big.optimizer.weight_decay, big.optimizer.grad_norm) == (1e-6, 0.1, 0.2)
    learner_bound = big.replace(learner=big.learner.replace(ranks=2))
    assert "learning bounds the step" in describe(learner_bound)
