"""Figures of the decoding analysis, drawn from the rows of its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from couplet.evaluation.figures import COLOURS, STYLE, legend_below, new_figure

Rows = Sequence[Mapping[str, Any]]


def temperature_figure(rows: Rows, ar_ness_k: int, pass_ks: Sequence[int]) -> Figure:
    """AR-ness, order diversity and pass@k against the sampling temperature, one colour per policy."""
    with mpl.rc_context(STYLE):
        figure, (ar_ness, diversity, passes) = new_figure(3, columns=3, width=12.5, height=3.7)
        for colour, (policy, part) in zip(COLOURS, _by_policy(rows)):
            _line(ar_ness, part, "temperature", f"local_ar_ness_{ar_ness_k}", colour, f"{policy}, local")
            _line(ar_ness, part, "temperature", f"global_ar_ness_{ar_ness_k}", colour, f"{policy}, global", dashed=True)
            _line(diversity, part, "temperature", "order_diversity", colour, policy)
            for k in pass_ks:
                _line(passes, part, "temperature", f"pass_{k}", colour, f"{policy}, pass@{k}", dashed=k != pass_ks[0])
        passes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        for axes, title in (
            (ar_ness, f"AR-ness@{ar_ness_k} (1 = left to right)"),
            (diversity, "disagreement about the order (1 = all differ)"),
            (passes, "problems solved"),
        ):
            axes.set(title=title, xlabel="sampling temperature")
            legend_below(axes, columns=2)
    return figure


def step_figure(rows: Rows) -> Figure:
    """pass@1 against tokens per second (against steps if the speed is unknown), a point per number of steps."""
    with mpl.rc_context(STYLE):
        figure, (left, right) = new_figure(2, columns=2, width=10.0, height=3.7)
        timed = all(row.get("tokens_per_second") is not None for row in rows)
        for colour, (policy, part) in zip(COLOURS, _by_policy(rows)):
            _line(left, part, "steps", "pass_1", colour, policy)
            if timed:
                _line(right, part, "tokens_per_second", "pass_1", colour, policy)
                for row in part:
                    place = (row["tokens_per_second"], row["pass_1"])
                    beside: dict[str, Any] = {"xytext": (5, -11), "textcoords": "offset points", "fontsize": 8}
                    right.annotate(f"{row['steps']} steps", place, **beside)
        left.set(title="pass@1 by denoising steps", xlabel="steps", xticks=sorted({row["steps"] for row in rows}))
        right.set(title="pass@1 against speed", xlabel="tokens per second and worker", visible=timed)
        for axes in (left, right):
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            legend_below(axes)
    return figure


def entropy_sink_figure(rows: Rows) -> Figure:
    """Largest probability and entropy per completion position in the first forward pass."""
    with mpl.rc_context(STYLE):
        figure, (left, right) = new_figure(2, columns=2, width=10.0, height=3.7)
        for key, colour, line in _series(rows):
            part = [row for row in rows if (row["policy"], row["domain"]) == key]
            position = [row["position"] for row in part]
            mean = np.array([row["largest_probability"] for row in part])
            std = np.array([row["largest_probability_std"] for row in part])
            left.plot(position, mean, color=colour, linestyle=line, label=", ".join(key))
            left.fill_between(
                position, np.clip(mean - std, 0, 1), np.clip(mean + std, 0, 1), color=colour, alpha=0.12, lw=0
            )
            right.plot(position, [row["entropy"] for row in part], color=colour, linestyle=line, label=", ".join(key))
        left.set(title="largest probability (mean ± deviation over problems)", ylim=(0.0, 1.02))
        right.set(title="entropy (nats)", ylim=(0.0, None))
        for axes in (left, right):
            axes.set_xlabel("completion position, all masked")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            legend_below(axes, columns=2)
    return figure


def domain_figure(rows: Rows, ks: Sequence[int]) -> Figure:
    """AR-ness@k of code and of word problems."""
    with mpl.rc_context(STYLE):
        figure, panels = new_figure(2, columns=2, width=10.0, height=3.7, sharey=True)
        series = _series(rows)
        for axes, kind in zip(panels, ("local", "global")):
            for number, (key, colour, line) in enumerate(series):
                row = next(r for r in rows if (r["policy"], r["domain"]) == key)
                names = [f"{kind}_ar_ness_{k}" for k in ks]
                places = np.arange(len(ks)) + (number - (len(series) - 1) / 2) * 0.06
                _error_bars(axes, places, [row], names, colour, ", ".join(key), dashed=line == "--")
            axes.set_xticks(range(len(ks)), [str(k) for k in ks])
            axes.set(title=f"{kind} AR-ness@k", xlabel="k", ylim=(0.0, 1.02))
            legend_below(axes, columns=2)
    return figure


def _by_policy(rows: Rows) -> list[tuple[str, Rows]]:
    return [
        (name, [row for row in rows if row["policy"] == name]) for name in dict.fromkeys(row["policy"] for row in rows)
    ]


def _series(rows: Rows) -> list[tuple[tuple[str, str], str, str]]:
    """((policy, domain), colour, line style): a colour per policy, a style per domain."""
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    domains = list(dict.fromkeys(row["domain"] for row in rows))
    return [
        ((policy, domain), colour, line)
        for policy, colour in zip(policies, COLOURS)
        for domain, line in zip(domains, ("-", "--", ":", "-."))
    ]


def _line(axes: Axes, rows: Rows, x: str, y: str, colour: str, label: str, dashed: bool = False) -> None:
    """A line with its intervals; rows without `y` are left out."""
    rows = sorted((row for row in rows if row.get(y) is not None), key=lambda row: row[x])
    if rows:
        _error_bars(axes, [row[x] for row in rows], rows, [y] * len(rows), colour, label, dashed)


def _error_bars(
    axes: Axes, places: Any, rows: Rows, names: Sequence[str], colour: str, label: str, dashed: bool = False
) -> None:
    pairs = [(rows[min(i, len(rows) - 1)], name) for i, name in enumerate(names)]
    mean = np.array([row[name] for row, name in pairs])
    low = np.array([row.get(f"{name}_low", row[name]) for row, name in pairs])
    high = np.array([row.get(f"{name}_high", row[name]) for row, name in pairs])
    axes.errorbar(
        places,
        mean,
        yerr=np.maximum(np.array([mean - low, high - mean]), 0.0),
        color=colour,
        marker="o",
        markersize=4,
        linestyle="--" if dashed else "-",
        elinewidth=1.0,
        label=label,
    )
