"""The evaluation before, during and after training: pass@1, pass@k and AR-ness on held-out problems."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from couplet.configs.schema import EvaluationConfig, SamplerConfig
from couplet.data.prompts import PromptSet
from couplet.data.trajectory import ScoredGroup
from couplet.data.verdict import Outcome, format_rate
from couplet.evaluation.pass_at_k import bootstrap, pass_at_k
from couplet.evaluation.request import EvalRequest, Evaluate

KINDS = ("local", "global")


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
        `pass_at_1` at the low temperature; `pass_at_1_t1`, `pass_at_<samples>` and `format_rate_t1` at
        `config.temperature`; `ar_ness`: temperature -> {"local", "global"}; `excluded`: samples lost to sandbox faults;
        `intervals`: name in `suite_metrics` -> [low, high], 95% bootstrap over problems; `levels`: see `_levels`;
        `problems`: see `_problem_rows`.
    """

    def groups_at(temperature: float, samples: int, chosen: PromptSet) -> list[ScoredGroup]:
        done = 0

        def count(_: int, __: ScoredGroup) -> None:
            nonlocal done
            done += 1
            if progress:
                progress(f"T = {temperature:g}", done, len(chosen))

        return evaluate(EvalRequest(chosen, sampler.replace(temperature=temperature), samples, config.seed, count))

    low = groups_at(config.greedy_temperature, config.greedy_samples, prompts)
    high = groups_at(config.temperature, config.samples, prompts)
    few = prompts.take(range(min(len(prompts), config.ar_ness_problems)))
    orders = {
        temperature: low[: config.ar_ness_problems]
        if temperature == config.greedy_temperature
        else groups_at(temperature, 1, few)
        for temperature in config.ar_ness_temperatures
    }
    return {
        **{name: mean_pass_at(*rated) for name, rated in _rated(config, low, high).items()},
        "format_rate_t1": format_rate([verdict for group in high for verdict in group.verdicts]),
        "ar_ness": {f"{temperature:g}": ar_ness(groups) for temperature, groups in orders.items()},
        "excluded": sum(not v.outcome.is_verdict for group in low + high for v in group.verdicts),
        "intervals": _intervals(config, low, high, orders),
        "levels": _levels(config, prompts, low, high),
        "problems": _problem_rows(prompts, low, high),
    }


def _rated(
    config: EvaluationConfig, low: Sequence[ScoredGroup], high: Sequence[ScoredGroup]
) -> dict[str, tuple[Sequence[ScoredGroup], int]]:
    """Name of each pass rate -> its groups and k; with one sample, pass@samples is pass@1 at the high temperature."""
    many = {} if config.samples == 1 else {f"pass_at_{config.samples}": (high, config.samples)}
    return {"pass_at_1": (low, 1), "pass_at_1_t1": (high, 1), **many}


def suite_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """A result of `run_suite` as flat metrics for trackers: `eval/<name>`, with `_low` and `_high` of its interval.

    Names: the pass and format rates, `excluded`, and `local_ar_ness_t0_2`, ... for AR-ness at T = 0.2. Values that are
    not finite (because nothing was judged) are left out.
    """
    flat = {name: value for name, value in result.items() if isinstance(value, (int, float)) and name != "step"}
    for temperature, measured in result["ar_ness"].items():
        flat |= {_ar_ness_name(kind, temperature): value for kind, value in measured.items()}
    for name, (low, high) in result.get("intervals", {}).items():
        flat |= {f"{name}_low": low, f"{name}_high": high}
    return {f"eval/{name}": float(value) for name, value in flat.items() if math.isfinite(value)}


def metric_name(key: str, evaluation: Mapping[str, Any]) -> str:
    """A pass or format rate of `run_suite` in words; `evaluation` is that section of the run's configuration."""
    if key == "pass_at_1":
        return f"pass@1, T = {evaluation.get('greedy_temperature', '?')}"
    name = key.removesuffix("_t1").replace("pass_at_", "pass@").replace("_", " ")
    return f"{name}, T = {evaluation.get('temperature', '?')}"


def mean_pass_at(groups: Sequence[ScoredGroup], k: int) -> float:
    """Unbiased pass@k averaged over problems; problems with fewer than k judged samples are left out."""
    values = _pass_at(groups, k)
    return float(np.mean(values)) if values else float("nan")


def _pass_at(groups: Sequence[ScoredGroup], k: int) -> list[float]:
    """pass@k of every problem with at least k judged samples."""
    counts = [_counts(scored) for scored in groups]
    return [pass_at_k(judged, passed, k) for judged, passed in counts if judged >= k]


def _counts(scored: ScoredGroup) -> tuple[int, int]:
    """(judged, passed) samples of one problem."""
    outcomes = [verdict.outcome for verdict in scored.verdicts]
    return sum(outcome.is_verdict for outcome in outcomes), outcomes.count(Outcome.PASSED)


def ar_ness(groups: Sequence[ScoredGroup]) -> dict[str, float]:
    """Mean local and global AR-ness over problems."""
    return {kind: float(np.mean(_measured(groups, kind))) for kind in KINDS}


def _measured(groups: Sequence[ScoredGroup], kind: str) -> list[float]:
    return [(scored.group.metrics or {})[f"{kind}_ar_ness"] for scored in groups]


def _ar_ness_name(kind: str, temperature: float | str) -> str:
    return f"{kind}_ar_ness_t{float(temperature):g}".replace(".", "_")


def _intervals(
    config: EvaluationConfig,
    low: Sequence[ScoredGroup],
    high: Sequence[ScoredGroup],
    orders: Mapping[float, Sequence[ScoredGroup]],
) -> dict[str, list[float]]:
    """95% bootstrap intervals over problems; none for a name without a value."""
    formats = [format_rate(scored.verdicts) for scored in high]
    values = {name: _pass_at(*rated) for name, rated in _rated(config, low, high).items()}
    values["format_rate_t1"] = [rate for rate in formats if math.isfinite(rate)]
    for temperature, groups in orders.items():
        values |= {_ar_ness_name(kind, temperature): _measured(groups, kind) for kind in KINDS}
    found = {name: bootstrap(np.array(some), config.seed) for name, some in values.items() if some}
    return {name: [estimate.low, estimate.high] for name, estimate in found.items()}


def _levels(
    config: EvaluationConfig, prompts: PromptSet, low: Sequence[ScoredGroup], high: Sequence[ScoredGroup]
) -> dict[str, dict[str, float]]:
    """The pass rates of each difficulty level, for problems that name one: level -> name of the rate -> value."""
    levels = [problem.metadata.get("level") for problem in prompts.problems]
    found: dict[str, dict[str, float]] = {}
    for level in sorted({level for level in levels if level is not None}):
        own = [index for index, other in enumerate(levels) if other == level]
        rated = _rated(config, [low[i] for i in own], [high[i] for i in own])
        rates = {name: mean_pass_at(*some) for name, some in rated.items()}
        finite = {name: value for name, value in rates.items() if math.isfinite(value)}
        found[str(level)] = {"problems": len(own), **finite}
    return found


def _problem_rows(prompts: PromptSet, low: Sequence[ScoredGroup], high: Sequence[ScoredGroup]) -> list[dict[str, Any]]:
    """One row per problem: [judged, passed] samples at both temperatures, and the first answer at the low one."""
    return [
        {
            "problem_id": problem.problem_id,
            "question": problem.question,
            "pass_at_1": list(_counts(greedy)),
            "pass_at_1_t1": list(_counts(sampled)),
            "answer": greedy.group.texts[0],
            "outcome": greedy.verdicts[0].outcome.value,
        }
        for problem, greedy, sampled in zip(prompts.problems, low, high, strict=True)
    ]
