"""Errors of the sandbox itself. None of them says anything about a program.

SandboxFault            a program got no verdict: retry, then exclude it
└── TierUnavailable     a tier cannot hold its canaries on this machine: fix the machine or the configuration
"""

from __future__ import annotations


class SandboxFault(RuntimeError):
    """The sandbox failed, not the program. `kind` is one word for the metrics: spawn, zygote, http, rate_limit, ..."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"sandbox fault ({kind}): {detail}")
        self.kind = kind
        self.detail = detail

    def __reduce__(self):
        return type(self), (self.kind, self.detail)


class TierUnavailable(SandboxFault):
    """A tier does not work here; the message names the failing call or canary, and the remedy."""
