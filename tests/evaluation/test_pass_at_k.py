"""pass@k against hand-computed numbers, a brute-force count and simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from couplet.evaluation.pass_at_k import bootstrap, estimate, pass_at_k


def test_literal_values() -> None:
    assert pass_at_k(10, 0, 1) == 0.0
    assert pass_at_k(10, 3, 1) == 0.3
    assert pass_at_k(4, 1, 2) == 0.5
    assert pass_at_k(5, 2, 3) == 0.9  # 1 - C(3, 3) / C(5, 3)
    assert pass_at_k(10, 8, 5) == 1.0


@pytest.mark.parametrize("samples,correct,k", [(5, 2, 2), (6, 1, 4), (7, 3, 3), (4, 4, 1)])
def test_equals_the_share_of_subsets_with_a_correct_sample(samples: int, correct: int, k: int) -> None:
    subsets = list(itertools.combinations(range(samples), k))
    share = sum(any(i < correct for i in subset) for subset in subsets) / len(subsets)
    assert pass_at_k(samples, correct, k) == pytest.approx(share, abs=1e-15)


def test_exact_where_binomials_overflow_a_float() -> None:
    assert pass_at_k(10_000, 1, 5_000) == 0.5
    assert pass_at_k(100_000, 2, 1) == 2e-5
    # 1 - (1 - 1/2)(1 - 5000/9999), products of two nearly equal numbers lose this in floating point
    assert pass_at_k(10_000, 2, 5_000) == 1 - 0.5 * (4999 / 9999)


@pytest.mark.parametrize(
    "arguments,message",
    [
        ((4, 2, 5), "at least 5 samples"),
        ((4, 5, 1), "0..num_samples = 4"),
        ((4, -1, 1), "num_correct"),
        ((4, 1, 0), "k = 0"),
    ],
)
def test_impossible_arguments_are_errors(arguments: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pass_at_k(*arguments)


def test_estimate_averages_over_problems() -> None:
    found = estimate([(4, 0), (4, 4), (4, 2)], 1)
    assert found.mean == 0.5 and found.problems == 3
    assert found.low <= found.mean <= found.high


def test_the_interval_is_a_function_of_the_seed() -> None:
    counts = [(8, c % 9) for c in range(40)]
    assert estimate(counts, 1, seed=3) == estimate(counts, 1, seed=3)
    assert estimate(counts, 1, seed=3) != estimate(counts, 1, seed=4)


def test_one_problem_has_no_spread() -> None:
    found = estimate([(8, 2)], 1)
    assert (found.low, found.mean, found.high) == (0.25, 0.25, 0.25)


def test_the_interval_has_the_width_of_the_normal_approximation() -> None:
    values = np.array([0.0, 1.0] * 200)
    found = bootstrap(values)
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.5 / math.sqrt(400), rel=0.08)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    truth, hits, runs = 0.3, 0, 200
    for run in range(runs):
        found = bootstrap((generator.random(100) < truth).astype(float), seed=run, resamples=400)
        hits += found.low <= truth <= found.high
    assert 0.89 <= hits / runs <= 0.99


def test_no_problem_is_an_error() -> None:
    with pytest.raises(ValueError, match="no problem"):
        estimate([], 1)


def test_estimate_prints_percent_with_its_interval() -> None:
    assert str(estimate([(4, 1)], 1)) == "25.0 [25.0, 25.0]"
