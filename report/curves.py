"""Which metrics of the learner steps are drawn, and how: `panels.yaml`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from couplet.evaluation.figures import column
from couplet.report.charts import Chart, Drawing, Series, line_chart, number
from couplet.report.run_data import Run

SHORTEST_STEP = 1e-3  # seconds: with a shorter step the clock had only just been started
TIMED = ("step_seconds", "speedup_reached")


PANELS: list[dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("panels.yaml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Curves:
    """The charts, and the panels in which nothing changed as (title, values): a flat line needs no chart."""

    charts: tuple[Drawing, ...]
    constant: tuple[tuple[str, str], ...]


def curves(run: Run) -> Curves:
    """Every panel with a recorded metric."""
    steps = column(run.metrics, "step")
    charts, constant = [], []
    for panel in PANELS:
        smooth = panel.get("smooth", ())
        series = tuple(Series(name, _metric(run, key), key in smooth) for key, name in panel["curves"].items())
        shown = [one for one in series if np.isfinite(one.values).any()]
        if not shown:
            continue
        if len(steps) > 1 and all(np.nanmin(one.values) == np.nanmax(one.values) for one in shown):
            flat = ", ".join(f"{one.name} {number(np.nanmax(one.values))}" for one in shown)
            constant.append((panel["title"], flat))
            continue
        options = {name: panel[name] for name in ("share", "zero", "spiky") if name in panel}
        charts.append(line_chart(Chart(panel["title"], series, **options), steps))
    return Curves(tuple(charts), tuple(constant))


def _metric(run: Run, name: str) -> np.ndarray:
    """A metric per step; what is relative to a step's duration is left out if no duration was measured."""
    values = column(run.metrics, name)
    if name in TIMED or name.endswith("_idle_share"):
        values[column(run.metrics, "step_seconds") < SHORTEST_STEP] = np.nan
    return values
