"""Log-probabilities of given tokens from hidden states, without holding all logits.

The softmax runs over the whole vocabulary in float32, on logits that were never rounded to less. Forward and backward
both process the rows in chunks, so at most one [chunk, V] block of logits exists at a time; the backward pass
recomputes it from the hidden states.

Shapes: N rows, H hidden size, V vocabulary, K target tokens per row.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from couplet.model.cost import default_chunk_rows

_WIDENED_ELEMENTS = 2**22  # of 16-bit head weights that are converted to float32 at a time: 16 MiB


def head_logits(hidden_NH: Tensor, weight_VH: Tensor) -> Tensor:
    """hidden · weightᵀ, [..., V]: accumulated and returned in float32 for 16-bit inputs, else in the input's type.

    Rounded to bfloat16, a logit of 20 would be off by up to 0.06: a 6% error of its probability, and ties.
    """
    if hidden_NH.dtype.itemsize > 2:
        return torch.nn.functional.linear(hidden_NH, weight_VH)
    if not torch.is_grad_enabled() and _widens(hidden_NH.device.type, hidden_NH.dtype):
        logits_NV = torch.mm(hidden_NH.flatten(0, -2), weight_VH.t(), out_dtype=torch.float32)
        return logits_NV.unflatten(0, hidden_NH.shape[:-1])
    wide_NH = hidden_NH.float()
    logits_NV = wide_NH.new_empty(*hidden_NH.shape[:-1], len(weight_VH))
    size = max(1, _WIDENED_ELEMENTS // weight_VH.shape[1])
    for start in range(0, len(weight_VH), size):
        part = slice(start, start + size)
        logits_NV[..., part] = torch.nn.functional.linear(wide_NH, weight_VH[part].float())
    return logits_NV


@cache
def _widens(device: str, dtype: torch.dtype) -> bool:
    """Whether this torch multiplies `dtype` into float32 there: CUDA since torch 2.8, without autograd."""
    few = torch.zeros(8, 8, dtype=dtype, device=device)
    try:
        torch.mm(few, few, out_dtype=torch.float32)
    except (TypeError, RuntimeError):
        return False
    return True


def chunked_logprob(
    hidden_NH: Tensor, weight_VH: Tensor, targets_N: Tensor, chunk_rows: int | None = None, temperature: float = 1.0
) -> Tensor:
    """log softmax(hidden · weightᵀ / temperature) at the target tokens.

    Args:
        hidden_NH: hidden states, any floating type.
        weight_VH: the output head.
        targets_N: int64 token ids, [N], or [N, K] for K tokens that share one row of logits.
        chunk_rows: rows of logits held at a time; None = as many as `default_chunk_rows`.
        temperature: divides the logits; above 0.

    Returns:
        float32 (float64 for float64 input), of the shape of `targets_N`; differentiable in both inputs.
    """
    if hidden_NH.ndim != 2 or weight_VH.ndim != 2 or hidden_NH.shape[1] != weight_VH.shape[1]:
        raise ValueError(
            f"hidden {tuple(hidden_NH.shape)} and weight {tuple(weight_VH.shape)} must be [N, H] and [V, H]"
        )
    if targets_N.shape[:1] != hidden_NH.shape[:1] or targets_N.ndim not in (1, 2):
        raise ValueError(f"targets {tuple(targets_N.shape)} must be [N] or [N, K] with N = {hidden_NH.shape[0]}")
    if temperature <= 0:
        raise ValueError(f"temperature = {temperature}: must be greater than 0")
    chunk_rows = chunk_rows or default_chunk_rows(len(weight_VH), hidden_NH.device.type)
    targets_NK = targets_N if targets_N.ndim == 2 else targets_N[:, None]
    logp_NK: Tensor = _ChunkedLogprob.apply(hidden_NH, weight_VH, targets_NK, chunk_rows, temperature)
    return logp_NK if targets_N.ndim == 2 else logp_NK[:, 0]


def _logits(hidden_nH: Tensor, weight_VH: Tensor, temperature: float) -> Tensor:
    logits_nV = head_logits(hidden_nH, weight_VH)
    return logits_nV if temperature == 1.0 else logits_nV.div_(temperature)


class _ChunkedLogprob(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, targets_NK: Tensor, chunk_rows: int, temperature: float
    ) -> Tensor:
        wide = torch.promote_types(hidden_NH.dtype, torch.float32)
        rows = hidden_NH.shape[0]
        logp_NK = torch.empty(targets_NK.shape, dtype=wide, device=hidden_NH.device)
        log_total_N = torch.empty(rows, dtype=wide, device=hidden_NH.device)
        for start in range(0, rows, chunk_rows):
            part = slice(start, start + chunk_rows)
            logits_nV = _logits(hidden_NH[part], weight_VH, temperature)
            wanted_nK, most_n1 = logits_nV.gather(1, targets_NK[part]), logits_nV.amax(dim=1, keepdim=True)
            # torch.logsumexp, in place of the logits
            log_total_N[part] = logits_nV.sub_(most_n1).exp_().sum(dim=1).log_().add_(most_n1[:, 0])
            logp_NK[part] = wanted_nK - log_total_N[part, None]
            del logits_nV  # before the next block is made
        ctx.save_for_backward(hidden_NH, weight_VH, targets_NK, log_total_N)
        ctx.chunk_rows, ctx.temperature = chunk_rows, temperature
        return logp_NK

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_NK,) = grads
        hidden_NH, weight_VH, targets_NK, log_total_N = ctx.saved_tensors
        need_hidden, need_weight = ctx.needs_input_grad[:2]
        grad_hidden_NH = torch.empty_like(hidden_NH) if need_hidden else None
        grad_weight_VH = torch.zeros_like(weight_VH, dtype=log_total_N.dtype) if need_weight else None
        for start in range(0, hidden_NH.shape[0], ctx.chunk_rows):
            part = slice(start, start + ctx.chunk_rows)
            hidden_nH, grad_nK = hidden_NH[part], grad_NK[part] / ctx.temperature
            # d logp[target] / d logits = onehot(target) - softmax
            block_nV = _logits(hidden_nH, weight_VH, ctx.temperature).sub_(log_total_N[part, None]).exp_()
            block_nV.mul_(-grad_nK.sum(dim=1, keepdim=True)).scatter_add_(1, targets_NK[part], grad_nK)
            block_nV = block_nV.to(weight_VH.dtype)
            if grad_hidden_NH is not None:
                grad_hidden_NH[part] = torch.mm(block_nV, weight_VH)
            if grad_weight_VH is not None and grad_weight_VH.dtype == block_nV.dtype:
                grad_weight_VH.addmm_(block_nV.t(), hidden_nH)
            elif grad_weight_VH is not None:
                grad_weight_VH += torch.mm(block_nV.t(), hidden_nH)
            del block_nV  # before the next block is made
        if grad_weight_VH is not None:
            grad_weight_VH = grad_weight_VH.to(weight_VH.dtype)
        return grad_hidden_NH, grad_weight_VH, None, None, None
