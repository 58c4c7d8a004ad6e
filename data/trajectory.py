"""What travels between the stages: requests, generated groups, scored groups.

A prompt group is the unit of everything: G completions of one prompt, sampled by one version of the weights.
Payloads are packed NumPy arrays, so that a group crosses Ray's object store without a copy. No torch and no ray here.

Shapes: G completions per group, C canvas (completion) positions, J inner updates (mu).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from couplet.data.verdict import Verdict

ZERO_SIGNAL = 1e-6  # standard deviation of a group's rewards below which they teach nothing


def no_tokens() -> np.ndarray:
    """int32 [0]."""
    return np.zeros(0, dtype=np.int32)


class GroupId(NamedTuple):
    """Identity of a prompt group; a re-issue keeps it."""

    epoch: int
    problem: int  # index into the training set
    group: int  # for several groups of one problem in an epoch


@dataclass(frozen=True)
class RolloutRequest:
    """A request for one prompt group. A re-issue differs in `attempt` only."""

    group_id: GroupId
    attempt: int
    problem_id: str
    prompt_tokens: np.ndarray  # int32 [prompt length]
    seeds_G: tuple[int, ...]  # one per completion: sampling and mask seeds derive from it
    group_seed: int
    suffix_tokens: np.ndarray = field(default_factory=no_tokens)  # int32, what follows the canvas (infilling)
    answer_prefix: str = ""  # the end of the prompt, with which the text of every answer begins


@dataclass(frozen=True)
class PromptGroup:
    """One generated group, all of it by weights `version`."""

    group_id: GroupId
    attempt: int
    version: int
    problem_id: str
    prompt_tokens: np.ndarray  # int32 [prompt length]
    tokens_GC: np.ndarray  # int32: the whole canvas, filler included, never cut
    reveal_step_GC: np.ndarray  # int16: index of the schedule step that revealed the token
    loss_mask_GC: np.ndarray  # bool: up to and including the first end token (all C if there is none), or every draw
    texts: tuple[str, ...]  # answer prefix + tokens before the first end token, decoded without special tokens
    seeds_G: tuple[int, ...]
    group_seed: int
    behaviour_GJC: (
        np.ndarray | None
    )  # float32: estimates under the sampling weights (J per bound); null at max_staleness 0
    approximations: tuple[str, ...] = ()  # declared approximations of the sampler that were on
    metrics: dict[str, float] | None = None  # sampler metrics of the group (entropy, AR-ness, seconds, ...)
    suffix_tokens: np.ndarray = field(default_factory=no_tokens)  # int32, as in the request

    @property
    def completions(self) -> int:
        """G, the number of completions."""
        return int(self.tokens_GC.shape[0])

    @property
    def row_length(self) -> int:
        """Positions of one forward pass over a completion: prompt, canvas and suffix."""
        return len(self.prompt_tokens) + int(self.tokens_GC.shape[1]) + len(self.suffix_tokens)


@dataclass(frozen=True)
class ScoredGroup:
    """A generated group with the verdict of each completion: what the learner takes."""

    group: PromptGroup
    verdicts: tuple[Verdict, ...]

    @property
    def rewards_G(self) -> np.ndarray:
        """float32 [G]; NaN if there is no verdict."""
        return np.array([v.reward for v in self.verdicts], dtype=np.float32)

    @property
    def valid_G(self) -> np.ndarray:
        """bool [G]: completions that were judged."""
        return np.array([v.outcome.is_verdict for v in self.verdicts], dtype=bool)

    @property
    def zero_signal(self) -> bool:
        """`is_zero_signal` of the verdicts."""
        return is_zero_signal(self.verdicts)


def is_zero_signal(verdicts: Sequence[Verdict]) -> bool:
    """Whether the rewards of a group's judged completions do not differ, so that every advantage is 0.

    They do not differ if their standard deviation (ddof 1, as in the advantages) is below `ZERO_SIGNAL`.
    """
    rewards = [verdict.reward for verdict in verdicts if verdict.outcome.is_verdict]
    return len(rewards) < 2 or float(np.std(rewards, ddof=1)) < ZERO_SIGNAL


def answer_length(tokens_C: Sequence[int] | np.ndarray, end_ids: Collection[int]) -> int:
    """Number of tokens up to and including the first end token; all of them if there is none."""
    ends = np.flatnonzero(np.isin(np.asarray(tokens_C), list(end_ids)))
    return int(ends[0]) + 1 if ends.size else len(tokens_C)


def answer_tokens(tokens_C: np.ndarray, end_ids: Collection[int]) -> list[int]:
    """The tokens before the first end token; all of them if there is none."""
    answer: list[int] = tokens_C[: answer_length(tokens_C, end_ids)].tolist()
    return answer[:-1] if answer and answer[-1] in end_ids else answer
