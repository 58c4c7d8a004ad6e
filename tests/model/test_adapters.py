"""LoRA: a new adapter changes nothing, merging changes nothing, and only the adapter is published."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import Qwen2Config, Qwen2ForCausalLM

from couplet.configs.schema import AdapterConfig, ShapeConfig
from couplet.model.adapters import is_adapter, trained_parameters
from couplet.model.policy import DiffusionPolicy
from couplet.model.tokens import TokenIds
from couplet.model.weights import WeightsError, pack, unpack_into
from tests.model.originals import write_original

IDS = TokenIds(mask=5, pad=0, bos=1, eos=2, filler=7, end=(6, 3))
TOKENS = torch.arange(8, 30).reshape(2, 11)
ADAPTER = AdapterConfig(rank=3, alpha=6.0)


def build(adapter: AdapterConfig | None = ADAPTER, dtype: str = "float32", seed: int = 1) -> DiffusionPolicy:
    shape = ShapeConfig(hidden=32, layers=2, heads=4, kv_heads=2, ffn=48)
    policy = DiffusionPolicy.from_shape(shape, 40, IDS, 0, dtype=dtype).eval()
    if adapter is not None:
        policy.add_adapter(adapter, seed)
    return policy


@torch.no_grad()
def moved(policy: DiffusionPolicy, size: float = 0.2) -> DiffusionPolicy:
    generator = torch.Generator().manual_seed(3)
    for parameter in trained_parameters(policy).values():
        parameter += size * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    return policy


@torch.no_grad()
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_new_adapter_changes_no_logit(dtype: str) -> None:
    assert torch.equal(build(None, dtype).logits(TOKENS), build(dtype=dtype).logits(TOKENS))


@torch.no_grad()
@pytest.mark.parametrize("dtype,tolerance", [("float32", 2e-6), ("bfloat16", 0.06)])
def test_merged_equals_unmerged(tmp_path: Path, dtype: str, tolerance: float) -> None:
    policy = moved(build(dtype=dtype))
    policy.save_pretrained(tmp_path / "m")
    merged = DiffusionPolicy.from_pretrained(tmp_path / "m").eval()
    plain = build(None, dtype)
    assert not torch.allclose(policy.logits(TOKENS), plain.logits(TOKENS), atol=0.2)
    torch.testing.assert_close(merged.logits(TOKENS), policy.logits(TOKENS), atol=tolerance, rtol=tolerance)
    assert [name for name, _ in merged.named_parameters()] == [name for name, _ in plain.named_parameters()]


def test_only_the_adapter_is_trained() -> None:
    policy = build()
    trained = trained_parameters(policy)
    assert all(is_adapter(name) == parameter.requires_grad for name, parameter in policy.named_parameters())
    assert len(trained) == 2 * 2 * 7
    assert trained_parameters(build(None)).keys() == dict(build(None).named_parameters()).keys()


def test_every_process_starts_from_the_same_adapter() -> None:
    state = torch.get_rng_state()
    one, same, other = (trained_parameters(build(seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state()), "the global generator is left alone"
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


@torch.no_grad()
def test_the_published_adapter_reaches_another_policy() -> None:
    learner, worker = moved(build()), build()
    manifest, buckets = pack(trained_parameters(learner).items(), version=4)
    unpack_into(worker, manifest, buckets)
    assert torch.equal(learner.logits(TOKENS), worker.logits(TOKENS))
    assert manifest.nbytes == sum(p.nbytes for p in trained_parameters(learner).values())
    with pytest.raises(WeightsError, match="lora_A"):
        unpack_into(build(None), manifest, buckets)


def test_a_7b_adapter_is_at_most_one_percent_of_its_policy() -> None:
    """DiffuCoder-7B on the meta device; rank 16 on every layer: 40.4M of 7.6G weights."""
    shape = ShapeConfig(
        hidden=3584, layers=28, heads=28, kv_heads=4, ffn=18944, tie_embeddings=False, max_positions=32768
    )
    policy = DiffusionPolicy.from_shape(shape, 152064, IDS, 0, dtype="bfloat16", device="meta")
    full = sum(p.nbytes for p in policy.parameters())
    policy.add_adapter(AdapterConfig(rank=16), seed=0)
    published = sum(p.nbytes for p in trained_parameters(policy).values())
    per_layer = 2 * (3584 + 3584) + 2 * (3584 + 512) + 3 * (3584 + 18944)
    assert published == 2 * 16 * 28 * per_layer
    assert published / full < 0.01


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
def test_peft_loads_the_adapter_folder_onto_the_original_class(tmp_path: Path) -> None:
    policy = moved(build())
    policy.save_adapter(tmp_path / "adapter")
    fields = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (fields["r"], fields["lora_alpha"], fields["peft_type"]) == (3, 6.0, "LORA")
    config = Qwen2Config(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=True,
    )
    base = Qwen2ForCausalLM(config).eval()
    base.config.is_causal = False
    base.load_state_dict(dict(build(None).named_parameters()), strict=False)
    model = PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    logits = model(input_ids=TOKENS, attention_mask=torch.ones_like(TOKENS)).logits
    torch.testing.assert_close(policy.logits(TOKENS)[:, 1:], logits[:, :-1], atol=2e-6, rtol=1e-5)


def test_an_adapter_folder_of_llada_has_its_names(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    write_original(tmp_path / "m", "llada")
    policy = DiffusionPolicy.from_pretrained(tmp_path / "m")
    policy.add_adapter(AdapterConfig(rank=2, targets=("q_proj", "o_proj")), seed=0)
    policy.save_adapter(tmp_path / "adapter")
    fields = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert set(fields["target_modules"]) == {"q_proj", "attn_out"}
    assert fields["base_model_name_or_path"] == str(tmp_path / "m")
    names = set(load_file(tmp_path / "adapter" / "adapter_model.safetensors"))
    assert "base_model.model.model.transformer.blocks.1.attn_out.lora_B.weight" in names


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(ValueError, match=r"learner\.adapter\.targets = 'c_attn': choose from down_proj, gate_proj"):
        build(AdapterConfig(rank=2, targets=("c_attn",)))


@torch.no_grad()
def test_a_twin_shares_the_frozen_weights_and_has_an_adapter_of_its_own() -> None:
    policy = moved(build())
    twin = policy.twin()
    before = policy.logits(TOKENS)
    assert torch.equal(twin.logits(TOKENS), before)
    mine, theirs = dict(policy.named_parameters()), dict(twin.named_parameters())
    assert all((mine[name].data_ptr() == theirs[name].data_ptr()) != is_adapter(name) for name in mine)
    moved(twin, 0.5)
    assert torch.equal(policy.logits(TOKENS), before) and not torch.allclose(twin.logits(TOKENS), before, atol=1e-2)
