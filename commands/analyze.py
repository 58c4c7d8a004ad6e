"""`analyze`: how one policy decodes, or two side by side."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from couplet.commands import cli
from couplet.commands.backends import open_evaluator
from couplet.commands.display import open_console
from couplet.commands.subject import Subject, weights_fingerprint
from couplet.configs.errors import UserError

if TYPE_CHECKING:
    from couplet.configs.schema import RunConfig
    from couplet.data.prompts import PromptSet
    from couplet.evaluation.analysis import AnalysisPlan
    from couplet.training.evaluator import Evaluator


def options(parser: argparse.ArgumentParser) -> None:
    """Options of `analyze`."""
    parser.epilog = (
        "Keys and defaults: docs/configuration.md, with the limits of `score` (8 CPU seconds per test, 1 GB)."
    )
    cli.add_policy_and_problems(parser)
    before = "a second policy to compare the first with, e.g. the start of RL"
    parser.add_argument("--before", metavar="POLICY", help=before)
    sweep = "of the sweep (default: 0.2,0.4 … 1.2)"
    parser.add_argument("--temperatures", type=cli.numbers, metavar="T,T", help=sweep)
    halving = "of the step halving (default: canvas, half, quarter)"
    parser.add_argument("--steps", type=cli.counts, metavar="N,N", help=halving)
    cli.add_samples(parser)
    words = "word problems to compare the code with; or none"
    parser.add_argument("--words", default="arithmetic:heldout", metavar="SET", help=words)
    parser.add_argument("--out", type=Path, metavar="DIR", help="figures and data (default: RUN/analysis/SET)")
    cli.add_subset(parser)
    cli.add_local(parser)


def run(args: argparse.Namespace) -> None:
    """Sample, analyse, and write figures and data."""
    from couplet.evaluation.analysis import AnalysisPlan

    ks = (1, args.samples) if args.samples > 1 else (1,)
    plan = AnalysisPlan(samples=args.samples, seed=args.seed, steps=args.steps, pass_ks=ks)
    if args.temperatures is not None:
        plan = replace(plan, temperatures=args.temperatures)
    words = None if args.words == "none" else args.words
    run_policy_analysis(Comparison(Subject.of(args), args.before, words), plan, open_console())


@dataclass(frozen=True)
class Comparison:
    """A policy on code problems, and what it is compared with.

    Attributes:
        subject: policy, problems with tests, and settings; `before` is sampled with the settings of its policy.
        before: a second policy, or None.
        words: word problems to compare the code with (`arithmetic:SPLIT`); None leaves that part out.
    """

    subject: Subject
    before: str | None
    words: str | None


def run_policy_analysis(comparison: Comparison, plan: AnalysisPlan, console: Console) -> dict[str, Any]:
    """Figures and data of `evaluation.analysis.run_analysis`; a killed analysis continues in its folder.

    Raises `UserError`.
    """
    from couplet.evaluation.analysis import Material, claim_folder, run_analysis

    subject, words = comparison.subject, comparison.words
    folder, config = subject.open()
    folders = {"policy": folder}
    if comparison.before is not None:
        folders = {"before": subject.open(comparison.before)[0], "after": folder}
    code = _shared_prompts(config, folders, subject, subject.problems)
    asked = None if words is None else _shared_prompts(config, folders, subject, words)
    if asked is not None and any("result" not in problem.metadata for problem in asked.problems):
        raise UserError(f"--words {words}: word problems need a known result; use arithmetic:heldout")
    out = subject.results(folder, "analysis")
    facts: dict[str, Any] = {
        "policies": {label: str(path) for label, path in folders.items()},
        "weights": {label: weights_fingerprint(path) for label, path in folders.items()},
        "words": words,
        **subject.facts(config, code.problems),
    }
    claim_folder(out, config.sampler, plan, facts)
    with open_evaluator(config, local=subject.local) as evaluator:
        console.print(
            f"{', '.join(map(str, folders.values()))}: {evaluator.describe()}", highlight=False, soft_wrap=True
        )
        policies = [_policy(label, path, config, evaluator) for label, path in folders.items()]
        material = Material(code, config.sampler, asked)
        return run_analysis(policies, material, plan, out, facts=facts, tier=evaluator.tier, console=console)


def _shared_prompts(config: RunConfig, folders: dict[str, Path], subject: Subject, source: str) -> PromptSet:
    sets = [subject.prompts(config, folder, source) for folder in folders.values()]
    for other in sets[1:]:
        if [prompt.tolist() for prompt in other.prompts] != [prompt.tolist() for prompt in sets[0].prompts]:
            before, after = folders.values()
            raise UserError(f"--before {before}: its tokenizer makes other prompts than that of {after}")
    return sets[0]


def _policy(label: str, folder: Path, config: RunConfig, evaluator: Evaluator) -> Any:
    import torch

    from couplet.data.tokenizer import load_tokenizer
    from couplet.evaluation.analysis import Subject
    from couplet.training.factory import PolicySlice, load_policy

    device = "cuda" if config.rollout.gpus > 0 and torch.cuda.is_available() else "cpu"
    policy = load_policy(PolicySlice.of(config), str(folder), device).eval()
    return Subject(
        label,
        partial(evaluator.evaluate, folder),
        policy,
        load_tokenizer(folder).decode,
        config.rollout.microbatch_rows,
    )
