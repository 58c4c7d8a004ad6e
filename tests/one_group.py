"""The estimates of one group."""

import numpy as np

from couplet.model.likelihood import GroupTokens, batch_bounds


def group_logprobs(policy, prompt, tokens_GC, loss_mask_GC, seeds_G, estimator, group_seed, temperature=1.0, **more):
    """Under one draw of masks: float32 [G, C]."""
    seeds = [seeds_G], [group_seed]
    return inner_logprobs(policy, prompt, tokens_GC, loss_mask_GC, *seeds, estimator, temperature, **more)[0]


def inner_logprobs(*arguments, **more):
    """Under J draws of masks: float32 [J, G, C]."""
    return inner_bounds(*arguments, **more)[0]


def inner_bounds(
    policy,
    prompt,
    tokens_GC,
    loss_mask_GC,
    seeds_JG,
    group_seeds_J,
    estimator,
    temperature=1.0,
    reveal_step_GC=None,
    suffix=(),
):
    """All K bounds of the estimator under J draws of masks: float32 [K, J, G, C]."""
    steps = None if reveal_step_GC is None else np.asarray(reveal_step_GC)[None]
    arrays = np.asarray(tokens_GC)[None], np.asarray(loss_mask_GC)[None]
    batch = GroupTokens.of([prompt], *arrays, policy.token_ids.pad, reveal_step_PGC=steps, suffixes=[suffix])
    seeds = [[seeds_G] for seeds_G in seeds_JG], [[seed] for seed in group_seeds_J]
    return batch_bounds(policy, batch, *seeds, estimator, temperature)[:, :, 0]
