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

_HEAD_ELEMENTS = 2**26  # logits that one product with the head gives
_CACHED_ELEMENTS = (
    2**18
)  # of them that a CPU takes through softmax, filters and draw together: 1 MiB stays in its cache


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
    for part, z_NV in _logit_blocks(policy, config, hidden_NH):
        z_NK, ids_NK = keep_nucleus(z_NV, config.top_p, config.top_k)
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
    for part, z_NV in _logit_blocks(policy, config, hidden_NH):
        z_NK, ids_NK = keep_nucleus(z_NV, config.top_p, config.top_k)
        tokens.append(_token_of(draw(z_NK, u_N[part], config.temperature), ids_NK))
        entropies.append(entropy(z_NK))
    return torch.cat(tokens), torch.cat(entropies)


def _token_of(column_N: Tensor, ids_NK: Tensor | None) -> Tensor:
    return column_N if ids_NK is None else ids_NK.gather(1, column_N.unsqueeze(1)).squeeze(1)


def _logit_blocks(policy: DiffusionPolicy, config: SamplerConfig, hidden_NH: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """(rows, their logits after the temperature): the head on many rows at a time, on a CPU the rest on few."""
    many = max(1, _HEAD_ELEMENTS // policy.config.vocab_size)
    few = max(1, _CACHED_ELEMENTS // policy.config.vocab_size) if hidden_NH.device.type == "cpu" else many
    for start in range(0, len(hidden_NH), many):
        logits_NV = policy.head(hidden_NH[start : start + many])
        for first in range(0, len(logits_NV), few):
            z_NV = scaled_logits(logits_NV[first : first + few], policy.token_ids.mask, config.temperature)
            yield slice(start + first, start + first + len(z_NV)), z_NV
