"""The sandbox tier of a run is settled when it starts; no worker judges in a weaker one later."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from couplet.data.verdict import Outcome, Verdict

STRENGTH = ("namespace", "landlock", "seccomp", "rlimits")  # strongest first


def accepted(found: Iterable[str]) -> tuple[str, ...]:
    """The tiers a run accepts whose workers started in tiers `found`: those and all that are stronger."""
    tiers = sorted(set(found))
    ranked = [STRENGTH.index(tier) for tier in tiers if tier in STRENGTH]
    stronger = STRENGTH[: max(ranked) + 1] if ranked else ()
    return (*stronger, *(tier for tier in tiers if tier not in STRENGTH))


def refuse(tier: str, tiers: Sequence[str], samples: int) -> list[Verdict] | None:
    """Faults instead of verdicts if `tier` is not one of the accepted `tiers`; None if it may judge.

    A tier that no longer works is an infrastructure fault: judged elsewhere, else excluded and counted.
    """
    if not tiers or tier in tiers:
        return None
    return [Verdict(Outcome.INFRA_ERROR, math.nan, reason=f"tier_{tier}")] * samples
