"""How a run ends when a scheduler (SIGTERM) or a closed terminal (SIGHUP) asks it to."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from couplet.configs.errors import UserError

SIGNALS = (signal.SIGTERM, signal.SIGHUP)
GRACE = "COUPLET_GRACE_SECONDS"
GRACE_SECONDS = 20  # by default; schedulers usually kill after 30


class Interrupted(KeyboardInterrupt):
    """The process was asked to end by `signal`; its exit code is 128 + signal.

    `abandoned`: a block that was to be finished was not, so what it changes may be changed in part.
    """

    def __init__(self, number: int, *, abandoned: bool = False) -> None:
        super().__init__()
        self.signal = number
        self.abandoned = abandoned


class Interruption:
    """Raises `Interrupted` in the main thread when one of `SIGNALS` arrives.

    What may be abandoned (waiting for groups, an evaluation) is abandoned at once. What is inside `deferred` (a learner
    step, a checkpoint) is finished first, unless it takes longer than the variable COUPLET_GRACE_SECONDS allows or a second
    signal arrives.
    """

    def __init__(self) -> None:
        self._grace = _grace_seconds()
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
            raise Interrupted(number, abandoned=self._deferring)
        self._pending = number
        signal.alarm(self._grace)

    def _late(self, number: int, frame: FrameType | None) -> None:
        if self._deferring and self._pending is not None:
            raise Interrupted(self._pending, abandoned=True)


def _grace_seconds() -> int:
    """Seconds from COUPLET_GRACE_SECONDS, or the default."""
    value = os.environ.get(GRACE, str(GRACE_SECONDS))
    if not value.isdecimal() or int(value) == 0:
        raise UserError(f"{GRACE} = {value!r}: give a whole number of seconds above 0")
    return int(value)


Deferred = Callable[[], Any]
"""`Interruption.deferred`, or `contextlib.nullcontext`."""
