"""Measures one policy in this process: pass@1, pass@8 and AR-ness at several temperatures and numbers of steps.

A prompt has the form that the policy was trained on: a text document before instruction tuning, a chat prompt after it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from couplet.configs.schema import RunConfig, SamplerConfig
from couplet.data.problem import Problem
from couplet.data.problem_sets import load_problems
from couplet.data.prompts import encode_prompts
from couplet.data.tokenizer import PAD, Tokenizer, load_tokenizer
from couplet.data.trajectory import PromptGroup, ScoredGroup
from couplet.data.verdict import format_rate
from couplet.evaluation.request import EvalRequest
from couplet.evaluation.suite import ar_ness, mean_pass_at
from couplet.model.policy import DiffusionPolicy
from couplet.reward.worker import RewardWorker
from couplet.rollout.sampler import Completion, sample
from couplet.rollout.worker import RolloutWorker
from couplet.studies.left_to_right import sample_left_to_right
from couplet.training.evaluator import sample_and_judge


class Form(Enum):
    """The form of the prompts and how they are decoded."""

    LEFT_TO_RIGHT = "plain text, left to right"
    TEXT = "plain text, diffusion"
    CHAT = "chat prompt, diffusion"


FORMS = {
    "autoregressive": Form.LEFT_TO_RIGHT,
    "pretrain": Form.TEXT,
    "instruct": Form.CHAT,
}  # by objective of the stage


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
    Decoding(1.0, 4, 2.0),
    Decoding(1.0, 4, 0.5),
)


def measure_policy(
    folder: Path, config: RunConfig, decodings: Sequence[Decoding], form: Form = Form.CHAT, seed: int = 1234
) -> list[dict[str, Any]]:
    """Sample and judge `config.problems.evaluate` with the policy in `folder`, decoding by decoding.

    Args:
        folder: policy folder with its tokenizer.
        config: problems (`evaluation.limit` of them), sampler, sandbox.
        decodings: what to sample.
        form: of the prompts, and the decoder.
        seed: of the samples, which depend only on it and on the problem id.

    Returns:
        One row per decoding: `form`, `temperature`, `pace`, `steps` (None from left to right), `samples`, `problems`,
        `excluded`, `pass@1`, `pass@<samples>`, `format`, `local`, `global` (AR-ness@1), `seconds`.
    """
    torch.set_num_threads(config.rollout.threads)
    tokenizer = load_tokenizer(folder)
    ends = config.model.end_tokens if form is Form.CHAT else (PAD,)  # a document ends with the pad
    policy = DiffusionPolicy.from_pretrained(
        str(folder), dtype=config.model.dtype, attention=config.model.attention, end_tokens=ends
    ).eval()
    problems = load_problems(config.problems.evaluate, seed=config.problems.seed, limit=config.evaluation.limit)
    encode = tokenizer.chat_prompt if form is Form.CHAT else partial(_document, tokenizer)
    prompts = encode_prompts(problems, encode, config.problems, policy.token_ids.mask)
    draw = _left_to_right if form is Form.LEFT_TO_RIGHT else sample
    rollout = RolloutWorker(policy, tokenizer.decode, config.sampler, config.estimator, draw=draw)
    rows = []
    with RewardWorker(config.reward, config.sandbox) as reward:

        def judge(problem: Problem, group: PromptGroup) -> ScoredGroup:
            return ScoredGroup(group, tuple(reward.score(problem, group.texts)))

        for decoding in decodings:
            started = time.monotonic()
            steps = round(config.sampler.steps * decoding.pace)
            sampler = config.sampler.replace(temperature=decoding.temperature, steps=steps)
            size = max(1, config.rollout.microbatch_rows // decoding.samples)  # problems decoded together
            groups = sample_and_judge(rollout, judge, EvalRequest(prompts, sampler, decoding.samples, seed), size)
            rows.append(
                {
                    "form": form.value,
                    "temperature": decoding.temperature,
                    "pace": decoding.pace,
                    "steps": None if form is Form.LEFT_TO_RIGHT else steps,
                    "samples": decoding.samples,
                    **_rates(groups, decoding.samples),
                    "seconds": time.monotonic() - started,
                }
            )
    return rows


def _document(tokenizer: Tokenizer, question: str, system: str | None = None) -> list[int]:
    """A question as the start of a document, as in the packed stages."""
    return tokenizer.encode(f"{question}\n")


def _left_to_right(
    policy: DiffusionPolicy,
    prompts: Sequence[Sequence[int]],
    config: SamplerConfig,
    seeds: Sequence[int],
    *,
    suffixes: Sequence[Sequence[int]] = (),
    microbatch_rows: int | None = None,
) -> list[Completion]:
    """`rollout.sampler.sample` for an autoregressive model, which cannot infill."""
    assert not any(suffixes), "problems with a suffix"
    length = config.completion_length
    drawn = sample_left_to_right(policy, prompts, length, config.temperature, seeds, microbatch_rows or len(prompts))
    step_C, entropy_C = np.arange(length, dtype=np.int16), np.full(length, np.nan, dtype=np.float32)
    return [Completion(tokens_C, step_C, entropy_C) for tokens_C in drawn]


def _rates(groups: Sequence[ScoredGroup], samples: int) -> dict[str, Any]:
    verdicts = [verdict for scored in groups for verdict in scored.verdicts]
    return {
        "problems": len(groups),
        "excluded": sum(not verdict.outcome.is_verdict for verdict in verdicts),
        "pass@1": mean_pass_at(groups, 1),
        f"pass@{samples}": mean_pass_at(groups, samples),
        "format": format_rate(verdicts),
        **ar_ness(groups),
    }
