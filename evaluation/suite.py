"""The evaluation before, during and after training: pass@1, pass@k and AR-ness on held-out problems."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from couplet.configs.schema import EvaluationConfig, SamplerConfig
from couplet.data.prompts import PromptSet
from couplet.data.trajectory import ScoredGroup
from couplet.data.verdict import Outcome, format_rate
from couplet.evaluation.pass_at_k import pass_at_k

Evaluate = Callable[..., list[ScoredGroup]]


def run_suite(
    config: EvaluationConfig,
    sampler: SamplerConfig,
    prompts: PromptSet,
    evaluate: Evaluate,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Evaluate the published policy.

    Args:
        config: temperatures, samples, problems.
        sampler: the run's decoder; only its temperature is changed.
        prompts: held-out problems.
        evaluate: `Cluster.evaluate`.
        progress: called with (what, problems done, problems in all).

    Returns:
        `pass_at_1` at the low temperature; `pass_at_1_t1` and `pass_at_<samples>` at `config.temperature`; `ar_ness`:
        temperature -> {"local", "global"}; `excluded`: samples lost to sandbox faults.
    """

    def groups_at(temperature: float, samples: int, chosen: PromptSet) -> list[ScoredGroup]:
        done = 0

        def count(_: int, __: ScoredGroup) -> None:
            nonlocal done
            done += 1
            if progress:
                progress(f"T = {temperature:g}", done, len(chosen))

        return evaluate(chosen, replace(sampler, temperature=temperature), samples, config.seed, count)

    low = groups_at(config.greedy_temperature, config.greedy_samples, prompts)
    high = groups_at(config.temperature, config.samples, prompts)
    few = PromptSet(prompts.problems[: config.ar_ness_problems], prompts.prompts[: config.ar_ness_problems])
    ar_ness = {
        f"{temperature:g}": _ar_ness(
            low[: config.ar_ness_problems]
            if temperature == config.greedy_temperature
            else groups_at(temperature, 1, few)
        )
        for temperature in config.ar_ness_temperatures
    }
    return {
        "pass_at_1": mean_pass_at(low, 1),
        "pass_at_1_t1": mean_pass_at(high, 1),
        f"pass_at_{config.samples}": mean_pass_at(high, config.samples),
        "format_rate_t1": format_rate([verdict for group in high for verdict in group.verdicts]),
        "ar_ness": ar_ness,
        "excluded": sum(not v.outcome.is_verdict for group in low + high for v in group.verdicts),
    }


def metric_name(key: str, evaluation: Mapping[str, Any]) -> str:
    """A pass or format rate of `run_suite` in words; `evaluation` is that section of the run's configuration."""
    if key == "pass_at_1":
        return f"pass@1, T = {evaluation.get('greedy_temperature', '?')}"
    name = key.removesuffix("_t1").replace("pass_at_", "pass@").replace("_", " ")
    return f"{name}, T = {evaluation.get('temperature', '?')}"


def mean_pass_at(groups: Sequence[ScoredGroup], k: int) -> float:
    """Unbiased pass@k averaged over problems; problems with fewer than k judged samples are left out."""
    values = []
    for scored in groups:
        solved = sum(v.outcome is Outcome.PASSED for v in scored.verdicts)
        judged = sum(v.outcome.is_verdict for v in scored.verdicts)
        if judged >= k:
            values.append(pass_at_k(judged, solved, k))
    return float(np.mean(values)) if values else float("nan")


def _ar_ness(groups: Sequence[ScoredGroup]) -> dict[str, float]:
    measured = [scored.group.metrics or {} for scored in groups]
    return {kind: float(np.mean([m[f"{kind}_ar_ness"] for m in measured])) for kind in ("local", "global")}
