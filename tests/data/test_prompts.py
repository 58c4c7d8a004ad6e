"""Prompts of problems: the length limit, the system message, the refusal of mask tokens."""

import pytest

from couplet.configs.schema import ProblemsConfig
from couplet.data.problem import Problem
from couplet.data.problem_sets import load_problems
from couplet.data.prompts import encode_prompts
from couplet.data.tokenizer import MASK, tiny_tokenizer


def encode(question, system=None):
    return [len(system or "")] + [int(word) for word in question.split()]


PROBLEMS = [Problem("a", "1 2"), Problem("b", "1 2 3 4"), Problem("c", "5", metadata={"system": "xyz"})]


def test_long_prompts_are_dropped_or_lose_their_beginning_and_are_counted():
    found = encode_prompts(PROBLEMS, encode, ProblemsConfig(max_prompt_tokens=3), mask_id=99)
    assert [prompt.tolist() for prompt in found.prompts] == [[0, 1, 2], [3, 5]]
    assert [problem.problem_id for problem in found.problems] == ["a", "c"] and (found.dropped, found.truncated) == (
        1,
        0,
    )
    cut = encode_prompts(
        PROBLEMS, encode, ProblemsConfig(max_prompt_tokens=3, long_prompts="truncate_left"), mask_id=99
    )
    assert [prompt.tolist() for prompt in cut.prompts] == [[0, 1, 2], [2, 3, 4], [3, 5]]
    assert (cut.dropped, cut.truncated) == (0, 1)


def test_a_mask_token_in_a_prompt_and_an_empty_set_are_refused():
    with pytest.raises(ValueError, match="problem b: the prompt contains the mask token"):
        encode_prompts(PROBLEMS, encode, ProblemsConfig(), mask_id=4)
    with pytest.raises(ValueError, match="none of 3 problems has a prompt of at most"):
        encode_prompts(PROBLEMS, encode, ProblemsConfig(max_prompt_tokens=1), mask_id=99)


def test_a_mask_token_spelled_out_in_a_question_is_text():
    tokenizer = tiny_tokenizer()
    found = encode_prompts([Problem("a", f"Say {MASK}.")], tokenizer.chat_prompt, ProblemsConfig(), tokenizer.id(MASK))
    assert MASK in tokenizer.decode(found.prompts[0])


def test_kata_prompts_stay_under_forty_tokens():
    tokenizer = tiny_tokenizer()
    found = encode_prompts(load_problems("katas:heldout"), tokenizer.chat_prompt, ProblemsConfig(), tokenizer.id(MASK))
    assert len(found) == 120 and max(map(len, found.prompts)) <= 40
