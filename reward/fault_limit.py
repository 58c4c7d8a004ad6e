"""The share of samples that a run may lose to faults before it stops."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

from couplet.configs.schema import ConfigError
from couplet.data.trajectory import ScoredGroup
from couplet.data.verdict import Outcome, Verdict

DEATHS = {role: f"its {role} workers died" for role in ("rollout", "reward")}


class FaultShareLimit:
    """Stops a run that loses too many samples: more than `limit` of at least `minimum` judged so far.

    Lost are samples without a verdict because the sandbox failed or because their workers died repeatedly; a program
    that is quarantined for what it does to its own sandbox is not.
    """

    def __init__(self, limit: float, minimum: int = 64) -> None:
        self.limit = limit
        self.minimum = minimum
        self.samples = 0
        self.faults: Counter[str] = Counter()  # by reason

    def count(self, verdicts: Sequence[Verdict]) -> None:
        """Count the samples of one group; `ConfigError` past the limit."""
        self.samples += len(verdicts)
        self.faults.update(v.reason or "unknown" for v in verdicts if _is_fault(v))
        lost = self.faults.total()
        if self.samples >= self.minimum and lost > self.limit * self.samples:
            reasons = ", ".join(f"{reason} {count}" for reason, count in self.faults.most_common())
            raise ConfigError(
                f"{lost} of {self.samples} samples were lost to infrastructure faults ({reasons}), more than "
                f"reward.max_fault_share = {self.limit:g} allows; remove the cause (docs/sandbox.md) and resume"
            )

    def before(self, progress: Callable[[int, ScoredGroup], None] | None) -> Callable[[int, ScoredGroup], None]:
        """`progress`, with each group counted first."""

        def counted(index: int, scored: ScoredGroup) -> None:
            self.count(scored.verdicts)
            if progress is not None:
                progress(index, scored)

        return counted


def workers_died(role: str, samples: int) -> list[Verdict]:
    """The verdicts of samples that repeatedly kill their `role` workers (rollout | reward): quarantined, not scored 0."""
    return [Verdict(Outcome.QUARANTINED, math.nan, reason=DEATHS[role])] * samples


def _is_fault(verdict: Verdict) -> bool:
    died = verdict.outcome is Outcome.QUARANTINED and verdict.reason in DEATHS.values()
    return died or verdict.outcome is Outcome.INFRA_ERROR
