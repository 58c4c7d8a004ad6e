"""AR-ness by hand: left to right is exactly 1 for every k."""

import math

import pytest

from couplet.data.trajectory import answer_length
from couplet.rollout.ar_ness import (
    global_ar_ness,
    local_ar_ness,
    masked_ranks,
    order_entropy,
    reveal_order,
)


@pytest.mark.parametrize("k", [1, 2, 3, 8, 40])
def test_left_to_right_is_one(k: int) -> None:
    assert local_ar_ness(range(9), k) == 1.0
    assert global_ar_ness(range(9), k) == 1.0


def test_local_counts_runs_to_the_right() -> None:
    order = [0, 1, 4, 5, 6, 2, 3]
    assert local_ar_ness(order, 1) == pytest.approx(5 / 7)  # 0, 1, 5, 6 and 3 follow their left neighbour
    assert local_ar_ness(order, 2) == pytest.approx(3 / 7)  # 0 and 1 (after the virtual -2, -1) and 6
    assert local_ar_ness(order, 3) == pytest.approx(2 / 7)


def test_global_counts_the_leftmost_masked() -> None:
    order = [2, 0, 1, 4, 3]
    assert global_ar_ness(order, 1) == pytest.approx(3 / 5)  # 0, 1 and 3
    assert global_ar_ness(order, 2) == pytest.approx(4 / 5)
    assert global_ar_ness(order, 3) == 1.0


def test_right_to_left() -> None:
    assert local_ar_ness([3, 2, 1, 0], 1) == 0.0
    assert global_ar_ness([3, 2, 1, 0], 1) == 0.25
    assert global_ar_ness([3, 2, 1, 0], 2) == 0.5


def test_a_run_may_begin_at_zero_only() -> None:
    assert local_ar_ness([0], 1) == 1.0
    assert local_ar_ness([1], 1) == 0.0


def test_the_reveal_order_of_an_answer_ends_with_its_first_end_token() -> None:
    tokens, steps = [10, 11, 6, 12, 6], [2, 0, 1, 0, 2]
    assert reveal_order(tokens, steps, {6}) == [1, 2, 0]
    assert reveal_order(tokens, steps, {6}, scope="canvas") == [1, 3, 2, 0, 4]
    assert reveal_order(tokens, steps, {99}) == [1, 3, 2, 0, 4]


def test_tokens_of_one_step_go_left_to_right() -> None:
    assert reveal_order([1, 2, 3, 4], [1, 0, 1, 0], ()) == [1, 3, 0, 2]


def test_positions_no_step_revealed() -> None:
    assert reveal_order([10, 6, 7, 7], [1, 0, -1, -1], {6}) == [1, 0]
    with pytest.raises(ValueError, match="never revealed: use scope='answer'"):
        reveal_order([10, 6, 7, 7], [1, 0, -1, -1], {6}, scope="canvas")


def test_answer_length() -> None:
    assert answer_length([9, 6, 8, 6], {6}) == 2
    assert answer_length([9, 8], {6}) == 2
    assert answer_length([9, 7, 6], {6, 7}) == 2


def test_an_invalid_order_is_rejected() -> None:
    with pytest.raises(ValueError, match="empty"):
        local_ar_ness([], 1)
    with pytest.raises(ValueError, match="duplicated"):
        global_ar_ness([0, 1, 1], 1)
    with pytest.raises(ValueError, match="k = 0"):
        global_ar_ness([0, 1], 0)
    with pytest.raises(ValueError, match="scope = 'all': choose one of answer, canvas"):
        reveal_order([1], [0], (), scope="all")


def test_ranks_among_the_masked_positions() -> None:
    assert masked_ranks([0, 1, 2, 3]) == [0, 0, 0, 0]
    assert masked_ranks([3, 2, 1, 0]) == [3, 2, 1, 0]
    assert masked_ranks([1, 3, 0, 2]) == [1, 2, 0, 0]


def test_order_entropy_is_zero_from_left_to_right() -> None:
    assert order_entropy([[0, 1, 2, 3], [0, 1]]) == 0.0


def test_order_entropy_of_two_equally_frequent_ranks_is_log_two() -> None:
    assert order_entropy([[1, 0]]) == pytest.approx(math.log(2))


def test_order_entropy_needs_a_reveal() -> None:
    with pytest.raises(ValueError, match="at least one"):
        order_entropy([[]])
