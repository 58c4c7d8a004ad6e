"""The published format rule: prose, then exactly one fenced Python block, then nothing.

Source: the code-format reward of coupled-GRPO (Gong et al., arXiv 2506.20639, section 4). An answer is accepted when
the whole text matches the rule; an accepted answer whose code does not parse keeps half. The code that is parsed is
the code that is executed.
"""

from __future__ import annotations

import ast
import re
import warnings
from typing import NamedTuple

from couplet.data.answers import ANY_FENCE, NO_FENCE
from couplet.data.problem import Problem

FORMAT = re.compile(rf"{NO_FENCE}```python\n({NO_FENCE})```\s*")
# As published; it refuses an answer that ends at its fence, and one with blanks after it.
STRICT_FORMAT = re.compile(rf"{NO_FENCE}```python\n({NO_FENCE})```\n")
MAX_CODE = 1 << 20  # characters; longer code counts as code that does not parse


class Formatted(NamedTuple):
    """`score` is 1.0 (accepted), 0.5 (accepted, does not parse) or 0.0; `program` is what would be executed."""

    score: float
    program: str


def read_answer(text: str, problem: Problem, strict: bool = False) -> Formatted:
    """Apply the format rule to a completion's text (already cut at its first end token)."""
    match = (STRICT_FORMAT if strict else FORMAT).fullmatch(text)
    if match is None:
        return Formatted(0.0, "")
    program = whole_program(match.group(1), problem)
    return Formatted(1.0 if parses(program) else 0.5, program)


def whole_program(code: str, problem: Problem) -> str:
    """What is executed for an answer that is a program: the prompt's imports and helpers come first."""
    return f"{problem.code_prefix}\n{code}" if problem.code_prefix and parses(problem.code_prefix) else code


def parses(program: str) -> bool:
    """Whether `program` is Python. Nothing is executed or compiled."""
    if len(program) > MAX_CODE:
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def defines(program: str, name: str | None) -> bool:
    """Whether `program` parses and binds `name` at its top level by a function, a class or an assignment."""
    if name is None or not parses(program):
        return False
    for node in ast.parse(program).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and node.name == name:
            return True
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            return True
    return False


def fenced_code(text: str) -> str:
    """The content of the first fenced block, or the whole text where there is none."""
    fenced = ANY_FENCE.search(text)
    return fenced.group(1) if fenced else text


def program_of_sample(text: str, problem: Problem) -> str:
    """The program of a benchmark sample: a whole program, a fenced block, or a continuation of the prompt."""
    code = fenced_code(text)
    if not problem.code_prefix or defines(code, problem.entry_point):
        return whole_program(code, problem)
    return problem.code_prefix + code
