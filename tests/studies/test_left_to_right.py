"""Left-to-right decoding: causal, independent of the batch, and drawn from the model's own next-token distribution."""

from __future__ import annotations

import pytest
import torch

from couplet.configs.schema import ShapeConfig
from couplet.learner.supervised import causal
from couplet.model.policy import DiffusionPolicy
from couplet.model.tokens import TokenIds
from couplet.studies.left_to_right import sample_left_to_right

IDS = TokenIds(mask=1, pad=0, bos=0, eos=0, filler=0, end=(2,))
SHAPE = ShapeConfig(hidden=16, layers=2, heads=2, kv_heads=2, ffn=32, max_positions=64, embedding_std=0.5)


def tiny_policy() -> DiffusionPolicy:
    return DiffusionPolicy.from_shape(SHAPE, vocab_size=12, token_ids=IDS, seed=3).eval()


@torch.inference_mode()
def next_logits(policy: DiffusionPolicy, tokens: list[int]) -> torch.Tensor:
    """Of the token after `tokens`, by one causal pass over them and a placeholder."""
    tokens_1L = torch.tensor([[*tokens, 5]])
    hidden_1LH = policy.hidden(tokens_1L, None, causal(len(tokens) + 1)[None])
    logits_V = policy.head(hidden_1LH[0, -1]).float()
    logits_V[IDS.mask] = -torch.inf
    return logits_V


def test_greedy_decoding_takes_the_most_probable_next_token_each_time() -> None:
    policy, tokens = tiny_policy(), [4, 7, 3]
    (drawn_C,) = sample_left_to_right(policy, [tokens], 6, 0.0, [0])
    for token in drawn_C.tolist():
        assert token == int(next_logits(policy, tokens).argmax())
        tokens = [*tokens, token]


def test_a_row_depends_on_its_prompt_and_seed_only() -> None:
    policy = tiny_policy()
    prompts, seeds = [[4, 7, 3], [5, 6], [4, 7, 3], [8, 9, 10]], [11, 12, 13, 14]
    together = sample_left_to_right(policy, prompts, 8, 1.0, seeds)
    for prompt, seed, drawn_C in zip(prompts, seeds, together):
        assert drawn_C.tolist() == sample_left_to_right(policy, [prompt], 8, 1.0, [seed], rows=1)[0].tolist()
    assert together[0].tolist() != together[2].tolist()


def test_draws_follow_the_softmax_at_the_temperature_and_never_the_mask() -> None:
    policy, count = tiny_policy(), 4000
    drawn = sample_left_to_right(policy, [[4, 7, 3]] * count, 1, 0.7, range(count), rows=1000)
    share_V = torch.bincount(torch.tensor([int(d[0]) for d in drawn]), minlength=12) / count
    expected_V = torch.softmax(next_logits(policy, [4, 7, 3]) / 0.7, dim=0)
    assert share_V[IDS.mask] == 0
    assert (share_V - expected_V).abs().max() < 4 * (0.25 / count) ** 0.5


def test_bad_arguments_are_named() -> None:
    policy = tiny_policy()
    with pytest.raises(ValueError, match="one seed per prompt"):
        sample_left_to_right(policy, [[3]], 4, 1.0, [])
    with pytest.raises(ValueError, match="no prompt empty"):
        sample_left_to_right(policy, [[]], 4, 1.0, [0])
    with pytest.raises(ValueError, match="temperature = -1"):
        sample_left_to_right(policy, [[3]], 4, -1.0, [0])
