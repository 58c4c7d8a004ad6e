"""Losses of the toy run that a refactor may not change."""

from __future__ import annotations

from tests.learner.toys import toy_groups, toy_learner, toy_policy

VARIANTS = {
    "coupled": ({}, {}),
    "coupled_two_pairs_group_time": ({"pairs": 2, "t_scope": "group"}, {}),
    "coupled_unweighted": ({"weighting": "none"}, {"advantage": "group_mean"}),
    "decoupled": ({"name": "decoupled"}, {}),
    "full_mask": ({"name": "full_mask"}, {}),
    "per_sequence_scaled": ({}, {"normalise": "per_sequence", "scale_by_std": True, "zero_signal": "keep"}),
    "unclamped_kl": ({}, {"kl_clamp": None, "kl_weight": 0.1, "reference_every": 4}),
}


def golden_losses() -> dict[str, list[float]]:
    """Losses of the inner updates of three learner steps, per variant."""
    found: dict[str, list[float]] = {}
    for name, (estimator, objective) in VARIANTS.items():
        optimizer = {"lr": 1e-2, "eps": 1e-3}
        learner = toy_learner(toy_policy(), optimizer=optimizer, objective=objective, **estimator)
        steps = [learner.learn(toy_groups(step)) for step in range(3)]
        found[name] = [step[f"loss_inner_{update}"] for step in steps for update in (1, 2)]
    return found
