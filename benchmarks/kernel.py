"""The kernel that figures were taken on."""

from __future__ import annotations

import platform


def kernel_version() -> str:
    """Major and minor version; what follows is a name that the machine's owner gave it."""
    return ".".join(platform.release().split("-")[0].split(".")[:2])
