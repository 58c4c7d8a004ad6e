"""The machine to report with a measurement."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

from couplet.studies.machine import cpu_model


def kernel_version() -> str:
    """Major and minor version, without the suffix that the machine's owner chose."""
    return ".".join(platform.release().split("-")[0].split(".")[:2])


def machine() -> dict[str, object]:
    """The machine on which the figures were measured."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "architecture": platform.machine(),
        "kernel": kernel_version(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "load_at_start": round(os.getloadavg()[0], 1),
    }
