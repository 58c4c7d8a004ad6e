"""The machine to report with a measurement."""

from __future__ import annotations

import contextlib
import os
import platform
from importlib.metadata import version
from pathlib import Path


def kernel_version() -> str:
    """Major and minor version, without the suffix that the machine's owner chose."""
    return ".".join(platform.release().split("-")[0].split(".")[:2])


def machine() -> dict[str, object]:
    """The machine on which the figures were measured."""
    model = "unknown"
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "architecture": platform.machine(),
        "kernel": kernel_version(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "load_at_start": round(os.getloadavg()[0], 1),
    }
