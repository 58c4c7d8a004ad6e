"""Routines: splits that share nothing, tests that catch what a wrong answer would be, levels that are lengths."""

from __future__ import annotations

import re

import pytest

from couplet.data.katas import routines
from couplet.data.problem_sets import load_problems
from couplet.data.sources import open_source


def passes(program, problem):
    """Whether a program fulfils every test of a problem."""
    scope = {}
    exec(program, scope)
    try:
        for test in problem.tests:
            exec(test, scope)
    except AssertionError:
        return False
    return True


def test_splits_share_no_routine_and_long_alone_has_the_highest_level():
    found = {split: routines.members(split) for split in routines.SPLITS}
    names = [routine for members in found.values() for routine in members]
    assert len(set(names)) == len(names)
    levels = {split: {len(routine.steps) for routine in members} for split, members in found.items()}
    assert levels == {"tune": {1, 2, 3}, "rl": {1, 2, 3}, "heldout": {1, 2, 3}, "long": {4}}


def test_a_level_of_a_split_is_a_part_of_it():
    parts = [routine for level in (1, 2, 3) for routine in routines.members(f"rl-{level}")]
    assert parts == routines.members("rl") and {len(routine.steps) for routine in routines.members("rl-2")} == {2}


@pytest.mark.parametrize("split", ["heldout", "long"])
def test_canonical_solutions_pass_and_rivals_fail(split):
    for routine in routines.members(split)[::7]:
        problem = routines.make_problem(routine)
        assert passes(problem.canonical_solution, problem) and len(set(problem.tests)) == routines.TESTS
        own = routines._outputs(routine)
        for rival in routines._rivals(routine):
            if routines._outputs(rival) != own:
                assert not passes(rival.program, problem), (problem.problem_id, rival.name)


def test_every_step_counts():
    """Without any one of its steps a routine computes something else."""
    for routine in routines.members("rl")[::5]:
        for place in range(len(routine.steps)):
            less = routines.Routine((*routine.steps[:place], *routine.steps[place + 1 :]), routine.result)
            assert routines._outputs(less) != routines._outputs(routine)


def test_the_seed_chooses_wording_and_order_but_not_the_problems():
    first, second = load_problems("routines:heldout", seed=0), load_problems("routines:heldout", seed=1)
    assert [p.problem_id for p in first] != [p.problem_id for p in second]
    assert {p.problem_id for p in first} == {p.problem_id for p in second}
    assert not any(re.search(r"\d", p.question) for p in first)


def test_the_corpus_answers_every_question_of_a_split():
    (shard,) = open_source("routines:tune-1")
    rows = [row for _, row in shard.read(0)]
    assert len(rows) == 2 * len(routines.members("tune-1"))
    assert all(row["answer"].startswith("```python\ndef f(xs):\n") and row["answer"].endswith("\n```") for row in rows)


def test_authors_differ_in_the_name_of_the_result_alone():
    problems = {r.question(n): routines.make_problem(r) for r in routines.members("tune-2")[:60] for n in (0, 1)}
    worded = [(question, text) for question, text in routines.corpus_pairs("tune-2") if question in problems]
    assert len(worded) == 120 and 20 < sum("return result" in text for _, text in worded) < 60
    for question, text in worded:
        assert passes(text.removeprefix("```python\n").removesuffix("\n```"), problems[question])


@pytest.mark.parametrize("split", ["nothing", "tune-4", "long-1", "rl-x", "rl-"])
def test_an_unknown_split_is_refused_by_name(split):
    with pytest.raises(ValueError, match=f"no split '{split}'"):
        routines.members(split)
