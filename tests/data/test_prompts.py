"""Prompts of problems: the length limit, the system message, the refusal of mask tokens."""

from functools import partial

import pytest

from couplet.configs.schema import ProblemsConfig
from couplet.data.formats.wording import ANSWER_PREFIX
from couplet.data.infilling import around_canvas
from couplet.data.problem import Problem
from couplet.data.problem_sets import load_problems
from couplet.data.prompts import encode_prompts, evaluation_requests, with_prefix
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


def test_an_infilling_problem_is_asked_around_its_canvas():
    tokenizer = tiny_tokenizer()
    problems = [*load_problems("katas:heldout-infill", limit=2), *load_problems("katas:heldout", limit=1)]
    around = partial(around_canvas, encode=tokenizer.encode, end=1)
    found = encode_prompts(problems, tokenizer.chat_prompt, ProblemsConfig(), tokenizer.id(MASK), around)
    for problem, prompt, suffix in zip(problems[:2], found.prompts, found.suffixes):
        assert tokenizer.decode(prompt).endswith(f"```python\n{problem.code_prefix}")
        assert tokenizer.decode(suffix[:-1]) == f"{problem.suffix}\n```" and suffix[-1] == 1
    assert len(found.suffixes[2]) == 0
    few = found.take([1, 2])
    assert [len(request.suffix_tokens) for request in evaluation_requests(few, 1, 0)] == [len(found.suffixes[1]), 0]
    limit = ProblemsConfig(max_prompt_tokens=len(found.prompts[0]) + len(found.suffixes[0]) - 1)
    shorter = encode_prompts(problems[:1] + problems[2:], tokenizer.chat_prompt, limit, tokenizer.id(MASK), around)
    assert (shorter.dropped, [p.problem_id for p in shorter.problems]) == (1, [problems[2].problem_id])


def test_without_tokens_around_the_canvas_an_infilling_problem_is_a_question():
    found = encode_prompts(
        load_problems("katas:heldout-infill", limit=1), tiny_tokenizer().chat_prompt, ProblemsConfig(), 4
    )
    assert len(found.suffixes[0]) == 0


def test_an_answer_prefix_ends_the_prompt_and_begins_the_text():
    tokenizer = tiny_tokenizer()
    encode = partial(
        encode_prompts,
        encode=tokenizer.chat_prompt,
        config=ProblemsConfig(),
        mask_id=tokenizer.id(MASK),
        encode_text=tokenizer.encode,
    )
    plain = encode([Problem("a", "Sum.")])
    for prefix, text in (("published", ANSWER_PREFIX), ("Sure: ", "Sure: ")):
        found = encode(with_prefix([Problem("a", "Sum.")], prefix))
        assert found.prompts[0].tolist() == plain.prompts[0].tolist() + tokenizer.encode(text)
        assert evaluation_requests(found.take([0]), 1, 0)[0].answer_prefix == text
    assert evaluation_requests(plain, 1, 0)[0].answer_prefix == ""
    gap = Problem("b", "Fill in.", code_prefix="x = ", suffix="\n")
    assert with_prefix([gap], "published") == [gap]  # its answer begins with the code before the gap
