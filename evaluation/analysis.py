"""`launch.py analyze`: AR-ness, entropy sink, temperature sweep, step halving, code against word problems."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from couplet.configs.load import to_dict
from couplet.configs.markdown import markdown_table
from couplet.configs.schema import SamplerConfig, require
from couplet.data.files import write_json, write_text, writing
from couplet.data.prompts import PromptSet
from couplet.evaluation.decoding import (
    Decoded,
    at,
    completion_rows,
    decode_judged,
    first_forward_confidence,
    measures,
    word_problems,
)
from couplet.evaluation.decoding_figures import domain_figure, entropy_sink_figure, step_figure, temperature_figure
from couplet.evaluation.figures import write_both
from couplet.evaluation.records import Records, require_unique, same_run
from couplet.evaluation.request import Evaluate
from couplet.model.policy import DiffusionPolicy


@dataclass(frozen=True)
class Subject:
    """One policy under analysis: its name in the figures, how it is evaluated, and its weights in this process.

    Attributes:
        label: e.g. "before" and "after".
        evaluate: `Cluster.evaluate` with this policy's weights published.
        policy: for the entropy sink and the word problems.
        decode: token ids to text without special tokens.
        rows: most completions per forward pass on the word problems; None sets no limit.
    """

    label: str
    evaluate: Evaluate
    policy: DiffusionPolicy
    decode: Callable[[Sequence[int]], str]
    rows: int | None = None


@dataclass(frozen=True)
class AnalysisPlan:
    """What to measure.

    Attributes:
        temperatures: of the sweep, at the sampler's own number of steps.
        steps: of the step halving; None takes C, C/2 and C/4 of the canvas.
        step_temperature: temperature of the step halving.
        domain_temperature: temperature of the comparison of code and word problems.
        samples: completions per problem.
        ar_ness_ks: k of local and global AR-ness.
        pass_ks: k of pass@k.
        seed: of samples and bootstraps.
    """

    temperatures: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2)
    steps: tuple[int, ...] | None = None
    step_temperature: float = 0.2
    domain_temperature: float = 0.2
    samples: int = 8
    ar_ness_ks: tuple[int, ...] = (1, 2, 4, 8)
    pass_ks: tuple[int, ...] = (1, 8)
    seed: int = 0

    def __post_init__(self) -> None:
        require(
            self.samples >= max(self.pass_ks, default=1),
            "samples",
            self.samples,
            f"pass@k of {self.pass_ks} needs as many",
        )
        require(
            min(self.ar_ness_ks, default=0) >= 1, "ar_ness_ks", self.ar_ness_ks, "name at least one k, each 1 or above"
        )
        require(len(self.temperatures) > 0, "temperatures", self.temperatures, "name at least one")


@dataclass(frozen=True)
class Material:
    """What is decoded: problems with tests, the decoder, and arithmetic word problems to compare the code with, if any.

    Temperature and steps of the decoder are varied.
    """

    code: PromptSet
    sampler: SamplerConfig
    words: PromptSet | None = None


@dataclass
class _Collected:
    """Rows of the two tables, filled setting by setting; completions are recorded in `out`, problem by problem."""

    plan: AnalysisPlan
    out: Path
    settings: list[dict[str, Any]] = field(default_factory=list)
    completions: list[dict[str, Any]] = field(default_factory=list)

    def decoded(self, name: str, evaluate: Evaluate, prompts: PromptSet, sampler: SamplerConfig) -> list[Decoded]:
        """The recorded completions, and those of the other problems decoded now: so a killed analysis resumes."""
        records = Records(self.out / "decoded" / f"{name}-T{sampler.temperature:g}-S{sampler.steps}.jsonl")

        def keep(found: Decoded) -> None:
            records.append(asdict(found))

        left, part = records.left(prompts)
        if left:
            for found in decode_judged(evaluate, part, sampler, self.plan.samples, self.plan.seed, keep):
                keep(found)
        records.close()
        return [Decoded.of_row(row) for row in records.of(prompts)]

    def add(self, facts: Mapping[str, Any], decoded: Sequence[Decoded]) -> None:
        ks = [k for k in self.plan.pass_ks if k <= self.plan.samples]
        self.settings.append({**facts, **measures(decoded, self.plan.ar_ness_ks, ks, self.plan.seed)})
        self.completions.extend(completion_rows(decoded, facts))


def claim_folder(out: Path, sampler: SamplerConfig, plan: AnalysisPlan, facts: Mapping[str, Any]) -> None:
    """Write to `out` what its records belong to; the same analysis resumes there.

    Raises:
        ConfigError: `out` contains records of something else, or cannot be written.
    """
    fixed = {name: value for name, value in to_dict(sampler).items() if name not in ("temperature", "steps")}
    same_run(out / "run.json", {**facts, "samples": plan.samples, "seed": plan.seed, "sampler": fixed})


def run_analysis(
    subjects: Sequence[Subject],
    material: Material,
    plan: AnalysisPlan,
    out: Path,
    *,
    facts: Mapping[str, Any] | None = None,
    tier: str = "",
    console: Console | None = None,
) -> dict[str, Any]:
    """Measure every subject and write figures (PNG, SVG), data (Parquet), `analysis.json` and `analysis.md` to `out`.

    Args:
        subjects: one policy, or two to compare before and after.
        material: problems and decoder.
        plan: settings.
        out: folder; a killed analysis resumes there.
        facts: what identifies the analysis besides plan and sampler (policies, problem sets); named in `analysis.json`.
        tier: the sandbox tier that judges, for `analysis.json`.
        console: progress; None prints nothing.

    Raises:
        ConfigError: the plan cannot be measured, or `out` cannot be written or contains another analysis.
        ValueError: two subjects with one label, or two problems with one id.
    """
    labels = [subject.label for subject in subjects]
    if not labels or len(set(labels)) != len(labels):
        raise ValueError(f"subjects {labels}: need at least one, each with its own label")
    for prompts in (material.code, material.words):
        if prompts is not None:
            require_unique(prompts)
    claim_folder(out, material.sampler, plan, facts or {})
    found = _Collected(plan, out)
    sink: list[dict[str, Any]] = []
    for subject in subjects:
        _say(console, f"{subject.label}: temperature sweep, step halving, entropy sink")
        sink += _measure(subject, material, plan, found)
    result = {
        **(facts or {}),
        "sandbox_tier": tier,
        "plan": asdict(plan),
        "sampler": to_dict(material.sampler),
        "settings": found.settings,
    }
    _write(out, result, found, sink, plan)
    _say(console, f"figures and data in {out}")
    return result


def _measure(subject: Subject, material: Material, plan: AnalysisPlan, found: _Collected) -> list[dict[str, Any]]:
    """Every setting of one subject, collected in `found`; returns the rows of its entropy sink."""
    code, sampler, words = material.code, material.sampler, material.words
    canvas, in_code = sampler.completion_length, f"{subject.label}-code"
    for temperature in plan.temperatures:
        decoded = found.decoded(in_code, subject.evaluate, code, at(sampler, temperature))
        found.add(_facts("temperature", subject, "code", temperature, sampler.steps), decoded)
    for steps in plan.steps or (canvas, canvas // 2, canvas // 4):
        decoded = found.decoded(in_code, subject.evaluate, code, at(sampler, plan.step_temperature, steps))
        found.add(_facts("steps", subject, "code", plan.step_temperature, steps), decoded)
    sink = _sink_rows(subject, "code", code, canvas)
    if words is not None:
        setting, solve = (
            at(sampler, plan.domain_temperature),
            word_problems(subject.policy, subject.decode, subject.rows),
        )
        for domain, decoded in (
            ("code", found.decoded(in_code, subject.evaluate, code, setting)),
            ("word problems", found.decoded(f"{subject.label}-words", solve, words, setting)),
        ):
            found.add(_facts("domain", subject, domain, plan.domain_temperature, sampler.steps), decoded)
        sink += _sink_rows(subject, "word problems", words, canvas)
    return sink


def _facts(study: str, subject: Subject, domain: str, temperature: float, steps: int) -> dict[str, Any]:
    return {"study": study, "policy": subject.label, "domain": domain, "temperature": temperature, "steps": steps}


def _sink_rows(subject: Subject, domain: str, prompts: PromptSet, canvas: int) -> list[dict[str, Any]]:
    """Means over problems per completion position."""
    largest_PC, entropy_PC = first_forward_confidence(subject.policy, [p.tolist() for p in prompts.prompts], canvas)
    return [
        {
            "policy": subject.label,
            "domain": domain,
            "position": position,
            "largest_probability": float(largest_PC[:, position].mean()),
            "largest_probability_std": float(largest_PC[:, position].std()),
            "entropy": float(entropy_PC[:, position].mean()),
        }
        for position in range(canvas)
    ]


def _write(
    out: Path, result: Mapping[str, Any], found: _Collected, sink: Sequence[Mapping[str, Any]], plan: AnalysisPlan
) -> None:
    by_study = {name: [r for r in found.settings if r["study"] == name] for name in ("temperature", "steps", "domain")}
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(found.settings), out / "settings.parquet")
        pq.write_table(pa.Table.from_pylist(found.completions), out / "completions.parquet")
        pq.write_table(pa.Table.from_pylist(list(sink)), out / "entropy_sink.parquet")
        write_both(temperature_figure(by_study["temperature"], plan.ar_ness_ks[0], plan.pass_ks), out / "temperature")
        write_both(step_figure(by_study["steps"]), out / "steps")
        write_both(entropy_sink_figure(sink), out / "entropy_sink")
        if by_study["domain"]:
            write_both(domain_figure(by_study["domain"], plan.ar_ness_ks), out / "domains")
    write_json(out / "analysis.json", result)
    write_text(out / "analysis.md", markdown(by_study, plan))


def markdown(by_study: Mapping[str, Sequence[Mapping[str, Any]]], plan: AnalysisPlan) -> str:
    """A table per study."""
    k = plan.ar_ness_ks[0]
    names = [f"local_ar_ness_{k}", f"global_ar_ness_{k}", "order_diversity", *(f"pass_{p}" for p in plan.pass_ks)]
    heads = ["policy", "domain", "T", "steps", f"local AR-ness@{k}", f"global AR-ness@{k}", "order diversity"]
    heads += [*(f"pass@{p}" for p in plan.pass_ks), "order entropy", "tokens/s"]
    parts = []
    for study, rows in by_study.items():
        if rows:
            table = markdown_table(heads, [_cells(row, names) for row in rows], "llr")
            parts.append(f"### {study}\n\n{table}\n")
    return "\n".join(parts)


def _cells(row: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    speed = row.get("tokens_per_second")
    return [
        row["policy"],
        row["domain"],
        f"{row['temperature']:g}",
        str(row["steps"]),
        *(_interval(row, name) for name in names),
        f"{row['order_entropy']:.2f}",
        "–" if speed is None else f"{speed:.0f}",
    ]


def _interval(row: Mapping[str, Any], name: str) -> str:
    if row.get(name) is None:
        return "–"
    return f"{row[name]:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]"


def _say(console: Console | None, text: str) -> None:
    if console is not None:
        console.print(text, highlight=False, soft_wrap=True)
