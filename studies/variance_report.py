"""The variance study as a table, a figure, Parquet and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from rich.console import Console
from rich.markdown import Markdown

from couplet.configs.errors import UserError
from couplet.configs.markdown import markdown_table
from couplet.evaluation.figures import COLOURS, FAINT, STYLE, legend_below, new_figure
from couplet.evaluation.pass_at_k import bootstrap
from couplet.studies.page import page, write_study
from couplet.studies.variance_measure import PAIRED, TARGETS, Budget, Case, measure

TARGET_NAMES = {"inverse_t": "inverse_t target", "half_inverse_t": "half_inverse_t target", "elbo": "ELBO"}


def run_variance_study(
    policy: Any,
    cases: Sequence[Case],
    out: Path,
    *,
    budget: Budget | None = None,
    t_range: tuple[float, float] = (0.2, 0.8),
    seed: int = 0,
    facts: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Measure, print the page and write `variance.parquet`, `variance.json`, `variance.md`, `variance.png` and `.svg`.

    Args:
        policy: a `DiffusionPolicy`.
        cases: completions as sampled; only their masks are drawn here.
        out: folder of the results.
        budget: how much to compute.
        t_range: range of diffusion times of the estimators.
        seed: of every mask.
        facts: more entries of the JSON (policy folder, problem set, ...).
        console: where the page is printed; None prints nothing.

    Raises:
        ValueError: no completion.
        ConfigError: `out` cannot be written.
    """
    if not cases:
        raise UserError("variance study: no completion given; sample some first")
    budget = budget or Budget()
    rows = measure(policy, cases, budget, t_range, seed)
    summary = summarise(rows, budget.forward_passes)
    result = {
        "completions": len(cases),
        "loss_tokens": int(sum(case.loss_mask_C.sum() for case in cases)),
        "draws": budget.draws,
        "forwards": budget.forward_passes,
        "t_range": list(t_range),
        "seeds": sorted({case.seed for case in cases}),
        **(facts or {}),
        "estimators": summary,
        "antithetic": antithetic_ratios(rows, seed),
    }
    write_study(out, "variance", result, markdown(result), figure(summary, budget.forward_passes))
    pq.write_table(pa.Table.from_pylist(rows), out / "variance.parquet")
    if console is not None:
        console.print(Markdown(markdown(result)))
    return result


def summarise(rows: Sequence[Mapping[str, Any]], forward_passes: int) -> list[dict[str, Any]]:
    """One row per setting: means over completions, variances scaled to an estimate of `forward_passes` passes.

    `rmse_*` combines the bias and the noise of one such estimate of a completion's token mean.
    """
    found = []
    for key in dict.fromkeys(_key(row) for row in rows):
        part = [row for row in rows if _key(row) == key]
        share = 1 / part[0]["draws"]  # of the budget
        entry: dict[str, Any] = {
            "estimator": key[0],
            "weighting": key[1],
            "pairs": key[2],
            "forwards_per_draw": part[0]["forwards"],
            "expected_weight": part[0]["expected_weight"],
            "token_variance": share * _mean(part, "token_variance"),
            "sequence_variance": share * _mean(part, "sequence_variance"),
        }
        for name in TARGETS:
            noise = share * np.array([row["sequence_variance"] for row in part])
            bias = np.array([row[f"bias_{name}"] for row in part])
            error = np.array([row[f"se_{name}"] for row in part])
            entry[f"bias_{name}"] = float(bias.mean())
            entry[f"se_{name}"] = float(np.sqrt((error**2).sum()) / len(part))
            entry[f"rmse_{name}"] = float(np.sqrt((bias**2 + noise).mean()))
        found.append(entry)
    return found


def antithetic_ratios(rows: Sequence[Mapping[str, Any]], seed: int = 0) -> list[dict[str, Any]]:
    """Variance of `decoupled` over that of `coupled`, per weighting and pairs: above 1 if the complement helps.

    It is the ratio of the mean variances; its interval is a bootstrap of the log ratio over completions.
    """
    found = []
    paired = [row for row in rows if row["estimator"] in PAIRED]
    for weighting, pairs in dict.fromkeys((r["weighting"], r["pairs"]) for r in paired):
        entry: dict[str, Any] = {"weighting": weighting, "pairs": pairs}
        for scope in ("token", "sequence"):
            values = {
                name: np.array([r[f"{scope}_variance"] for r in rows if _key(r) == (name, weighting, pairs)])
                for name in ("decoupled", "coupled")
            }
            seeds = np.array([r["seed"] for r in rows if _key(r) == ("coupled", weighting, pairs)])
            noisy = (values["decoupled"] > 0) & (values["coupled"] > 0)
            if not noisy.any():
                continue  # the policy ignores the canvas, so there is nothing to compare
            entry[scope] = float(values["decoupled"].mean() / values["coupled"].mean())
            spread = bootstrap(np.log(values["decoupled"][noisy] / values["coupled"][noisy]), seed)
            entry[f"{scope}_geometric"] = float(np.exp(spread.mean))
            entry[f"{scope}_by_seed"] = {
                str(one): float(values["decoupled"][seeds == one].mean() / values["coupled"][seeds == one].mean())
                for one in np.unique(seeds)
            }
            entry[f"{scope}_low"], entry[f"{scope}_high"] = float(np.exp(spread.low)), float(np.exp(spread.high))
        found.append(entry)
    return found


def ratio_lines(ratios: Sequence[Mapping[str, Any]]) -> list[str]:
    """The antithetic claim in words, a line per weighting and number of pairs."""
    return [
        f"{r['weighting']}, {r['pairs']} pair{'s' if r['pairs'] > 1 else ''}: decoupled masks have "
        f"{r['token']:.2f} times the token variance of coupled ones (per completion, geometric mean "
        f"{r['token_geometric']:.2f}, 95% {r['token_low']:.2f} to {r['token_high']:.2f}) and {r['sequence']:.2f} times "
        f"the variance of the completion's mean ({r['sequence_geometric']:.2f}, {r['sequence_low']:.2f} to "
        f"{r['sequence_high']:.2f})" + _by_seed(r)
        for r in ratios
        if "token" in r and "sequence" in r
    ]


def _by_seed(ratio: Mapping[str, Any]) -> str:
    """The token ratios of the completions of each seed, if there are several."""
    each = ratio["token_by_seed"].values()
    return f"; token ratio per seed {', '.join(f'{value:.2f}' for value in each)}" if len(each) > 1 else ""


def markdown(result: Mapping[str, Any]) -> str:
    """The summary as a Markdown page."""
    passes, ratios = result["forwards"], ratio_lines(result["antithetic"])
    return page("variance", result, forward_passes=passes, results=_table(result["estimators"]), ratios=ratios)


def _table(summary: Sequence[Mapping[str, Any]]) -> str:
    biases = [f"bias: {TARGET_NAMES[name]}" for name in TARGETS]
    heads = ["estimator", "weighting", "pairs", "E weight", "std token", "std sequence", *biases, "RMSE to ELBO"]
    return markdown_table(heads, [_cells(row) for row in summary], "llr")


def figure(summary: Sequence[Mapping[str, Any]], forward_passes: int) -> Any:
    """Standard deviations on the left, bias against every target on the right."""
    with mpl.rc_context(STYLE):
        chart, (left, right) = new_figure(2, columns=2, width=12.0, height=0.9 + 0.34 * len(summary), sharey=True)
        labels = [_label(row) for row in summary]
        rows_N = np.arange(len(summary))[::-1]
        for shift, scope, colour in ((0.19, "token", COLOURS[0]), (-0.19, "sequence", COLOURS[5])):
            deviations = [np.sqrt(row[f"{scope}_variance"]) for row in summary]
            name = "one token" if scope == "token" else "mean of a completion"
            left.barh(rows_N + shift, deviations, height=0.36, color=colour, label=name)
        left.set_yticks(rows_N, labels)
        title = f"standard deviation at {forward_passes} forward passes"
        left.set(title=title, xlabel="nats", ylim=(-0.6, len(summary) - 0.4))
        legend_below(left)
        _bias_panel(right, summary, rows_N)
    return chart


def _bias_panel(axes: Axes, summary: Sequence[Mapping[str, Any]], rows_N: np.ndarray) -> None:
    axes.axvline(0.0, color=FAINT, linewidth=1.2)
    for shift, name, colour, marker in zip((0.22, 0.0, -0.22), TARGETS, (COLOURS[0], COLOURS[2], COLOURS[1]), "osD"):
        axes.errorbar(
            [row[f"bias_{name}"] for row in summary],
            rows_N + shift,
            xerr=[1.96 * row[f"se_{name}"] for row in summary],
            fmt=marker,
            color=colour,
            markersize=4.5,
            linewidth=1.2,
            label=TARGET_NAMES[name],
        )
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set(title="bias with 95% interval", xlabel="nats per token")
    legend_below(axes)


def _cells(row: Mapping[str, Any]) -> list[str]:
    cells = [row["estimator"], row["weighting"] if row["pairs"] else "", f"{row['pairs']:g}"]
    cells += [f"{row['expected_weight']:.3f}"]
    cells += [f"{np.sqrt(row[f'{scope}_variance']):.4f}" for scope in ("token", "sequence")]
    cells += [f"{row[f'bias_{name}']:+.4f} ± {row[f'se_{name}']:.4f}" for name in TARGETS]
    return [*cells, f"{row['rmse_elbo']:.4f}"]


def _label(row: Mapping[str, Any]) -> str:
    if not row["pairs"]:
        return str(row["estimator"])
    return f"{row['estimator']}, {row['weighting']}, {row['pairs']:g} pair{'s' if row['pairs'] > 1 else ''}"


def _key(row: Mapping[str, Any]) -> tuple[str, str, float]:
    return row["estimator"], row["weighting"], row["pairs"]


def _mean(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    return float(np.mean([row[name] for row in rows]))
