"""Held-out problems: the evaluations of a run, and each problem before against after."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from couplet.evaluation.suite import metric_name
from couplet.report.charts import Chart, Drawing, Series, line_chart, number, percent
from couplet.report.highlight import highlighted
from couplet.report.run_data import Run

SHOWN = 4  # most improved problems, and most worsened ones
RATE = "pass_at_1_t1"  # by which problems are compared: it has the most samples


@dataclass(frozen=True)
class Table:
    """Column heads, and a row per evaluation: its name, (mean, interval) of each rate, its AR-ness in words."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[str, str], ...], tuple[str, ...]], ...]


@dataclass(frozen=True)
class Problem:
    """One problem in the first and the last evaluation; rates are shares of its judged samples."""

    problem_id: str
    question: str
    before: float
    after: float
    answers: tuple[tuple[str, str, Markup], ...]  # (evaluation, outcome, text) of the low-temperature answer

    @property
    def change(self) -> float:
        """Percentage points gained."""
        return 100 * (self.after - self.before)


@dataclass(frozen=True)
class Comparison:
    """Every problem, from the most worsened to the most improved, and those to look at."""

    names: tuple[str, str]
    problems: tuple[Problem, ...]

    @property
    def improved(self) -> list[Problem]:
        """The most improved ones, best first."""
        return [problem for problem in reversed(self.problems) if problem.change > 0][:SHOWN]

    @property
    def worsened(self) -> list[Problem]:
        """The most worsened ones, worst first."""
        return [problem for problem in self.problems if problem.change < 0][:SHOWN]

    @property
    def counts(self) -> tuple[int, int, int]:
        """How many improved, stayed, worsened."""
        better = sum(problem.change > 0 for problem in self.problems)
        worse = sum(problem.change < 0 for problem in self.problems)
        return better, len(self.problems) - better - worse, worse


@dataclass(frozen=True)
class HeldOut:
    """The section; `curve` from three evaluations on, `comparison` if two of them counted each problem."""

    table: Table
    levels: Table | None  # pass@1 and, beside it, pass@k of each difficulty level
    curve: Drawing | None
    comparison: Comparison | None

    @property
    def intervals(self) -> bool:
        """Whether the table shows intervals."""
        return any(interval for _, cells, _ in self.table.rows for _, interval in cells)


def held_out(run: Run) -> HeldOut | None:
    """The section; None without an evaluation."""
    if not run.evaluations:
        return None
    return HeldOut(_table(run), _levels(run), _curve(run), _comparison(run))


def _rates(result: Mapping[str, Any]) -> list[str]:
    return [name for name, value in result.items() if isinstance(value, float) and name != "step"]


def _table(run: Run) -> Table:
    names = _rates(next(iter(run.evaluations.values())))
    rows = []
    for name, result in run.evaluations.items():
        cells = tuple(_with_interval(result, key) for key in names)
        orders = tuple(
            f"T = {temperature}: {_value(found, 'local')} local, {_value(found, 'global')} global"
            for temperature, found in (result.get("ar_ness") or {}).items()
        )
        rows.append((name, cells, orders))
    return Table(tuple(metric_name(name, run.section("evaluation")) for name in names), tuple(rows))


def _levels(run: Run) -> Table | None:
    """The high-temperature rates by difficulty level; None if the problems name none."""
    first = next(iter(run.evaluations.values())).get("levels") or {}
    samples = run.section("evaluation").get("samples", "?")
    rows = []
    for name, result in run.evaluations.items():
        found = [(result.get("levels") or {}).get(level, {}) for level in first]
        many = RATE if samples == 1 else f"pass_at_{samples}"
        values = [(one.get(RATE, math.nan), one.get(many, math.nan)) for one in found]
        rows.append((name, tuple((percent(one), f"pass@{samples} {percent(many)}") for one, many in values), ()))
    heads = tuple(f"level {level} ({number(found['problems'])}): pass@1" for level, found in first.items())
    return Table(heads, tuple(rows)) if first else None


def _with_interval(result: Mapping[str, Any], name: str) -> tuple[str, str]:
    mean = percent(float(result.get(name, math.nan)))
    low_high = (result.get("intervals") or {}).get(name)
    return mean, "" if low_high is None else f"[{100 * low_high[0]:.1f}, {100 * low_high[1]:.1f}]"


def _value(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    return number(float(value)) if isinstance(value, (int, float)) else "–"


def _curve(run: Run) -> Drawing | None:
    """Rates against learner steps, from three evaluations on."""
    results = [result for result in run.evaluations.values() if isinstance(result.get("step"), int)]
    if len(results) < 3:
        return None
    series = [
        Series(metric_name(name, run.section("evaluation")), np.array([float(r.get(name, math.nan)) for r in results]))
        for name in _rates(results[0])
    ]
    shown = tuple(one for one in series if np.isfinite(one.values).any())
    steps = np.array([float(result["step"]) for result in results])
    return line_chart(Chart("Evaluations", shown, share=True), steps) if shown else None


def _comparison(run: Run) -> Comparison | None:
    """The first evaluation against the last one."""
    if len(run.evaluations) < 2:
        return None
    (first, before), *_, (last, after) = run.evaluations.items()
    old = _by_problem(before.get("problems"))
    new = _by_problem(after.get("problems"))
    shared = [name for name in old if name in new and old[name][RATE][0] and new[name][RATE][0]]
    if not shared:
        return None
    problems = [
        Problem(
            name,
            old[name]["question"],
            old[name][RATE][1] / old[name][RATE][0],
            new[name][RATE][1] / new[name][RATE][0],
            tuple(
                (evaluation, str(row["outcome"]).replace("_", " "), highlighted(row["answer"]))
                for evaluation, row in ((first, old[name]), (last, new[name]))
            ),
        )
        for name in shared
    ]
    return Comparison((first, last), tuple(sorted(problems, key=lambda p: (p.change, p.before, p.problem_id))))


def _by_problem(rows: Sequence[Mapping[str, Any]] | None) -> dict[str, Mapping[str, Any]]:
    return {row["problem_id"]: row for row in rows or ()}
