"""The distribution a token is drawn from: temperature, top-p, top-k, and the draw itself.

The nucleus is found without sorting the vocabulary. What is kept is a prefix of the row sorted by (logit, then lower
id), so it is described by its smallest logit and by how many of the tokens tied there belong to it:

* on the CPU a few of the largest logits often hold the whole prefix, and rows are cut down to these candidates; a wide
  nucleus is found from a histogram of the mass, whose decisive bin alone is sorted;
* elsewhere the smallest logit is found by bisection over its bit pattern, a fixed number of passes without a branch on
  data, so that an accelerator never waits for the host; with top-k the k largest suffice.

Shapes: N rows, V vocabulary, K candidates (V for a row that was not cut down).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_CANDIDATES = 128
_SORTED_VOCABULARY = 256  # smaller ones are sorted
_BINS = 4096  # at most; one per four tokens
_NEGATIVE_INFINITY = float("-inf")


def scaled_logits(logits_NV: Tensor, mask_id: int, temperature: float) -> Tensor:
    """float32 logits without the mask token, divided by the temperature (not at 0). Changes a float32 input."""
    z_NV = logits_NV.to(torch.float32)
    z_NV[:, mask_id] = _NEGATIVE_INFINITY
    return z_NV.div_(temperature) if temperature not in (0.0, 1.0) else z_NV


def keep_nucleus(z_NV: Tensor, top_p: float, top_k: int | None) -> tuple[Tensor, Tensor | None]:
    """Apply top-p, then top-k.

    top-p keeps the smallest prefix of the sorted distribution whose mass exceeds `top_p` (the first token always; of
    tied tokens those with lower ids); top-k keeps every token tied with the k-th.

    Args:
        z_NV: float32 logits.
        top_p: 1.0 is off.
        top_k: None is off.

    Returns:
        (z_NK, ids_NK): logits with -inf at what is dropped, and their token ids in ascending order; ids None
        means the whole vocabulary.
    """
    vocab = z_NV.shape[1]
    top_k = None if top_k is None or top_k >= vocab else top_k
    if top_p >= 1.0 and top_k is None:
        return z_NV, None
    if z_NV.device.type == "cpu":
        return _on_the_host(z_NV, top_p, top_k)
    if top_k is None:
        keep_NV = _by_bisection(z_NV, top_p)
    else:
        keep_NV = _among_largest(z_NV, top_p, top_k)
    return z_NV.masked_fill(~keep_NV, _NEGATIVE_INFINITY), None


def draw(z_NK: Tensor, u_N: Tensor, temperature: float) -> Tensor:
    """Column drawn in each row: inverse CDF in token order at `u_N`; the largest logit at temperature 0.

    A dropped token (-inf) is never drawn. Returns int64 [N].
    """
    if temperature == 0.0:
        return z_NK.argmax(dim=1)
    p_NK = torch.softmax(z_NK, dim=1)
    cdf_NK = p_NK.cumsum(dim=1, dtype=torch.float64)
    target_N1 = u_N.double().unsqueeze(1) * cdf_NK[:, -1:]
    column_N = torch.searchsorted(cdf_NK, target_N1, right=True).squeeze(1)  # the sum grows there, so p > 0
    # If rounding left nothing beyond the target: the largest probability.
    return torch.where(column_N < p_NK.shape[1], column_N, p_NK.argmax(dim=1))


def entropy(z_NK: Tensor) -> Tensor:
    """Shannon entropy in nats of each row's softmax, [N]."""
    return torch.special.entr(torch.softmax(z_NK, dim=1)).sum(dim=1)


def _on_the_host(z_NV: Tensor, top_p: float, top_k: int | None) -> tuple[Tensor, Tensor | None]:
    """The fastest method for these logits; branches on the data."""
    vocab = z_NV.shape[1]
    if vocab <= _SORTED_VOCABULARY:
        keep_NV, _ = _keep_sorted(z_NV, None, top_p, top_k)
        return z_NV.masked_fill(~keep_NV, _NEGATIVE_INFINITY), None
    log_total_N1 = z_NV.logsumexp(dim=1, keepdim=True)
    count = _CANDIDATES if top_k is None else top_k + 1
    most_N1 = (z_NV.amax(dim=1, keepdim=True) - log_total_N1).exp_() * count  # an upper bound of the candidates' mass
    if count <= vocab and (top_k is not None or bool((most_N1 > top_p).all())):
        ids_NK = z_NV.topk(count, dim=1, sorted=False).indices.sort(dim=1).values
        z_NK = z_NV.gather(1, ids_NK)
        keep_NK, whole = _keep_sorted(z_NK, log_total_N1, top_p, top_k)
        if whole:
            return z_NK.masked_fill_(~keep_NK, _NEGATIVE_INFINITY), ids_NK
    if top_k is None:
        keep_NV = _by_histogram(z_NV, log_total_N1, top_p)
    else:
        keep_NV = _among_largest(z_NV, top_p, top_k)
    return z_NV.masked_fill(~keep_NV, _NEGATIVE_INFINITY), None


def _keep_sorted(z_NK: Tensor, log_total_N1: Tensor | None, top_p: float, top_k: int | None) -> tuple[Tensor, bool]:
    """Which columns (in order of their ids) are kept, and whether no token outside the columns could be kept.

    `log_total_N1` is the logsumexp over the vocabulary; None if the columns are the vocabulary.
    """
    values_NK, order_NK = z_NK.sort(dim=1, descending=True, stable=True)
    keep_NK = torch.ones_like(values_NK, dtype=torch.bool)
    if top_p < 1.0:
        p_NK = torch.softmax(values_NK, dim=1) if log_total_N1 is None else (values_NK - log_total_N1).exp_()
        mass_NK = p_NK.cumsum(dim=1)
        keep_NK[:, 1:] = mass_NK[:, :-1] <= top_p
    if top_k is not None:
        keep_NK &= values_NK >= values_NK[:, top_k - 1 : top_k]
    smallest_N1 = values_NK.gather(1, keep_NK.sum(dim=1, keepdim=True) - 1)
    whole = bool((values_NK[:, -1:] < smallest_N1).all())
    return torch.zeros_like(keep_NK).scatter_(1, order_NK, keep_NK), whole


def _by_histogram(z_NV: Tensor, log_total_N1: Tensor, top_p: float) -> Tensor:
    """bool [N, V]: whole bins of logits from the top, and of the bin in which the mass is reached, a sorted prefix."""
    p_NV = (z_NV - log_total_N1).exp_()
    high_N1 = z_NV.amax(dim=1, keepdim=True)
    # Tokens below (1 - top_p) / V hold less than 1 - top_p together, so the nucleus ends above them; a little slack.
    low_N1 = log_total_N1 + math.log((1.0 - top_p) / z_NV.shape[1]) - 0.01
    bins = min(_BINS, max(2, z_NV.shape[1] // 4))
    scale_N1 = (bins - 1) / (high_N1 - low_N1)
    bin_NV = ((z_NV - low_N1) * scale_N1).clamp_(0, bins - 1).long()
    mass_NB = p_NV.new_zeros(len(z_NV), bins).scatter_add_(1, bin_NV, p_NV)
    from_top_NB = mass_NB.flip(1).cumsum(1).flip(1)
    decisive_N1 = ((from_top_NB > top_p).sum(dim=1, keepdim=True) - 1).clamp_(min=0)
    above_N1 = from_top_NB.gather(1, decisive_N1) - mass_NB.gather(1, decisive_N1)
    inside_NV = bin_NV == decisive_N1
    inside_z_NV = z_NV.masked_fill(~inside_NV, _NEGATIVE_INFINITY)
    count = int(inside_NV.sum(dim=1).amax())
    ids_NK = inside_z_NV.topk(count, dim=1, sorted=False).indices.sort(dim=1).values
    values_NK, order_NK = inside_z_NV.gather(1, ids_NK).sort(dim=1, descending=True, stable=True)
    share_NK = (values_NK - log_total_N1).exp_()
    keep_NK = above_N1 + share_NK.cumsum(dim=1) - share_NK <= top_p
    keep_NK = torch.zeros_like(keep_NK).scatter_(1, order_NK, keep_NK)
    return (bin_NV > decisive_N1) | (inside_NV & torch.zeros_like(inside_NV).scatter_(1, ids_NK, keep_NK))


def _among_largest(z_NV: Tensor, top_p: float, top_k: int) -> Tensor:
    """bool [N, V] of top-p and top-k together, from the k largest logits; no branch on data."""
    values_NK = z_NV.topk(top_k, dim=1).values
    if top_p >= 1.0:
        return z_NV >= values_NK[:, -1:]
    share_NK = (values_NK - z_NV.logsumexp(dim=1, keepdim=True)).exp_()
    keep_NK = torch.ones_like(values_NK, dtype=torch.bool)
    keep_NK[:, 1:] = share_NK.cumsum(dim=1)[:, :-1] <= top_p
    last_N1 = keep_NK.sum(dim=1, keepdim=True) - 1
    smallest_N1 = values_NK.gather(1, last_N1)
    mass_N1 = torch.where(values_NK > smallest_N1, share_NK, 0.0).sum(dim=1, keepdim=True)
    return _with_ties(z_NV > smallest_N1, z_NV == smallest_N1, mass_N1, share_NK.gather(1, last_N1), top_p)


def _by_bisection(z_NV: Tensor, top_p: float) -> Tensor:
    """bool [N, V] by bisection over the bit patterns of the logits; no branch on data."""
    z_NV = z_NV + 0.0  # -0.0, which has its own bit pattern, becomes 0.0
    p_NV = torch.softmax(z_NV, dim=1)
    bits_NV = z_NV.view(torch.int32)
    keys_NV = bits_NV ^ ((bits_NV >> 31) & 0x7FFFFFFF)  # ordered like the logits
    low_N1 = torch.full_like(keys_NV[:, :1], _key_of_negative_infinity(), dtype=torch.int64)
    high_N1 = keys_NV.amax(dim=1, keepdim=True).long() + 1
    for _ in range(32):
        middle_N1 = (low_N1 + high_N1) >> 1
        exceeds_N1 = torch.where(keys_NV >= middle_N1, p_NV, 0.0).sum(dim=1, keepdim=True) > top_p
        low_N1 = torch.where(exceeds_N1, middle_N1, low_N1)
        high_N1 = torch.where(exceeds_N1, high_N1, middle_N1)
    above_NV = keys_NV > low_N1
    tied_NV = keys_NV == low_N1
    mass_N1 = torch.where(above_NV, p_NV, 0.0).sum(dim=1, keepdim=True)
    share_N1 = torch.where(tied_NV, p_NV, 0.0).amax(dim=1, keepdim=True)
    return _with_ties(above_NV, tied_NV, mass_N1, share_N1, top_p)


def _with_ties(above_NV: Tensor, tied_NV: Tensor, mass_N1: Tensor, share_N1: Tensor, top_p: float) -> Tensor:
    """What is above the smallest kept logit, and of the tokens tied there those whose mass before stays in `top_p`."""
    before_NV = mass_N1 + share_N1 * (tied_NV.cumsum(dim=1, dtype=torch.int32) - 1)
    return above_NV | (tied_NV & (before_NV <= top_p))


def _key_of_negative_infinity() -> int:
    return int(torch.tensor(_NEGATIVE_INFINITY).view(torch.int32).item()) ^ 0x7FFFFFFF
