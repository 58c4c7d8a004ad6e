"""The nucleus equals the plain sorted rule on both of its paths, and draws follow the distribution."""

from __future__ import annotations

import pytest
import torch

from couplet.rollout import nucleus
from couplet.rollout.nucleus import draw, entropy, keep_nucleus, scaled_logits

INF = float("inf")


def plain(z: torch.Tensor, top_p: float, top_k: int | None) -> torch.Tensor:
    """Which tokens are kept, by a stable sort of the whole vocabulary."""
    ordered, index = z.sort(dim=1, descending=True, stable=True)
    drop = torch.softmax(ordered, 1).cumsum(1) > top_p
    drop[:, 1:] = drop[:, :-1].clone()
    drop[:, 0] = False
    kept = ~torch.zeros_like(drop).scatter(1, index, drop) if top_p < 1.0 else torch.ones_like(drop)
    if top_k is not None and top_k < z.shape[1]:
        z = z.masked_fill(~kept, -INF)
        kept &= z >= z.topk(top_k, 1).values[:, -1:]
    return kept & (z > -INF)


def kept(z: torch.Tensor, top_p: float, top_k: int | None) -> torch.Tensor:
    z_NK, ids_NK = keep_nucleus(z, top_p, top_k)
    if ids_NK is None:
        return z_NK > -INF
    assert (ids_NK.diff(dim=1) > 0).all()
    return torch.zeros_like(z, dtype=torch.bool).scatter(1, ids_NK, z_NK > -INF)


def without_branches(z: torch.Tensor, top_p: float, top_k: int | None) -> torch.Tensor:
    """The path of an accelerator."""
    if top_k is not None and top_k < z.shape[1]:
        return nucleus._among_largest(z, top_p, top_k) & (z > -INF)
    keep = nucleus._by_bisection(z, top_p) if top_p < 1.0 else torch.ones_like(z, dtype=torch.bool)
    return keep & (z > -INF)


@pytest.mark.parametrize("vocab", [1, 5, 60, 3000])
@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0, 12.0])
@pytest.mark.parametrize("grid", [None, 0.5], ids=["distinct", "tied"])
def test_both_paths_equal_the_plain_rule(vocab: int, scale: float, grid: float | None) -> None:
    z = torch.randn(24, vocab, generator=torch.Generator().manual_seed(vocab)) * scale
    if grid is not None:
        z = (z / grid).round() * grid  # a grid of logits, as bfloat16 gives: many ties
    if vocab > 1:
        z[:, 3] = -INF
    for top_p in (0.03, 0.5, 0.901, 1.0):
        for top_k in (None, 1, 4, 50):
            expected = plain(z, top_p, top_k)
            for path in (kept, without_branches):
                differs = path(z, top_p, top_k) != expected
                assert int(differs.sum()) <= 1, (path.__name__, top_p, top_k)  # one rounding at the edge of the mass


def test_top_p_keeps_the_first_prefix_that_exceeds_it() -> None:
    z = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log()
    assert kept(z, 0.35, None).tolist() == [[False, True, False, False]]
    assert kept(z, 0.45, None).tolist() == [[False, True, False, True]]
    assert kept(z, 0.75, None).tolist() == [[False, True, True, True]]
    assert kept(z, 1e-6, None).tolist() == [[False, True, False, False]]


@pytest.mark.parametrize("path", [kept, without_branches])
def test_tied_tokens_are_kept_from_the_lowest_id(path) -> None:  # type: ignore[no-untyped-def]
    z = torch.zeros(1, 8)
    assert path(z, 0.3, None).tolist() == [[True] * 3 + [False] * 5]
    assert path(-z, 0.3, None).tolist() == [[True] * 3 + [False] * 5]  # minus zero ties with zero


@pytest.mark.parametrize("path", [kept, without_branches])
def test_top_k_keeps_ties_with_the_kth(path) -> None:  # type: ignore[no-untyped-def]
    z = torch.tensor([[1.0, 3.0, 2.0, 2.0, 2.0, 0.0]])
    assert path(z, 1.0, 2).tolist() == [[False, True, True, True, True, False]]
    assert path(z, 0.7, 2).tolist() == [[False, True, True, True, False, False]]  # then top-p cuts among the tied


def test_large_vocabularies_are_cut_down_to_candidates() -> None:
    z = torch.randn(4, 50_000, generator=torch.Generator().manual_seed(0)) * 8
    z_NK, ids_NK = keep_nucleus(z, 0.9, None)
    assert ids_NK is not None and z_NK.shape[1] < 50_000
    assert torch.equal(z.gather(1, ids_NK)[z_NK > -INF], z_NK[z_NK > -INF])


def test_a_wide_nucleus_is_cut_inside_one_bin() -> None:
    z = torch.randn(8, 20_000, generator=torch.Generator().manual_seed(0))
    for grid in (None, 0.25):
        z = z if grid is None else (z / grid).round() * grid
        for top_p in (0.3, 0.9, 0.99):
            by_bins = nucleus._by_histogram(z, z.logsumexp(1, keepdim=True), top_p)
            assert int((by_bins != plain(z, top_p, None)).sum(1).max()) <= 2  # float32 sums of thousands of terms


def test_off_means_untouched() -> None:
    z = torch.randn(3, 9)
    z_NK, ids_NK = keep_nucleus(z, 1.0, None)
    assert z_NK is z and ids_NK is None
    assert keep_nucleus(z, 1.0, 9)[0] is z


def test_the_mask_token_is_taken_out_before_the_temperature() -> None:
    logits = torch.tensor([[2.0, 9.0, 4.0]], dtype=torch.bfloat16)
    assert scaled_logits(logits, 1, 2.0).tolist() == [[1.0, -INF, 2.0]]
    assert scaled_logits(logits, 1, 0.0).tolist() == [[2.0, -INF, 4.0]]


def test_the_inverse_cdf_in_token_order() -> None:
    z = torch.tensor([[0.2, 0.5, 0.3]]).log().repeat(5, 1)
    u = torch.tensor([0.0, 0.19, 0.21, 0.69, 0.71])
    assert draw(z, u, 1.0).tolist() == [0, 0, 1, 1, 2]
    assert draw(z, u, 0.0).tolist() == [1] * 5


def test_a_dropped_token_is_never_drawn_at_the_edges() -> None:
    z = torch.tensor([[-INF, 0.0, -INF, 0.0, -INF]]).repeat(3, 1)
    assert draw(z, torch.tensor([0.0, 0.5, 1 - 2**-24]), 1.0).tolist() == [1, 3, 3]


def test_ties_at_temperature_zero_take_the_lowest_id() -> None:
    assert draw(torch.tensor([[1.0, 2.0, 2.0]]), torch.zeros(1), 0.0).tolist() == [1]


def test_draws_follow_the_distribution() -> None:
    p = torch.tensor([0.05, 0.2, 0.45, 0.3])
    u = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    counts = draw(p.log().expand(20_000, -1), u, 1.0).bincount(minlength=4)
    expected = p * 20_000
    assert ((counts - expected) ** 2 / expected).sum() < 21.1  # 3 degrees of freedom: once in 10,000 seeds


def test_entropy_in_nats() -> None:
    z = torch.tensor([[0.0, 0.0, -INF, -INF], [0.0, -INF, -INF, -INF]])
    torch.testing.assert_close(entropy(z), torch.tensor([0.6931472, 0.0]))
