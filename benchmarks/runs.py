"""The results table of finished runs, as Markdown (docs/results.md).

`python -m benchmarks.runs RUN [RUN ...]` prints one row per run and the gains; it writes nothing.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.kernel import kernel_version
from couplet.configs.markdown import markdown_table


def table(summaries: Sequence[dict[str, Any]]) -> str:
    """One row per run, then the mean and the range of the gains."""
    samples = summaries[0]["config"]["evaluation"]["samples"]
    names = {
        "pass@1, T = 0.2": "pass_at_1",
        "pass@1, T = 1.0": "pass_at_1_t1",
        f"pass@{samples}, T = 1.0": f"pass_at_{samples}",
    }
    heads = ["seed", *names, "local AR-ness, T = 0.2", "T = 1.2", "trained / filtered", "overlap (bound)", "seconds"]
    rows = []
    for s in summaries:
        cells = [str(s["seed"])]
        cells += [f"{100 * s[f'{n}_before']:.1f} → {100 * s[f'{n}_after']:.1f}" for n in names.values()]
        for temperature in ("0.2", "1.2"):
            before, after = (s["ar_ness"][when][temperature]["local"] for when in ("before", "after"))
            cells.append(f"{before:.2f} → {after:.2f}")
        cells.append(f"{s['ledger']['trained']} / {s['ledger']['filtered']}")
        cells.append(f"{s['speedup_reached']:.2f} ({s['speedup_bound']:.2f})")
        cells.append(f"{s['seconds']:.0f}")
        rows.append(cells)
    lines = [markdown_table(heads, rows)]
    if levels := _levels(summaries, list(names.items())[1:]):
        lines += ["", *levels]
    for label, name in names.items():
        gains = [100 * (s[f"{name}_after"] - s[f"{name}_before"]) for s in summaries]
        lines.append(f"\nGain of {label}: mean {mean(gains):+.1f} points, from {min(gains):+.1f} to {max(gains):+.1f}.")
    return "\n".join(lines)


def _levels(summaries: Sequence[dict[str, Any]], names: Sequence[tuple[str, str]]) -> list[str]:
    """The mean over the runs of each difficulty level's rates, as Markdown; nothing if the problems have no levels."""
    both = [summary.get("levels") or {"before": {}, "after": {}} for summary in summaries]
    levels = [level for level in both[0]["before"] if all(level in one["after"] for one in both)]
    rows = []
    for level in levels:
        cells = [level, str(both[0]["before"][level]["problems"])]
        for _, name in names:
            before, after = (mean(one[when][level][name] for one in both) for when in ("before", "after"))
            cells.append(f"{100 * before:.1f} → {100 * after:.1f}")
        rows.append(cells)
    return [markdown_table(["level", "problems", *(f"{label}, mean" for label, _ in names)], rows)] if rows else []


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table of the named run folders."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.runs", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a finished run, e.g. runs/tiny")
    files = [Path(run) / "summary.json" for run in parser.parse_args(argv).runs]
    if unfinished := [file for file in files if not file.is_file()]:
        parser.error(f"{unfinished[0]}: no such file; a run writes it when it ends")
    summaries = [json.loads(file.read_text()) for file in files]
    print(table(sorted(summaries, key=lambda s: s["seed"])))
    system, python = f"{platform.system()} {kernel_version()}", platform.python_version()
    print(f"\nMachine: {platform.machine()}, {system}, Python {python}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
