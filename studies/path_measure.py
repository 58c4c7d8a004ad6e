"""Measures one policy in this process: pass@1, pass@8 and AR-ness at several temperatures and numbers of steps.

A prompt has the form that the policy was trained on: a text document before instruction tuning, a chat prompt after it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from couplet.configs.schema import RunConfig
from couplet.data.problem import Problem
from couplet.data.problem_sets import load_problems
from couplet.data.prompts import PromptSet, encode_prompts, evaluation_requests
from couplet.data.tokenizer import PAD, Tokenizer, completion_text, load_tokenizer
from couplet.data.trajectory import answer_length
from couplet.data.verdict import Outcome, format_rate
from couplet.evaluation.pass_at_k import pass_at_k
from couplet.model.policy import DiffusionPolicy
from couplet.reward.worker import RewardWorker
from couplet.rollout.ar_ness import global_ar_ness, local_ar_ness
from couplet.rollout.worker import RolloutWorker
from couplet.studies.left_to_right import sample_left_to_right


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


@dataclass(frozen=True)
class Answers:
    """Completions of one problem as texts, and how autoregressive their order was (mean over them, k = 1)."""

    problem: Problem
    texts: tuple[str, ...]
    local: float
    global_: float


Decode = Callable[[Decoding], list[Answers]]


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
            `excluded`, `pass@1`,
        `pass@<samples>`, `format`, `local`, `global` (AR-ness@1), `seconds`.
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
    decode: Decode
    if form is Form.LEFT_TO_RIGHT:
        decode = partial(_left_to_right, policy, tokenizer, prompts, config, seed)
    else:
        rollout = RolloutWorker(policy, tokenizer.decode, config.sampler, config.estimator)
        decode = partial(_diffusion, rollout, prompts, config, seed)
    with RewardWorker(config.reward, config.sandbox) as reward:
        return [{"form": form.value, **_row(decoding, form, decode, config, reward)} for decoding in decodings]


def _document(tokenizer: Tokenizer, question: str, system: str | None = None) -> list[int]:
    """A question as the start of a document, as in the packed stages."""
    return tokenizer.encode(f"{question}\n")


def _diffusion(
    rollout: RolloutWorker, prompts: PromptSet, config: RunConfig, seed: int, decoding: Decoding
) -> list[Answers]:
    steps = round(config.sampler.steps * decoding.pace)
    sampler = config.sampler.replace(temperature=decoding.temperature, steps=steps)
    size = max(1, config.rollout.microbatch_rows // decoding.samples)  # problems decoded together
    requests = evaluation_requests(prompts, decoding.samples, seed)
    answers = []
    for chunk in (requests[i : i + size] for i in range(0, len(requests), size)):
        for group in rollout.generate(chunk, sampler):
            metrics = group.metrics or {}
            problem = prompts.problems[group.group_id.problem]
            answers.append(Answers(problem, group.texts, metrics["local_ar_ness"], metrics["global_ar_ness"]))
    return answers


def _left_to_right(
    policy: DiffusionPolicy, tokenizer: Tokenizer, prompts: PromptSet, config: RunConfig, seed: int, decoding: Decoding
) -> list[Answers]:
    requests = evaluation_requests(prompts, decoding.samples, seed)
    flat = [request.prompt_tokens.tolist() for request in requests for _ in request.seeds_G]
    seeds = [one for request in requests for one in request.seeds_G]
    length = config.sampler.completion_length
    drawn = sample_left_to_right(policy, flat, length, decoding.temperature, seeds, config.rollout.microbatch_rows)
    answers = []
    for i, problem in enumerate(prompts.problems):
        mine = drawn[i * decoding.samples : (i + 1) * decoding.samples]
        orders = [range(answer_length(tokens_C, policy.token_ids.end)) for tokens_C in mine]
        texts = tuple(completion_text(tokenizer, tokens_C.tolist(), policy.token_ids.end) for tokens_C in mine)
        local, global_ = (float(np.mean([f(order, 1) for order in orders])) for f in (local_ar_ness, global_ar_ness))
        answers.append(Answers(problem, texts, local, global_))
    return answers


def _row(decoding: Decoding, form: Form, decode: Decode, config: RunConfig, reward: RewardWorker) -> dict[str, Any]:
    started = time.monotonic()
    steps = None if form is Form.LEFT_TO_RIGHT else round(config.sampler.steps * decoding.pace)
    answers = decode(decoding)
    judged = [reward.score(answer.problem, answer.texts) for answer in answers]
    verdicts = [verdict for some in judged for verdict in some]
    counts = [
        (sum(v.outcome.is_verdict for v in some), sum(v.outcome is Outcome.PASSED for v in some)) for some in judged
    ]

    def pass_at(k: int) -> float:
        values = [pass_at_k(n, passed, k) for n, passed in counts if n >= k]
        return float(np.mean(values)) if values else float("nan")

    return {
        "temperature": decoding.temperature,
        "pace": decoding.pace,
        "steps": steps,
        "samples": decoding.samples,
        "problems": len(answers),
        "excluded": sum(not verdict.outcome.is_verdict for verdict in verdicts),
        "pass@1": pass_at(1),
        f"pass@{decoding.samples}": pass_at(decoding.samples),
        "format": format_rate(verdicts),
        "local": float(np.mean([answer.local for answer in answers])),
        "global": float(np.mean([answer.global_ for answer in answers])),
        "seconds": time.monotonic() - started,
    }
