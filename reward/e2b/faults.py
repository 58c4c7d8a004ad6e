"""Errors of E2B's client as faults of the sandbox."""

from __future__ import annotations

from couplet.reward.sandbox.faults import SandboxFault

GONE = ("sandbox was killed", "due to sandbox timeout")  # what the client says of a sandbox that no longer exists


def fault_of(error: BaseException) -> SandboxFault:
    """The typed fault of a client error. Two of the client's errors are not a `SandboxException`."""
    import e2b.exceptions as known
    import httpx

    kinds = (
        (known.AuthenticationException, "auth"),
        (known.ServiceBusyException, "busy"),
        (known.RateLimitException, "rate_limit"),
        (known.SandboxNotRunningException, "sandbox_died"),
        (known.SandboxUnreachableException, "sandbox_died"),
        (known.NotFoundException, "sandbox_died"),
        (known.TimeoutException, "http_timeout"),
        (known.SandboxException, "http"),
        (httpx.TimeoutException, "http_timeout"),
        (httpx.HTTPError, "connection"),
        (OSError, "connection"),
    )
    kind = next((kind for family, kind in kinds if isinstance(error, family)), "client")
    if kind == "http_timeout" and any(words in str(error) for words in GONE):
        kind = "sandbox_died"
    return SandboxFault(kind, f"{type(error).__name__}: {error}")


class Unrelated(SandboxFault):
    """A fault that the program may not have caused: no sandbox started, or other programs had used it."""
