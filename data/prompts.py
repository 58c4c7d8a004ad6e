"""Problems into prompts of tokens, with the length limit applied and counted, and into requests for completions.

A problem with a suffix (infilling) is asked with an open code block before the canvas and the suffix after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from couplet.configs.errors import UserError
from couplet.configs.schema import ProblemsConfig
from couplet.data.formats.wording import ANSWER_PREFIX
from couplet.data.problem import Problem
from couplet.data.seeds import derive_seed
from couplet.data.trajectory import GroupId, RolloutRequest, no_tokens

PREFIX = "answer_prefix"  # the key of a problem's metadata
PREFIXES = {"published": ANSWER_PREFIX}
"""Answer prefixes that have a name."""


@dataclass(frozen=True)
class PromptSet:
    """Problems with their prompts (int32 token arrays), and how many were dropped or cut for length.

    Attributes:
        suffixes: what follows each canvas; empty = nothing follows any.
    """

    problems: tuple[Problem, ...]
    prompts: tuple[np.ndarray, ...]
    dropped: int = 0
    truncated: int = 0
    suffixes: tuple[np.ndarray, ...] = ()

    def __len__(self) -> int:
        return len(self.problems)

    def take(self, indices: Iterable[int]) -> PromptSet:
        """Some of the problems."""
        kept = tuple(indices)
        suffixes = tuple(self.suffixes[i] for i in kept) if self.suffixes else ()
        return PromptSet(tuple(self.problems[i] for i in kept), tuple(self.prompts[i] for i in kept), suffixes=suffixes)


def encode_prompts(
    problems: Sequence[Problem],
    encode: Callable[[str, str | None], list[int]],
    config: ProblemsConfig,
    mask_id: int,
    around: Callable[[str, str], tuple[list[int], list[int]]] | None = None,
    encode_text: Callable[[str], list[int]] | None = None,
) -> PromptSet:
    """Encode each problem's question, with the system message and the answer prefix of its metadata.

    Prompts that have, with their suffix, over `max_prompt_tokens` are dropped or cut on the left.

    Args:
        problems: what to ask.
        encode: question and system message to token ids.
        config: the length limit.
        mask_id: which no prompt may contain.
        around: code before and after the gap to the tokens before and after the canvas (`data.infilling`), for problems
            with a suffix; None = these are asked by their question alone.
        encode_text: text to token ids; needed if a problem has an answer prefix.

    Raises:
        ValueError: a prompt contains the mask token, or no prompt is left.
    """
    kept: list[Problem] = []
    prompts: list[np.ndarray] = []
    suffixes: list[np.ndarray] = []
    dropped = truncated = 0
    for problem in problems:
        tokens, suffix = encode(problem.question, problem.metadata.get("system")), list[int]()
        if problem.suffix and around:
            before, suffix = around(problem.code_prefix, problem.suffix)
            tokens = tokens + before
        if prefix := problem.metadata.get(PREFIX):
            assert encode_text is not None, "an answer prefix needs encode_text"
            tokens = tokens + encode_text(prefix)
        if mask_id in tokens or mask_id in suffix:
            raise UserError(
                f"problem {problem.problem_id}: the prompt contains the mask token; remove it from the question"
            )
        if (left := config.max_prompt_tokens - len(suffix)) < len(tokens):
            if config.long_prompts == "drop" or left <= 0:
                dropped += 1
                continue
            truncated += 1
            tokens = tokens[-left:]
        kept.append(problem)
        prompts.append(np.asarray(tokens, dtype=np.int32))
        suffixes.append(np.asarray(suffix, dtype=np.int32))
    if not kept:
        raise UserError(
            f"none of {len(problems)} problems has a prompt of at most problems.max_prompt_tokens = "
            f"{config.max_prompt_tokens} tokens; raise it, or set problems.long_prompts: truncate_left"
        )
    return PromptSet(tuple(kept), tuple(prompts), dropped, truncated, tuple(suffixes))


def with_prefix(problems: Sequence[Problem], prefix: str | None) -> list[Problem]:
    """The problems with an answer prefix (or its name) as the end of their prompts; those with a suffix get none."""
    text = PREFIXES.get(prefix or "", prefix or "")
    return [p if p.suffix or not text else replace(p, metadata={**p.metadata, PREFIX: text}) for p in problems]


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
    problem = prompts.problems[group_id.problem]
    return RolloutRequest(
        group_id=group_id,
        attempt=attempt,
        problem_id=problem.problem_id,
        prompt_tokens=prompts.prompts[group_id.problem],
        seeds_G=tuple(seeds),
        group_seed=group_seed,
        suffix_tokens=prompts.suffixes[group_id.problem] if prompts.suffixes else no_tokens(),
        answer_prefix=problem.metadata.get(PREFIX, ""),
    )
