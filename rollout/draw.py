"""From hidden states to confidences and drawn tokens, a block of rows at a time.

Shapes: N hidden rows, H hidden size, V vocabulary, K kept tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from couplet.configs.schema import SamplerConfig
from couplet.model.policy import DiffusionPolicy
from couplet.rollout.nucleus import draw, entropy, keep_nucleus, scaled_logits

Rank = Callable[[Tensor, Tensor | None], Tensor]

_BLOCK_ELEMENTS = 2**26  # logits held at a time


def confidence(
    policy: DiffusionPolicy, config: SamplerConfig, rank: Rank, hidden_NH: Tensor, u_N: Tensor | None
) -> Tensor:
    """Confidence of each row, [N]: `rank` of its distribution.

    Args:
        rank: (p_NK, drawn column or None) → confidence; a value of `rollout.orders.ORDERS`.
        u_N: uniforms of the draw if `rank` uses the drawn token.
    """
    return torch.cat([rank(p_NK, drawn_N) for _, p_NK, drawn_N in _ranked_on(policy, config, hidden_NH, u_N)])


def confidence_and_peak(
    policy: DiffusionPolicy, config: SamplerConfig, rank: Rank, hidden_NH: Tensor, u_N: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`confidence`, and the largest probability at temperature 1 without filters and mask token, [N] each."""
    confidences, peaks = [], []
    for z_NV, p_NK, drawn_N in _ranked_on(policy, config, hidden_NH, u_N):
        confidences.append(rank(p_NK, drawn_N))
        untempered_NV = z_NV * (config.temperature or 1.0)
        peaks.append((untempered_NV.amax(dim=1) - untempered_NV.logsumexp(dim=1)).exp_())
    return torch.cat(confidences), torch.cat(peaks)


def _ranked_on(
    policy: DiffusionPolicy, config: SamplerConfig, hidden_NH: Tensor, u_N: Tensor | None
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Per block of rows: logits after the temperature, the distribution to rank on, and the column drawn with `u_N`."""
    for part in _row_blocks(policy, len(hidden_NH)):
        z_NV, z_NK, ids_NK = _filtered(policy, config, hidden_NH[part])
        column_N = None if u_N is None else draw(z_NK, u_N[part], config.temperature)
        if config.rank_on == "unfiltered":
            column_N = None if column_N is None else _token_of(column_N, ids_NK)
            z_NK = z_NV
        yield z_NV, torch.softmax(z_NK, dim=1), column_N


def draw_tokens(
    policy: DiffusionPolicy, config: SamplerConfig, hidden_NH: Tensor, u_N: Tensor
) -> tuple[Tensor, Tensor]:
    """(tokens int64 [N], entropy float32 [N] of the distribution each was drawn from).

    At temperature 0 nothing is drawn; the entropy is that of the filtered distribution at temperature 1.
    """
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
