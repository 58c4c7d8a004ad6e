"""One learner micro-step of the 7B shape on a GPU, and the same code on the toy policy."""

import numpy as np
import pytest
import torch

from couplet.configs.schema import EstimatorConfig, ObjectiveConfig, ShapeConfig
from couplet.learner.loss import grpo_loss, token_weights
from couplet.model.likelihood import GroupTokens, batch_logprobs
from couplet.model.policy import DiffusionPolicy
from couplet.model.tokens import TokenIds
from tests.learner.toys import VOCABULARY, toy_policy


def micro_step(policy, vocabulary, completions, canvas, prompt, device):
    """Forward and backward of one group under coupled masks; returns the loss."""
    generator = np.random.default_rng(0)
    tokens = generator.integers(10, vocabulary, (1, completions, canvas))
    loss_mask = np.broadcast_to(np.arange(canvas) < canvas // 2, tokens.shape)
    batch = GroupTokens.of(
        [generator.integers(10, vocabulary, prompt)], tokens, loss_mask, policy.token_ids.pad, device
    )
    logp = batch_logprobs(policy, batch, [[list(range(completions))]], [[0]], EstimatorConfig())[0]
    advantages = torch.linspace(-1, 1, completions, device=device)[None]
    mask = batch.loss_mask_PGC.flatten(0, 1)
    weights = token_weights(mask, False, int(mask.sum()), completions).reshape(logp.shape)
    result = grpo_loss(logp, logp.detach(), advantages, weights, ObjectiveConfig())
    result.loss.backward()
    return result


def check(policy, result):
    assert torch.isfinite(result.loss) and bool((result.ratio == 1).all())
    assert all(parameter.grad is not None and torch.isfinite(parameter.grad).all() for parameter in policy.parameters())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_micro_step_of_the_toy_policy(checkpointing):
    policy = toy_policy().to(torch.bfloat16).train()
    policy.checkpoint_gradients(checkpointing)
    check(policy, micro_step(policy, VOCABULARY, completions=3, canvas=6, prompt=4, device="cpu"))


@pytest.mark.gpu
def test_a_micro_step_of_the_7b_shape_fits_a_gpu():
    """Random bfloat16 weights, 10 completions of 256 after a prompt of 200 tokens, layers recomputed."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    shape = ShapeConfig(
        hidden=3584, layers=28, heads=28, kv_heads=4, ffn=18944, tie_embeddings=False, max_positions=131072
    )
    ids = TokenIds(mask=151666, pad=151643, bos=151643, eos=151643, filler=151667, end=(151645,))
    policy = DiffusionPolicy.from_shape(shape, 152064, ids, 0, dtype="bfloat16", device="cuda").train()
    policy.checkpoint_gradients()
    torch.cuda.reset_peak_memory_stats()
    check(policy, micro_step(policy, 150_000, completions=10, canvas=256, prompt=200, device="cuda"))
    # Weights and gradients are 30.5 GB; all logits of the three views would add 8.3 GB in float32, and several times
    # that at their peak.
    assert torch.cuda.max_memory_allocated() < 60e9
