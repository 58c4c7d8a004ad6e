"""The kernel version to report with a measurement."""

from __future__ import annotations

import platform


def kernel_version() -> str:
    """Major and minor version, without the suffix that the machine's owner chose."""
    return ".".join(platform.release().split("-")[0].split(".")[:2])
