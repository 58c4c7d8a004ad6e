"""How questions are worded for an instruct model: as DiffuCoder's paper evaluates (arXiv 2506.20639, tables 5 and 6).

The problem is in a bare fence, for HumanEval after one sentence. There the answer was begun for the model with
`ANSWER_PREFIX`; here an instruct model begins it itself unless `evaluation.answer_prefix` asks for the same.
"""

from __future__ import annotations

SYSTEM = "You are a helpful assistant."
ANSWER_PREFIX = "Here is the code to solve this problem:\n```python\n"


def fenced(problem: str) -> str:
    """The problem in a bare fence."""
    return f"```\n{problem.strip()}\n```\n"


def completion_question(prompt: str) -> str:
    """The question for a function that is to be completed."""
    return f"Please complete the following problem:\n{fenced(prompt)}"
