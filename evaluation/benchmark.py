"""pass@1 and pass@k of a policy on a problem set, over temperatures and steps; a killed run resumes.

What is not covered: a problem counts towards pass@k with the samples that were judged; one with fewer than k of them
(the sandbox failed) is left out of that estimate and counted in `left_out`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from couplet.configs.load import to_dict
from couplet.configs.markdown import markdown_table
from couplet.configs.schema import ConfigError, SamplerConfig, require
from couplet.data.answers import program_of_answer
from couplet.data.files import write_json, write_text
from couplet.data.problem import Problem
from couplet.data.prompts import PromptSet
from couplet.data.trajectory import ScoredGroup
from couplet.data.verdict import Outcome, Verdict
from couplet.evaluation.pass_at_k import estimate
from couplet.evaluation.records import Records, require_unique, same_run
from couplet.evaluation.request import EvalRequest, Evaluate
from couplet.evaluation.samples import evalplus_id
from couplet.reward.code_format import read_answer

Judge = Callable[[Problem, Sequence[str]], Sequence[Verdict]]
"""`RewardWorker.score`: the verdicts of texts for one problem."""


@dataclass(frozen=True)
class Plan:
    """What is sampled. Every pair of a temperature and a number of steps is one setting; None keeps the sampler's own.

    Attributes:
        temperatures: sampling temperatures.
        steps: denoising steps.
        samples: completions per problem.
        ks: the k of each pass@k; all must be at most `samples`.
        seed: of the samples and of the bootstrap.
    """

    temperatures: tuple[float, ...] | None = None
    steps: tuple[int, ...] | None = None
    samples: int = 8
    ks: tuple[int, ...] = (1,)
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.samples >= 1, "samples", self.samples, "must be at least 1")
        for k in self.ks:
            require(1 <= k <= self.samples, "k", k, f"pass@k needs 1 <= k <= samples = {self.samples}")
        require(len(self.ks) > 0, "k", self.ks, "name at least one")
        for name in ("temperatures", "steps"):
            values = getattr(self, name) or ()
            require(len(set(values)) == len(values), name, values, "name each once")
        require(self.temperatures != (), "temperatures", self.temperatures, "name at least one")
        require(self.steps != (), "steps", self.steps, "name at least one")

    def samplers(self, base: SamplerConfig) -> list[SamplerConfig]:
        """One sampler per setting, steps outer, temperatures inner."""
        return [
            base.replace(temperature=temperature, steps=steps)
            for steps in self.steps or (base.steps,)
            for temperature in self.temperatures or (base.temperature,)
        ]


def run_benchmark(
    evaluate: Evaluate,
    prompts: PromptSet,
    sampler: SamplerConfig,
    plan: Plan,
    out: Path,
    *,
    facts: Mapping[str, Any],
    console: Console | None = None,
) -> list[dict[str, Any]]:
    """Sample, judge and tabulate every setting of `plan`.

    Writes under `out`: `run.json` (what the results belong to), per setting `T…-S…/problems.jsonl` (verdicts of every
    completion) and `samples.jsonl` (EvalPlus's `task_id`, `solution`), and `results.json`, `results.md`.

    Args:
        evaluate: samples and judges, e.g. `Cluster.evaluate`.
        prompts: the problems.
        sampler: its temperature and steps are replaced by those of the plan.
        plan: settings, samples, seed.
        out: folder; a second call with the same facts resumes the first.
        facts: what identifies the run besides plan and sampler (policy, problem set); must not change on resume.
        console: progress and table; None prints nothing.

    Raises:
        ConfigError: `out` holds results of another run, or cannot be written.
    """
    fixed = {key: value for key, value in to_dict(sampler).items() if key not in ("temperature", "steps")}
    require_unique(prompts)
    header = {**facts, "samples": plan.samples, "seed": plan.seed, "problems_used": len(prompts), "sampler": fixed}
    same_run(out / "run.json", header)
    rows = []
    for setting in plan.samplers(sampler):
        folder = out / f"T{setting.temperature:g}-S{setting.steps}"
        records = _sample(evaluate, prompts, setting, plan, folder, console)
        write_samples(folder / "samples.jsonl", prompts.problems, records)
        rows.append({"temperature": setting.temperature, "steps": setting.steps} | summarise(records, plan))
        write_json(out / "results.json", {"run": header, "dropped_prompts": prompts.dropped, "settings": rows})
    write_text(out / "results.md", markdown(rows, plan.ks))
    if console is not None:
        console.print(table(rows, plan.ks))
        console.print(
            f"{len(prompts)} problems, {prompts.dropped} dropped for length; results in {out}", soft_wrap=True
        )
    return rows


def _sample(
    evaluate: Evaluate, prompts: PromptSet, sampler: SamplerConfig, plan: Plan, folder: Path, console: Console | None
) -> list[dict[str, Any]]:
    """The records of one setting in prompt order; only problems without one are sampled."""
    records = Records(folder / "problems.jsonl")
    if console is not None and records.torn:
        console.print(f"{records.path}: removed an unfinished last line of {records.torn} bytes")
    left, part = records.left(prompts)
    title = f"T = {sampler.temperature:g}, {sampler.steps} steps"
    with Progress(console=console, disable=console is None or not console.is_terminal, transient=True) as bar:
        task = bar.add_task(title, total=len(prompts), completed=len(prompts) - len(left))

        def done(index: int, group: ScoredGroup) -> None:
            records.append(record(prompts.problems[left[index]], group))
            bar.advance(task)

        if left:
            evaluate(EvalRequest(part, sampler, plan.samples, plan.seed, done))
    records.close()
    return records.of(prompts)


def record(problem: Problem, scored: ScoredGroup) -> dict[str, Any]:
    """What is kept of one problem's completions."""
    texts, verdicts = scored.group.texts, scored.verdicts
    judged = [v for v in verdicts if v.outcome.is_verdict]
    return {
        "problem_id": problem.problem_id,
        "samples": len(verdicts),
        "judged": len(judged),
        "correct": sum(v.outcome is Outcome.PASSED for v in judged),
        "completions": [
            {
                "outcome": v.outcome.value,
                "pass_rate": v.pass_rate,
                "reason": v.reason,
                "tests": [test.passed for test in v.tests],
                "reasons": sorted({test.reason for test in v.tests if not test.passed}),
                "format": read_answer(text, problem).score,
                "text": text,
            }
            for text, v in zip(texts, verdicts, strict=True)
        ],
    }


def summarise(records: Sequence[Mapping[str, Any]], plan: Plan) -> dict[str, Any]:
    """Estimates over problems: pass@k with intervals, pass and format rates, and what had to be left out."""
    completions = [c for row in records for c in row["completions"]]
    judged = [c for c in completions if Outcome(c["outcome"]).is_verdict]
    found: dict[str, Any] = {
        "problems": len(records),
        "excluded": len(completions) - len(judged),
        "pass_rate": _mean(c["pass_rate"] for c in judged),
        "format_rate": _mean(c["format"] == 1.0 for c in judged),
    }
    for k in plan.ks:
        counts = [(row["judged"], row["correct"]) for row in records if row["judged"] >= k]
        found[f"left_out@{k}"] = len(records) - len(counts)
        found[f"pass@{k}"] = dataclasses.asdict(estimate(counts, k, seed=plan.seed)) if counts else None
    return found


def write_samples(path: Path, problems: Sequence[Problem], records: Sequence[Mapping[str, Any]]) -> None:
    """The completions as EvalPlus reads them: one {"task_id", "solution"} per line.

    The solution is the program that was judged, or, if the format rule refused the text, what looks most like one.
    """
    lines = []
    for problem, row in zip(problems, records, strict=True):
        for text in (completion["text"] for completion in row["completions"]):
            program = read_answer(text, problem).program or program_of_answer(text, problem)
            lines.append(json.dumps({"task_id": evalplus_id(problem.problem_id), "solution": program}))
    write_text(path, "".join(line + "\n" for line in lines))


def run_canonical(
    judge: Judge, problems: Sequence[Problem], out: Path | None = None, console: Console | None = None
) -> dict[str, Any]:
    """Judge every canonical solution as if a policy had written it; anything below 100% is a fault of set or sandbox.

    Returns:
        counts (`problems`, `without_solution`, `passed`) and `failing`: problem id -> reasons of its failed tests.

    Raises:
        ConfigError: no problem has a canonical solution.
    """
    able = [problem for problem in problems if problem.canonical_solution]
    if not able:
        raise ConfigError(f"--canonical: none of {len(problems)} problems has a canonical solution")
    failing: dict[str, list[str]] = {}
    with Progress(console=console, disable=console is None or not console.is_terminal, transient=True) as bar:
        for problem in bar.track(able, description="canonical solutions"):
            (verdict,) = judge(problem, [f"```python\n{str(problem.canonical_solution).rstrip()}\n```\n"])
            if verdict.outcome is not Outcome.PASSED:
                reasons = {test.reason for test in verdict.tests if not test.passed}
                failing[problem.problem_id] = sorted(reasons | {verdict.reason or verdict.outcome.value})
    passed = len(able) - len(failing)
    counts = {"problems": len(able), "without_solution": len(problems) - len(able), "passed": passed}
    result = counts | {"failing": failing}
    if out is not None:
        write_json(out / "canonical.json", result)
    if console is not None:
        console.print(f"canonical solutions: {passed} of {len(able)} pass ({100 * passed / len(able):.1f}%)")
        for name, why in failing.items():
            console.print(f"  {name}: {', '.join(why)}", markup=False)
    return result


def table(rows: Sequence[Mapping[str, Any]], ks: Sequence[int]) -> Table:
    """The settings for a terminal; the best pass@k of each column is bold."""
    grid = Table(title="pass@k in percent, mean [95% interval over problems]")
    for name in _heads(ks):
        grid.add_column(name, justify="right")
    best = {k: max((r[f"pass@{k}"]["mean"] for r in rows if r[f"pass@{k}"]), default=None) for k in ks}
    for row, cells in zip(rows, _cells(rows, ks)):
        is_best = [len(rows) > 1 and row[f"pass@{k}"] and row[f"pass@{k}"]["mean"] == best[k] for k in ks]
        marks = [False, False, *is_best, *[False] * (len(cells) - 2 - len(ks))]
        grid.add_row(*(Text(cell, style="bold" if mark else "") for cell, mark in zip(cells, marks)))
    return grid


def markdown(rows: Sequence[Mapping[str, Any]], ks: Sequence[int]) -> str:
    """The settings as a Markdown table."""
    return markdown_table(_heads(ks), _cells(rows, ks), "r") + "\n"


def _heads(ks: Sequence[int]) -> list[str]:
    return ["T", "steps", *(f"pass@{k}" for k in ks), "tests passed", "format", "excluded"]


def _cells(rows: Sequence[Mapping[str, Any]], ks: Sequence[int]) -> list[list[str]]:
    return [
        [
            f"{row['temperature']:g}",
            str(row["steps"]),
            *(_interval(row[f"pass@{k}"]) for k in ks),
            *("–" if row[name] is None else f"{100 * row[name]:.1f}" for name in ("pass_rate", "format_rate")),
            str(row["excluded"]),
        ]
        for row in rows
    ]


def _interval(found: Mapping[str, float] | None) -> str:
    if found is None:
        return "none judged"
    return f"{100 * found['mean']:.1f} [{100 * found['low']:.1f}, {100 * found['high']:.1f}]"


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return sum(found) / len(found) if found else None
