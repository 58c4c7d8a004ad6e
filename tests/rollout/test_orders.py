"""Confidence of each order on hand-made distributions, and which positions it picks."""

import math

import torch

from couplet.model.randomness import uniforms
from couplet.rollout.orders import ORDERS, most_confident

P = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])


def confidence(name: str, drawn: list[int] | None = None) -> list[float]:
    function = ORDERS[name].confidence
    assert function is not None
    return function(P, None if drawn is None else torch.tensor(drawn)).tolist()


def test_the_four_orders_by_name() -> None:
    assert list(ORDERS) == ["origin", "maskgit_plus", "topk_margin", "entropy"]
    assert ORDERS["origin"].confidence is None
    assert [name for name, order in ORDERS.items() if order.needs_draw] == ["maskgit_plus"]


def test_confidence_by_hand() -> None:
    torch.testing.assert_close(confidence("maskgit_plus", [1, 2]), [0.3, 0.8])
    torch.testing.assert_close(confidence("topk_margin"), [0.2, 0.7])
    entropy = [sum(p * math.log(p + 1e-10) for p in row) for row in P.tolist()]
    torch.testing.assert_close(confidence("entropy"), entropy)


def test_ties_go_to_the_leftmost() -> None:
    scores = torch.tensor([[1.0, 2.0, 1.0, 2.0, 1.0]])
    assert most_confident(scores, 3, None, None).tolist() == [[1, 3, 0]]
    assert most_confident(scores, 3, None, 0.0).tolist() == [[1, 3, 0]]


def test_alg_temp_draws_without_replacement_from_the_softmax() -> None:
    rows = 20_000
    weights = torch.tensor([0.5, 0.3, 0.2])
    noise = uniforms(torch.arange(rows), "order", 0, torch.arange(3))
    picks = most_confident((weights.log() * 0.7).expand(rows, -1), 2, noise, 0.7)
    first = torch.bincount(picks[:, 0], minlength=3) / rows
    torch.testing.assert_close(first, weights, atol=0.012, rtol=0)
    second = torch.bincount(picks[picks[:, 0] == 0][:, 1], minlength=3) / (picks[:, 0] == 0).sum()
    torch.testing.assert_close(second, torch.tensor([0.0, 0.6, 0.4]), atol=0.017, rtol=0)


def test_the_largest_uniform_gives_finite_noise() -> None:
    largest = 1.0 - 2.0**-24  # `uniforms` gives multiples of 2**-24
    noise = torch.tensor([[0.5, largest, 0.5]])
    assert most_confident(torch.tensor([[0.0, -100.0, 0.0]]), 2, noise, 1.0).tolist() == [[0, 2]]
    assert most_confident(torch.tensor([[0.0, -torch.inf, 0.0]]), 2, noise, 1.0).tolist() == [[0, 2]]
