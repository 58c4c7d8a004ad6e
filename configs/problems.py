"""Which problems are learned from and evaluated on, and how they pass through the replay queue."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Strict

from couplet.configs.section import Section, Switch

Temperatures = Annotated[tuple[Annotated[float, Field(ge=0)], ...], Strict(False)]


class ProblemsConfig(Section):
    """Problem sets: a file written by `prepare`, or `katas:SPLIT` for the generated family."""

    train: str = Field("katas:rl", description="problems to learn from")
    evaluate: str = Field("katas:heldout", description="held-out problems")
    seed: int = Field(0, description="of the generated families; the schedule of problems follows the run's seed")
    limit: int | None = Field(None, ge=1, description="first problems of the training set only; null = all problems")
    max_prompt_tokens: int = Field(200, gt=0, description="longest prompt")
    long_prompts: Literal["drop", "truncate_left"] = Field("drop", description="what happens to longer prompts")
    exclude: Annotated[tuple[str, ...], Strict(False)] = Field((), description="ids of training problems to leave out")
    keep_unsound: Switch = Field(
        False, description="learn also from problems whose tests a program that computes nothing passes"
    )


class ReplayConfig(Section):
    """Admission to the replay queue: how far generation may run ahead of learning."""

    groups_per_step: int = Field(8, gt=0, description="P: prompts of one learner step")
    completions: int = Field(8, ge=2, description="G: completions per prompt; a baseline needs at least 2")
    max_staleness: int = Field(1, ge=0, description="learner steps a trained sample may lag behind; 0 = synchronous")
    refill: Switch = Field(
        False, description="a zero-signal group gives its credit back, so that each step learns from P groups"
    )
    select: Literal["all", "signal"] = Field(
        "all",
        description="problems of an epoch: all, or the more likely the less sure their verdicts (docs/algorithm.md)",
    )
    select_floor: float = Field(
        0.1, gt=0, le=1, description="of select: signal: least probability that a problem is asked in an epoch"
    )
    timeout: float = Field(60.0, gt=0, description="seconds of one call to the replay queue, after which it is rebuilt")
    max_attempts: int = Field(5, gt=0, description="losses of one group after which it is quarantined")


class EvaluationConfig(Section):
    """Evaluation before, during and after training."""

    every: int = Field(0, ge=0, description="learner steps between evaluations; 0 = before and after only")
    limit: int | None = Field(None, ge=1, description="first problems of problems.evaluate only; null = all problems")
    max_prompt_tokens: int | None = Field(
        None, gt=0, description="longest held-out prompt; null = as problems.max_prompt_tokens"
    )
    samples: int = Field(8, gt=0, description="per problem at `temperature`, for pass@1 and pass@samples")
    temperature: float = Field(1.0, ge=0, description="the high temperature: pass@1 and pass@samples")
    greedy_temperature: float = Field(0.2, ge=0, description="the low temperature of pass@1")
    greedy_samples: int = Field(1, gt=0, description="per problem at greedy_temperature")
    answer_prefix: str | None = Field(
        None,
        description="text that every answer is begun with, the policy continues it; published = that of the papers for "
        "HumanEval and MBPP (docs/recipes.md); null = none",
    )
    ar_ness_k: int = Field(1, gt=0, description="k of AR-ness@k")
    ar_ness_temperatures: Temperatures = Field((0.2, 1.2), description="at which AR-ness is measured")
    ar_ness_problems: int = Field(32, gt=0, description="problems on which AR-ness is measured")
    seed: int = Field(1234, description="of the samples")
