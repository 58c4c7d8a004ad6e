"""On a CUDA device: the same bits, no wait inside the loop, and one step of the 7B shape (make test-gpu)."""

from __future__ import annotations

import pytest
import torch

from couplet.configs.schema import EstimatorConfig, SamplerConfig, ShapeConfig
from couplet.model.logprob import head_logits
from couplet.model.policy import DiffusionPolicy
from couplet.model.randomness import uniforms
from couplet.model.tokens import TokenIds
from couplet.rollout.denoise import denoise
from couplet.rollout.nucleus import keep_nucleus
from couplet.rollout.sampler import sample
from tests.one_group import group_logprobs
from tests.rollout.canvases import masked

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

IDS = TokenIds(mask=5, pad=0, bos=0, eos=0, filler=7, end=(6,))
SHAPE = ShapeConfig(hidden=64, layers=2, heads=4, kv_heads=2, ffn=96, embedding_std=0.6)
ORDER_NAMES = ["origin", "maskgit_plus", "topk_margin", "entropy"]


def test_uniforms_have_the_same_bits_on_both_devices() -> None:
    seeds, positions = torch.arange(500) * 2**40, torch.arange(300)
    assert torch.equal(
        uniforms(seeds.cuda(), "token", 3, positions.cuda()).cpu(), uniforms(seeds, "token", 3, positions)
    )


@pytest.mark.parametrize("options", [{"top_p": 0.9}, {"top_k": 7}, {"top_p": 0.9, "top_k": 7}])
def test_the_nucleus_is_that_of_the_host(options: dict) -> None:
    z = torch.randn(64, 5000, generator=torch.Generator().manual_seed(0)) * 3
    both = []
    for logits in (z, z.cuda()):
        z_NK, ids_NK = keep_nucleus(logits, options.get("top_p", 1.0), options.get("top_k"))
        kept = z_NK > -torch.inf
        both.append(kept.cpu() if ids_NK is None else torch.zeros(64, 5000, dtype=torch.bool).scatter(1, ids_NK, kept))
    assert int((both[0] != both[1]).sum(1).max()) <= 1


@pytest.mark.parametrize("order", ORDER_NAMES)
@pytest.mark.parametrize("alg_temp", [None, 0.5])
def test_the_loop_does_not_wait_for_the_device(order: str, alg_temp: float | None) -> None:
    policy = DiffusionPolicy.from_shape(SHAPE, 3000, IDS, 0, device="cuda")
    config = SamplerConfig(order=order, steps=8, completion_length=8, top_p=0.95, top_k=50, alg_temp=alg_temp)
    canvas = masked(policy, [[8, 9], [8, 9], [10, 11]], 8, [1, 2, 3])
    with torch.inference_mode():
        denoise(policy, masked(policy, [[8, 9]], 8, [1]), config)
        torch.cuda.set_sync_debug_mode("error")
        try:
            denoise(policy, canvas, config)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert not bool((canvas.completion_BC == IDS.mask).any())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_of_16_bit_rows_are_not_rounded(dtype: torch.dtype) -> None:
    hidden, weight = torch.randn(40, 256, device="cuda").to(dtype), torch.randn(3000, 256, device="cuda").to(dtype)
    with torch.inference_mode():
        logits = head_logits(hidden, weight)
        assert head_logits(hidden[:0], weight).shape == (0, 3000)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits.double(), hidden.double() @ weight.double().t(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("order", ORDER_NAMES)
def test_greedy_decoding_agrees_with_the_host(order: str) -> None:
    host = DiffusionPolicy.from_shape(SHAPE, 60, IDS, 0)
    device = DiffusionPolicy.from_shape(SHAPE, 60, IDS, 1, device="cuda")
    device.load_state_dict(host.state_dict())
    config = SamplerConfig(order=order, steps=8, completion_length=16, temperature=0.0)
    prompts, seeds = [[8, 9, 10], [11, 12]], [1, 2]
    for a, b in zip(sample(host, prompts, config, seeds), sample(device, prompts, config, seeds)):
        assert a.tokens.tolist() == b.tokens.tolist()


@pytest.fixture(scope="module")
def large() -> DiffusionPolicy:
    shape = ShapeConfig(hidden=3584, layers=28, heads=28, kv_heads=4, ffn=18944, tie_embeddings=False)
    ids = TokenIds(mask=151666, pad=151643, bos=151643, eos=151643, filler=151667, end=(151645,))
    if torch.cuda.get_device_properties(0).total_memory < 60e9:
        pytest.skip("7B weights and gradients need 60 GB")
    return DiffusionPolicy.from_shape(shape, 152_064, ids, 0, dtype="bfloat16", device="cuda")


def test_a_7b_policy_takes_a_sampling_step(large: DiffusionPolicy) -> None:
    config = SamplerConfig(steps=2, completion_length=256, temperature=1.2, top_p=0.95, top_k=50)
    done = sample(large, [[100 + i for i in range(200)]] * 2, config, [1, 2])
    for completion in done:
        assert completion.tokens.shape == (256,)
        assert large.token_ids.mask not in completion.tokens


def test_a_7b_policy_takes_a_learner_micro_step(large: DiffusionPolicy) -> None:
    large.train()
    large.checkpoint_gradients()
    tokens = torch.randint(100, 150_000, (2, 256), generator=torch.Generator().manual_seed(0)).numpy()
    mask = torch.ones(2, 256, dtype=torch.bool).numpy()
    logp = group_logprobs(large, list(range(100, 300)), tokens, mask, [1, 2], EstimatorConfig(), 3)
    assert logp.shape == (2, 256) and logp.dtype == torch.float32 and bool((logp < 0).all())
    (-logp.mean()).backward()
    norms = torch.stack([parameter.grad.float().norm() for parameter in large.parameters()])
    assert bool(torch.isfinite(norms).all()) and bool((norms > 0).all())
    with torch.no_grad():
        for parameter in large.parameters():
            parameter.sub_(parameter.grad, alpha=1e-3)
            parameter.grad = None
    after = group_logprobs(large, list(range(100, 300)), tokens, mask, [1, 2], EstimatorConfig(), 3)
    assert float(after.detach().mean()) > float(logp.detach().mean())
