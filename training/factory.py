"""Builds each plain part from the configuration, in one process or inside an actor.

Heavy imports are inside the functions, so that a reward actor's process never loads torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from couplet.configs.schema import RunConfig
from couplet.data.problem_sets import load_problems
from couplet.data.prompts import PromptSet, encode_prompts
from couplet.data.seeds import derive_seed
from couplet.data.tokenizer import load_tokenizer
from couplet.replay.schedule import Schedule

if TYPE_CHECKING:
    from couplet.learner.learner import Learner
    from couplet.reward.worker import RewardWorker
    from couplet.rollout.worker import RolloutWorker


def build_schedule(config: RunConfig, start: str) -> Schedule:
    """The training problems as requests, with prompts of the policy in folder `start`."""
    prompts = load_prompts(config, start, config.problems.train, config.problems.limit)
    return Schedule(prompts, config.replay.completions, config.seed)


def load_prompts(config: RunConfig, start: str, source: str, limit: int | None = None) -> PromptSet:
    """The problems of `source` as prompts of the policy in folder `start`."""
    tokenizer = load_tokenizer(start)
    problems = load_problems(source, seed=config.problems.seed, limit=limit)
    return encode_prompts(problems, tokenizer.chat_prompt, config.problems, _mask_id(config, Path(start)))


def _mask_id(config: RunConfig, start: Path) -> int:
    """The id of the mask token, whatever its name, as the policy in folder `start` will have it."""
    from couplet.model.folder import folder_token_ids

    return folder_token_ids(start, config.model.end_tokens, mask_token=config.model.mask_token).mask


def build_rollout_worker(config: RunConfig, start: str) -> RolloutWorker:
    """A rollout worker with the weights of folder `start`."""
    import torch

    from couplet.model.device import device_for
    from couplet.model.policy import DiffusionPolicy
    from couplet.rollout.worker import RolloutWorker

    device = device_for(config.rollout.gpus, "rollout.gpus")
    if device == "cpu":
        torch.set_num_threads(config.rollout.threads)
    policy = load_policy(DiffusionPolicy, config, start, device)
    tokenizer = load_tokenizer(start)
    return RolloutWorker(
        policy,
        tokenizer.decode,
        config.sampler,
        config.estimator,
        inner_updates=config.objective.inner_updates,
        estimate_behaviour=config.replay.max_staleness > 0,
        microbatch_rows=config.rollout.microbatch_rows,
        ar_ness_k=config.evaluation.ar_ness_k,
    )


def build_learner(config: RunConfig, start: str, rank: int = 0, ranks: int = 1) -> Learner:
    """Rank `rank` of the learner with the weights of folder `start`."""
    import torch

    from couplet.learner.engines import build_engine
    from couplet.learner.learner import Learner
    from couplet.model.device import device_for
    from couplet.model.policy import DiffusionPolicy

    device = device_for(config.learner.gpus, "learner.gpus")
    if device == "cpu":
        torch.set_num_threads(config.learner.threads)
    policy = load_policy(DiffusionPolicy, config, start, device)
    updates = config.steps * config.objective.inner_updates
    engine = build_engine(policy, config.optimizer, config.learner, updates, rank, ranks)
    return Learner(
        engine, policy, config.objective, config.estimator, rank, ranks, temperature=config.sampler.temperature
    )


def load_policy(kind, config: RunConfig, start: str, device: str):  # type: ignore[no-untyped-def]
    """The policy of folder `start` loaded as the model section says, with the learner's adapter if there is one."""
    policy = kind.from_pretrained(
        start,
        dtype=config.model.dtype,
        device=device,
        attention=config.model.attention,
        end_tokens=config.model.end_tokens,
        mask_token=config.model.mask_token,
    )
    if config.learner.adapter.rank:
        policy.add_adapter(config.learner.adapter, derive_seed(config.seed, "adapter"))
    return policy


def build_reward_worker(config: RunConfig) -> RewardWorker:
    """A reward worker with its sandbox."""
    from couplet.reward.worker import RewardWorker

    return RewardWorker(config.reward, config.sandbox)


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
