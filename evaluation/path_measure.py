"""One policy measured in this process: pass@1, pass@8 and AR-ness at several temperatures and numbers of steps."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from configs.schema import RunConfig
from data.benchmarks import load_problems
from data.prompts import PromptSet, encode_prompts
from data.seeds import derive_seed
from data.tokenizer import load_tokenizer
from data.trajectory import GroupId, RolloutRequest, ScoredGroup
from evaluation.suite import mean_pass_at
from model.policy import DiffusionPolicy
from reward.worker import RewardWorker
from rollout.worker import RolloutWorker


@dataclass(frozen=True)
class Decoding:
    """`samples` completions per problem at a temperature; `pace` multiplies the recipe's number of denoising steps."""

    temperature: float
    samples: int
    pace: float = 1.0


EVERY_STAGE = (Decoding(0.2, 2), Decoding(1.0, 8), Decoding(1.2, 1))
BEFORE_AND_AFTER = (
    Decoding(0.2, 8),
    Decoding(1.0, 8),
    Decoding(1.2, 8),
    Decoding(0.2, 4, 2.0),
    Decoding(1.2, 4, 2.0),
    Decoding(0.2, 4, 0.5),
)


def measure_policy(
    folder: Path, config: RunConfig, decodings: Sequence[Decoding], seed: int = 1234
) -> list[dict[str, Any]]:
    """Sample and judge `config.problems.evaluate` with the policy in `folder`, decoding by decoding.

    Args:
        folder: policy folder with its tokenizer.
        config: problems (`evaluation.limit` of them), sampler, sandbox.
        decodings: what is sampled.
        seed: of the samples, which depend on it and on the problem's id alone.

    Returns:
        One row per decoding: `temperature`, `steps`, `samples`, `problems`, `pass@1`, `pass@<samples>`, `format`,
        `local`, `global` (AR-ness@1), `seconds`.
    """
    torch.set_num_threads(config.rollout.threads)
    policy = DiffusionPolicy.from_pretrained(
        str(folder), dtype=config.model.dtype, attention=config.model.attention, end_tokens=config.model.end_tokens
    )
    tokenizer = load_tokenizer(folder)
    rollout = RolloutWorker(policy, tokenizer.decode, config.sampler, config.estimator)
    problems = load_problems(config.problems.evaluate, seed=config.problems.seed, limit=config.evaluation.limit)
    prompts = encode_prompts(problems, tokenizer.chat_prompt, config.problems, tokenizer.id("<|mask|>"))
    with RewardWorker(config.reward, config.sandbox) as reward:
        return [_row(decoding, prompts, config, rollout, reward, seed) for decoding in decodings]


def _row(
    decoding: Decoding,
    prompts: PromptSet,
    config: RunConfig,
    rollout: RolloutWorker,
    reward: RewardWorker,
    seed: int,
) -> dict[str, Any]:
    steps = round(config.sampler.steps * decoding.pace)
    sampler = replace(config.sampler, temperature=decoding.temperature, steps=steps)
    started = time.monotonic()
    groups = []
    size = max(1, config.rollout.microbatch_rows // decoding.samples)  # problems decoded together
    requests = _requests(prompts, decoding.samples, seed)
    for chunk in (requests[i : i + size] for i in range(0, len(requests), size)):
        for group in rollout.generate(chunk, sampler):
            problem = prompts.problems[group.group_id.problem]
            groups.append(ScoredGroup(group, tuple(reward.score(problem, group.texts))))
    verdicts = [verdict for scored in groups for verdict in scored.verdicts]
    order = {
        kind: float(np.mean([(scored.group.metrics or {})[f"{kind}_ar_ness"] for scored in groups]))
        for kind in ("local", "global")
    }
    return {
        "temperature": decoding.temperature,
        "steps": steps,
        "samples": decoding.samples,
        "problems": len(prompts),
        "excluded": sum(not verdict.outcome.is_verdict for verdict in verdicts),
        "pass@1": mean_pass_at(groups, 1),
        f"pass@{decoding.samples}": mean_pass_at(groups, decoding.samples),
        "format": float(np.mean([verdict.parts.get("code_format", 0.0) == 1.0 for verdict in verdicts])),
        **order,
        "seconds": time.monotonic() - started,
    }


def _requests(prompts: PromptSet, samples: int, seed: int) -> list[RolloutRequest]:
    """One request per problem; its seeds follow from the problem's id, so every policy meets the same noise."""
    requests = []
    for index, problem in enumerate(prompts.problems):
        own = derive_seed(seed, f"evaluation {problem.problem_id}")
        seeds = tuple(derive_seed(own, "completion", g) for g in range(samples))
        requests.append(RolloutRequest(GroupId(0, index, 0), 0, problem.problem_id, prompts.prompts[index], seeds, own))
    return requests
