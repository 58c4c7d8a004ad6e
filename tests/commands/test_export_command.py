"""`export`: a folder that reads back without a difference, here and by Dream's own class."""

from __future__ import annotations

import json
import shutil

import torch
import yaml

from couplet.commands.export import find_policy_of
from couplet.configs.schema import AdapterConfig
from couplet.data.tokenizer import load_tokenizer
from couplet.learner.checkpoint import save_checkpoint
from couplet.model.policy import DiffusionPolicy
from couplet.training.policy_settings import config_for
from tests.learner.toys import toy_policy

TOKENS = torch.tensor([[9, 8, 7, 4, 4, 20, 30, 4]])
# What DreamConfig of the published folders takes; read from its signature.
DREAM_FIELDS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps", "use_cache", "tie_word_embeddings",
    "rope_theta", "rope_scaling", "use_sliding_window", "sliding_window", "max_window_layers", "attention_dropout",
    "mask_token_id", "pad_token_id",
)  # fmt: skip


def test_the_exported_policy_gives_identical_logits(run_folder, tmp_path, command):
    out = tmp_path / "out"
    code, printed, error = command("export", run_folder, out, "--shard-gb", "0.000005")
    assert code == 0 and "without a difference" in printed, error
    assert len(list(out.glob("model-*.safetensors"))) >= 2 and (out / "model.safetensors.index.json").is_file()
    first, second = (DiffusionPolicy.from_pretrained(folder).eval() for folder in (run_folder / "policy", out))
    assert (first.logits(TOKENS) - second.logits(TOKENS)).abs().max() == 0
    assert first.token_ids == second.token_ids
    mine, copy = load_tokenizer(run_folder / "policy"), load_tokenizer(out)
    assert mine.chat_prompt("Write f.") == copy.chat_prompt("Write f.")


def test_an_export_is_exported_again_to_the_same_bytes(run_folder, tmp_path, command):
    assert command("export", run_folder, tmp_path / "a")[0] == command("export", tmp_path / "a", tmp_path / "b")[0] == 0
    for name in ("config.json", "model.safetensors", "generation_config.json", "tokenizer.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_configuration_is_complete_for_the_original_class_and_names_its_code(run_folder, tmp_path, command):
    command("export", run_folder, tmp_path / "out")
    fields = json.loads((tmp_path / "out" / "config.json").read_text())
    assert fields["model_type"] == "Dream" and fields["architectures"] == ["DreamModel"]
    assert set(DREAM_FIELDS) <= set(fields)
    assert {name.partition(".")[0] for name in fields["auto_map"].values()} == {"modeling_couplet"}
    command("export", run_folder, tmp_path / "coded", "--auto-map", "Dream-org/Dream-v0-Instruct-7B")
    fields = json.loads((tmp_path / "coded" / "config.json").read_text())
    assert not (tmp_path / "coded" / "modeling_couplet.py").exists()
    assert fields["auto_map"]["AutoModel"] == "Dream-org/Dream-v0-Instruct-7B--modeling_dream.DreamModel"
    DiffusionPolicy.from_pretrained(tmp_path / "coded")  # the reference is never followed here


def test_a_tokenizer_whose_code_stays_behind_becomes_plain_files(run_folder, tmp_path, command):
    folder = tmp_path / "run" / "policy"
    shutil.copytree(run_folder / "policy", folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {
        "tokenizer_class": "DreamTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert command("export", folder, tmp_path / "out")[0] == 0
    assert "auto_map" not in json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert load_tokenizer(tmp_path / "out").chat_prompt("f") == load_tokenizer(folder).chat_prompt("f")


def test_the_decoding_of_the_run_comes_back_from_the_generation_file(run_folder, tmp_path, command):
    command("export", run_folder, tmp_path / "out")
    assert config_for(tmp_path / "out", None).sampler == config_for(run_folder / "policy", None).sampler
    (tmp_path / "out" / "generation_config.json").write_text('{"temperature": 0.7, "top_k": 20}')  # autoregressive
    assert config_for(tmp_path / "out", None).sampler.top_k is None


def test_the_card_tells_recipe_and_figures_and_no_path(run_folder, tmp_path, command):
    command("export", run_folder, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert (
        "masked-diffusion" in front["tags"]
        and front["library_name"] == "transformers"
        and front["license"] == "unknown"
    )
    assert "in the layout of Dream" in card and "modeling_couplet.py" in card
    assert "| pass@1, T = ? | 25.0% | 50.0% |" in card and "| local AR-ness, T = 0.2 | 0.50 | 0.70 |" in card
    assert "![Mean reward per learner step](reward.png)" in card and (tmp_path / "out" / "reward.png").is_file()
    assert "completion_length: 8" in card and str(run_folder.parent) not in card


def test_an_unfinished_run_is_exported_from_its_newest_checkpoint(run_folder, tmp_path):
    run = tmp_path / "run"

    def write(folder):
        shutil.copytree(run_folder / "policy", folder / "policy")

    save_checkpoint(run / "checkpoints", 3, write, {"step": 3})
    assert find_policy_of(run) == run / "checkpoints" / "step-00000003" / "policy"


def test_weights_are_cast_where_asked(run_folder, tmp_path, command):
    assert command("export", run_folder, tmp_path / "out", "--dtype", "bfloat16")[0] == 0
    assert DiffusionPolicy.from_pretrained(tmp_path / "out").lm_head.weight.dtype == torch.bfloat16


def test_existing_files_are_never_replaced(run_folder, tmp_path, command):
    (tmp_path / "out").mkdir()
    code, _, error = command("export", run_folder, tmp_path / "out")
    assert code == 2 and "exists: name a new folder" in error


def test_the_adapter_of_a_checkpoint_is_exported_as_a_peft_folder(tmp_path, command):
    def write(folder):
        policy = toy_policy()
        policy.add_adapter(AdapterConfig(rank=2), seed=0)
        policy.save_adapter(folder / "adapter")

    save_checkpoint(tmp_path / "run" / "checkpoints", 1, write, {})
    assert command("export", tmp_path / "run", tmp_path / "out", "--adapter")[0] == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= names
    (tmp_path / "plain").mkdir()
    code, _, error = command("export", tmp_path / "plain", tmp_path / "other", "--adapter")
    assert code == 2 and "no checkpoint with an adapter" in error
