"""Repeating what failed for a reason that may pass: how often, and how long to wait in between."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Retry:
    """A number of attempts and the pauses between them, which double.

    Iterating yields 0, 1, ..., `attempts` - 1 and sleeps before each attempt but the first:

        for attempt in Retry(attempts=3, pause=0.5):
            try:
                return work()
            except Fault as fault:
                last = fault
        raise last

    Attributes:
        attempts: at most, the first included.
        pause: seconds before the second attempt.
        jitter: each pause is multiplied by a random number in [1 - jitter, 1 + jitter], so that clients of one service
            spread out.
        sleep: called with the seconds of each pause.
    """

    attempts: int
    pause: float
    jitter: float = 0.0
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)

    def __iter__(self) -> Iterator[int]:
        for attempt in range(self.attempts):
            if attempt:
                self.sleep(self.seconds(attempt))
            yield attempt

    def seconds(self, failures: int) -> float:
        """The pause after `failures` failed attempts in a row (1 or more)."""
        spread = random.uniform(1 - self.jitter, 1 + self.jitter) if self.jitter else 1.0
        return self.pause * 2.0 ** (failures - 1) * spread
