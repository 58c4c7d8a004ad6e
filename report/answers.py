"""The completions of the report: best, worst and random ones of the last steps, and the distribution of rewards."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from couplet.data.fingerprint import fingerprint
from couplet.data.verdict import Outcome
from couplet.report.charts import Drawing, histogram, number, percent
from couplet.report.highlight import MOST_CHARACTERS, highlighted
from couplet.report.player import Denoising, denoising, question
from couplet.report.run_data import Run

SHOWN = 4  # of the best, of the worst, and of the random ones
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Answer:
    """One completion with its verdict."""

    problem_id: str
    reward: str
    outcome: str
    passed: bool
    origin: str  # step and version
    tests: tuple[bool, ...]
    pass_rate: str
    reason: str
    question: str
    text: Markup
    is_cut: bool
    denoising: Denoising | None


@dataclass(frozen=True)
class Answers:
    """The section: completions by heading, from learner steps `first` to `last`."""

    first: int
    last: int
    groups: tuple[tuple[str, tuple[Answer, ...]], ...]
    rewards: Drawing


def answers(run: Run) -> Answers | None:
    """The section; None if the run kept no judged completions."""
    judged = _judged(run.completions)
    if not judged:
        return None
    best = choose(judged, highest=True)
    taken = {_key(row) for row in best}
    worst = choose([row for row in judged if _key(row) not in taken], highest=False)
    groups = (("Highest reward", best), ("Lowest reward", worst), ("At random", choose_at_random(judged)))
    return Answers(
        min(row["step"] for row in judged),
        max(row["step"] for row in judged),
        tuple((title, tuple(_answer(row, run) for row in rows)) for title, rows in groups if rows),
        _rewards(_judged(run.first_rewards), judged),
    )


def choose(rows: Sequence[Row], highest: bool, count: int = SHOWN) -> list[Row]:
    """The completions of highest (lowest) reward, newest first among equals, no two of one problem."""
    sign = -1.0 if highest else 1.0
    ranked = sorted(rows, key=lambda row: (sign * row["reward"], -row["step"], row["problem_id"], row["completion"]))
    chosen: dict[str, Row] = {}
    for row in ranked:
        if len(chosen) < count and not math.isnan(row["reward"]):
            chosen.setdefault(row["problem_id"], row)
    return list(chosen.values())


def choose_at_random(rows: Sequence[Row], count: int = SHOWN) -> list[Row]:
    """Completions drawn without a look at their rewards, the same ones whenever the page is written."""
    return sorted(rows, key=lambda row: fingerprint([repr(_key(row))]))[:count]


def _judged(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if Outcome(row["outcome"]).is_verdict]


def _key(row: Row) -> tuple[int, str, int]:
    return row["step"], row["problem_id"], row["completion"]


def _rewards(first: Sequence[Row], last: Sequence[Row]) -> Drawing:
    """Rewards at both ends of the run; of a short run there is one set."""
    samples = {}
    for rows in (first, last):
        if rewards := [row["reward"] for row in rows if math.isfinite(row["reward"])]:
            steps = [row["step"] for row in rows]
            samples[f"steps {min(steps)} to {max(steps)}"] = np.array(rewards)
    return histogram("Reward of the completions (share of them)", samples)


def _answer(row: Row, run: Run) -> Answer:
    outcome = Outcome(row["outcome"])
    return Answer(
        problem_id=row["problem_id"],
        reward=number(row["reward"]),
        outcome=outcome.value.replace("_", " "),
        passed=outcome is Outcome.PASSED,
        origin=f"step {row['step']}, version {row['version']}",
        tests=tuple(row["tests_passed"] or ()),
        pass_rate=percent(row["pass_rate"]),
        reason=(row["reason"] or "").replace("_", " "),
        question=question(row, run),
        text=highlighted(row["text"]),
        is_cut=len(row["text"]) > MOST_CHARACTERS,
        denoising=denoising(row, run),
    )
