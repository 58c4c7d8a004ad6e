"""Typed outcomes of judging one completion. No torch and no ray here."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class Outcome(StrEnum):
    """What became of a completion. Only the first three are verdicts; the others exclude it from training."""

    PASSED = "passed"
    FAILED = "failed"
    FORMAT_ERROR = "format_error"
    INFRA_ERROR = "infra_error"  # the sandbox failed, not the program: no verdict
    QUARANTINED = "quarantined"  # the program kills its worker again and again

    @property
    def is_verdict(self) -> bool:
        """Whether the completion itself was judged, so that it has a reward."""
        return self in (Outcome.PASSED, Outcome.FAILED, Outcome.FORMAT_ERROR)


def part_name(function: str) -> str:
    """The key of a reward function in `Verdict.parts` and in metric names: ``module_name`` for ``module:name``."""
    return re.sub(r"[^a-z0-9_]", "_", function.lower())


@dataclass(frozen=True)
class TestResult:
    """One test of one program. `reason`: wrong_value, exception, exit, timeout, oversize, skipped, ...; empty if passed."""

    __test__ = False  # not a pytest class

    passed: bool
    reason: str = ""
    strength: str = "strong"  # strong | weak: whether the verdict could be forged by the candidate
    cpu_seconds: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """The judgement of one completion.

    `reward` is the weighted sum of `parts` and NaN if `outcome` is not a verdict. `pass_rate` lies in [0, 1].
    """

    outcome: Outcome
    reward: float
    pass_rate: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)  # unweighted value of each reward function
    tests: tuple[TestResult, ...] = ()
    reason: str = ""
    cpu_seconds: float = 0.0
    cached: bool = False


def solved_count(verdicts: Sequence[Verdict]) -> int:
    """How many completions passed all their tests."""
    return sum(verdict.outcome is Outcome.PASSED for verdict in verdicts)


def format_rate(verdicts: Sequence[Verdict]) -> float:
    """Share of the judged completions whose format was accepted; NaN if none was judged."""
    judged = [verdict.outcome for verdict in verdicts if verdict.outcome.is_verdict]
    return sum(outcome is not Outcome.FORMAT_ERROR for outcome in judged) / len(judged) if judged else math.nan
