"""A programming problem as every room sees it.

No torch and no ray here: the reward workers import this module.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Problem:
    """One problem: what the policy is asked and how an answer is judged.

    Attributes:
        problem_id: unique in its set, e.g. ``HumanEval/0``.
        question: the instruction put into the chat template.
        tests: Python test statements, usually ``assert f(1) == 2``; or one ``def check(candidate): ...`` source.
        entry_point: name of the function under test, where the set names one.
        code_prefix: source a continuation continues (HumanEval's prompt); empty elsewhere.
        test_setup: source that runs after the program and before the tests (MBPP's ``test_setup_code``).
        canonical_solution: a whole program that passes, where the set has one.
        inputs: argument lists whose outputs are compared with the canonical solution's (EvalPlus), each a list.
        atol: absolute tolerance of those comparisons; 0 compares exactly.
        source: name of the set the problem comes from.
        metadata: whatever else is worth keeping; plain JSON values.
    """

    problem_id: str
    question: str
    tests: tuple[str, ...] = ()
    entry_point: str | None = None
    code_prefix: str = ""
    test_setup: str = ""
    canonical_solution: str | None = None
    inputs: tuple[Any, ...] = ()
    atol: float = 0.0
    source: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
