"""The style of all figures, and the figure of a training run. No window system, no global pyplot state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

STYLE: Any = mpl.rc_params_from_file(Path(__file__).with_name("couplet.mplstyle"), use_default_template=False)
COLOURS: tuple[str, ...] = tuple(STYLE["axes.prop_cycle"].by_key()["color"])
INK, FAINT = str(STYLE["text.color"]), str(STYLE["axes.edgecolor"])


def new_figure(
    panels: int = 1, *, columns: int = 1, width: float = 7.2, height: float = 3.4, **options: Any
) -> tuple[Figure, list[Axes]]:
    """A figure of `panels` axes in `columns` columns; `width` of the figure and `height` of one row are in inches."""
    rows = -(-panels // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height * rows), layout="constrained")
        axes = list(np.atleast_1d(figure.subplots(rows, columns, **options)).flat)
    for spare in axes[panels:]:
        spare.set_visible(False)
    return figure, axes[:panels]


def write_figure(figure: Figure, path: Path, dpi: int = 150) -> Path:
    """Write one file in the format of its suffix (.png, .svg); its folder is created if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None} if path.suffix == ".svg" else None
    with mpl.rc_context(STYLE):
        figure.savefig(path, dpi=dpi, metadata=metadata)
    return path


def write_both(figure: Figure, stem: Path) -> list[Path]:
    """Write `stem`.png and `stem`.svg."""
    return [write_figure(figure, stem.with_name(stem.name + suffix)) for suffix in (".png", ".svg")]


def legend_below(axes: Axes, columns: int | None = None) -> None:
    """A legend under the axis label, where it covers nothing, in one row or `columns`; none without labels."""
    if handles := axes.get_legend_handles_labels()[0]:
        figure, spec = axes.get_figure(root=True), axes.get_subplotspec()
        assert figure is not None and spec is not None
        place = (0.5, -0.62 * spec.get_gridspec().nrows / figure.get_size_inches()[1])  # that far under, in inches
        axes.legend(
            loc="upper center",
            bbox_to_anchor=place,
            ncols=columns or len(handles),
            columnspacing=1.4,
            handlelength=3.2,
            fontsize=9.0,
        )


def trailing_mean(values_N: np.ndarray, window: int) -> np.ndarray:
    """Mean of each value and the `window - 1` before it (fewer at the start); NaN values are left out."""
    means = np.full(len(values_N), np.nan)
    for i in range(len(values_N)):
        part = values_N[max(0, i - window + 1) : i + 1]
        if np.isfinite(part).any():
            means[i] = np.nanmean(part)
    return means


def column(rows: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """One metric of every row as float64, NaN if a row lacks it."""
    return np.array([np.nan if row.get(name) is None else float(row[name]) for row in rows], dtype=np.float64)


def reward_curve(rows: Sequence[Mapping[str, float]], path: Path, title: str, window: int = 5) -> Path:
    """Reward and pass rate of a training run against the learner step.

    Args:
        rows: metrics of learner steps, each with `step` and `reward_mean`; `pass_rate`, `solved_rate` if known.
        path: the PNG or SVG to write.
        title: heading of the figure.
        window: steps of the trailing mean.

    Raises:
        ValueError: no row has a reward.
    """
    rows = [row for row in rows if row.get("reward_mean") is not None]
    if not rows:
        raise ValueError(f"reward curve {path}: no row has reward_mean; train at least one step")
    steps, reward = column(rows, "step"), column(rows, "reward_mean")
    figure, (upper, lower) = new_figure(2, height=2.7, sharex=True)
    with mpl.rc_context(STYLE):
        figure.suptitle(title, x=0.01, ha="left", fontsize=12.5, fontweight="bold")
        _noisy(upper, steps, reward, COLOURS[0], "reward", window)
        upper.set_title(f"mean reward of a step's completions (dots) and its mean over {window} steps (line)")
        _noisy(lower, steps, column(rows, "pass_rate"), COLOURS[2], "tests passed", window)
        _noisy(lower, steps, column(rows, "solved_rate"), COLOURS[1], "all tests passed", window)
        lower.set_title("share of tests passed, and of completions that pass all tests")
        lower.set_xlabel("learner step")
        lower.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        for axes in (upper, lower):
            axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if lower.get_legend_handles_labels()[0]:
            lower.legend(loc="lower right", ncols=2)
    return write_figure(figure, path)


def _noisy(axes: Axes, steps: np.ndarray, values: np.ndarray, colour: str, label: str, window: int) -> None:
    """Values as faint dots, their trailing mean as a line; nothing without values."""
    if not np.isfinite(values).any():
        return
    axes.plot(steps, values, ".", color=colour, alpha=0.3, markersize=4)
    axes.plot(steps, trailing_mean(values, window), color=colour, label=label)
