"""How a run ends when a scheduler (SIGTERM) or a closed terminal (SIGHUP) asks it to."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGHUP)
GRACE_SECONDS = 20  # for the step that is being done; schedulers usually kill after 30


class Interrupted(KeyboardInterrupt):
    """The process was asked to end by `signal`; its exit code is 128 + signal."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.signal = number


class Interruption:
    """Raises `Interrupted` in the main thread when one of `SIGNALS` arrives.

    What may be abandoned (waiting for groups, an evaluation) is abandoned at once. What is inside `deferred` (a learner
    step, a checkpoint) is finished first, unless it takes longer than `GRACE_SECONDS` or a second signal arrives.
    """

    def __init__(self) -> None:
        self._deferring = False
        self._pending: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def install(self) -> None:
        """Set the handlers; again after `ray.init`, which sets its own."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number, handler in (*((n, self._arrived) for n in SIGNALS), (signal.SIGALRM, self._late)):
            previous = signal.signal(number, handler)
            self._previous.setdefault(number, previous)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Finish this block before a signal is obeyed."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
            signal.alarm(0)
        if self._pending is not None:
            raise Interrupted(self._pending)

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if not self._deferring or self._pending is not None:
            raise Interrupted(number)
        self._pending = number
        signal.alarm(GRACE_SECONDS)

    def _late(self, number: int, frame: FrameType | None) -> None:
        if self._pending is not None:
            raise Interrupted(self._pending)


Deferred = Callable[[], Any]
"""`Interruption.deferred`, or `contextlib.nullcontext`."""
