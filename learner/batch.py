"""From scored groups to the tensors of one learner step.

Every rank receives the same groups and computes the same plan, so ranks agree on the global token count and on the
number of micro-batches without a message. A prompt's completions stay on one rank. A rank with fewer micro-batches
than the others pads with micro-batches of zero weight: under ZeRO 2 and 3 every rank must run equally many forward
passes.

Shapes: P groups, G completions per group, C canvas positions, J draws of masks (one per inner update, or one).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from couplet.configs.schema import ObjectiveConfig
from couplet.data.seeds import mask_seed
from couplet.data.trajectory import ScoredGroup
from couplet.data.verdict import part_name
from couplet.learner.advantages import ADVANTAGES, best_of, group_std, scale_by_std
from couplet.learner.loss import token_weights
from couplet.model.likelihood import GroupTokens


@dataclass(frozen=True)
class StepBatch:
    """What one learner step trains on, the same on every rank: groups without signal are already left out."""

    groups: tuple[ScoredGroup, ...]
    advantages_PG: Tensor
    loss_mask_PGC: np.ndarray  # False everywhere in an excluded completion
    tokens: int  # loss tokens of the whole update: the loss is divided by them
    sequences: int  # completions with loss tokens
    metrics: dict[str, float]


@dataclass(frozen=True)
class MicroBatch:
    """The inputs of one forward and backward pass. `weights_PGC` is zero everywhere in a padding micro-batch."""

    tokens: GroupTokens
    advantages_PG: Tensor
    weights_PGC: Tensor
    seeds_JPG: tuple[tuple[tuple[int, ...], ...], ...]
    group_seeds_JP: tuple[tuple[int, ...], ...]
    behaviour_JPGC: Tensor | None
    version_P: Tensor


def step_batch(groups: Sequence[ScoredGroup], objective: ObjectiveConfig) -> StepBatch:
    """Advantages, and which groups and completions count.

    A completion without a verdict is excluded from both sums; a group with fewer than 2 valid completions is left
    out and counted as quarantined; a group without signal is counted, and left out if `zero_signal` is ``drop``.
    """
    if not groups:
        raise ValueError("a learner step needs at least one group")
    rewards_PG, valid_PG = _rewards(groups)
    std_P = group_std(rewards_PG, valid_PG)
    advantages_PG = _advantages(groups, rewards_PG, valid_PG, objective)
    enough_P = valid_PG.sum(dim=1) >= 2
    zero_signal_P = enough_P & torch.tensor([scored.zero_signal for scored in groups])
    kept_P = enough_P if objective.zero_signal == "keep" else enough_P & ~zero_signal_P
    kept = [row for row in range(len(groups)) if kept_P[row]]
    masks = [groups[row].group.loss_mask_GC & valid_PG[row].numpy()[:, None] for row in kept]
    loss_mask_PGC = np.stack(masks) if masks else np.zeros((0, *groups[0].group.tokens_GC.shape), dtype=bool)
    valid_advantages = advantages_PG[kept_P][valid_PG[kept_P]]
    metrics = {
        "groups": float(len(groups)),
        "zero_signal_share": float(zero_signal_P.float().mean()),
        "quarantined_groups": float((~enough_P).sum()),
        "excluded_completions": float((~valid_PG).sum()),
        "tokens_trained": float(loss_mask_PGC.sum()),
        "advantage_abs_mean": float(valid_advantages.abs().mean()) if len(valid_advantages) else 0.0,
        "advantage_max": float(valid_advantages.max()) if len(valid_advantages) else 0.0,
        "advantage_min": float(valid_advantages.min()) if len(valid_advantages) else 0.0,
        "group_reward_std": float(std_P[enough_P].mean()) if bool(enough_P.any()) else 0.0,
    }
    return StepBatch(
        tuple(groups[row] for row in kept),
        advantages_PG[kept_P],
        loss_mask_PGC,
        tokens=int(loss_mask_PGC.sum()),
        sequences=int(loss_mask_PGC.any(axis=2).sum()),
        metrics=metrics,
    )


def shard(
    batch: StepBatch,
    objective: ObjectiveConfig,
    pad_id: int,
    rank: int = 0,
    ranks: int = 1,
    micro_groups: int = 1,
    micro_completions: int | None = None,
    device: torch.device | str = "cpu",
    bounds: int = 1,
) -> list[MicroBatch]:
    """The micro-batches of `rank`: equally many on every rank, the last ones of zero weight if a rank has fewer groups.

    Args:
        batch: the whole step.
        objective: for the number of inner updates and the normalisation.
        pad_id: fills prompts of unequal length on the left.
        micro_groups: groups per micro-batch.
        micro_completions: completions of a group per micro-batch; None = all. View 0 is then computed once per part.
        bounds: estimates per token and draw that the groups carry (`estimator.bounds`).
    """
    weights_PGC = token_weights(
        torch.from_numpy(batch.loss_mask_PGC.reshape(-1, batch.loss_mask_PGC.shape[2])),
        objective.normalise == "per_sequence",
        batch.tokens,
        batch.sequences,
    ).reshape(batch.loss_mask_PGC.shape)
    completions = batch.loss_mask_PGC.shape[1]
    part = min(micro_completions or completions, completions)
    parts = [slice(start, start + part) for start in range(0, completions, part)]
    most = -(-len(batch.groups) // ranks)
    own = list(range(rank, len(batch.groups), ranks))
    micro: list[MicroBatch] = []
    for start in range(0, most, micro_groups):
        rows = own[start : start + micro_groups]
        for columns in parts:
            micro.append(_micro_batch(batch, rows, columns, weights_PGC, objective, pad_id, device, bounds))
    return micro


def _micro_batch(
    batch: StepBatch,
    rows: list[int],
    columns: slice,
    weights_PGC: Tensor,
    objective: ObjectiveConfig,
    pad_id: int,
    device: torch.device | str,
    bounds: int,
) -> MicroBatch:
    padding = not rows
    rows = rows or [0]
    groups = [batch.groups[row].group for row in rows]
    loss_mask = batch.loss_mask_PGC[rows][:, columns]
    draws = range(1, objective.mask_draws + 1)
    advantages_PG = batch.advantages_PG[rows][:, columns]
    upper_PG = advantages_PG < 0
    behaviour = None
    if all(group.behaviour_GJC is not None for group in groups):
        stacked_PGJC = np.stack([np.asarray(group.behaviour_GJC)[columns] for group in groups])
        behaviour = _behaviour(stacked_PGJC, upper_PG, objective.mask_draws, bounds).to(device)
    return MicroBatch(
        tokens=replace(
            GroupTokens.of(
                [group.prompt_tokens for group in groups],
                np.stack([group.tokens_GC[columns] for group in groups]),
                np.zeros_like(loss_mask) if padding else loss_mask,
                pad_id,
                device,
                np.stack([group.reveal_step_GC[columns] for group in groups]),
                [group.suffix_tokens for group in groups],
            ),
            upper_PG=upper_PG.to(device),
        ),
        advantages_PG=advantages_PG.to(device),
        weights_PGC=(weights_PGC[rows][:, columns] * (0.0 if padding else 1.0)).to(device),
        seeds_JPG=tuple(
            tuple(tuple(mask_seed(seed, draw) for seed in group.seeds_G[columns]) for group in groups) for draw in draws
        ),
        group_seeds_JP=tuple(tuple(mask_seed(group.group_seed, draw) for group in groups) for draw in draws),
        behaviour_JPGC=behaviour,
        version_P=torch.tensor([group.version for group in groups], device=device),
    )


def _behaviour(stacked_PGJC: np.ndarray, upper_PG: Tensor, draws: int, bounds: int) -> Tensor:
    """float32 [J, P, G, C]; if there are two bounds per draw, the second one where `upper_PG`."""
    if stacked_PGJC.shape[2] != bounds * draws:
        raise ValueError(
            f"behaviour log-probabilities for {stacked_PGJC.shape[2]} draws of masks, the objective has {draws}: "
            "objective.inner_updates, or one with objective.fresh_masks: false"
        )
    found_JPGC = torch.from_numpy(np.ascontiguousarray(stacked_PGJC.transpose(2, 0, 1, 3))).float()
    if bounds == 1:
        return found_JPGC
    return torch.where(upper_PG[..., None], found_JPGC[draws:], found_JPGC[:draws])


def _advantages(
    groups: Sequence[ScoredGroup], rewards_PG: Tensor, valid_PG: Tensor, objective: ObjectiveConfig
) -> Tensor:
    """The advantages of the total reward, or the weighted sum of those of each reward function, normalised.

    A completion on which a reward function has no opinion is left out of that function's baseline.
    """

    def of(values_PG: Tensor, known_PG: Tensor, scaled: bool) -> Tensor:
        values_PG = best_of(values_PG, known_PG, objective.best_of)
        found_PG = ADVANTAGES[objective.advantage](values_PG, known_PG)
        return scale_by_std(found_PG, group_std(values_PG, known_PG)) if scaled else found_PG

    if not objective.per_reward:
        return of(rewards_PG, valid_PG, objective.scale_by_std)
    total_PG = torch.zeros_like(rewards_PG)
    for name, weight in objective.per_reward.items():
        key = part_name(name)
        parts = [[verdict.parts.get(key, math.nan) for verdict in scored.verdicts] for scored in groups]
        values_PG = torch.tensor(parts, dtype=torch.float32)
        total_PG += weight * of(values_PG, valid_PG & ~values_PG.isnan(), scaled=True)
    return total_PG


def _rewards(groups: Sequence[ScoredGroup]) -> tuple[Tensor, Tensor]:
    shapes = {scored.group.tokens_GC.shape for scored in groups}
    if len(shapes) > 1:
        raise ValueError(f"groups of one step must share completions and canvas, got {sorted(shapes)}")
    (completions, _) = next(iter(shapes))
    if any(len(scored.verdicts) != completions for scored in groups):
        raise ValueError(f"a group of {completions} completions has a different number of verdicts")
    rewards_PG = torch.from_numpy(np.stack([scored.rewards_G for scored in groups]))
    return rewards_PG, torch.from_numpy(np.stack([scored.valid_G for scored in groups]))
