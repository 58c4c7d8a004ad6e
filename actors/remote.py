"""Waits for other processes, with a time limit and an error that says what was waited for.

Two kinds of failure must not be confused. A *loss* (a process, a node or an object is gone, or late) is repaired: work
is issued again, actors are replaced. A *defect* (the remote code itself raised) would happen again: it stops the
run with its error.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import ActorUnavailableError, OutOfMemoryError, RayActorError, RayError, RayTaskError

NAMESPACE = "couplet:"  # prefix of the namespaces of runs
NAME_SECONDS = 30.0  # the actors of a driver that was killed end within this time
DIED = (RayActorError, OutOfMemoryError)  # an actor's process ended; the second if Ray's memory monitor ended it


class WeightsLost(RuntimeError):
    """Packed weights no longer exist: their node died. The driver publishes them again."""


class WeightsDamaged(WeightsLost):
    """Packed weights arrived with another checksum than they left with."""


class WeightsLate(RuntimeError):
    """Packed weights did not reach one actor in time. Others may hold them, so only that one waits."""


def start_actor(kind: type, options: Mapping[str, Any], *arguments: Any) -> ActorHandle:
    """Start an actor of class `kind` with these options of Ray; a name that a dying actor still holds is waited for.

    Raises:
        ValueError: an actor that stays alive has the name.
    """
    actor: Any = ray.remote(kind)
    deadline = time.monotonic() + NAME_SECONDS
    unexplained = 0
    while True:
        try:
            handle: ActorHandle = actor.options(**options).remote(*arguments)
            return handle
        except ValueError:
            if "name" not in options or time.monotonic() > deadline:
                raise
            unexplained += not _is_taken(options)
            if unexplained > 1:  # once, the name may have become free just now
                raise
            time.sleep(0.2)


def _is_taken(options: Mapping[str, Any]) -> bool:
    names = ray.util.list_named_actors(all_namespaces=True)
    return {"name": options["name"], "namespace": options.get("namespace")} in names


def namespace_of(run: str) -> str:
    """Ray's namespace of the actors of a run."""
    return f"{NAMESPACE}{run}"


def named(run: str, role: str, index: int) -> dict[str, str]:
    """Options that name an actor, e.g. `rollout-0`, in the namespace of its run; Ray's dashboard shows the name."""
    return {"name": f"{role}-{index}", "namespace": namespace_of(run)}


def is_defect(error: BaseException) -> bool:
    """True if the remote code itself raised, rather than a process, a node or an object being lost."""
    if not isinstance(error, RayTaskError):
        return not isinstance(error, (RayError, TimeoutError))
    # Ray replaces an exception that cannot be pickled by a plain RayError.
    lost = isinstance(error.cause, (RayError, WeightsLost, WeightsLate)) and type(error.cause) is not RayError
    return not lost


def is_gone(error: BaseException) -> bool:
    """True if an actor ended for good; one that is only restarting is unavailable."""
    return isinstance(error, DIED) and not isinstance(error, ActorUnavailableError)


def reason_of(error: BaseException) -> str:
    """Why an actor was lost, in a few words; Ray explains it in a paragraph."""
    text = " ".join(str(error).split())
    if isinstance(error, OutOfMemoryError):
        return "its node ran out of memory and Ray ended it"
    if isinstance(error, TimeoutError):
        return text or "no answer in time"
    if "node" in text and any(
        word in text for word in ("node has died", "node is dead", "was on a dead node", "node died")
    ):
        return "its node died"
    if "INTENDED_USER_EXIT" in text or "exit code" in text:
        code = re.search(r"exit code (\d+)", text)
        return f"its process ended{f' with code {code[1]}' if code else ' by itself'}"
    return "its process died"


def raised(error: BaseException) -> BaseException | None:
    """What the remote code raised, if it did."""
    return error.cause if isinstance(error, RayTaskError) else None


def original(error: BaseException) -> BaseException:
    """What the remote code raised, with the remote traceback as a note; `error` itself if that is not known."""
    if not isinstance(error, RayTaskError) or not isinstance(error.cause, Exception) or not is_defect(error):
        return error
    error.cause.add_note(str(error))
    return error.cause


def cause_lines(error: BaseException) -> str:
    """The exception that a Ray error reports from the actor: what follows the last frame of its traceback."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    frames = [place for place, line in enumerate(lines) if line.lstrip().startswith('File "')]
    last = [line for line in lines[frames[-1] + 1 :] if not line.startswith(" ")] if frames else lines[-1:]
    return "\n".join(last)


def fetch(ref: ObjectRef, what: str, seconds: float) -> Any:
    """The value of a reference, within `seconds`.

    Raises:
        TimeoutError: nothing came in time; names `what`.
        RayError: the process or the object is lost.
        Exception: whatever the remote code raised, as it raised it.
    """
    return fetch_all([ref], what, seconds)[0]


def fetch_all(
    refs: Sequence[ObjectRef], what: str, seconds: float, meanwhile: Callable[[], None] = lambda: None
) -> list[Any]:
    """The values of references; the first failure is raised at once. `meanwhile` is called about every second."""
    deadline = time.monotonic() + seconds
    waiting = list(refs)
    while waiting:
        done, waiting = ray.wait(waiting, timeout=max(0.0, min(1.0, deadline - time.monotonic())))
        for ref in done:
            _value(ref, what, seconds)
        if waiting and time.monotonic() >= deadline:
            raise TimeoutError(f"{what}: no answer within {seconds:.0f} s")
        if waiting:
            meanwhile()
    return [_value(ref, what, seconds) for ref in refs]


def _value(ref: ObjectRef, what: str, seconds: float) -> Any:
    try:
        return ray.get(ref, timeout=seconds)
    except RayTaskError as error:
        cause = original(error)
        if cause is error:
            raise
        raise cause from None
    except ray.exceptions.GetTimeoutError as error:
        raise TimeoutError(f"{what}: the answer did not arrive within {seconds:.0f} s") from error
