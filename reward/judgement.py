"""How often a sample is judged again: decided here for training, evaluation and scored files alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

from couplet.data.retry import Retry
from couplet.data.verdict import Outcome, Verdict

PAUSE = 0.1  # seconds before samples lost to a fault are judged again; doubled before each later time

T = TypeVar("T")


class Judgement(Generic[T]):
    """Some samples of one subject (a prompt group, a problem) and their verdicts while they are being judged.

    A sample whose verdict is an infrastructure fault is judged again, up to `retries` times, after a pause and on
    another worker if there is one. Within one call a worker only repeats what it needs to tell a program that kills its
    sandbox from a sandbox that failed (`reward.runner`).

    Attributes:
        subject: what the samples belong to.
        pending: indices of the samples to judge now: all, then those that a fault took; empty at the end.
        verdicts: of every sample that has been judged at least once, faults included.
        failures: how often a fault took a sample, or the worker died.
        avoid: the worker that judged it last; another judges it again, if there is one.
    """

    def __init__(self, subject: T, samples: int, retries: int) -> None:
        self.subject = subject
        self.pending: Sequence[int] = range(samples)
        self.verdicts: list[Verdict] = []
        self.failures = 0
        self.avoid: int | None = None
        self._retry = Retry(retries + 1, PAUSE)

    def record(self, verdicts: Iterable[Verdict]) -> None:
        """The verdicts of the pending samples, in order."""
        if not self.verdicts:
            self.verdicts = list(verdicts)
        else:
            for sample, verdict in zip(self.pending, verdicts, strict=True):
                self.verdicts[sample] = verdict
        lost = [sample for sample in self.pending if self.verdicts[sample].outcome is Outcome.INFRA_ERROR]
        self.pending = lost if lost and self.fail() else []

    def fail(self) -> bool:
        """A fault or the death of a worker: True if what is pending may be judged once more."""
        self.failures += 1
        return self.failures < self._retry.attempts

    @property
    def pause(self) -> float:
        """Seconds to wait before the pending samples are judged."""
        return self._retry.seconds(self.failures) if self.failures else 0.0


def judge_in_rounds(
    work: Iterable[Judgement[T]],
    judge: Callable[[Iterable[Judgement[T]]], Iterator[tuple[Judgement[T], Iterable[Verdict]]]],
) -> Iterator[Judgement[T]]:
    """Judge all `work`, then again what faults took; each judgement as it is complete, in any order.

    Args:
        work: may be an iterator that produces judgements as samples arrive.
        judge: yields (judgement, verdicts of its pending samples) in any order.
    """
    while True:
        again = []
        for judgement, verdicts in judge(work):
            judgement.record(verdicts)
            if judgement.pending:
                again.append(judgement)
            else:
                yield judgement
        if not again:
            return
        time.sleep(max(judgement.pause for judgement in again))
        work = again
