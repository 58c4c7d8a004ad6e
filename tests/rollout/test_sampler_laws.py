"""What the sampler never does, what it saves, and that its draws follow the model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from couplet.configs.schema import SamplerConfig, ShapeConfig
from couplet.model.policy import DiffusionPolicy
from couplet.model.tokens import TokenIds
from couplet.rollout.denoise import denoise
from couplet.rollout.sampler import sample
from couplet.rollout.schedule import reveal_counts
from tests.rollout.canvases import masked

MASK = 5
IDS = TokenIds(mask=MASK, pad=0, bos=0, eos=0, filler=7, end=(6,))
SHAPE = ShapeConfig(hidden=32, layers=2, heads=2, kv_heads=1, ffn=48, embedding_std=0.6)
VOCAB = 40
ORDER_NAMES = ["origin", "maskgit_plus", "topk_margin", "entropy"]


@pytest.fixture(scope="module")
def policy() -> DiffusionPolicy:
    return DiffusionPolicy.from_shape(SHAPE, VOCAB, IDS, seed=0)


def config(**options: object) -> SamplerConfig:
    return SamplerConfig(**{"order": "entropy", "steps": 8, "completion_length": 8, "temperature": 1.0} | options)


@pytest.mark.parametrize("order", ORDER_NAMES)
@pytest.mark.parametrize("temperature", [0.0, 1.2])
def test_the_mask_is_never_drawn_even_where_the_model_wants_it(order: str, temperature: float) -> None:
    policy = DiffusionPolicy.from_shape(
        ShapeConfig(hidden=32, heads=2, kv_heads=1, tie_embeddings=False), VOCAB, IDS, 0
    )
    with torch.no_grad():
        policy.model.norm.weight.zero_()  # every token gets logit 0 ...
        policy.lm_head.weight.zero_()
    shift = policy.lm_head.register_forward_hook(lambda _, __, z: z + 50.0 * torch.eye(VOCAB)[MASK])  # ... but the mask
    for top_k in (None, 1, 50):
        c = config(order=order, temperature=temperature, top_k=top_k)
        done = sample(policy, [[8, 9]] * 4, c, [1, 2, 3, 4])
        assert all(MASK not in completion.tokens for completion in done)
    shift.remove()


@pytest.mark.parametrize("order", ORDER_NAMES)
def test_each_position_is_written_once_and_the_prompt_never(policy: DiffusionPolicy, order: str) -> None:
    seen: list[tuple[int, np.ndarray]] = []
    done = sample(
        policy,
        [[8, 9]] * 3,
        config(order=order, steps=5),
        [1, 2, 3],
        trace=lambda i, rows, x: seen.append((i, x.copy())),
    )
    before = np.full((3, 8), MASK)
    for step, after in seen:
        changed = before != after
        assert (before[changed] == MASK).all()
        for row, completion in enumerate(done):
            assert (changed[row] == (completion.reveal_step == step)).all()
        before = after
    assert (before == np.stack([completion.tokens for completion in done])).all()
    canvas = masked(policy, [[8, 9]] * 3, 8, [1, 2, 3])
    denoise(policy, canvas, config(order=order))
    assert canvas.tokens_BL[:, :2].tolist() == [[8, 9]] * 3


@pytest.mark.parametrize("order", ORDER_NAMES[1:])
@pytest.mark.parametrize("steps", [1, 3, 8, 12])
def test_reveal_steps_follow_the_schedule(policy: DiffusionPolicy, order: str, steps: int) -> None:
    for completion in sample(policy, [[8], [9, 10]], config(order=order, steps=steps), [1, 2]):
        assert np.bincount(completion.reveal_step, minlength=steps).tolist() == list(reveal_counts(8, steps))
        assert completion.reveal_step.dtype == np.int16 and completion.tokens.dtype == np.int32


def test_draws_follow_the_model(policy: DiffusionPolicy) -> None:
    c = config(steps=1, completion_length=2, temperature=1.3, top_p=0.9, top_k=6)
    rows = 12_000
    tokens = np.stack([done.tokens for done in sample(policy, [[8, 9]] * rows, c, range(rows))])
    with torch.no_grad():
        z = policy.logits(torch.tensor([[8, 9, MASK, MASK]]))[0, 2:].float()
    z[:, MASK] = -torch.inf
    for position in range(2):
        ordered, index = (z[position] / 1.3).sort(descending=True)
        p = torch.softmax(ordered, 0)
        kept = ((p.cumsum(0) - p) <= 0.9) & (torch.arange(VOCAB) < 6)
        expected = torch.zeros(VOCAB).scatter(0, index, p * kept)
        expected = (expected / expected.sum()).numpy() * rows
        counts = np.bincount(tokens[:, position], minlength=VOCAB)
        assert counts[expected == 0].sum() == 0
        chi_square = ((counts - expected)[expected > 0] ** 2 / expected[expected > 0]).sum()
        assert chi_square < 25.7  # at most 5 degrees of freedom: once in 10,000 seeds
    joint = np.corrcoef(tokens[:, 0] == tokens[0, 0], tokens[:, 1] == tokens[0, 1])[0, 1]
    assert abs(joint) < 0.04  # positions of one step are drawn independently


def test_the_seed_decides(policy: DiffusionPolicy) -> None:
    first, again, other = sample(policy, [[8, 9]] * 3, config(), [1, 1, 2])
    assert first.tokens.tolist() == again.tokens.tolist()
    assert first.tokens.tolist() != other.tokens.tolist()


def test_entropy_is_that_of_the_distribution_drawn_from(policy: DiffusionPolicy) -> None:
    (done,) = sample(policy, [[8, 9]], config(steps=1, completion_length=3, temperature=0.7), [1])
    with torch.no_grad():
        z = policy.logits(torch.tensor([[8, 9, MASK, MASK, MASK]]))[0, 2:]
    z[:, MASK] = -torch.inf
    torch.testing.assert_close(
        torch.from_numpy(done.entropy), torch.distributions.Categorical(logits=z / 0.7).entropy(), atol=1e-5, rtol=1e-5
    )


class Calls:
    """Rows of every trunk and head call."""

    def __init__(self, policy: DiffusionPolicy) -> None:
        self.trunk: list[int] = []
        self.head: list[int] = []
        self.hooks = [
            policy.model.register_forward_pre_hook(lambda _, args: self.trunk.append(len(args[0]))),
            policy.lm_head.register_forward_pre_hook(lambda _, args: self.head.append(len(args[0]))),
        ]

    def __enter__(self) -> Calls:
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()


def test_completions_of_a_prompt_share_the_first_forward_and_empty_steps_run_none(policy: DiffusionPolicy) -> None:
    prompts = [[8, 9]] * 4 + [[10, 11]] * 4
    with Calls(policy) as calls:
        sample(policy, prompts, config(steps=8), list(range(8)))
    assert reveal_counts(8, 8) == (0, 1, 1, 1, 1, 1, 1, 2)
    assert calls.trunk == [2] + [8] * 6
    # Scoring all masked rows, then drawing where tokens are revealed; the last step only draws.
    assert calls.head == [2 * 8, 8, 8 * 7, 8, 8 * 6, 8, 8 * 5, 8, 8 * 4, 8, 8 * 3, 8, 8 * 2]


def test_the_random_order_runs_the_head_once_per_token(policy: DiffusionPolicy) -> None:
    with Calls(policy) as calls:
        sample(policy, [[8, 9]] * 4, config(order="origin", steps=3), [1, 2, 3, 4])
    assert calls.trunk == [1, 4, 4]
    assert sum(calls.head) == 4 * 8


@pytest.mark.parametrize("order", ORDER_NAMES)
@pytest.mark.parametrize("alg_temp", [None, 0.5])
def test_the_loop_never_asks_the_device_for_a_value(order: str, alg_temp: float | None) -> None:
    # Tensors on "meta" have no values: reading one back would raise. The policy has the 7B vocabulary.
    policy = DiffusionPolicy.from_shape(SHAPE, 152_064, IDS, 0, device="meta")
    c = config(order=order, alg_temp=alg_temp, top_p=0.95, top_k=50)
    canvas = masked(policy, [[8, 9], [8, 9], [10, 11]], 8, [1, 2, 3])
    with torch.inference_mode():
        denoise(policy, canvas, c)
    assert canvas.completion_BC.shape == (3, 8)


def test_the_global_generator_is_left_alone(policy: DiffusionPolicy) -> None:
    before = torch.get_rng_state()
    sample(policy, [[8]], config(order="origin", alg_temp=0.3), [1])
    assert torch.equal(before, torch.get_rng_state())


def test_what_cannot_be_decoded_is_refused(policy: DiffusionPolicy) -> None:
    with pytest.raises(ValueError, match=r"prompt 1 contains the mask token \(5\)"):
        sample(policy, [[8], [8, MASK]], config(), [1, 2])
    with pytest.raises(ValueError, match="1 seeds for 2 prompts"):
        sample(policy, [[8], [9]], config(), [1])
    with pytest.raises(ValueError, match="prompt 0 contains a token id outside the vocabulary of 40"):
        sample(policy, [[40]], config(), [1])


def test_no_prompts_and_an_empty_prompt(policy: DiffusionPolicy) -> None:
    assert sample(policy, [], config(), []) == []
    (done,) = sample(policy, [[]], config(), [1])
    assert MASK not in done.tokens
