"""What a chaos study found: pass rates beside those of undisturbed runs, and the table of recovery times."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from couplet.configs.generated import with_generated
from couplet.configs.markdown import markdown_table
from couplet.data.files import write_text
from couplet.studies.chaos_check import Records
from couplet.studies.claims import t_quantile

TARGETS = {  # seconds on an idle machine with two cores
    "kill rollout": 10, "kill reward": 10, "kill queue": 10, "kill learner rank": 20,
    "kill learner rank during broadcast": 20, "kill learner rank during checkpoint": 20, "kill node": 15,
}  # fmt: skip
METRIC = "pass_at_1_t1_after"


def pass_rates(records: Records, references: Sequence[Records]) -> dict[str, Any]:
    """The held-out pass rate after training, and whether it is within the spread of undisturbed runs.

    The spread is the 95% prediction interval of one more undisturbed run (Student's t), but at least the 95% interval of
    the difference that sampling alone makes between two evaluations of one policy.
    """
    value, others = records.summary[METRIC], [other.summary[METRIC] for other in references]
    if not others:
        return {"disturbed": value, "undisturbed": [], "allowed": None, "within": True}
    mean, count = statistics.fmean(others), len(others)
    evaluation = records.config["evaluation"]
    samples = evaluation["samples"] * (evaluation["limit"] or 1)
    sampling = 1.96 * math.sqrt(2 * max(mean * (1 - mean), 1 / samples) / samples)
    spread = t_quantile(count) * statistics.stdev(others) * math.sqrt(1 + 1 / count) if count > 1 else 0.0
    allowed = max(spread, sampling)
    return {"disturbed": value, "undisturbed": others, "allowed": allowed, "within": abs(value - mean) <= allowed}


def recovery(results: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """kind -> seconds until the run was complete and had done a learner step, sorted."""
    seconds: dict[str, list[float]] = defaultdict(list)
    for result in results:
        for event in result["events"]:
            seconds[event["name"]].append(event["stepped"])
    return {name: sorted(values) for name, values in seconds.items()}


def summary_lines(result: Mapping[str, Any]) -> list[str]:
    """For the terminal."""
    rows = [
        f"  {name:<38} {len(values):>3} x  median {statistics.median(values):5.1f} s  worst {values[-1]:5.1f} s"
        for name, values in sorted(recovery([result]).items())
    ]
    rates, count = result["pass_rates"], result["checked"]
    lines = [f"seconds until the run was complete and had done a step ({_machine(result)}):", *rows]
    lines.append(
        f"{len(result['events'])} events, {count['steps']} steps, {count['completions']} completions, "
        f"{count['reissued']} groups issued again; ledger {result['ledger']}"
    )
    undisturbed = ", ".join(f"{value:.3f}" for value in rates["undisturbed"]) or "none"
    lines.append(
        f"held-out pass@1 {rates['disturbed']:.3f}, undisturbed {undisturbed}: {'' if rates['within'] else 'NOT '}within"
    )
    lines += [f"VIOLATION: {line}" for line in result["violations"]]
    return lines if result["violations"] else [*lines, "nothing was lost, repeated or mixed"]


def render(page: Path, results: Sequence[Mapping[str, Any]]) -> None:
    """Replace the generated part of a page by the table of these studies."""
    write_text(page, with_generated(page, page_part(results) + "\n"))


def page_part(results: Sequence[Mapping[str, Any]]) -> str:
    """Table and findings as Markdown."""
    rows = [
        [
            name, str(len(values)), f"{statistics.median(values):.1f}", f"{values[-1]:.1f}",
            str(TARGETS[name]) if name in TARGETS else "–",
        ]
        for name, values in sorted(recovery(results).items())
    ]  # fmt: skip
    table = markdown_table(("event", "times", "median s", "worst s", "target s"), rows, "lrrrr")
    findings = []
    for result in results:
        rates, count = result["pass_rates"], result["checked"]
        undisturbed = ", ".join(f"{value:.3f}" for value in rates["undisturbed"])
        verdict = "nothing was lost, repeated or mixed" if not result["violations"] else "; ".join(result["violations"])
        findings.append(
            f"- Seed {result['seed']}, `max_staleness: {result['settings']['max_staleness']}`: {len(result['events'])} events "
            f"in {result['seconds']:.0f} s, {count['steps']} learner steps, {count['completions']} completions, "
            f"{count['reissued']} groups issued again: {verdict}. Held-out pass@1 {rates['disturbed']:.3f}; undisturbed "
            f"{undisturbed}. Machine: {_machine(result)}."
        )
    return "\n".join([table, "", *findings])


def _machine(result: Mapping[str, Any]) -> str:
    machine = result["machine"]
    return f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, load {machine['load']} at the end"
