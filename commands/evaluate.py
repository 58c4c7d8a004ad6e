"""`evaluate`: pass@k of a policy on a problem set, or the canonical solutions through the same judge."""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from couplet.commands import cli
from couplet.commands.backends import open_evaluator
from couplet.commands.display import Bar, Display, open_console
from couplet.commands.subject import Subject, weights_fingerprint
from couplet.data.problem import Problem
from couplet.data.problem_sets import load_problems
from couplet.data.trajectory import ScoredGroup
from couplet.data.verdict import Verdict
from couplet.evaluation.benchmark import Plan, run_benchmark, run_canonical
from couplet.evaluation.request import EvalRequest, Progress


def options(parser: argparse.ArgumentParser) -> None:
    """Options of `evaluate`."""
    parser.epilog = (
        "Keys and defaults: docs/configuration.md, with the limits of `score` (8 CPU seconds per test, 1 GB) and its reading "
        "of answers (reward.answers=any)."
    )
    cli.add_policy_and_problems(parser)
    temperatures = "default: evaluation.greedy_temperature, 0.2"
    parser.add_argument("--temperatures", type=cli.numbers, metavar="T,T", help=temperatures)
    parser.add_argument("--steps", type=cli.counts, metavar="N,N", help="denoising steps (default: the policy's own)")
    cli.add_samples(parser)
    parser.add_argument(
        "--k", type=cli.counts, metavar="K,K", help="k of pass@k (default: 1 and the number of samples)"
    )
    prefix = "begin every answer with this text; `published`: as the papers do (= evaluation.answer_prefix)"
    parser.add_argument("--prefix", metavar="TEXT", help=prefix)
    where = "results (default: RUN/benchmarks/SET); after a kill the same command continues there"
    parser.add_argument("--out", type=Path, metavar="DIR", help=where)
    parser.add_argument("--canonical", action="store_true", help="judge the set's own solutions instead of sampling")
    cli.add_subset(parser)
    cli.add_local(parser)


def run(args: argparse.Namespace) -> None:
    """Sample and judge, or judge the set's own solutions."""
    subject, console = Subject.of(args), open_console()
    if args.prefix is not None:
        chosen = f"evaluation.answer_prefix={json.dumps(args.prefix)}"
        subject = replace(subject, overrides=(*subject.overrides, chosen))
    if args.canonical:
        run_canonical_check(subject, console)
    else:
        ks = args.k or tuple(sorted({1, args.samples}))
        run_evaluation(subject, Plan(args.temperatures, args.steps, args.samples, ks, args.seed), console)


def run_evaluation(subject: Subject, plan: Plan, console: Console) -> list[dict[str, Any]]:
    """Sample and judge every setting of `plan`; see `evaluation.benchmark.run_benchmark` for what is written.

    Temperatures that are None mean `evaluation.greedy_temperature`. Raises `UserError`.
    """
    folder, config = subject.open()
    if not any(override.startswith("reward.answers=") for override in subject.overrides):
        config = config.replace(reward=config.reward.replace(answers="any"))  # as `score` reads them
    prompts = subject.prompts(config, folder)
    if plan.temperatures is None:
        plan = replace(plan, temperatures=(config.evaluation.greedy_temperature,))
    facts: dict[str, Any] = {"policy": str(folder), "weights": weights_fingerprint(folder)}
    facts |= subject.facts(config, prompts.problems)
    with open_evaluator(config, local=subject.local) as evaluator:
        facts["sandbox_tier"] = evaluator.tier
        console.print(f"{folder} on {subject.problems}: {evaluator.describe()}", highlight=False, soft_wrap=True)

        def evaluate(request: EvalRequest) -> list[ScoredGroup]:
            return evaluator.evaluate(folder, replace(request, progress=_with_lines(request, console)))

        out = subject.results(folder, "benchmarks")
        return run_benchmark(evaluate, prompts, config.sampler, plan, out, facts=facts, console=console)


def _with_lines(request: EvalRequest, console: Console) -> Progress | None:
    """The progress of `request`, and without a terminal for its bar a plain line now and then."""
    progress, sampler = request.progress, request.sampler
    if progress is None or console.is_terminal:
        return progress
    title = f"T = {sampler.temperature:g}, {sampler.steps} steps"
    bar, done = Bar(Display(console), title, len(request.prompts)), itertools.count(1)

    def shown(index: int, group: ScoredGroup) -> None:
        progress(index, group)
        bar.update(next(done))

    return shown


def run_canonical_check(subject: Subject, console: Console) -> dict[str, Any]:
    """Judge the canonical solutions as if the policy had written them; nothing is sampled."""
    _, config = subject.open()
    found = load_problems(subject.problems, seed=config.problems.seed, limit=subject.limit)
    with open_evaluator(config, local=subject.local) as evaluator:

        def judge(problem: Problem, texts: Sequence[str]) -> list[Verdict]:
            (verdicts,) = evaluator.judge([problem], [texts])
            return verdicts

        return run_canonical(judge, found, subject.out, console)
