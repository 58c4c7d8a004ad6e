"""The policy's laws: bidirectional, one shift, pads that change nothing, no NaN; and its shape at 7B."""

from __future__ import annotations

import pytest
import torch

from couplet.configs.schema import ShapeConfig
from couplet.model.policy import DiffusionPolicy
from couplet.model.tokens import TokenIds
from couplet.model.transformer import shift_source

IDS = TokenIds(mask=5, pad=0, bos=0, eos=0, filler=7, end=(6,))
SHAPE = ShapeConfig(hidden=32, layers=2, heads=4, kv_heads=2, ffn=48, embedding_std=0.5)
VOCAB = 40


def build(**options: object) -> DiffusionPolicy:
    return DiffusionPolicy.from_shape(SHAPE, VOCAB, IDS, 0, **options).eval()


@pytest.fixture(scope="module")
def policy() -> DiffusionPolicy:
    return build()


@pytest.fixture(scope="module")
def tokens_BL() -> torch.Tensor:
    return torch.randint(8, VOCAB, (3, 11), generator=torch.Generator().manual_seed(1))


def padded(tokens_BL: torch.Tensor, pads: int) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.nn.functional.pad(tokens_BL, (pads, 0), value=IDS.pad)
    attention = torch.nn.functional.pad(torch.ones_like(tokens_BL), (pads, 0), value=0)
    return tokens, attention


@torch.no_grad()
def test_attention_is_bidirectional(policy: DiffusionPolicy, tokens_BL: torch.Tensor) -> None:
    changed = tokens_BL.clone()
    changed[:, -1] = (changed[:, -1] - 7) % 32 + 8
    difference = (policy.logits(tokens_BL) - policy.logits(changed)).abs().amax(-1)
    assert (difference > 1e-4).all()


@torch.no_grad()
def test_row_i_predicts_token_i_from_the_state_before_it(policy: DiffusionPolicy, tokens_BL: torch.Tensor) -> None:
    raw = policy.model(tokens_BL)
    shifted = policy.hidden(tokens_BL)
    assert torch.equal(shifted[:, 1:], raw[:, :-1])
    assert torch.equal(shifted[:, 0], raw[:, 0])


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_states_at_some_rows_are_those_of_all_rows(tokens_BL: torch.Tensor, attention: str) -> None:
    policy = build(attention=attention)
    tokens, mask = padded(tokens_BL, 2)
    rows = torch.tensor([[0, 1, 7], [14, 18, 25], [26, 27, 38]])  # row b holds positions of sequence b
    for options in ((), (mask,)):
        expected = policy.hidden(tokens, *options).flatten(0, 1)[rows]
        torch.testing.assert_close(policy.hidden_at(rows, tokens, *options), expected, atol=1e-5, rtol=1e-4)
        flat = policy.hidden_at(rows.flatten(), tokens, *options)
        torch.testing.assert_close(flat, expected.flatten(0, 1), atol=1e-5, rtol=1e-4)


def test_the_shift_starts_again_at_the_first_real_position_of_a_row() -> None:
    attention = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    assert shift_source(torch.arange(8), attention, 4).tolist() == [0, 0, 2, 2, 4, 4, 5, 6]
    assert shift_source(torch.arange(8), None, 4).tolist() == [0, 0, 1, 2, 4, 4, 5, 6]


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padding_changes_nothing(tokens_BL: torch.Tensor, attention: str) -> None:
    policy = build(attention=attention)
    alone = policy.logits(tokens_BL)
    for pads in (1, 6):
        tokens, mask = padded(tokens_BL, pads)
        torch.testing.assert_close(policy.logits(tokens, mask)[:, pads:], alone, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.slow  # compiles for half a minute
def test_flex_attention_agrees(policy: DiffusionPolicy, tokens_BL: torch.Tensor) -> None:
    flex = build(attention="flex_attention")
    tokens, mask = padded(tokens_BL, 3)
    for options in ((), (mask,)):
        seen = slice(3, None) if options else slice(None)
        torch.testing.assert_close(
            flex.logits(tokens, *options)[:, seen], policy.logits(tokens, *options)[:, seen], atol=1e-5, rtol=1e-4
        )


@torch.no_grad()
def test_a_batch_gives_the_logits_of_each_row_alone(policy: DiffusionPolicy, tokens_BL: torch.Tensor) -> None:
    tokens, mask = padded(tokens_BL, 3)
    mask[1, :5] = 0  # rows of unequal length
    tokens[1, 3:5] = IDS.pad
    together = policy.logits(tokens, mask)
    for row in range(3):
        start = int(mask[row].argmax())
        alone = policy.logits(tokens[row : row + 1, start:])
        torch.testing.assert_close(together[row : row + 1, start:], alone, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_what_a_pad_holds_is_seen_by_nobody(policy: DiffusionPolicy, tokens_BL: torch.Tensor) -> None:
    tokens, mask = padded(tokens_BL, 2)
    other = tokens.clone()
    other[:, :2] = 33
    assert torch.equal(policy.logits(tokens, mask)[:, 2:], policy.logits(other, mask)[:, 2:])


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_fully_masked_rows_give_no_nan(tokens_BL: torch.Tensor, attention: str) -> None:
    policy = build(attention=attention)
    mask = torch.ones_like(tokens_BL)
    mask[0] = 0
    visible = torch.ones(3, 11, 11, dtype=torch.bool)
    visible[1, 4] = False
    for options in ((mask, None), (None, visible), (mask, visible)):
        assert torch.isfinite(policy.head(policy.hidden(tokens_BL, *options))).all()


@torch.no_grad()
def test_visibility_splits_a_row_into_documents(policy: DiffusionPolicy, tokens_BL: torch.Tensor) -> None:
    document = torch.tensor([0] * 5 + [1] * 6)
    visible = (document[:, None] == document[None]).expand(3, -1, -1)
    changed = tokens_BL.clone()
    changed[:, 7] = 20
    difference = (policy.hidden(tokens_BL, None, visible) - policy.hidden(changed, None, visible)).abs().amax(-1)
    assert (difference[:, :6] == 0).all()  # token 5 is predicted from the state at 4, in the first document
    assert (difference[:, 6:] > 0).all()


@torch.no_grad()
def test_causal_visibility_predicts_from_the_left_alone(policy: DiffusionPolicy, tokens_BL: torch.Tensor) -> None:
    causal = torch.ones(11, 11, dtype=torch.bool).tril().expand(3, -1, -1)
    changed = tokens_BL.clone()
    changed[:, 6:] = 20
    hidden, other = policy.hidden(tokens_BL, None, causal), policy.hidden(changed, None, causal)
    torch.testing.assert_close(hidden[:, :7], other[:, :7])
    assert not torch.allclose(hidden[:, 8:], other[:, 8:])


def test_forward_gives_the_log_softmax_at_the_selected_rows(policy: DiffusionPolicy, tokens_BL: torch.Tensor) -> None:
    select = torch.rand(3, 11, generator=torch.Generator().manual_seed(2)) > 0.5
    tokens, mask = padded(tokens_BL, 2)
    padded_select = torch.nn.functional.pad(select, (2, 0))
    expected = torch.log_softmax(policy.logits(tokens_BL) / 1.5, -1).gather(2, tokens_BL[..., None])[..., 0][select]
    mine = policy(tokens, mask, select_BL=padded_select, targets_BL=tokens, temperature=1.5, chunk_rows=4)
    torch.testing.assert_close(mine, expected, atol=1e-5, rtol=1e-4)
    assert mine.dtype == torch.float32


def test_gradient_checkpointing_gives_the_same_gradients(tokens_BL: torch.Tensor) -> None:
    gradients = []
    for enabled in (False, True):
        policy = build().train()
        policy.checkpoint_gradients(enabled)
        select = torch.ones_like(tokens_BL, dtype=torch.bool)
        policy(tokens_BL, select_BL=select, targets_BL=tokens_BL).sum().backward()
        gradients.append([parameter.grad for parameter in policy.parameters()])
    for plain, checkpointed in zip(*gradients):
        torch.testing.assert_close(plain, checkpointed)


def test_the_rotary_angles_stay_exact_when_the_model_is_cast(policy: DiffusionPolicy) -> None:
    cast = build().to(torch.bfloat16)
    assert cast.lm_head.weight.dtype == torch.bfloat16
    assert torch.equal(cast.model.rotary_emb.inv_freq, policy.model.rotary_emb.inv_freq)


def test_the_pad_row_learns_too(tokens_BL: torch.Tensor) -> None:
    policy = DiffusionPolicy.from_shape(
        ShapeConfig(hidden=16, heads=2, kv_heads=2, tie_embeddings=False), VOCAB, IDS, 0
    )
    tokens = tokens_BL.clone()
    tokens[:, 3] = IDS.pad
    policy(tokens, select_BL=torch.ones_like(tokens, dtype=torch.bool), targets_BL=tokens).sum().backward()
    assert policy.model.embed_tokens.weight.grad[IDS.pad].abs().sum() > 0


def test_random_weights_have_the_asked_deviation_and_depend_on_the_seed_alone() -> None:
    state = torch.get_rng_state()
    shape = ShapeConfig(hidden=128, embedding_std=0.05)
    first, again = (DiffusionPolicy.from_shape(shape, 300, IDS, 3) for _ in range(2))
    other = DiffusionPolicy.from_shape(shape, 300, IDS, 4)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters()))
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)
    weights = dict(first.named_parameters())
    assert abs(weights["model.embed_tokens.weight"].std().item() - 0.05) < 0.001
    assert abs(weights["model.layers.0.mlp.down_proj.weight"].std().item() - 320**-0.5) < 0.001
    assert weights["model.layers.0.self_attn.q_proj.bias"].abs().sum() == 0
    assert (weights["model.norm.weight"] == 1).all()


def test_the_7b_shape_has_qwen2s_names_and_numbers() -> None:
    shape = ShapeConfig(hidden=3584, layers=28, heads=28, kv_heads=4, ffn=18944, tie_embeddings=False)
    ids = TokenIds(mask=151666, pad=151643, bos=151643, eos=151643, filler=151667, end=(151645,))
    policy = DiffusionPolicy.from_shape(shape, 152064, ids, 0, dtype="bfloat16", device="meta")
    assert len(policy.weight_names) == 339
    assert sum(parameter.numel() for parameter in policy.parameters()) == 7_615_616_512
    assert policy.weight_names[:3] == (
        "model.embed_tokens.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.0.self_attn.q_proj.bias",
    )
    assert policy.weight_names[-2:] == ("model.norm.weight", "lm_head.weight")


def test_attention_backends_are_chosen_by_name() -> None:
    with pytest.raises(ValueError, match="attention = 'fast': choose one of sdpa, eager, flex_attention, flash"):
        build(attention="fast")
    with pytest.raises(
        ValueError, match="'flash_attention_2' needs the package flash_attn, built for this machine: install it"
    ):
        build(attention="flash_attention_2")


def test_wrong_shapes_are_named(policy: DiffusionPolicy) -> None:
    tokens = torch.zeros(2, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"tokens \(3,\): need \[B, L\]"):
        policy.logits(tokens[0, :])
    with pytest.raises(ValueError, match="attention"):
        policy.logits(tokens, torch.ones(2, 4))
    with pytest.raises(ValueError, match="visible"):
        policy.hidden(tokens, None, torch.ones(2, 3, 4, dtype=torch.bool))
