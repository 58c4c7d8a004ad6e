"""Problems into prompts of tokens, with the length limit applied and counted, and into requests for completions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from couplet.configs.errors import UserError
from couplet.configs.schema import ProblemsConfig
from couplet.data.problem import Problem
from couplet.data.seeds import derive_seed
from couplet.data.trajectory import GroupId, RolloutRequest


@dataclass(frozen=True)
class PromptSet:
    """Problems with their prompts (int32 token arrays), and how many were dropped or cut for length."""

    problems: tuple[Problem, ...]
    prompts: tuple[np.ndarray, ...]
    dropped: int = 0
    truncated: int = 0

    def __len__(self) -> int:
        return len(self.problems)


def encode_prompts(
    problems: Sequence[Problem],
    encode: Callable[[str, str | None], list[int]],
    config: ProblemsConfig,
    mask_id: int,
) -> PromptSet:
    """Encode each problem's question and its system message, if its metadata has one.

    Prompts over `max_prompt_tokens` are dropped or cut on the left.

    Raises:
        ValueError: a prompt contains the mask token, or no prompt is left.
    """
    kept: list[Problem] = []
    prompts: list[np.ndarray] = []
    dropped = truncated = 0
    for problem in problems:
        tokens = encode(problem.question, problem.metadata.get("system"))
        if mask_id in tokens:
            raise UserError(
                f"problem {problem.problem_id}: the prompt contains the mask token; remove it from the question"
            )
        if len(tokens) > config.max_prompt_tokens:
            if config.long_prompts == "drop":
                dropped += 1
                continue
            truncated += 1
            tokens = tokens[-config.max_prompt_tokens :]
        kept.append(problem)
        prompts.append(np.asarray(tokens, dtype=np.int32))
    if not kept:
        raise UserError(
            f"none of {len(problems)} problems has a prompt of at most problems.max_prompt_tokens = "
            f"{config.max_prompt_tokens} tokens; raise it, or set problems.long_prompts: truncate_left"
        )
    return PromptSet(tuple(kept), tuple(prompts), dropped, truncated)


def evaluation_requests(prompts: PromptSet, samples: int, seed: int) -> list[RolloutRequest]:
    """One request of `samples` completions for every problem, in order.

    Seeds follow from the problem's id, so a problem gets the same completions whichever others are asked for with it.
    """
    requests = []
    for index, problem in enumerate(prompts.problems):
        own = derive_seed(seed, f"evaluation {problem.problem_id}")
        seeds = [derive_seed(own, "completion", g) for g in range(samples)]
        requests.append(rollout_request(prompts, GroupId(0, index, 0), 0, seeds, own))
    return requests


def rollout_request(
    prompts: PromptSet, group_id: GroupId, attempt: int, seeds: Sequence[int], group_seed: int
) -> RolloutRequest:
    """The request for the group `group_id` of a prompt set."""
    return RolloutRequest(
        group_id=group_id,
        attempt=attempt,
        problem_id=prompts.problems[group_id.problem].problem_id,
        prompt_tokens=prompts.prompts[group_id.problem],
        seeds_G=tuple(seeds),
        group_seed=group_seed,
    )
