"""Builds each plain part from its slice of the configuration, in one process or inside an actor.

Heavy imports are inside the functions, so that a reward actor's process never loads torch.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from couplet.configs.schema import (
    AdapterConfig,
    EstimatorConfig,
    LearnerConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    ProblemsConfig,
    RolloutConfig,
    RunConfig,
    SamplerConfig,
)
from couplet.data.infilling import around_canvas
from couplet.data.problem_sets import load_problems
from couplet.data.prompts import PromptSet, encode_prompts, with_prefix
from couplet.data.seeds import derive_seed
from couplet.data.tokenizer import load_tokenizer
from couplet.replay.schedule import Schedule
from couplet.replay.selection import Selection

if TYPE_CHECKING:
    from couplet.learner.learner import Learner
    from couplet.model.policy import DiffusionPolicy
    from couplet.rollout.worker import RolloutWorker


@dataclass(frozen=True)
class PolicySlice:
    """What a policy is loaded by: the model section, and the learner's adapter with the seed of its first weights."""

    model: ModelConfig
    adapter: AdapterConfig
    adapter_seed: int

    @classmethod
    def of(cls, config: RunConfig) -> PolicySlice:
        """Of a run."""
        return cls(config.model, config.learner.adapter, derive_seed(config.seed, "adapter"))


@dataclass(frozen=True)
class RolloutSlice:
    """What a rollout worker is built from."""

    policy: PolicySlice
    rollout: RolloutConfig
    sampler: SamplerConfig
    estimator: EstimatorConfig
    mask_draws: int
    estimate_behaviour: bool
    ar_ness_k: int

    @classmethod
    def of(cls, config: RunConfig) -> RolloutSlice:
        """Of a run; behaviour log-probabilities are estimated if samples may be stale."""
        return cls(
            PolicySlice.of(config),
            config.rollout,
            config.sampler,
            config.estimator,
            mask_draws=config.objective.mask_draws,
            estimate_behaviour=config.replay.max_staleness > 0,
            ar_ness_k=config.evaluation.ar_ness_k,
        )


@dataclass(frozen=True)
class LearnerSlice:
    """What a learner rank is built from."""

    policy: PolicySlice
    learner: LearnerConfig
    objective: ObjectiveConfig
    estimator: EstimatorConfig
    optimizer: OptimizerConfig
    updates: int  # optimiser updates of the whole run
    temperature: float  # of the sampler

    @classmethod
    def of(cls, config: RunConfig) -> LearnerSlice:
        """Of a run."""
        return cls(
            PolicySlice.of(config),
            config.learner,
            config.objective,
            config.estimator,
            config.optimizer,
            updates=config.steps * config.objective.inner_updates,
            temperature=config.sampler.temperature,
        )


def build_schedule(config: RunConfig, start: str) -> Schedule:
    """The training problems as requests, with prompts of the policy in folder `start`."""
    problems = config.problems
    prompts = load_prompts(start, problems.train, problems, config.model, problems.limit, exclude=problems.exclude)
    return Schedule(prompts, config.replay.completions, config.seed)


def build_selection(config: RunConfig, schedule: Schedule) -> Selection | None:
    """Which problems of an epoch are asked; None = all."""
    replay = config.replay
    return None if replay.select == "all" else Selection(schedule.order, replay.completions, replay.select_floor)


def load_prompts(
    start: str,
    source: str,
    config: ProblemsConfig,
    model: ModelConfig,
    limit: int | None = None,
    exclude: Collection[str] = (),
    answer_prefix: str | None = None,
) -> PromptSet:
    """The first `limit` problems of `source`, without those in `exclude`, as prompts of the policy in folder `start`.

    `answer_prefix` is as `evaluation.answer_prefix`.
    """
    from couplet.model.folder import folder_token_ids

    tokenizer = load_tokenizer(start)
    left_out = set(exclude)
    problems = [p for p in load_problems(source, seed=config.seed, limit=limit) if p.problem_id not in left_out]
    problems = with_prefix(problems, answer_prefix)
    ids = folder_token_ids(Path(start), model.end_tokens, mask_token=model.mask_token)
    around = partial(around_canvas, encode=tokenizer.encode, end=ids.end[0])
    return encode_prompts(problems, tokenizer.chat_prompt, config, ids.mask, around, tokenizer.encode)


def build_rollout_worker(config: RolloutSlice, start: str, policy: DiffusionPolicy | None = None) -> RolloutWorker:
    """A rollout worker with the weights of folder `start`, or with a policy that is loaded already."""
    import torch

    from couplet.model.device import device_for
    from couplet.rollout.worker import RolloutWorker

    device = device_for(config.rollout.gpus, "rollout.gpus")
    if device == "cpu":
        torch.set_num_threads(config.rollout.threads)
    return RolloutWorker(
        policy or load_policy(config.policy, start, device),
        load_tokenizer(start).decode,
        config.sampler,
        config.estimator,
        mask_draws=config.mask_draws,
        estimate_behaviour=config.estimate_behaviour,
        microbatch_rows=config.rollout.microbatch_rows,
        ar_ness_k=config.ar_ness_k,
    )


def build_learner(config: LearnerSlice, start: str, rank: int = 0) -> Learner:
    """Rank `rank` of the learner with the weights of folder `start`."""
    import torch

    from couplet.learner.engine import Setup
    from couplet.learner.engines import build_engine
    from couplet.learner.learner import Learner
    from couplet.model.device import device_for

    device, ranks = device_for(config.learner.gpus, "learner.gpus"), config.learner.ranks
    if device == "cpu":
        torch.set_num_threads(config.learner.threads)
    policy = load_policy(config.policy, start, device)
    engine = build_engine(Setup(policy, config.optimizer, config.learner, config.updates, rank, ranks))
    return Learner(engine, policy, config.objective, config.estimator, rank, ranks, temperature=config.temperature)


def load_policy(config: PolicySlice, start: str, device: str) -> DiffusionPolicy:
    """The policy of folder `start` loaded as the model section says, with the learner's adapter if there is one."""
    from couplet.model.policy import DiffusionPolicy

    model = config.model
    policy = DiffusionPolicy.from_pretrained(
        start,
        dtype=model.dtype,
        device=device,
        attention=model.attention,
        end_tokens=model.end_tokens,
        mask_token=model.mask_token,
    )
    if config.adapter.rank:
        policy.add_adapter(config.adapter, config.adapter_seed)
    return policy


def for_rollouts(config: RunConfig) -> RunConfig:
    """The configuration of a training run's rollout workers: they compute in the learner's type.

    So published weights fit, and the probabilities of sampler and learner are rounded alike.
    """
    return config.replace(model=config.model.replace(dtype=config.learner.dtype))


def for_one_process(config: RunConfig) -> RunConfig:
    """The configuration of `--local`: the plain torch engine, one rank, no actors."""
    learner = config.learner.replace(engine="torch", ranks=1, zero_stage=0, offload="none")
    return config.replace(learner=learner)


def chunked(items: Sequence, size: int) -> list[Sequence]:
    """Consecutive slices of at most `size` items."""
    return [items[i : i + size] for i in range(0, len(items), size)]
