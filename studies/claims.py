"""Whether a claim holds: paired differences over seeds, their interval, and the words of the verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from couplet.configs.markdown import markdown_table

REPRODUCED = "reproduced"
CONTRADICTED = "not reproduced, the opposite was measured"
FEW_SEEDS = "undecided: fewer than two seeds"
HOW = (
    "Differences are paired by seed and positive if the claim holds; the interval is Student's t at 95% over seeds. A "
    "claim is reproduced if the interval is above zero, not reproduced if it is below zero, and otherwise undecided."
)
# 97.5% of Student's t, by seeds.
T_QUANTILES = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26, 11: 2.228, 12: 2.201}


def t_quantile(seeds: int) -> float:
    """Half the width of a 95% t interval, in standard errors; above 12 seeds that of 12, up to 12% too wide."""
    return T_QUANTILES[min(seeds, max(T_QUANTILES))]


def spread(values: Sequence[float | None]) -> dict[str, float]:
    """Mean and standard deviation (ddof 1, 0 for one value) over seeds; None and NaN are left out."""
    known = np.array([value for value in values if value is not None and math.isfinite(value)], dtype=float)
    if known.size == 0:
        return {"mean": math.nan, "std": math.nan}
    return {"mean": float(known.mean()), "std": float(known.std(ddof=1)) if known.size > 1 else 0.0}


def paired_test(gaps: Sequence[float]) -> dict[str, Any]:
    """Student's t test of paired differences, one per seed, positive if the claim holds; NaN is left out.

    Returns:
        `gaps` as given, `mean`, `std`, `half` (half the width of the 95% interval; NaN below two seeds), `verdict`.
    """
    known = [gap for gap in gaps if math.isfinite(gap)]
    found = spread(known)
    if len(known) < 2:
        return {"gaps": list(gaps), **found, "half": math.nan, "verdict": FEW_SEEDS}
    half = t_quantile(len(known)) * found["std"] / math.sqrt(len(known))
    if abs(found["mean"]) <= half:
        verdict = f"undecided, {sum(gap > 0 for gap in known)} of {len(known)} seeds in favour"
    else:
        verdict = REPRODUCED if found["mean"] > 0 else CONTRADICTED
    return {"gaps": list(gaps), **found, "half": half, "verdict": verdict}


def compared(
    claim: str, measured: str, mine: Mapping[int, float], others: Mapping[int, float]
) -> dict[str, Any] | None:
    """A claim and the `paired_test` of two values per seed, `mine` minus `others`; None if no seed has both."""
    gaps = [value - others[seed] for seed, value in mine.items() if seed in others]
    return {"claim": claim, "measured": measured, **paired_test(gaps)} if gaps else None


def plus_minus(found: Mapping[str, float] | None, digits: int, scale: float = 1.0, sign: str = "") -> str:
    """`mean ± deviation` of a `spread`; a dash if there is none."""
    if found is None or not math.isfinite(found["mean"]):
        return "–"
    return f"{scale * found['mean']:{sign}.{digits}f} ± {scale * found['std']:.{digits}f}"


def claim_table(claims: Sequence[Mapping[str, Any]]) -> str:
    """Claims as Markdown: rows with `claim`, `measured` and what `paired_test` gives."""
    rows = []
    for claim in claims:
        each = ", ".join(_signed(gap) for gap in claim["gaps"])
        mean, half = claim["mean"], claim["half"]
        interval = f"[{mean - half:+.3f}, {mean + half:+.3f}]" if math.isfinite(half) else "–"
        rows.append([claim["claim"], claim["measured"], each, f"{_signed(mean)} {interval}", claim["verdict"]])
    table = markdown_table(("claim", "measured", "per seed", "mean [95%]", "verdict"), rows, "lllrl")
    return f"{HOW}\n\n{table}"


def _signed(value: float) -> str:
    return f"{value:+.3f}" if math.isfinite(value) else "–"
