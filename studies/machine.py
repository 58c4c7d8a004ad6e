"""The machine to report with a measurement."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import psutil


def cpu_model() -> str:
    """The name of the processor, or its architecture if the kernel does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def machine() -> dict[str, Any]:
    """Processor, cores, memory, and the load now."""
    memory = round(psutil.virtual_memory().total / 2**30)
    return {"cpu": cpu_model(), "cores": os.cpu_count(), "memory_gib": memory, "load": round(os.getloadavg()[0], 1)}
