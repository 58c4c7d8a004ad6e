"""The path study as a page, a figure and data: a table of the stages, and a verdict on each claim of the paper."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from couplet.configs.markdown import markdown_table
from couplet.evaluation.figures import COLOURS, STYLE, legend_below, new_figure
from couplet.studies.ablations_report import ONE_PROCESS
from couplet.studies.claims import claim_table, paired_test, plus_minus, spread
from couplet.studies.page import write_study

Rows = Sequence[Mapping[str, Any]]
RL_STAGE = "rl"
LOW, HIGH, HIGHEST = 0.2, 1.0, 1.2
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


def value(rows: Rows, seed: int, stage: str, temperature: float, steps: int, name: str) -> float:
    """One metric of one policy, from the decoding with the most samples that has it; NaN if there is none.

    Left-to-right decoding has no number of steps and matches any.
    """
    found = [
        row
        for row in rows
        if (row["seed"], row["stage"], row["temperature"]) == (seed, stage, temperature)
        and row["steps"] in (steps, None)
        and row.get(name) is not None
    ]
    return float(max(found, key=lambda row: row["samples"])[name]) if found else math.nan


def claims(rows: Rows, steps: int) -> list[dict[str, Any]]:
    """The paper's claims as paired differences over seeds, positive if the claim holds."""
    start, rl = list(dict.fromkeys(row["stage"] for row in rows))[-2:]
    seeds = list(dict.fromkeys(row["seed"] for row in rows))

    def judge(claim: str, measured: str, gap: Callable[[int], float]) -> dict[str, Any]:
        return {"claim": claim, "measured": measured, **paired_test([gap(seed) for seed in seeds])}

    def at(stage: str, temperature: float, name: str, count: int = steps) -> Callable[[int], float]:
        return lambda seed: value(rows, seed, stage, temperature, count, name)

    def minus(first: Callable[[int], float], second: Callable[[int], float]) -> Callable[[int], float]:
        return lambda seed: first(seed) - second(seed)

    def cost(stage: str, temperature: float, more: int, fewer: int) -> Callable[[int], float]:
        return minus(at(stage, temperature, "pass@1", more), at(stage, temperature, "pass@1", fewer))

    def kept(stage: str, temperature: float, more: int, fewer: int) -> Callable[[int], float]:
        def share(seed: int) -> float:
            whole = value(rows, seed, stage, temperature, more, "pass@1")
            return value(rows, seed, stage, temperature, fewer, "pass@1") / whole if whole > 0 else math.nan

        return share

    found = [
        judge(
            "RL raises pass@1",
            f"pass@1 at T = {t:g}, {rl} minus {start}",
            minus(at(rl, t, "pass@1"), at(start, t, "pass@1")),
        )
        for t in (LOW, HIGH)
    ]
    for stage in (start, rl):
        found += [
            judge(
                "temperature lowers AR-ness",
                f"{kind} AR-ness@1 of {stage} in {count} steps, T = {LOW:g} minus T = {HIGHEST:g}",
                minus(at(stage, LOW, kind, count), at(stage, HIGHEST, kind, count)),
            )
            for count in (steps, 2 * steps)
            for kind in ("local", "global")
        ]
    for stage in (start, rl):
        found += [
            judge(
                "temperature raises pass@k",
                f"pass@8 of {stage}, T = {t:g} minus T = {LOW:g}",
                minus(at(stage, t, "pass@8"), at(stage, LOW, "pass@8")),
            )
            for t in (HIGH, HIGHEST)
        ]
    halvings = [(t, more, more // 2) for t in (LOW, HIGH) for more in (2 * steps, steps)]
    for t, more, fewer in halvings:
        found += [
            judge(
                "halved steps cost less after RL",
                f"fall of pass@1 from {more} to {fewer} steps at T = {t:g}, {start} minus {rl}",
                minus(cost(start, t, more, fewer), cost(rl, t, more, fewer)),
            ),
            judge(
                "halved steps cost less after RL",
                f"share of pass@1 kept from {more} to {fewer} steps at T = {t:g}, {rl} minus {start}",
                minus(kept(rl, t, more, fewer), kept(start, t, more, fewer)),
            ),
        ]
    return found


def mask_claims(ablations: Path | None) -> list[dict[str, Any]]:
    """Coupled against full-mask and decoupled likelihoods, from the ablation study; empty without one."""
    if ablations is None or not ablations.is_file():
        return []
    runs = json.loads(ablations.read_text(encoding="utf-8"))["runs"]
    found = []
    for other in ("full_mask", "decoupled"):
        for name, words in (("pass_at_1_after", "T = 0.2"), ("pass_at_1_t1_after", "T = 1")):
            by_recipe = {
                recipe: {row["seed"]: row[name] for row in runs if row["recipe"] == recipe and name in row}
                for recipe in ("coupled", other)
            }
            seeds = [seed for seed in by_recipe["coupled"] if seed in by_recipe[other]]
            if seeds:
                gaps = [by_recipe["coupled"][seed] - by_recipe[other][seed] for seed in seeds]
                measured = f"pass@1 at {words} after RL, coupled minus {other} (ablations.md)"
                claim = f"coupled beats {other.replace('_', ' ')}"
                found.append({"claim": claim, "measured": measured, **paired_test(gaps)})
    return found


def markdown(study: Mapping[str, Any]) -> str:
    """The page, without the discussion that a person adds."""
    rows, steps = study["rows"], int(study["steps"])
    stages = list(dict.fromkeys(row["stage"] for row in rows))
    seeds = list(dict.fromkeys(row["seed"] for row in rows))
    start = stages[-2]
    overrides = f" with {' '.join(study['train_overrides'])}" if study["train_overrides"] else ""
    lines = [
        "# The whole path on the tiny model",
        "",
        f"`{study['command']}` trains a model from random weights in these stages, with seeds "
        f"{', '.join(map(str, seeds))} (recipes {' and '.join(f'`configs/{name}`' for name in study['recipes'])}):",
        "",
        *(f"1. `{s['name']}`: {s['objective']} on {s['corpus']}, {s['steps']} steps" for s in study["stages"]),
        f"1. `{RL_STAGE}`: {study['train_steps']} learner steps of reinforcement learning{overrides}, from the policy "
        f"after `{start}`",
        "",
        f"After each stage the first {study['problems']} problems of {study['problem_set']} are decoded. Diffusion takes "
        f"{steps} steps, two tokens per step, in the entropy order. A prompt has the form that the model was trained on: "
        "plain text before instruction tuning, a chat prompt after it. Values are mean ± standard deviation over seeds; "
        "pass rates are in percent. Every policy is given the same problems.",
        "",
        ONE_PROCESS.replace("Every run", "Every run of reinforcement learning"),
        "",
        "## After each stage",
        "",
        _stages(rows, stages, seeds, steps),
        "",
        "![pass rates, AR-ness and steps](path.png)",
        "",
        "## Temperature and steps before and after RL",
        "",
        _decodings(rows, stages[-2:], seeds),
        "",
        "## Claims of the paper",
        "",
        claim_table(study["claims"]),
    ]
    return "\n".join(lines) + "\n"


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
            axes.set_title(title)
            axes.set_ylim(bottom=0.0)
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
