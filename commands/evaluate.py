"""`launch.py evaluate`: pass@k of a policy on a problem set, or the canonical solutions through the same judge."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from couplet.commands.backends import open_evaluator
from couplet.commands.display import Bar, Display
from couplet.configs.schema import RunConfig
from couplet.data.problem import Problem
from couplet.data.problem_sets import load_problems
from couplet.data.prompts import PromptSet
from couplet.data.trajectory import ScoredGroup
from couplet.data.verdict import Verdict
from couplet.evaluation.benchmark import Plan, run_benchmark, run_canonical
from couplet.evaluation.policy_settings import config_for
from couplet.evaluation.score_file import SCORING
from couplet.model.hub import find_policy
from couplet.training.evaluator import Progress
from couplet.training.factory import load_prompts

NO_LIMIT = 2**31 - 1
# Settings of reward and sandbox that say how fast verdicts come, not what they are.
OPERATION = frozenset(
    ("actors", "cpus", "cache_entries", "retries", "max_fault_share", "timeout", "e2b_pool", "e2b_programs")
)
SAMPLED_BYTES = 2**16  # of each of `SAMPLED_PARTS` places of a weight file that enter its fingerprint
SAMPLED_PARTS = 16


def run_evaluation(
    policy: str,
    problems: str,
    *,
    plan: Plan,
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    limit: int | None = None,
    out: Path | None = None,
    local: bool = False,
    console: Console,
) -> list[dict[str, Any]]:
    """Sample and judge every setting of `plan`; see `evaluation.benchmark.run_benchmark` for what is written.

    Args:
        policy: a policy folder, a run folder, or a hub name.
        problems: as `data.problem_sets.load_problems`.
        plan: settings; None temperatures mean `evaluation.greedy_temperature`.
        recipe, overrides: settings other than the policy's own (`evaluation.policy_settings`).
        limit: first problems only.
        out: results, and where an interrupted evaluation goes on; default beside the policy.
        local: in this process, without Ray.

    Raises:
        ConfigError, ValueError: something the user must mend, named.
    """
    folder, config = open_policy(policy, recipe, overrides)
    prompts = prompts_of(config, folder, problems, limit, overrides)
    if plan.temperatures is None:
        plan = replace(plan, temperatures=(config.evaluation.greedy_temperature,))
    out = out or results_folder(folder) / f"{set_name(problems)}{f'-first{limit}' if limit else ''}"
    facts: dict[str, Any] = {
        "policy": str(folder),
        "weights": weights_print(folder),
        "problems": problems,
        "problem_print": problems_print(prompts.problems),
        **judging_facts(config),
    }
    with open_evaluator(config, local=local) as evaluator:
        facts["sandbox_tier"] = evaluator.tier
        console.print(f"{folder} on {problems}: {evaluator.describe()}", highlight=False, soft_wrap=True)

        def evaluate(prompts, sampler, samples, seed, progress):  # type: ignore[no-untyped-def]
            told = _told(progress, f"T = {sampler.temperature:g}, {sampler.steps} steps", len(prompts), console)
            return evaluator.evaluate(folder, prompts, sampler, samples, seed, told)

        return run_benchmark(evaluate, prompts, config.sampler, plan, out, facts=facts, console=console)


def _told(progress: Progress, title: str, total: int, console: Console) -> Progress:
    """`progress`, and where nobody sees its bar, a plain line now and then."""
    if console.is_terminal:
        return progress
    bar, done = Bar(Display(console), title, total), itertools.count(1)

    def told(index: int, group: ScoredGroup) -> None:
        progress(index, group)
        bar.update(next(done))

    return told


def run_canonical_check(
    policy: str,
    problems: str,
    *,
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    limit: int | None = None,
    out: Path | None = None,
    local: bool = False,
    console: Console,
) -> dict[str, Any]:
    """Judge the canonical solutions as if the policy had written them; nothing is sampled."""
    _, config = open_policy(policy, recipe, overrides)
    found = load_problems(problems, seed=config.problems.seed, limit=limit)
    with open_evaluator(config, local=local) as evaluator:

        def judge(problem: Problem, texts: Sequence[str]) -> list[Verdict]:
            (verdicts,) = evaluator.judge([problem], [texts])
            return verdicts

        return run_canonical(judge, found, out, console)


def open_policy(policy: str, recipe: str | None, overrides: Sequence[str]) -> tuple[Path, RunConfig]:
    """The folder of a policy (or of a run's policy), checked, and the settings it is sampled and judged by.

    Raises:
        ConfigError: no such folder, or settings that cannot be.
        ValueError: a folder that holds no diffusion policy, by what it lacks.
    """
    kept = Path(policy) / "policy"
    folder = Path(find_policy(str(kept) if (kept / "config.json").is_file() else policy, "policy"))
    config = config_for(folder, recipe, overrides)
    from couplet.model.folder import read_config, weight_files
    from couplet.model.tokens import read_token_names, resolve_token_ids

    resolve_token_ids(read_config(folder), read_token_names(folder), config.model.end_tokens, str(folder))
    weight_files(folder)
    return folder, with_scoring_limits(config, overrides)


def with_scoring_limits(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """The sandbox limits of `score` where they are wider than the recipe's: published solutions may be slow.

    A limit that an override names is left as it is.
    """
    wider = {
        name: max(getattr(config.sandbox, name), getattr(SCORING, name))
        for name in ("cpu_seconds", "memory_mb")
        if not any(override.startswith(f"sandbox.{name}=") for override in overrides)
    }
    return replace(config, sandbox=replace(config.sandbox, **wider))


def prompts_of(
    config: RunConfig, folder: Path, source: str, limit: int | None, overrides: Sequence[str] = ()
) -> PromptSet:
    """Every problem as a prompt: a length limit is training's, unless an override asks for one here."""
    if not any(override.startswith("problems.max_prompt_tokens=") for override in overrides):
        config = replace(config, problems=replace(config.problems, max_prompt_tokens=NO_LIMIT))
    return load_prompts(config, str(folder), source, limit)


def results_folder(folder: Path) -> Path:
    """`RUN/benchmarks` for the policy of a run, else `runs/benchmarks/NAME`; a hub's snapshot has its model's name."""
    if folder.name == "policy" and (folder.parent / "config.yaml").is_file() and (folder.parent / "run.json").is_file():
        return folder.parent / "benchmarks"
    name = folder.parent.name if folder.name == "policy" else folder.name
    if folder.parent.name == "snapshots":
        name = folder.parents[1].name.removeprefix("models--")
    return Path("runs") / "benchmarks" / name


def set_name(problems: str) -> str:
    """A file name for a problem set: `katas:heldout` -> katas-heldout, `data/mbpp.jsonl@test` -> mbpp-test."""
    path, _, split = problems.partition("@")
    stem = Path(path).name.split(".")[0].replace(":", "-")
    return f"{stem}-{split}" if split else stem


def weights_print(folder: Path) -> str:
    """A fingerprint of the weights from evenly spaced samples of their files; the same for a copy of the folder."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size};".encode())
        with path.open("rb") as file:
            for part in range(SAMPLED_PARTS):
                file.seek(max(0, size - SAMPLED_BYTES) * part // (SAMPLED_PARTS - 1))
                digest.update(file.read(SAMPLED_BYTES))
    return digest.hexdigest()


def judging_facts(config: RunConfig) -> dict[str, Any]:
    """What a verdict depends on: the settings of reward and sandbox without those of the workers that form it."""
    parts = {"reward": asdict(config.reward), "sandbox": asdict(config.sandbox)}
    return {name: {key: value for key, value in part.items() if key not in OPERATION} for name, part in parts.items()}


def problems_print(problems: Sequence[Problem]) -> str:
    """A fingerprint of what is asked and how it is judged."""
    digest = hashlib.blake2b(digest_size=16)
    for problem in problems:
        digest.update(repr((problem.problem_id, problem.question, problem.tests, problem.inputs)).encode())
    return digest.hexdigest()
