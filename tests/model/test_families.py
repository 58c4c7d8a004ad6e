"""A folder in each family's original layout loads with the original's logits and is written back as it was."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from couplet.model.errors import ModelFolderError
from couplet.model.families import MODEL_FAMILIES
from couplet.model.folder import folder_token_ids, read_config
from couplet.model.policy import DiffusionPolicy
from tests.model.originals import CONFIGS, TOKENS, golden, write_original

IDS = torch.tensor(TOKENS)
SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "mask_token_id": 60,
    "pad_token_id": 61,
    "bos_token_id": 61,
    "eos_token_id": 61,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
ROPES = {
    "plain": {"rope_theta": 5e5},
    "default": {},
    "linear": {"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2.0}},
    "llama3": {"rope_theta": 5e5, "rope_scaling": LLAMA3},
    "parameters": {"rope_parameters": LLAMA3 | {"rope_theta": 5e5}},
}


def original_logits(family: str) -> torch.Tensor:
    return torch.tensor(golden(family)["logits"])


def shifted(logits_BLV: torch.Tensor) -> torch.Tensor:
    """Row i - 1 for token i, row 0 for token 0."""
    return torch.cat([logits_BLV[:, :1], logits_BLV[:, :-1]], dim=1)


def assert_written_back(policy: DiffusionPolicy, folder: Path, out: Path) -> None:
    """Same names, shapes and bytes; every field of config.json that the original reads has its value."""
    policy.save_pretrained(out)
    before, after = load_file(folder / "model.safetensors"), load_file(out / "model.safetensors")
    before.pop("lm_head.weight" if policy.config.tie_word_embeddings else "", None)
    assert set(before) == set(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    old, new = (json.loads((path / "config.json").read_text()) for path in (folder, out))
    differing = {key for key in old if key in new and old[key] != new[key]}
    assert differing <= {"use_cache", "rope_scaling"}, differing


@torch.no_grad()
@pytest.mark.parametrize("family", ["llada", "Dream"])
def test_logits_are_those_of_the_published_class(tmp_path: Path, family: str) -> None:
    """Golden logits of the public modeling files in float32; LLaDA reads row i for token i, Dream row i - 1."""
    write_original(tmp_path / "m", family)
    policy = DiffusionPolicy.from_pretrained(tmp_path / "m")
    expected = original_logits(family)
    expected = shifted(expected) if family == "Dream" else expected
    torch.testing.assert_close(policy.logits(IDS), expected, atol=1e-5, rtol=1e-5)
    assert policy.token_ids.mask == 60 and policy.config.shift == (family == "Dream")


@pytest.mark.parametrize("family", ["llada", "Dream"])
def test_a_published_layout_is_written_back(tmp_path: Path, family: str) -> None:
    write_original(tmp_path / "m", family)
    policy = DiffusionPolicy.from_pretrained(tmp_path / "m")
    assert_written_back(policy, tmp_path / "m", tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert set(CONFIGS[family]) <= set(written)
    policy.save_pretrained(tmp_path / "sharded", max_shard_bytes=10**4)
    again = DiffusionPolicy.from_pretrained(tmp_path / "sharded")
    assert torch.equal(again.logits(IDS), policy.logits(IDS)) and again.token_ids == policy.token_ids


def transformers_folder(folder: Path, name: str, tied: bool, **fields: object) -> torch.nn.Module:
    """A random model of transformers' own class with bidirectional attention, its config as hub folders have it."""
    config_class, model_class = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}[
        name
    ]
    state = torch.get_rng_state()
    torch.manual_seed(5)
    fields = SHAPE | {"model_type": name, "tie_word_embeddings": tied} | fields
    model = model_class(config_class(**json.loads(json.dumps(fields)))).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    torch.set_rng_state(state)
    model.config.is_causal = False
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(fields))
    weights = {key: value.contiguous() for key, value in model.state_dict().items() if not (tied and "lm_head" in key)}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return model


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", ["llama", "qwen2"])
@pytest.mark.parametrize("rope", ROPES)
def test_logits_are_those_of_transformers(tmp_path: Path, name: str, rope: str, tied: bool) -> None:
    model = transformers_folder(tmp_path / "m", name, tied, **ROPES[rope])
    policy = DiffusionPolicy.from_pretrained(tmp_path / "m")
    expected = shifted(model(IDS, attention_mask=torch.ones_like(IDS)).logits)
    torch.testing.assert_close(policy.logits(IDS), expected, atol=2e-6, rtol=1e-5)
    assert_written_back(policy, tmp_path / "m", tmp_path / "out")
    again = DiffusionPolicy.from_pretrained(tmp_path / "out")
    assert again.config.family == name and torch.equal(again.logits(IDS), policy.logits(IDS))


@torch.no_grad()
def test_a_head_size_of_its_own(tmp_path: Path) -> None:
    """`head_dim` need not be hidden_size / heads."""
    model = transformers_folder(tmp_path / "m", "llama", False, head_dim=12)
    policy = DiffusionPolicy.from_pretrained(tmp_path / "m")
    assert policy.config.head_size == 12
    torch.testing.assert_close(policy.logits(IDS), shifted(model(IDS).logits), atol=2e-6, rtol=1e-5)
    assert_written_back(policy, tmp_path / "m", tmp_path / "out")


def tokenizer(folder: Path, special: dict[str, int], **settings: object) -> None:
    names = {chr(97 + index): index for index in range(20)}
    added = [{"id": index, "content": name, "special": True} for name, index in special.items()]
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": names}, "added_tokens": added}))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def test_the_mask_token_of_the_tokenizer_counts(tmp_path: Path) -> None:
    transformers_folder(tmp_path / "m", "qwen2", True, mask_token_id=None)
    tokenizer(tmp_path / "m", {"<|endoftext|>": 20, "<hole>": 21}, mask_token="<hole>")
    assert folder_token_ids(tmp_path / "m").mask == 21
    tokenizer(tmp_path / "m", {"<|endoftext|>": 20, "<hole>": 21}, mask_token={"content": "<hole>"})
    assert folder_token_ids(tmp_path / "m").mask == 21
    tokenizer(tmp_path / "m", {"<|endoftext|>": 20, "<M>": 22, "x": 21})
    assert folder_token_ids(tmp_path / "m").mask == 22


@torch.no_grad()
def test_a_mask_token_that_the_loader_adds(tmp_path: Path) -> None:
    """Open-dCoder: its loader adds the mask as the first id after the tokenizer's, in a trained padding row."""
    model = transformers_folder(tmp_path / "m", "qwen2", True, mask_token_id=None)
    tokenizer(tmp_path / "m", {"<|endoftext|>": 20, "<|im_end|>": 21})
    with pytest.raises(ModelFolderError, match=r"has no mask token.*model\.mask_token"):
        DiffusionPolicy.from_pretrained(tmp_path / "m")
    policy = DiffusionPolicy.from_pretrained(tmp_path / "m", mask_token="<M>")
    assert policy.token_ids.mask == 22 and policy.config.vocab_size == 64
    torch.testing.assert_close(policy.logits(IDS), shifted(model(IDS).logits), atol=2e-6, rtol=1e-5)
    policy.save_pretrained(tmp_path / "out")
    added = json.loads((tmp_path / "out" / "tokenizer.json").read_text())["added_tokens"]
    assert added[-1]["content"] == "<M>" and added[-1]["id"] == 22
    assert DiffusionPolicy.from_pretrained(tmp_path / "out").token_ids == policy.token_ids
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "qwen2"


@pytest.mark.parametrize("name,written", [("qwen2", "Dream"), ("llama", "llama")])
def test_an_adapted_folder_is_of_a_family_with_its_layout(tmp_path: Path, name: str, written: str) -> None:
    transformers_folder(tmp_path / "m", name, True, mask_token_id=None)
    policy = DiffusionPolicy.from_pretrained(tmp_path / "m", add_tokens=True)
    policy.save_pretrained(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == written
    assert DiffusionPolicy.from_pretrained(tmp_path / "out").token_ids == policy.token_ids


def test_end_tokens_are_those_of_the_family(tmp_path: Path) -> None:
    transformers_folder(tmp_path / "m", "llama", True)
    tokenizer(tmp_path / "m", {"<|end_of_text|>": 20, "<|eot_id|>": 21})
    assert folder_token_ids(tmp_path / "m").end == (21,)
    write_original(tmp_path / "l", "llada")
    tokenizer(tmp_path / "l", {"<|endoftext|>": 61, "<|eot_id|>": 62, "<|mdm_mask|>": 60})
    ids = folder_token_ids(tmp_path / "l")
    assert (ids.end, ids.filler, ids.mask) == ((62, 61), 61, 60)


def refused(folder: Path, match: str) -> None:
    with pytest.raises(ModelFolderError, match=match):
        DiffusionPolicy.from_pretrained(folder)


def test_a_tokenizer_that_does_not_fit_the_embedding(tmp_path: Path) -> None:
    transformers_folder(tmp_path / "m", "llama", True)
    tokenizer(tmp_path / "m", {"<|extra|>": 64})
    refused(tmp_path / "m", r"the tokenizer does not fit: token '<\|extra\|>' has id 64, the embedding has 64 rows")


def test_ids_without_a_token_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    transformers_folder(tmp_path / "m", "llama", True)
    tokenizer(tmp_path / "m", {"<|im_end|>": 30})
    with caplog.at_level(logging.WARNING):
        DiffusionPolicy.from_pretrained(tmp_path / "m")
    assert "10 of the ids below 31 have no token" in caplog.text


def test_a_vocabulary_size_that_is_not_the_embeddings(tmp_path: Path) -> None:
    tensors = write_original(tmp_path / "m", "llada")
    fields = CONFIGS["llada"]
    (tmp_path / "m" / "config.json").write_text(json.dumps(fields | {"embedding_size": 72}))
    refused(
        tmp_path / "m", r"model\.transformer\.(wte|ff_out)\.weight has shape \(64, 32\), config.json asks for \(72,"
    )
    (tmp_path / "m" / "config.json").write_text(json.dumps(fields))
    missing = tensors.pop("model.transformer.blocks.1.ff_proj.weight")
    save_file(tensors, tmp_path / "m" / "model.safetensors")
    refused(tmp_path / "m", r"lacks 1 tensors .* model\.transformer\.blocks\.1\.ff_proj\.weight")
    extra = {"model.transformer.blocks.1.ff_proj.weight": missing, "model.transformer.extra": missing.clone()}
    save_file(tensors | extra, tmp_path / "m" / "model.safetensors")
    refused(tmp_path / "m", r"does not expect, first model\.transformer\.extra")


@pytest.mark.parametrize(
    "family,field,value",
    [
        ("llada", "block_type", "sequential"),
        ("llada", "scale_logits", True),
        ("llada", "include_bias", True),
        ("llada", "block_group_size", 2),
        ("llama", "attention_bias", True),
        ("llama", "mlp_bias", True),
    ],
)
def test_a_variant_that_is_not_computed_is_refused(tmp_path: Path, family: str, field: str, value: object) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**SHAPE, **CONFIGS["llada"], "model_type": family, field: value}))
    with pytest.raises(ModelFolderError, match=f"{field} = {value!r} is not supported"):
        read_config(tmp_path)


@pytest.mark.parametrize("family", MODEL_FAMILIES)
def test_weight_names_map_both_ways(family: str) -> None:
    names = MODEL_FAMILIES[family]
    own = [f"model.layers.{n}.self_attn.q_proj.weight" for n in range(12)] + ["lm_head.weight", "model.norm.weight"]
    assert [names.own_name(names.stored_name(name)) for name in own] == own
    assert len({names.stored_name(name) for name in own}) == len(own)
