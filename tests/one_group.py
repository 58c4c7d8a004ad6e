"""The estimate of one group under one draw of masks."""

from couplet.model.likelihood import inner_logprobs


def group_logprobs(policy, prompt, tokens_GC, loss_mask_GC, seeds_G, estimator, group_seed, temperature=1.0):
    """float32 [G, C]."""
    return inner_logprobs(policy, prompt, tokens_GC, loss_mask_GC, [seeds_G], estimator, [group_seed], temperature)[0]
