"""The head of the page (what the run is and what came of it), its ledger of prompt groups, and its settings."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from couplet.evaluation.figures import column
from couplet.evaluation.suite import metric_name
from couplet.report.charts import WINDOW, number, percent
from couplet.report.run_data import Run

FINAL = ("trained", "filtered", "quarantined", "in_flight")


@dataclass(frozen=True)
class Header:
    """Name, state and facts of a run; `notice` says what an unfinished run lacks."""

    name: str
    state: str
    facts: tuple[str, ...]
    notice: str = ""


@dataclass(frozen=True)
class Tile:
    """A number to look at first. `tone` colours `change`: up, down or neither."""

    name: str
    value: str
    note: str
    change: str = ""
    tone: str = ""


@dataclass(frozen=True)
class LedgerView:
    """Every prompt group is accounted for: issued = trained + filtered + quarantined + in flight."""

    issued: int
    parts: tuple[tuple[str, int], ...]
    more: tuple[str, ...]

    @property
    def adds_up(self) -> bool:
        """Whether every issued group has one final state or is in flight."""
        return sum(count for _, count in self.parts) == self.issued


def header(run: Run) -> Header:
    """Name, state and facts."""
    last = run.metrics[-1]["step"] if run.metrics else 0
    facts = [f"{last} learner steps", f"seed {run.config.get('seed')}"]
    if started := run.facts.get("started"):
        facts.append(f"started {_clock(started)}")
    if not run.summary and run.metrics and run.metrics[-1].get("time"):
        facts.append(f"last step {_clock(run.metrics[-1]['time'])}")
    if seconds := run.summary.get("seconds"):
        facts.append(_duration(seconds))
    if tier := run.summary.get("sandbox_tier"):
        facts.append(f"sandbox tier {tier}")
    versions = run.facts.get("code") or {}
    facts += [f"{name} {version}" for name, version in versions.items() if version != "absent"]
    if run.summary:
        return Header(run.root.name, "finished", tuple(facts))
    notice = (
        "This run has no summary.json: it is still running or was stopped. The page shows what it has written so far."
    )
    return Header(run.root.name, f"at step {last} of {run.config.get('steps')}", tuple(facts), notice)


def tiles(run: Run) -> list[Tile]:
    """The few numbers a reader looks for first."""
    return [*_evaluation_tiles(run), *_reward_tile(run), *_overlap_tile(run), *_staleness_tile(run)]


def _evaluation_tiles(run: Run) -> Iterator[Tile]:
    """Pass and format rates, first against last: from the summary, else from the evaluations so far."""
    names = [key.removesuffix("_before") for key in run.summary if key.endswith("_before")]
    pairs = {name: (run.summary[f"{name}_before"], run.summary.get(f"{name}_after")) for name in names}
    first_word = "before"
    if not pairs and run.evaluations:
        first_word, first = next(iter(run.evaluations.items()))
        last = list(run.evaluations.values())[-1]
        pairs = {name: (value, last.get(name)) for name, value in first.items()}
    for name, (before, after) in pairs.items():
        if not isinstance(before, float) or not isinstance(after, float) or not math.isfinite(after - before):
            continue
        points = 100 * (after - before)
        tone = "up" if points > 0 else "down" if points < 0 else ""
        note, change = f"{first_word} {percent(before)}", f"{points:+.1f}"
        if not run.summary and len(run.evaluations) == 1:
            note, change = "before training", ""
        yield Tile(metric_name(name, run.section("evaluation")), percent(after), note, change, tone)


def _reward_tile(run: Run) -> Iterator[Tile]:
    reward = column(run.metrics, "reward_mean")
    if np.isfinite(reward).any():
        window = min(WINDOW, max(1, len(reward) // 2))
        first, last = reward[:window], reward[-window:]
        if np.isfinite(first).any() and np.isfinite(last).any():
            note = f"first {window} steps {number(float(np.nanmean(first)))}"
            yield Tile(f"reward, last {window} steps", number(float(np.nanmean(last))), note)


def _overlap_tile(run: Run) -> Iterator[Tile]:
    bound, reached = run.summary.get("speedup_bound"), run.summary.get("speedup_reached")
    if bound and reached:
        note = f"bound {bound:.2f}×, {run.summary.get('bounding_stage')} slowest"
        yield Tile("overlap of phases", f"{reached:.2f}×", note)


def _staleness_tile(run: Run) -> Iterator[Tile]:
    stale = column(run.metrics, "staleness_max")
    if np.isfinite(stale).any():
        allowed = run.section("replay").get("max_staleness", "?")
        yield Tile("largest staleness", number(float(np.nanmax(stale))), f"allowed {allowed}")


def ledger(run: Run) -> LedgerView | None:
    """The totals of the summary, else of the last learner step; None if there are none."""
    last = run.metrics[-1] if run.metrics else {}
    names = ("issued", *FINAL)
    totals = run.summary.get("ledger") or {name: last[f"ledger_{name}"] for name in names if f"ledger_{name}" in last}
    if not all(name in totals for name in names):
        return None
    more = [f"{int(totals[name])} {_words(name)}" for name in ("reissued", "stale_dropped") if name in totals]
    restarts = run.summary.get("restarts")
    more += [f"{role} restarts: {count}" for role, count in restarts.items()] if isinstance(restarts, Mapping) else []
    parts = tuple((_words(name), int(totals[name])) for name in FINAL)
    return LedgerView(int(totals["issued"]), parts, tuple(more))


def settings(run: Run) -> list[tuple[str, list[tuple[str, str]]]]:
    """The configuration as (section, rows); what is in no section is under `run`."""
    plain = {key: value for key, value in run.config.items() if not isinstance(value, Mapping)}
    sections = {"run": plain} | {key: value for key, value in run.config.items() if isinstance(value, Mapping)}
    return [
        (str(name), [(str(key), _shown(value)) for key, value in values.items()]) for name, values in sections.items()
    ]


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_shown(inner)}" for key, inner in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_shown(inner) for inner in value)
    return str(value)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
