"""How autoregressive a reveal order is (DiffuCoder, arXiv 2506.20639, section 4).

An order is the list of positions p_1, p_2, ... in which tokens were revealed. Left to right gives exactly 1 for both
measures and every k.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence

import numpy as np

from couplet.data.trajectory import answer_length

SCOPES = ("answer", "canvas")


def local_ar_ness(order: Sequence[int], k: int) -> float:
    """Share of reveals that continue a run to the right: p_{s-i} = p_s - i for i = 1..k.

    Virtual reveals p_0 = -1, p_{-1} = -2, ... precede the first one, so a run may begin at position 0.

    Raises:
        ValueError: an empty order, a repeated position, or k below 1.
    """
    _check(order, k)
    path = [*range(-k, 0), *order]
    runs = sum(all(path[s - i] == path[s] - i for i in range(1, k + 1)) for s in range(k, len(path)))
    return runs / len(order)


def global_ar_ness(order: Sequence[int], k: int) -> float:
    """Share of reveals at one of the k leftmost positions still masked.

    Raises:
        ValueError: an empty order, a repeated position, or k below 1.
    """
    _check(order, k)
    return sum(rank < k for rank in masked_ranks(order)) / len(order)


def masked_ranks(order: Sequence[int]) -> list[int]:
    """For each reveal, how many masked positions are left of it: all 0 from left to right."""
    masked = sorted(order)
    ranks = []
    for position in order:
        rank = bisect_left(masked, position)
        ranks.append(rank)
        del masked[rank]
    return ranks


def order_entropy(orders: Iterable[Sequence[int]]) -> float:
    """Entropy in nats of the rank among masked positions at which tokens are revealed, over all reveals of `orders`.

    0 from left to right; towards log(answer length) if reveals jump anywhere among the masked positions.

    Raises:
        ValueError: no reveal at all.
    """
    ranks = [rank for order in orders for rank in masked_ranks(order)]
    if not ranks:
        raise ValueError("no reveal: order entropy needs at least one")
    share_R = np.bincount(ranks) / len(ranks)
    share_R = share_R[share_R > 0]
    return float(-(share_R * np.log(share_R)).sum()) + 0.0


def reveal_order(
    tokens_C: Sequence[int] | np.ndarray,
    reveal_step_C: Sequence[int] | np.ndarray,
    end_ids: Collection[int],
    scope: str = "answer",
    given_C: Sequence[bool] | np.ndarray | None = None,
) -> list[int]:
    """Positions in the order of their reveal, those of one step from left to right.

    With given tokens (infilling) the open positions are numbered 0, 1, 2, ... from left to right, so that filling them
    from left to right gives 1, however many given tokens are between them.

    Args:
        tokens_C: the decoded canvas.
        reveal_step_C: the schedule's step of each position.
        end_ids: tokens that end an answer.
        scope: "answer" takes the positions up to and including the first end token (all without one), "canvas" all.
        given_C: positions whose token was given; they are left out. None = none.

    Raises:
        ValueError: an unknown scope, or positions in it that no step revealed (as after an early stop).
    """
    if scope not in SCOPES:
        raise ValueError(f"scope = {scope!r}: choose one of {', '.join(SCOPES)}")
    length = answer_length(tokens_C, end_ids) if scope == "answer" else len(tokens_C)
    steps = np.asarray(reveal_step_C)[:length]
    if given_C is not None:
        steps = steps[~np.asarray(given_C, dtype=bool)[:length]]
    if (steps < 0).any():
        raise ValueError("some positions were never revealed: use scope='answer' if the sampler stops early")
    order: list[int] = np.argsort(steps, kind="stable").tolist()
    return order


def _check(order: Sequence[int], k: int) -> None:
    if len(order) == 0:
        raise ValueError("the order is empty: AR-ness needs at least one reveal")
    if len(set(order)) != len(order):
        raise ValueError("a position is duplicated in the order: each is revealed once")
    if k < 1:
        raise ValueError(f"k = {k}: must be at least 1")
