"""From hidden states to confidences and drawn tokens, a block of rows at a time.

Shapes: N hidden rows, H hidden size, V vocabulary, K kept tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from configs.schema import SamplerConfig
from model.policy import DiffusionPolicy
from rollout.nucleus import draw, entropy, keep_nucleus, scaled_logits

_BLOCK_ELEMENTS = 2**26  # logits held at a time


def confidence(
    policy: DiffusionPolicy,
    config: SamplerConfig,
    measure: Callable[[Tensor, Tensor | None], Tensor],
    hidden_NH: Tensor,
    u_N: Tensor | None,
) -> Tensor:
    """`measure` of the distribution at each row, [N] (or [N, ...] as it returns).

    Args:
        measure: (p_NK, drawn column or None) → confidence; a value of `rollout.orders.ORDERS`.
        u_N: uniforms of the draw where `measure` looks at the drawn token.
    """
    parts = []
    for part in _row_blocks(policy, len(hidden_NH)):
        z_NV, z_NK, ids_NK = _filtered(policy, config, hidden_NH[part])
        column_N = None if u_N is None else draw(z_NK, u_N[part], config.temperature)
        if config.rank_on == "unfiltered":
            column_N = None if column_N is None else _token_of(column_N, ids_NK)
            z_NK = z_NV
        parts.append(measure(torch.softmax(z_NK, dim=1), column_N))
    return torch.cat(parts)


def draw_tokens(
    policy: DiffusionPolicy, config: SamplerConfig, hidden_NH: Tensor, u_N: Tensor
) -> tuple[Tensor, Tensor]:
    """(tokens int64 [N], entropy float32 [N] of the distribution each was drawn from)."""
    tokens, entropies = [], []
    for part in _row_blocks(policy, len(u_N)):
        _, z_NK, ids_NK = _filtered(policy, config, hidden_NH[part])
        tokens.append(_token_of(draw(z_NK, u_N[part], config.temperature), ids_NK))
        entropies.append(entropy(z_NK))
    return torch.cat(tokens), torch.cat(entropies)


def _filtered(
    policy: DiffusionPolicy, config: SamplerConfig, hidden_NH: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Logits after the temperature, logits of what is kept, and token ids of the latter."""
    z_NV = scaled_logits(policy.head(hidden_NH), policy.token_ids.mask, config.temperature)
    return z_NV, *keep_nucleus(z_NV, config.top_p, config.top_k)


def _token_of(column_N: Tensor, ids_NK: Tensor | None) -> Tensor:
    return column_N if ids_NK is None else ids_NK.gather(1, column_N.unsqueeze(1)).squeeze(1)


def _row_blocks(policy: DiffusionPolicy, rows: int) -> list[slice]:
    """Slices of rows whose logits fit into one block of memory."""
    size = max(1, _BLOCK_ELEMENTS // policy.config.vocab_size)
    return [slice(start, start + size) for start in range(0, rows, size)]
