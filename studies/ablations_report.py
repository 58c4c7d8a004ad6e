"""The ablation study as Markdown, JSON and a figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from couplet.configs.load import flat
from couplet.configs.markdown import markdown_table
from couplet.evaluation.figures import COLOURS, STYLE, legend_below, new_figure, trailing_mean
from couplet.studies.claims import compared, plus_minus, spread
from couplet.studies.page import page, write_study

BASELINE = "coupled"
GROUPS = {
    "estimators": ("coupled", "lambda2", "full_mask", "decoupled"),
    "weights and times": ("coupled", "half_inverse_t", "weighting_none", "t_range"),
    "advantage": ("leave_one_out", "group_mean"),
    "rollout temperature": ("temperature_1_0", "temperature_1_2"),
    "inner updates": ("mu1", "mu2", "mu4"),
}
WINDOW = 5  # steps of the reward at the end of a run
# Claim, recipe, the recipe it is compared with (None: its initial policy), metric.
CLAIMS = tuple(
    (claim, recipe, other, metric)
    for claim, recipe, other in (
        ("reinforcement learning raises pass@1", BASELINE, None),
        ("coupled masks end above the full mask", BASELINE, "full_mask"),
        ("coupled masks end above decoupled ones", BASELINE, "decoupled"),
        ("rollouts at T = 1.2 end above T = 1.0", "temperature_1_2", "temperature_1_0"),
    )
    for metric in ("pass_at_1", "pass_at_1_t1")
)


def write_ablations(
    rows: Sequence[Mapping[str, Any]], configs: Mapping[str, Mapping[str, Any]], out: Path, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Write `ablations.md`, `.json`, `.png` and `.svg`.

    Args:
        rows: one per recipe and seed: `recipe`, `runs_of`, `seed`, the run's summary, and `reward` per step.
        configs: resolved configuration of every recipe.
        out: folder.
        facts: start, seeds, overrides.
    """
    table = [summary_row(rows, name) for name in dict.fromkeys(row["recipe"] for row in rows)]
    claims = [judge_claim(rows, *claim) for claim in CLAIMS]
    study = {
        **facts,
        "table": table,
        "claims": [claim for claim in claims if claim is not None],
        "changes": {name: changes(configs[name], configs.get(BASELINE, configs[name])) for name in configs},
        "runs": list(rows),
    }
    write_study(out, "ablations", study, markdown(study), reward_figure(rows))
    return study


def summary_row(rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    """Mean and standard deviation (ddof 1) over seeds of each metric, and the paired gap to the baseline."""
    mine = {row["seed"]: row for row in rows if row["recipe"] == name}
    base = {row["seed"]: row for row in rows if row["recipe"] == BASELINE}
    found: dict[str, Any] = {"recipe": name, "runs_of": next(iter(mine.values()))["runs_of"], "seeds": len(mine)}
    keys = [key for key in next(iter(mine.values())) if key.endswith(("_before", "_after"))]
    for key in keys:
        found[key] = spread([row.get(key) for row in mine.values()])
    found["reward_end"] = spread([end_reward(row["reward"]) for row in mine.values()])
    found["seconds"] = spread([row.get("seconds") for row in mine.values()])
    if name != BASELINE and base:
        gap = "pass_at_1_after"
        found["gap"] = spread([mine[s][gap] - base[s][gap] for s in mine if s in base])
    return found


def judge_claim(
    rows: Sequence[Mapping[str, Any]], claim: str, recipe: str, other: str | None, metric: str
) -> dict[str, Any] | None:
    """A claim and the `paired_test` of its difference over seeds; None if its recipes were not run."""

    def of(name: str, key: str) -> dict[int, float]:
        return {row["seed"]: float(row[key]) for row in rows if row["recipe"] == name and key in row}

    others = of(recipe, f"{metric}_before") if other is None else of(other, f"{metric}_after")
    measured = f"{_metric(metric)} after training, {recipe} minus {other or 'before training'}"
    return compared(claim, measured, of(recipe, f"{metric}_after"), others)


def changes(config: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of `config` that differ from `base`, by dotted name; names and folders of runs left out."""
    usual = flat(base)
    found = {name: value for name, value in flat(config).items() if value != usual.get(name)}
    return {name: value for name, value in found.items() if name not in ("name", "seed", "runs_dir")}


def markdown(study: Mapping[str, Any]) -> str:
    """The page, without the discussion that a person adds."""
    names = [key.removesuffix("_after") for key in study["table"][0] if key.endswith("_after")]
    start = study["table"][0]
    before = ", ".join(f"{_metric(name)} {plus_minus(start[f'{name}_before'], 1, 100)}" for name in names)
    return page("ablations", study, before=before, results=_table(study, names))


def _table(study: Mapping[str, Any], names: Sequence[str]) -> str:
    heads = ["recipe", "changed", *map(_metric, names), f"reward, last {WINDOW} steps", "gap in pass@1", "seconds"]
    rows = []
    for row in study["table"]:
        changed = ", ".join(f"{key} = {value}" for key, value in study["changes"][row["recipe"]].items())
        rows.append(
            [
                row["recipe"],
                changed or ("baseline" if row["recipe"] == BASELINE else f"as {row['runs_of']}"),
                *(plus_minus(row[f"{name}_after"], 1, 100) for name in names),
                plus_minus(row["reward_end"], 2),
                plus_minus(row.get("gap"), 1, 100, "+"),
                plus_minus(row["seconds"], 0),
            ]
        )
    return markdown_table(heads, rows, "llr")


def reward_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Reward by learner step: mean over seeds of the trailing mean, with the range over seeds; one panel per group."""
    present = {row["recipe"] for row in rows}
    groups = {title: [n for n in names if n in present] for title, names in GROUPS.items()}
    grouped = {name for names in groups.values() for name in names}
    groups["others"] = sorted(present - grouped)
    shown = {title: names for title, names in groups.items() if set(names) - {BASELINE} or present <= set(names)}
    with mpl.rc_context(STYLE):
        figure, panels = new_figure(len(shown), columns=min(3, len(shown)), width=12.0, height=3.6, sharey=True)
        for axes, (title, names) in zip(panels, shown.items()):
            for colour, name in zip(COLOURS, names):
                _band(axes, [row["reward"] for row in rows if row["recipe"] == name], colour, name)
            axes.set(title=title, xlabel="learner step")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            legend_below(axes, columns=2)
        panels[0].set_ylabel(f"reward, mean of {WINDOW} steps")
    return figure


def _band(axes: Axes, curves: Sequence[Sequence[float | None]], colour: str, label: str) -> None:
    length = min(len(curve) for curve in curves)
    values_SN = np.array([[np.nan if v is None else v for v in curve[:length]] for curve in curves], dtype=float)
    smooth_SN = np.array([trailing_mean(values_N, WINDOW) for values_N in values_SN])
    steps_N = np.arange(1, length + 1)
    axes.plot(steps_N, smooth_SN.mean(axis=0), color=colour, label=label)
    axes.fill_between(steps_N, smooth_SN.min(axis=0), smooth_SN.max(axis=0), color=colour, alpha=0.13, linewidth=0)


def _metric(name: str) -> str:
    return name.replace("pass_at_", "pass@").replace("_", " ")


def end_reward(rewards: Sequence[float | None]) -> float:
    """The mean reward of the last steps of a run."""
    values = [value for value in rewards[-WINDOW:] if value is not None]
    return float(np.mean(values)) if values else math.nan
