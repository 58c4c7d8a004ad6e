"""The path study as a page, a figure and data: a table of the stages, and a verdict on each claim of the paper."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from couplet.configs.markdown import markdown_table
from couplet.evaluation.figures import COLOURS, STYLE, legend_below, new_figure
from couplet.studies.claims import plus_minus, spread
from couplet.studies.page import page, write_study
from couplet.studies.path_claims import HIGH, HIGHEST, LOW, RL_STAGE, Rows, claims, mask_claims, value

COLUMNS = (
    ("pass@1, T = 0.2", LOW, "pass@1"),
    ("pass@1, T = 1.0", HIGH, "pass@1"),
    ("pass@8, T = 1.0", HIGH, "pass@8"),
    ("format, T = 1.0", HIGH, "format"),
    ("local AR-ness, T = 0.2", LOW, "local"),
    ("local, T = 1.2", HIGHEST, "local"),
    ("global, T = 0.2", LOW, "global"),
    ("global, T = 1.2", HIGHEST, "global"),
)
PERCENT = ("pass@1", "pass@8", "format")


def write_path_page(rows: Rows, out: Path, facts: Mapping[str, Any], ablations: Path | None = None) -> dict[str, Any]:
    """Write `path.md`, `path.json`, `path.png` and `.svg`.

    Args:
        rows: one per seed, stage and decoding (`studies.path_measure.measure_policy`, with `seed` and `stage`).
        out: folder.
        facts: seeds, stages, steps, problems and overrides of the study.
        ablations: `ablations.json`, for the claim about masks.
    """
    study = {**facts, "claims": claims(rows, int(facts["steps"])) + mask_claims(ablations), "rows": list(rows)}
    write_study(out, "path", study, markdown(study), path_figure(rows, int(facts["steps"])))
    return study


def markdown(study: Mapping[str, Any]) -> str:
    """The page, without the discussion that a person adds."""
    rows = study["rows"]
    stages = list(dict.fromkeys(row["stage"] for row in rows))
    seeds = list(dict.fromkeys(row["seed"] for row in rows))
    return page(
        "path",
        {**study, "seeds": seeds},
        rl_stage=RL_STAGE,
        start=stages[-2],
        after_each_stage=_stages(rows, stages, seeds, int(study["steps"])),
        before_and_after=_decodings(rows, stages[-2:], seeds),
    )


def _stages(rows: Rows, stages: Sequence[str], seeds: Sequence[int], steps: int) -> str:
    forms = {row["stage"]: row["form"] for row in rows}
    lines = [
        [
            stage,
            forms[stage],
            *(_cell([value(rows, s, stage, t, steps, name) for s in seeds], name) for _, t, name in COLUMNS),
        ]
        for stage in stages
    ]
    return markdown_table(["stage", "prompt and decoding", *(head for head, _, _ in COLUMNS)], lines, "llr")


def _decodings(rows: Rows, stages: Sequence[str], seeds: Sequence[int]) -> str:
    names = ("pass@1", "pass@8", "local", "global")
    lines = []
    for stage in stages:
        for temperature, steps in dict.fromkeys((r["temperature"], r["steps"]) for r in rows if r["stage"] == stage):
            cells = [_cell([value(rows, s, stage, temperature, steps, n) for s in seeds], n) for n in names]
            lines.append([stage, f"{temperature:g}", str(steps), *cells])
    heads = ("stage", "temperature", "steps", "pass@1", "pass@8", "local AR-ness", "global AR-ness")
    return markdown_table(heads, lines, "lr")


def path_figure(rows: Rows, steps: int) -> Figure:
    """Pass rates and AR-ness after each stage, and pass@1 against denoising steps before and after RL."""
    stages = list(dict.fromkeys(row["stage"] for row in rows))
    seeds = list(dict.fromkeys(row["seed"] for row in rows))
    with mpl.rc_context(STYLE):
        figure, (passing, order, halving) = new_figure(3, columns=3, width=13.0, height=4.6)
        for colour, (label, temperature, name) in zip(COLOURS, COLUMNS[:3]):
            curves = [[value(rows, s, stage, temperature, steps, name) for stage in stages] for s in seeds]
            _line(passing, range(len(stages)), curves, colour, label)
        for colour, (label, temperature, name) in zip(COLOURS, COLUMNS[4:]):
            curves = [[value(rows, s, stage, temperature, steps, name) for stage in stages] for s in seeds]
            _line(order, range(len(stages)), curves, colour, label)
        for axes in (passing, order):
            axes.set_xticks(range(len(stages)), stages, rotation=25, ha="right")
        paces = (steps // 2, steps, 2 * steps)
        for colour, stage in zip(COLOURS[1:], stages[-2:]):
            curves = [[value(rows, s, stage, HIGH, pace, "pass@1") for pace in paces] for s in seeds]
            _line(halving, paces, curves, colour, stage)
        halving.set_xscale("log", base=2)
        halving.set_xticks(paces, [str(pace) for pace in paces])
        halving.minorticks_off()
        halving.set_xlabel("denoising steps")
        for axes, title in ((passing, "problems solved"), (order, "AR-ness@1"), (halving, "pass@1 at T = 1")):
            axes.set(title=title, ylim=(0.0, None))
            legend_below(axes, columns=2)
        for axes in (passing, halving):
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    return figure


def _line(axes: Axes, places: Sequence[int], curves: Sequence[Sequence[float]], colour: str, label: str) -> None:
    """Mean over seeds as a line, every seed as a dot."""
    values_SN = np.array(curves, dtype=float)
    axes.plot(places, values_SN.mean(axis=0), color=colour, label=label)
    for values_N in values_SN:
        axes.plot(places, values_N, ".", color=colour, alpha=0.45)


def _cell(values: Sequence[float], name: str) -> str:
    scale, digits = (100, 1) if name in PERCENT else (1, 2)
    known = [value for value in values if math.isfinite(value)]
    return f"{scale * known[0]:.{digits}f}" if len(known) == 1 else plus_minus(spread(known), digits, scale)
