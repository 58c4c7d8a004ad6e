"""Which metrics of the learner steps are drawn, and how."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from couplet.evaluation.figures import column
from couplet.report.charts import Chart, Drawing, Series, line_chart, number
from couplet.report.run_data import Run

SHORTEST_STEP = 1e-3  # seconds: with a shorter step the clock had only just been started
TIMED = ("step_seconds", "speedup_reached")


@dataclass(frozen=True)
class Curve:
    """A metric, its name in the legend, and whether it is noisy enough for a trailing mean."""

    metric: str
    name: str
    smooth: bool = False


@dataclass(frozen=True)
class Panel:
    """A chart to be; it appears if at least one of its metrics was recorded. Options as in `Chart`."""

    title: str
    curves: tuple[Curve, ...]
    share: bool = False
    zero: bool = True
    spiky: bool = False


PANELS = (
    Panel("Reward", (Curve("reward_mean", "mean reward", True),)),
    Panel(
        "Answers",
        (
            Curve("pass_rate", "tests passed", True),
            Curve("solved_rate", "all tests passed", True),
            Curve("format_rate", "format accepted", True),
        ),
        share=True,
    ),
    Panel(
        "Idle share of each phase",
        (
            Curve("generate_idle_share", "generation", True),
            Curve("reward_idle_share", "judging", True),
            Curve("train_idle_share", "learning", True),
        ),
        share=True,
    ),
    Panel("Staleness (learner steps)", (Curve("staleness_mean", "mean"), Curve("staleness_max", "largest"))),
    Panel(
        "Seconds of a step",
        (
            Curve("step_seconds", "step"),
            Curve("generate_seconds", "generation"),
            Curve("reward_seconds", "judging"),
            Curve("train_seconds", "learning"),
        ),
        spiky=True,
    ),
    Panel("Speed-up by overlap", (Curve("speedup_reached", "reached", True), Curve("speedup_bound", "bound", True))),
    Panel(
        "Ratio of new to old probabilities",
        (Curve("ratio_mean", "mean"), Curve("ratio_max", "largest")),
        zero=False,
        spiky=True,
    ),
    Panel("KL to the reference (nats)", (Curve("kl_mean", "mean"), Curve("kl_median", "median")), spiky=True),
    Panel("Gradient norm", (Curve("grad_norm", "gradient norm"),), spiky=True),
    Panel(
        "Groups and tokens without signal",
        (
            Curve("zero_signal_share", "zero-signal groups", True),
            Curve("clip_share", "clipped tokens"),
            Curve("excluded_share", "excluded samples"),
        ),
        share=True,
    ),
    Panel(
        "AR-ness of the rollouts",
        (Curve("local_ar_ness", "local", True), Curve("global_ar_ness", "global", True)),
        share=True,
    ),
    Panel("Entropy of the drawn tokens (nats)", (Curve("draw_entropy", "entropy", True),)),
    Panel("Entropy of the reveal order (nats)", (Curve("order_entropy", "entropy", True),)),
    Panel("Answer length (tokens)", (Curve("completion_tokens_mean", "mean length", True),)),
    Panel(
        "Wait for verdicts (seconds)",
        (Curve("reward_wait_p50", "median"), Curve("reward_wait_p95", "95th percentile")),
        spiky=True,
    ),
    Panel(
        "New weights (seconds)",
        (Curve("weight_broadcast_seconds", "slowest push"), Curve("weight_swap_seconds", "slowest swap")),
        spiky=True,
    ),
    Panel(
        "Groups waiting",
        (
            Curve("ledger_ready", "ready"),
            Curve("ledger_generated", "generated"),
            Curve("ledger_scoring", "being judged"),
        ),
    ),
)


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
        series = tuple(Series(curve.name, _metric(run, curve.metric), curve.smooth) for curve in panel.curves)
        shown = [one for one in series if np.isfinite(one.values).any()]
        if not shown:
            continue
        if len(steps) > 1 and all(np.nanmin(one.values) == np.nanmax(one.values) for one in shown):
            constant.append((panel.title, ", ".join(f"{one.name} {number(np.nanmax(one.values))}" for one in shown)))
            continue
        charts.append(line_chart(Chart(panel.title, series, panel.share, panel.zero, panel.spiky), steps))
    return Curves(tuple(charts), tuple(constant))


def _metric(run: Run, name: str) -> np.ndarray:
    """A metric per step; what is relative to a step's duration is left out if no duration was measured."""
    values = column(run.metrics, name)
    if name in TIMED or name.endswith("_idle_share"):
        values[column(run.metrics, "step_seconds") < SHORTEST_STEP] = np.nan
    return values
