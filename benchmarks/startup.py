"""From the command to the help, the dry run and the first learner step: wall and CPU seconds of fresh processes.

The run is the tiny recipe with an initial policy that was tuned for one step, so that no time of tuning counts.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

WHAT = "seconds of fresh processes until they have shown their help, planned a run, or finished the first learner step"
LEFT_OUT = "the tuning of the first policy, and a cold disk cache"

ROOT = Path(__file__).parents[1]
TIME_LIMIT = 600.0


def launch(*words: str) -> list[str]:
    """The command line of `launch.py`."""
    return [sys.executable, "launch.py", *words]


def until(command: list[str], written: Path | None = None) -> dict[str, float]:
    """Wall and CPU seconds until the process and its children end, or until `written` has a line; then they are stopped."""
    started = time.monotonic()
    used = 0.0
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors) as process,
    ):
        watched = psutil.Process(process.pid)
        while process.poll() is None and not (written and written.is_file() and "learn_seconds" in written.read_text()):
            try:
                used = max(used, sum(_used(part) for part in (watched, *watched.children(recursive=True))))
            except psutil.NoSuchProcess:
                continue
            if time.monotonic() - started > TIME_LIMIT:
                process.kill()
            time.sleep(0.02)
        wall = time.monotonic() - started
        if process.poll() is None:
            process.terminate()
        elif process.returncode:
            errors.seek(0)
            raise RuntimeError(f"{' '.join(command)}: {errors.read()}")
    return {"wall": round(wall, 1), "cpu": round(used, 1)}


def _used(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system + times.children_user + times.children_system


def measure(toy: bool = False) -> dict[str, object]:
    """Each stage once."""
    stages: list[dict[str, object]] = [{"until": "the help", **until(launch("train", "--help"))}]
    if toy:
        return {"stages": stages}
    stages.append({"until": "the plan (`--dry-run`)", **until(launch("train", "configs/tiny.yaml", "--dry-run"))})
    with tempfile.TemporaryDirectory() as folder:
        few = ("stages.0.steps=1", f"runs_dir={folder}")
        subprocess.run(
            launch("adapt", "configs/tiny_adapt.yaml", *few), cwd=ROOT, check=True, stdout=subprocess.DEVNULL
        )
        policy = next(Path(folder).rglob("config.json")).parent
        for label, name, words in (("one process", "local", ("--local",)), ("on Ray", "ray", ())):
            settings = (f"model.path={policy}", "model.recipe=null", f"runs_dir={folder}", f"name={name}", "steps=2")
            quick = ("evaluation.limit=2", "evaluation.samples=2")
            command = launch("train", "configs/tiny.yaml", *settings, *quick, *words)
            stages.append({"until": f"the first step, {label}", **until(command, Path(folder, name, "metrics.jsonl"))})
    return {"stages": stages}
