"""`python -m benchmarks.runs RUN [RUN ...]`: the results table of finished runs, as Markdown (docs/results.md)."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any


def table(summaries: Sequence[dict[str, Any]]) -> str:
    """One row per run, then the mean and the spread of the gains."""
    samples = summaries[0]["config"]["evaluation"]["samples"]
    names = {
        "pass@1, T = 0.2": "pass_at_1",
        "pass@1, T = 1.0": "pass_at_1_t1",
        f"pass@{samples}, T = 1.0": f"pass_at_{samples}",
    }
    heads = ["seed", *names, "local AR-ness, T = 0.2", "T = 1.2", "trained / filtered", "overlap (bound)", "seconds"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for s in summaries:
        cells = [str(s["seed"])]
        cells += [f"{100 * s[f'{n}_before']:.1f} → {100 * s[f'{n}_after']:.1f}" for n in names.values()]
        for temperature in ("0.2", "1.2"):
            before, after = (s["ar_ness"][when][temperature]["local"] for when in ("before", "after"))
            cells.append(f"{before:.2f} → {after:.2f}")
        cells.append(f"{s['ledger']['trained']} / {s['ledger']['filtered']}")
        cells.append(f"{s['speedup_reached']:.2f} ({s['speedup_bound']:.2f})")
        cells.append(f"{s['seconds']:.0f}")
        lines.append("| " + " | ".join(cells) + " |")
    for label, name in names.items():
        gains = [100 * (s[f"{name}_after"] - s[f"{name}_before"]) for s in summaries]
        lines.append(f"\nGain of {label}: mean {mean(gains):+.1f} points, from {min(gains):+.1f} to {max(gains):+.1f}.")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Print the table of the run folders named."""
    if not arguments:
        print("usage: python -m benchmarks.runs RUN [RUN ...]", file=sys.stderr)
        return 2
    summaries = [json.loads((Path(run) / "summary.json").read_text()) for run in arguments]
    print(table(sorted(summaries, key=lambda s: s["seed"])))
    print(
        f"\nMachine: {platform.machine()}, {platform.system()} {platform.release()}, Python {platform.python_version()}."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
