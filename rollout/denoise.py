"""The denoising loop over one batch of rows with prompts of equal length.

The exact loop never reads a value back from the device: the schedule says how many tokens a step reveals, and the
seeds say which positions order "origin" reveals.

Shapes: B rows, U unique rows, F rows of a forward pass (U at the first, then B), L prompt + canvas + suffix, C canvas,
n open positions per row, k revealed per row, R revealed in all, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from couplet.configs.schema import SamplerConfig
from couplet.model.policy import DiffusionPolicy
from couplet.model.randomness import seed_tensor, uniforms
from couplet.rollout.approximate import approximate_steps
from couplet.rollout.canvas import Canvas, Revealed
from couplet.rollout.draw import confidence, draw_tokens
from couplet.rollout.orders import ORDERS, most_confident
from couplet.rollout.schedule import random_reveal_steps, reveal_counts


def denoise(
    policy: DiffusionPolicy,
    canvas: Canvas,
    config: SamplerConfig,
    trace: Callable[[int, np.ndarray], None] | None = None,
) -> None:
    """Fill the canvas in place, exactly or by the declared approximations that are on.

    Args:
        trace: called after each step with its index and the canvas on the host; forces a synchronisation.
    """
    if config.early_stop or config.block_length is not None or config.confidence_threshold is not None:
        steps = approximate_steps
    else:
        steps = _random_steps if ORDERS[config.order].confidence is None else _ranked_steps
    for step, revealed in steps(policy, canvas, config):
        u_R = uniforms(canvas.seeds_B[revealed.row_R], "token", step, revealed.position_R.unsqueeze(1)).squeeze(1)
        token_R, entropy_R = draw_tokens(policy, config, revealed.hidden_RH, u_R)
        canvas.commit(step, revealed.row_R, revealed.position_R, token_R, entropy_R)
        if trace is not None:
            trace(step, canvas.completion_BC.cpu().numpy())


def _random_steps(policy: DiffusionPolicy, canvas: Canvas, config: SamplerConfig) -> Iterator[tuple[int, Revealed]]:
    """Order "origin": the steps are drawn in advance, so the head runs only where tokens are revealed."""
    length = config.completion_length
    step_BC = random_reveal_steps(seed_tensor(tuple(canvas.seeds)), length, config.steps, config.eps)
    step_BC = step_BC.masked_fill(canvas.given_BC, config.steps)  # after the last step: never
    flat_N = step_BC.flatten().argsort(stable=True)
    counts = step_BC.flatten().bincount(minlength=config.steps)[: config.steps].tolist()
    flat_N = flat_N.to(policy.device, non_blocking=True)
    first, start = True, 0
    for step, count in enumerate(counts):
        if count == 0:
            continue
        flat_R = flat_N[start : start + count]
        row_R, position_R = flat_R // length, flat_R % length
        tokens_FL = canvas.unique_UL if first else canvas.tokens_BL
        source_R = canvas.group_B[row_R] if first else row_R
        width = tokens_FL.shape[1]
        hidden_RH = policy.hidden_at(source_R * width + canvas.prompt_length + position_R, tokens_FL)
        yield step, Revealed(row_R, position_R, hidden_RH)
        first, start = False, start + count


def _ranked_steps(policy: DiffusionPolicy, canvas: Canvas, config: SamplerConfig) -> Iterator[tuple[int, Revealed]]:
    """The orders that reveal the most confident positions, as many as the schedule says."""
    rows, device = len(canvas.seeds), policy.device
    open_Bn = canvas.open_Un[canvas.group_B]  # masked positions, ascending
    row_B1 = torch.arange(rows, device=device).unsqueeze(1)
    first = True
    for step, count in enumerate(reveal_counts(open_Bn.shape[1], config.steps, config.eps, config.schedule)):
        if count == 0:
            continue
        tokens_FL = canvas.unique_UL if first else canvas.tokens_BL
        source_B1 = canvas.group_B.unsqueeze(1) if first else row_B1
        hidden_FnH = _open_states(policy, canvas, tokens_FL, canvas.open_Un if first else open_Bn)
        masked = open_Bn.shape[1]
        if count < masked:
            confidence_Bn = _confidences(policy, canvas, config, step, hidden_FnH, open_Bn, source_B1.squeeze(1))
            noise_Bn = uniforms(canvas.seeds_B, "order", step, open_Bn) if config.alg_temp else None
            chosen_Bk = most_confident(confidence_Bn, count, noise_Bn, config.alg_temp)
        else:
            chosen_Bk = torch.arange(masked, device=device).expand(rows, -1)
        position_Bk = open_Bn.gather(1, chosen_Bk)
        hidden_RH = hidden_FnH[source_B1, chosen_Bk].flatten(0, 1)
        yield step, Revealed(row_B1.expand_as(position_Bk).flatten(), position_Bk.flatten(), hidden_RH)
        taken_Bn = torch.zeros_like(open_Bn, dtype=torch.uint8).scatter_(1, chosen_Bk, 1)
        open_Bn = open_Bn.gather(1, taken_Bn.argsort(dim=1, stable=True)[:, : masked - count])
        first = False


def _open_states(policy: DiffusionPolicy, canvas: Canvas, tokens_FL: Tensor, open_Fn: Tensor) -> Tensor:
    """Hidden states [F, n, H] that predict the masked positions."""
    rows, width = tokens_FL.shape
    start_F1 = torch.arange(0, rows * width, width, device=tokens_FL.device).unsqueeze(1) + canvas.prompt_length
    return policy.hidden_at(start_F1 + open_Fn, tokens_FL)


def _confidences(
    policy: DiffusionPolicy,
    canvas: Canvas,
    config: SamplerConfig,
    step: int,
    hidden_FnH: Tensor,
    open_Bn: Tensor,
    source_B: Tensor,
) -> Tensor:
    """Confidence [B, n] of every masked position, shared by rows of one forward pass unless it needs their draws."""
    order = ORDERS[config.order]
    assert order.confidence is not None
    if order.needs_draw:
        u_N = uniforms(canvas.seeds_B, "token", step, open_Bn).flatten()
        confidence_N = confidence(policy, config, order.confidence, hidden_FnH[source_B].flatten(0, 1), u_N)
        return confidence_N.view(open_Bn.shape)
    confidence_N = confidence(policy, config, order.confidence, hidden_FnH.flatten(0, 1), None)
    return confidence_N.view(hidden_FnH.shape[:2])[source_B]
