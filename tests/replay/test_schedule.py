"""Seeds and prompts follow from a group's number alone."""

import numpy as np
import pytest

from couplet.data.problem import Problem
from couplet.data.prompts import PromptSet, evaluation_requests
from couplet.replay.schedule import Schedule


@pytest.fixture
def schedule():
    problems = tuple(Problem(f"p/{i}", "q", ("assert f() == 1",)) for i in range(5))
    prompts = tuple(np.array([i], dtype=np.int32) for i in range(5))
    return Schedule(PromptSet(problems, prompts), completions=3, seed=7)


def test_an_attempt_does_not_change_the_seeds(schedule):
    first, again = schedule.request(3, 0), schedule.request(3, 4)
    assert (first.attempt, again.attempt) == (0, 4)
    assert first.seeds_G == again.seeds_G
    assert first.group_seed == again.group_seed
    assert first.group_id == again.group_id


def test_no_two_completions_of_a_run_share_a_seed(schedule):
    seeds = [seed for number in range(50) for seed in schedule.request(number, 0).seeds_G]
    seeds += [schedule.request(number, 0).group_seed for number in range(50)]
    assert len(set(seeds)) == len(seeds) == 200


def test_another_run_seed_gives_other_seeds_and_another_sequence(schedule):
    other = Schedule(schedule.prompts, 3, seed=8)
    assert not set(schedule.request(0, 0).seeds_G) & set(other.request(0, 0).seeds_G)
    order = [[b.request(n, 0).group_id.problem for n in range(40)] for b in (schedule, other)]
    assert order[0] != order[1]


def test_prompt_and_problem_belong_together(schedule):
    for number in range(12):
        request = schedule.request(number, 0)
        assert request.problem_id == schedule.problem(number).problem_id == f"p/{request.prompt_tokens[0]}"


def test_evaluation_asks_every_problem_once_with_seeds_of_its_own(schedule):
    requests = evaluation_requests(schedule.prompts, samples=2, seed=1)
    assert [request.group_id.problem for request in requests] == [0, 1, 2, 3, 4]
    trained = {seed for number in range(5) for seed in schedule.request(number, 0).seeds_G}
    evaluated = [seed for request in requests for seed in request.seeds_G]
    assert len(set(evaluated)) == 10 and not trained & set(evaluated)
