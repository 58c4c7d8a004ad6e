"""The arena as Markdown, JSON and a figure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from couplet.configs.markdown import markdown_table
from couplet.evaluation.figures import COLOURS, STYLE, legend_below, new_figure
from couplet.studies.ablations_report import end_reward
from couplet.studies.claims import compared, plus_minus, spread
from couplet.studies.page import page, write_study

METRIC = "pass_at_1_t1"
MANY = re.compile(r"pass_at_(?!1_)\d+_(before|after)")  # pass@k with k = `evaluation.samples`
# Registered before the first run: claim, entry, the entry it is compared with.
CLAIMS = (
    ("the best new recipe beats the published one at equal cost", "trace", "published"),
    ("coupled masks without inner updates and KL beat the published recipe", "coupled", "published"),
    ("the states of the sampler beat coupled masks", "trace", "coupled"),
    ("coupled masks beat the full mask", "coupled", "full_mask"),
    ("coupled masks beat decoupled ones", "coupled", "decoupled"),
    ("the trajectory's exact likelihood beats three slices", "trace_exact", "trace"),
    ("an ELBO per completion beats coupled masks", "elbo", "coupled"),
    ("an upper bound for negative advantages beats the ELBO", "spg", "elbo"),
    ("the left-to-right likelihood beats coupled masks", "left_to_right", "coupled"),
    ("an unconditional, self-normalised clip beats PPO's", "trace_stable", "trace_ppo"),
    ("a clipped weight beats PPO's clip", "trace_cispo", "trace_ppo"),
    ("one update of a batch beats two", "trace", "trace_ppo"),
    ("choosing problems by their signal beats taking all", "trace_signal", "trace"),
)
NOISE = {
    "pair": "two draws",
    "large": "one draw and the mean of many",
    "exact": "one draw and the exact gradient",
    "large_exact": "the mean and the exact gradient",
    "norm_ratio": "norm of one draw / of the mean",
}


def write_arena(study: dict[str, Any], out: Path) -> None:
    """Add `table`, `claims` and `noise_table` to `study` and write `arena.md`, `.json`, `.png` and `.svg`."""
    study["table"] = [entry_row(study, entry) for entry in study["entries"]]
    study["claims"] = [claim for one in CLAIMS if (claim := judged(study["runs"], *one)) is not None]
    names = list(dict.fromkeys(row["entry"] for row in study["noise"]))
    study["noise_table"] = [noise_row(study["noise"], name) for name in names]
    text = page("arena", study, results=_results(study), noise_cosines=_noise(study), power=power(study["claims"]))
    write_study(out, "arena", study, text, figure(study["runs"]))


def entry_row(study: Mapping[str, Any], entry: str) -> dict[str, Any]:
    """Means and standard deviations of an entry over seeds, and its paired difference to the reference."""
    rows = [row for row in study["runs"] if row["entry"] == entry]
    keys = ("pass_at_1_before", "pass_at_1_after", f"{METRIC}_before", f"{METRIC}_after", "seconds", "gflops")
    keys = (*keys, "zero_signal_share", *sorted({key for row in rows for key in row if MANY.fullmatch(key)}))
    found: dict[str, Any] = {"entry": entry, "seeds": len(rows)}
    found |= {key: spread([row.get(key) for row in rows]) for key in keys}
    found["reward_end"] = spread([end_reward(row["reward"]) for row in rows])
    return found | {"gap": judged(study["runs"], "", entry, study["reference"])}


def judged(rows: Sequence[Mapping[str, Any]], claim: str, entry: str, other: str) -> dict[str, Any] | None:
    """Held-out pass@1 at T = 1 after training, entry minus other; None if one was not run."""
    known = [row for row in rows if row.get(f"{METRIC}_after") is not None]

    def of(name: str) -> dict[int, float]:
        return {row["seed"]: float(row[f"{METRIC}_after"]) for row in known if row["entry"] == name}

    return None if entry == other else compared(claim, f"{entry} minus {other}", of(entry), of(other))


def noise_row(rows: Sequence[Mapping[str, Any]], entry: str) -> dict[str, Any]:
    """Means and standard deviations of an estimator's cosines over batches."""
    mine = [row for row in rows if row["entry"] == entry]
    return {"entry": entry, **{key: spread([row[key] for row in mine]) for key in NOISE}}


def power(claims: Sequence[Mapping[str, Any]]) -> str:
    """What differences these seeds could have shown."""
    halves = [claim["half"] for claim in claims if math.isfinite(claim["half"])]
    if not halves:
        return "With fewer than two seeds no difference can be distinguished from noise."
    least, most = 100 * min(halves), 100 * max(halves)
    return (
        f"The intervals are ± {least:.1f} to ± {most:.1f} points wide: a true difference below that would, at these "
        "seeds, usually be left undecided."
    )


def figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Held-out pass@1 at T = 1, mean over seeds, against operations and against seconds."""
    chart, panels = new_figure(2, columns=2, width=11.0, height=4.0, sharey=True)
    entries = list(dict.fromkeys(row["entry"] for row in rows))
    with mpl.rc_context(STYLE):
        for axes, key, label in zip(panels, ("gflops", "seconds"), ("counted GFLOPs", "seconds")):
            for number, entry in enumerate(entries):
                curves = [row["curve"] for row in rows if row["entry"] == entry and row["curve"]]
                length = min((len(curve) for curve in curves), default=0)
                points = np.array([[(one[key], one[METRIC]) for one in curve[:length]] for curve in curves])
                if length:
                    mean = points.mean(axis=0)
                    axes.plot(mean[:, 0], 100 * mean[:, 1], color=COLOURS[number % len(COLOURS)], label=entry)
            axes.set_xlabel(label)
        panels[0].set_ylabel("held-out pass@1 at T = 1, percent")
        legend_below(panels[0], 4)
    return chart


def _results(study: Mapping[str, Any]) -> str:
    many = [key for key in study["table"][0] if MANY.fullmatch(key) and key.endswith("_after")]
    names = [key.removesuffix("_after").replace("pass_at_", "pass@") for key in many]
    heads = ("entry", "steps", "GFLOPs", "pass@1 T=1", "pass@1", *names, "minus published, T=1", "reward", "seconds")
    rows = []
    for row in study["table"]:
        gap = row["gap"]
        interval = "–" if gap is None else f"{100 * gap['mean']:+.1f} ± {100 * gap['half']:.1f}"
        rows.append(
            [
                row["entry"],
                str(study["entries"][row["entry"]]["steps"]),
                f"{row['gflops']['mean']:.0f}",
                plus_minus(row[f"{METRIC}_after"], 1, 100),
                plus_minus(row["pass_at_1_after"], 1, 100),
                *(plus_minus(row[key], 1, 100) for key in many),
                interval,
                plus_minus(row["reward_end"], 2),
                plus_minus(row["seconds"], 0),
            ]
        )
    return markdown_table(heads, rows, "lr")


def _noise(study: Mapping[str, Any]) -> str:
    rows = [[row["entry"], *(plus_minus(row[key], 3) for key in NOISE)] for row in study["noise_table"]]
    return markdown_table(("estimator", *NOISE.values()), rows, "lr")
