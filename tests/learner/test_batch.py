import dataclasses
import math

import numpy as np
import pytest
import torch

from couplet.configs.schema import ObjectiveConfig
from couplet.learner.batch import mask_seed, shard, step_batch
from tests.learner.toys import toy_group, toy_groups

PAD = 1


def test_groups_that_teach_nothing_are_counted_and_left_out():
    batch = step_batch([*toy_groups(), toy_group(9, (None, 1.0, None, None))], ObjectiveConfig())
    assert [scored.group.group_id.problem for scored in batch.groups] == [0, 1, 3]
    assert batch.metrics["zero_signal_share"] == pytest.approx(0.2)
    assert batch.metrics["quarantined_groups"] == 1 and batch.metrics["excluded_completions"] == 4


@pytest.mark.parametrize("apart,zero_signal", [(1.9e-6, True), (2.1e-6, False)])
def test_a_group_is_zero_signal_by_the_deviation_of_its_rewards(apart, zero_signal):
    """Of n = 4 equal rewards but one, the deviation is apart / 2."""
    assert toy_group(1, (1.0, 1.0 + apart, 1.0, None, 1.0)).zero_signal is zero_signal


def test_zero_signal_keep_leaves_them_in_the_denominator():
    batch = step_batch(toy_groups(), ObjectiveConfig(zero_signal="keep"))
    assert len(batch.groups) == 4 and batch.metrics["zero_signal_share"] == 0.25
    assert batch.tokens > step_batch(toy_groups(), ObjectiveConfig()).tokens
    assert not batch.advantages_PG[2].any()


def test_an_excluded_completion_enters_neither_sum():
    batch = step_batch([toy_group(1, (2.5, None, 0.0, 0.5))], ObjectiveConfig())
    own = batch.groups[0].group.loss_mask_GC
    assert batch.tokens == own.sum() - own[1].sum() and batch.sequences == 3
    assert not batch.loss_mask_PGC[0, 1].any() and batch.advantages_PG[0, 1] == 0
    assert batch.advantages_PG[0].tolist() == pytest.approx([2.25, 0.0, -1.5, -0.75])


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("micro", [(1, None), (2, None), (1, 3), (2, 1)])
@pytest.mark.parametrize("normalise", ["tokens", "per_sequence"])
def test_every_rank_runs_as_many_micro_batches_and_the_weights_sum_to_one(ranks, micro, normalise):
    objective = ObjectiveConfig(normalise=normalise)
    batch = step_batch(toy_groups(), objective)
    shards = [shard(batch, objective, PAD, rank, ranks, *micro) for rank in range(ranks)]
    assert len({len(parts) for parts in shards}) == 1
    total = sum(float(part.weights_PGC.sum()) for parts in shards for part in parts)
    assert total == pytest.approx(1.0)
    tokens = sum(int((part.weights_PGC > 0).sum()) for parts in shards for part in parts)
    assert tokens == batch.tokens
    for parts in shards:
        for part in parts:
            assert torch.equal(part.weights_PGC > 0, part.tokens.loss_mask_PGC)


def test_a_group_stays_on_one_rank():
    objective = ObjectiveConfig()
    batch = step_batch(toy_groups(), objective)
    prompts = [
        {
            tuple(part.tokens.prompt_PQ[0].tolist())
            for part in shard(batch, objective, PAD, rank, 2)
            if part.weights_PGC.any()
        }
        for rank in range(2)
    ]
    assert len(prompts[0]) == 2 and len(prompts[1]) == 1 and not prompts[0] & prompts[1]


def test_inner_updates_use_fresh_mask_seeds():
    part = shard(step_batch(toy_groups(), ObjectiveConfig()), ObjectiveConfig(inner_updates=3), PAD)[0]
    seeds = np.array(part.seeds_JPG)
    assert seeds.shape == (3, 1, 4) and len(np.unique(seeds)) == 12
    assert len(set(np.array(part.group_seeds_JP).ravel())) == 3
    first = toy_groups()[0].group
    assert part.seeds_JPG[1][0][2] == mask_seed(first.seeds_G[2], 2)


def test_mask_seeds_are_pinned():
    """Rollout workers estimate under the same masks: a change here must change them too."""
    assert [mask_seed(7, update) for update in (1, 2)] == [4084171486787269581, 8929259254196295108]


def test_nothing_to_learn_gives_no_micro_batches():
    objective = ObjectiveConfig()
    batch = step_batch([toy_group(2, (1.0, 1.0, 1.0))], objective)
    assert batch.tokens == 0 and shard(batch, objective, PAD) == []


def test_mixed_shapes_are_refused():
    with pytest.raises(ValueError, match="share completions and canvas"):
        step_batch([toy_group(0, (0.0, 1.0)), toy_group(1, (0.0, 1.0, 2.0))], ObjectiveConfig())
    with pytest.raises(ValueError, match="at least one group"):
        step_batch([], ObjectiveConfig())


def test_behaviour_of_another_number_of_updates_is_refused():
    stale = toy_group(0, (0.0, 1.0), behaviour=np.zeros((2, 3, 6), dtype=np.float32))
    objective = ObjectiveConfig(inner_updates=2)
    with pytest.raises(ValueError, match=r"for 3 draws of masks, the objective has 2"):
        shard(step_batch([stale], objective), objective, PAD)


def with_parts(scored, **parts):
    verdicts = [
        dataclasses.replace(
            verdict, parts={name: values[row] for name, values in parts.items() if values[row] is not None}
        )
        for row, verdict in enumerate(scored.verdicts)
    ]
    return dataclasses.replace(scored, verdicts=tuple(verdicts))


def test_each_reward_is_normalised_by_itself_before_the_sum():
    """code 0, 0, 1 (std 0.577), format 0, 1, no opinion (std 0.707): 2·[-1/2, -1/2, 1]/0.577 + 0.5·[-1, 1, 0]/0.707."""
    scored = with_parts(toy_group(0, (0.0, 0.5, 2.0)), code=[0.0, 0.0, 1.0], code_format=[0.0, 1.0, None])
    objective = ObjectiveConfig(per_reward={"code": 2.0, "code_format": 0.5})
    a, b = 2 / (math.sqrt(1 / 3) + 1e-4), 0.5 / (math.sqrt(1 / 2) + 1e-4)
    expected = [-a / 2 - b, -a / 2 + b, a]
    assert step_batch([scored], objective).advantages_PG[0].tolist() == pytest.approx(expected, rel=1e-5)
    assert step_batch([scored], ObjectiveConfig(advantage="group_mean")).advantages_PG[0].sum() == pytest.approx(
        0, abs=1e-6
    )


@pytest.mark.parametrize(("draws", "bounds"), [(2, 1), (1, 2)])
def test_estimates_of_another_number_of_bounds_are_refused(draws, bounds):
    """Two draws of an estimator with one bound are not one draw with two."""
    group = toy_group(0, (0.0, 1.0), behaviour=np.zeros((2, draws, 6), dtype=np.float32))
    objective = ObjectiveConfig(inner_updates=1)
    with pytest.raises(ValueError, match=f"for {draws} draws of masks, the objective has 1"):
        shard(step_batch([group], objective), objective, PAD, bounds=bounds)
