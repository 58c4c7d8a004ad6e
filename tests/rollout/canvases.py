"""Canvases without given tokens."""

from couplet.rollout.canvas import Canvas, Template


def masked(policy, prompts, length, seeds):
    """Prompts of one length, each followed by `length` masks."""
    canvas = (policy.token_ids.mask,) * length
    return Canvas.of(policy, [Template(tuple(prompt), canvas) for prompt in prompts], seeds)
