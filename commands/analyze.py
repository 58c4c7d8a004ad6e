"""`launch.py analyze`: how one policy decodes, or two side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from couplet.commands.backends import open_evaluator
from couplet.commands.evaluate import (
    judging_facts,
    open_policy,
    problems_print,
    prompts_of,
    results_folder,
    set_name,
    weights_print,
)
from couplet.configs.schema import ConfigError, RunConfig, SamplerConfig
from couplet.data.prompts import PromptSet
from couplet.data.trajectory import ScoredGroup
from couplet.training.evaluator import Evaluator, Progress


def run_policy_analysis(
    policy: str,
    problems: str,
    *,
    samples: int = 8,
    seed: int = 0,
    temperatures: tuple[float, ...] | None = None,
    steps: tuple[int, ...] | None = None,
    before: str | None = None,
    words: str | None = None,
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    limit: int | None = None,
    out: Path | None = None,
    local: bool = False,
    console: Console,
) -> dict[str, Any]:
    """Figures and data of `evaluation.analysis.run_analysis` for `policy`, beside those of `before` where it is named.

    Args:
        policy, before: policy folders, run folders or hub names; both are sampled with the settings of `policy`.
        problems: problems with tests.
        samples, seed, temperatures, steps: of `evaluation.analysis.AnalysisPlan`; its own where None.
        words: word problems to set against the code (`arithmetic:SPLIT`); None leaves that part out.
        recipe, overrides, limit, out, local: as `run_evaluation`; a killed analysis goes on in `out`.

    Raises:
        ConfigError, ValueError: something the user must mend, named.
    """
    from couplet.evaluation.analysis import AnalysisPlan, claim_folder, run_analysis

    plan = AnalysisPlan(samples=samples, seed=seed, steps=steps, pass_ks=(1, samples) if samples > 1 else (1,))
    if temperatures is not None:
        plan = replace(plan, temperatures=temperatures)
    folder, config = open_policy(policy, recipe, overrides)
    folders = {"policy": folder}
    if before is not None:
        folders = {"before": open_policy(before, recipe, overrides)[0], "after": folder}
    code = _shared_prompts(config, folders, problems, limit, overrides)
    asked = None if words is None else _shared_prompts(config, folders, words, limit, overrides)
    if asked is not None and any("result" not in problem.metadata for problem in asked.problems):
        raise ConfigError(f"--words {words}: word problems need a known result; use arithmetic:heldout")
    name = f"{set_name(problems)}{f'-first{limit}' if limit else ''}"
    out = out or results_folder(folder).with_name("analysis") / name
    facts: dict[str, Any] = {
        "policies": {label: str(path) for label, path in folders.items()},
        "weights": {label: weights_print(path) for label, path in folders.items()},
        "problems": problems,
        "problem_print": problems_print(code.problems),
        "words": words,
        **judging_facts(config),
    }
    claim_folder(out, config.sampler, plan, facts)
    with open_evaluator(config, local=local) as evaluator:
        console.print(
            f"{', '.join(map(str, folders.values()))}: {evaluator.describe()}", highlight=False, soft_wrap=True
        )
        subjects = [_subject(label, path, config, evaluator) for label, path in folders.items()]
        return run_analysis(
            subjects, code, config.sampler, plan, out, words=asked, facts=facts, tier=evaluator.tier, console=console
        )


def _shared_prompts(
    config: RunConfig, folders: dict[str, Path], source: str, limit: int | None, overrides: Sequence[str]
) -> PromptSet:
    sets = [prompts_of(config, folder, source, limit, overrides) for folder in folders.values()]
    for other in sets[1:]:
        if [prompt.tolist() for prompt in other.prompts] != [prompt.tolist() for prompt in sets[0].prompts]:
            before, after = folders.values()
            raise ConfigError(f"--before {before}: its tokenizer makes other prompts than that of {after}")
    return sets[0]


def _subject(label: str, folder: Path, config: RunConfig, evaluator: Evaluator) -> Any:
    import torch

    from couplet.data.tokenizer import load_tokenizer
    from couplet.evaluation.analysis import Subject
    from couplet.model.policy import DiffusionPolicy
    from couplet.training.factory import load_policy

    def evaluate(
        prompts: PromptSet, sampler: SamplerConfig, samples: int, seed: int, progress: Progress | None
    ) -> list[ScoredGroup]:
        return evaluator.evaluate(folder, prompts, sampler, samples, seed, progress)

    device = "cuda" if config.rollout.gpus > 0 and torch.cuda.is_available() else "cpu"
    policy = load_policy(DiffusionPolicy, config, str(folder), device).eval()
    return Subject(label, evaluate, policy, load_tokenizer(folder).decode, config.rollout.microbatch_rows)
