"""HumanEval and the sets in its form: prompt, entry point, ``def check(candidate)``; also infilling and LeetCodeDataset."""

from __future__ import annotations

from couplet.data.formats.cases import python_tests
from couplet.data.formats.columns import Row, identifier, need, parsed, text
from couplet.data.formats.evalplus import loop_tests
from couplet.data.formats.wording import SYSTEM, completion_question
from couplet.data.problem import Problem


def humaneval(row: Row) -> Problem:
    """HumanEval (Chen et al. 2021): task_id, prompt, entry_point, canonical_solution, test.

    HumanEval+ in this form (the hub's `evalplus/humanevalplus`) has a loop over inputs and results as its test.
    """
    need(row, "HumanEval", "task_id", "prompt", "entry_point", "test")
    prompt, body, entry_point = text(row, "prompt"), text(row, "canonical_solution", None), text(row, "entry_point")
    test = parsed("test", text(row, "test"))
    tests = loop_tests(test, entry_point) or python_tests("test", [test])
    return Problem(
        problem_id=identifier(row, "task_id"),
        question=completion_question(prompt),
        code_prefix=prompt,
        canonical_solution=None if body is None else prompt + body,
        source="humaneval+" if "calls" in tests or "inputs" in tests else "humaneval",
        metadata={"system": SYSTEM},
        **{"entry_point": entry_point, **tests},
    )


def infilling(row: Row) -> Problem:
    """HumanEval-Infilling (Bavarian et al. 2022): HumanEval with a suffix; the canonical solution is the middle."""
    need(row, "HumanEval-Infilling", "task_id", "prompt", "suffix", "entry_point", "test")
    prompt, suffix, middle = text(row, "prompt"), text(row, "suffix"), text(row, "canonical_solution", None)
    question = "Please write the code that is missing between the two parts of the following problem:"
    return Problem(
        problem_id=identifier(row, "task_id"),
        question=f"{question}\n```\n{prompt}```\n```\n{suffix}```\n",
        entry_point=text(row, "entry_point"),
        code_prefix=prompt,
        suffix=suffix,
        canonical_solution=None if middle is None else prompt + middle + suffix,
        source="humaneval-infilling",
        metadata={"system": SYSTEM},
        **python_tests("test", [text(row, "test")]),
    )


def leetcode(row: Row) -> Problem:
    """LeetCodeDataset (Xia et al. 2025): HumanEval's form, the entry point being ``Solution().method``.

    `prompt` holds imports and helper classes that every solution may use; the task is in `query`, or in
    `problem_description` with `starter_code`.
    """
    need(row, "LeetCodeDataset", "task_id", "prompt", "entry_point", "test", "starter_code")
    starter, preamble = text(row, "starter_code"), text(row, "prompt")
    described = f"{text(row, 'problem_description', '').strip()}\n\nStart from:\n```python\n{starter.strip()}\n```\n"
    solution = text(row, "completion", None)
    return Problem(
        problem_id=identifier(row, "task_id"),
        question=text(row, "query", described),
        entry_point=text(row, "entry_point"),
        preamble=parsed("prompt", preamble),
        canonical_solution=None if solution is None else f"{preamble}\n{solution}",
        source="leetcode",
        metadata={"system": SYSTEM, "difficulty": text(row, "difficulty", "")},
        **python_tests("test", [text(row, "test")]),
    )
