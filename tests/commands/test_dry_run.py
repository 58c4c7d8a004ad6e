"""`train --dry-run`: it says what `train` would say of a start, and the 7B recipe follows its arithmetic."""

from __future__ import annotations

import pytest

from couplet.commands.dry_run import SEVEN_B, describe
from couplet.configs.load import load
from couplet.configs.schema import ConfigError, RunConfig
from couplet.training.cost import (
    Machine,
    broadcast,
    group_flops,
    learn_flops,
    learner_memory,
    local_memory,
    simulated,
)


@pytest.fixture
def big() -> RunConfig:
    return load(RunConfig, "diffucoder_7b.yaml")


def test_a_folder_without_a_mask_token_is_rejected(maskless, run_folder, tmp_path, command):
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
    with pytest.raises(ConfigError, match=r"not known without .*\(no connection\); .*`hf download absent/model`"):
        describe(big.replace(model=big.model.replace(path="absent/model")))
    with pytest.raises(ConfigError, match="no such model folder"):
        describe(big.replace(model=big.model.replace(path="/nowhere/model")))


def test_host_memory_is_counted_for_every_rank(big):
    """The float32 reference alone fills a quarter of a terabyte on the learner node."""
    assert "float32 reference 30.46 GB = 30.46 GB, 243.70 GB for all 8" in describe(big)
    said = describe(load(RunConfig, "diffucoder_1gpu.yaml"))
    assert "offloaded optimiser 137.08 GB, float32 reference 30.46 GB = 167.54 GB" in said
    assert "object store of a local Ray 68.72 GB" in said


def test_the_float32_reference_beside_16_bit_weights_is_counted(big):
    def reference(**learner):
        said = describe(big.replace(learner=big.learner.replace(**learner)))
        return said.split("float32 reference ")[1].split(" GB")[0]

    assert (reference(), reference(zero_stage=3), reference(dtype="float32")) == ("30.46", "3.81", "0.00")


def test_work_is_counted_as_the_code_does_it(big):
    """One forward pass per token and completion, the first shared by the group; behaviour estimates for stale samples."""
    size, canvas, completions, length = SEVEN_B, 256, 10, 456
    masked = list(range(256, 1, -1))  # before each of the 255 steps that reveal; the last reveals two
    sampling = size.forward_flops(1, length, 256)
    sampling += sum(size.forward_flops(completions, length, completions * left) for left in masked[1:])
    behaviour = size.forward_flops(1 + 2 * 2 * completions, length, canvas * (1 + 2 * completions))
    assert group_flops(big, size) == pytest.approx(sampling + behaviour)
    synchronous = big.replace(replay=big.replay.replace(max_staleness=0))
    assert group_flops(synchronous, size) == pytest.approx(sampling)
    update = size.forward_flops(1 + 2 * completions, length, canvas * (1 + completions))
    groups = big.replay.groups_per_step
    assert learn_flops(big, size) == pytest.approx(groups * (2 * 4 * update + behaviour))  # recomputing; reference
    assert learn_flops(synchronous, size) == pytest.approx(groups * (2 * 4 * update + behaviour + update))  # and old


def test_the_7b_recipe_gives_every_rollout_gpu_one_group_of_a_step(big):
    gpus = big.rollout.actors + big.learner.ranks
    assert gpus == 64 and big.replay.groups_per_step == big.rollout.actors

    def seconds_per_group(groups, ranks):
        config = big.replace(
            replay=big.replay.replace(groups_per_step=groups),
            learner=big.learner.replace(ranks=ranks),
            rollout=big.rollout.replace(actors=gpus - ranks),
        )
        return simulated(config, SEVEN_B, Machine(400e12)).step_seconds() / groups

    chosen = seconds_per_group(56, 8)
    assert chosen < 0.72 * seconds_per_group(32, 8)
    assert chosen < min(
        seconds_per_group(groups, ranks) for groups in (48, 56, 60, 64) for ranks in (4, 12, 16) if groups % ranks == 0
    )


def test_a_run_takes_as_long_as_the_device_is_fast(big):
    def hours(tflops):
        return float(describe(big, tflops).split(" steps: ")[1].split(" hours")[0])

    assert hours(400.0) == pytest.approx(2 * hours(800.0), rel=0.2)  # moving the weights stays as slow
    assert "GPU-hours" in describe(big) and "GPU-hours" not in describe(load(RunConfig, "tiny.yaml"))


def test_the_7b_recipe_has_the_papers_hyper_parameters(big):
    assert big.objective.advantage == "group_mean"  # leave_one_out is a variant there
    assert (big.objective.clip_low, big.objective.kl_weight, big.objective.inner_updates) == (0.5, 0.01, 2)
    assert (big.sampler.temperature, big.sampler.top_p, big.sampler.completion_length) == (1.2, 0.95, 256)
    assert (big.replay.completions, big.problems.max_prompt_tokens) == (10, 200)
    assert (big.optimizer.lr, big.optimizer.weight_decay, big.optimizer.grad_norm) == (1e-6, 0.1, 0.2)


@pytest.mark.parametrize(
    "recipe, local, card, trained",
    [
        ("diffucoder_80gb.yaml", False, 80, 40_370_176),
        ("diffucoder_48gb.yaml", True, 48, 40_370_176),
        ("small_24gb.yaml", True, 24, 494_032_768),
    ],
)
def test_a_recipe_for_one_gpu_fits_it_with_a_tenth_to_spare(recipe, local, card, trained):
    said = describe(load(RunConfig, recipe), local=local)
    needed = [float(line.rpartition("= ")[2].split()[0]) for line in said.splitlines() if line.startswith("memory")]
    assert len(needed) == (1 if local else 2) and sum(needed) < 0.9 * card
    assert f"trained: {trained:,} parameters" in said
    assert "GPU-hours" in said


def test_an_adapter_is_what_is_optimised_and_broadcast(big):
    adapter = big.replace(learner=big.learner.replace(adapter=big.learner.adapter.replace(rank=16)))
    assert broadcast(adapter, SEVEN_B) == 2 * 40_370_176 < 0.01 * broadcast(big, SEVEN_B)
    memory, full = learner_memory(adapter, SEVEN_B), learner_memory(big, SEVEN_B)
    assert memory["optimiser"] * 100 < full["optimiser"] and memory["reference"] * 100 < full["reference"]
    one = local_memory(adapter, SEVEN_B)
    assert one["weights"] + one["sampler's own weights"] == 2 * (SEVEN_B.total + 2 * 40_370_176)


def test_an_adaptation_is_checked_and_estimated_stage_by_stage(command, tmp_path):
    code, printed, error = command("adapt", "tiny_adapt.yaml", "--dry-run", f"runs_dir={tmp_path}")
    assert code == 0, error
    assert "443,776 parameters" in printed and "stage clean: 2,000 updates of 24 x 104 tokens" in printed
    assert printed.splitlines()[-1].startswith("all stages: ") and not list(tmp_path.iterdir())
    code, printed, _ = command("adapt", "tiny_adapt.yaml", "--dry-run", "learner.adapter.rank=8")
    assert "trained: 37,888 parameters" in printed
    code, _, error = command("adapt", "tiny_adapt.yaml", "--dry-run", "stages.0.corpus=absent.jsonl")
    assert code == 2 and "absent.jsonl" in error
