import math
import typing

import numpy as np
import pytest
import torch

import couplet.learner.learner as module
from couplet.configs.schema import EstimatorConfig, ObjectiveConfig
from couplet.data.seeds import mask_seed
from couplet.learner.loss import kl_penalty
from couplet.model.weights import unpack_into
from tests.learner.toys import gradients, toy_group, toy_groups, toy_learner, toy_policy, weights_of
from tests.one_group import group_logprobs, inner_bounds


def assert_same(left, right, tolerance=0.0):
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(
            left[name], right[name], rtol=0, atol=tolerance, msg=lambda text, n=name: f"{n}: {text}"
        )


def with_behaviour(policy, scored, updates, version, **estimator):
    """The group with the log-probabilities `policy` gives it, stamped with `version`."""
    group = scored.group
    seeds = [[mask_seed(seed, update) for seed in group.seeds_G] for update in range(1, updates + 1)]
    group_seeds = [mask_seed(group.group_seed, update) for update in range(1, updates + 1)]
    with torch.no_grad():
        logp_KJGC = inner_bounds(
            policy,
            group.prompt_tokens,
            group.tokens_GC,
            group.loss_mask_GC,
            seeds,
            group_seeds,
            EstimatorConfig(**estimator),
            reveal_step_GC=group.reveal_step_GC,
        )
    behaviour = logp_KJGC.flatten(0, 1).transpose(0, 1).numpy()
    rewards = [None if math.isnan(reward) else float(reward) for reward in scored.rewards_G]
    index = group.group_id.problem
    return toy_group(index, rewards, version, behaviour=behaviour)


NAMES = typing.get_args(EstimatorConfig.model_fields["name"].annotation)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ratio", ["current", "behaviour", "proximal"])
def test_on_policy_the_ratio_is_exactly_one(policy, ratio, name):
    learner = toy_learner(policy, objective={"inner_updates": 1, "ratio": ratio}, name=name)
    groups = [with_behaviour(policy, scored, 1, 0, name=name) for scored in toy_groups()]
    metrics = learner.learn(groups if ratio != "current" else toy_groups())
    assert metrics["ratio_mean"] == metrics["ratio_max"] == 1.0 and metrics["clip_share"] == 0.0


def test_on_policy_loss_is_minus_the_mean_advantage_over_tokens(policy):
    """Ratio 1 and no KL: the loss is what the advantages say, token by token."""
    learner = toy_learner(policy, objective={"inner_updates": 1, "kl_weight": 0.0, "advantage": "group_mean"})
    groups = [toy_group(0, (0.0, 1.0, 2.0, 5.0))]
    lengths = groups[0].group.loss_mask_GC.sum(axis=1)
    expected = -float((lengths * np.array([-2.0, -1.0, 0.0, 3.0])).sum() / lengths.sum())
    assert learner.learn(groups)["loss"] == pytest.approx(expected, rel=1e-6)


def test_the_gradient_is_that_of_the_written_objective(policy):
    """Against a direct computation: every group on its own, summed over all loss tokens, KL included."""
    learner = toy_learner(policy, objective={"inner_updates": 1, "kl_weight": 0.1, "zero_signal": "keep"})
    groups = [toy_group(0, (0.0, 1.0, 2.0, 5.0)), toy_group(2, (1.0, 1.0, 1.0, 1.0))]
    found = gradients(learner, groups)
    total, tokens = torch.zeros(()), 0
    for scored, advantages in zip(groups, ([-8 / 3, -4 / 3, 0.0, 4.0], [0.0] * 4)):
        group = scored.group
        logp = group_logprobs(
            policy,
            group.prompt_tokens,
            group.tokens_GC,
            group.loss_mask_GC,
            [mask_seed(seed, 1) for seed in group.seeds_G],
            EstimatorConfig(),
            mask_seed(group.group_seed, 1),
        )
        mask = torch.from_numpy(group.loss_mask_GC)
        ratio = torch.exp(logp - logp.detach())
        term = -ratio * torch.tensor(advantages)[:, None] + 0.1 * kl_penalty(logp, logp.detach(), 5.0)
        total = total + term[mask].sum()
        tokens += int(mask.sum())
    policy.zero_grad()
    (total / tokens).backward()
    assert_same(found, {name: parameter.grad for name, parameter in policy.named_parameters()}, 2e-6)


@pytest.mark.parametrize(
    "micro", [{"micro_groups": 3}, {"micro_completions": 1}, {"micro_groups": 2, "micro_completions": 3}]
)
@pytest.mark.parametrize("normalise", ["tokens", "per_sequence"])
def test_micro_batches_do_not_change_the_gradient(micro, normalise):
    objective = {"normalise": normalise, "kl_weight": 0.1}
    whole = gradients(toy_learner(toy_policy(), objective=objective), toy_groups())
    parts = gradients(toy_learner(toy_policy(), objective=objective, learner=micro), toy_groups())
    assert_same(whole, parts, 1e-6)


def test_an_excluded_completion_changes_nothing(policy):
    groups = toy_groups()
    expected = gradients(toy_learner(policy), groups)
    groups[1].group.tokens_GC[1] = 7
    assert_same(gradients(toy_learner(policy), groups), expected)


@pytest.mark.parametrize("name", NAMES)
def test_without_staleness_all_ratio_modes_agree(name):
    results = {}
    for ratio in ("current", "behaviour", "proximal"):
        policy = toy_policy()
        learner = toy_learner(policy, objective={"ratio": ratio, "inner_updates": 3}, name=name)
        results[ratio] = learner.learn([with_behaviour(policy, scored, 3, 0, name=name) for scored in toy_groups()])
    for ratio in ("behaviour", "proximal"):
        assert results[ratio]["loss_inner_1"] == results["current"]["loss_inner_1"]
        assert results[ratio]["loss_inner_3"] == pytest.approx(results["current"]["loss_inner_3"], abs=1e-5)


def test_stale_groups_are_weighed_against_the_weights_that_sampled_them(policy):
    sampler, learner = toy_policy(seed=5), toy_learner(policy, objective={"ratio": "behaviour", "inner_updates": 1})
    learner.version = 1
    stale = with_behaviour(sampler, toy_groups()[0], 1, version=0)
    with torch.no_grad():
        new = torch.from_numpy(with_behaviour(policy, toy_groups()[0], 1, 0).group.behaviour_GJC[:, 0])
    ratio = torch.exp(new - torch.from_numpy(stale.group.behaviour_GJC[:, 0]))[
        torch.from_numpy(stale.group.loss_mask_GC)
    ]
    metrics = learner.learn([stale])
    assert metrics["ratio_mean"] == pytest.approx(float(ratio.mean()), rel=1e-5)
    assert metrics["ratio_max"] == pytest.approx(float(ratio.max()), rel=1e-5)


@pytest.mark.parametrize("micro", [{}, {"micro_completions": 3}])
def test_every_inner_update_weighs_stale_groups_under_its_own_masks(policy, micro):
    """With weights that do not move, the loss of inner update j is the clipped surrogate of the j-th estimates."""
    objective = {"ratio": "behaviour", "inner_updates": 3, "kl_weight": 0.0, "advantage": "group_mean"}
    learner = toy_learner(policy, objective=objective, optimizer={"lr": 1e-12}, learner=micro)
    learner.version = 1
    group = toy_group(0, (0.0, 1.0, 2.0, 5.0))
    stale = with_behaviour(toy_policy(seed=5), group, 3, version=0)
    new_GJC = with_behaviour(policy, group, 3, 0).group.behaviour_GJC
    advantages, mask = np.array([-2.0, -1.0, 0.0, 3.0])[:, None], stale.group.loss_mask_GC
    metrics, bounds = learner.learn([stale]), ObjectiveConfig()
    for j in range(3):
        ratio = np.exp(new_GJC[:, j] - stale.group.behaviour_GJC[:, j])
        clipped = np.clip(ratio, 1 - bounds.clip_low, 1 + bounds.clip_high)
        surrogate = np.minimum(ratio * advantages, clipped * advantages)[mask]
        assert metrics[f"loss_inner_{j + 1}"] == pytest.approx(-float(surrogate.mean()), rel=1e-4), j
    assert len({metrics[f"loss_inner_{j}"] for j in (1, 2, 3)}) == 3


def test_proximal_mode_keeps_the_ratio_at_one_and_weighs_stale_tokens(policy):
    """At the first inner update the surrogate of a token is -min(exp(old - behaviour), cap) · advantage."""
    learner = toy_learner(policy, objective={"ratio": "proximal", "inner_updates": 1, "kl_weight": 0.0})
    learner.version = 1
    stale = with_behaviour(toy_policy(seed=5), toy_group(0, (0.0, 1.0, 2.0, 5.0)), 1, version=0)
    new = with_behaviour(policy, toy_group(0, (0.0, 1.0, 2.0, 5.0)), 1, 0).group.behaviour_GJC[:, 0]
    weight = np.minimum(np.exp(new - stale.group.behaviour_GJC[:, 0]), 2.0)
    advantages = np.array([-8 / 3, -4 / 3, 0.0, 4.0])[:, None]
    mask = stale.group.loss_mask_GC
    expected = -float((weight * advantages)[mask].sum() / mask.sum())
    metrics = learner.learn([stale])
    assert metrics["ratio_max"] == 1.0 and metrics["loss"] == pytest.approx(expected, rel=1e-4)


OBJECTIVES = [
    {"clip": "unconditional", "self_normalise": True},
    {"clip": "cispo", "ratio": "proximal", "proximal_outside": "mask"},
    {"ratio_level": "sequence", "kl_estimate": "k2"},
    {"ratio_level": "sequence", "ratio": "proximal", "clip": "unconditional"},
    {"best_of": 2, "normalise": "per_sequence"},
]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda options: "-".join(map(str, options.values())))
def test_every_objective_learns_from_stale_groups_however_they_are_split(objective):
    def updated(**micro):
        policy = toy_policy()
        learner = toy_learner(policy, objective={"ratio": "behaviour", "kl_weight": 0.1} | objective, learner=micro)
        learner.version = 1
        stale = [with_behaviour(toy_policy(seed=5), scored, 2, version=0) for scored in toy_groups()]
        return learner.learn(stale), weights_of(policy)

    metrics, weights = updated(micro_groups=1)
    assert 0 < metrics["token_share_max"] <= metrics["completion_share_max"] < 1 and metrics["grad_norm"] > 0
    split = {"micro_groups": 3} if "self_normalise" in objective else {"micro_completions": 3}
    others, same = updated(**split)
    assert others["loss"] == pytest.approx(metrics["loss"], rel=1e-3, abs=1e-6)
    assert others["completion_share_max"] == pytest.approx(metrics["completion_share_max"], rel=1e-3)
    assert_same(weights, same, 2e-3)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda options: "-".join(map(str, options.values())))
def test_on_policy_every_objective_without_kl_has_the_gradient_of_the_policy_gradient(policy, objective):
    """At ratio 1 all surrogates are -A·logp: only advantages and normalisation may differ."""
    options = {key: value for key, value in objective.items() if key not in ("best_of", "normalise")}
    plain = gradients(toy_learner(policy, objective={"kl_weight": 0.0}), toy_groups())
    groups = [with_behaviour(policy, scored, 2, 0) for scored in toy_groups()]
    found = gradients(toy_learner(policy, objective={"kl_weight": 0.0} | options), groups)
    assert_same(plain, found, 1e-6)


def test_stale_groups_without_behaviour_and_groups_from_the_future_are_refused(policy):
    learner = toy_learner(policy, objective={"ratio": "behaviour"})
    learner.version = 1
    with pytest.raises(ValueError, match="no behaviour log-probabilities"):
        learner.learn(toy_groups(version=0))
    with pytest.raises(ValueError, match="sampled by version 2, the learner is at 1"):
        learner.learn(toy_groups(version=2))


def test_old_and_reference_are_taken_before_the_first_update(policy, monkeypatch):
    """Weights at every call of the estimator: all gradient-free ones see the weights of the step's start."""
    seen = []
    estimate = module.batch_logprobs

    def watched(policy, *args):
        seen.append((torch.is_grad_enabled(), float(policy.lm_head.weight.detach().sum())))
        return estimate(policy, *args)

    monkeypatch.setattr(module, "batch_logprobs", watched)
    start = float(policy.lm_head.weight.detach().sum())
    toy_learner(policy, objective={"inner_updates": 3}).learn(toy_groups())
    quiet = [value for grad, value in seen if not grad]
    moving = [value for grad, value in seen if grad]
    assert quiet == [start] * 6  # three groups: old, reference
    assert moving[:3] == [start] * 3 and len(set(moving)) == 3


def test_one_update_on_policy_without_kl_needs_no_extra_forward(policy, monkeypatch):
    calls = []
    estimate = module.batch_logprobs
    monkeypatch.setattr(module, "batch_logprobs", lambda *args: calls.append(1) or estimate(*args))
    toy_learner(policy, objective={"inner_updates": 1, "kl_weight": 0.0}).learn(toy_groups())
    assert len(calls) == 3


def test_a_step_without_signal_counts_but_moves_nothing(policy):
    learner = toy_learner(policy)
    before = weights_of(policy)
    metrics = learner.learn([toy_group(2, (1.0, 1.0, 1.0))])
    assert metrics["zero_signal_share"] == 1.0 and metrics["skipped_updates"] == 1.0
    assert learner.version == 1
    assert_same(weights_of(policy), before)
    assert set(metrics) == set(learner.learn(toy_groups())) - {"loss_inner_2"}


def test_the_reference_follows_every_so_many_updates_between_steps(policy):
    learner = toy_learner(policy, objective={"reference_every": 4, "reference_alpha": 0.6, "kl_weight": 0.1})
    start = weights_of(policy)
    assert learner.learn(toy_groups(0))["kl_max"] >= 0
    assert_same(learner._reference.state(), start)
    learner.learn(toy_groups(1))
    now = weights_of(policy)
    expected = {name: 0.4 * start[name] + 0.6 * now[name] for name in start}
    assert_same(learner._reference.state(), expected, 1e-6)
    assert_same(weights_of(policy), now)


def drifted(policy, drift):
    """A learner of bfloat16 weights whose float32 ones then all move by `drift`, and the latter before and after."""
    learner = toy_learner(policy, objective={"kl_weight": 0.1}, learner={"dtype": "bfloat16"})
    names = [name for name, _ in policy.named_parameters()]
    start = {name: exact.clone() for name, exact in zip(names, learner._engine.exact_shards(), strict=True)}
    with torch.no_grad():
        for exact in learner._engine.exact_shards():
            exact.add_(drift)
    learner._engine._publish_masters()
    return learner, start, {name: exact + drift for name, exact in start.items()}


def test_a_reference_beside_bfloat16_weights_follows_by_less_than_their_rounding(policy):
    learner, start, end = drifted(policy, 1e-5)
    now, reference = weights_of(policy), learner._reference
    for step in (1, 2):
        reference.follow(0.3)
        expected = {name: end[name].lerp(start[name], 0.7**step) for name in start}
        assert_same(reference.state(), expected, 5e-7)
    rounded = {name: value.bfloat16() for name, value in reference.state().items()}
    with reference.in_place():
        assert_same(weights_of(policy), rounded)
    assert_same(weights_of(policy), now)


def test_a_reference_is_stored_to_the_bit_and_read_from_16_bit_files(policy):
    learner, _, _ = drifted(policy, 1e-2)
    rounded = weights_of(policy)
    learner._reference.follow(0.6)
    state = learner._reference.state()
    other = toy_learner(toy_policy(seed=9), objective={"kl_weight": 0.1}, learner={"dtype": "bfloat16"})
    other._reference.load_state(state)
    assert {value.dtype for value in state.values()} == {torch.float32}
    assert_same(other._reference.state(), state)
    other._reference.load_state(rounded)
    assert_same(other._reference.state(), {name: value.float() for name, value in rounded.items()})


def test_the_kl_starts_at_zero_and_is_felt(policy):
    learner = toy_learner(policy, objective={"kl_weight": 0.1, "inner_updates": 1})
    assert learner.learn(toy_groups(0))["kl_max"] == pytest.approx(0.0, abs=1e-9)
    assert learner.learn(toy_groups(1))["kl_max"] > 1e-4


def test_kl_weight_zero_keeps_no_reference(policy):
    assert toy_learner(policy, objective={"kl_weight": 0.0})._reference is None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_resume_equals_uninterrupted(tmp_path, dtype):
    arguments = {"objective": {"reference_every": 4}, "learner": {"dtype": dtype}}
    straight = toy_learner(toy_policy(), **arguments)
    expected = [straight.learn(toy_groups(step))["loss"] for step in range(4)]
    first = toy_learner(toy_policy(), **arguments)
    losses = [first.learn(toy_groups(step))["loss"] for step in range(2)]
    first.save(tmp_path)
    second = toy_learner(toy_policy(seed=9), **arguments)
    second.restore(tmp_path)
    assert second.version == 2
    losses += [second.learn(toy_groups(step))["loss"] for step in range(2, 4)]
    assert losses == expected
    assert_same(weights_of(second._policy), weights_of(straight._policy))


def test_a_folder_without_a_checkpoint_is_rejected(policy, tmp_path):
    with pytest.raises(ValueError, match="is not a learner checkpoint"):
        toy_learner(policy).restore(tmp_path)


def test_a_checkpoint_holds_the_policy_as_a_model_folder(policy, tmp_path):
    learner = toy_learner(policy)
    learner.learn(toy_groups())
    learner.save(tmp_path)
    assert_same(weights_of(type(policy).from_pretrained(tmp_path / "policy")), weights_of(policy))


def test_weights_travel_with_their_version(policy):
    learner = toy_learner(policy)
    learner.learn(toy_groups())
    manifest, buckets = learner.weights(bucket_bytes=1000)
    assert manifest.version == 1 and max(bucket.nbytes for bucket in buckets) <= 1000
    other = toy_policy(seed=9)
    unpack_into(other, manifest, buckets)
    assert_same(weights_of(other), weights_of(policy))


def test_bfloat16_keeps_float32_masters(policy):
    """Updates far below bfloat16's resolution add up instead of vanishing."""
    learner = toy_learner(policy, learner={"dtype": "bfloat16"}, optimizer={"lr": 1e-5}, objective={"kl_weight": 0.0})
    assert policy.lm_head.weight.dtype == torch.bfloat16
    before = learner._engine._masters[0].clone()
    learner.learn(toy_groups())
    moved = (learner._engine._masters[0] - before).abs().max().item()
    assert 0 < moved < 1e-4


def test_metrics_are_floats_with_plain_names(policy):
    metrics = toy_learner(policy).learn(toy_groups())
    assert all(isinstance(value, float) and math.isfinite(value) for value in metrics.values())
    assert all(name.replace("_", "").isalnum() and name.islower() for name in metrics)
    for name in (
        "ratio_mean",
        "ratio_max",
        "clip_share",
        "kl_median",
        "kl_max",
        "grad_norm",
        "zero_signal_share",
        "lr",
    ):
        assert name in metrics


def counted_step(policy, **objective):
    """Metrics and weights of a step, and the rows of its forward passes."""
    rows = []
    learner = toy_learner(policy, objective={"inner_updates": 3} | objective)
    policy.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    return learner.learn(toy_groups()), weights_of(policy), sum(rows)


@pytest.mark.parametrize("ratio", ["current", "proximal"])
def test_shared_masks_are_a_step_whose_draws_are_equal_with_fewer_passes(ratio, monkeypatch):
    shared, shared_weights, shared_rows = counted_step(toy_policy(), ratio=ratio, fresh_masks=False)
    _, _, fresh_rows = counted_step(toy_policy(), ratio=ratio)
    monkeypatch.setattr("couplet.learner.batch.mask_seed", lambda seed, draw: mask_seed(seed, 1))
    equal, equal_weights, equal_rows = counted_step(toy_policy(), ratio=ratio)
    assert_same(shared_weights, equal_weights, 1e-6)
    assert shared["loss"] == pytest.approx(equal["loss"], abs=1e-6)
    assert shared["ratio_max"] == pytest.approx(equal["ratio_max"], abs=1e-5) and shared["ratio_max"] > 1.0
    assert shared_rows < 0.7 * min(fresh_rows, equal_rows)


def test_shared_masks_take_one_draw_of_behaviour_estimates(policy):
    scored = with_behaviour(policy, toy_group(0, (0.0, 1.0, 2.0, 0.5)), 1, version=0)
    learner = toy_learner(policy, objective={"ratio": "behaviour", "inner_updates": 2, "fresh_masks": False})
    assert math.isfinite(learner.learn([scored])["loss"])
    with pytest.raises(ValueError, match=r"for 1 draws of masks, the objective has 2"):
        toy_learner(policy, objective={"ratio": "behaviour", "inner_updates": 2}).learn([scored])
