"""The published format rule: prose, then exactly one fenced Python block, then nothing.

Source: the code-format reward of coupled-GRPO (Gong et al., arXiv 2506.20639, section 4). An answer is accepted when
the whole text matches the rule; an accepted answer whose code does not parse keeps half. The code that is parsed is
the code that is executed. `data.answers` reads the freer forms of benchmark answers.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from couplet.data.answers import NO_FENCE, continuation, whole_program
from couplet.data.problem import Problem
from couplet.data.syntax import parses

FORMAT = re.compile(rf"{NO_FENCE}```python\n({NO_FENCE})```\s*")
# As published; it refuses an answer that ends at its fence, and one with blanks after it.
STRICT_FORMAT = re.compile(rf"{NO_FENCE}```python\n({NO_FENCE})```\n")


class Formatted(NamedTuple):
    """`score` is 1.0 (accepted), 0.5 (accepted, does not parse) or 0.0; `program` is what would be executed."""

    score: float
    program: str


def read_answer(text: str, problem: Problem, strict: bool = False) -> Formatted:
    """Apply the format rule to a completion's text (already cut at its first end token).

    Infilling: a text without a fence is what was missing between prefix and suffix.
    """
    if problem.suffix and "```" not in text:
        program = continuation(text, problem)
        return Formatted(1.0 if parses(program) else 0.5, program)
    match = (STRICT_FORMAT if strict else FORMAT).fullmatch(text)
    if match is None:
        return Formatted(0.0, "")
    program = whole_program(match.group(1), problem)
    return Formatted(1.0 if parses(program) else 0.5, program)
