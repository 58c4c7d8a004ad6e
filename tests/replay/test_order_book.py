"""Seeds and prompts follow from a group's number alone."""

import numpy as np
import pytest

from couplet.data.problem import Problem
from couplet.data.prompts import PromptSet, evaluation_requests
from couplet.training.factory import OrderBook


@pytest.fixture
def book():
    problems = tuple(Problem(f"p/{i}", "q", ("assert f() == 1",)) for i in range(5))
    prompts = tuple(np.array([i], dtype=np.int32) for i in range(5))
    return OrderBook(PromptSet(problems, prompts), completions=3, seed=7)


def test_an_attempt_does_not_change_the_seeds(book):
    first, again = book.request(3, 0), book.request(3, 4)
    assert (first.attempt, again.attempt) == (0, 4)
    assert first.seeds_G == again.seeds_G
    assert first.group_seed == again.group_seed
    assert first.group_id == again.group_id


def test_no_two_completions_of_a_run_share_a_seed(book):
    seeds = [seed for number in range(50) for seed in book.request(number, 0).seeds_G]
    seeds += [book.request(number, 0).group_seed for number in range(50)]
    assert len(set(seeds)) == len(seeds) == 200


def test_another_run_seed_gives_other_seeds_and_another_order(book):
    other = OrderBook(book.prompts, 3, seed=8)
    assert not set(book.request(0, 0).seeds_G) & set(other.request(0, 0).seeds_G)
    order = [[b.request(n, 0).group_id.problem for n in range(40)] for b in (book, other)]
    assert order[0] != order[1]


def test_prompt_and_problem_belong_together(book):
    for number in range(12):
        request = book.request(number, 0)
        assert request.problem_id == book.problem(number).problem_id == f"p/{request.prompt_tokens[0]}"


def test_evaluation_asks_every_problem_once_with_seeds_of_its_own(book):
    requests = evaluation_requests(book.prompts, samples=2, seed=1)
    assert [request.group_id.problem for request in requests] == [0, 1, 2, 3, 4]
    trained = {seed for number in range(5) for seed in book.request(number, 0).seeds_G}
    evaluated = [seed for request in requests for seed in request.seeds_G]
    assert len(set(evaluated)) == 10 and not trained & set(evaluated)
