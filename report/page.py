"""`launch.py report`: one HTML page of a run, complete in itself."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from couplet.data.files import write_text
from couplet.evaluation.figures import column
from couplet.evaluation.suite import metric_name
from couplet.report.answers import answers_section
from couplet.report.charts import WINDOW, Chart, Series, line_chart, number, percent
from couplet.report.run_data import Run, read_run
from couplet.report.style import style_sheet

SHORTEST_STEP = 1e-3  # seconds: below that the clock had only just been started
TIMED = ("step_seconds", "speedup_reached")

# Title, (metric, name, smooth) ..., options. A chart appears where at least one of its metrics was recorded.
CHARTS: tuple[tuple[str, tuple[tuple[str, str, bool], ...], dict[str, bool]], ...] = (
    ("Reward", (("reward_mean", "mean reward", True),), {}),
    (
        "Answers",
        (("pass_rate", "tests passed", True), ("solved_rate", "all tests passed", True), ("format_rate", "format accepted", True)),
        {"share": True},
    ),
    (
        "Busy and idle: idle share of each stage",
        (("generate_idle_share", "generation", True), ("reward_idle_share", "judging", True), ("train_idle_share", "learning", True)),
        {"share": True},
    ),
    ("Staleness (learner steps)", (("staleness_mean", "mean", False), ("staleness_max", "largest", False)), {}),
    (
        "Seconds of a step",
        (
            ("step_seconds", "step", False),
            ("generate_seconds", "generation", False),
            ("reward_seconds", "judging", False),
            ("train_seconds", "learning", False),
        ),
        {},
    ),
    ("Speed-up by overlap", (("speedup_reached", "reached", True), ("speedup_bound", "bound", True)), {}),
    ("Ratio of new to old probabilities", (("ratio_mean", "mean", False), ("ratio_max", "largest", False)), {"zero": False}),
    ("KL to the reference (nats)", (("kl_mean", "mean", False), ("kl_median", "median", False)), {}),
    ("Gradient norm", (("grad_norm", "gradient norm", False),), {}),
    ("Groups and tokens without signal", (("zero_signal_share", "zero-signal groups", True), ("clip_share", "clipped tokens", False), ("excluded_share", "excluded samples", False)), {"share": True}),
    ("AR-ness of the rollouts", (("local_ar_ness", "local", True), ("global_ar_ness", "global", True)), {"share": True}),
    ("Entropy of the drawn tokens (nats)", (("draw_entropy", "entropy", True),), {}),
    ("Entropy of the reveal order (nats)", (("order_entropy", "entropy", True),), {}),
    ("Answer length (tokens)", (("completion_tokens_mean", "mean length", True),), {}),
    ("Wait for verdicts (seconds)", (("reward_wait_p50", "median", False), ("reward_wait_p95", "95th percentile", False)), {}),
    ("New weights (seconds)", (("weight_broadcast_seconds", "slowest push", False), ("weight_swap_seconds", "slowest swap", False)), {}),
    ("Groups waiting", (("ledger_ready", "ready", False), ("ledger_generated", "generated", False), ("ledger_scoring", "judging", False)), {}),
)  # fmt: skip


def write_report(run_folder: str | Path, out: str | Path | None = None) -> Path:
    """Write the page of a run and return its path.

    Args:
        run_folder: config.yaml and metrics.jsonl must be there; summary, evaluations and trajectories are used if present.
        out: the HTML file; default `report.html` in the run folder.

    Raises:
        ConfigError: no run folder, no learner step, or an unwritable file.
        ValueError: a broken file, by name.
    """
    run = read_run(Path(run_folder))
    path = Path(out) if out is not None else run.root / "report.html"
    write_text(path, page(run))
    return path


def page(run: Run) -> str:
    """The whole page."""
    sections = [
        _header(run),
        _tiles(run),
        _curves(run),
        _evaluations(run),
        _ledger(run),
        answers_section(run),
        _settings(run),
    ]
    title = escape(run.root.name)
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{title} – Couplet run</title><style>{style_sheet()}</style></head>\n<body><main>\n"
        + "\n".join(section for section in sections if section)
        + f"\n<footer>Couplet, {escape(time.strftime('%Y-%m-%d %H:%M'))}. One file, no scripts, nothing loaded from elsewhere; "
        "point at a chart to read its values.</footer>\n</main></body></html>\n"
    )


def _header(run: Run) -> str:
    last, planned = run.metrics[-1]["step"], run.config.get("steps")
    state = "finished" if run.summary else f"at step {last} of {planned}"
    facts = [f"{last} learner steps", f"seed {run.config.get('seed')}"]
    if started := run.facts.get("started"):
        facts.append(f"started {time.strftime('%Y-%m-%d %H:%M', time.localtime(started))}")
    if seconds := run.summary.get("seconds"):
        facts.append(_duration(seconds))
    if tier := run.summary.get("sandbox_tier"):
        facts.append(f"sandbox tier {tier}")
    code = run.facts.get("code") or {}
    facts += [f"{name} {version}" for name, version in code.items() if version != "absent"]
    return (
        f'<h1>{escape(run.root.name)}<span class="badge">{escape(state)}</span></h1>'
        f'<div class="meta">{escape(" · ".join(map(str, facts)))}</div>'
    )


def _tiles(run: Run) -> str:
    """The few numbers a reader looks for first."""
    tiles = []
    for key in [key.removesuffix("_before") for key in run.summary if key.endswith("_before")]:
        before, after = run.summary[f"{key}_before"], run.summary.get(f"{key}_after")
        if isinstance(before, (int, float)) and isinstance(after, (int, float)):
            tiles.append(
                _tile(metric_name(key, run.config.get("evaluation") or {}), percent(after), _change(before, after))
            )
    reward = column(run.metrics, "reward_mean")
    if np.isfinite(reward).any():
        window = min(WINDOW, max(1, len(reward) // 2))
        first, last = (float(np.nanmean(part)) for part in (reward[:window], reward[-window:]))
        tiles.append(_tile(f"reward, last {window} steps", number(last), f"first {window} steps {number(first)}"))
    if bound := run.summary.get("speedup_bound"):
        reached, stage = run.summary["speedup_reached"], run.summary.get("bounding_stage")
        tiles.append(_tile("overlap of stages", f"{reached:.2f}×", f"bound {bound:.2f}×, {escape(str(stage))} slowest"))
    stale = column(run.metrics, "staleness_max")
    if np.isfinite(stale).any():
        allowed = (run.config.get("replay") or {}).get("max_staleness", "?")
        tiles.append(_tile("largest staleness", number(float(np.nanmax(stale))), f"allowed {escape(str(allowed))}"))
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _tile(name: str, value: str, note: str) -> str:
    return f'<div class="tile"><div class="name">{escape(name)}</div><div class="value">{value}</div><div class="note">{note}</div></div>'


def _change(before: float, after: float) -> str:
    points = 100 * (after - before)
    tone = "up" if points > 0 else "down" if points < 0 else ""
    return f'before {percent(before)} <span class="{tone}">{points:+.1f}</span>' if math.isfinite(points) else ""


def _curves(run: Run) -> str:
    steps = column(run.metrics, "step")
    charts = []
    for title, parts, options in CHARTS:
        series = tuple(Series(name, _metric(run, metric), smooth) for metric, name, smooth in parts)
        if any(np.isfinite(s.values).any() for s in series):
            charts.append(line_chart(Chart(title, series, **options), steps))
    note = f"Where a chart has dots, each is one learner step and the line is the mean of the last {WINDOW}."
    return f'<h2>Curves</h2><p class="soft">{note}</p><div class="grid">{"".join(charts)}</div>'


def _metric(run: Run, name: str) -> np.ndarray:
    """A metric per step; what is relative to a step's duration is left out where no duration was measured."""
    values = column(run.metrics, name)
    if name in TIMED or name.endswith("_idle_share"):
        values[column(run.metrics, "step_seconds") < SHORTEST_STEP] = np.nan
    return values


def _evaluations(run: Run) -> str:
    if not run.evaluations:
        return ""
    ordered = sorted(run.evaluations.items(), key=lambda item: (item[1].get("step", 0), item[0] != "before"))
    names = [k for k, v in ordered[0][1].items() if isinstance(v, (int, float)) and k not in ("step", "excluded")]
    head = "".join(
        f'<th class="number">{escape(metric_name(name, run.config.get("evaluation") or {}))}</th>' for name in names
    )
    lines = []
    for name, result in ordered:
        cells = "".join(f'<td class="number">{percent(_value(result, key))}</td>' for key in names)
        ar_ness = result.get("ar_ness") or {}
        order = "; ".join(
            f"T = {t}: {number(_value(v, 'local'))} local, {number(_value(v, 'global'))} global"
            for t, v in ar_ness.items()
        )
        lines.append(f"<tr><td>{escape(name)}</td>{cells}<td>{escape(order)}</td></tr>")
    return (
        '<h2>Held-out problems</h2><div class="card scroll"><table>'
        f"<tr><th>evaluation</th>{head}<th>AR-ness</th></tr>{''.join(lines)}</table></div>"
    )


def _ledger(run: Run) -> str:
    """Every prompt group is accounted for: issued = trained + filtered + quarantined + in flight."""
    last = run.metrics[-1]
    names = ("issued", "trained", "filtered", "quarantined", "in_flight")
    totals = run.summary.get("ledger") or {name: last[f"ledger_{name}"] for name in names if f"ledger_{name}" in last}
    if not all(name in totals for name in names):
        return ""
    issued, parts = int(totals["issued"]), {name: int(totals[name]) for name in names[1:]}
    whole = sum(parts.values()) == issued
    bar = "".join(
        f'<span class="b{i}" style="width:{100 * count / max(issued, 1):.2f}%" title="{escape(name)}: {count}"></span>'
        for i, (name, count) in enumerate(parts.items())
    )
    legend = "".join(
        f'<span><i class="b{i}"></i>{escape(name.replace("_", " "))}: {count}</span>'
        for i, (name, count) in enumerate(parts.items())
    )
    verdict = '<span class="up">adds up</span>' if whole else '<span class="down">does not add up</span>'
    sum_of = " + ".join(f"{count} {name.replace('_', ' ')}" for name, count in parts.items())
    more = [f"{int(totals[name])} {name.replace('_', ' ')}" for name in ("reissued", "stale_dropped") if name in totals]
    restarts = run.summary.get("restarts")
    more += [f"{role} restarts: {count}" for role, count in restarts.items()] if isinstance(restarts, Mapping) else []
    return (
        '<h2>Ledger of prompt groups</h2><div class="card">'
        f'<div class="ledger">{bar}</div><div class="legend">{legend}</div>'
        f'<p class="mono">{issued} issued = {escape(sum_of)} &nbsp;{verdict}</p>'
        + (f'<p class="soft">{escape(", ".join(more))}</p>' if more else "")
        + "</div>"
    )


def _settings(run: Run) -> str:
    plain = {key: value for key, value in run.config.items() if not isinstance(value, Mapping)}
    sections = {"run": plain} | {key: value for key, value in run.config.items() if isinstance(value, Mapping)}
    cards = []
    for name, values in sections.items():
        rows = "".join(
            f"<tr><td>{escape(str(k))}</td><td class='mono'>{escape(_show(v))}</td></tr>" for k, v in values.items()
        )
        cards.append(f'<div class="card"><h3>{escape(str(name))}</h3><table>{rows}</table></div>')
    return f'<h2>Settings</h2><div class="settings">{"".join(cards)}</div>'


def _show(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return ", ".join(f"{k}: {_show(v)}" for k, v in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_show(v) for v in value)
    return str(value)


def _value(row: Mapping[str, Any], name: str) -> float:
    value = row.get(name)
    return float(value) if isinstance(value, (int, float)) else math.nan


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
