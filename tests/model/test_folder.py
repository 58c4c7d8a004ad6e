"""Model folders: a round trip is exact, plain Qwen2 is a start, and each thing wrong is one clear error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, Qwen2Config, Qwen2ForCausalLM

from couplet.configs.schema import ShapeConfig
from couplet.model.policy import DiffusionPolicy
from couplet.model.tokens import TokenIds

IDS = TokenIds(mask=5, pad=0, bos=1, eos=2, filler=7, end=(6, 3))
SHAPE = ShapeConfig(hidden=32, layers=2, heads=4, kv_heads=2, ffn=48)
VOCAB = 40
TOKENS = torch.arange(8, 30).reshape(2, 11)


def build(tied: bool = True, dtype: str = "float32") -> DiffusionPolicy:
    shape = ShapeConfig(hidden=32, layers=2, heads=4, kv_heads=2, ffn=48, tie_embeddings=tied)
    return DiffusionPolicy.from_shape(shape, VOCAB, IDS, 0, dtype=dtype)


def edit(path: Path, **changes: object) -> None:
    tree = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in tree.items() if value is not None}))


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("max_shard_bytes", [10**9, 10**4])
def test_a_round_trip_changes_nothing(tmp_path: Path, tied: bool, dtype: str, max_shard_bytes: int) -> None:
    policy = build(tied, dtype)
    policy.save_pretrained(tmp_path / "m", max_shard_bytes=max_shard_bytes)
    shards = sorted(path.name for path in (tmp_path / "m").glob("*.safetensors"))
    assert (len(shards) == 1) == (max_shard_bytes == 10**9)
    loaded = DiffusionPolicy.from_pretrained(tmp_path / "m")
    assert loaded.token_ids == IDS
    assert loaded.lm_head.weight.dtype == getattr(torch, dtype)
    assert torch.equal(policy.logits(TOKENS), loaded.logits(TOKENS))
    loaded.save_pretrained(tmp_path / "again", max_shard_bytes=max_shard_bytes)
    for path in sorted((tmp_path / "m").iterdir()):
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


def test_the_configuration_has_the_published_layout(tmp_path: Path) -> None:
    build().save_pretrained(tmp_path / "m")
    fields = json.loads((tmp_path / "m" / "config.json").read_text())
    assert fields["model_type"] == "Dream"
    assert fields["architectures"] == ["DreamModel"]
    assert (fields["mask_token_id"], fields["pad_token_id"], fields["rope_theta"]) == (5, 0, 1e6)
    assert "auto_map" not in fields
    assert AutoConfig.from_pretrained(tmp_path / "m").hidden_size == 32


def test_saving_replaces_a_folder_as_a_whole(tmp_path: Path) -> None:
    build().save_pretrained(tmp_path / "m", max_shard_bytes=10**4)
    build(tied=False).save_pretrained(tmp_path / "m")
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["config.json", "model.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_failed_save_leaves_the_old_folder(tmp_path: Path) -> None:
    policy = build()
    policy.save_pretrained(tmp_path / "m")
    old = (tmp_path / "m" / "model.safetensors").read_bytes()
    with pytest.raises(KeyError):
        policy.save_pretrained(tmp_path / "m", state={})
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == old
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_gathered_weights_are_saved_instead_of_the_modules_own(tmp_path: Path) -> None:
    policy, other = build(), DiffusionPolicy.from_shape(SHAPE, VOCAB, IDS, 9)
    policy.save_pretrained(tmp_path / "m", state=dict(other.state_dict()))
    assert torch.equal(DiffusionPolicy.from_pretrained(tmp_path / "m").lm_head.weight, other.lm_head.weight)


def tokenizer_files(folder: Path, added: dict[str, int]) -> None:
    entries = [{"id": index, "content": name, "special": True} for name, index in added.items()]
    vocabulary = {chr(97 + i): i for i in range(20)}
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}, "added_tokens": entries}))
    decoder = {str(index): {"content": name, "special": True} for name, index in added.items()}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))


def test_names_in_the_tokenizer_stand_in_for_missing_ids(tmp_path: Path) -> None:
    build().save_pretrained(tmp_path / "m")
    edit(tmp_path / "m" / "config.json", mask_token_id=None, filler_token_id=None, end_token_ids=None)
    tokenizer_files(tmp_path / "m", {"<|mask|>": 30, "<|dlm_pad|>": 31, "<|im_end|>": 32, "<|stop|>": 33})
    ids = DiffusionPolicy.from_pretrained(tmp_path / "m").token_ids
    assert ids == TokenIds(mask=30, pad=0, bos=1, eos=2, filler=31, end=(32,))
    named = DiffusionPolicy.from_pretrained(tmp_path / "m", end_tokens=("<|stop|>", "<|im_end|>"))
    assert named.token_ids.end == (33, 32)
    with pytest.raises(ValueError, match=r"end token '<\|halt\|>' is not in the tokenizer"):
        DiffusionPolicy.from_pretrained(tmp_path / "m", end_tokens=("<|halt|>",))


def test_a_bare_configuration_falls_back_to_pad_and_eos(tmp_path: Path) -> None:
    build().save_pretrained(tmp_path / "m")
    edit(tmp_path / "m" / "config.json", filler_token_id=None, end_token_ids=None, bos_token_id=None)
    ids = DiffusionPolicy.from_pretrained(tmp_path / "m").token_ids
    assert ids == TokenIds(mask=5, pad=0, bos=2, eos=2, filler=0, end=(2,))


def test_tokenizer_files_travel_with_the_weights(tmp_path: Path) -> None:
    build().save_pretrained(tmp_path / "m")
    tokenizer_files(tmp_path / "m", {"<|mask|>": 5, "<|im_end|>": 6})
    (tmp_path / "m" / "modeling_dream.py").write_text("raise SystemExit")
    DiffusionPolicy.from_pretrained(tmp_path / "m").save_pretrained(tmp_path / "copy")
    names = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in (tmp_path / "copy").iterdir()} == names


def qwen2_folder(folder: Path, tied: bool) -> Qwen2ForCausalLM:
    generator_state = torch.get_rng_state()
    config = Qwen2Config(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=tied,
        eos_token_id=2,
        pad_token_id=2,
    )
    model = Qwen2ForCausalLM(config).eval()
    torch.set_rng_state(generator_state)
    model.save_pretrained(folder)
    return model


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False])
def test_a_qwen2_folder_is_a_start_for_adaptation(tmp_path: Path, tied: bool) -> None:
    model = qwen2_folder(tmp_path / "q", tied)
    with pytest.raises(ValueError, match=r"has no mask token.*adapt"):
        DiffusionPolicy.from_pretrained(tmp_path / "q")
    policy = DiffusionPolicy.from_pretrained(tmp_path / "q", add_tokens=True)
    assert (policy.token_ids.mask, policy.token_ids.filler, policy.config.vocab_size) == (40, 41, 42)
    causal = torch.ones(11, 11, dtype=torch.bool).tril().expand(2, -1, -1)
    mine = policy.head(policy.hidden(TOKENS, None, causal))[:, 1:, :VOCAB]
    torch.testing.assert_close(mine, model(TOKENS).logits[:, :-1], atol=2e-6, rtol=1e-5)
    embeddings = policy.model.embed_tokens.weight
    torch.testing.assert_close(embeddings[40], embeddings[:40].mean(0))
    assert torch.equal(embeddings[41], embeddings[2])
    policy.save_pretrained(tmp_path / "d")
    again = DiffusionPolicy.from_pretrained(tmp_path / "d")
    assert again.token_ids == policy.token_ids
    assert torch.equal(again.logits(TOKENS), policy.logits(TOKENS))


@torch.no_grad()
def test_new_tokens_take_unused_rows_and_enter_the_tokenizer(tmp_path: Path) -> None:
    qwen2_folder(tmp_path / "q", tied=False)
    tokenizer_files(tmp_path / "q", {"<|endoftext|>": 20, "<|im_end|>": 21})
    policy = DiffusionPolicy.from_pretrained(tmp_path / "q", add_tokens=True)
    assert (policy.token_ids.mask, policy.token_ids.filler, policy.config.vocab_size) == (22, 23, VOCAB)
    policy.save_pretrained(tmp_path / "d")
    tokenizer = json.loads((tmp_path / "d" / "tokenizer.json").read_text())
    assert {entry["content"]: entry["id"] for entry in tokenizer["added_tokens"]} == {
        "<|endoftext|>": 20,
        "<|im_end|>": 21,
        "<|mask|>": 22,
        "<|dlm_pad|>": 23,
    }
    assert DiffusionPolicy.from_pretrained(tmp_path / "d").token_ids == policy.token_ids


def broken(tmp_path: Path) -> Path:
    build(tied=False).save_pretrained(tmp_path / "m", max_shard_bytes=10**4)
    return tmp_path / "m"


def refused(folder: Path, match: str, **options: object) -> None:
    with pytest.raises(ValueError, match=match):
        DiffusionPolicy.from_pretrained(folder, **options)


def test_a_missing_folder_or_configuration(tmp_path: Path) -> None:
    refused(tmp_path / "none", "model folder .* does not exist")
    refused(tmp_path, "has no config.json")


def test_a_missing_or_broken_shard(tmp_path: Path) -> None:
    folder = broken(tmp_path)
    shard = sorted(folder.glob("*.safetensors"))[1]
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    refused(folder, "is not a readable safetensors file")
    shard.unlink()
    refused(folder, f"lacks the shard {shard.name}")
    (folder / "model.safetensors.index.json").unlink()
    refused(folder, "only safetensors are loaded")


def test_missing_surplus_and_misshapen_tensors(tmp_path: Path) -> None:
    build(tied=False).save_pretrained(tmp_path / "m")
    path = tmp_path / "m" / "model.safetensors"
    tensors = load_file(path)
    norm = tensors.pop("model.norm.weight")
    save_file(tensors, path)
    refused(tmp_path / "m", "lacks 1 tensors .*first model.norm.weight")
    save_file(tensors | {"model.norm.weight": norm, "model.extra": norm.clone()}, path)
    refused(tmp_path / "m", "does not expect, first model.extra")
    save_file(tensors | {"model.norm.weight": norm[:8].clone()}, path)
    refused(tmp_path / "m", r"model.norm.weight has shape \(8,\), config.json asks for \(32,\)")


def test_a_configuration_that_cannot_be_one(tmp_path: Path) -> None:
    folder = broken(tmp_path)
    path = folder / "config.json"
    edit(path, model_type="gpt2")
    refused(folder, "model_type = 'gpt2': choose one of Dream, qwen2, llama, llada")
    edit(path, model_type="Dream", mask_token_id=99)
    refused(folder, "mask token id 99 is outside vocab_size = 40")
    edit(path, mask_token_id=5, hidden_size=None)
    refused(folder, "lacks hidden_size")
    path.write_text("{")
    refused(folder, "not valid JSON")
    refused(broken(tmp_path), "dtype = 'float8': choose one of auto", dtype="float8")
