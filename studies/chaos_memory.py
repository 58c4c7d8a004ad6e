"""Memory and open files of every process of a long, undisturbed run.

    python -m couplet.studies.chaos_memory --steps 1000 --out runs/studies/memory

The run of the chaos study, left alone. Every few seconds the unshared memory and the file descriptors of each role's
processes, and the shared memory of the object stores, are noted with the learner step. They must be flat over the last
half of the run.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import psutil
import yaml
from matplotlib.figure import Figure

from couplet.configs.markdown import markdown_table
from couplet.evaluation.figures import STYLE, legend_below, new_figure
from couplet.studies import cli
from couplet.studies.chaos import SETTINGS, Plan, make_start
from couplet.studies.chaos_processes import Driver, Machines, actors, environment, title_of
from couplet.studies.machine import cpu_model
from couplet.studies.page import page, write_study

SECONDS = 5.0  # between two samples
MEBIBYTE = 2**20
GROWTH = 0.05  # share by which a series may grow over the last half
ALLOWANCE = {"memory": 8.0, "descriptors": 4.0}  # MiB and descriptors that are noise


def sample(machines: Machines, driver: Driver) -> dict[str, float]:
    """`memory_ROLE` (MiB) and `descriptors_ROLE` of all processes of a role together, `memory_store`, and the step."""
    assert driver.process is not None
    groups = {"driver": [driver.process.pid], **actors(machines), "raylet": list(_raylets(machines))}
    row = {"step": float(driver.last_step()[0]), "time": time.time()}
    for role, pids in groups.items():
        memory = descriptors = 0.0
        for pid in pids:
            with contextlib.suppress(psutil.Error, OSError):
                process = psutil.Process(pid)
                used = process.memory_info()
                memory += (used.rss - used.shared) / MEBIBYTE
                descriptors += process.num_fds()
        row |= {f"memory_{role}": memory, f"descriptors_{role}": descriptors}
    stores = [psutil.Process(pid).memory_info().shared for pid in groups["raylet"]]
    return row | {"memory_store": sum(stores) / MEBIBYTE}


def _raylets(machines: Machines) -> Iterator[int]:
    for process in machines.processes():
        if title_of(process.pid).endswith("/raylet"):
            yield process.pid


def growth(rows: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """Per series: median of the third and of the last quarter of the run, and whether it is flat.

    Flat means that it has not grown by more than `GROWTH` or `ALLOWANCE`, whichever is more.
    """
    steps = np.array([row["step"] for row in rows])
    third, last = (steps >= 0.5 * steps[-1]) & (steps < 0.75 * steps[-1]), steps >= 0.75 * steps[-1]
    found = {}
    for name in sorted(rows[-1].keys() - {"step", "time"}):
        values = np.array([row.get(name, np.nan) for row in rows])
        before, after = float(np.nanmedian(values[third])), float(np.nanmedian(values[last]))
        kind = name.partition("_")[0]
        limit = max(GROWTH * before, ALLOWANCE[kind])
        found[name] = {"third_quarter": before, "last_quarter": after, "flat": after - before <= limit}
    return found


def table(study: Mapping[str, Any]) -> str:
    """Every series as Markdown."""
    rows = [
        [name.replace("_", " of ", 1), f"{found['third_quarter']:.0f}", f"{found['last_quarter']:.0f}", "yes" if found["flat"] else "no"]
        for name, found in study["growth"].items()
    ]  # fmt: skip
    return markdown_table(("series", "third quarter", "last quarter", "flat"), rows, "lrrl")


def figure(rows: Sequence[Mapping[str, float]]) -> Figure:
    """Memory and descriptors against the learner step."""
    with mpl.rc_context(STYLE):
        drawing, panels = new_figure(2, columns=2, width=9.0, height=4.0)
        for axes, (kind, title) in zip(panels, (("memory", "MiB"), ("descriptors", "file descriptors"))):
            for name in sorted(name for name in rows[-1] if name.startswith(kind)):
                values = [row.get(name, np.nan) for row in rows]
                axes.plot([row["step"] for row in rows], values, label=name.partition("_")[2])
            axes.set(xlabel="learner step", title=title, ylim=(0, None))
            legend_below(axes, columns=4)
    return drawing


def run_long(steps: int, out: Path, start: Path | None) -> dict[str, Any]:
    """Run, sample and write page, figure and data to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    plan = Plan(0, 0.0, 0, (), 2, start, 0, 4.0, steps, out)
    environ = environment()
    began, rows = time.monotonic(), []
    with ExitStack() as ends:
        machines = Machines(out, environ)
        ends.callback(machines.close)
        machines.add()
        recipe = out / "memory.yaml"
        settings = plan.settings("memory", machines.address, str(start or make_start(out)))
        settings |= {"evaluation": {**SETTINGS["evaluation"], "every": 0}}
        recipe.write_text(yaml.safe_dump(settings))
        driver = Driver(cli.COUPLET, recipe, out / "runs" / "memory", environ)
        ends.callback(driver.kill)
        driver.start()
        while driver.code() is None:
            time.sleep(SECONDS)
            if driver.last_step()[0] > 0:
                rows.append(sample(machines, driver))
                print(
                    f"step {rows[-1]['step']:.0f}: "
                    + ", ".join(f"{name} {rows[-1][name]:.0f}" for name in rows[-1] if "memory" in name),
                    flush=True,
                )
        if driver.code() != 0:
            driver.require_running()
    rows = [row for row in rows if row["memory_driver"] > 0]
    study = {
        "steps": steps,
        "seconds": time.monotonic() - began,
        "machine": cpu_model(),
        "growth": growth(rows),
        "samples": rows,
    }
    write_study(out, "memory", study, page("memory", study, series=table(study)), figure(rows))
    return study


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point: 0 if everything is flat."""
    parser = argparse.ArgumentParser(
        prog="python -m couplet.studies.chaos_memory", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--steps", type=int, default=1000, help="learner steps (default: 1000)")
    parser.add_argument("--start", type=Path, metavar="POLICY", help="default: a tiny one is made")
    parser.add_argument("--out", type=Path, default=cli.OUT / "memory", help=f"default: {cli.OUT / 'memory'}")
    args = parser.parse_args(argv)
    flat = True

    def study() -> None:
        nonlocal flat
        start = None if args.start is None else cli.policy_folder(str(args.start), "--start")
        found = run_long(args.steps, args.out.absolute(), start)["growth"]
        growing = [name for name, one in found.items() if not one["flat"]]
        flat = not growing
        print(f"growing: {', '.join(growing)}" if growing else "everything is flat over the last half", flush=True)

    return cli.exit_code(study) or int(not flat)


if __name__ == "__main__":
    sys.exit(main())
