"""The rollout worker: groups of one version, behaviour log-probabilities the learner agrees with, weight swaps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import couplet.rollout.worker as module
from couplet.configs.schema import EstimatorConfig, SamplerConfig, ShapeConfig
from couplet.data.seeds import derive_seed, mask_seed
from couplet.data.trajectory import GroupId, RolloutRequest
from couplet.model.policy import DiffusionPolicy
from couplet.model.tokens import TokenIds
from couplet.model.weights import WeightsError, pack
from couplet.rollout.sampler import sample
from couplet.rollout.worker import RolloutWorker
from tests.one_group import group_logprobs

IDS = TokenIds(mask=5, pad=0, bos=0, eos=0, filler=7, end=(6,))
SHAPE = ShapeConfig(hidden=32, layers=2, heads=2, kv_heads=1, ffn=48, embedding_std=0.6)
SAMPLER = SamplerConfig(steps=4, completion_length=8, temperature=1.0)
ESTIMATOR = EstimatorConfig()


def build(**options: object) -> RolloutWorker:
    policy = DiffusionPolicy.from_shape(SHAPE, 12, IDS, 0)
    return RolloutWorker(policy, lambda ids: " ".join(map(str, ids)), SAMPLER, ESTIMATOR, **{"mask_draws": 2} | options)


def request(problem: int, prompt: list[int], completions: int = 3) -> RolloutRequest:
    group_id = GroupId(0, problem, 0)
    seeds = tuple(derive_seed(7, "completion", *group_id, g) for g in range(completions))
    tokens = np.array(prompt, dtype=np.int32)
    return RolloutRequest(group_id, 2, f"p{problem}", tokens, seeds, derive_seed(7, "group", *group_id))


REQUESTS = [request(0, [8, 9, 10]), request(1, [11, 8]), request(2, [9, 9, 9], completions=2)]


def test_a_group_answers_its_request() -> None:
    worker = build()
    for order, group in zip(REQUESTS, worker.generate(REQUESTS), strict=True):
        assert (group.group_id, group.attempt, group.problem_id) == (order.group_id, 2, order.problem_id)
        assert (group.seeds_G, group.group_seed, group.version) == (order.seeds_G, order.group_seed, 0)
        assert (
            group.tokens_GC.shape == group.reveal_step_GC.shape == group.loss_mask_GC.shape == (len(order.seeds_G), 8)
        )
        assert (group.tokens_GC.dtype, group.reveal_step_GC.dtype) == (np.int32, np.int16)
        assert group.behaviour_GJC is None
        expected = sample(worker._policy, [order.prompt_tokens.tolist()] * group.completions, SAMPLER, order.seeds_G)
        assert (group.tokens_GC == np.stack([completion.tokens for completion in expected])).all()


def test_the_draws_of_the_filler_are_learned_on_request_but_never_part_of_an_evaluated_answer() -> None:
    worker, answers = build(), build().generate(REQUESTS)
    worker._estimator = ESTIMATOR.replace(tokens="canvas")
    for group, answer in zip(worker.generate(REQUESTS), answers, strict=True):
        assert group.loss_mask_GC.all() and group.texts == answer.texts
        assert group.metrics is not None and group.metrics["draw_entropy"] == answer.metrics["draw_entropy"]
    assert not all(answer.loss_mask_GC.all() for answer in answers)
    for group, answer in zip(worker.generate(REQUESTS, sampler=SAMPLER), answers, strict=True):
        assert (group.loss_mask_GC == answer.loss_mask_GC).all()


def test_text_and_loss_end_at_the_first_end_token() -> None:
    ends = 0
    for group in build().generate([request(i, [8 + i % 3], completions=8) for i in range(4)]):
        for tokens, mask, text in zip(group.tokens_GC.tolist(), group.loss_mask_GC.tolist(), group.texts):
            length = tokens.index(6) if 6 in tokens else 8
            ends += 6 in tokens
            assert text == " ".join(map(str, tokens[:length]))
            assert mask == [k <= length for k in range(8)]
    assert 0 < ends < 32


@pytest.mark.parametrize("options", [{"pairs": 2}, {"pairs": 2, "t_scope": "group"}, {"name": "trace", "slices": 2}])
def test_behaviour_is_the_learners_estimate_under_the_sampling_weights(options: dict[str, Any]) -> None:
    worker = build(estimate_behaviour=True)
    worker._estimator = estimator = ESTIMATOR.replace(**options)
    for group in worker.generate(REQUESTS):
        assert group.behaviour_GJC is not None
        assert group.behaviour_GJC.shape == (group.completions, 2, 8) and group.behaviour_GJC.dtype == np.float32
        assert (
            group.behaviour_GJC[~np.broadcast_to(group.loss_mask_GC[:, None], (group.completions, 2, 8))] == 0
        ).all()
        assert not np.allclose(group.behaviour_GJC[:, 0], group.behaviour_GJC[:, 1])
        for update in (1, 2):
            logp = group_logprobs(
                worker._policy,
                group.prompt_tokens,
                group.tokens_GC,
                group.loss_mask_GC,
                [derive_seed(seed, "mask", update) for seed in group.seeds_G],
                estimator,
                derive_seed(group.group_seed, "mask", update),
                reveal_step_GC=group.reveal_step_GC,
            )
            np.testing.assert_allclose(group.behaviour_GJC[:, update - 1], logp.detach().numpy(), atol=1e-5)


def test_a_call_may_bring_its_own_sampler_and_then_estimates_nothing() -> None:
    worker = build(estimate_behaviour=True)
    (group,) = worker.generate(REQUESTS[:1], sampler=SAMPLER.replace(temperature=0.0, steps=8))
    assert group.behaviour_GJC is None
    assert (group.tokens_GC == group.tokens_GC[0]).all()  # greedy: one answer
    assert group.reveal_step_GC.max() == 7


def test_the_behaviour_estimate_keeps_to_the_rows_of_a_forward(monkeypatch) -> None:
    rows: list[int] = []
    estimate = module.batch_bounds

    def watched(policy, batch, seeds_JPG, *rest):
        rows.append(2 * len(seeds_JPG) * batch.tokens_PGC.shape[1])  # one pair of masks for each update and completion
        return estimate(policy, batch, seeds_JPG, *rest)

    monkeypatch.setattr(module, "batch_bounds", watched)
    whole = build(estimate_behaviour=True).generate(REQUESTS[:1])[0]
    parts = build(estimate_behaviour=True, microbatch_rows=8).generate(REQUESTS[:1])[0]
    assert rows == [12, 8, 4]
    np.testing.assert_allclose(parts.behaviour_GJC, whole.behaviour_GJC, rtol=0, atol=1e-5)


def test_metrics_of_a_group() -> None:
    (group,) = build().generate(REQUESTS[:1])
    metrics = group.metrics
    assert metrics is not None
    assert 0 < metrics["draw_entropy"] < np.log(11)
    assert 0 <= metrics["local_ar_ness"] <= 1 and 0 <= metrics["global_ar_ness"] <= 1
    assert 0 <= metrics["order_entropy"] <= np.log(8)
    assert metrics["seconds"] > 0 and metrics["sampler_tokens_per_second"] > 0


def test_new_weights_are_a_new_version_and_change_what_is_generated() -> None:
    worker, other = build(), DiffusionPolicy.from_shape(SHAPE, 12, IDS, 1)
    before = worker.generate(REQUESTS)[0]
    manifest, buckets = pack(other.named_parameters(), 5)
    assert worker.load_weights(manifest, buckets) == worker.version == 5
    after = worker.generate(REQUESTS)[0]
    assert (before.version, after.version) == (0, 5)
    assert (before.tokens_GC != after.tokens_GC).any()
    expected = sample(other, [[8, 9, 10]] * 3, SAMPLER, REQUESTS[0].seeds_G)
    assert (after.tokens_GC == np.stack([completion.tokens for completion in expected])).all()


def test_damaged_weights_leave_worker_and_version_alone() -> None:
    worker = build()
    before = worker.generate(REQUESTS)[0]
    manifest, buckets = pack(DiffusionPolicy.from_shape(SHAPE, 12, IDS, 1).named_parameters(), 5)
    buckets[0][100] ^= 1
    with pytest.raises(WeightsError, match="arrived damaged"):
        worker.load_weights(manifest, buckets)
    assert worker.version == 0
    assert (worker.generate(REQUESTS)[0].tokens_GC == before.tokens_GC).all()


def test_a_prompt_with_the_mask_is_refused() -> None:
    with pytest.raises(ValueError, match="contains the mask token"):
        build().generate([request(0, [8, 5])])


def test_declared_approximations_are_recorded() -> None:
    (group,) = build().generate(REQUESTS[:1])
    assert group.approximations == ("tokens_per_step=2",)
    exact = SAMPLER.replace(steps=8)
    assert build().generate(REQUESTS[:1], sampler=exact)[0].approximations == ()
    fast = exact.replace(early_stop=True, block_length=4, cache="dual", confidence_threshold=0.9)
    assert build().generate(REQUESTS[:1], sampler=fast)[0].approximations == (
        "early_stop",
        "block_length=4",
        "cache=dual/block",
        "confidence_threshold=0.9",
    )


def test_a_suffix_travels_with_the_request_into_sample_estimate_and_group() -> None:
    worker = build(estimate_behaviour=True)
    orders = [replace(order, suffix_tokens=np.array([9] * n, dtype=np.int32)) for n, order in enumerate(REQUESTS)]
    for order, group in zip(orders, worker.generate(orders), strict=True):
        suffix = order.suffix_tokens.tolist()
        assert group.suffix_tokens.tolist() == suffix and group.behaviour_GJC is not None
        prompts, count = [order.prompt_tokens.tolist()] * group.completions, group.completions
        expected = sample(worker._policy, prompts, SAMPLER, order.seeds_G, suffixes=[suffix] * count)
        assert (group.tokens_GC == np.stack([completion.tokens for completion in expected])).all()
        seeds = [mask_seed(seed, 1) for seed in order.seeds_G]
        logp_GC = group_logprobs(
            worker._policy, prompts[0], group.tokens_GC, group.loss_mask_GC, seeds, ESTIMATOR, 0, suffix=suffix
        )
        np.testing.assert_allclose(group.behaviour_GJC[:, 0], logp_GC.detach().numpy(), atol=1e-5)
